"""N-gram models with Kneser-Ney smoothing: what counting alone knows about a text.

They serve as a baseline, and as the partner that ``mixture`` interpolates with a network: counts
remember rare strings exactly after one pass, which a network needs many passes for. NumPy only.
"""

from collections.abc import Mapping
from itertools import pairwise
from math import isqrt
from typing import NamedTuple, Self

import numpy as np

from seqtool.errors import CheckpointError

Arrays = dict[str, np.ndarray]

LARGE_VOCABULARY = 1000  # ids above this count are words or pieces of words, not characters
WORD_ORDER = 4  # longer word contexts hardly ever come back and cost most of the memory
MAX_TOKENS = 5_000_000
MAX_GRAMS = 4_000_000  # different n-grams of all lengths, 24 bytes each in memory
CHUNK = 1 << 20  # tokens scored at a time, bounds the memory
UNSEEN = -1  # in place of the rank of a context that the text does not hold


class Level(NamedTuple):
    """All n-grams of one length, sorted, with what each adds to the probability of its last token.

    The code of an n-gram is rank of its context * vocab_size + its last token, where the context is
    the (n-1)-gram without the last token and its rank is its place in the level below.
    """

    codes: np.ndarray  # (G,) int64, sorted and unique
    gains: np.ndarray  # (G,) float32: (count - discount) / total count of the context
    backoffs: np.ndarray  # (G of the level below,) float32: the mass left to shorter contexts


class Scored(NamedTuple):
    """What an n-gram model says about each token of a text.

    Attributes:
        probs: Probability of each token given those before it, (T,) float64.
        depths: Length of the longest context that the model knew there, (T,) int64, 0 to order - 1.
        contexts: Where the model stands after the last token, see ``NGram.start``.
    """

    probs: np.ndarray
    depths: np.ndarray
    contexts: np.ndarray


class NGram:
    """An n-gram model with interpolated modified Kneser-Ney smoothing.

    Source: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling",
    doi:10.1006/csla.1999.0128; the fallback discounts are those of KenLM (Heafield et
    al. 2013). The shortest context is interpolated with the uniform distribution, so every token of
    the vocabulary has a probability above 0 and they sum to 1.

    Where the model stands in a text is an array of contexts, (order,) int64: for each length from 0
    on the rank of the last so many tokens among those that the training text holds, or -1.

    Attributes:
        order: Longest n-gram used; the last token of it is the one predicted.
        vocab_size: Number of ids, special ones included.
        levels: The n-grams of each length from 1 on.
    """

    def __init__(
        self,
        ids: np.ndarray,
        vocab_size: int,
        *,
        order: int = 6,
        max_tokens: int = MAX_TOKENS,
        max_grams: int = MAX_GRAMS,
    ) -> None:
        """Count the n-grams of a text.

        Args:
            ids: Training text, (n,) of any integer type; document boundaries are tokens like any
                other. Of a longer text the last ``max_tokens`` are used: they are next to the
                held-out end.
            vocab_size: Every id is below it. Above 1000 the order is at most 4.
            order: Longest n-gram counted, at least 1.
            max_tokens: Bound on time and memory, roughly 50 bytes and 0.3 us a token.
            max_grams: Bound on what is kept: the order ends before the length whose n-grams would
                exceed it.

        Raises:
            ValueError: If the order is below 1 or an id is outside the vocabulary.
        """
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        # The code of an n-gram and its place in the text must fit into one 63-bit integer.
        max_tokens = min(max_tokens, isqrt((1 << 61) // vocab_size))
        ids = np.asarray(ids[max(0, len(ids) - max_tokens) :])
        _check_ids(ids, vocab_size)
        ids = ids.astype(np.min_scalar_type(vocab_size - 1))
        order = min(order, WORD_ORDER) if vocab_size > LARGE_VOCABULARY else order
        self.vocab_size = vocab_size
        self.levels = _count_levels(ids, vocab_size, order, max_grams)
        self.order = max(1, len(self.levels))

    def start(self) -> np.ndarray:
        """Where the model stands before the first token of a text, (order,) int64."""
        return np.array([0] + [UNSEEN] * (self.order - 1), dtype=np.int64)

    def read(self, history: np.ndarray) -> np.ndarray:
        """Where the model stands after some tokens, (T,), of which the last order - 1 matter."""
        history = np.asarray(history)[max(0, len(history) - self.order + 1) :]
        return self.score(history, self.start()).contexts

    def score(self, ids: np.ndarray, contexts: np.ndarray) -> Scored:
        """Score a text; piece by piece is the same as at once.

        Args:
            ids: Tokens, (T,).
            contexts: Where the model stands before the first of them, (order,).

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        probs, depths = np.empty(len(ids)), np.empty(len(ids), np.int64)
        for begin in range(0, len(ids), CHUNK):
            piece = np.asarray(ids[begin : begin + CHUNK]).astype(np.int64)
            _check_ids(piece, self.vocab_size)
            scored = self._score(piece, contexts)
            probs[begin : begin + CHUNK], depths[begin : begin + CHUNK], contexts = scored
        return Scored(probs, depths, contexts)

    def _score(self, ids: np.ndarray, contexts: np.ndarray) -> Scored:
        probs = np.full(len(ids), 1 / self.vocab_size)
        depths = np.zeros(len(ids), np.int64)
        after = self.start()
        ranks = np.zeros(len(ids), np.int64)  # of each token's context
        for length, level in enumerate(self.levels):
            places, found, seen = _look_up(level, ranks, ids, self.vocab_size)
            gains = np.where(found, level.gains[places], 0)
            # A context never seen leaves all the mass to the shorter ones.
            probs = np.where(seen, gains + level.backoffs[ranks] * probs, probs)
            depths[seen] = length
            if length + 1 < self.order:
                # The n-gram that ends at t-1 is the context of t, one level up.
                places = np.where(found, places, UNSEEN)
                ranks = np.concatenate([contexts[length + 1 : length + 2], places[:-1]])
                after[length + 1] = places[-1]
        return Scored(probs, depths, after)

    def advance(self, contexts: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Read one more token in each of B texts.

        Args:
            contexts: Where they stand, (B, order).
            ids: (B,).

        Returns:
            Where they stand then, (B, order).
        """
        after = np.tile(self.start(), (len(ids), 1))
        for length, level in enumerate(self.levels[:-1]):
            places, found, _ = _look_up(level, contexts[:, length], ids, self.vocab_size)
            after[:, length + 1] = np.where(found, places, UNSEEN)
        return after

    def distribution(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What may come next in each of B texts.

        Args:
            contexts: Where they stand, (B, order).

        Returns:
            The probability of every token, (B, V) float64, and the length of the longest context
            known, (B,) int64.
        """
        probs = np.full((len(contexts), self.vocab_size), 1 / self.vocab_size)
        depths = np.zeros(len(contexts), np.int64)
        for length, level in enumerate(self.levels):
            for row in np.flatnonzero(contexts[:, length] != UNSEEN):
                rank = contexts[row, length]
                first = rank * self.vocab_size
                begin, end = np.searchsorted(level.codes, [first, first + self.vocab_size])
                probs[row] *= level.backoffs[rank]
                probs[row, level.codes[begin:end] - first] += level.gains[begin:end]
                depths[row] = length
        return probs, depths

    def nll(self, ids: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Negative log-likelihood of each token of a text, (T,) float64, in nats.

        Args:
            ids: (T,).
            history: Tokens before the first one, (K,); the last ``order - 1`` matter. At the start
                of a text this is the start id alone.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        return np.asarray(-np.log(self.score(ids, self.read(history)).probs))

    def to_arrays(self) -> Arrays:
        """The model as plain arrays, a third of their size in memory, for a file."""
        kind = np.min_scalar_type(self.vocab_size - 1)
        shape = [self.vocab_size, len(self.levels)]
        arrays: Arrays = {"shape": np.array(shape, np.int64)}
        for length, level in enumerate(self.levels):
            counts = np.bincount(level.codes // self.vocab_size, minlength=len(level.backoffs))
            arrays[f"tokens.{length}"] = (level.codes % self.vocab_size).astype(kind)
            arrays[f"children.{length}"] = counts.astype(np.int32)  # n-grams of each context
            arrays[f"gains.{length}"] = level.gains
            arrays[f"backoffs.{length}"] = level.backoffs
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], where: str) -> Self:
        """The model that ``to_arrays`` wrote.

        Args:
            arrays: As read.
            where: Names the file in an error.

        Raises:
            CheckpointError: If the arrays are not those of such a model.
        """
        model = cls.__new__(cls)
        levels: list[Level] = []
        try:
            vocab_size, order = map(int, arrays["shape"])
            below = 1
            if len(arrays) != 1 + 4 * order:
                raise ValueError(f"{len(arrays)} arrays for order {order}")
            for length in range(order):
                children = arrays[f"children.{length}"].astype(np.int64)
                if children.sum() != len(arrays[f"tokens.{length}"]):
                    raise ValueError("n-grams without a context")
                ranks = np.repeat(np.arange(len(children)), children)
                codes = ranks * vocab_size + arrays[f"tokens.{length}"]
                level = Level(codes, arrays[f"gains.{length}"], arrays[f"backoffs.{length}"])
                _check_level(level, below, vocab_size)
                levels.append(level)
                below = len(codes)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, MemoryError) as err:
            raise CheckpointError(
                f"{where}: not the n-gram model of a seqtool model ({err}); copy the whole "
                "directory again, or train again"
            ) from err
        model.vocab_size = vocab_size
        model.order = max(1, len(levels))
        model.levels = levels
        return model


def _look_up(
    level: Level, ranks: np.ndarray, ids: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find n-grams: their places, whether they are there, and whether their context is known."""
    codes = ranks * vocab_size + ids
    places = np.minimum(np.searchsorted(level.codes, codes), len(level.codes) - 1)
    seen = ranks != UNSEEN
    return places, seen & (level.codes[places] == codes), seen


def _check_level(level: Level, num_contexts: int, vocab_size: int) -> None:
    """See that arrays from a file fit together, so that no lookup can leave them."""
    if len(level.backoffs) != num_contexts or len(level.gains) != len(level.codes):
        raise ValueError(f"{len(level.backoffs)} contexts where {num_contexts} were expected")
    if not len(level.codes) or (np.diff(level.codes) <= 0).any():
        raise ValueError("n-grams out of order")
    if level.codes[-1] >= num_contexts * vocab_size:
        raise ValueError("tokens outside the vocabulary")
    for values in (level.gains, level.backoffs):
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("probabilities outside 0 to 1")


def _check_ids(ids: np.ndarray, vocab_size: int) -> None:
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"ids must be from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}")


class _Grams(NamedTuple):
    """The different n-grams of a text, in order of their codes."""

    codes: np.ndarray  # (G,) int64, sorted
    ranks: np.ndarray  # (n,) int32: which of them starts at each token of the text
    places: np.ndarray  # (G,) int32: a token at which it starts
    counts: np.ndarray  # (G,) int64


def _find_grams(codes: np.ndarray) -> _Grams:
    """What np.unique gives with all its options, several times faster and in less memory.

    NumPy sorts values with vector instructions but not indices, so each code is sorted together
    with its place in one integer. Places and ranks are below 2**31, see ``NGram``.

    Args:
        codes: Of the n-grams of the text, (n,) int64; overwritten.
    """
    bits = len(codes).bit_length()
    codes <<= bits
    codes |= np.arange(len(codes))
    codes.sort()
    places = (codes & ((1 << bits) - 1)).astype(np.int32)
    codes >>= bits
    new = np.ones(len(codes), bool)
    np.not_equal(codes[1:], codes[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    ranks = np.empty(len(codes), np.int32)
    ranks[places] = np.cumsum(new, dtype=np.int32) - 1
    counts = np.diff(starts, append=len(codes))
    return _Grams(codes[starts], ranks, places[starts], counts)


def _count_levels(ids: np.ndarray, vocab_size: int, order: int, max_grams: int) -> list[Level]:
    """Build the levels 1 to ``order``; fewer if the text is short or has too many n-grams."""
    levels: list[Level] = []
    num_contexts = 1
    grams = _find_grams(ids.astype(np.int64))
    total = len(grams.codes)
    for length in range(1, min(order, len(ids)) + 1):
        contexts = grams.codes // vocab_size
        if length == order:
            levels.append(_smooth(grams.codes, grams.counts, contexts, num_contexts))
            break
        longer = _find_grams(grams.ranks[:-1].astype(np.int64) * vocab_size + ids[length:])
        total += len(longer.codes)
        if total > max_grams:  # this length is the longest; its own counts are the raw ones
            levels.append(_smooth(grams.codes, grams.counts, contexts, num_contexts))
            break
        # All but the longest n-grams count the different tokens that precede them (Kneser-Ney):
        # the n-gram at place t + 1 ends the longer one at place t.
        counts = np.bincount(grams.ranks[1:][longer.places], minlength=len(grams.codes))
        counts[counts == 0] = 1  # found only at the very start of the text
        levels.append(_smooth(grams.codes, counts, contexts, num_contexts))
        grams, num_contexts = longer, len(grams.codes)
    return levels


def _smooth(
    grams: np.ndarray, counts: np.ndarray, contexts: np.ndarray, num_contexts: int
) -> Level:
    """Turn counts into discounted probabilities and the mass that the discounts set free."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, minlength=num_contexts)
    freed = np.bincount(contexts, discounts, minlength=num_contexts)
    # The last n-gram of a text may have no continuation at all: everything is left to shorter ones.
    backoffs = np.divide(freed, totals, out=np.ones(num_contexts), where=totals > 0)
    gains = (counts - discounts) / totals[contexts]
    return Level(grams, gains.astype(np.float32), backoffs.astype(np.float32))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Discounts for counts 0, 1, 2 and 3 or more; (4,), estimated as by Chen & Goodman."""
    having = np.bincount(np.minimum(counts, 5), minlength=6)[1:5]  # n-grams counted 1 to 4 times
    if having.all():
        scale = having[0] / (having[0] + 2 * having[1])
        ratios = [next_ / this for this, next_ in pairwise(having)]
        estimate = [i - (i + 1) * scale * ratio for i, ratio in enumerate(ratios, start=1)]
        if all(0 < discount <= i for i, discount in enumerate(estimate, start=1)):
            return np.array([0, *estimate])
    return np.array([0, 0.5, 1, 1.5])  # too few n-grams to estimate them
