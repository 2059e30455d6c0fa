"""Texts and what they shall become: two columns of a table, or two files, a line for a line.

What is wrong with them is refused here if nothing can be read rightly (files out of step), and
otherwise told by ``bitext``. A source may come back with another target, or have several in one
row: all of them are right answers.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import overload

import numpy as np
import numpy.typing as npt

from seqtool.columns import Columns
from seqtool.delimited import LONGEST
from seqtool.errors import ConfigError, DataError
from seqtool.formats import guess_format
from seqtool.images import is_images
from seqtool.sides import choose_sides, looks_like_header, looks_like_pairs
from seqtool.splits import Keys, text_keys
from seqtool.storage import Picked, Text, TextStore
from seqtool.tables import Table, read_columns, sample_rows
from seqtool.text import TextFiles, open_text

SMOOTH = 10  # characters added to lengths before they are compared: "Go." may be "Lauf weg!"
SHOWN = 40  # characters of a line in a message

Floats = npt.NDArray[np.float64]


class _Side(Sequence[str]):
    """One side of all pairs, not copied."""

    def __init__(self, texts: Sequence[Text], at: int) -> None:
        self._texts = texts
        self._at = at

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return _Side(self._texts[index], self._at)
        return self._texts[index][self._at]

    def __iter__(self) -> Iterator[str]:
        for texts in self._texts:
            yield texts[self._at]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sources with their targets in the order they were read; n pairs."""

    name: str  # what the user called it, for messages
    texts: Sequence[Text]  # (n,) source and target; "" where there is none
    rows: Sequence[int]  # (n,) the line or row; several right answers in a row are pairs of it
    sha256: str  # of the file, or of both, decompressed
    columns: Columns  # which are used, and why
    origin: str  # the table, or the file of the sources: from there names of images are seen

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sources(self) -> Sequence[str]:
        """What is to be translated, (n,)."""
        return _Side(self.texts, 0)

    @property
    def targets(self) -> Sequence[str]:
        """What it shall become, (n,)."""
        return _Side(self.texts, 1)

    def where(self, index: int) -> str:
        """The place of a pair as messages name it: ``pairs.tsv:17``."""
        return f"{self.name}:{self.rows[index]}"

    def place(self, index: int) -> str:
        """The same beside the name: the number of the row."""
        return str(self.rows[index])

    def keys(self) -> Keys:
        """Fingerprints of the sources, (n,): equal for equal texts, 0 for empty ones."""
        return text_keys(self.sources)

    def select(self, indices: Sequence[int]) -> "Pairs":
        """Some of the pairs, in this order; texts are not copied."""
        rows = array("q", (self.rows[i] for i in indices))
        return replace(self, texts=Picked(self.texts, indices), rows=rows)


@dataclass(frozen=True)
class Answers:
    """Sources, each once, with all their right answers, in the order of their first pairs."""

    sources: list[str]  # (m,)
    references: list[tuple[str, ...]]  # (m,) each answer once
    first: npt.NDArray[np.int64]  # (m,) the first pair of each
    group: npt.NDArray[np.int64]  # (n,) for each pair the number of its source


def read_pairs(
    data: str,
    *,
    target: str | None = None,
    source_column: str = "",
    target_column: str = "",
    separator: str = "",
    encoding: str = "utf-8",
    target_encoding: str = "",
) -> Pairs:
    """Read sources and targets.

    Args:
        data: A table (CSV, TSV, JSON Lines, Parquet, a dictionary of pronunciations; also
            compressed), ``-``, the name of a data set on the hub; or, with ``target``, a text whose
            lines are the sources.
        target: The text whose lines are the targets.
        source_column: The source's column; guessed without.
        target_column: The target's; with commas between them several, each a right answer.
        separator: What stands between several right answers in one cell, or line; "" = nothing.
        encoding: Name of a Python text encoding.
        target_encoding: That of the ``target`` file, if it is another one.

    Raises:
        ConfigError: If the encoding is unknown, or columns are named for parallel files.
        DataError: If a source cannot be read, lacks a column, is empty, or the two files have
            different numbers of lines; one line that says where.
    """
    if target is not None:
        if column := source_column or target_column:
            raise ConfigError(f"two parallel files have no columns to choose {column!r} from")
        pairs = _read_parallel(data, target, encoding, target_encoding or encoding)
    else:
        if target_encoding:
            raise ConfigError("--target-encoding is for a file of its own, given with --target")
        table = _read_sides(data, source_column, target_column, encoding)
        pairs = Pairs(table.name, table.texts, table.rows, table.sha256, table.columns, data)
    width = len(pairs.columns.texts)
    return _unfold(pairs, separator) if separator or width > 2 else pairs


def answers(pairs: Pairs) -> Answers:
    """Put the right answers of each source together."""
    _, first, group = np.unique(pairs.keys(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.argsort(order)[group]  # of each pair's source, in the order of first pairs
    found: list[dict[str, None]] = [{} for _ in order]
    for number, target in zip(rank.tolist(), pairs.targets, strict=True):
        found[number][target] = None
    first = first[order]
    sources = [pairs.sources[i] for i in first.tolist()]
    return Answers(sources, [*map(tuple, found)], first, rank)


def guess_pairs(data: str, *, encoding: str = "utf-8") -> str:
    """Why a table is one of texts and their translations; "" if it is not, or has labels.

    Raises:
        ConfigError: If the encoding is unknown.
        DataError: If it cannot be read.
    """
    kind = guess_format(data, encoding=encoding)
    if kind not in ("csv", "tsv", "jsonl", "parquet", "hub", "pronunciations"):
        return ""
    names, sample = sample_rows(data, encoding=encoding, is_header=looks_like_header)
    return looks_like_pairs(names, sample) if names else ""


def _read_sides(data: str, source_column: str, target_column: str, encoding: str) -> Table:
    if is_images(data):
        raise DataError(
            f"{data}: images, but needed is a table with a column of their names and a column of "
            "what stands on them; images in a folder for each label are for --task classify"
        )
    targets = [name for name in target_column.split(",") if name]

    def choose(names: Sequence[str], sample: Sequence[Sequence[object]], where: str) -> Columns:
        return choose_sides(names, sample, where, source=source_column, targets=targets)

    wanted = [*([source_column] if source_column else []), *targets]
    return read_columns(data, choose, wanted=wanted, encoding=encoding, is_header=looks_like_header)


def _unfold(pairs: Pairs, separator: str) -> Pairs:
    """A pair for each right answer; further columns may be empty, the first is kept as it is."""
    texts, rows = TextStore(), array("q")
    for row, whole in zip(pairs.rows, pairs.texts, strict=True):
        source, cells = whole[0], whole[1:]
        found = [
            part for cell in cells for part in (cell.split(separator) if separator else [cell])
        ]
        if separator:
            found = [part.strip() for part in found]
        for answer in dict.fromkeys(filter(None, found)) or [""]:
            texts.append((source, answer))
            rows.append(row)
    return replace(pairs, texts=texts.finish(), rows=rows)


def _read_parallel(data: str, target: str, encoding: str, target_encoding: str) -> Pairs:
    if data == target:
        raise ConfigError(f"--source and --target are both {data}; needed are two files")
    sides = open_text(data, encoding=encoding), open_text(target, encoding=target_encoding)
    texts, rows = TextStore(), array("q")
    for row, pair in enumerate(zip_longest(*map(_lines, sides)), 1):
        if None in pair:
            raise _out_of_step(sides)
        texts.append(pair)
        rows.append(row)
    name = f"{sides[0].name} and {sides[1].name}"
    digest = hashlib.sha256("".join(side.sha256() for side in sides).encode()).hexdigest()
    columns = Columns(("source", "target"), None, f"line for line, {len(rows):,} each")
    return Pairs(name, texts.finish(), rows, digest, columns, data)


def _lines(files: TextFiles) -> Iterator[str]:
    return (line.removesuffix("\n").removesuffix("\r") for line in files.lines(LONGEST))


def _out_of_step(sides: tuple[TextFiles, TextFiles]) -> DataError:
    """Say how many lines two files have and from which one on they do not fit."""
    sizes = [_sizes(_lines(side)) for side in sides]
    counts = [len(found) for found in sizes]
    at = find_shift(*sizes)
    shown = []
    for side in sides:
        line = next((text for n, text in enumerate(_lines(side), 1) if n == at), "")
        cut = line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
        shown.append(f"{side.name} has {cut!r}" if line else f"{side.name} has nothing")
    return DataError(
        f"{sides[0].name} has {counts[0]:,} lines and {sides[1].name} {counts[1]:,}, but line n of "
        f"one must be the translation of line n of the other; by their lengths they are out of "
        f"step from about line {at:,} on ({shown[0]}, {shown[1]})"
    )


def _sizes(lines: Iterable[str]) -> Floats:
    return np.log(np.fromiter(map(len, lines), np.float64) + SMOOTH)


def find_shift(source: Floats, target: Floats) -> int:
    """From which line on (counted from 1) two texts are out of step, judged by their lengths.

    The longer text has lines too many at one place, so that behind it every line stands that much
    further down. The place is the one that makes the lengths of the pairs agree best.

    Args:
        source: Logarithms of the lengths of its lines, (n,).
        target: The same of the other, (m,), m not n.
    """
    shorter, longer = sorted((source, target), key=len)
    extra = len(longer) - len(shorter)
    typical = float(np.median(longer) - np.median(shorter))
    before = np.abs(longer[: len(shorter)] - shorter - typical)
    behind = np.abs(longer[extra:] - shorter - typical)
    # cost[k]: k pairs in step, and all others behind the lines too many.
    cost = np.concatenate([[0.0], np.cumsum(before)]) + (
        behind.sum() - np.concatenate([[0.0], np.cumsum(behind)])
    )
    return int(cost.argmin()) + 1
