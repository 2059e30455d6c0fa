"""Paired tests: against worked numbers, another library, and what chance does."""

import numpy as np
import pytest

from seqtool.comparing import Blocks, compare_costs, compare_right, mcnemar
from seqtool.errors import DataError


def flags(both, only_mine, only_theirs, neither):
    mine = np.repeat([True, True, False, False], [both, only_mine, only_theirs, neither])
    theirs = np.repeat([True, False, True, False], [both, only_mine, only_theirs, neither])
    return mine, theirs


@pytest.mark.parametrize("only", [(0, 0), (7, 2), (2, 7), (40, 61), (0, 5)])
def test_mcnemar_is_the_sign_test_on_what_differs(only):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(min(only), sum(only)).pvalue if sum(only) else 1.0
    assert mcnemar(*flags(20, *only, 9)) == pytest.approx(expected)


def test_costs_are_compared_block_by_block_whatever_the_tokens_are():
    rng = np.random.default_rng(2)
    letters = rng.integers(1, 3, 20_000)  # tokens of one byte
    costs = rng.random(20_000)
    one, two = Blocks(np.array([0, 1, 1])), Blocks(np.array([0, 2]))
    for part in np.array_split(np.arange(20_000), 7):
        one.push(letters[part], costs[part])
    two.push(np.ones(10_000, int), costs.reshape(-1, 2).sum(axis=1))  # two letters at once
    same = compare_costs(one, two, 10_000, other="b")
    assert same.mine == pytest.approx(costs.sum() / np.log(2) / 10_000)
    assert same.difference == pytest.approx(0, abs=1e-12)
    dearer = Blocks(np.array([0, 1, 1]))
    dearer.push(letters, costs + 0.05 + 0.1 * rng.normal(size=20_000))
    found = compare_costs(one, dearer, 10_000, other="b")
    assert found.low < found.difference < found.high < 0
    assert found.p < 0.01
    assert "better than b" in found.sentence("a", higher_is_better=False)


def test_too_little_text_is_refused():
    short = Blocks(np.array([0, 1]))
    short.push(np.ones(100, int), np.ones(100))
    with pytest.raises(DataError, match="only 100 bytes"):
        compare_costs(short, short, 100, other="b")


def test_equal_models_are_level_and_clear_differences_are_told():
    right = np.arange(100) % 3 > 0
    level = compare_right(right, right, other="b")
    assert (level.difference, level.low, level.high, level.p) == (0, 0, 0, 1)
    assert "level with b" in level.sentence("a")
    better = compare_right(*flags(60, 30, 2, 8), other="b")
    assert better.p < 0.001
    assert better.low > 0
    assert "a is better than b" in better.sentence("a")
    assert "more than chance" in better.sentence("a")
    worse = compare_right(*flags(60, 6, 8, 8), other="b")
    assert "worse than b" in worse.sentence("a")
    assert "may well be chance" in worse.sentence("a")
    assert "better than b" in worse.sentence("a", higher_is_better=False)


def test_chance_alone_seldom_looks_like_more():
    rng = np.random.default_rng(3)
    alarms = sum(
        compare_right(*(rng.random((2, 200)) < 0.8), other="b").p < 0.05 for _ in range(60)
    )
    assert alarms <= 8  # three expected at most; the exact test is conservative
