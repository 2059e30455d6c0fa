"""Agreement against SciPy and a loop over lags, and how often chance is believed."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from seqtool.dependence import DOUBT, REACH, agree, discoveries, joined, spells, tail

RNG = np.random.default_rng(0)


def saw(teeth: int, low: int = 20, high: int = 50) -> npt.NDArray[np.float64]:
    """The place in lines of random lengths."""
    return np.concatenate([np.arange(n) for n in RNG.integers(low, high, teeth)]).astype(float)


def noise(count: int, number: int, kept: float) -> npt.NDArray[np.float64]:
    """AR(1), (count, number)."""
    values = RNG.normal(size=(count + 500, number))
    for step in range(1, len(values)):
        values[step] += kept * values[step - 1]
    return values[500:]


def test_the_excess_is_spearmans_rho_or_that_of_the_auc() -> None:
    feature = saw(10)
    series = np.round(noise(len(feature), 3, 0.5), 1)  # with equal values
    binary = (feature > 15).astype(np.float64)
    order = np.argsort(np.argsort(feature)).astype(np.float64)
    found = agree(series, [order, binary])
    for number, values in enumerate(series.T):
        rho = stats.spearmanr(order, values).statistic
        # Ties of the unit count: the excess is over the largest that those of the feature allow.
        ranks = stats.rankdata(values)
        scale = ranks.std() / np.arange(len(feature)).std()
        assert found.excess[0, number] == pytest.approx(rho * scale)
        u = stats.mannwhitneyu(values[binary == 1], values[binary == 0]).statistic
        auc = u / (binary.sum() * (1 - binary).sum())
        assert found.excess[1, number] == pytest.approx(2 * auc - 1)


def test_scores_count_independent_places_by_both_autocorrelations() -> None:
    feature = saw(12)
    series = noise(len(feature), 4, 0.9)
    count, spell = len(feature), len(feature) / spells(feature)
    found = agree(series, [feature])

    def autocorrelation(values: npt.NDArray[np.float64], lag: int) -> float:
        centred = stats.rankdata(values) - (count + 1) / 2
        return float(centred[lag:] @ centred[: count - lag] / (centred @ centred))

    for number, values in enumerate(series.T):
        variance = 1 / count
        for lag in range(1, min(count, int(REACH * spell) + 1)):
            weight = max(0.0, 1 - lag / (REACH * spell))
            both = autocorrelation(values, lag) * autocorrelation(feature, lag)
            variance += 2 * weight * both / count
        exactness = np.sqrt(1 / max(variance, 1 / count) - 3)
        rho = stats.spearmanr(values, feature).statistic
        assert found.scores[0, number] == pytest.approx(np.arctanh(rho) * exactness)
        least = np.tanh(max(0.0, np.arctanh(abs(rho)) - DOUBT / exactness))
        expected = abs(found.excess[0, number]) * least / abs(rho)
        assert found.floors[0, number] == pytest.approx(expected)


@pytest.mark.parametrize("kept", [0.0, 0.9, 0.97])
@pytest.mark.parametrize("teeth", [12, 60])
def test_noise_looks_good_as_seldom_as_it_should(kept: float, teeth: int) -> None:
    feature = saw(teeth)
    found = agree(noise(len(feature), 400, kept), [feature, (feature == 0).astype(np.float64)])
    wrong = np.abs(found.scores) > stats.norm.isf(0.025)
    assert wrong.mean(axis=1).max() < 0.1
    assert (np.abs(found.scores) > stats.norm.isf(0.0005)).mean() < 0.01


@pytest.mark.parametrize("low", [20, 49])  # lines of all lengths, or of one
def test_each_line_is_a_proof_even_if_all_have_one_length(low: int) -> None:
    scores = []
    for teeth in (12, 48):
        feature = saw(teeth, low, 50)
        series = feature[:, None] + 20 * RNG.normal(size=(len(feature), 1))
        scores.append(agree(series, [feature]).scores[0, 0])
    assert 1.5 < scores[1] / scores[0] < 2.5  # four times the lines: half the standard error


def test_places_apart_are_all_counted() -> None:
    labels = np.repeat([0.0, 1.0], 50)  # in order: as a series that would be one spell
    series = labels[:, None] + RNG.normal(size=(100, 1))
    rho = stats.spearmanr(labels, series[:, 0]).statistic
    found = agree(series, [labels], apart=True)
    assert found.scores[0, 0] == pytest.approx(np.arctanh(rho) * np.sqrt(97))
    assert spells(labels, apart=True) == 50
    assert spells(labels) == 1


def test_what_never_moves_follows_nothing() -> None:
    found = agree(np.zeros((40, 2)), [(np.arange(40) % 2).astype(np.float64)])
    assert not found.excess.any()
    assert not found.scores.any()
    assert not found.floors.any()


def test_spells() -> None:
    assert spells(np.array([0, 1, 1, 0, 1.0])) == 2
    assert spells(np.array([1, 0, 0, 1, 0.0])) == 1
    assert spells(np.zeros(0)) == 0
    assert spells(np.ones(5)) == 0


def test_discoveries_are_those_of_scipy() -> None:
    chances = np.concatenate([RNG.random(40), RNG.random(20) * 0.01])
    np.testing.assert_array_equal(
        discoveries(chances), stats.false_discovery_control(chances) <= 0.05
    )
    assert discoveries(np.empty(0)).shape == (0,)


def test_the_tail_is_that_of_the_normal_distribution() -> None:
    for score in (-2.0, 0.0, 1.96, 6.0):
        assert tail(score) == pytest.approx(stats.norm.sf(score))


def test_joined_agreements_keep_their_order() -> None:
    series = noise(60, 3, 0.0)
    features = [(np.arange(60) % count).astype(np.float64) for count in (2, 3)]
    whole = agree(series, features)
    parts = joined(agree(series, [feature]) for feature in features)
    np.testing.assert_allclose(parts.scores, whole.scores)
    np.testing.assert_allclose(parts.floors, whole.floors)
