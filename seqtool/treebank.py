"""Tagged sentences from CoNLL and CoNLL-U: a token a line, an empty line after a sentence."""

import difflib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast, overload

from seqtool.errors import ConfigError, DataError
from seqtool.splits import Keys, text_keys
from seqtool.storage import Picked, Text, TextStore
from seqtool.text import TextFiles, open_text

SUFFIXES = (".conllu", ".conll", ".conllx", ".bio", ".iob", ".iob2")
CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_LONGEST_LINE = 1 << 20
_HEAD_LINES = 1000
_BETWEEN = "\t"  # tokens of a sentence in storage; no column can hold one
_HEADER = re.compile(r"#\s*(newdoc|newpar|sent_id|text|global\.columns)\b")
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


@dataclass(frozen=True)
class Block:
    """The lines of one sentence, and of what stands around it, as they came."""

    lines: list[str]  # each with its line end; the last one is empty, but at the end of the file
    places: list[int]  # which of them are tokens, (n,)
    tokens: list[str]  # (n,)

    def filled(self, tags: Sequence[str], column: int) -> str:
        """The same lines with tags (n,) in a column, from 0; one more behind the last is added."""
        lines = self.lines.copy()
        for place, tag in zip(self.places, tags, strict=True):
            bare = lines[place].rstrip("\r\n")
            end = lines[place][len(bare) :] or "\n"
            tabs = "\t" in bare
            cells = re.split(r"(\t)" if tabs else r"(\s+)", bare)  # with what separates them
            at = 2 * column
            cells[at : at + 1] = [tag] if at < len(cells) else ["\t" if tabs else " ", tag]
            lines[place] = "".join(cells) + end
        return "".join(lines)


def read_blocks(
    lines: Iterable[str],
    name: str,
    token_column: int,
    tag_column: int,
    *,
    conllu: bool | None = None,
) -> Iterator[Block]:
    """Sentences to be tagged, one by one as their lines come.

    Args:
        lines: Each with its line end.
        name: Of the source, for messages.
        token_column: From 0.
        tag_column: From 0; at most one behind the last.
        conllu: Whether it must be CoNLL-U, or must not; None if it may.

    Raises:
        DataError: While iterating, if a line has too few columns, or not those of the first.
    """
    width, is_conllu = 0, False
    found = Block([], [], [])
    for number, line in enumerate(lines, 1):
        bare, where = line.rstrip("\r\n"), f"{name}:{number}"
        found.lines.append(line)
        if not bare.strip():
            yield found
            found = Block([], [], [])
            continue
        if not width and not bare.startswith("#"):
            cells = _cells(bare, tabs="\t" in bare)
            width, is_conllu = len(cells), _is_conllu(bare.split("\t"))
            other = conllu is not None and conllu != is_conllu
            if other or width <= token_column or width < tag_column:
                kind = "CoNLL-U" if is_conllu else f"{width} columns"
                raise DataError(
                    f"{where}: {kind}, but in training words were in column {token_column + 1} "
                    f"and labels in {tag_column + 1}{' of CoNLL-U' if conllu else ''}; say where "
                    "they are here with --token-column and --label-column"
                )
        parts = _token_cells(bare, width, is_conllu, where) if width else None
        if parts is not None and parts[token_column] != _DOCUMENT:
            found.places.append(len(found.lines) - 1)
            found.tokens.append(_cell(parts, token_column, "token", where))
    if found.lines:
        yield found


def column_number(wanted: str, flag: str) -> int:
    """The number, from 1, of a column named by it or by its name in CoNLL-U.

    Raises:
        ConfigError: If it is neither.
    """
    if wanted.upper() in CONLLU:
        return CONLLU.index(wanted.upper()) + 1
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ConfigError(
            f"{flag} must be a number from 1, or one of {', '.join(CONLLU)}, got {wanted!r}"
        )
    return int(wanted)


def begins_conllu(line: str) -> bool:
    """Whether a text that begins with this line is CoNLL-U."""
    return bool(_HEADER.match(line)) or _is_conllu(line.rstrip("\r\n").split("\t"))


def _is_conllu(cells: Sequence[str]) -> bool:
    return len(cells) == len(CONLLU) and cells[0].split("-")[0].isdecimal()


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
    if filled and _is_conllu(filled[0].split("\t")):
        return True  # also if it is one sentence
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
    return parse_treebank(open_text(source, encoding=encoding), token_column, tag_column, tagged)


def parse_treebank(
    files: TextFiles, token_column: str | None, tag_column: str | None, tagged: bool = True
) -> Treebank:
    """As ``read_treebank``, of a text that is open: a pipe can be opened only once."""
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
        where = f"{files.name}:{number}"
        cells = _token_cells(bare, columns.width, columns.conllu, where)
        if cells is None:
            continue
        start = start if tokens else number
        tokens.append(_cell(cells, columns.token, "token", where))
        if columns.tag is not None:
            tags.append(_cell(cells, columns.tag, "tag", where))
    if tokens and tokens != [_DOCUMENT]:
        yield tokens, tags, start


def _token_cells(line: str, width: int, conllu: bool, where: str) -> list[str] | None:
    """The columns of a token's line; None for a comment, a range of tokens or an empty node.

    Raises:
        DataError: If there are more or fewer columns than ``width``.
    """
    cells = _cells(line, tabs=conllu or "\t" in line)
    # Elsewhere a "#" may be a token; as such it has all its columns.
    if line.startswith("#") and (conllu or len(cells) != width):
        return None
    if len(cells) != width:
        raise DataError(
            f"{where}: {len(cells)} columns, but {width} are needed, as in the first token line; "
            "put an empty line between sentences and _ where nothing is to be said"
        )
    if conllu and not cells[0].isdecimal():
        if cells[0].replace("-", "").replace(".", "").isdecimal():
            return None
        raise DataError(f"{where}: {cells[0]!r} is not the number of a token")
    return cells


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
    conllu = _is_conllu(rows[0].split("\t"))
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
