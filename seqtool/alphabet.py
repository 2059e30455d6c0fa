"""The characters of a text as numbers, small ones, in the order in which they are first met."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.census import CODE_POINTS
from seqtool.tokenizer import code_points

Array = npt.NDArray[Any]

WORKERS = 2  # threads that turn characters into numbers, beside one that reads and one that hashes


class Alphabet:
    """Numbers characters from 1 on, in the order in which chunks bring them."""

    def __init__(self, codes: list[int]) -> None:
        """Begin with the code points that have been numbered before, in their order."""
        self.codes: list[int] = []
        self.table = np.zeros(CODE_POINTS, np.uint8)
        self._add(codes)

    def count(self, chunk: str) -> tuple[Array, Array]:
        """The numbers of a chunk's characters, 0 where one has none yet, and how often each is."""
        numbers = np.take(self.table, code_points(chunk))
        return numbers, np.bincount(numbers)

    def learn(self, chunk: str) -> None:
        """Number the characters of a chunk that have no number yet."""
        found = np.unique(code_points(chunk))
        self._add(found[self.table[found] == 0].tolist())

    def _add(self, codes: list[int]) -> None:
        first = len(self.codes) + 1
        self.codes += codes
        kind = np.min_scalar_type(len(self.codes))
        # A new table when numbers outgrow theirs: threads may still look into the old one.
        table = self.table if kind == self.table.dtype else self.table.astype(kind)
        table[codes] = np.arange(first, first + len(codes))
        self.table = table


def numbered(
    chunks: Iterator[tuple[bool, str]], alphabet: Alphabet
) -> Iterator[tuple[bool, str, Array, Array]]:
    """Chunks in their order with the numbers of their characters and the counts of all numbers.

    Threads work ahead; a chunk that brought something new is numbered again in its turn.
    """
    ahead: deque[tuple[bool, str, Future[tuple[Array, Array]]]] = deque()

    def first() -> tuple[bool, str, Array, Array]:
        begins, chunk, future = ahead.popleft()
        numbers, counts = future.result()
        if counts[0]:
            alphabet.learn(chunk)
            numbers, counts = alphabet.count(chunk)
        # Characters that are new since then are none of this chunk's.
        return begins, chunk, numbers, _padded(counts, len(alphabet.codes) + 1)

    with ThreadPoolExecutor(WORKERS) as pool:
        for begins, chunk in chunks:
            ahead.append((begins, chunk, pool.submit(alphabet.count, chunk)))
            if len(ahead) > 2 * WORKERS:
                yield first()
        while ahead:
            yield first()


def _padded(counts: Array, size: int) -> Array:
    return np.concatenate([counts, np.zeros(size - len(counts), counts.dtype)])
