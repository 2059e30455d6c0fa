"""Tagged sentences from CoNLL and CoNLL-U: a token a line, an empty line after a sentence."""

import difflib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast, overload

from seqtool.errors import DataError
from seqtool.splits import Keys, text_keys
from seqtool.storage import Picked, Text, TextStore
from seqtool.text import TextFiles, open_text

SUFFIXES = (".conllu", ".conll", ".conllx", ".bio", ".iob", ".iob2")
CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_LONGEST_LINE = 1 << 20
_HEAD_LINES = 1000
_BETWEEN = "\t"  # tokens of a sentence in storage; no column can hold one
_DOCUMENT = "-DOCSTART-"  # a line of CoNLL 2003 that is no sentence


class Sentence(NamedTuple):
    """A tagged sentence."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]  # as many; empty when only tokens were asked for
    line: int  # in the file, counted from 1, of the first token


@dataclass(frozen=True)
class TagColumns:
    """Which columns of the lines are used, counted from 0, and why."""

    token: int
    tag: int | None  # None when only tokens are wanted
    width: int  # columns of every line
    conllu: bool  # tab-separated, with comments, ranges of tokens and empty nodes
    reason: str  # for the user


@dataclass(frozen=True, eq=False)
class Treebank:
    """Tagged sentences, in the order of the file; n sentences."""

    name: str  # what the user called it, for messages
    sentences: Sequence[Sentence]  # (n,)
    sha256: str  # of the file, decompressed
    columns: TagColumns
    num_tokens: int

    def __len__(self) -> int:
        return len(self.sentences)

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The tags that occur, in the order of the alphabet."""
        return tuple(sorted({tag for sentence in self.sentences for tag in sentence.tags}))

    def place(self, index: int) -> str:
        """The line on which a sentence begins, as messages name it beside the file."""
        return str(self.sentences[index].line)

    def keys(self) -> Keys:
        """Fingerprints of the sentences without their tags, (n,)."""
        return text_keys(sentence.tokens for sentence in self.sentences)

    def select(self, indices: Sequence[int]) -> "Treebank":
        """Some of the sentences, in this order; nothing is copied."""
        chosen = cast(_Sentences, self.sentences).select(indices)
        return replace(self, sentences=chosen, num_tokens=sum(len(s.tokens) for s in chosen))


class _Sentences(Sequence[Sentence]):
    """Sentences in storage as pairs of texts, tokens and tags."""

    def __init__(self, texts: Sequence[Text], lines: Sequence[int], tagged: bool) -> None:
        self._texts = texts
        self._lines = lines
        self._tagged = tagged

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Sentence: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sentence]: ...
    def __getitem__(self, index: int | slice) -> Sentence | Sequence[Sentence]:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self._sentence(self._texts[index], self._lines[index])

    def __iter__(self) -> Iterator[Sentence]:
        yield from map(self._sentence, self._texts, self._lines)

    def select(self, indices: Sequence[int]) -> "_Sentences":
        lines = array("q", (self._lines[i] for i in indices))
        return _Sentences(Picked(self._texts, indices), lines, self._tagged)

    def _sentence(self, text: Text, line: int) -> Sentence:
        tokens, tags = cast(tuple[str, str], text)
        return Sentence(
            tuple(tokens.split(_BETWEEN)), tuple(tags.split(_BETWEEN)) if self._tagged else (), line
        )


def is_treebank(files: TextFiles) -> bool:
    """Whether a file is one token a line with empty lines between sentences.

    Raises:
        DataError: If it cannot be read or is no text.
    """
    names = [suffix.lower() for suffix in Path(files.name).suffixes]
    if any(name in SUFFIXES for name in names):
        return True
    if any(name in (".csv", ".tsv", ".jsonl", ".json", ".parquet") for name in names):
        return False
    lines = [line.rstrip("\r\n") for line in islice(files.lines(_LONGEST_LINE), _HEAD_LINES)]
    filled = [line for line in lines if line.strip() and not line.startswith("#")]
    widths = {len(_cells(line, tabs=any("\t" in line for line in filled))) for line in filled}
    pauses = any(not line.strip() for line in lines[:-1])
    return pauses and len(widths) == 1 and widths != {1} and len(filled) > 1


def read_treebank(
    source: str,
    *,
    token_column: str | None = None,
    tag_column: str | None = None,
    tagged: bool = True,
    encoding: str = "utf-8",
) -> Treebank:
    """Read tagged sentences.

    In CoNLL-U comments, ranges such as ``1-2`` (the words follow one by one) and empty nodes such
    as ``8.1`` are left out: what remains are the syntactic words, on which scores are defined.

    Args:
        source: A file, plain or compressed, or ``-`` for standard input.
        token_column: Number from 1 of the column of tokens, or its CoNLL-U name; without, FORM in
            CoNLL-U, elsewhere the first, or the second if the first numbers the tokens.
        tag_column: The same for tags; without, UPOS in CoNLL-U, elsewhere the last.
        tagged: Whether tags are wanted.
        encoding: Name of a Python text encoding.

    Raises:
        ConfigError: If the encoding is unknown.
        DataError: If the file cannot be read, a line has more or fewer columns than the first or
            lacks its token or tag, or no sentence is in it.
    """
    files = open_text(source, encoding=encoding)
    columns = _find_columns(files, token_column, tag_column, tagged)
    store, starts, count = TextStore(), array("q"), 0
    for tokens, tags, line in _read(files, columns):
        store.append((_BETWEEN.join(tokens), _BETWEEN.join(tags)))
        starts.append(line)
        count += len(tokens)
    if not starts:
        raise DataError(f"{files.name}: no sentence in it, only comments or empty lines")
    sentences = _Sentences(store.finish(), starts, tagged)
    return Treebank(files.name, sentences, files.sha256(), columns, count)


def _read(files: TextFiles, columns: TagColumns) -> Iterator[tuple[list[str], list[str], int]]:
    tokens: list[str] = []
    tags: list[str] = []
    start = 0
    for number, line in enumerate(files.lines(_LONGEST_LINE), 1):
        bare = line.rstrip("\r\n")
        if not bare.strip():
            if tokens and tokens != [_DOCUMENT]:
                yield tokens, tags, start
            tokens, tags = [], []
            continue
        cells = _cells(bare, tabs=columns.conllu or "\t" in bare)
        # Elsewhere a "#" may be a token; as such it has all its columns.
        if bare.startswith("#") and (columns.conllu or len(cells) != columns.width):
            continue
        where = f"{files.name}:{number}"
        if len(cells) != columns.width:
            raise DataError(
                f"{where}: {len(cells)} columns, but {columns.width} are needed, as in the first "
                "token line; put an empty line between sentences and _ where nothing is to be said"
            )
        if columns.conllu and not cells[0].isdecimal():
            if cells[0].replace("-", "").replace(".", "").isdecimal():
                continue  # a range of tokens or an empty node
            raise DataError(f"{where}: {cells[0]!r} is not the number of a token")
        start = start if tokens else number
        tokens.append(_cell(cells, columns.token, "token", where))
        if columns.tag is not None:
            tags.append(_cell(cells, columns.tag, "tag", where))
    if tokens and tokens != [_DOCUMENT]:
        yield tokens, tags, start


def _cell(cells: Sequence[str], column: int, what: str, where: str) -> str:
    cell = cells[column].strip()
    if not cell or (cell == "_" and what == "tag"):
        raise DataError(f"{where}: no {what} in column {column + 1}; fill it in, or choose another")
    return cell


def _cells(line: str, *, tabs: bool) -> list[str]:
    return line.split("\t") if tabs else line.split()


def _find_columns(
    files: TextFiles, token_column: str | None, tag_column: str | None, tagged: bool
) -> TagColumns:
    lines = (line.rstrip("\r\n") for line in islice(files.lines(_LONGEST_LINE), _HEAD_LINES))
    rows = [line for line in lines if line.strip() and not line.startswith("#")]
    if not rows:
        raise DataError(f"{files.name}: no sentence in it, only comments or empty lines")
    first = _cells(rows[0], tabs="\t" in rows[0])
    conllu = len(rows[0].split("\t")) == len(CONLLU) and first[0].split("-")[0].isdecimal()
    names = CONLLU if conllu else tuple(str(number + 1) for number in range(len(first)))
    numbered = conllu or all(_cells(row, tabs="\t" in row)[0].isdecimal() for row in rows)
    token = 1 if numbered and len(first) > 2 else 0
    reasons = ["numbers come first" if token and not conllu else "the usual column"]
    if token_column is not None:
        token, reasons = _column(token_column, names, files.name, "--token-column"), ["given"]
    tag = None
    if tagged:
        tag = CONLLU.index("UPOS") if conllu else len(first) - 1
        reasons.append("the usual column" if conllu else "the last one")
        if tag_column is not None:
            tag, reasons[1] = _column(tag_column, names, files.name, "--label-column"), "given"
        if tag == token:
            raise DataError(
                f"{files.name}: column {names[tag]} cannot be both token and tag; "
                "there must be a column of tags"
            )
    kind = "CoNLL-U" if conllu else f"{len(first)} columns"
    reason = f"{kind}, tokens from column {names[token]} ({reasons[0]})"
    if tag is not None:
        reason += f", tags from column {names[tag]} ({reasons[1]})"
    return TagColumns(token, tag, len(first), conllu, reason)


def _column(wanted: str, names: Sequence[str], where: str, flag: str) -> int:
    upper = [name.upper() for name in names]
    if wanted.upper() in upper:
        return upper.index(wanted.upper())
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    close = difflib.get_close_matches(wanted.upper(), upper, n=1)
    advice = f"did you mean {close[0]}?" if close else "name one of these"
    raise DataError(f"{where}: no column {flag} {wanted}; there are {', '.join(names)}; {advice}")
