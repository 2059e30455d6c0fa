"""How much of a text is copied: the longest runs it shares with the training text, exactly.

A run is a sequence of consecutive tokens that also stands somewhere in the training ids. Works on
ids only, token by token as a text is written, and can also say which next token would make a run
too long. How ids become text, and what is done about a copy, is left to others.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

START_ID = 0  # the boundary between documents in every vocabulary; not text, so it matches nothing

_NOTHING = np.empty(0, dtype=np.int64)


class Run(NamedTuple):
    """A stretch of a sample, ``sample[end - length : end]``, in tokens.

    It begins before the sample if ``length`` is more than ``end``.
    """

    length: int
    end: int


class CopyMeter:
    """The training text, searchable for the end of whatever is being written.

    The index is one sorted array of 64-bit keys, 8 bytes per training token, built at first use
    (0.1 s for a million). A key holds the last few tokens up to a position, newest in the highest
    bits, and below them the position itself. So all places that end in the same 1, 2, ... tokens
    are neighbours: a suffix array (Manber & Myers 1993) of the reversed text, sorted as deep as 64
    bits reach. Longer runs are found by comparing at the few places left.
    """

    def __init__(self, corpus_ids: np.ndarray) -> None:
        """Keep the training ids (n,), uint8, uint16 or uint32, n below 2**32; may be a memmap."""
        self.corpus_ids = np.asarray(corpus_ids)
        assert self.corpus_ids.ndim == 1, "ids of one text"
        assert self.corpus_ids.dtype in (np.uint8, np.uint16, np.uint32), "keys hold 32-bit ids"
        assert len(self.corpus_ids) < 2**32, "keys hold 32-bit positions"

    def start(self, before: Sequence[int] = ()) -> "Track":
        """A new, empty sample to measure.

        Args:
            before: The ids that stand before it, such as a prompt. A run may begin there, but only
                runs that end in the sample count.
        """
        return Track(self, before)

    @cached_property
    def _max_id(self) -> int:
        return int(self.corpus_ids.max(initial=START_ID))

    @cached_property
    def _token_bits(self) -> int:
        return max(1, self._max_id.bit_length())

    @cached_property
    def _position_bits(self) -> int:
        return max(1, len(self.corpus_ids).bit_length())

    @cached_property
    def depth(self) -> int:
        """How many tokens of context the index is sorted by, at least 1."""
        return (64 - self._position_bits) // self._token_bits

    @cached_property
    def _keys(self) -> np.ndarray:
        ids, num = self.corpus_ids, len(self.corpus_ids)
        keys = np.zeros(num, dtype=np.uint64)
        for back in range(self.depth):  # newest first, so that it is shifted highest
            keys <<= np.uint64(self._token_bits)
            # What lies before the first token stays 0, a start id in effect.
            keys[back:] |= ids[: max(num - back, 0)]
        keys <<= np.uint64(self._position_bits)
        keys |= np.arange(num, dtype=np.uint32)
        keys.sort()
        return keys

    def _shift(self, back: int) -> int:
        """Where in a key the token ``back`` places before the newest lies, in bits from below."""
        return (self.depth - 1 - back) * self._token_bits + self._position_bits

    def knows(self, token: int) -> bool:
        """Whether the token can match at all: the start id and ids above all of ours cannot."""
        return START_ID < token <= self._max_id

    def search(self, sample: Sequence[int], most: int) -> tuple[int, np.ndarray]:
        """The longest end of a sample, of at most ``most`` tokens, that the corpus holds.

        Args:
            sample: Ids; the last ``most`` of them must be ones that ``knows`` accepts.
            most: At least 1, at most the length of the sample.

        Returns:
            Its length in tokens, and the keys of all places where it ends (see ``places``).
        """
        # The least and greatest key of a place that ends in 1, 2, ... tokens of the sample.
        least, greatest = [], []
        code = 0
        for back in range(min(most, self.depth)):
            shift = self._shift(back)
            code |= sample[-1 - back] << shift
            least.append(code)
            greatest.append(code | ((1 << shift) - 1))
        left = np.searchsorted(self._keys, np.array(least, dtype=np.uint64), side="left")
        right = np.searchsorted(self._keys, np.array(greatest, dtype=np.uint64), side="right")
        length = int(np.count_nonzero(left < right))  # each range lies within the one before
        if length == 0:
            return 0, self._keys[:0]
        found = self._keys[left[length - 1] : right[length - 1]]
        if length < self.depth:
            return length, found
        return self._search_deeper(sample, most, found)

    def _search_deeper(
        self, sample: Sequence[int], most: int, found: np.ndarray
    ) -> tuple[int, np.ndarray]:
        """Go on from the places that match to the depth of the index, one token at a time."""
        for back in range(self.depth, most):
            before = self.places(found) - back
            same = (self.corpus_ids[before] == sample[-1 - back]) & (before >= 0)
            if not same.any():
                return back, found
            found = found[same]
        return most, found

    def places(self, found: np.ndarray) -> np.ndarray:
        """Positions (int64) in the corpus of the last tokens of matches, from their keys."""
        mask = np.uint64((1 << self._position_bits) - 1)
        return np.asarray(found & mask).view(np.int64)

    def followers(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions right after matches and the ids there; a match at the very end has none."""
        after = self.places(found) + 1
        after = after[after < len(self.corpus_ids)]
        return after, self.corpus_ids[after]


class Track:
    """One sample, and where its current end stands in the training text.

    Kept between tokens: the length of the longest end of the sample that the corpus holds, and all
    places where the corpus holds it. A new token either extends it at some of these places, or the
    next shorter ends are looked up. That costs some tens of microseconds a token in a corpus
    of a million, more only where one long run stands at very many places (a rule of dashes).
    """

    def __init__(self, meter: CopyMeter, before: Sequence[int]) -> None:
        self._meter = meter
        self._ids: list[int] = []  # with those before the sample
        self._lengths: list[int] = []  # after each token of the sample, what push gave
        self._longest = Run(0, 0)
        self._length = 0
        self._found = np.empty(0, dtype=np.uint64)  # keys or plain positions: see places
        for token in before:
            self._ids.append(int(token))
            self._length = self._advance(int(token))

    def push(self, token: int) -> int:
        """Add a token to the sample.

        Returns:
            The length of the longest end of the sample so far that stands in the training text.
        """
        token = int(token)
        self._ids.append(token)
        self._length = self._advance(token)
        self._lengths.append(self._length)
        if self._length > self._longest.length:
            self._longest = Run(self._length, len(self._lengths))
        return self._length

    def _advance(self, token: int) -> int:
        meter = self._meter
        if not meter.knows(token):
            return 0
        most = self._length + 1  # an end one longer would have had a longer one before it
        if self._length >= meter.depth:  # few places: look at what follows there
            after, ids = meter.followers(self._found)
            found = after[ids == token]
            if len(found) > 0:
                self._found = found.view(np.uint64)
                return most
            most -= 1
        length, self._found = meter.search(self._ids, most)
        return length

    @property
    def tail(self) -> list[int]:
        """The longest end of the sample, and of what is before it, that the training text holds.

        A new track with these ids before it goes on as this one would.
        """
        return self._ids[len(self._ids) - self._length :]

    @property
    def longest(self) -> Run:
        """The longest run shared with the training text, the first of them if there are several."""
        return self._longest

    def share(self, min_run: int) -> float:
        """The fraction of the sample's tokens that lie in a shared run of at least ``min_run``."""
        assert min_run >= 1, "every token lies in a run of nothing"
        if not self._lengths:
            return 0.0
        lengths = np.array(self._lengths)
        ends = np.flatnonzero(lengths >= min_run)
        opened = np.zeros(len(lengths) + 1, dtype=np.int64)  # runs that begin less those that ended
        np.add.at(opened, np.maximum(ends + 1 - lengths[ends], 0), 1)
        np.add.at(opened, ends + 1, -1)
        return float(np.count_nonzero(np.cumsum(opened[:-1])) / len(lengths))

    def extensions_beyond(self, limit: int) -> np.ndarray:
        """The ids that as the next token would end a shared run of more than ``limit`` tokens.

        Args:
            limit: Longest run allowed, in tokens, at least 1.

        Returns:
            Ids in rising order, (N,) int64, never the start id; mostly none.
        """
        assert limit >= 1, "a limit of 0 would forbid the whole training vocabulary"
        if self._length < limit:
            return _NOTHING
        found = self._found
        if self._length > limit:  # shorter than the run at hand, so at more places
            _, found = self._meter.search(self._ids, limit)
        _, ids = self._meter.followers(found)
        ids = np.unique(ids).astype(np.int64)
        return np.asarray(ids[ids != START_ID])
