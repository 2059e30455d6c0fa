"""The ``translate`` command: line n of what goes out answers line n of what comes in.

Lines that come fast are translated many at once, one that comes alone at once. A table keeps its
columns and gets one more.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqtool.columns import looks_like_header as tables_have_header
from seqtool.config import OnUnknown, Precision
from seqtool.console import Console
from seqtool.delimited import LONGEST, RowStream, delimiter_of
from seqtool.errors import ConfigError
from seqtool.output import emit
from seqtool.pipes import batches, given_text, read_lines
from seqtool.sheet import Sheet
from seqtool.sides import looks_like_header as pairs_have_header
from seqtool.translation import Alignment, TextTranslator, Translation, Wishes, load_translator
from seqtool.unseen import DONE, apply_unknown_policy

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
    try:
        if text is not None:
            answerer.answer([text])
            return 0
        lines = read_lines(source, request.encoding or "utf-8", LONGEST)
        if request.text_column is not None or delimiter_of(source):
            _answer_table(request, answerer, lines, source)
            return 0
        size = AHEAD * request.wishes.batch_size
        for batch in batches(lines, size, live=source == "-"):
            answerer.answer([line.removesuffix("\n").removesuffix("\r") for line in batch])
    finally:
        answerer.remark()
    return 0


class Answerer:
    """Turns texts into lines, and remembers what a person should know of them."""

    def __init__(
        self, request: TranslateRequest, translator: TextTranslator, console: Console
    ) -> None:
        """Take the options and the model."""
        self.request = request
        self.translator = translator
        self.console = console
        self.seen = 0  # texts so far
        self.cut: list[int] = []  # numbers of those that were too long for one piece
        self.unknown: Counter[str] = Counter()

    def translate(self, texts: Sequence[str]) -> list[list[Translation]]:
        """The translations of the next texts, the best of each first."""
        tokenizer = self.translator.spelling.source.tokenizer
        known = []
        for number, text in enumerate(texts, self.seen + 1):
            where = "the text" if self.request.source == text else f"line {number}"
            made, counts = apply_unknown_policy(text, tokenizer, self.request.on_unknown, where)
            self.unknown.update(counts)
            known.append(made)
        found = self.translator.translate(known, self.request.wishes)
        self.cut += [
            self.seen + number
            for number, translations in enumerate(found, 1)
            if len(translations[0].ids) > 1
        ]
        self.seen += len(texts)
        self.console.clear_status()
        return found

    def answer(self, texts: Sequence[str]) -> None:
        """Print the translations of the next texts."""
        found = self.translate(texts)
        if not (self.request.json or self.request.attention):
            emit("".join(map(_line, found)))
            return
        looks = self.translator.align([several[0] for several in found])
        pairs = list(zip(found, looks, strict=True))
        if self.request.json:
            emit("".join(self._object(several, look) for several, look in pairs))
            return
        sheet = Sheet()
        for several, look in pairs:
            for translation in several:
                sheet.line(self.console.printable(translation.text))
            if look.target:
                sheet.grid(look.target, look.source, look.weights.tolist())
                sheet.line()
        sheet.flush()

    def _object(self, several: Sequence[Translation], look: Alignment) -> str:
        best = several[0]
        made: dict[str, Any] = {"text": best.text}
        if best.ids:
            made |= {"score": best.score, "tokens": look.target, "log_probs": best.log_probs}
        if best.ids and self.translator.translator.config.attention != "none":
            made |= {"source_tokens": look.source, "alignment": look.looked_at}
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
                f"{self.unknown.total()} characters that training never saw were "
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
    for batch in batches(rows, AHEAD * request.wishes.batch_size, live=live):
        texts = [" ".join(record.texts) for record in batch]
        if request.json:
            answerer.answer(texts)
            continue
        cells = [[one.text for one in several] for several in answerer.translate(texts)]
        pairs = zip(batch, cells, strict=True)
        emit(
            "".join(
                rows.answer(record, [*added, *[""] * (count - len(added))])
                for record, added in pairs
            )
        )
