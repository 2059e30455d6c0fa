"""How sure a score is: intervals of ratios and differences of two models, by the bootstrap.

Source: Efron 1979, doi:10.1214/aos/1176344552; paired for translations, Koehn 2004 (EMNLP).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RESAMPLES = 1000
LEVEL = 0.95  # of the intervals
SEED = 12345  # the one that sacrebleu uses
_CELLS = 1 << 22  # counts drawn at once


@dataclass(frozen=True)
class Difference:
    """How far one model is ahead of another on the same examples."""

    value: float
    low: float  # of the interval
    high: float
    p: float  # chance of a difference this far from none, were there none; two-sided


def ratio_interval(parts: Array, sizes: Array, seed: int = SEED) -> tuple[float, float]:
    """The interval of sum(parts) / sum(sizes) over resampled examples.

    Args:
        parts: What is counted in each example, (n,): 1 for right, or edits.
        sizes: Out of how much, (n,): 1, or the length of the reference.
        seed: Of the resampling.
    """
    ratios = np.concatenate([draw @ parts / (draw @ sizes) for draw in _draws(len(parts), seed)])
    return _quantiles(ratios)


def compare_ratios(mine: Array, theirs: Array, sizes: Array, seed: int = SEED) -> Difference:
    """The difference of two such ratios of the same examples, each (n,)."""
    gap = np.asarray(mine, float) - theirs
    drawn = np.concatenate([draw @ gap / (draw @ sizes) for draw in _draws(len(gap), seed)])
    value = float(gap.sum() / np.sum(sizes))
    low, high = _quantiles(drawn)
    # As sacrebleu does: how often the resampled difference is as far from its mean.
    far = int((np.abs(drawn - drawn.mean()) >= abs(value)).sum())
    return Difference(value, low, high, (far + 1) / (len(drawn) + 1))


def _draws(count: int, seed: int) -> Iterator[Array]:
    """How often each example is drawn, (some, n), until all resamples are made."""
    rng = np.random.default_rng(seed)
    some = max(1, min(RESAMPLES, _CELLS // max(1, count)))
    for start in range(0, RESAMPLES, some):
        size = min(some, RESAMPLES - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size).astype(float)


def _quantiles(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
