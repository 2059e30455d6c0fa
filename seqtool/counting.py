"""An n-gram model inside a compiled loop: what backoff and mixture do with arrays, for one text."""

import math
from typing import Any, NamedTuple

import numpy as np

from seqtool.backoff import UNSEEN, NGram
from seqtool.compiled import compiled, inlined

Array = np.ndarray[Any, Any]


class Counts(NamedTuple):
    """An n-gram model as the loops see it: all lengths one after the other.

    Attributes:
        codes: Of the n-grams, int64; see backoff.
        first: Where the codes and gains of each length begin, (order + 1,) int64.
        gains: float32.
        backoffs: float32.
        first_backoff: Where the backoffs of each length begin, (order,) int64.
        weights: Of the model in the mixture, by length of the known context, (order,) float64.
    """

    codes: Array
    first: Array
    gains: Array
    backoffs: Array
    first_backoff: Array
    weights: Array


def build_counts(ngram: NGram | None, weights: Array | None) -> Counts:
    """Lay out an n-gram model and its weights, (order,); without one, order is 0."""
    levels = ngram.levels if ngram is not None else []
    sizes = [len(level.codes) for level in levels]
    widths = [len(level.backoffs) for level in levels]

    def join(name: str, kind: Any) -> Array:
        return np.concatenate([np.empty(0, kind), *(getattr(level, name) for level in levels)])

    return Counts(
        join("codes", np.int64),
        np.cumsum([0, *sizes], dtype=np.int64),
        join("gains", np.float32),
        join("backoffs", np.float32),
        np.cumsum([0, *widths[:-1]], dtype=np.int64)[: len(levels)],
        np.zeros(0) if weights is None else weights[: len(levels)].astype(np.float64),
    )


@inlined
def find(counts: Counts, length: int, code: int) -> int:
    """The place of the first code of a length that is not below the given one."""
    low: int = counts.first[length]
    high: int = counts.first[length + 1]
    while low < high:
        middle = (low + high) // 2
        if counts.codes[middle] < code:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def follow(
    counts: Counts, contexts: Array, before: int, after: int, token: int, vocab_size: int
) -> None:
    """Read one token of a text.

    Args:
        counts: The n-gram model.
        contexts: Flat int64; from ``before`` on where the model stands, from ``after`` on where it
            will stand, see backoff.NGram.
        before: See there.
        after: See there.
        token: What is read.
        vocab_size: V.
    """
    order = len(counts.weights)
    contexts[after] = 0
    for length in range(order - 1):
        rank, place = contexts[before + length], UNSEEN
        if rank != UNSEEN:
            code = rank * vocab_size + token
            found = find(counts, length, code)
            if found < counts.first[length + 1] and counts.codes[found] == code:
                place = found - counts.first[length]
        contexts[after + length + 1] = place


@inlined
def interpolate(
    counts: Counts, contexts: Array, at: int, logits: Array, first: int, probs: Array
) -> None:
    """Turn the logits of a network into the log-probabilities of its mixture with the counts.

    Args:
        counts: The n-gram model and its weights.
        contexts: Flat int64; from ``at`` on where the model stands.
        at: See there.
        logits: Flat float32; V of them from ``first`` on are changed.
        first: See there.
        probs: Scratch space, (V,) float64.
    """
    size = len(probs)
    for i in range(size):
        probs[i] = 1 / size
    depth = 0
    for length in range(len(counts.weights)):
        rank = contexts[at + length]
        if rank == UNSEEN:
            continue
        depth = length
        left = np.float64(counts.backoffs[counts.first_backoff[length] + rank])
        for i in range(size):
            probs[i] *= left
        begin, last = rank * size, counts.first[length + 1]
        place = find(counts, length, begin)
        while place < last and counts.codes[place] < begin + size:
            probs[counts.codes[place] - begin] += counts.gains[place]
            place += 1
    best = -np.inf
    for i in range(size):
        score = np.float64(logits[first + i])
        if not score < np.inf:  # the network is damaged: leave it for the choice to be refused
            return
        best = max(best, score)
    total = 0.0
    for i in range(size):
        total += math.exp(np.float64(logits[first + i]) - best)
    weight = counts.weights[depth]
    for i in range(size):
        share = math.exp(np.float64(logits[first + i]) - best) / total
        logits[first + i] = math.log((1 - weight) * share + weight * probs[i])


@compiled
def follow_text(counts: Counts, contexts: Array, ids: Array, logits: Array, vocab_size: int) -> int:
    """Read a text, and mix into the network's logits after its last tokens.

    Args:
        counts: The n-gram model and its weights.
        contexts: (2, order) int64: where the model stands, and where it stands afterwards.
        ids: (T,) int64.
        logits: Of the network after each of the last N tokens, (N, V padded) float32; changed.
        vocab_size: V.

    Returns:
        0, like a successful program.
    """
    order = len(counts.weights)
    probs = np.empty(vocab_size, np.float64)
    flat, scores = contexts.ravel(), logits.ravel()
    first, now, after = len(ids) - len(logits), 0, order
    for t in range(len(ids)):
        follow(counts, flat, now, after, ids[t], vocab_size)
        if t >= first:
            interpolate(counts, flat, after, scores, (t - first) * logits.shape[1], probs)
        now, after = after, now
    if now == 0:
        contexts[1] = contexts[0]
    return 0
