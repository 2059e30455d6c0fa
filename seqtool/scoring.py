"""The ``evaluate`` command: how well a model predicts a text, beside what cheap methods reach.

The text is read, encoded and scored piece by piece, so a stream of any length fits in memory.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.backoff import NGram
from seqtool.baselines import XZ_TRAIN_BYTES, xz_cost
from seqtool.census import Tally, clip_documents, split_at, text_stats
from seqtool.checkpoint import Saved, event_line, load, load_text
from seqtool.comparing import Blocks, Comparison, compare_costs
from seqtool.config import Device, OnUnknown, Precision
from seqtool.console import Console, format_count, number_of, plural
from seqtool.data import encode_documents
from seqtool.decode import Reader
from seqtool.distributed import world
from seqtool.engine import build_engine
from seqtool.errors import ConfigError, DataError
from seqtool.memory import give_back
from seqtool.mixture import Interpolator, load_partner
from seqtool.output import emit
from seqtool.shapes import check_weights, language_shapes
from seqtool.states import Place, check_place, fingerprint, load_place, save_place
from seqtool.surprisal import Position, Surprisal
from seqtool.text import TextFiles, open_text
from seqtool.tokenizer import Tokenizer
from seqtool.units import scores
from seqtool.unseen import apply_unknown_policy

if TYPE_CHECKING:
    from seqtool.evaluation import Scorer

PIECE = 8192  # tokens scored at once
GIVE_BACK_EVERY = 1 << 22  # tokens read before memory that pieces have left behind is given back
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
    compare: Path | None  # another model, to be scored on the same text
    device: Device
    threads: int | None
    precision: Precision
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

    def scores(self, tally: Tally) -> dict[str, float]:
        """In the units that evaluate reports."""
        return scores(
            self.nll,
            num_tokens=self.tokens,
            num_chars=tally.characters,
            num_bytes=tally.bytes,
        )


class Baselines:
    """The cheap methods, fed with the same pieces as the model."""

    def __init__(self, train_ids: np.ndarray, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ngram = NGram(train_ids, tokenizer.vocab_size)
        # A token has a byte or more; xz reads no more of them from the end.
        last = tokenizer.decode(train_ids[-XZ_TRAIN_BYTES:])
        self.train_bytes = last.encode("utf-8", "surrogateescape")
        self.total = Total()
        self.history = np.array([tokenizer.start_id])
        self.text: list[str] = []  # for xz, the first megabyte

    def push(self, ids: np.ndarray) -> None:
        """Score a piece of the text."""
        nll = _charged(self.ngram.nll(ids, self.history), ids, self.tokenizer)
        self.total.add(nll, ids != self.tokenizer.start_id)
        self.history = np.concatenate([self.history, ids])[-self.ngram.order :]
        if sum(map(len, self.text)) < 1 << 20:
            self.text.append(self.tokenizer.decode(ids))

    def as_dict(self, tally: Tally) -> dict[str, dict[str, float]]:
        """Their scores in the units of the model's."""
        found = {"ngram": self.total.scores(tally)}
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
    if not world().first:
        return 0
    if world().size > 1:
        console.notice("a text is read from its beginning to its end: one process scores it alone")
    if request.save_state:
        check_place(request.save_state)
    if request.compare and request.state:
        raise ConfigError("--compare: the other model has no --state to go on from; leave one out")
    if request.state and request.dynamic:
        raise ConfigError(
            "--dynamic changes the weights, which a state file does not hold; leave --state out"
        )
    saved = load(request.model, "generate")
    size = saved.card.text_vocab_size
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.model), size=size)
    encoding = request.encoding or saved.card.data.encoding
    files = open_text(request.data, encoding=encoding, binary_ok=tokenizer.kind == "byte")
    documents = _documents(request, files, saved)
    name = fingerprint(saved.weights) if request.state or request.save_state else ""
    place = load_place(request.state, name) if request.state else None
    if place is not None and len(place.last_ids) != 1:
        raise ConfigError(f"--state {request.state}: holds several texts; score after one")
    scorers = _scorers(request, saved, tokenizer, place, console)
    interpolator = _interpolator(request, saved, tokenizer, place, scorers["scores"])
    baselines = _baselines(request, tokenizer, console)
    console.status(f"scoring {files.name}")
    unknown: dict[str, int] = {}
    tally = Tally()
    documents = _known(documents, tokenizer, request.on_unknown, files.name, unknown)
    if request.per_token:
        console.clear_status()  # what is printed now must not stand beside it
    kinds = [*scorers, "network"] if interpolator else [*scorers]
    totals = {kind: Total() for kind in kinds}
    blocks = _blocks(tokenizer) if request.compare else None
    for ids, costs in _costs(documents, tokenizer, scorers, interpolator, tally):
        text = ids != tokenizer.start_id
        for kind, nll in costs.items():
            totals[kind].add(nll, text)
        if request.per_token:
            _print_tokens(tokenizer, ids, costs["scores"], request.json)
        if blocks:
            blocks.push(ids[text], costs["scores"][text])
        if baselines:
            baselines.push(ids)
    if totals["scores"].tokens == 0:
        raise DataError(f"{files.name}: no text to score")
    if request.save_state:
        position = scorers["scores"].position
        last = np.array([position.last_id], dtype=np.int64)
        state = position.state
        if interpolator:
            state = (*state, interpolator.contexts[None, None])
        save_place(request.save_state, Place(state, last, position.pending), name)
    report = {
        "task": saved.card.task,
        "tokens": totals["scores"].tokens,
        "characters": tally.characters,
        "bytes": tally.bytes,
        "unknown_characters": sum(unknown.values()),
        **{kind: total.scores(tally) for kind, total in totals.items()},
        "baselines": baselines.as_dict(tally) if baselines else {},
    }
    comparison = None
    if blocks:
        again = _documents(request, files, saved)
        comparison = _compare(request, saved, again, files.name, blocks, tally, console)
        report["comparison"] = comparison.as_dict()
    console.clear_status()
    if request.json:
        emit(event_line(report))
    else:
        if request.per_token:
            emit("\n")
        _print_table(report)
    if comparison and not request.json:
        emit(comparison.sentence(str(request.model), higher_is_better=False) + "\n")
    _remark(report, unknown, console)
    return 0


def _costs(
    documents: Iterator[Iterator[str]],
    tokenizer: Tokenizer,
    scorers: "dict[str, Surprisal | Scorer]",
    interpolator: Interpolator | None,
    tally: Tally,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The tokens of a text piece by piece, (T,), and what each costs by every kind of score."""
    read = 0
    for ids in _pieces(encode_documents(documents, tokenizer, tally)):
        if read % GIVE_BACK_EVERY + len(ids) >= GIVE_BACK_EVERY:
            give_back()
        read += len(ids)
        counted = interpolator.push(ids) if interpolator else None
        costs = {}
        for kind, scorer in scorers.items():
            nll = scorer.push(ids)
            if counted is not None and interpolator is not None:
                if kind == "scores":
                    costs["network"] = _charged(nll, ids, tokenizer)
                nll = interpolator.mix(nll, counted)
            costs[kind] = _charged(nll, ids, tokenizer)
        yield ids, costs


def _blocks(tokenizer: Tokenizer) -> Blocks:
    spelled = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    return Blocks(np.array([len(text.encode("utf-8", "surrogateescape")) for text in spelled]))


def _compare(
    request: ScoreRequest,
    saved: Saved,
    documents: Iterator[Iterator[str]],
    name: str,
    mine: Blocks,
    tally: Tally,
    console: Console,
) -> Comparison:
    """The same text by the other model, block by block."""
    assert request.compare is not None
    request = replace(request, model=request.compare, dynamic=False, precision="float32")
    other = load(request.model, "generate")
    card = other.card
    if "classes" in card.source:
        raise ConfigError(f"--compare {request.model}: it writes for labels; name another model")
    here = saved.card
    same = [(c.source["sha256"], c.data.valid_fraction) for c in (card, here)]
    if request.held_out and same[0] != same[1]:
        console.warn(f"{request.model} may have been trained on the text that is scored")
    size = card.text_vocab_size
    tokenizer = Tokenizer.from_json(other.tokenizer_json, str(request.model), size=size)
    console.status(f"scoring {name} by {request.model}")
    scorers = _scorers(request, other, tokenizer, None, console)
    interpolator = _interpolator(request, other, tokenizer, None, scorers["scores"])
    documents = _known(documents, tokenizer, request.on_unknown, name, {})
    theirs = _blocks(tokenizer)
    for ids, costs in _costs(documents, tokenizer, scorers, interpolator, Tally()):
        text = ids != tokenizer.start_id
        theirs.push(ids[text], costs["scores"][text])
    return compare_costs(mine, theirs, tally.characters, other=str(request.model))


def _scorers(
    request: ScoreRequest,
    saved: Saved,
    tokenizer: Tokenizer,
    place: Place | None,
    console: Console,
) -> "dict[str, Surprisal | Scorer]":
    """The model's scorer, and those asked for beside it, under the names of their scores."""
    card = saved.card
    check_weights(saved.weights, language_shapes(card.model, card.vocab_size), str(request.model))
    position = None
    if place is not None:
        # What follows the network's state is where the n-gram model stands.
        state = place.state[:-1] if saved.card.model.backoff_order else place.state
        position = Position(state, int(place.last_ids[0]), place.pending)
    if request.device not in ("auto", "cpu"):
        if request.precision != "float32":
            raise ConfigError(
                f"--precision {request.precision}: only on the CPU; leave --device out"
            )
        return _torch_scorers(request, saved, tokenizer, position, console)
    found: dict[str, Surprisal | Scorer] = {}
    kinds: tuple[tuple[str, Precision], ...] = (("scores", "float32"), ("int8", "int8"))
    for name, precision in kinds:
        if precision not in ("float32", request.precision):
            continue
        engine = build_engine(
            card.model,
            card.vocab_size,
            saved.weights,
            precision=precision,
            threads=request.threads,
            announce=console.compiling,
        )
        if isinstance(engine, Reader):
            found[name] = Surprisal(engine, tokenizer.start_id, position)
    if found and not request.dynamic:
        return found
    return _torch_scorers(request, saved, tokenizer, position, console) | found


def _torch_scorers(
    request: ScoreRequest,
    saved: Saved,
    tokenizer: Tokenizer,
    position: Position | None,
    console: Console,
) -> "dict[str, Surprisal | Scorer]":
    """Scorers for other devices, for units drawn by chance, and one that learns on the way."""
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.evaluation import DynamicScorer, Scorer
    from seqtool.models import build_model

    card, start = saved.card, tokenizer.start_id
    device = set_up(request.device, request.threads)
    model = build_model(
        card.model, card.vocab_size, unknown_id=tokenizer.unknown_id, weights=saved.weights
    ).to(device)
    found: dict[str, Surprisal | Scorer] = {"scores": Scorer(model, start, *(position or ()))}
    if request.dynamic:
        found["dynamic"] = DynamicScorer(model, start)
    return found


def _interpolator(
    request: ScoreRequest,
    saved: Saved,
    tokenizer: Tokenizer,
    place: Place | None,
    scorer: "Surprisal | Scorer",
) -> Interpolator | None:
    """The n-gram model that is mixed in, if one is, where the scorer begins."""
    partner = load_partner(saved, request.model)
    if partner is None:
        return None
    block = scorer.block
    if place is None:
        return Interpolator(partner, block, tokenizer.start_id)
    found = Interpolator(partner, block, int(place.last_ids[0]), place.state[-1][0, 0])
    found.push(place.pending)
    return found


def _charged(nll: np.ndarray, ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The costs of tokens, (T,), with what spelling costs where a character is unknown."""
    if tokenizer.unknown_id is None:
        return nll
    return np.where(ids == tokenizer.unknown_id, nll + SPELLING_NATS, nll)


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
    cut = split_at(characters, saved.card.data.valid_fraction)
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


def _pieces(arrays: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Arrays of bounded size, without the start id that begins the text: a scorer implies it."""
    next(arrays, None)
    for ids in arrays:
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
    text_ids = ids != tokenizer.start_id  # boundaries between documents are no text
    for token, nats in zip(ids[text_ids].tolist(), nll[text_ids].tolist(), strict=True):
        text = json.dumps(tokenizer.decode([token]), ensure_ascii=False)
        # A byte that is no character by itself travels as a lone surrogate: JSON writes \udcc3.
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        bits = nats / math.log(2)
        lines.append(
            f'{{"token": {text}, "bits": {bits:.4f}}}' if as_json else f"{bits:.4f}\t{text}"
        )
    emit("".join(line + "\n" for line in lines))


def _print_table(report: dict[str, Any]) -> None:
    """The scores, a line for each way of predicting the text."""
    rows = [("model", report["scores"])]
    if "network" in report:
        rows.append(("network alone", report["network"]))
    rows += [(f"model, {name}", report[name]) for name in ("int8", "dynamic") if name in report]
    names = {"ngram": "n-gram model", "xz": "xz"}
    rows += [(names[name], values) for name, values in report["baselines"].items()]
    columns = ["nats_per_token", "perplexity", "bits_per_char", "bits_per_byte"]
    heads = ["nats/token", "perplexity", "bits/char", "bits/byte"]
    characters, tokens = report["characters"], report["tokens"]
    lines = [
        f"{format_count(characters)} {plural(characters, 'character')}, {tokens} "
        + plural(tokens, "token")
    ]
    lines.append(f"{'':<16}" + "".join(f"{head:>12}" for head in heads))
    for name, values in rows:
        cells = [f"{values[c]:.4f}" if c in values else "" for c in columns]
        lines.append(f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells))
    emit("".join(line.rstrip() + "\n" for line in lines))


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
            f"{number_of(sum(unknown.values()), 'character')} not in the model's vocabulary: "
            f"{listed}"
        )
