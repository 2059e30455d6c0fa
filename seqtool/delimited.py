"""CSV and TSV, row by row, with the line on which each row begins; and back, with columns added.

Rows are parsed here, by the standard library, and not by HF ``datasets``: that reader (pandas)
turns texts such as "NA" and "null" into missing values and numbers such as "007" into 7, fills up
short rows in silence and cannot say in which line of the file a long one stands.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from seqtool.columns import Columns, choose_columns, looks_like_header
from seqtool.errors import DataError
from seqtool.text import PACKED, too_long

LONGEST = 1 << 22  # characters in one text: more than a long novel
_DELIMITERS_OF = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
DELIMITERS = (",", ";", "\t", "|")
_HEAD_LINES = 1000  # looked at to find out how a file is written
_HEAD_CHARS = 1 << 22


@dataclass(frozen=True)
class Layout:
    """How a delimited file is written."""

    delimiter: str
    quoted: bool  # cells may stand in double quotes (RFC 4180); otherwise quotes are text
    names: tuple[str, ...]  # of the columns; "1", "2", ... without a header
    header: bool  # the first row is the names


Judge = Callable[[Sequence[Sequence[str]], Sequence[str]], bool]  # rows, columns named: a header?
Row = tuple[int, list[str]]  # line on which it begins, counted from 1; cells, none on an empty line


class Record(NamedTuple):
    """A row on its way through a model."""

    number: int  # line on which it begins, counted from 1
    cells: list[str]  # none on an empty line
    texts: tuple[str, ...]  # what the model reads of it: one text, or as many as there are columns


def delimiter_of(source: str) -> str | None:
    """What separates the cells of a table, by its name; None if it is not known for one."""
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return _DELIMITERS_OF.get(suffixes[-1]) if suffixes else None


class RowStream:
    """The rows of a delimited file, to be answered one by one with columns added.

    Nothing is held but the first lines, so a pipe that never ends can be answered as it comes.
    """

    def __init__(
        self,
        lines: Iterable[str],
        name: str,
        *,
        text_columns: Sequence[str] = (),
        preferred: Sequence[str] = (),
        delimiter: str | None = None,
        live: bool = False,
        is_header: Judge = looks_like_header,
    ) -> None:
        """Look at the first lines.

        Args:
            lines: The file, from its start, each line with its line end.
            name: What the user called it, for messages.
            text_columns: Where the texts are; guessed without.
            preferred: The guess, if there are such columns.
            delimiter: What the file's name says; ``None`` to try several.
            live: Look at no more than the first line: another may be long in coming.
            is_header: Tells from the first rows whether the first one is a header.

        Raises:
            DataError: If there is nothing in it, or a column is missing.
        """
        lines = iter(lines)
        head, whole = _head(lines, 1 if live else _HEAD_LINES)
        self.name = name
        wanted = text_columns or preferred
        self.layout = _find_layout(head, whole, name, delimiter, wanted, is_header)
        self._lines = chain(head, lines)
        if not text_columns and {*preferred} <= {*self.layout.names}:
            text_columns = preferred
        rows = _sound_rows(head, self.layout.delimiter, self.layout.quoted)
        sample = [cells for cells in rows if len(cells) == len(self.layout.names)]
        self.columns: Columns = choose_columns(
            self.layout.names, sample[1:], name, text_columns=text_columns, labelled=False
        )
        self._text_at = [self.layout.names.index(column) for column in self.columns.texts]

    def __iter__(self) -> Iterator[Record]:
        """The rows below the header, once.

        Raises:
            DataError: For a row that is ragged or badly quoted; those before it have been given.
        """
        for number, cells in read_rows(self._lines, self.layout, self.name):
            texts = tuple(cells[at] if cells else "" for at in self._text_at)
            yield Record(number, cells, texts)

    def header(self, added: Sequence[str]) -> str:
        """The header with columns added, numbered if their names are taken; "" without a header."""
        if not self.layout.header:
            return ""
        names = list(self.layout.names)
        for name in added:
            free, number = name, 2
            while free in names:
                free, number = f"{name}_{number}", number + 1
            names.append(free)
        return format_row(names, self.layout)

    def answer(self, record: Record, added: Sequence[str]) -> str:
        """The row with cells added, as a line; an empty line for an empty line."""
        return format_row([*record.cells, *added], self.layout) if record.cells else "\n"


def find_layout(
    lines: Iterable[str],
    where: str,
    *,
    delimiter: str | None = None,
    wanted: Sequence[str] = (),
    is_header: Judge = looks_like_header,
) -> Layout:
    """Find out from its first lines how a file is written.

    Args:
        lines: The file, from its start, each line with its line end; up to 1,000 are read.
        where: The file's name, for messages.
        delimiter: What its name says; ``None`` to try several.
        wanted: Columns that the user has named: a row with these is a header.
        is_header: Tells from the first rows whether the first one is a header.

    Raises:
        DataError: If there is nothing but a header or empty lines.
    """
    head, whole = _head(iter(lines), _HEAD_LINES)
    return _find_layout(head, whole, where, delimiter, wanted, is_header)


def _find_layout(
    head: Sequence[str],
    whole: bool,
    where: str,
    delimiter: str | None,
    wanted: Sequence[str],
    is_header: Judge = looks_like_header,
) -> Layout:
    found = [mark for mark in DELIMITERS if any(mark in line for line in head)]
    tries = [delimiter] if delimiter else found or [","]
    fitting = [
        (mark, quoted, rows)
        for mark in tries
        for quoted in ((False, True) if mark == "\t" else (True, False))
        if (rows := _fitting_rows(head, whole, mark, quoted))
    ]
    # A quote that opens a cell and closes it well is a quote, not text: so quoted first, but in TSV
    # only where some cell cannot be read otherwise. More columns win over fewer.
    if fitting:
        width = max(len(rows[0]) for _, _, rows in fitting)
        mark, quoted, rows = next(fit for fit in fitting if len(fit[2][0]) == width)
        if mark == "\t" and not quoted and (mark, True) in [fit[:2] for fit in fitting]:
            quoted = _well_quoted(rows)
            rows = _fitting_rows(head, whole, mark, quoted)
    else:  # no way fits: the row that is at fault is told by whoever reads them
        mark, quoted = tries[0], tries[0] != "\t"
        first = next((cells for _, cells in _parse(head, mark, quoted, where) if cells), None)
        rows = [first] if first else []
    if not rows:
        raise DataError(f"{where}: only empty lines, there is nothing to read")
    header = is_header(rows, wanted)
    names = tuple(
        (name.strip() if header else "") or str(number) for number, name in enumerate(rows[0], 1)
    )
    if header and len(rows) == 1 and whole and fitting:
        raise DataError(f"{where}: only a header ({', '.join(names)}) and no rows below it")
    return Layout(mark, quoted, names, header)


def read_rows(lines: Iterable[str], layout: Layout, where: str) -> Iterator[Row]:
    """The rows below the header, empty lines as rows without cells.

    Args:
        lines: The file, from its start, each line with its line end.
        layout: How it is written.
        where: Its name, for messages.

    Raises:
        DataError: While iterating, for a row with more or fewer cells than the header, or with
            quotes that do not match; it names the line.
    """
    width = len(layout.names)
    rows = _parse(lines, layout.delimiter, layout.quoted, where)
    if layout.header:
        skipped = next((True for _, cells in rows if cells), False)
        assert skipped
    for number, cells in rows:
        if cells and len(cells) != width:
            raise DataError(f"{where}:{number}: {_ragged(len(cells), layout)}")
        yield number, cells


def format_row(cells: Iterable[str], layout: Layout) -> str:
    """One row as the file would write it, with its line end.

    Raises:
        DataError: If a cell holds what a file without quotes cannot write.
    """
    cells = list(cells)
    if not layout.quoted:
        for cell in cells:
            if layout.delimiter in cell or "\n" in cell:
                raise DataError(
                    f"cannot write {cell[:40]!r} into a file without quotes: it holds a "
                    f"{'line end' if chr(10) in cell else 'delimiter'}"
                )
        return layout.delimiter.join(cells) + "\n"
    line = io.StringIO()
    # Before Python 3.13 only what stands in the line end is quoted for it: \r too has to be.
    csv.writer(line, delimiter=layout.delimiter, lineterminator="\r\n").writerow(cells)
    return line.getvalue()[:-2] + "\n"


def _head(lines: Iterator[str], most: int) -> tuple[list[str], bool]:
    """The first lines, and whether they are all; reads no line more than it gives."""
    head: list[str] = []
    size = 0
    while len(head) < most and size <= _HEAD_CHARS:
        line = next(lines, None)
        if line is None:
            return head, True
        head.append(line)
        size += len(line)
    return head, False


def _sound_rows(head: Sequence[str], delimiter: str, quoted: bool) -> list[list[str]]:
    """The rows of the head up to one that cannot be read, without empty lines."""
    rows: list[list[str]] = []
    with suppress(DataError):
        for _, cells in _parse(head, delimiter, quoted, ""):
            rows += [cells] if cells else []
    return rows


def _fitting_rows(
    head: Sequence[str], whole: bool, delimiter: str, quoted: bool
) -> list[list[str]]:
    """The rows of the head if all of it can be read so, with one length; otherwise none."""
    rows: list[list[str]] = []
    try:
        for _, cells in _parse(head, delimiter, quoted, ""):
            rows += [cells] if cells else []
    except DataError:
        # The head may end inside a quoted cell: then what came before must do.
        if whole or len(rows) < 2:
            return []
    if not quoted and delimiter != "\t" and any(map(_half_quoted, chain.from_iterable(rows))):
        return []
    return rows if len({len(cells) for cells in rows}) == 1 else []


def _half_quoted(cell: str) -> bool:
    """Whether a quote opens a cell as in CSV, and not only a word of it."""
    return cell.startswith('"') and (cell.endswith('"') or cell.count('"') % 2 == 1)


def _well_quoted(rows: Sequence[Sequence[str]]) -> bool:
    """Whether every quote at the start of a cell has its partner at the end, and some does."""
    cells = [cell for row in rows for cell in row if cell.startswith('"')]
    return bool(cells) and all(
        len(cell) > 1 and cell.endswith('"') and '"' not in cell[1:-1].replace('""', "")
        for cell in cells
    )


def _parse(lines: Iterable[str], delimiter: str, quoted: bool, where: str) -> Iterator[Row]:
    if not quoted:
        for number, line in enumerate(lines, 1):
            bare = line.removesuffix("\n").removesuffix("\r")
            yield number, bare.split(delimiter) if bare else []
        return
    csv.field_size_limit(LONGEST)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 1
    try:
        for cells in reader:
            yield number, cells
            number = reader.line_num + 1
    except csv.Error as err:
        if "field limit" in str(err):
            raise too_long(f"{where}:{number}", LONGEST) from err
        raise DataError(f"{where}:{number}: {_malformed(str(err), number, reader)}") from err


def _malformed(found: str, number: int, reader: object) -> str:
    if "end of data" in found:
        return "a quote opens in this row and never closes; close it, or double it if it is text"
    if "expected after" in found:
        last = getattr(reader, "line_num", number)
        at = f" (noticed in line {last})" if last > number else ""
        return f"text goes on after a closing quote{at}; write a quote inside a cell as two"
    if "new-line" in found:
        return "a carriage return stands alone inside a row; convert the line ends to \\n"
    return f"not a row of a delimited file ({found})"


def _ragged(found: int, layout: Layout) -> str:
    shown = "a tab" if layout.delimiter == "\t" else f"{layout.delimiter!r}"
    needed = len(layout.names)
    what = f"the header has {needed}" if layout.header else f"the first row has {needed}"
    if found > needed and layout.quoted:
        advice = f"put a cell that contains {shown} in double quotes"
    elif found > needed:
        advice = f"replace {shown} inside a cell by something else"
    else:
        advice = "add what is missing, an empty cell if nothing"
    return f"{found} cells, but {what} ({', '.join(layout.names)}); {advice}"
