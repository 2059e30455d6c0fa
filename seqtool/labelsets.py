"""Several labels at once: each is a question of its own, answered by a probability.

The opinions on a label, recurrent and linear, are added as log-odds, each times a power, with an
offset; held-out texts choose both for every label (logistic calibration: Platt 1999). A label is
given where its probability reaches half of the best F1 that it can have: that threshold makes the
F1 largest (Lipton, Elkan & Naryanaswamy 2014, arXiv:1402.1892, theorem 1).
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from seqtool.calibration import BINS, pool

Array = npt.NDArray[Any]
Rows = list[list[float]]  # of each label: a power for each opinion, and an offset
Powers = list[float] | Rows  # the first where exactly one label is right

FEW = 5  # a label that fewer held-out texts have is given where labels are on the whole
HALF = 0.5  # the threshold where nothing was held out
_PRIOR = 1.0  # texts' worth of belief that powers and offset are those of the start
_STEPS = 30  # of Newton's method, at most
_LIMIT = 30.0  # log-odds beyond it are as good as certain


def probabilities(opinions: Sequence[Array], powers: Powers) -> Array:
    """Probabilities (N, C) from logits of several models, of one label or of any number."""
    if not powers or not isinstance(powers[0], list):
        return pool(opinions, cast("list[float]", powers))
    values = np.array(powers)  # (C, K + 1)
    odds = values[:, -1] + sum(
        opinion.astype(np.float64) * values[:, k] for k, opinion in enumerate(opinions)
    )
    return sigmoid(odds)


def sigmoid(odds: Array) -> Array:
    """Probabilities of log-odds."""
    result: Array = 1 / (1 + np.exp(-np.clip(odds, -_LIMIT, _LIMIT)))
    return result


def fit_label_powers(opinions: Sequence[Array], truth: Array) -> Rows:
    """Powers and an offset for every label that make held-out answers most probable.

    Args:
        opinions: Logits from K models, each (N, C).
        truth: 1 where a text has a label, else 0, (N, C).

    Returns:
        C rows of K + 1 numbers. A weak prior keeps them near equal shares and no offset.
    """
    count = len(opinions)
    start = np.array([1 / count] * count + [0.0])
    stacked = np.stack([o.astype(np.float64) for o in opinions], axis=2)  # (N, C, K)
    found = []
    for label in range(truth.shape[1]):
        x = np.concatenate([stacked[:, label], np.ones((len(truth), 1))], axis=1)
        found.append(_logistic(x, truth[:, label], start).tolist())
    return found


def _logistic(x: Array, y: Array, start: Array) -> Array:
    """The weights (D,) of a logistic regression on (N, D), drawn towards a start."""

    def loss(weights: Array) -> float:
        odds = np.clip(x @ weights, -_LIMIT, _LIMIT)
        return float(
            (np.logaddexp(0, odds) - y * odds).sum() + _PRIOR * ((weights - start) ** 2).sum()
        )

    weights, present = start.copy(), loss(start)
    for _ in range(_STEPS):
        p = sigmoid(x @ weights)
        gradient = x.T @ (p - y) + 2 * _PRIOR * (weights - start)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 2 * _PRIOR * np.eye(len(start))
        step, size, better = np.linalg.solve(hessian, gradient), 1.0, math.inf
        while size > 1e-6:
            better = loss(weights - size * step)
            if better < present:
                break
            size /= 2
        if not better < present - 1e-9 * max(1.0, abs(present)):
            break
        weights, present = weights - size * step, better
    # A model that is wrong more often than right is better not listened to.
    weights[:-1] = np.maximum(weights[:-1], 0)
    return weights


def label_thresholds(p: Array, truth: Array) -> list[float]:
    """Least probability of each label that is given, (C,), from held-out texts."""
    if not len(p) or not truth.any():
        return [HALF] * truth.shape[1]
    common = best_f1(p.ravel(), truth.ravel()) / 2
    return [
        best_f1(p[:, label], truth[:, label]) / 2 if truth[:, label].sum() >= FEW else common
        for label in range(truth.shape[1])
    ]


def best_f1(p: Array, truth: Array) -> float:
    """The best F1 that any threshold on probabilities (N,) reaches."""
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(p) + 1) + truth.sum())
    # A threshold cannot part equal probabilities.
    ends = np.append(np.diff(p[order]) != 0, True)
    return float(f1[ends].max())


def label_nll(p: Array, truth: Array) -> float:
    """Mean negative log-likelihood of the answers to all questions, nats per text and label."""
    right = np.where(truth > 0, p, 1 - p)
    return float(-np.log(np.maximum(right, 1e-300)).mean())


def label_counts(given: Array, truth: Array) -> tuple[Array, Array, Array]:
    """For every label how often it was given rightly, given, and there: each (C,)."""
    return (given & (truth > 0)).sum(axis=0), given.sum(axis=0), (truth > 0).sum(axis=0)


def label_calibration_error(p: Array, truth: Array) -> float:
    """Expected calibration error of a label's probability over 15 bins, in the mean of labels."""
    errors = []
    for label in range(p.shape[1]):
        bins = np.minimum((p[:, label] * BINS).astype(int), BINS - 1)
        gaps = np.bincount(bins, truth[:, label] - p[:, label], minlength=BINS)
        errors.append(np.abs(gaps).sum() / len(p))
    return float(np.mean(errors))


def label_scores(p: Array, truth: Array, least: Sequence[float]) -> dict[str, float]:
    """The scores of probabilities (N, C) under the names that ``evaluate --json`` prints.

    ``accuracy`` is that of whole sets, ``micro_f1`` counts all questions together, ``macro_f1`` is
    the mean over the labels that occur or were given.
    """
    given = p >= np.asarray(least)
    right, guessed, there = label_counts(given, truth)
    f1 = 2 * right / np.maximum(guessed + there, 1)
    present = guessed + there > 0
    return {
        "accuracy": exact(given, truth),
        "micro_f1": float(2 * right.sum() / max(1, guessed.sum() + there.sum())),
        "macro_f1": float(f1[present].mean()) if present.any() else 0.0,
        "ece": label_calibration_error(p, truth),
        "nats": label_nll(p, truth),
    }


def exact(given: Array, truth: Array) -> float:
    """Share of texts whose set of labels is right as a whole."""
    return float((given == (truth > 0)).all(axis=1).mean())
