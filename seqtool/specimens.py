"""What a model is shown when it is looked into: a text, or examples and their labels."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from seqtool.annotator import Annotator
from seqtool.census import Tally
from seqtool.checkpoint import Card
from seqtool.config import OnUnknown
from seqtool.console import Console, number_of
from seqtool.data import encode_documents
from seqtool.delimited import LONGEST
from seqtool.errors import DataError
from seqtool.findings import Attended, Belief, Labelled
from seqtool.formats import guess_format
from seqtool.images import are_names, read_images
from seqtool.judge import ImageJudge, TextJudge
from seqtool.labelled import Data, read_like, strings
from seqtool.pipes import given_text
from seqtool.pixels import step_count
from seqtool.scans import beside
from seqtool.tables import Table, read_table
from seqtool.text import open_text
from seqtool.tokenizer import Tokenizer
from seqtool.translation import STRIPS, TextTranslator, Translation, Wishes
from seqtool.treebank import is_treebank, parse_treebank
from seqtool.unseen import apply_unknown_policy

if TYPE_CHECKING:
    from seqtool.judging import Sequences

MOST_TEXTS = 100_000  # lines of a file that are looked at
MOST_LISTED = 12  # characters named
WINDOWS = 16  # texts that the gradient flow of a classifier is measured on
LONGEST_WINDOW = 128  # elements back that it is followed
ELEMENTS = {"char": "character", "byte": "byte", "bpe": "piece"}  # of units that are not words
NOTHING = np.empty(0, np.int64)  # no ids
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # what else might be a table, is a text as well


@dataclass(frozen=True)
class Reading:
    """What a language model reads; documents and labels only of a table that has them."""

    text: np.ndarray  # ids, each document after a start id, (n,)
    documents: Sequence[np.ndarray] = ()  # the same one by one
    labels: Sequence[str] = ()  # of the documents
    before: np.ndarray = field(default_factory=NOTHING.copy)  # ids that stand before the text, (m,)


def read_language(
    source: str,
    tokenizer: Tokenizer,
    *,
    needed: int,
    encoding: str,
    on_unknown: OnUnknown,
    console: Console,
) -> Reading:
    """Read a text, or the texts of a labelled table.

    Args:
        source: What the user named: a file, a directory, "-", or a text of several words.
        tokenizer: The model's.
        needed: Tokens to read at least, if there are so many.
        encoding: Of the text.
        on_unknown: What to do with characters that the model does not know.
        console: Told of them.

    Raises:
        DataError: If there is none.
        ConfigError: If it holds unknown characters and those are errors.
    """
    table = _labelled_table(source, encoding, console)
    # One word alone is the name of a file, be it there or not.
    text = given_text(source) if len(source.split()) > 1 else None
    documents: Iterator[Iterator[str]]
    if text is not None:
        name, documents = "the text", iter([iter([text])])
    elif table is None:
        files = open_text(source, encoding=encoding, binary_ok=tokenizer.kind == "byte")
        name, documents = files.name, files.documents()
    else:
        # A row is a line of its own.
        name, documents = table.name, (iter([text + "\n"]) for text in strings(table))
    console.status(f"reading {name}")
    unknown: Counter[str] = Counter()

    def known(document: Iterator[str]) -> Iterator[str]:
        for chunk in document:
            made, counts = apply_unknown_policy(chunk, tokenizer, on_unknown, name)
            unknown.update(counts)
            yield made

    found, total = list[np.ndarray](), 0
    for document in documents:
        pieces = [NOTHING]
        for ids in encode_documents([known(document)], tokenizer, Tally()):
            pieces.append(ids.astype(np.int64))
            total += len(ids)
            if total > needed:
                break
        found.append(np.concatenate(pieces))
        if total > needed:
            break
    if total < 2:
        raise DataError(f"{name}: no text to look at")
    if unknown:
        listed = " ".join(map(repr, islice(unknown, MOST_LISTED)))
        console.warn(
            f"{name}: {number_of(unknown.total(), 'character')} not in the model's vocabulary: "
            f"{listed}; "
            "--on-unknown nearest reads the nearest ones instead"
        )
    read = np.concatenate(found)
    if table is None:
        return Reading(read)
    rows = [row for row, ids in enumerate(found) if len(ids)]
    return Reading(read, [found[row] for row in rows], [str(table.labels[row]) for row in rows])


def _labelled_table(source: str, encoding: str, console: Console) -> Table | None:
    """The table that a file's name says it is, if it has labels."""
    if not source.lower().removesuffix(".gz").endswith(TABLES):
        return None
    try:
        table = read_table(source, encoding=encoding)
    except DataError as err:
        console.notice(f"{err}; read as plain text")
        return None
    console.notice(
        f"{table.name}: a table; reading {', '.join(table.columns.texts)}, and units are also "
        f"matched with {table.columns.label}"
    )
    return table


@dataclass(frozen=True)
class Specimens:
    """What a classifier is shown: N texts or N pictures."""

    texts: Sequence[str]  # (N,), or none
    pixels: npt.NDArray[np.uint8] | None  # (N, H, W, C), or None
    labels: Sequence[str]  # (N,), "" for one that is not known
    names: Sequence[str]  # (N,), where each was found

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: Sequence[int]) -> "Specimens":
        """Some of them, in any order."""
        texts = [self.texts[row] for row in rows] if self.pixels is None else []
        pixels = None if self.pixels is None else self.pixels[list(rows)]
        labels, names = ([values[row] for row in rows] for values in (self.labels, self.names))
        return Specimens(texts, pixels, labels, names)

    def lengths(self, judge: TextJudge | ImageJudge) -> npt.NDArray[np.int64]:
        """Words or rows that are read of each, (N,)."""
        if isinstance(judge, ImageJudge):
            assert self.pixels is not None
            return np.full(len(self), step_count(self.pixels.shape[1:], judge.by))
        return np.clip(judge.lexicon.encode(self.texts).lengths, 1, judge.max_length)


def read_specimens(source: str, card: Card, encoding: str) -> Specimens:
    """Read labelled or unlabelled texts, one text given in place of a file, or pictures.

    Raises:
        DataError: If they cannot be read or there are none.
    """
    if shape := card.source.get("image_shape"):
        images = read_images(source, size=(shape[0], shape[1]), colour=shape[2] == 3)
        names = [images.place(index) for index in range(len(images))]
        return Specimens([], images.pixels, images.labels or [""] * len(images), names)
    text = given_text(source)
    if text is not None:
        return _texts([text], [""], ["the text"], source)
    pictures = "scanner" in card.source  # texts are names of images
    if pictures and are_names([source]):
        return _texts([source], [""], [source], source)
    if source == "-" or guess_format(source, encoding=encoding) == "lines":
        files = open_text(source, encoding=encoding)
        lines = [line.rstrip("\r\n") for line in islice(files.lines(LONGEST), MOST_TEXTS)]
        names = [f"{files.name}:{number}" for number in range(1, len(lines) + 1)]
        lines = [*map(str, beside(source, lines))] if pictures else lines
        return _texts(lines, [""] * len(lines), names, source)
    if "source_column" in card.source:  # of a translator; what is to be said is not needed
        table, name = _read_sources(source, card.source["source_column"], encoding)
        names = [table.where(index) + name for index in range(len(table))]
        found = [*map(str, beside(source, strings(table)))] if pictures else strings(table)
        return _texts(found, [""] * len(names), names, source)
    try:
        data: Data = read_like(source, card, encoding)
    except DataError:
        columns = tuple(card.source["text_columns"])
        data = read_table(source, text_columns=columns, labelled=False, encoding=encoding)
    assert isinstance(data, Table), "images were refused"
    names = [data.where(index) for index in range(len(data))]
    labels = [label if isinstance(label, str) else "" for label in data.labels]
    return _texts(strings(data), labels or [""] * len(names), names, source)


def _read_sources(source: str, column: str, encoding: str) -> tuple[Table, str]:
    """The column that a translator has learned from, or if there is none such the likeliest.

    Returns:
        The table, and the name of a column that was guessed, to be said after each place.
    """
    try:
        return read_table(source, text_columns=(column,), labelled=False, encoding=encoding), ""
    except DataError:
        (guessed, *_) = read_table(source, labelled=False, encoding=encoding).columns.texts
    table = read_table(source, text_columns=(guessed,), labelled=False, encoding=encoding)
    return table, f" ({guessed})"


def _texts(
    texts: Sequence[str], labels: Sequence[str], names: Sequence[str], source: str
) -> Specimens:
    """Those that hold anything."""
    rows = [row for row, text in enumerate(texts) if text.strip()]
    if not rows:
        raise DataError(f"{source}: no text to look at")
    return Specimens(texts, None, labels, names).select(rows)


def read_beliefs(
    judge: TextJudge | ImageJudge, specimens: Specimens, start: int, length: int
) -> list[tuple[int, Belief]]:
    """How some specimens are judged while they are read, one after the other.

    Args:
        judge: The model as it is used.
        specimens: N of them.
        start: The first one.
        length: Words or rows in all; the last specimen may be cut, but by no more than it must.

    Returns:
        The number of each and its belief.
    """
    found: list[tuple[int, Belief]] = []
    for row in range(start, len(specimens)):
        name, label = specimens.names[row], specimens.labels[row]
        if isinstance(judge, ImageJudge):
            assert specimens.pixels is not None
            pixels = specimens.pixels[row]
            p = judge.trace(pixels)
            belief = Belief(name, [""] * len(p), p, label, pixels, judge.by)
        else:
            most = min(length, judge.max_length)
            words, probabilities = judge.trace(_beginning(judge, specimens.texts[row], most))
            element = ELEMENTS.get(judge.lexicon.unit, "word")
            belief = Belief(name, words, probabilities, label, element=element)
        if belief.pieces:
            found.append((row, belief))
            length -= len(belief.pieces)
        if length <= 0:
            break
    return found


@dataclass(frozen=True)
class Sentences:
    """What a tagger is shown: N sentences."""

    tokens: Sequence[Sequence[str]]  # words of each, one at least
    labels: Sequence[Sequence[str]]  # of its words, none if they are not known
    names: Sequence[str]  # where each was found

    def __len__(self) -> int:
        return len(self.names)


def read_sentences(source: str, card: Card, encoding: str) -> Sentences:
    """Read tagged sentences, or lines or one text cut at white space.

    Raises:
        DataError: If they cannot be read or there are none.
    """
    text = given_text(source)
    if text is not None:
        return Sentences([text.split()], [()], ["the text"])
    files = open_text(source, encoding=encoding)
    if is_treebank(files):
        token, tag = (str(card.source[f"{part}_column"]) for part in ("token", "label"))
        bank = parse_treebank(files, token, tag)
        rows = [*islice(bank.sentences, MOST_TEXTS)]
        names = [f"{bank.name}:{row.line}" for row in rows]
        return Sentences([row.tokens for row in rows], [row.tags for row in rows], names)
    lines = enumerate(islice(files.lines(LONGEST), MOST_TEXTS), 1)
    filled = [(number, line.split()) for number, line in lines if line.strip()]
    if not filled:
        raise DataError(f"{source}: no text to look at")
    names = [f"{files.name}:{number}" for number, _ in filled]
    return Sentences([words for _, words in filled], [()] * len(filled), names)


def read_labelled(
    annotator: Annotator, sentences: Sentences, start: int, length: int
) -> list[Labelled]:
    """How sentences from number ``start`` on are labelled; ``length`` words or little more."""
    sizes = np.cumsum([len(tokens) for tokens in sentences.tokens[start:]])
    rows = range(start, start + 1 + int(np.searchsorted(sizes[:-1], length)))
    tokens = [sentences.tokens[row] for row in rows]
    return [
        Labelled(sentences.names[row], [*words], labels, [*sentences.labels[row]], p)
        for row, words, (labels, p) in zip(rows, tokens, annotator.beliefs(tokens), strict=True)
    ]


def read_attended(
    translator: TextTranslator, specimens: Specimens, start: int, length: int
) -> list[tuple[Attended, Translation]]:
    """Where a translator looks in texts from number ``start`` on; ``length`` tokens in all."""
    found: list[tuple[Attended, Translation]] = []
    for row in range(start, len(specimens)):
        if length <= 0:
            break
        ((best,),) = translator.translate([specimens.texts[row]], Wishes())
        (look,) = translator.align([best])
        if translator.scanner is not None:
            look = look.in_strips(STRIPS)
        name = specimens.names[row]
        shown = Attended(name, best.text, look.source, look.target, look.weights)
        found.append((shown, best))
        length -= len(look.target) + len(look.source)
    return found


def _beginning(judge: TextJudge, text: str, most: int) -> str:
    """The first words of a text."""
    ends = judge.lexicon.ends(text)
    return text[: ends[most - 1]] if len(ends) > most else text


def as_shown(specimens: Specimens, shown: Sequence[tuple[int, Belief]]) -> Specimens:
    """Those that beliefs are about, as far as they were read."""
    found = specimens.select([row for row, _ in shown])
    if found.pixels is not None:
        return found
    return replace(found, texts=["".join(belief.pieces) for _, belief in shown])


def spread_rows(judge: TextJudge | ImageJudge, specimens: Specimens, most: int) -> list[int]:
    """Specimens from all over the source in random order, with at most so many elements."""
    order = np.random.default_rng(0).permutation(len(specimens))
    total = np.cumsum(specimens.lengths(judge)[order])
    count = max(1, int(np.searchsorted(total, most, side="right")))
    kept: list[int] = order[:count].tolist()
    return kept


def own_labels(
    judge: TextJudge | ImageJudge, specimens: Specimens, classes: Sequence[str]
) -> list[str]:
    """What the model takes them for."""
    if isinstance(judge, ImageJudge):
        assert specimens.pixels is not None
        p = judge.probabilities(specimens.pixels)
    else:
        p = judge.probabilities(specimens.texts)
    return [classes[best] for best in p.argmax(axis=1)]


def sequences(
    judge: TextJudge | ImageJudge, specimens: Specimens, longest: int | None = None
) -> "Sequences":
    """Specimens as the classifier reads them, cut to a length if they are longer."""
    from seqtool.judging import ImageSequences, TextSequences

    if isinstance(judge, ImageJudge):
        assert specimens.pixels is not None
        pixels = specimens.pixels
        if longest is not None:  # whole rows of pixels only
            height, count = pixels.shape[1], step_count(pixels.shape[1:], judge.by)
            pixels = pixels[:, : max(1, longest * height // count)]
        return ImageSequences(pixels, judge.by, judge.mean, judge.deviation)
    texts = judge.lexicon.encode(specimens.texts).cut(longest or judge.max_length)
    return TextSequences(texts, judge.lexicon.table)


def windows(
    judge: TextJudge | ImageJudge, specimens: Specimens, longest: int | None
) -> "Sequences":
    """Specimens of one length, as long as that many of them are.

    Args:
        judge: Tells the words.
        specimens: In no order.
        longest: Lag of the gradient flow, at most; a text of n elements has lags up to n - 1.
    """
    rows, steps = choose_windows(specimens.lengths(judge), longest)
    return sequences(judge, specimens.select(rows), steps)


def choose_windows(lengths: npt.NDArray[np.int64], longest: int | None) -> tuple[list[int], int]:
    """Rows of some lengths (N,) to be cut to one that as many as are wanted have, and that one."""
    few = min(WINDOWS, -(-len(lengths) // 2))
    steps = min(int(np.sort(lengths)[-few]), (longest or LONGEST_WINDOW) + 1)
    rows: list[int] = np.flatnonzero(lengths >= steps)[:WINDOWS].tolist()
    return rows, steps
