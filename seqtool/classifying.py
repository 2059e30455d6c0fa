"""The ``classify`` command: line n of what goes out answers line n of what comes in.

A table keeps its columns and gets two more.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.calibration import set_threshold
from seqtool.checkpoint import Card
from seqtool.console import Console
from seqtool.delimited import LONGEST, Record, RowStream, delimiter_of
from seqtool.distributed import shared_out
from seqtool.errors import ConfigError, DataError
from seqtool.formats import guess_format, named_format
from seqtool.images import Images, Pixels, read_images
from seqtool.judge import ImageJudge, TextJudge, load_judge
from seqtool.labelled import BETWEEN, strings
from seqtool.labelsets import HALF
from seqtool.output import cell, emit
from seqtool.pipes import batches, given_text, read_lines
from seqtool.pixels import step_names
from seqtool.tables import read_table

Array = npt.NDArray[Any]

UNSURE = "unsure"


@dataclass(frozen=True)
class ClassifyRequest:
    """What the user asked ``classify`` for."""

    model: Path
    source: str | None  # a file, "-" or a text; None is "-"
    top: int  # labels in an answer
    proba: bool  # all labels, in the order of training
    threshold: float  # below it the answer is "unsure"
    coverage: float | None  # of a set of labels
    trace: bool
    skip_bad: bool  # leave out images that cannot be read
    batch_size: int  # lines judged together
    text_column: str | None
    encoding: str | None
    json: bool


@dataclass(frozen=True)
class Answer:
    """What is said of one text."""

    label: str  # or several, joined by |, or "unsure"; "" for an empty set
    probability: float
    ranked: list[tuple[str, float]]  # the labels asked for


def classify(request: ClassifyRequest, console: Console) -> int:
    """Judge lines, rows or one text; gives the exit status.

    Raises:
        SeqtoolError: If model, input or options do not fit.
    """
    _check(request)
    judge, card = load_judge(request.model, console.compiling)
    answerer = Answerer(request, card)
    if isinstance(judge, ImageJudge):
        _answer_images(request, judge, card, answerer, console)
        return 0
    if request.skip_bad:
        raise ConfigError(f"--skip-bad is for images; {request.model} reads texts")
    encoding = request.encoding or "utf-8"
    source = request.source or "-"

    def traced(text: str) -> str:
        words, p = judge.trace(text)
        return _traced([word.strip() for word in words], p, answerer.classes, request.json)

    text = given_text(source)
    if text is not None:
        if request.trace:
            emit(traced(text))
        else:
            emit("".join(map(answerer.line, _answers(judge, answerer, [text]))))
        return 0
    live = source == "-"
    columns = tuple(filter(None, (request.text_column or "").split(",")))
    rows = None if live else _texts_of_rows(source, columns, encoding)
    lines = read_lines(source, encoding, LONGEST) if rows is None else rows
    if rows is None and (request.text_column is not None or delimiter_of(source)):
        _answer_table(request, judge, answerer, lines, source, columns)
        return 0

    def answered(batch: list[str]) -> str:
        bare = [line.removesuffix("\n").removesuffix("\r") for line in batch]
        if request.trace:
            return "".join(map(traced, bare))
        return "".join(map(answerer.line, _answers(judge, answerer, bare)))

    for said in shared_out(batches(lines, request.batch_size, live=live), answered):
        emit(said)
    return 0


def _check(request: ClassifyRequest) -> None:
    if not 0 <= request.threshold < 1:
        raise ConfigError(f"--threshold must be from 0 to below 1, got {request.threshold}")
    if request.coverage is not None and not 0 < request.coverage < 1:
        raise ConfigError(f"--coverage must be above 0 and below 1, got {request.coverage}")
    if request.coverage is not None and request.threshold:
        raise ConfigError("--coverage and --threshold exclude each other; give one of them")


class Answerer:
    """Turns probabilities into answers, and answers into lines."""

    def __init__(self, request: ClassifyRequest, card: Card) -> None:
        """Take the options and what the card knows.

        Raises:
            ConfigError: If a coverage is asked for and nothing was held out to know it from, or
                where it means nothing.
        """
        self.request = request
        self.classes: list[str] = card.source["classes"]
        self.thresholds: list[float] | None = None  # of labels of which any number may be right
        if card.data.multi_label:
            if request.coverage is not None:
                raise ConfigError(
                    f"--coverage is for models that give one label, {request.model} gives any "
                    "number; use --threshold"
                )
            known = (card.extra.get("best") or {}).get("thresholds", [HALF] * len(self.classes))
            self.thresholds = [request.threshold or least for least in known]
        self.least = 0.0  # probability of a label in the set
        if request.coverage is not None:
            scores = (card.extra.get("best") or {}).get("set_scores", [])
            if not scores:
                raise ConfigError(
                    f"--coverage: {request.model} was trained with nothing held out; train it "
                    "with --valid-fraction above 0"
                )
            self.least = set_threshold(scores, request.coverage)

    def answer(self, p: Array) -> Answer:
        """The answer that probabilities (C,) make."""
        order = np.argsort(-p, kind="stable")
        chosen = range(len(p)) if self.request.proba else order[: self.request.top]
        ranked = [(self.classes[i], float(p[i])) for i in chosen]
        if self.thresholds is not None:
            return self._set(p, order, ranked)
        best = int(order[0])
        if self.request.coverage is not None:
            members = [int(i) for i in order if p[i] >= self.least]
            if 0 < len(members) < len(p):
                label = "|".join(self.classes[i] for i in members)
                return Answer(label, float(p[members].sum()), ranked)
            return Answer(UNSURE, float(p[best]), ranked)
        sure = p[best] >= self.request.threshold
        return Answer(self.classes[best] if sure else UNSURE, float(p[best]), ranked)

    def _set(self, p: Array, order: Array, ranked: list[tuple[str, float]]) -> Answer:
        """All labels above their thresholds, and how probable it is that it is just these."""
        given = p >= np.asarray(self.thresholds)
        labels = [self.classes[i] for i in order if given[i]]
        return Answer("|".join(labels), float(np.where(given, p, 1 - p).prod()), ranked)

    def line(self, answer: Answer | None, file: str = "") -> str:
        """An answer as a line, with the file that it is for, if named; none as an empty one."""
        if self.request.json:
            named = {"file": file} if file else {}
            return json.dumps(named | self._object(answer), ensure_ascii=False) + "\n"
        if answer is None:
            return "\n"
        cells = [cell(answer.label), f"{answer.probability:.4f}"]
        if self.request.proba or self.request.top > 1:
            cells = [part for label, p in answer.ranked for part in (cell(label), f"{p:.4f}")]
        return "\t".join([*cells, *([cell(file)] if file else [])]) + "\n"

    def _object(self, answer: Answer | None) -> dict[str, Any]:
        if answer is None:
            return {"label": None} if self.thresholds is None else {"labels": None}
        found: dict[str, Any] = {"label": answer.label, "probability": answer.probability}
        if self.thresholds is not None:
            del found["label"]
            found = {"labels": answer.label.split("|") if answer.label else []} | found
        if self.request.proba or self.request.top > 1:
            found["probabilities"] = dict(answer.ranked)
        return found


def _texts_of_rows(source: str, columns: Sequence[str], encoding: str) -> Iterator[str] | None:
    """The texts of JSON Lines, of Parquet or of lines with ``__label__``; None for other files.

    There is one for each line, and an empty one for an empty line, so that answers and lines have
    the same numbers.
    """
    kind = named_format(source) if os.path.isfile(source) else "lines"
    if kind is None:
        with suppress(DataError):  # told where the lines are read, after the answers before it
            kind = guess_format(source, encoding=encoding)
    if kind not in ("jsonl", "parquet", "fasttext"):
        return None
    table = read_table(source, text_columns=columns, labelled=False, encoding=encoding)
    return _in_places(strings(table), table.rows)


def _in_places(texts: Sequence[str], rows: Sequence[int]) -> Iterator[str]:
    """Texts with nothing where a row is missing, of which the first has number 1."""
    before = 0
    for text, row in zip(texts, rows, strict=True):
        yield from repeat("", row - before - 1)
        yield text
        before = row


def _answers(judge: TextJudge, answerer: Answerer, texts: Sequence[str]) -> list[Answer | None]:
    """An answer for every text, none for an empty one."""
    filled = [text for text in texts if text.strip()]
    p = iter(judge.probabilities(filled)) if filled else iter(())
    return [answerer.answer(next(p)) if text.strip() else None for text in texts]


def _answer_table(
    request: ClassifyRequest,
    judge: TextJudge,
    answerer: Answerer,
    lines: Iterable[str],
    source: str,
    columns: Sequence[str],
) -> None:
    live = source == "-"
    rows = RowStream(
        lines,
        "standard input" if live else source,
        text_columns=columns,
        delimiter=delimiter_of(source),
        live=live,
    )
    if not request.json:
        emit(rows.header(["label", "probability"]))

    def answered(batch: list[Record]) -> str:
        texts = [BETWEEN.join(record.texts) for record in batch]
        answers = _answers(judge, answerer, texts)
        if request.json:
            return "".join(map(answerer.line, answers))
        cells = [(a.label, f"{a.probability:.4f}") if a else ("", "") for a in answers]
        return "".join(rows.answer(*pair) for pair in zip(batch, cells, strict=True))

    for said in shared_out(batches(rows, request.batch_size, live=live), answered):
        emit(said)


def _answer_images(
    request: ClassifyRequest, judge: ImageJudge, card: Card, answerer: Answerer, console: Console
) -> None:
    """Judge images: those of a file or a directory, or those named line by line."""
    if request.text_column is not None:
        raise ConfigError(f"--text-column is for texts; {request.model} reads images")
    shape: list[int] = card.source["image_shape"]

    def read(source: str) -> Images:
        size = (shape[0], shape[1])
        return read_images(source, size=size, colour=shape[2] == 3, skip_bad=request.skip_bad)

    def said(pixels: Pixels, files: Sequence[str]) -> str:
        if not request.trace:
            answers = map(answerer.answer, judge.probabilities(pixels))
            return "".join(map(answerer.line, answers, files))
        names = step_names(shape, card.data.by)
        return "".join(
            _traced(names, judge.trace(image), answerer.classes, request.json, file)
            for image, file in zip(pixels, files, strict=True)
        )

    def of_line(name: str) -> str:
        """The answer to an image that a line names; as to an empty text, if it is left out."""
        nothing = "{}\n" if request.trace and request.json else answerer.line(None)
        if not name:
            return nothing
        try:
            images = read(name)
        except DataError as err:
            if not request.skip_bad:
                raise
            console.warn(f"left out: {err}")
            return nothing
        if len(images) > 1:
            raise DataError(f"{name}: {len(images)} images, needed is one on each line")
        return said(images.pixels, [""])

    source = request.source or "-"
    if source == "-":
        for line in read_lines(source, request.encoding or "utf-8", LONGEST):
            emit(of_line(line.rstrip("\r\n")))
        return
    images = read(source)
    for broken in images.skipped:
        console.warn(f"left out: {broken}")
    for start in range(0, len(images), request.batch_size):
        part = slice(start, start + request.batch_size)
        pixels = images.pixels[part]
        named = len(images) > 1 and images.files
        emit(said(pixels, images.files[part] if named else [""] * len(pixels)))


def _traced(
    tokens: Sequence[str], p: Array, classes: list[str], as_json: bool, file: str = ""
) -> str:
    """How the belief moves while something is read: a line for each step, a mark where it turns.

    Args:
        tokens: What is read at each of T steps.
        p: Probabilities after each, (T, C).
        classes: C.
        as_json: Whether an object is wanted.
        file: That it is read from, if that is to be told.
    """
    if not len(p):
        return "{}\n" if as_json else "\n"
    best = p.argmax(axis=1)
    if as_json:
        steps = [
            {"token": token, "probabilities": dict(zip(classes, row.tolist(), strict=True))}
            for token, row in zip(tokens, p, strict=True)
        ]
        named = {"file": file} if file else {}
        found = named | {"label": classes[best[-1]], "trace": steps}
        return json.dumps(found, ensure_ascii=False) + "\n"
    lines = [cell(file)] if file else []
    for t, token in enumerate(tokens):
        turn = "*" if t and best[t] != best[t - 1] else ""
        label = cell(classes[best[t]])
        lines.append(f"{label}\t{p[t, best[t]]:.4f}\t{cell(token)}\t{turn}".rstrip("\t"))
    return "\n".join(lines) + "\n\n"
