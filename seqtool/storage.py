"""Many texts in bounded memory: a list while they are few, a memory-mapped Arrow file beyond that.

The file loses its name once it is written, so that hardly any exit can leave it behind.
"""

import mmap
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from seqtool.memory import drop_pages

if TYPE_CHECKING:
    from datasets.arrow_writer import ArrowWriter  # type: ignore[import-untyped]

Text = str | tuple[str, ...]  # a tuple for a pair of texts

MEMORY_CHARS = 1 << 26  # texts with more characters in all are mapped from a file
_BATCH = 1000  # rows written to the file at once


class TextStore:
    """Takes texts one by one and gives them back as one sequence."""

    def __init__(self) -> None:
        self._kept: list[Text] = []
        self._chars = 0  # in memory
        self._rows = 0
        self._directory = ""  # of the file, once there is one
        self._writer: ArrowWriter | None = None

    def append(self, text: Text) -> None:
        """Put one more text at the end; all must be strings, or tuples of one length."""
        self._kept.append(text)
        self._rows += 1
        self._chars += len(text) if isinstance(text, str) else sum(map(len, text))
        full = self._chars > MEMORY_CHARS
        if full if self._writer is None else full or len(self._kept) >= _BATCH:
            self._spill()

    def finish(self) -> Sequence[Text]:
        """All texts, in order."""
        if self._writer is None:
            return self._kept
        self._spill()
        self._writer.finalize()
        with open(Path(self._directory, "texts"), "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        shutil.rmtree(self._directory)  # the map keeps the content
        return _Mapped(mapping, self._rows)

    def _spill(self) -> None:
        if not self._kept:
            return
        first = self._kept[0]
        width = 0 if isinstance(first, str) else len(first)
        if self._writer is None:
            from datasets import Features, Value  # type: ignore[import-untyped]
            from datasets.arrow_writer import ArrowWriter

            self._directory = tempfile.mkdtemp(prefix="seqtool-")
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
            # Bytes, because surrogate escapes are not valid in an Arrow string.
            kinds = {name: Value("large_binary") for name in _names(width)}
            self._writer = ArrowWriter(
                path=str(Path(self._directory, "texts")), features=Features(kinds)
            )
        for start in range(0, len(self._kept), _BATCH):
            some = self._kept[start : start + _BATCH]
            columns = zip(*some, strict=True) if width else [some]
            batch = {
                name: [str(text).encode("utf-8", "surrogateescape") for text in column]
                for name, column in zip(_names(width), columns, strict=True)
            }
            self._writer.write_batch(batch)
        self._kept, self._chars = [], 0


class _Mapped(Sequence[Text]):
    """Texts in an Arrow table on disk, of which little stays in memory once it was read."""

    def __init__(self, mapping: mmap.mmap, rows: int) -> None:
        import pyarrow  # type: ignore[import-untyped]

        self._mapping = mapping
        self._read = 0  # rows, since pages were dropped
        parts = []
        for part in pyarrow.ipc.open_stream(pyarrow.py_buffer(mapping)):
            parts.append(part)
            self._count(len(part))
        table = pyarrow.Table.from_batches(parts)
        self._columns = table.columns
        self._single = table.column_names == _names(0)
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, index: int) -> Text: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Text]: ...
    def __getitem__(self, index: int | slice) -> Text | Sequence[Text]:
        if isinstance(index, slice):
            return Picked(self, range(self._rows)[index])
        row = range(self._rows)[index]  # also checks it
        parts = tuple(_decoded(column[row].as_py()) for column in self._columns)
        self._count(1)
        return parts[0] if self._single else parts

    def __iter__(self) -> Iterator[Text]:
        """In batches, which is ten times as fast as one by one."""
        for start in range(0, self._rows, _BATCH):
            columns = [column.slice(start, _BATCH).to_pylist() for column in self._columns]
            self._count(_BATCH)
            for cells in zip(*columns, strict=True):
                parts = tuple(map(_decoded, cells))
                yield parts[0] if self._single else parts

    def _count(self, rows: int) -> None:
        """Have no more pages in memory than some rows lie on."""
        self._read += rows
        if self._read >= _BATCH:
            drop_pages(self._mapping)
            self._read = 0


class Picked(Sequence[Text]):
    """Some of the texts of a sequence, in any order, not copied."""

    def __init__(self, texts: Sequence[Text], indices: Sequence[int]) -> None:
        self._texts = texts
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Text: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Text]: ...
    def __getitem__(self, index: int | slice) -> Text | Sequence[Text]:
        if isinstance(index, slice):
            return Picked(self._texts, self._indices[index])
        return self._texts[self._indices[index]]


def _names(width: int) -> list[str]:
    return ["text"] if width == 0 else [f"text{part}" for part in range(width)]


def _decoded(cell: bytes) -> str:
    return cell.decode("utf-8", "surrogateescape")
