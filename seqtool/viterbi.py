"""Chains of labels without torch: the likeliest sequence, and the chances of each label in it.

Source: Viterbi 1967, doi:10.1109/TIT.1967.1054010; Rabiner 1989, "A tutorial on hidden Markov
models", section III; for labels given words Lafferty, McCallum & Pereira 2001, "Conditional random
fields", section 3. All on padded batches.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seqtool.spans import Scheme, allowed

Array = npt.NDArray[Any]

# What a label costs where it must not stand: more than any scores can outweigh, yet finite, so that
# a sentence in which nothing may stand is answered all the same.
FORBIDDEN = -1e4


class Scores(NamedTuple):
    """What it is worth that one label follows another."""

    after: Array  # (C, C), from the row's label to the column's
    first: Array  # (C,) at the beginning of a sentence
    last: Array  # (C,) at its end


def neighbours(
    labels: Sequence[str], scheme: Scheme, weights: Mapping[str, Array] | None
) -> Scores | None:
    """The scores of neighbouring labels, or None if labels may be chosen one by one.

    Args:
        labels: C names.
        scheme: What must not follow what.
        weights: Of a model with a chain; None without one.
    """
    if weights is None and not scheme:
        return None
    may = allowed(labels, scheme)
    learned = [np.zeros(a.shape, np.float32) for a in may]
    if weights is not None:
        learned = [weights[f"chain.{name}"] for name in Scores._fields]
    return Scores(*(np.where(a, w, FORBIDDEN) for a, w in zip(may, learned, strict=True)))


def best_labels(emissions: Array, lengths: Array, scores: Scores | None) -> Array:
    """The best labels, (B, T), of sentences with scores (B, T, C), in a chain if there is one."""
    if scores is None:
        return np.asarray(emissions.argmax(axis=2))
    return best_paths(emissions, lengths, scores)


def best_paths(emissions: Array, lengths: Array, scores: Scores) -> Array:
    """The sequences of labels with the highest sum of scores.

    Args:
        emissions: What each label is worth at each word, (B, T, C).
        lengths: Of the sentences, (B,), each at least 1.
        scores: Of neighbours.

    Returns:
        Labels, (B, T); 0 in the padding.
    """
    batch, steps, _ = emissions.shape
    rows = np.arange(batch)
    total = scores.first + emissions[:, 0]  # (B, C), the best sum that ends in each label
    came = np.zeros((steps, *total.shape), np.int32)  # from which label
    for t in range(1, steps):
        each = total[:, :, None] + scores.after  # (B, C, C)
        came[t] = each.argmax(axis=1)
        best = np.take_along_axis(each, came[t][:, None], axis=1)[:, 0] + emissions[:, t]
        total = np.where((t < lengths)[:, None], best, total)
    paths = np.zeros((batch, steps), np.int64)
    label = (total + scores.last).argmax(axis=1)
    for t in range(steps - 1, -1, -1):
        within = t < lengths  # a sentence is entered at its own last word
        paths[within, t] = label[within]
        label = np.where(within, came[t][rows, label], label)
    return paths


def marginals(emissions: Array, lengths: Array, scores: Scores | None) -> Array:
    """The probability of each label at each word, (B, T, C) float64: forward and backward.

    Args:
        emissions: (B, T, C).
        lengths: Of the sentences, (B,).
        scores: Of neighbours; None if labels do not depend on each other.
    """
    emissions = emissions.astype(np.float64)
    if scores is None:
        return _softmax(emissions)
    steps = emissions.shape[1]
    within = np.arange(steps)[:, None] < lengths  # (T, B)
    onward, back = np.empty_like(emissions), np.empty_like(emissions)
    onward[:, 0] = scores.first + emissions[:, 0]
    for t in range(1, steps):
        onward[:, t] = _through(onward[:, t - 1], scores.after) + emissions[:, t]
    back[:, -1] = scores.last
    for t in range(steps - 2, -1, -1):
        onwards = _through(back[:, t + 1] + emissions[:, t + 1], scores.after.T)
        back[:, t] = np.where(within[t + 1][:, None], onwards, scores.last)
    return _softmax(onward + back)


def _through(total: Array, after: Array) -> Array:
    """log sum_i exp(total_i + after_ij), (B, C): as a product of exponentials, each shifted."""
    highest, ceiling = total.max(axis=1, keepdims=True), after.max()
    reached = np.exp(total - highest) @ np.exp(after - ceiling)
    return np.asarray(np.log(np.maximum(reached, np.finfo(np.float64).tiny)) + highest + ceiling)


def _softmax(scores: Array) -> Array:
    p = np.exp(scores - scores.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    return np.asarray(p)
