"""Lines that come through a pipe or from a file, in batches that keep nobody waiting.

A thread reads ahead, so that lines that come fast are answered many at once and a line that comes
alone is answered at once.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from seqtool.errors import ConfigError, DataError
from seqtool.text import open_text, standard_input, too_long

ItemT = TypeVar("ItemT")

WAIT_SECONDS = 0.05  # that an item waits for others to come
AHEAD = 4  # batches read ahead
BLOCK_BYTES = 1 << 16  # read at once, or as many as there are


def given_text(source: str) -> str | None:
    """The text itself, if that was given in place of a file."""
    if source == "-":
        return None
    with suppress(OSError, ValueError):  # a long text is no file name
        if Path(source).exists():
            return None
    if not any(map(str.isspace, source)) and ("/" in source or Path(source).suffix):
        raise DataError(f"{source}: no such file; a text of one word is given by way of a pipe")
    return source


def read_lines(source: str, encoding: str, longest: int) -> Iterator[str]:
    """The lines of a file, or of standard input for "-", each with its line end, as they come.

    Raises:
        ConfigError: If the encoding is unknown.
        DataError: While iterating, if a line cannot be read or has more than ``longest``
            characters; those before it have been given.
    """
    if source != "-":
        return open_text(source, encoding=encoding).lines(longest)
    return _decoded(standard_input(), encoding, longest)


def _decoded(stream: BinaryIO, encoding: str, longest: int) -> Iterator[str]:
    most = 4 * longest  # bytes of so many characters
    for number, line in enumerate(_byte_lines(stream, most), 1):
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError as err:
            if len(line) > most:  # cut inside a character
                raise too_long(f"standard input:{number}", longest) from err
            raise DataError(
                f"standard input:{number}: not {encoding} (byte {err.object[err.start]:#04x}); "
                "name its encoding with --encoding"
            ) from err
        except LookupError as err:
            raise ConfigError(f"--encoding {encoding}: not an encoding known here") from err
        if len(text) > longest:
            raise too_long(f"standard input:{number}", longest)
        yield text


def _byte_lines(stream: BinaryIO, most: int) -> Iterator[bytes]:
    """Lines with their ends as they come; of one with more bytes than ``most`` its beginning."""
    # A thread that waits inside a buffered reader holds its lock, and Python could not end.
    raw = getattr(stream, "raw", stream)
    rest = bytearray()
    while block := raw.read(BLOCK_BYTES):
        *whole, last = block.split(b"\n")
        for part in whole:
            rest += part
            yield bytes(rest) + b"\n"
            rest.clear()
        rest += last
        if len(rest) > most:
            break
    if rest:
        yield bytes(rest)


def batches(items: Iterable[ItemT], size: int, *, live: bool) -> Iterator[list[ItemT]]:
    """Items in batches: full ones, but live ones at the latest 50 ms after the first has come.

    Raises:
        Exception: What reading the items raised, after those before it.
    """
    if live:
        ahead = _Ahead(items, AHEAD * size)
        while batch := ahead.take(size):
            yield batch
        return
    batch = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except DataError:
        if batch:  # those before the fault are answered
            yield batch
        raise
    if batch:
        yield batch


class _Ahead(Generic[ItemT]):
    """Items that a thread reads ahead."""

    def __init__(self, items: Iterable[ItemT], most: int) -> None:
        """Begin to read; the thread waits when ``most`` items are there."""
        self._most = most
        self._items: list[ItemT] = []
        self._wanted = 1  # items that the taker waits for
        self._since = 0.0  # when the first of them came
        self._ended = False
        self._why: Exception | None = None  # the end, if it was not a good one
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(iter(items),), daemon=True).start()

    def _read(self, items: Iterator[ItemT]) -> None:
        why = None
        try:
            for item in items:
                with self._changed:
                    if not self._items:
                        self._since = time.monotonic()
                    self._items.append(item)
                    if len(self._items) == self._wanted:
                        self._changed.notify()
                    while len(self._items) >= self._most:
                        self._changed.wait()
        except Exception as err:  # told where the items are used
            why = err
        with self._changed:
            self._ended, self._why = True, why
            self._changed.notify()

    def take(self, size: int) -> list[ItemT]:
        """Up to ``size`` items, when so many are there or the first for 50 ms; none at the end.

        Raises:
            Exception: What reading raised, once all items before it are taken.
        """
        with self._changed:
            self._await(1, None)
            if self._items:
                self._await(size, self._since + WAIT_SECONDS)
            elif self._why is not None:
                raise self._why
            taken, self._items = self._items[:size], self._items[size:]
            self._since = time.monotonic()
            self._changed.notify()
            return taken

    def _await(self, count: int, until: float | None) -> None:
        """Wait for so many items, the end of all, or a time."""
        self._wanted = count
        while len(self._items) < count and not self._ended:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            self._changed.wait(left)
