"""How well two series agree, and on how many independent places that rests.

Neighbouring tokens tell almost the same: a text of 700 characters has only about a dozen lines, and
among hundreds of slow series some agree with any dozen lines by chance. Only numbers come in; what
they stand for is left to others.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy import fft

Floats = npt.NDArray[np.float64]

WRONG_SHARE = 0.05  # of what is believed, what may be due to chance
DOUBT = 2.0  # standard errors by which a correlation may be too high when a match is chosen
REACH = 5  # mean lengths of a feature's spells over which its neighbours count as dependent


@dataclass(frozen=True)
class Agreement:
    """How N series agree with F features at the same places, each (F, N)."""

    excess: Floats  # from -1 to 1, see ``agree``
    scores: Floats  # Fisher's z over its standard error: standard normal if there is nothing
    floors: Floats  # size of the excess if the correlation is DOUBT standard errors too high


def joined(parts: Iterable[Agreement]) -> Agreement:
    """Of the same series with all the features of several."""
    columns = zip(*((part.excess, part.scores, part.floors) for part in parts), strict=True)
    return Agreement(*map(np.concatenate, columns))


def spells(values: Floats, apart: bool = False) -> int:
    """How often a feature, (n,), rises above its mean; of places apart, how many are rarer."""
    if len(values) == 0:
        return 0
    high = values > values.mean()
    if apart:
        return int(min(high.sum(), len(high) - high.sum()))
    return int((high[1:] & ~high[:-1]).sum())


def agree(series: Floats, features: Sequence[Floats], apart: bool = False) -> Agreement:
    """How well each series follows each feature.

    The excess is Spearman's rank correlation over the largest that the feature's ties allow:
    brackets that are open at one place in twenty let even a perfect series correlate by 0.4 only.
    Of a yes-or-no feature it is 2 AUC - 1, the AUC being the chance that the series is higher where
    the feature is than where it is not (Mann and Whitney's U over the number of pairs).

    The standard error is that of as many independent places as give the correlation the variance
    that it would have without agreement, 1/n sum_k r_x(k) r_y(k) over the lags k of the two
    autocorrelations (Bartlett 1946). Lags are counted up to REACH spells of the feature, with
    falling weight: a text whose lines have one length repeats itself for ever, and yet each of its
    lines is a proof.

    Args:
        series: (n, N).
        features: Each (n,), none constant.
        apart: Whether the places are independent to begin with.
    """
    count = len(series)
    orders = np.stack([_centred_ranks(values) for values in features])  # (F, n)
    squares = (orders**2).sum(axis=1)
    size = 1 << (2 * count).bit_length()  # with zeros, so that the ends do not meet
    kernels = np.stack(
        [
            _kernel(order, count / max(1, spells(values)), size)
            for order, values in zip(orders, features, strict=True)
        ]
    )
    excess, rho = (np.zeros((len(features), series.shape[1])) for _ in range(2))
    independent = np.full_like(rho, count)
    for number, column in enumerate(series.T):
        ranks = _centred_ranks(column)
        square = float(ranks @ ranks)
        if square == 0:  # what never moves follows nothing
            continue
        products = orders @ ranks
        excess[:, number] = products / squares
        rho[:, number] = products / np.sqrt(squares * square)
        if not apart:
            variance = kernels @ _power(ranks, size) / square / count
            independent[:, number] = 1 / np.maximum(variance, 1 / count)
    z = np.arctanh(np.clip(np.abs(rho), 0, 1 - 1e-9))
    exactness = np.sqrt(np.maximum(independent - 3, 1e-9))  # one over the standard error of z
    floors = np.tanh(np.maximum(0, z - DOUBT / exactness)) / np.maximum(np.abs(rho), 1e-9)
    return Agreement(excess, np.sign(rho) * z * exactness, np.abs(excess) * floors)


def _centred_ranks(values: Floats) -> Floats:
    """The rank of each value, (n,), less their mean; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return np.asarray(ranks - ranks.mean())


def _power(values: Floats, size: int) -> Floats:
    return np.asarray(np.abs(fft.rfft(values, size)) ** 2)


def _kernel(order: Floats, spell: float, size: int) -> Floats:
    """What the power of a series is summed with to give sum_k w(k) r_x(k) r_y(k), times its square.

    Args:
        order: The feature's centred ranks, (n,).
        spell: Mean length of its spells; the weights w fall from 1 to 0 over REACH of them.
        size: Of the transforms.
    """
    correlation = fft.irfft(_power(order, size), size) / (order @ order)
    lags = np.minimum(np.arange(size), size - np.arange(size))
    weights = np.maximum(0, 1 - lags / (REACH * spell))
    found = fft.rfft(correlation * weights).real * 2 / size
    found[[0, -1]] /= 2  # all other frequencies stand for two
    return np.asarray(found)


def discoveries(chances: Floats) -> npt.NDArray[np.bool_]:
    """Which of many findings to believe, such that about WRONG_SHARE of those believed are wrong.

    Benjamini & Hochberg 1995, "Controlling the false discovery rate", section 3.1.

    Args:
        chances: Of each finding, that it would look as good if there were nothing, (n,).
    """
    ordered = np.sort(chances)
    allowed = WRONG_SHARE * np.arange(1, len(chances) + 1) / max(1, len(chances))
    passing = np.flatnonzero(ordered <= allowed)
    limit = ordered[passing[-1]] if len(passing) else -1.0
    return np.asarray(chances <= limit)


def tail(score: float) -> float:
    """The chance that a standard normal number is higher."""
    return math.erfc(score / math.sqrt(2)) / 2
