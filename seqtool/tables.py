"""Labelled texts from whatever people have: one table of texts, labels and row numbers.

CSV, TSV, JSON Lines, Parquet, fastText lines, "label text" lines, one folder per label, plain lines
and data sets of the Hugging Face hub. Nothing is cleaned, dropped or repaired: what is wrong is
refused with its row number here, or listed by ``audit``.
"""

import hashlib
import json
import math
import re
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Literal

from seqtool.columns import Columns, choose_columns, looks_labelled, looks_like_header
from seqtool.delimited import LONGEST, Judge, find_layout, read_rows
from seqtool.errors import DataError
from seqtool.hub import TRANSLATION, Rows, hub_name, open_hub, open_parquet
from seqtool.splits import Keys, text_keys
from seqtool.storage import Picked, Text, TextStore
from seqtool.text import PACKED, SUFFIXES, TextFiles, open_text, too_long

Label = str | tuple[str, ...]  # a tuple of any number of labels with multi_label
Format = Literal[
    "csv", "tsv", "jsonl", "parquet", "fasttext", "labelled-lines", "folder", "hub", "lines"
]

# The columns' names, some rows, the table's name: which columns to take.
Choice = Callable[[Sequence[str], Sequence[Sequence[Any]], str], Columns]

_SUFFIX_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_MARKED = re.compile(r"__label__(\S+)[ \t]*")
_LINE_LABEL = re.compile(r"([+-]?\d+|[^\W\d]\w*:\w+) +(?=[^ ])")
_SAMPLE = 1000  # rows on which columns are guessed
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
        return text_keys(self.texts)

    def select(self, indices: Sequence[int]) -> "Table":
        """The table of some of the rows, in this order; texts are not copied."""
        return replace(
            self,
            texts=Picked(self.texts, indices),
            labels=[self.labels[i] for i in indices] if self.labels else [],
            rows=array("q", (self.rows[i] for i in indices)),
        )


@dataclass(frozen=True)
class _Source:
    """Rows of named cells that can be read any number of times."""

    name: str
    names: tuple[str, ...]
    read: Callable[[], Iterator[tuple[int, Sequence[Any]]]]
    sha256: str
    columns: Columns | None = None  # where the format itself says what is text and label
    files: tuple[str, ...] = ()


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
    opened = _open(source, text_columns, label_column, labelled, encoding, binary_ok)
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
    opened = _open(source, wanted, None, False, encoding, False, is_header)
    if opened.columns is not None and len(opened.columns.texts) < 2:
        raise DataError(f"{opened.name}: no table with columns, {opened.columns.reason}")
    columns = choose(opened.names, _sample(opened), opened.name)
    return _collect(opened, columns, False)


def sample_rows(
    source: str, *, encoding: str = "utf-8", is_header: Judge = looks_like_header
) -> tuple[tuple[str, ...], list[Sequence[Any]]]:
    """The names of a table's columns and some of its first rows; no names where a format has none.

    Raises:
        ConfigError, DataError: As ``read_table``.
    """
    opened = _open(source, (), None, False, encoding, False, is_header)
    return (opened.names, _sample(opened, 20 * _SAMPLE)) if opened.columns is None else ((), [])


def guess_format(source: str, *, encoding: str = "utf-8") -> Format:
    """Tell from its name, or else from its beginning, how a source is written; "lines" if plain.

    Raises:
        ConfigError: If the encoding is unknown.
        DataError: If there is no such source, or it is empty or no text.
    """
    if hub_name(source):
        return "hub"
    if Path(source).is_dir():
        return "folder" if _label_folders(Path(source)) else "lines"
    return _file_format(open_text(source, encoding=encoding))


def holds_labels(source: str, *, encoding: str = "utf-8") -> bool:
    """Whether a source is one of labelled texts: by its format, or by what stands in its columns.

    A file whose name does not say that it is a table may have a tab on every line for other
    reasons; then one column has to look like labels.

    Raises:
        ConfigError, DataError: As ``guess_format``.
    """
    kind = guess_format(source, encoding=encoding)
    if kind in ("csv", "tsv") and _named_format(source) is None:
        names, sample = sample_rows(source, encoding=encoding)
        return looks_labelled(names, sample)
    return kind != "lines"


def _open(
    source: str,
    text_columns: Sequence[str],
    label_column: str | None,
    labelled: bool,
    encoding: str,
    binary_ok: bool,
    is_header: Judge = looks_like_header,
) -> _Source:
    if hub := hub_name(source):
        return _from_rows(open_hub(hub), source)
    if Path(source).is_dir():
        return _open_folder(Path(source), encoding, binary_ok)
    files = open_text(source, encoding=encoding, binary_ok=binary_ok)
    kind = _file_format(files)
    wanted = (*text_columns, *([label_column] if label_column else []))
    match kind:
        case "csv" | "tsv":
            return _open_delimited(files, "\t" if kind == "tsv" else None, wanted, is_header)
        case "jsonl":
            return _open_jsonl(files)
        case "parquet":
            return _from_rows(open_parquet(files), files.name, files.sha256())
        case "fasttext" | "labelled-lines":
            return _open_marked(files, kind)
        case _ if not labelled:
            return _open_lines(files)
    raise DataError(
        f"{files.name}: no labels found; needed is a CSV, TSV, JSON Lines or Parquet file, lines "
        "that begin with __label__NAME or with a label and a space, or a folder per label"
    )


def _named_format(name: str) -> Format | None:
    """What the end of a file's name says, below compression."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return _SUFFIX_FORMATS.get(suffixes[-1]) if suffixes else None


def _file_format(files: TextFiles) -> Format:
    if named := _named_format(files.name):
        return named
    blocks = files.blocks(files.paths[0] if files.paths else None)
    if next(blocks, b"").startswith(b"PAR1"):
        return "parquet"
    head = [line.rstrip("\r\n") for line in islice(files.lines(LONGEST), _SAMPLE)]
    filled = [line for line in head if line.strip()]
    if not filled:
        return "lines"
    if all(line.startswith("{") for line in filled):
        return "jsonl"
    if all(_MARKED.match(line) for line in filled):
        return "fasttext"
    for mark, kind in (("\t", "tsv"), (",", "csv")):
        # Prose has commas too, but not the same number on every line.
        counts = {line.count(mark) for line in filled}
        if len(filled) > 1 and len(counts) == 1 and counts != {0}:
            return kind  # type: ignore[return-value]
    return "labelled-lines" if _begin_with_labels(filled) else "lines"


def _begin_with_labels(lines: Sequence[str]) -> bool:
    """Whether each line is a label, a space and a text.

    First words that come back are not enough: picture captions begin with "A" and "Two". So a label
    must be a number or have a colon inside, as in "1 good film" and "HUM:ind Who was he ?", and
    must not count up, as the numbers of verses do.
    """
    labels = [match[1] for match in map(_LINE_LABEL.match, lines) if match]
    if not len(labels) == len(lines) >= 2 * len(set(labels)):
        return False
    if ":" in "".join(labels):
        return True
    counted = sum(int(after) - int(before) == 1 for before, after in pairwise(labels))
    return 2 * counted <= len(labels)


def _open_delimited(
    files: TextFiles, delimiter: str | None, wanted: Sequence[str], is_header: Judge
) -> _Source:
    layout = find_layout(
        files.lines(LONGEST), files.name, delimiter=delimiter, wanted=wanted, is_header=is_header
    )
    single = len(layout.names) == 1

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, cells in read_rows(files.lines(LONGEST), layout, files.name):
            if cells or single:  # with one column an empty line is an empty text
                yield number, cells or [""]

    return _Source(files.name, layout.names, read, files.sha256())


def _open_jsonl(files: TextFiles) -> _Source:
    first = next(iter(files.lines(LONGEST)), "")
    if first.lstrip().startswith("["):
        raise DataError(
            f"{files.name}: one JSON array, but needed is one object a line; "
            "convert it, e.g. with jq -c '.[]'"
        )
    names = dict.fromkeys(chain.from_iterable(row for _, row in islice(_objects(files), _SAMPLE)))
    if not names:
        raise DataError(f"{files.name}: no object with fields in it")

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, row in _objects(files):
            yield number, [row.get(name) for name in names]

    return _Source(files.name, tuple(names), read, files.sha256())


def _objects(files: TextFiles) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(files.lines(LONGEST), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as err:
            detail = err.msg if isinstance(err, json.JSONDecodeError) else str(err)
            raise DataError(
                f"{files.name}:{number}: not valid JSON ({detail}); each line must be one object"
            ) from err
        if not isinstance(row, dict):
            raise DataError(
                f"{files.name}:{number}: a JSON {type(row).__name__}, but each line must be an "
                'object such as {"text": "...", "label": "..."}'
            )
        yield number, _spread(row)


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the texts of its "translation", by language, in columns of their own."""
    texts = row.get(TRANSLATION)
    if not isinstance(texts, dict):
        return row
    others = {name: cell for name, cell in row.items() if name != TRANSLATION}
    return others | {f"{TRANSLATION}.{name}": text for name, text in texts.items()}


def _open_marked(files: TextFiles, kind: Format) -> _Source:
    """Lines of ``__label__x __label__y text``, or of ``x text``."""

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in enumerate(files.lines(LONGEST), 1):
            text = line.rstrip("\r\n")
            mark = _MARKED if kind == "fasttext" else _LINE_LABEL
            labels = []
            while found := mark.match(text):
                labels.append(found[1])
                text = text[found.end() :]
                if kind == "labelled-lines":
                    break  # a number that follows is text
            yield number, (text, labels)

    reason = "label marked by __label__" if kind == "fasttext" else "label is the first word"
    columns = Columns(("text",), "label", f"{reason}, the rest of the line is text")
    return _Source(files.name, ("text", "label"), read, files.sha256(), columns)


def _open_lines(files: TextFiles) -> _Source:
    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in enumerate(files.lines(LONGEST), 1):
            yield number, (line.removesuffix("\n").removesuffix("\r"),)

    columns = Columns(("text",), None, "each line is a text")
    return _Source(files.name, ("text",), read, files.sha256(), columns)


def _label_folders(root: Path) -> list[Path]:
    """The folders that hold text files, at any depth, sorted by name."""
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(folder for folder in folders if next(_text_paths(folder), None))


def _text_paths(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.name.lower().endswith(SUFFIXES) and not hidden and path.is_file():
            yield path


def _open_folder(root: Path, encoding: str, binary_ok: bool) -> _Source:
    folders = _label_folders(root)
    if not folders:
        raise DataError(
            f"{root}: no folder with .txt files in it; needed is one folder for each label"
        )
    labels = [folder.name for folder in folders for _ in _text_paths(folder)]
    paths = tuple(path for folder in folders for path in _text_paths(folder))

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, (path, label) in enumerate(zip(paths, labels, strict=True), 1):
            yield number, (_whole_text(path, encoding, binary_ok), [label])

    listed = ", ".join(folder.name for folder in folders[:5])
    columns = Columns(("text",), "label", f"label from the folders ({listed}, ...)")
    digest = hashlib.sha256("\0".join(labels).encode("utf-8", "surrogateescape"))
    digest.update(TextFiles(str(root), paths, encoding, binary_ok).sha256().encode())
    names = tuple(str(path) for path in paths)
    return _Source(str(root), ("text", "label"), read, digest.hexdigest(), columns, names)


def _whole_text(path: Path, encoding: str, binary_ok: bool) -> str:
    text = ""
    for document in TextFiles(str(path), (path,), encoding, binary_ok).documents():
        for chunk in document:
            text += chunk
            if len(text) > LONGEST:
                raise too_long(str(path), LONGEST)
    return text.rstrip("\r\n")


def _from_rows(rows: Rows, name: str, sha256: str = "") -> _Source:
    return _Source(name, rows.names, rows.read, sha256 or rows.fingerprint)


def _check_fixed(
    columns: Columns, text_columns: Sequence[str], label_column: str | None, where: str
) -> None:
    given = [*(f"--text-column {name}" for name in text_columns)]
    given += [f"--label-column {label_column}"] if label_column else []
    if given:
        raise DataError(f"{where}: has no columns to choose by {given[0]}: {columns.reason}")


def _find_columns(
    source: _Source, text_columns: Sequence[str], label_column: str | None, labelled: bool
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


def _sample(source: _Source, most: int | None = None) -> list[Sequence[Any]]:
    """Rows from all over a source, or of its first few: a sorted one begins with one label."""
    sample: list[Sequence[Any]] = []
    stride = 1
    for count, (_, cells) in enumerate(islice(source.read(), most)):
        if count % stride == 0:
            sample.append(cells)
        if len(sample) == 2 * _SAMPLE:
            sample, stride = sample[::2], 2 * stride
    if not sample:
        raise DataError(f"{source.name}: no rows, there is nothing to read")
    return sample


def _collect(source: _Source, columns: Columns, multi_label: bool) -> Table:
    text_at = [source.names.index(name) for name in columns.texts]
    label_at = None if columns.label is None else source.names.index(columns.label)
    separator = _separator(source, label_at) if multi_label and label_at is not None else ""
    texts, labels, rows = TextStore(), [], array("q")
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


def _separator(source: _Source, label_at: int) -> str:
    """What stands between several labels in one cell."""
    cells = [str(row[label_at]) for _, row in islice(source.read(), 10 * _SAMPLE)]
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
