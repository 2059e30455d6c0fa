"""What cheap methods reach on the same split: an n-gram model and the xz compressor.

A trained network that does not beat them has learned nothing worth its training time. NumPy and the
standard library only; text and files are the caller's business.
"""

import lzma
from collections.abc import Iterable
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

import numpy as np

Data = bytes | bytearray | memoryview | Iterable[bytes]  # whole, or in pieces

LARGE_VOCABULARY = 1000  # ids above this count are words or pieces of words, not characters
WORD_ORDER = 4  # longer word contexts hardly ever come back and cost most of the memory
MAX_TOKENS = 5_000_000
CHUNK = 1 << 20  # tokens scored at a time, bounds the memory of NGram.nll
XZ_TRAIN_BYTES = 4 << 20  # xz takes about a second per MB and reads the training text twice
XZ_TEST_BYTES = 1 << 20


class _Level(NamedTuple):
    """All n-grams of one length, sorted, with what each adds to the probability of its last token.

    The code of an n-gram is rank of its context * vocab_size + its last token, where the context is
    the (n-1)-gram without the last token and its rank is its place in the level below.
    """

    codes: np.ndarray  # (G,) int64, sorted and unique
    gains: np.ndarray  # (G,) float32: (count - discount) / total count of the context
    backoffs: np.ndarray  # (G of the level below,) float32: the mass left to shorter contexts


class NGram:
    """An n-gram model with interpolated modified Kneser-Ney smoothing.

    Source: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling",
    doi:10.1006/csla.1999.0128; the fallback discounts are those of KenLM (Heafield et
    al. 2013). The shortest context is interpolated with the uniform distribution, so every token of
    the vocabulary has a probability above 0 and they sum to 1.

    Attributes:
        order: Longest n-gram used; the last token of it is the one predicted.
        vocab_size: Number of ids, special ones included.
        train_tokens: How many tokens it learned from.
    """

    def __init__(
        self, ids: np.ndarray, vocab_size: int, *, order: int = 6, max_tokens: int = MAX_TOKENS
    ) -> None:
        """Count the n-grams of a text.

        Args:
            ids: Training text, (n,) of any integer type; document boundaries are tokens like any
                other. Of a longer text the last ``max_tokens`` are used: they are next to the
                held-out end.
            vocab_size: Every id is below it. Above 1000 the order is at most 4.
            order: Longest n-gram counted, at least 1.
            max_tokens: Bound on time and memory, roughly 100 bytes and 2 us a token.

        Raises:
            ValueError: If the order is below 1 or an id is outside the vocabulary.
        """
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        # The code of an n-gram and its place in the text must fit into one 63-bit integer.
        max_tokens = min(max_tokens, isqrt((1 << 61) // vocab_size))
        ids = np.asarray(ids[max(0, len(ids) - max_tokens) :]).astype(np.int64)
        _check_ids(ids, vocab_size)
        self.order = min(order, WORD_ORDER) if vocab_size > LARGE_VOCABULARY else order
        self.vocab_size = vocab_size
        self.train_tokens = len(ids)
        self._levels = _count_levels(ids, vocab_size, self.order)

    def nll(self, ids: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Score a text.

        Args:
            ids: Tokens to score, (T,).
            history: Tokens before the first one, (K,); the last ``order - 1`` matter. At the start
                of a text this is the start id alone. A text may be scored piece by piece.

        Returns:
            Negative log-likelihood of each token given those before it, (T,) float64, in nats.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        history = np.asarray(history).astype(np.int64)
        nll = np.empty(len(ids))
        for start in range(0, len(ids), CHUNK):
            piece = np.asarray(ids[start : start + CHUNK]).astype(np.int64)
            text = np.concatenate([history[max(0, len(history) - self.order + 1) :], piece])
            _check_ids(text, self.vocab_size)
            nll[start : start + CHUNK] = -np.log(self._probabilities(text)[-len(piece) :])
            history = text
        return nll

    def _probabilities(self, ids: np.ndarray) -> np.ndarray:
        """Probability of each token given the tokens before it in ``ids``; (T,) float64."""
        probs = np.full(len(ids), 1 / self.vocab_size)
        context = np.zeros(len(ids), np.int64)  # rank of the context of each token, -1 = never seen
        for level in self._levels:
            codes = context * self.vocab_size + ids
            places = np.searchsorted(level.codes, codes)
            places = np.minimum(places, len(level.codes) - 1)
            seen = context >= 0
            found = seen & (level.codes[places] == codes)
            gains = np.where(found, level.gains[places], 0)
            # A context never seen leaves all the mass to the shorter ones.
            probs = np.where(seen, gains + level.backoffs[context] * probs, probs)
            # The n-gram that ends at t-1 is the context of t, one level up.
            context[1:] = np.where(found, places, -1)[:-1]
            context[:1] = -1
        return probs


def _check_ids(ids: np.ndarray, vocab_size: int) -> None:
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"ids must be from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}")


class _Grams(NamedTuple):
    """The different n-grams of a text, in order of their codes."""

    codes: np.ndarray  # (G,) sorted
    ranks: np.ndarray  # which of them starts at each token of the text
    places: np.ndarray  # (G,) a token at which it starts
    counts: np.ndarray  # (G,)


def _find_grams(codes: np.ndarray) -> _Grams:
    """What np.unique gives with all its options, several times faster.

    NumPy sorts values with vector instructions but not indices, so each code is sorted together
    with its place in one integer.
    """
    bits = len(codes).bit_length()
    order = np.sort((codes << bits) | np.arange(len(codes)))
    places = order & ((1 << bits) - 1)
    order >>= bits
    new = np.diff(order, prepend=-1) != 0
    starts = np.flatnonzero(new)
    ranks = np.empty_like(codes)
    ranks[places] = np.cumsum(new) - 1
    counts = np.diff(starts, append=len(codes))
    return _Grams(order[starts], ranks, places[starts], counts)


def _count_levels(ids: np.ndarray, vocab_size: int, order: int) -> list[_Level]:
    """Build the levels 1 to ``order``; fewer if the text is shorter than that."""
    levels: list[_Level] = []
    num_contexts = 1
    grams = _find_grams(ids)
    for length in range(1, min(order, len(ids)) + 1):
        contexts = grams.codes // vocab_size
        if length == order:
            levels.append(_smooth(grams.codes, grams.counts, contexts, num_contexts))
            break
        longer = _find_grams(grams.ranks[:-1] * vocab_size + ids[length:])
        # All but the longest n-grams count the different tokens that precede them (Kneser-Ney):
        # the n-gram at place t + 1 ends the longer one at place t.
        counts = np.bincount(grams.ranks[1:][longer.places], minlength=len(grams.codes))
        counts[counts == 0] = 1  # found only at the very start of the text
        levels.append(_smooth(grams.codes, counts, contexts, num_contexts))
        grams, num_contexts = longer, len(grams.codes)
    return levels


def _smooth(
    grams: np.ndarray, counts: np.ndarray, contexts: np.ndarray, num_contexts: int
) -> _Level:
    """Turn counts into discounted probabilities and the mass that the discounts set free."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, minlength=num_contexts)
    freed = np.bincount(contexts, discounts, minlength=num_contexts)
    # The last n-gram of a text may have no continuation at all: everything is left to shorter ones.
    backoffs = np.divide(freed, totals, out=np.ones(num_contexts), where=totals > 0)
    gains = (counts - discounts) / totals[contexts]
    return _Level(grams, gains.astype(np.float32), backoffs.astype(np.float32))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Discounts for counts 0, 1, 2 and 3 or more; (4,), estimated as by Chen & Goodman."""
    having = np.bincount(np.minimum(counts, 5), minlength=6)[
        1:5
    ]  # n-grams counted 1, 2, 3, 4 times
    if having.all():
        scale = having[0] / (having[0] + 2 * having[1])
        ratios = [next_ / this for this, next_ in pairwise(having)]
        estimate = [i - (i + 1) * scale * ratio for i, ratio in enumerate(ratios, start=1)]
        if all(0 < discount <= i for i, discount in enumerate(estimate, start=1)):
            return np.array([0, *estimate])
    return np.array([0, 0.5, 1, 1.5])  # too few n-grams to estimate them


class XzCost(NamedTuple):
    """What a held-out text costs xz.

    Attributes:
        bits: Size of the test text for a compressor that has just read the training text.
        train_bytes: How much of the training text was used, from its end.
        test_bytes: How much of the test text was measured, from its start; divide by this.
    """

    bits: int
    train_bytes: int
    test_bytes: int


def xz_cost(
    train: Data,
    test: Data,
    *,
    max_train: int = XZ_TRAIN_BYTES,
    max_test: int = XZ_TEST_BYTES,
) -> XzCost:
    """Cost of a text for xz when it knows the training text: size(train + test) - size(train).

    The dictionary covers both. Of a large training text only the last ``max_train`` bytes are used,
    of a large test text only the first ``max_test``, so that the two stay neighbours and the call
    takes seconds; the result says how many were.

    Args:
        train: Training text as bytes, or in pieces; may be empty.
        test: Held-out text as bytes, or in pieces.
        max_train: Most bytes of ``train`` to use.
        max_test: Most bytes of ``test`` to measure.
    """
    known = _last_bytes(train, max_train)
    text = _first_bytes(test, max_test)
    bits = 8 * (_xz_size(known + text) - _xz_size(known))
    return XzCost(max(0, bits), len(known), len(text))


def _last_bytes(data: Data, limit: int) -> bytes:
    kept = bytearray()
    for piece in _pieces(data):
        kept += piece
        if len(kept) > 2 * limit:  # cut now and then, so that memory stays bounded
            del kept[: len(kept) - limit]
    return bytes(kept[max(0, len(kept) - limit) :])


def _first_bytes(data: Data, limit: int) -> bytes:
    kept = bytearray()
    for piece in _pieces(data):
        kept += piece[: limit - len(kept)]
        if len(kept) == limit:
            break
    return bytes(kept)


def _pieces(data: Data) -> Iterable[bytes]:
    return [bytes(data)] if isinstance(data, bytes | bytearray | memoryview) else data


def _xz_size(data: bytes) -> int:
    # Preset 9 differs from 6 only in its dictionary, set here; memory is about 11 times the data.
    dictionary = max(len(data), 4096)  # the least that LZMA2 takes
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary}]
    packed = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters)
    return len(packed)
