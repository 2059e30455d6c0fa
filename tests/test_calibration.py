"""Powers that held-out labels choose, calibration error, and sets that hold the truth."""

import numpy as np
import pytest

from seqtool.calibration import (
    calibration_error,
    fit_powers,
    log_softmax,
    nll,
    pool,
    set_scores,
    set_threshold,
)


def drawn(count, classes, seed, scale=1.5):
    """Logits and labels drawn from just these probabilities."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(count, classes))
    p = np.exp(log_softmax(logits))
    return logits, (p.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_finds_the_temperature_that_scores_were_heated_with(factor):
    logits, labels = drawn(20_000, 4, 1)
    (power,) = fit_powers([factor * logits], labels)
    assert power * factor == pytest.approx(1.0, abs=0.05)


def test_gives_nothing_to_an_opinion_that_knows_nothing_and_less_than_nothing_to_none():
    logits, labels = drawn(5_000, 3, 2)
    noise = np.random.default_rng(9).normal(size=logits.shape)
    powers = fit_powers([logits, noise], labels)
    assert powers == pytest.approx([1.0, 0.0], abs=0.07)
    assert fit_powers([-logits, logits], labels)[0] == 0.0


def test_together_two_opinions_are_no_worse_than_the_better_one():
    logits, labels = drawn(4_000, 3, 3)
    rng = np.random.default_rng(4)
    both = [logits + rng.normal(size=logits.shape) for _ in range(2)]
    alone = [nll(pool([one], fit_powers([one], labels)), labels) for one in both]
    assert nll(pool(both, fit_powers(both, labels)), labels) < min(alone) - 0.01


def test_powers_are_at_the_minimum():
    logits, labels = drawn(300, 3, 5)
    opinions = [2 * logits, np.roll(logits, 1, axis=0)]
    powers = np.array(fit_powers(opinions, labels))

    def penalised(values):
        return len(labels) * nll(pool(opinions, values), labels) + ((values - 0.5) ** 2).sum()

    for step in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]):
        tried = powers + step
        if (tried >= 0).all():
            assert penalised(powers) <= penalised(tried) + 1e-6


def test_calibration_error_of_a_worked_example():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    # Right 1 of 2 at 0.9, 2 of 2 at 0.8: (2 * 0.4 + 2 * 0.2) / 4.
    assert calibration_error(p, np.array([0, 1, 1, 1])) == pytest.approx(0.3)


def test_sets_hold_the_truth_as_often_as_they_say():
    logits, labels = drawn(3_000, 5, 6)
    p = pool([0.3 * logits], [1.0])  # badly calibrated: coverage holds all the same
    for coverage in (0.5, 0.8, 0.95):
        threshold = set_threshold(set_scores(p[:1000], labels[:1000]), coverage)
        held = p[1000:][np.arange(2000), labels[1000:]] >= threshold
        assert held.mean() == pytest.approx(coverage, abs=0.04)


def test_too_few_texts_for_a_coverage_make_all_labels_belong():
    assert set_threshold([0.1, 0.2, 0.3], 0.9) == 0.0
    assert set_threshold([0.1, 0.2, 0.3], 0.75) == pytest.approx(0.7)
