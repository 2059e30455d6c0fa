"""What units follow: features by hand on small texts, and planted units that must be found."""

import math
from pathlib import Path

import numpy as np
import pytest

from seqtool.neurons import (
    FEATURES,
    Match,
    Ranking,
    Sample,
    features,
    labelled,
    named_labels,
    rank_units,
)


def follow(name: str, text: str) -> list[float]:
    return features(list(text))[name].tolist()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("inside quotes", 'a"bc"d', [0, 1, 1, 1, 0, 0]),
        ("inside quotes", '"a\n\nb', [1, 1, 1, 0, 0]),
        ("inside quotes", "«a»b", [1, 1, 0, 0]),
        ("bracket depth", "a(b[c])d", [0, 1, 1, 2, 2, 1, 0, 0]),
        ("bracket depth", ")a", [0, 0]),
        ("bracket depth", "((\n\na", [1, 2, 2, 0, 0]),
        ("position in line", "ab\ncd", [1, 2, 0, 1, 2]),
        ("position in word", "ab c", [1, 2, 0, 1]),
        ("position in sentence", "a. b", [1, 0, 1, 2]),
        ("upper case", "aB", [0, 1]),
        ("punctuation", "a,b c", [0, 1, 0, 0, 0]),
        ("inside quotes", "f('b') don't", [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("inside quotes", "'a\nb'", [0, 0, 0, 0, 0]),
        ("end of line", "a\n", [0, 1]),
    ],
)
def test_features(name: str, text: str, expected: list[float]) -> None:
    assert follow(name, text) == expected


def test_a_token_of_many_characters_has_the_features_of_its_last() -> None:
    found = features(["(ab", "c)", "\n"])
    assert found["bracket depth"].tolist() == [1, 0, 0]
    assert found["position in line"].tolist() == [3, 5, 0]


def rank(layers: list[np.ndarray], pieces: list[str]) -> Ranking:
    return rank_units([Sample(layers, features(pieces))])


def planted() -> tuple[list[str], np.ndarray, np.ndarray]:
    """A text, its bracket depth, and noise."""
    rng = np.random.default_rng(0)
    words = ["(one", "two", "three)", "(four (five)", "six)", "seven,", '"Eight', 'nine"']
    text = "".join(rng.choice(words) + rng.choice([" ", " ", " ", "\n\n"]) for _ in range(400))
    return list(text), features(list(text))["bracket depth"], rng.normal(size=(len(text), 6))


def test_planted_units_are_found() -> None:
    pieces, depth, noise = planted()
    quotes = features(pieces)["inside quotes"]
    layer = noise * 0.3
    layer[:, 2] += 3 * quotes
    layer[:, 4] -= 2 * depth
    found = rank([noise, layer], pieces)
    units = {(match.layer, match.unit): match for match in found.by_unit}
    assert {*units} == {(1, 2), (1, 4)}
    assert units[1, 2].feature == "inside quotes"
    assert units[1, 2].sign == 1
    assert units[1, 2].measure == "AUC"
    assert units[1, 2].strength > 0.98
    assert units[1, 4].feature == "bracket depth"
    assert units[1, 4].sign == -1
    assert units[1, 4].measure == "rho"
    assert units[1, 4].strength > 0.6
    assert {(m.layer, m.unit) for m in found.by_feature[:2]} == {(1, 2), (1, 4)}
    assert {*found.idle} == {(layer, unit) for layer in (0, 1) for unit in range(6)} - {*units}
    assert "digit" in found.rare


def slow_noise(memory: float, shape: tuple[int, int]) -> np.ndarray:
    """Units that know nothing and forget so slowly: AR(1), (n, H)."""
    kept, steps = math.exp(-1 / memory), math.ceil(5 * memory)
    values = np.random.default_rng(1).normal(size=(shape[0] + steps, shape[1]))
    for step in range(1, len(values)):
        values[step] += kept * values[step - 1]
    return values[steps:]


PLAY = Path(__file__).parents[1].joinpath("sample_data", "play.txt").read_text("utf-8")


@pytest.mark.parametrize("memory", [1, 15, 100])
@pytest.mark.parametrize("length", [700, 1400, 6000])
def test_chance_is_not_taken_for_skill(memory: float, length: int) -> None:
    pieces = list(PLAY[:length])
    noise = slow_noise(memory, (length, 100))
    found = rank([noise], pieces)
    assert len(found.by_unit) <= 2
    assert len(found.idle) == 100 - len(found.by_unit)
    assert len(found.by_feature) <= 1


@pytest.mark.parametrize("memory", [1, 15, 100])
def test_a_unit_that_is_the_place_in_a_line_is_found_in_a_short_text(memory: float) -> None:
    pieces = list(PLAY[:1400])
    units = slow_noise(memory, (1400, 100))
    units[:, 7] = np.tanh(features(pieces)["position in line"] / 20)
    found = rank([units], pieces)
    (match,) = [match for match in found.by_unit if match.unit == 7]
    assert match.feature == "position in line"
    assert match.strength == pytest.approx(1)


def test_a_unit_that_hardly_ever_moves_follows_nothing() -> None:
    pieces = list(PLAY[:6000])
    upper = features(pieces)["upper case"]
    upper[np.random.default_rng(2).random(6000) < 0.95] = 0  # at one in twenty of them
    found = rank([upper[:, None]], pieces)
    assert found.by_unit == []
    assert found.idle == [(0, 0)]


def test_a_feature_of_few_spells_is_called_rare() -> None:
    text = "word " * 40 + "(" + "word " * 40 + ")" + "word " * 120
    found = rank([slow_noise(15, (len(text), 10))], list(text))
    assert "bracket depth" in found.rare
    assert "position in line" in found.rare
    assert "space" not in found.rare
    assert any("bracket depth" in limit and "fewer than 5" in limit for limit in found.limits)


def test_the_auc_is_that_of_all_pairs() -> None:
    pieces = list("ab AB " * 30)
    upper = features(pieces)["upper case"]
    half = len(pieces) // 2
    values = 2 - upper + np.random.default_rng(3).integers(0, 3, len(pieces))  # many equal values
    (match,) = rank([values[:, None]], pieces).by_unit
    assert (match.feature, match.measure, match.sign) == ("upper case", "AUC", -1)
    inside = upper[half:] == 1
    unit = -values[half:]
    pairs = unit[inside][:, None] - unit[~inside][None]
    assert match.strength == pytest.approx(np.mean(pairs > 0) + np.mean(pairs == 0) / 2)


@pytest.mark.parametrize("text", ["", "a", "aaaa"])
def test_a_text_without_any_feature_ranks_nothing(text: str) -> None:
    found = rank([np.zeros((len(text), 3))], list(text))
    assert found.by_unit == []
    assert found.by_feature == []
    assert len(found.rare) == len(FEATURES)
    assert found.limits == ["the text is too short to tell what units follow"]


def test_a_unit_that_tells_the_label_of_whole_texts_is_found() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 300)
    means = rng.normal(size=(300, 5))
    means[:, 3] -= 2.5 * labels
    pieces, _, noise = planted()
    whole = labelled([means], labels, ("bad", "good"))
    found = rank_units([Sample([noise[:, :5]], features(pieces)), whole])
    best = found.by_feature[0]
    assert (best.feature, best.unit, best.sign, best.measure) == ("label good", 3, -1, "AUC")
    half = labels[150:] == 1
    unit = -means[150:, 3]
    pairs = unit[half][:, None] > unit[~half][None]
    assert best.strength == pytest.approx(pairs.mean())
    assert [(match.unit, match.feature) for match in found.by_unit] == [(3, "label good")]


def test_of_three_labels_each_is_told_from_the_others() -> None:
    labels = np.arange(300) % 3
    means = np.eye(3)[labels] + np.random.default_rng(0).normal(size=(300, 3)) * 0.1
    found = rank_units([labelled([means], labels, ("a", "b", "c"))])
    assert {(m.feature, m.unit) for m in found.by_feature} == {
        *(("label a", 0), ("label b", 1), ("label c", 2))
    }


def test_few_texts_tell_nothing_of_labels() -> None:
    labels = np.arange(16) % 2  # 4 of each in each half
    found = rank_units([labelled([labels[:, None] * 1.0], labels, ("a", "b"))])
    assert found.by_unit == []
    assert found.rare == ["label b"]


def test_labels_of_words_are_features() -> None:
    found = named_labels(["b", "a", "b"])
    assert {name: values.tolist() for name, values in found.items()} == {
        "label a": [0, 1, 0],
        "label b": [1, 0, 1],
    }


def test_clear_is_an_auc_of_three_quarters_or_a_rho_of_a_half() -> None:
    assert Match(0, 0, "x", "AUC", 0.75, 1).clear
    assert not Match(0, 0, "x", "AUC", 0.74, 1).clear
    assert Match(0, 0, "x", "rho", 0.5, 1).clear
    assert not Match(0, 0, "x", "rho", 0.49, 1).clear


def test_a_unit_that_counts_rare_brackets_follows_them_perfectly() -> None:
    rng = np.random.default_rng(2)
    depth = np.zeros(1000)
    depth[rng.choice(1000, 50, replace=False)] = rng.integers(1, 3, 50)
    unit = depth + 0.1 * rng.random(1000)
    (found,) = rank_units([Sample([unit[:, None]], {"depth": depth})]).by_unit
    assert (found.measure, found.sign) == ("rho", 1)
    assert found.strength == pytest.approx(1, abs=1e-9)


def test_rho_is_spearmans_where_there_are_no_ties() -> None:
    rng = np.random.default_rng(3)
    feature = rng.permutation(200).astype(float)
    unit = rng.normal(size=200) - feature / 100
    (found,) = rank_units([Sample([unit[:, None]], {"place": feature})]).by_unit
    places, heights = (np.argsort(np.argsort(part[100:])) for part in (feature, unit))
    assert found.strength == pytest.approx(-float(np.corrcoef(places, heights)[0, 1]))
