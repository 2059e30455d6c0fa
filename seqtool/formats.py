"""How tables of texts are written: each format as rows of named cells that can be read again.

CSV, TSV, JSON Lines, Parquet, fastText lines, "label text" lines, dictionaries of pronunciations,
one folder per label, plain lines and data sets of the Hugging Face hub. What a cell means is the
business of tables.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Literal

from seqtool.columns import Columns, are_symbols, looks_like_header
from seqtool.delimited import LONGEST, Judge, find_layout, read_rows
from seqtool.errors import DataError
from seqtool.hub import TRANSLATION, Rows, hub_name, open_hub, open_parquet
from seqtool.text import PACKED, SUFFIXES, TextFiles, open_text, too_long

Format = Literal[
    "csv",
    "tsv",
    "jsonl",
    "parquet",
    "fasttext",
    "labelled-lines",
    "pronunciations",
    "folder",
    "hub",
    "lines",
]

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
# Of CMUdict: remarks on their own lines or behind others, the number of a further pronunciation.
_REMARK = re.compile(r"^;;;.*|\s+#.*")
_VARIANT = re.compile(r"(?<=.)\(\d+\)$")
SAMPLE = 1000  # rows from which formats and columns are guessed


@dataclass(frozen=True)
class Source:
    """Rows of named cells that can be read any number of times."""

    name: str
    names: tuple[str, ...]
    read: Callable[[], Iterator[tuple[int, Sequence[Any]]]]
    sha256: str
    columns: Columns | None = None  # where the format itself says what is text and label
    files: tuple[str, ...] = ()


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


def open_source(
    source: str,
    text_columns: Sequence[str],
    label_column: str | None,
    labelled: bool,
    encoding: str,
    binary_ok: bool,
    is_header: Judge = looks_like_header,
) -> Source:
    """The rows of a source, to be read any number of times; arguments as those of ``read_table``.

    Raises:
        ConfigError, DataError: As ``read_table``.
    """
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
        case "pronunciations":
            return _open_pronunciations(files)
        case _ if not labelled:
            return _open_lines(files)
    raise DataError(
        f"{files.name}: no labels found; needed is a CSV, TSV, JSON Lines or Parquet file, lines "
        "that begin with __label__NAME or with a label and a space, or a folder per label"
    )


def named_format(name: str) -> Format | None:
    """What the end of a file's name says, below compression."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return _SUFFIX_FORMATS.get(suffixes[-1]) if suffixes else None


def _file_format(files: TextFiles) -> Format:
    if named := named_format(files.name):
        return named
    blocks = files.blocks(files.paths[0] if files.paths else None)
    if next(blocks, b"").startswith(b"PAR1"):
        return "parquet"
    head = [line.rstrip("\r\n") for line in islice(files.lines(LONGEST), SAMPLE)]
    filled = [line for line in head if line.strip()]
    if not filled:
        return "lines"
    if all(line.startswith("{") for line in filled):
        return "jsonl"
    if 2 * sum(_MARKED.match(line) is not None for line in filled) > len(filled):
        return "fasttext"  # a line without a mark is a row without a label, and told as such
    for mark, kind in (("\t", "tsv"), (",", "csv")):
        # Prose has commas too, but not the same number on every line.
        counts = {line.count(mark) for line in filled}
        if len(filled) > 1 and len(counts) == 1 and counts != {0}:
            return kind  # type: ignore[return-value]
    if _are_pronunciations(filled):
        return "pronunciations"
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


def _are_pronunciations(lines: Sequence[str]) -> bool:
    """Whether each line is a word and, behind white space, its sounds with spaces between.

    Prose has no first words that hardly ever come back, and few other words that always do.
    """
    entries = [entry for entry in map(_entry, lines) if entry is not None]
    words = {word for word, _ in entries if word[:1].isalpha()}
    sounds = [sound for _, sound in entries]
    symbols = {symbol for sound in sounds for symbol in sound.split()}
    again = 2 * len(symbols) <= sum(len(sound.split()) for sound in sounds)
    return again and 2 * len(words) > len(entries) and all(sounds) and are_symbols(sounds)


def _entry(line: str) -> tuple[str, str] | None:
    """The word of a line of a dictionary and its sounds; None for a remark."""
    word, _, sounds = " ".join(_REMARK.sub("", line).split()).partition(" ")
    return (_VARIANT.sub("", word), sounds) if word else None


def _open_pronunciations(files: TextFiles) -> Source:
    """Lines of ``HELLO(2)  HH EH0 L OW1 # a remark``."""

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in enumerate(files.lines(LONGEST), 1):
            if (entry := _entry(line)) is not None:
                yield number, entry

    return Source(files.name, ("word", "pronunciation"), read, files.sha256())


def _open_delimited(
    files: TextFiles, delimiter: str | None, wanted: Sequence[str], is_header: Judge
) -> Source:
    layout = find_layout(
        files.lines(LONGEST), files.name, delimiter=delimiter, wanted=wanted, is_header=is_header
    )
    single = len(layout.names) == 1

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, cells in read_rows(files.lines(LONGEST), layout, files.name):
            if cells or single:  # with one column an empty line is an empty text
                yield number, cells or [""]

    return Source(files.name, layout.names, read, files.sha256())


def _open_jsonl(files: TextFiles) -> Source:
    first = next(iter(files.lines(LONGEST)), "")
    if first.lstrip().startswith("["):
        raise DataError(
            f"{files.name}: one JSON array, but needed is one object a line; "
            "convert it, e.g. with jq -c '.[]'"
        )
    names = dict.fromkeys(chain.from_iterable(row for _, row in islice(_objects(files), SAMPLE)))
    if not names:
        raise DataError(f"{files.name}: no object with fields in it")

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, row in _objects(files):
            yield number, [row.get(name) for name in names]

    return Source(files.name, tuple(names), read, files.sha256())


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


def _open_marked(files: TextFiles, kind: Format) -> Source:
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
    return Source(files.name, ("text", "label"), read, files.sha256(), columns)


def _open_lines(files: TextFiles) -> Source:
    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in enumerate(files.lines(LONGEST), 1):
            yield number, (line.removesuffix("\n").removesuffix("\r"),)

    columns = Columns(("text",), None, "each line is a text")
    return Source(files.name, ("text",), read, files.sha256(), columns)


def _label_folders(root: Path) -> list[Path]:
    """The folders that hold text files, at any depth, sorted by name."""
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(folder for folder in folders if next(_text_paths(folder), None))


def _text_paths(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.name.lower().endswith(SUFFIXES) and not hidden and path.is_file():
            yield path


def _open_folder(root: Path, encoding: str, binary_ok: bool) -> Source:
    folders = _label_folders(root)
    if not folders:
        return _open_files(root, encoding, binary_ok)
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
    return Source(str(root), ("text", "label"), read, digest.hexdigest(), columns, names)


def _open_files(root: Path, encoding: str, binary_ok: bool) -> Source:
    """A file for each label, named after it, with a text on each line."""
    parts = [
        (path.name.split(".")[0], TextFiles(str(path), (path,), encoding, binary_ok))
        for path in sorted(root.iterdir())
        if path.name.lower().endswith(SUFFIXES) and path.name[0] != "." and path.is_file()
    ]
    if len(parts) < 2:
        raise DataError(
            f"{root}: no folders with .txt files in them; needed is a folder for each label, or a "
            ".txt file for each with a text on each line"
        )

    def rows() -> Iterator[tuple[str, str, str]]:
        """Where each line stands, what it says and what its label is."""
        for label, files in parts:
            for number, line in enumerate(files.lines(LONGEST), 1):
                if text := line.rstrip("\r\n"):
                    yield f"{files.name}:{number}", text, label

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        for number, (_, text, label) in enumerate(rows(), 1):
            yield number, (text, [label])

    listed = ", ".join(label for label, _ in parts[:5])
    columns = Columns(("text",), "label", f"label from the names of the files ({listed}, ...)")
    digest = hashlib.sha256("\0".join(label for label, _ in parts).encode("utf-8", "replace"))
    for _, files in parts:
        digest.update(files.sha256().encode())
    places = tuple(place for place, _, _ in rows())
    return Source(str(root), ("text", "label"), read, digest.hexdigest(), columns, places)


def _whole_text(path: Path, encoding: str, binary_ok: bool) -> str:
    text = ""
    for document in TextFiles(str(path), (path,), encoding, binary_ok).documents():
        for chunk in document:
            text += chunk
            if len(text) > LONGEST:
                raise too_long(str(path), LONGEST)
    return text.rstrip("\r\n")


def _from_rows(rows: Rows, name: str, sha256: str = "") -> Source:
    return Source(name, rows.names, rows.read, sha256 or rows.fingerprint)
