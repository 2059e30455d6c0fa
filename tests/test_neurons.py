"""What units follow: features by hand on small texts, and planted units that must be found."""

import numpy as np
import pytest

from seqtool.neurons import FEATURES, features, rank_units


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
        ("end of line", "a\n", [0, 1]),
    ],
)
def test_features(name: str, text: str, expected: list[float]) -> None:
    assert follow(name, text) == expected


def test_a_token_of_many_characters_has_the_features_of_its_last() -> None:
    found = features(["(ab", "c)", "\n"])
    assert found["bracket depth"].tolist() == [1, 0, 0]
    assert found["position in line"].tolist() == [3, 5, 0]


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
    found = rank_units([noise, layer], pieces)
    units = {(match.layer, match.unit): match for match in found.by_unit}
    assert units[1, 2].feature == "inside quotes"
    assert units[1, 2].sign == 1
    assert units[1, 2].measure == "AUC"
    assert units[1, 2].strength > 0.98
    assert units[1, 4].feature == "bracket depth"
    assert units[1, 4].sign == -1
    assert units[1, 4].measure == "rho"
    assert units[1, 4].strength > 0.6
    assert {(m.layer, m.unit) for m in found.by_feature[:2]} == {(1, 2), (1, 4)}
    assert len(found.by_unit) == 12


def test_chance_is_not_taken_for_skill() -> None:
    pieces, _, _ = planted()
    noise = np.random.default_rng(1).normal(size=(len(pieces), 200))
    found = rank_units([noise], pieces)
    assert np.mean([match.excess for match in found.by_unit]) < 0.05


def test_the_auc_is_that_of_all_pairs() -> None:
    pieces = list("ab AB " * 30)
    rng = np.random.default_rng(3)
    values = rng.integers(0, 4, size=(len(pieces), 1)).astype(float)  # many equal values
    half = len(pieces) // 2
    found = rank_units([values], pieces)
    match = found.by_unit[0]
    if match.measure == "AUC":
        inside = features(pieces)[match.feature][half:] == 1
        unit = values[half:, 0] * match.sign
        pairs = unit[inside][:, None] - unit[~inside][None]
        auc = np.mean(pairs > 0) + np.mean(pairs == 0) / 2
        assert match.strength == pytest.approx(max(0.5, auc))
    assert match.feature in FEATURES


@pytest.mark.parametrize("text", ["", "a", "aaaa"])
def test_a_text_without_any_feature_ranks_nothing(text: str) -> None:
    found = rank_units([np.zeros((len(text), 3))], list(text))
    assert found.by_unit == []
    assert found.by_feature == []
