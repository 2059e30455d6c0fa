"""The ``translate`` command: line n of what goes out answers line n of what comes in.

Lines that come fast are translated many at once, one that comes alone at once. A table keeps its
columns and gets one more.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from seqtool.columns import looks_like_header as tables_have_header
from seqtool.config import OnUnknown, Precision
from seqtool.console import Console, number_of
from seqtool.delimited import LONGEST, Record, RowStream, delimiter_of
from seqtool.distributed import shared_out
from seqtool.errors import ConfigError, DataError
from seqtool.images import are_names, read_image
from seqtool.output import emit
from seqtool.pipes import batches, given_text, read_lines
from seqtool.scans import beside
from seqtool.sheet import Sheet
from seqtool.sides import looks_like_header as pairs_have_header
from seqtool.translation import (
    STRIPS,
    Alignment,
    TextTranslator,
    Translation,
    Wishes,
    load_translator,
)
from seqtool.unseen import DONE

Found = list[list[Translation]]  # of each text its translations, the best first
ItemT = TypeVar("ItemT")

AHEAD = 4  # batches whose lines are sorted by length together
MOST_NAMED = 5  # lines that were cut, characters never seen


@dataclass(frozen=True)
class TranslateRequest:
    """What the user asked ``translate`` for."""

    model: Path
    source: str | None  # a file, "-" or a text; None is "-"
    wishes: Wishes
    on_unknown: OnUnknown
    attention: bool
    text_column: str | None
    encoding: str | None
    precision: Precision
    threads: int | None
    json: bool


def translate(request: TranslateRequest, console: Console) -> int:
    """Translate lines, rows or one text; gives the exit status.

    Raises:
        SeqtoolError: If model, input or options do not fit.
    """
    translator = load_translator(
        request.model,
        precision=request.precision,
        threads=request.threads,
        announce=console.compiling,
    )
    answerer = Answerer(request, translator, console)
    if request.attention and translator.translator.config.attention == "none":
        raise ConfigError(
            f"--attention: {request.model} was trained without attention; train one without "
            "--no-attention"
        )
    source = request.source or "-"
    text = given_text(source)

    def answered(part: tuple[int, list[str]]) -> Answers:
        first, batch = part
        return answerer.answer(first, [x.removesuffix("\n").removesuffix("\r") for x in batch])

    try:
        if text is not None:
            answerer.tell(answerer.answer(1, [text]))
            return 0
        if answerer.reads_images and Path(source).is_dir():
            raise ConfigError(
                f"{source}: a directory; name one image, or many on the lines of a file or of "
                f"standard input: ls {source}/* | seqtool translate {request.model}"
            )
        if answerer.reads_images and are_names([source]):
            lines = iter([source])
        else:
            lines = read_lines(source, request.encoding or "utf-8", LONGEST)
        if request.text_column is not None or delimiter_of(source):
            _answer_table(request, answerer, lines, source)
            return 0
        size = AHEAD * request.wishes.batch_size
        readable = answerer.readable(lines, str.strip)
        for found in shared_out(numbered(batches(readable, size, live=source == "-")), answered):
            answerer.tell(found)
    finally:
        answerer.remark()
    return 0


class Answers(NamedTuple):
    """What is said of some texts, and what a person should know of them."""

    said: str
    cut: list[int]  # numbers of the texts that were too long for one piece
    unknown: Counter[str]  # characters that training never saw


def numbered(batches: Iterable[list[ItemT]]) -> Iterator[tuple[int, list[ItemT]]]:
    """Batches, each with the number of its first item, from 1."""
    first = 1
    for batch in batches:
        yield first, batch
        first += len(batch)


class Answerer:
    """Turns texts into lines, and remembers what a person should know of those told."""

    def __init__(
        self, request: TranslateRequest, translator: TextTranslator, console: Console
    ) -> None:
        """Take the options and the model."""
        self.request = request
        self.translator = translator
        self.console = console
        self.cut: list[int] = []
        self.unknown: Counter[str] = Counter()

    @property
    def reads_images(self) -> bool:
        """Whether texts are names of images."""
        return self.translator.scanner is not None

    def readable(self, items: Iterable[ItemT], text: Callable[[ItemT], str]) -> Iterator[ItemT]:
        """Items as they come, those before an image that cannot be read.

        Raises:
            DataError: At that one.
        """
        for number, item in enumerate(items, 1):
            if self.reads_images and (name := text(item).strip()):
                try:
                    read_image(self._path(name))
                except DataError as err:
                    raise DataError(f"line {number}: {err}") from err
            yield item

    def _path(self, name: str) -> Path:
        """Where an image is: seen from the folder of the file that names it, or from here."""
        source = self.request.source or "-"
        return Path(name) if source == name else beside(source, [name])[0]

    def answer(
        self, first: int, texts: Sequence[str], write: Callable[[Found], str] | None = None
    ) -> Answers:
        """Translate texts.

        Args:
            first: The number of the first of them, from 1.
            texts: Without line ends.
            write: Makes lines of what was found; None writes what was asked for.

        Raises:
            DataError: For characters that training never saw, if that was asked for.
        """
        side, known, unknown = self.translator.spelling.source, list[str](), Counter[str]()
        for number, text in enumerate(texts, first):
            if not text.strip():
                known.append("")
                continue
            if side is None:
                known.append(str(self._path(text.strip())))
                continue
            where = "the text" if self.request.source == text else f"line {number}"
            made, counts = side.known(text, self.request.on_unknown, where)
            unknown.update(counts)
            known.append(made)
        found = self.translator.translate(known, self.request.wishes)
        cut = [number for number, several in enumerate(found, first) if len(several[0].ids) > 1]
        return Answers((write or self._written)(found), cut, unknown)

    def tell(self, answers: Answers) -> None:
        """Print what was said, and keep the rest for ``remark``."""
        self.console.clear_status()
        emit(answers.said, styled=self.request.attention and not self.request.json)
        self.cut += answers.cut
        self.unknown.update(answers.unknown)

    def _written(self, found: Found) -> str:
        if not (self.request.json or self.request.attention):
            return "".join(map(_line, found))
        looks = self.translator.align([several[0] for several in found])
        pairs = list(zip(found, looks, strict=True))
        if self.request.json:
            return "".join(self._object(several, look) for several, look in pairs)
        sheet = Sheet()
        for several, look in pairs:
            for translation in several:
                sheet.line(self.console.printable(translation.text))
            if look.target:
                drawn = look.in_strips(STRIPS) if self.reads_images else look
                sheet.grid(drawn.target, drawn.source, drawn.weights.tolist())
                sheet.line()
        return sheet.take()

    def _object(self, several: Sequence[Translation], look: Alignment) -> str:
        best = several[0]
        made: dict[str, Any] = {"text": best.text}
        if best.ids:
            made |= {"score": best.score, "tokens": look.target, "log_probs": best.log_probs}
        if best.ids and self.translator.translator.config.attention != "none":
            if not self.reads_images:
                made["source_tokens"] = look.source
            made["alignment"] = look.looked_at
            if self.request.attention:
                made["attention"] = [[round(float(w), 4) for w in row] for row in look.weights]
        if self.request.wishes.beam.n_best > 1:
            made["n_best"] = [
                {"text": one.text, "score": one.score, "log_probs": one.log_probs}
                for one in several
            ]
        return json.dumps(made, ensure_ascii=False) + "\n"

    def remark(self) -> None:
        """Tell what was read otherwise than it stood there."""
        if self.unknown:
            listed = " ".join(map(repr, [*self.unknown][:MOST_NAMED]))
            more = " ..." if len(self.unknown) > MOST_NAMED else ""
            self.console.notice(
                f"{number_of(self.unknown.total(), 'character')} that training never saw, "
                f"{DONE[self.request.on_unknown]}: {listed}{more}"
            )
        if self.cut:
            listed = ", ".join(map(str, self.cut[:MOST_NAMED]))
            more = f" and {len(self.cut) - MOST_NAMED} more" if len(self.cut) > MOST_NAMED else ""
            self.console.warn(
                f"lines longer than training's {self.translator.limit} tokens were translated "
                f"piece by piece: {listed}{more}"
            )


def _line(several: Sequence[Translation]) -> str:
    """The translations of a text as a line; a tab stands between two of them and in none."""
    if len(several) == 1:
        return several[0].text + "\n"
    return "\t".join(one.text.replace("\t", " ") for one in several) + "\n"


def _answer_table(
    request: TranslateRequest, answerer: Answerer, lines: Iterable[str], source: str
) -> None:
    if request.attention:
        raise ConfigError("--attention draws for lines of text, not for a table; leave it out")
    live = source == "-"
    trained_on = answerer.translator.card.source.get("source_column") or ""
    rows = RowStream(
        lines,
        "standard input" if live else source,
        text_columns=tuple(filter(None, [request.text_column])),
        preferred=(trained_on,) if trained_on else (),
        delimiter=delimiter_of(source),
        live=live,
        # Training's columns had no names, so a first row of words is rather a row.
        is_header=pairs_have_header if trained_on.isdecimal() else tables_have_header,
    )
    count = request.wishes.beam.n_best
    if not request.json:
        emit(rows.header(["translation"] * count))

    def answered(part: tuple[int, list[Record]]) -> Answers:
        first, batch = part

        def write(found: Found) -> str:
            cells = [[one.text for one in several] for several in found]
            pairs = zip(batch, cells, strict=True)
            return "".join(rows.answer(row, [*c, *[""] * (count - len(c))]) for row, c in pairs)

        texts = [" ".join(record.texts) for record in batch]
        return answerer.answer(first, texts, None if request.json else write)

    readable = answerer.readable(rows, lambda record: " ".join(record.texts))
    read = batches(readable, AHEAD * request.wishes.batch_size, live=live)
    for found in shared_out(numbered(read), answered):
        answerer.tell(found)
