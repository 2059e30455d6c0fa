"""From scores to probabilities one can trust, and to sets of labels that hold the truth.

The two opinions on a text, recurrent and linear, are multiplied as probabilities, each raised to a
power that held-out texts choose (a logarithmic opinion pool: Heskes 1998). With one opinion this is
temperature scaling (Guo et al. 2017, arXiv:1706.04599).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BINS = 15  # of equal width, as in Guo et al.
MAX_SCORES = 2000  # kept to tell how large a set must be
_STEPS = 50  # of Newton's method, at most
_PRIOR = 1.0  # texts' worth of belief that the powers are those of the start


def log_softmax(logits: Array) -> Array:
    """Log-probabilities, of the shape of the logits (N, C)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def pool(opinions: Sequence[Array], powers: Sequence[float]) -> Array:
    """Probabilities, (N, C) float64, of logits (N, C) from several models."""
    total = sum(
        power * log_softmax(logits.astype(np.float64))
        for power, logits in zip(powers, opinions, strict=True)
    )
    return np.exp(log_softmax(np.asarray(total)))


def fit_powers(opinions: Sequence[Array], labels: Array) -> list[float]:
    """The powers, none below zero, that make held-out labels most probable.

    Args:
        opinions: Logits from K models, each (N, C).
        labels: True classes, (N,).

    Returns:
        K numbers. Newton's method on a convex loss; a weak prior keeps them near equal shares that
        sum to one where the texts are few.
    """
    scores = np.stack([log_softmax(o.astype(np.float64)) for o in opinions])  # (K, N, C)
    count = len(opinions)
    start = np.full(count, 1 / count)
    powers = start.copy()
    rows = np.arange(len(labels))

    def loss(values: Array) -> float:
        mixed = log_softmax(np.tensordot(values, scores, 1))
        return float(-mixed[rows, labels].sum() + _PRIOR * ((values - start) ** 2).sum())

    present = loss(powers)
    for _ in range(_STEPS):
        p = np.exp(log_softmax(np.tensordot(powers, scores, 1)))  # (N, C)
        mean = np.einsum("knc,nc->kn", scores, p)
        gradient = (mean - scores[:, rows, labels]).sum(axis=1) + 2 * _PRIOR * (powers - start)
        centred = scores - mean[:, :, None]
        hessian = np.einsum("knc,lnc,nc->kl", centred, centred, p) + 2 * _PRIOR * np.eye(count)
        active = (powers <= 0) & (gradient > 0)  # would go below zero
        free = ~active
        if not free.any():
            break
        step = np.zeros(count)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        size, better = 1.0, math.inf
        while size > 1e-6:
            trial = np.maximum(0, powers - size * step)
            better = loss(trial)
            if better < present:
                break
            size /= 2
        if not better < present - 1e-9 * max(1.0, abs(present)):
            break
        powers, present = trial, better
    return [float(power) for power in powers]


def nll(probabilities: Array, labels: Array) -> float:
    """Mean negative log-likelihood of the true classes, nats per text."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def calibration_error(probabilities: Array, labels: Array) -> float:
    """Expected calibration error: how far confidence is from accuracy, over 15 bins.

    Source: Naeini et al. 2015; Guo et al. 2017, equation 3.

    Args:
        probabilities: (N, C).
        labels: True classes, (N,).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def set_scores(probabilities: Array, labels: Array) -> list[float]:
    """How much probability the truth was denied, 1 - p, for at most 2,000 texts, sorted."""
    missing = 1 - probabilities[np.arange(len(labels)), labels]
    return sorted(round(float(value), 6) for value in missing[:MAX_SCORES])


def set_threshold(scores: Sequence[float], coverage: float) -> float:
    """Least probability of a label that belongs to the set.

    Split conformal prediction (Vovk et al. 2005; Sadinle et al. 2019, "Least ambiguous set-valued
    classifiers"): with this threshold the set holds the truth of a new text with probability
    ``coverage`` or more, if it comes from where the held-out ones came from.

    Returns:
        0, so that every label belongs, if the texts held out are too few for this coverage.
    """
    place = math.ceil((len(scores) + 1) * coverage)
    return 1 - scores[place - 1] if 1 <= place <= len(scores) else 0.0
