"""Intervals and differences by the bootstrap, beside what statistics expects."""

import numpy as np
import pytest

from seqtool import resampling
from seqtool.resampling import compare_ratios, ratio_interval


def test_an_interval_is_that_of_the_normal_distribution():
    right = (np.arange(2000) % 4 > 0).astype(float)  # 0.75
    low, high = ratio_interval(right, np.ones(2000))
    half = 1.96 * (0.75 * 0.25 / 2000) ** 0.5
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.004)


def test_a_ratio_of_sums_is_no_mean_of_ratios():
    edits, sizes = np.array([0.0, 10.0] * 200), np.array([10.0, 90.0] * 200)
    low, high = ratio_interval(edits, sizes)
    assert low < 0.1 < high
    assert high - low < 0.01


def test_nothing_varies_where_all_are_equal():
    assert ratio_interval(np.ones(50), np.ones(50)) == (1.0, 1.0)


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch):
    parts, sizes = np.arange(40.0), np.full(40, 50.0)
    whole = ratio_interval(parts, sizes)
    monkeypatch.setattr(resampling, "_CELLS", 300)
    assert ratio_interval(parts, sizes) == whole


def test_a_paired_difference_sees_what_unpaired_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.random(1000) < 0.5  # both fail on the same half
    mine = (~hard).astype(float)
    theirs = mine * (rng.random(1000) < 0.97)
    found = compare_ratios(mine, theirs, np.ones(1000))
    assert found.value == pytest.approx(mine.mean() - theirs.mean())
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.01
    assert ratio_interval(theirs, np.ones(1000))[1] > mine.mean()


def test_models_that_differ_by_chance_are_not_told_apart():
    rng = np.random.default_rng(1)
    p = [
        compare_ratios(*(rng.random((2, 200)) < 0.5).astype(float), np.ones(200), seed=seed).p
        for seed in range(60)
    ]
    assert np.mean(np.array(p) < 0.05) < 0.15
    assert compare_ratios(np.ones(9), np.ones(9), np.ones(9)).p == 1.0
