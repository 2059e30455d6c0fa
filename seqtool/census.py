"""What is in a text: its characters and lines, counted; and parts of it, cut by characters."""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.text import TextFiles
from seqtool.tokenizer import code_points

RARE = 5  # a character seen fewer times is hardly learned
CODE_POINTS = 0x110000


@dataclass(frozen=True)
class TextStats:
    """What is in a text, known before anything is learned from it."""

    documents: int  # files with any text in them
    bytes: int  # as UTF-8
    characters: int  # Unicode code points
    lines: int  # a last line without a line end counts
    character_counts: dict[str, int]  # in code point order

    @cached_property
    def rare(self) -> dict[str, int]:
        """Characters seen fewer than five times, with their counts."""
        return {char: count for char, count in self.character_counts.items() if count < RARE}

    @cached_property
    def strange(self) -> dict[str, int]:
        """Characters that a text seldom holds on purpose, with their counts.

        Control, invisible format (zero width, byte order mark), private use, unassigned and
        surrogate code points, exotic line separators, no-break space and U+FFFD.
        """
        counts = self.character_counts
        return {char: counts[char] for char in counts if _is_strange(char)}


@dataclass
class Tally:
    """How much text has gone by."""

    characters: int = 0
    bytes: int = 0  # as UTF-8


class Census:
    """Counts a text chunk by chunk."""

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        """Begin, or go on from what ``as_dict`` gave."""
        self._counts = np.zeros(CODE_POINTS, dtype=np.int64)
        self._documents = self._open_lines = 0
        self._last = "\n"  # character of the text so far
        if saved is not None:
            self._counts[saved["codes"]] = saved["counts"]
            self._documents, self._open_lines = saved["documents"], saved["open_lines"]
            self._last = saved["last"]

    @property
    def characters(self) -> int:
        """Code points counted so far."""
        return int(self._counts.sum())

    def add(
        self, codes: list[int] | slice, counts: npt.NDArray[Any], *, last: str, begins: bool
    ) -> None:
        """Add a chunk of a text.

        Args:
            codes: Code points, each once, (C,).
            counts: How often each is in the chunk, (C,).
            last: The chunk's last character.
            begins: Whether a document begins with the chunk.
        """
        if begins:
            self._documents += 1
            self._open_lines += self._last != "\n"
        self._counts[codes] += counts
        self._last = last

    def stats(self) -> TextStats:
        """What has been counted."""
        present = np.flatnonzero(self._counts)
        return TextStats(
            documents=self._documents,
            bytes=int(self._counts[present] @ utf8_lengths(present)),
            characters=self.characters,
            lines=int(self._counts[ord("\n")]) + self._open_lines + (self._last != "\n"),
            character_counts={chr(code): int(self._counts[code]) for code in present},
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        codes = np.flatnonzero(self._counts)
        return {
            "codes": codes.tolist(),
            "counts": self._counts[codes].tolist(),
            "documents": self._documents,
            "open_lines": self._open_lines,
            "last": self._last,
        }


def text_stats(files: TextFiles) -> TextStats:
    """Count a text in one pass.

    Raises:
        DataError: If a file cannot be read or is not text.
    """
    census = Census()
    for document in files.documents():
        begins = True
        for chunk in document:
            counts = np.bincount(code_points(chunk))
            census.add(slice(len(counts)), counts, last=chunk[-1], begins=begins)
            begins = False
    return census.stats()


def split_at(characters: int, valid_fraction: float) -> int:
    """How many characters train when the end of a text is held out."""
    return int(characters * (1 - valid_fraction))


def clip_documents(
    documents: Iterator[Iterator[str]], start: int, stop: int
) -> Iterator[Iterator[str]]:
    """The documents without what lies outside characters start to stop of their concatenation."""
    position = 0

    def clipped(document: Iterator[str]) -> Iterator[str]:
        nonlocal position
        for chunk in document:
            piece = chunk[max(0, start - position) : max(0, stop - position)]
            position += len(chunk)
            if piece:
                yield piece
            if position >= stop:
                return

    for document in documents:
        if position >= stop:
            return
        yield clipped(document)


def counted(document: Iterator[str], tally: Tally) -> Iterator[str]:
    """The chunks of a document, which ``tally`` grows by as they go by."""
    for chunk in document:
        tally.characters += len(chunk)
        tally.bytes += utf8_length(chunk)
        yield chunk


def utf8_length(text: str) -> int:
    """Bytes of a text in UTF-8, surrogate escapes undone."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # surrogate escapes
        return int(utf8_lengths(code_points(text)).sum())


def utf8_lengths(codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Bytes of each code point in UTF-8; a surrogate escape stands for the one byte it hides."""
    lengths = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    return np.where((codes >= 0xDC80) & (codes <= 0xDCFF), 1, lengths)


def _is_strange(character: str) -> bool:
    if character in "\n\t\r":
        return False
    category = unicodedata.category(character)
    return category in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") or character in "\u00a0\ufffd"
