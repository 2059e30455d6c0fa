"""The ``evaluate`` command: how well a model predicts a text, beside what cheap methods reach.

The text is read, encoded and scored piece by piece, so a stream of any length fits in memory.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.baselines import NGram, xz_cost
from seqtool.checkpoint import Saved, check_weights, load, load_text
from seqtool.config import Device, OnUnknown
from seqtool.console import Console, format_count
from seqtool.data import Tally, clip_documents, encode_documents, text_stats
from seqtool.errors import ConfigError, DataError
from seqtool.states import Place, fingerprint, load_place, save_place
from seqtool.text import TextFiles, open_text
from seqtool.tokenizer import Tokenizer, apply_unknown_policy

if TYPE_CHECKING:
    pass

PIECE = 8192  # tokens scored at once
# An unknown character costs, besides the unknown token, naming one of Unicode's code points.
SPELLING_NATS = math.log(0x110000)


@dataclass(frozen=True)
class ScoreRequest:
    """What the user asked ``evaluate`` for."""

    model: Path
    data: str
    held_out: bool
    per_token: bool
    dynamic: bool
    baselines: bool
    on_unknown: OnUnknown
    encoding: str | None
    state: Path | None
    save_state: Path | None
    device: Device
    threads: int | None
    json: bool


@dataclass
class Total:
    """Summed negative log-likelihood, and over how much text."""

    nll: float = 0.0
    tokens: int = 0

    def add(self, nll: np.ndarray, counted: np.ndarray) -> None:
        """Add the tokens that count: boundaries between documents are read but not scored."""
        self.nll += float(nll[counted].sum())
        self.tokens += int(counted.sum())

    def scores(self, tally: Tally, extra_nll: float) -> dict[str, float]:
        """In the units that evaluate reports."""
        from seqtool.evaluation import scores

        return scores(
            self.nll + extra_nll,
            num_tokens=self.tokens,
            num_chars=tally.characters,
            num_bytes=tally.bytes,
        )


class Baselines:
    """The cheap methods, fed with the same pieces as the model."""

    def __init__(self, train_ids: np.ndarray, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ngram = NGram(train_ids, tokenizer.vocab_size)
        self.train_bytes = tokenizer.decode(train_ids).encode("utf-8", "surrogateescape")
        self.total = Total()
        self.history = np.array([tokenizer.start_id])
        self.text: list[str] = []  # for xz, the first megabyte

    def push(self, ids: np.ndarray) -> None:
        """Score a piece of the text."""
        self.total.add(self.ngram.nll(ids, self.history), ids != self.tokenizer.start_id)
        self.history = np.concatenate([self.history, ids])[-self.ngram.order :]
        if sum(map(len, self.text)) < 1 << 20:
            self.text.append(self.tokenizer.decode(ids))

    def as_dict(self, tally: Tally, spelling: float) -> dict[str, dict[str, float]]:
        """Their scores in the units of the model's."""
        found = {"ngram": self.total.scores(tally, spelling)}
        text = "".join(self.text).encode("utf-8", "surrogateescape")
        cost = xz_cost(self.train_bytes, text)
        per_byte = cost.bits / max(1, cost.test_bytes)
        bits = per_byte * tally.bytes
        found["xz"] = {
            "bits_per_char": bits / tally.characters,
            "bits_per_byte": per_byte,
        }
        return found


def evaluate(request: ScoreRequest, console: Console) -> int:
    """Score a text; gives the exit status.

    Raises:
        SeqtoolError: If model, text, state or options do not fit.
    """
    saved = load(request.model)
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.model))
    encoding = request.encoding or saved.card.data.encoding
    files = open_text(request.data, encoding=encoding, binary_ok=tokenizer.kind == "byte")
    documents = _documents(request, files, saved)
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.evaluation import DynamicScorer, Scorer
    from seqtool.models import build_model, shapes

    device = set_up(request.device, request.threads)
    model = build_model(saved.card.model, saved.card.vocab_size, unknown_id=tokenizer.unknown_id)
    check_weights(saved.weights, shapes(model), str(request.model))
    model = build_model(
        saved.card.model,
        saved.card.vocab_size,
        unknown_id=tokenizer.unknown_id,
        weights=saved.weights,
    ).to(device)
    model.eval()
    name = fingerprint(saved.weights) if request.state or request.save_state else ""
    scorer = Scorer(model, tokenizer.start_id)
    if request.state:
        place = load_place(request.state, name)
        if len(place.last_ids) != 1:
            raise ConfigError(f"--state {request.state}: holds several texts; score after one")
        scorer = Scorer(
            model, tokenizer.start_id, place.state, int(place.last_ids[0]), place.pending
        )
    scorers: list[Scorer] = [scorer]
    if request.dynamic:
        scorers.append(DynamicScorer(model, tokenizer.start_id))
    baselines = _baselines(request, tokenizer, console)
    console.status(f"scoring {files.name}")
    unknown: dict[str, int] = {}
    tally = Tally()
    documents = _known(documents, tokenizer, request.on_unknown, files.name, unknown)
    totals = [Total() for _ in scorers]
    for ids in _pieces(encode_documents(documents, tokenizer, tally), goes_on=bool(request.state)):
        for each, total in zip(scorers, totals, strict=True):
            nll = each.push(ids)
            total.add(nll, ids != tokenizer.start_id)
            if each is scorer and request.per_token:
                _print_tokens(tokenizer, ids, nll, request.json)
        if baselines:
            baselines.push(ids)
    if totals[0].tokens == 0:
        raise DataError(f"{files.name}: no text to score")
    if request.save_state:
        position = scorer.position
        last = np.array([position.last_id], dtype=np.int64)
        save_place(request.save_state, Place(position.state, last, position.pending), name)
    spelling = SPELLING_NATS * sum(unknown.values()) * (request.on_unknown == "replace")
    results = [total.scores(tally, spelling) for total in totals]
    report = {
        "task": saved.card.task,
        "tokens": totals[0].tokens,
        "characters": tally.characters,
        "bytes": tally.bytes,
        "unknown_characters": sum(unknown.values()),
        "scores": results[0],
        "baselines": baselines.as_dict(tally, spelling) if baselines else {},
    }
    if request.dynamic:
        report["dynamic"] = results[1]
    console.clear_status()
    if request.json:
        print(json.dumps(report), flush=True)
    elif not request.per_token:
        _print_table(report)
    _remark(report, unknown, console)
    return 0


def _documents(request: ScoreRequest, files: TextFiles, saved: Saved) -> Iterator[Iterator[str]]:
    """The text to score: all of it, or the end that training held out."""
    if not request.held_out:
        return files.documents()
    if files.sha256() != saved.card.source["sha256"]:
        raise DataError(
            f"{files.name}: not the text that {request.model} was trained on, so no part of it "
            "was held out; leave --held-out out to score all of it"
        )
    if saved.card.source["valid_sha256"] is not None:
        raise ConfigError(
            f"--held-out: {request.model} was trained on all of {files.name}; score the text given "
            "as --valid instead"
        )
    if not saved.card.source["valid_tokens"]:
        raise ConfigError(f"--held-out: {request.model} held nothing out")
    characters = text_stats(files).characters
    cut = int(characters * (1 - saved.card.data.valid_fraction))
    return clip_documents(files.documents(), cut, characters)


def _known(
    documents: Iterator[Iterator[str]],
    tokenizer: Tokenizer,
    policy: OnUnknown,
    where: str,
    unknown: dict[str, int],
) -> Iterator[Iterator[str]]:
    """The documents with unknown characters dealt with, and counted in ``unknown``."""

    def pieces(document: Iterator[str]) -> Iterator[str]:
        for chunk in document:
            text, counts = apply_unknown_policy(chunk, tokenizer, policy, where)
            for character, count in counts.items():
                unknown[character] = unknown.get(character, 0) + count
            yield text

    for document in documents:
        yield pieces(document)


def _pieces(arrays: Iterator[np.ndarray], *, goes_on: bool) -> Iterator[np.ndarray]:
    """Arrays of bounded size, without the start id that begins the text: a scorer implies it."""
    first = True
    for array in arrays:
        ids = array[1:] if first and not goes_on and len(array) == 1 else array
        if first and goes_on:
            ids = array[1:]
        first = False
        for start in range(0, len(ids), PIECE):
            yield ids[start : start + PIECE]


def _baselines(request: ScoreRequest, tokenizer: Tokenizer, console: Console) -> Baselines | None:
    if not request.baselines:
        return None
    train_ids = load_text(request.model)
    if train_ids is None:
        console.notice(f"{request.model} does not hold its training text: no baselines")
        return None
    console.status("counting n-grams of the training text")
    return Baselines(train_ids, tokenizer)


def _print_tokens(tokenizer: Tokenizer, ids: np.ndarray, nll: np.ndarray, as_json: bool) -> None:
    """A line for each token: how many bits it surprised the model by, and its text as JSON."""
    lines = []
    for token, nats in zip(ids.tolist(), nll.tolist(), strict=True):
        text = json.dumps(tokenizer.decode([token]), ensure_ascii=False)
        text = text.encode("utf-8", "replace").decode("utf-8")
        bits = nats / math.log(2)
        lines.append(
            f'{{"token": {text}, "bits": {bits:.4f}}}' if as_json else f"{bits:.4f}\t{text}"
        )
    print("\n".join(lines), flush=True)


def _print_table(report: dict[str, Any]) -> None:
    """The scores, a line for each way of predicting the text."""
    rows = [("model", report["scores"])]
    if "dynamic" in report:
        rows.append(("model, dynamic", report["dynamic"]))
    names = {"ngram": "n-gram model", "xz": "xz"}
    rows += [(names[name], values) for name, values in report["baselines"].items()]
    columns = ["nats_per_token", "perplexity", "bits_per_char", "bits_per_byte"]
    heads = ["nats/token", "perplexity", "bits/char", "bits/byte"]
    print(f"{format_count(report['characters'])} characters, {report['tokens']} tokens")
    print(f"{'':<16}" + "".join(f"{head:>12}" for head in heads))
    for name, values in rows:
        cells = [f"{values[c]:.4f}" if c in values else "" for c in columns]
        print(f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells))
    sys.stdout.flush()


def _remark(report: dict[str, Any], unknown: dict[str, int], console: Console) -> None:
    """Say in words what a reader might miss."""
    mine = report["scores"]["bits_per_char"]
    names = {"ngram": "an n-gram model", "xz": "xz"}
    for name, values in report["baselines"].items():
        if values["bits_per_char"] < mine:
            console.warn(
                f"{names[name]} predicts this text better ({values['bits_per_char']:.3f} bits per "
                f"character against {mine:.3f}); train longer, or on text more like this one"
            )
    if unknown:
        listed = " ".join(map(repr, sorted(unknown, key=lambda c: -unknown[c])[:12]))
        console.warn(
            f"{sum(unknown.values())} characters are not in the model's vocabulary: {listed}"
        )
