"""The ``tag`` command: a label for every word, sentences in the order in which they come.

Sentences are lines of text, or CoNLL, which keeps its columns and gets the labels in theirs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqtool.annotator import Annotated, load_annotator
from seqtool.checkpoint import Card
from seqtool.console import Console
from seqtool.delimited import LONGEST
from seqtool.distributed import shared_out
from seqtool.errors import ConfigError
from seqtool.lexicon import Lexicon
from seqtool.output import emit
from seqtool.pipes import batches, given_text, read_lines
from seqtool.spans import find_spans
from seqtool.text import STDIN, open_text
from seqtool.treebank import Block, begins_conllu, column_number, is_treebank, read_blocks

NOTHING = Annotated([], np.zeros(0))  # the labels of no words


@dataclass(frozen=True)
class TagRequest:
    """What the user asked ``tag`` for."""

    model: Path
    source: str | None  # a file, "-" or a text; None is "-"
    conll: bool | None  # whether the input is CoNLL; None to see
    token_column: str | None  # number from 1, or name in CoNLL-U; None is that of training
    label_column: str | None
    tokenize: bool  # split punctuation off words
    inline: bool  # word/LABEL, a sentence a line
    batch_size: int  # sentences tagged together
    encoding: str | None
    json: bool


class Sentence(NamedTuple):
    """A sentence to be tagged."""

    tokens: Sequence[str]
    block: Block | None  # its lines, if it came as CoNLL


def tag(request: TagRequest, console: Console) -> int:
    """Label the words of lines, of CoNLL, or of one text; gives the exit status.

    Raises:
        SeqtoolError: If model, input or options do not fit.
    """
    if request.inline and request.json:
        raise ConfigError("--inline and --json exclude each other; give one of them")
    annotator, card = load_annotator(
        request.model,
        min(64, request.batch_size),
        console.compiling,
    )
    columns = _columns(request, card)
    source = request.source or "-"
    text = given_text(source)
    split = Lexicon("word", [], lower=False, buckets=0).split if request.tokenize else str.split
    if text is not None:
        sentences: Iterable[Sentence] = [Sentence(split(text), None)]
    else:
        sentences = _read(request, source, split, columns)
    write = _writer(request, card, columns)

    def tagged(batch: list[Sentence]) -> str:
        filled = [sentence.tokens for sentence in batch if sentence.tokens]
        answers = iter(annotator.annotate(filled, chances=request.json))
        return "".join(write(s, next(answers) if s.tokens else NOTHING) for s in batch)

    live = text is None and source == "-"
    for said in shared_out(batches(sentences, request.batch_size, live=live), tagged):
        emit(said)
    return 0


class _Columns(NamedTuple):
    """Where words and labels stand in CoNLL, from 0."""

    token: int
    label: int
    conllu: bool | None  # whether it must be CoNLL-U; None if the user has named both


def _columns(request: TagRequest, card: Card) -> _Columns:
    known = card.source
    token, label = known["token_column"], known["label_column"]
    if request.token_column is not None:
        token = column_number(request.token_column, "--token-column")
    if request.label_column is not None:
        label = column_number(request.label_column, "--label-column")
    if token == label:
        raise ConfigError(f"column {token} cannot hold both words and labels")
    both = request.token_column is not None and request.label_column is not None
    return _Columns(token - 1, label - 1, None if both else known["conllu"])


def _read(
    request: TagRequest, source: str, split: Callable[[str], list[str]], columns: _Columns
) -> Iterator[Sentence]:
    """The sentences of a file or of standard input, as they come."""
    encoding = request.encoding or "utf-8"
    lines: Iterator[str] = iter(read_lines(source, encoding, LONGEST))
    conll = request.conll
    if conll is None and source != "-":
        conll = is_treebank(open_text(source, encoding=encoding))
    elif conll is None:  # a pipe: nothing but the first line is waited for
        first = list(islice(lines, 1))
        conll = bool(first) and begins_conllu(first[0])
        lines = chain(first, lines)
    if not conll:
        yield from (Sentence(split(line), None) for line in lines)
        return
    name = STDIN if source == "-" else source
    for block in read_blocks(lines, name, columns.token, columns.label, conllu=columns.conllu):
        yield Sentence(block.tokens, block)


def _writer(
    request: TagRequest, card: Card, columns: _Columns
) -> Callable[[Sentence, Annotated], str]:
    """What makes lines of a sentence and its labels."""

    def as_json(sentence: Sentence, answer: Annotated) -> str:
        labels, chances = answer
        found: dict[str, Any] = {"tokens": [*sentence.tokens], "labels": labels}
        found["probabilities"] = [round(float(p), 6) for p in chances]
        if card.source["scheme"]:
            found["spans"] = [span._asdict() for span in find_spans(labels)]
        return json.dumps(found, ensure_ascii=False) + "\n"

    def inline(sentence: Sentence, answer: Annotated) -> str:
        pairs = zip(sentence.tokens, answer[0], strict=True)
        return " ".join(f"{token}/{label}" for token, label in pairs) + "\n"

    def lines(sentence: Sentence, answer: Annotated) -> str:
        if sentence.block is not None:
            return sentence.block.filled(answer[0], columns.label)
        pairs = zip(sentence.tokens, answer[0], strict=True)
        return "".join(f"{token}\t{label}\n" for token, label in pairs) + "\n"

    return as_json if request.json else inline if request.inline else lines
