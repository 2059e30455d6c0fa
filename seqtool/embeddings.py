"""Vectors of words from elsewhere: the text files of GloVe, word2vec and fastText.

A line is a word and its numbers, with spaces (or tabs) between; word2vec and fastText put a line
with two numbers before, how many words there are and how many numbers each has. Files are read line
by line and may be compressed; only what is wanted is kept.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.errors import DataError
from seqtool.text import TextFiles, open_text

Floats = npt.NDArray[np.float32]

LONGEST = 1 << 20  # characters of a line: 65,000 numbers
BINARY = re.compile(r"[\0\ud800-\udfff]")  # surrogates stand for bytes that are no text


@dataclass(frozen=True)
class Vectors:
    """Some of the words of a file, with their vectors."""

    name: str  # what the user called the file
    rows: dict[str, int]  # words, in the order of the file, and the row of each
    values: Floats  # (n, D)
    total: int  # words in the file
    announced: int | None  # words that its first line promises
    sha256: str

    @property
    def width(self) -> int:
        """Numbers of a vector, D."""
        return int(self.values.shape[1])

    @property
    def deviation(self) -> float:
        """How far a number is from their mean, as a rule: for words that have no vector here."""
        return float(self.values.std()) if len(self.values) else 0.0

    def rows_of(self, words: Collection[str]) -> tuple[npt.NDArray[np.int64], Floats]:
        """Which of some words have a vector here: their places among them (k,), and (k, D)."""
        found = [(place, self.rows[word]) for place, word in enumerate(words) if word in self.rows]
        pairs = np.array(found, np.int64).reshape(-1, 2)
        return pairs[:, 0], self.values[pairs[:, 1]]


def read_vectors(
    source: str, wanted: Collection[str], *, others: int = 0, lower: bool = False
) -> Vectors:
    """Read the vectors of some words.

    Args:
        source: A file, plain or compressed (.gz, .xz, .bz2, .zst).
        wanted: Words to keep.
        others: How many more to keep: the first ones, which in such files are the most frequent.
        lower: Whether case is ignored; a word that is written small itself comes first.

    Raises:
        DataError: If there is no such file, or a line is not a word and its numbers; of words that
            are not kept only the number of numbers is looked at. One line that names the line.
    """
    files = open_text(source, encoding="utf-8", binary_ok=True)
    reader = _Reader(files.name, frozenset(wanted), others, lower)
    for number, line in enumerate(files.lines(LONGEST), 1):
        reader.read(number, line.rstrip("\r\n \t"))
    return reader.finish(files)


class _Reader:
    """Takes a file's lines one by one."""

    def __init__(self, name: str, wanted: frozenset[str], others: int, lower: bool) -> None:
        self.name, self.wanted, self.others, self.lower = name, wanted, others, lower
        self.width = 0  # numbers of a vector; 0 until it is known
        self.announced: int | None = None
        self.separator = " "
        self.total = 0
        self.rows: dict[str, int] = {}
        self.exact: set[str] = set()  # words that stand in the file just so
        self.values: list[Floats] = []

    def read(self, number: int, line: str) -> None:
        """Keep a line's vector, or pass it over."""
        if number == 1 and self._is_header(line):
            return
        if not self.width:
            self.separator = "\t" if "\t" in line else " "
            self.width = line.count(self.separator)
        if BINARY.search(line):
            raise self._wrong(number, "bytes that are no text", "save the vectors as text")
        count = line.count(self.separator)
        if not line or count < max(1, self.width):
            shown = f"{max(count, 0)} numbers" if line else "nothing"
            raise self._wrong(number, shown, "mend or remove the line")
        self.total += 1
        # A word may hold the separator itself: what is not among the last D is the word.
        if count == self.width:
            word = line[: line.index(self.separator)]
        else:
            word = line.rsplit(self.separator, self.width)[0]
            if _is_number(word.rsplit(self.separator, 1)[1]):
                raise self._wrong(number, f"{count} numbers", "mend or remove the line")
        key = word.lower() if self.lower else word
        if key in self.wanted:
            self._keep(number, key, word, line)
        elif key in self.rows or self.others:
            self.others -= key not in self.rows
            self._keep(number, key, word, line)

    def _is_header(self, line: str) -> bool:
        fields = line.split()
        if len(fields) != 2 or not all(field.isdecimal() for field in fields):
            return False
        self.announced, self.width = int(fields[0]), int(fields[1])
        if not self.width:
            raise self._wrong(1, "0 numbers for each word", "name another file")
        return True

    def _keep(self, number: int, key: str, word: str, line: str) -> None:
        if key in self.rows and (word != key or key in self.exact):
            return
        fields = line.rsplit(self.separator, self.width)[1:]
        try:
            vector = np.array(fields, np.float32)
        except ValueError:
            wrong = next(field for field in fields if not _is_number(field))
            raise self._wrong(number, f"{wrong[:40]!r}", "mend or remove the line") from None
        if not np.isfinite(vector).all():
            raise self._wrong(number, "a number that is not finite", "mend or remove the line")
        if word == key:
            self.exact.add(key)
        if key in self.rows:
            self.values[self.rows[key]] = vector
        else:
            self.rows[key] = len(self.values)
            self.values.append(vector)

    def _wrong(self, number: int, found: str, advice: str) -> DataError:
        needed = f"{self.width} numbers" if self.width else "its numbers"
        return DataError(
            f"{self.name}:{number}: {found}, but needed is a word and {needed} "
            f"(GloVe, word2vec or fastText, as text); {advice}"
        )

    def finish(self, files: TextFiles) -> Vectors:
        """What was kept."""
        if not self.total:
            raise DataError(f"{self.name}: no vectors in this file")
        values = np.array(self.values, np.float32).reshape(-1, self.width)
        return Vectors(self.name, self.rows, values, self.total, self.announced, files.sha256())


def _is_number(field: Any) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
