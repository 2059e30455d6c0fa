"""Labelled texts from whatever people have: one table of texts, labels and row numbers.

Nothing is cleaned, dropped or repaired: what is wrong is refused with its row number here, or
listed by ``audit``. The formats are in ``formats``.
"""

import math
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import Any

from seqtool.columns import Columns, choose_columns, looks_labelled, looks_like_header
from seqtool.delimited import LONGEST, Judge
from seqtool.errors import DataError
from seqtool.formats import SAMPLE, Source, guess_format, named_format, open_source
from seqtool.splits import Keys, text_keys
from seqtool.storage import Picked, Text, TextStore
from seqtool.text import too_long

Label = str | tuple[str, ...]  # a tuple of any number of labels with multi_label
# The columns' names, some rows, the table's name: which columns to take.
Choice = Callable[[Sequence[str], Sequence[Sequence[Any]], str], Columns]

_SEPARATORS = ("|", ";", ",")  # between several labels in one cell, in this order of preference
_MISSING = ("", "nan", "NaN")  # what pandas and spreadsheets write for no label


@dataclass(frozen=True, eq=False)
class Table:
    """Texts with their labels, in the order of the source; n rows."""

    name: str  # what the user called it, for messages
    texts: Sequence[Text]  # (n,) strings, or tuples of them for pairs; "" where there is none
    labels: Sequence[Label]  # (n,) strings, "" if missing, or tuples with multi_label; else empty
    rows: Sequence[int]  # (n,) the line, row of a Parquet file or number of the file in a folder
    sha256: str  # of the source, decompressed
    columns: Columns  # which are used, and why
    multi_label: bool = False
    files: tuple[str, ...] = ()  # of a folder, in its order

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur: numbers in the order of numbers, others in the alphabet's."""
        found: set[str] = set()
        for label in set(self.labels):
            found.update([label] if isinstance(label, str) else label)
        found.discard("")
        if all(label.isdecimal() for label in found):
            return tuple(sorted(found, key=lambda label: (int(label), label)))
        return tuple(sorted(found))

    def where(self, index: int) -> str:
        """The place of a row as messages name it: ``reviews.csv:17``, or a file's own name."""
        row = self.rows[index]
        return self.files[row - 1] if self.files else f"{self.name}:{row}"

    def place(self, index: int) -> str:
        """The same beside the table's name: the row's number, or the file's own name."""
        row = self.rows[index]
        return self.files[row - 1] if self.files else str(row)

    def keys(self) -> Keys:
        """Fingerprints of the texts, (n,): equal for equal texts."""
        return self._keys

    @cached_property
    def _keys(self) -> Keys:
        return text_keys(self.texts)

    def select(self, indices: Sequence[int]) -> "Table":
        """The table of some of the rows, in this order; texts are not copied."""
        return replace(
            self,
            texts=Picked(self.texts, indices),
            labels=[self.labels[i] for i in indices] if self.labels else [],
            rows=array("I", (self.rows[i] for i in indices)),
        )


def read_table(
    source: str,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    multi_label: bool = False,
    labelled: bool = True,
    encoding: str = "utf-8",
    binary_ok: bool = False,
) -> Table:
    """Read labelled texts, or with ``labelled=False`` texts alone.

    Args:
        source: A file (plain or compressed), ``-`` for standard input, a directory with one folder
            of text files per label, or the name of a data set on the hub, ``owner/name`` or
            ``owner/name:split``. Only the last one touches the network.
        text_columns: The text's column; several for pairs; guessed without.
        label_column: The label's column; guessed without.
        multi_label: A row may have any number of labels: a list in JSON Lines and Parquet, several
            ``__label__`` marks, or one cell separated by ``|``, ``;`` or ``,``.
        labelled: Whether labels are wanted; without, none is read.
        encoding: Name of a Python text encoding.
        binary_ok: Take any bytes, as ``open_text`` does.

    Raises:
        ConfigError: If the encoding is unknown.
        DataError: If the source cannot be read, is damaged or empty, has ragged rows, lacks a
            column, or holds a text of more than 4 million characters; one line that names the row.
    """
    opened = open_source(source, text_columns, label_column, labelled, encoding, binary_ok)
    columns = opened.columns
    if columns is not None:
        _check_fixed(columns, text_columns, label_column, opened.name)
    else:
        columns = _find_columns(opened, text_columns, label_column, labelled)
    return _collect(opened, columns, multi_label)


def read_columns(
    source: str,
    choose: Choice,
    *,
    wanted: Sequence[str] = (),
    encoding: str = "utf-8",
    is_header: Judge = looks_like_header,
) -> Table:
    """Read several columns of a table as rows of texts, without labels.

    Args:
        source: As for ``read_table``.
        choose: Gets the columns' names, some rows and the table's name, and says which to take.
        wanted: Columns that the user has named.
        encoding: Name of a Python text encoding.
        is_header: Tells from the first rows of a delimited file whether the first is a header.

    Raises:
        ConfigError, DataError: As ``read_table`` and ``choose``.
    """
    opened = open_source(source, wanted, None, False, encoding, False, is_header)
    if opened.columns is not None and len(opened.columns.texts) < 2:
        raise DataError(
            f"{opened.name}: no table with columns, {opened.columns.reason}; needed is a table "
            "of two, or two files of lines, with --source and --target"
        )
    columns = choose(opened.names, _sample(opened), opened.name)
    return _collect(opened, columns, False)


def sample_rows(
    source: str, *, encoding: str = "utf-8", is_header: Judge = looks_like_header
) -> tuple[tuple[str, ...], list[Sequence[Any]]]:
    """The names of a table's columns and some of its first rows; no names where a format has none.

    Raises:
        ConfigError, DataError: As ``read_table``.
    """
    opened = open_source(source, (), None, False, encoding, False, is_header)
    return (opened.names, _sample(opened, 20 * SAMPLE)) if opened.columns is None else ((), [])


def holds_labels(source: str, *, encoding: str = "utf-8") -> bool:
    """Whether a source is one of labelled texts: by its format, or by what stands in its columns.

    A file whose name does not say that it is a table may have a tab on every line for other
    reasons; then one column has to look like labels.

    Raises:
        ConfigError, DataError: As ``guess_format``.
    """
    kind = guess_format(source, encoding=encoding)
    if kind in ("csv", "tsv") and named_format(source) is None:
        names, sample = sample_rows(source, encoding=encoding)
        return looks_labelled(names, sample)
    return kind != "lines"


def _check_fixed(
    columns: Columns, text_columns: Sequence[str], label_column: str | None, where: str
) -> None:
    given = [*(f"--text-column {name}" for name in text_columns)]
    given += [f"--label-column {label_column}"] if label_column else []
    if given:
        raise DataError(f"{where}: has no columns to choose by {given[0]}: {columns.reason}")


def _find_columns(
    source: Source, text_columns: Sequence[str], label_column: str | None, labelled: bool
) -> Columns:
    told = bool(text_columns) and (label_column is not None or not labelled)
    return choose_columns(
        source.names,
        _sample(source, 1 if told else None),
        source.name,
        text_columns=text_columns,
        label_column=label_column,
        labelled=labelled,
    )


def _sample(source: Source, most: int | None = None) -> list[Sequence[Any]]:
    """Rows from all over a source, or of its first few: a sorted one begins with one label."""
    sample: list[Sequence[Any]] = []
    stride = 1
    for count, (_, cells) in enumerate(islice(source.read(), most)):
        if count % stride == 0:
            sample.append(cells)
        if len(sample) == 2 * SAMPLE:
            sample, stride = sample[::2], 2 * stride
    if not sample:
        raise DataError(f"{source.name}: no rows, there is nothing to read")
    return sample


def _collect(source: Source, columns: Columns, multi_label: bool) -> Table:
    text_at = [source.names.index(name) for name in columns.texts]
    label_at = None if columns.label is None else source.names.index(columns.label)
    separator = _separator(source, label_at) if multi_label and label_at is not None else ""
    texts, labels, rows = TextStore(), [], array("I")
    known: dict[Label, Label] = {}  # one object for each label, however many rows have it
    for row, cells in source.read():
        where = source.files[row - 1] if source.files else f"{source.name}:{row}"
        parts = tuple(_as_text(cells[at], where) for at in text_at)
        texts.append(parts if len(parts) > 1 else parts[0])
        rows.append(row)
        if label_at is not None:
            found = _as_labels(cells[label_at], separator, where)
            label = found if multi_label else _only(found, where)
            labels.append(known.setdefault(label, label))
    if not rows:
        raise DataError(f"{source.name}: no rows, there is nothing to read")
    return Table(
        source.name,
        texts.finish(),
        labels,
        rows,
        source.sha256,
        columns,
        multi_label and label_at is not None,
        source.files,
    )


def _separator(source: Source, label_at: int) -> str:
    """What stands between several labels in one cell."""
    cells = [str(row[label_at]) for _, row in islice(source.read(), 10 * SAMPLE)]
    return next((mark for mark in _SEPARATORS if any(mark in cell for cell in cells)), "")


def _as_text(cell: Any, where: str) -> str:
    if isinstance(cell, str):
        text = cell
    elif cell is None or (isinstance(cell, float) and math.isnan(cell)):
        text = ""
    elif isinstance(cell, bool | int | float):
        text = str(cell)
    else:
        raise DataError(
            f"{where}: the text is a {type(cell).__name__}, not a string; "
            "name another column with --text-column"
        )
    if len(text) > LONGEST:
        raise too_long(where, LONGEST)
    return text


def _as_labels(cell: Any, separator: str, where: str) -> tuple[str, ...]:
    """The labels in a cell, in order and each once; none for a missing value."""
    if isinstance(cell, list | tuple):
        found = chain.from_iterable(_as_labels(part, "", where) for part in cell)
    elif isinstance(cell, dict):
        raise DataError(
            f"{where}: the label is an object, not a string; "
            "name another column with --label-column"
        )
    else:
        text = _label_text(cell)
        found = chain(part.strip() for part in (text.split(separator) if separator else [text]))
    return tuple(dict.fromkeys(label for label in found if label not in _MISSING))


def _label_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # pandas turns whole numbers beside a missing one into fractions
    return sys.intern(str(cell).strip())


def _only(labels: tuple[str, ...], where: str) -> str:
    if len(labels) > 1:
        raise DataError(
            f"{where}: {len(labels)} labels ({', '.join(labels[:5])}), but one was expected; "
            "use --multi-label"
        )
    return labels[0] if labels else ""
