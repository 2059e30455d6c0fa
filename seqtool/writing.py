"""The ``generate`` command: a prompt goes in, text comes out as its characters become complete.

Torch is loaded only for a device that is not the CPU.
"""

import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seqtool.checkpoint import Saved, load, load_text
from seqtool.config import DecodeConfig, Device, OnUnknown, Precision
from seqtool.console import Console
from seqtool.copies import CopyMeter, Track
from seqtool.decode import (
    Generation,
    Passage,
    Steppable,
    restore_rngs,
    row_rngs,
    select_rows,
    warm_up,
)
from seqtool.engine import build_engine
from seqtool.errors import ConfigError, SeqtoolError
from seqtool.labels import find_label, label_ids, listed
from seqtool.mixture import Mixture, load_partner
from seqtool.output import emit
from seqtool.shapes import check_weights, language_shapes
from seqtool.states import Place, check_place, fingerprint, load_place, save_place
from seqtool.text import open_text
from seqtool.tokenizer import TextStream, Tokenizer
from seqtool.unseen import DONE, apply_unknown_policy

REPORTED_RUN = 20  # shared runs of at least this many tokens count as copied
# Tokens are written several at a time: one at first, then twice as many while that takes no longer
# than a person notices, and while the states after each of them fit in memory.
PASSAGE_SECONDS, PASSAGE_TOKENS, PASSAGE_NUMBERS = 0.02, 256, 1 << 23


@dataclass(frozen=True)
class WriteRequest:
    """What the user asked ``generate`` for."""

    model: Path
    prompt: str | None  # "-" is standard input
    label: str | None  # what to write for
    stop: tuple[str, ...]
    on_unknown: OnUnknown
    state: Path | None
    save_state: Path | None
    device: Device
    precision: Precision
    threads: int | None
    json: bool
    decode: DecodeConfig
    given: frozenset[str]  # fields of ``decode`` that the user set


class StopFinder:
    """Passes text on, but holds back what might be the beginning of a stop text."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """More text; gives what can be shown, up to the first stop text."""
        if self.found:
            return ""
        self.held += text
        places = [(self.held.find(stop), stop) for stop in self.stops]
        first = min((place for place, _ in places if place >= 0), default=-1)
        if first >= 0:
            self.found = True
            shown, self.held = self.held[:first], ""
            return shown
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins the stop text."""
        most = min(len(stop) - 1, len(self.held))
        return next((n for n in range(most, 0, -1) if self.held.endswith(stop[:n])), 0)

    def flush(self) -> str:
        """What was held back for nothing."""
        shown, self.held = self.held, ""
        return shown


class Text:
    """One text in the making: its ids, its characters, and why it ended."""

    def __init__(
        self, stream: TextStream, stops: tuple[str, ...], track: Track | None, watched: bool
    ) -> None:
        """Begin one.

        Args:
            stream: Turns its ids into characters.
            stops: Texts that end it.
            track: Measures copies.
            watched: Whether copies are measured token by token; else when the text has ended,
                so that nobody waits for the index.
        """
        self.stream = stream
        self.stops = StopFinder(stops)
        self.track = track
        self.watched = watched
        self.ids: list[int] = []
        self.text = ""
        self.ended = ""  # "stop", "document end" or "length"

    def push(self, token: int, start_id: int) -> str:
        """Add a token; gives the characters that can be shown now."""
        if token == start_id:
            self.ended = "document end"
            return ""
        self.ids.append(token)
        if self.track and self.watched:
            self.track.push(token)
        return self._show(self.stops.push(self.stream.push(token)), "stop")

    def finish(self) -> str:
        """Close the text; gives its last characters."""
        self.ended = self.ended or "length"
        if self.stops.found:
            return ""
        return self._show(self.stops.push(self.stream.flush()), "stop") + self._show(
            self.stops.flush(), ""
        )

    def measure(self) -> None:
        """Find the copies in a text that was not watched."""
        if self.track and not self.watched:
            for token in self.ids:
                self.track.push(token)

    def _show(self, piece: str, reason: str) -> str:
        if self.stops.found:
            self.ended = self.ended or reason
        self.text += piece
        return piece


def write(request: WriteRequest, console: Console) -> int:
    """Write text with a model; gives the exit status.

    Raises:
        SeqtoolError: If model, prompt, state or options do not fit.
    """
    if request.save_state:
        check_place(request.save_state)
    saved = load(request.model, "generate")
    size = saved.card.text_vocab_size
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.model), size=size)
    stepper = load_stepper(request, saved, tokenizer, console)
    model = fingerprint(saved.weights) if request.state or request.save_state else ""
    prompt = _prompt(request, tokenizer, console)
    classes = saved.card.source.get("classes")
    start_id = _start_id(request, tokenizer, classes)
    place = _starting_place(request, stepper, start_id, tokenizer.encode(prompt), model)
    meter = _copy_meter(request, console)
    num, config = len(place.last_ids), request.decode
    tracks = [meter.start(tail) for tail in place.tails] if meter else []
    texts = [
        Text(
            tokenizer.stream(),
            request.stop,
            tracks[row] if tracks else None,
            watched=config.max_copy > 0,
        )
        for row in range(num)
    ]
    logits, state = stepper.step(place.last_ids, place.state)
    banned = [] if tokenizer.unknown_id is None else [tokenizer.unknown_id]
    banned += label_ids(tokenizer.vocab_size, classes or []).tolist()
    generation = Generation(
        stepper,
        config,
        logits=logits,
        state=state,
        rngs=restore_rngs(place.rngs, f"--state {request.state}"),
        banned_ids=banned,
        vetoes=[partial(t.extensions_beyond, config.max_copy) for t in tracks]
        if config.max_copy
        else None,
    )
    writer = Writer(request, prompt, num, headed=classes is None)
    try:
        ends = _write_texts(generation, texts, place, tokenizer.start_id, config.length, writer)
    except (KeyboardInterrupt, SeqtoolError):
        writer.end_line()
        raise
    if not console.quiet or request.json or request.save_state:
        for text in texts:
            text.measure()
    writer.close(texts)
    if request.save_state:
        save_place(request.save_state, _join_places(ends, texts), model)
    _report(texts, console)
    return 0


def load_stepper(
    request: WriteRequest, saved: Saved, tokenizer: Tokenizer, console: Console
) -> Steppable:
    """The model behind the numpy contract: without torch, unless another device is asked for."""
    config, vocab_size = saved.card.model, saved.card.vocab_size
    check_weights(saved.weights, language_shapes(config, vocab_size), str(request.model))
    partner = load_partner(saved, request.model)
    if request.device in ("auto", "cpu"):
        return build_engine(
            config,
            vocab_size,
            saved.weights,
            precision=request.precision,
            threads=request.threads,
            announce=console.compiling,
            partner=partner,
        )
    if request.precision != "float32":
        raise ConfigError(
            f"--precision {request.precision}: only on the CPU, not with --device {request.device}"
        )
    from seqtool.devices import torch_device
    from seqtool.models import Stepper, build_model

    model = build_model(config, vocab_size, unknown_id=tokenizer.unknown_id, weights=saved.weights)
    network = Stepper(model.to(torch_device(request.device)))
    return Mixture(network, *partner) if partner else network


def _prompt(request: WriteRequest, tokenizer: Tokenizer, console: Console) -> str:
    if request.prompt is None:
        return ""
    text, where = request.prompt, "--prompt"
    if text == "-":
        where = "standard input"
        files = open_text("-", encoding="utf-8", binary_ok=tokenizer.kind == "byte")
        text = "".join(chunk for document in files.documents() for chunk in document)
    text, unknown = apply_unknown_policy(text, tokenizer, request.on_unknown, where)
    if unknown:
        console.notice(
            f"{where}: {sum(unknown.values())} unknown characters {DONE[request.on_unknown]}: "
            f"{' '.join(map(repr, unknown))}"
        )
    return text


def _start_id(request: WriteRequest, tokenizer: Tokenizer, classes: list[str] | None) -> int:
    """What a text begins with: the id of its label, if the model writes for labels.

    Raises:
        ConfigError: If a label is missing, unknown, or in vain.
    """
    if request.label is None:
        if classes is None or request.state:
            return tokenizer.start_id
        raise ConfigError(
            f"{request.model} writes for a label; say which: --label, one of {listed(classes)}"
        )
    if classes is None:
        raise ConfigError(
            f"--label {request.label!r}: {request.model} was trained without labels; leave it out, "
            "or train with --task generate --label-column"
        )
    if request.state:
        raise ConfigError("--label: the texts of --state have begun with theirs; leave it out")
    number = find_label(request.label, classes, str(request.model))
    return int(label_ids(tokenizer.vocab_size, classes)[number])


def _starting_place(
    request: WriteRequest, stepper: Steppable, start_id: int, prompt: np.ndarray, model: str
) -> Place:
    """Where all texts begin: after an earlier call, after the prompt, or at the start of a text.

    Its tails, one for each text, are what a run shared with the training text may begin in.
    """
    config = request.decode
    if request.state:
        place = load_place(request.state, model)
    else:
        start = np.array([start_id], dtype=np.int64)
        place = Place(stepper.init_state(1), start)
    state, last_ids = place.state, place.last_ids
    more = np.array([*place.pending, *prompt], dtype=np.int64)
    if len(more):
        _, state = stepper.step(last_ids, state)
        if len(more) > 1:
            _, state = warm_up(stepper, more[:-1], state)
        last_ids = np.full(len(last_ids), more[-1])
    found, num = len(last_ids), config.num
    if found > 1 and "num" not in request.given:
        num = found
    if found not in (1, num):
        raise ConfigError(
            f"--num {num}: {request.state} holds {found} texts; leave --num out or say {found}"
        )
    if found != num:
        rows = np.zeros(num, dtype=np.int64)
        state, last_ids = select_rows(state, rows), last_ids[rows]
    rngs = place.rngs if len(place.rngs) == num and "seed" not in request.given else []
    fresh = [dict(rng.bit_generator.state) for rng in row_rngs(config.seed, num)]
    tails = place.tails or [[]]
    tails = [[*tail, *more] for tail in (tails if len(tails) == num else tails * num)]
    return Place(state, last_ids, rngs=rngs or fresh, tails=tails)


def _copy_meter(request: WriteRequest, console: Console) -> CopyMeter | None:
    ids = load_text(request.model)
    if ids is not None:
        return CopyMeter(ids)
    if request.decode.max_copy:
        raise ConfigError(
            f"--max-copy {request.decode.max_copy}: {request.model} does not hold its training "
            "text, so copies cannot be told; leave --max-copy out"
        )
    console.debug(f"{request.model} does not hold its training text: no copies are reported")
    return None


class Writer:
    """Where the texts go: one as it is written, several one after the other."""

    def __init__(self, request: WriteRequest, prompt: str, num: int, *, headed: bool) -> None:
        """Take a prompt, which stands before each text, and whether several have headings."""
        self.request = request
        self.headed = headed
        self.prompt = prompt
        self.streaming = num == 1 and not request.json
        self.last = "\n"
        if self.streaming:
            self.show(prompt)

    def show(self, text: str) -> None:
        """Print text at once."""
        if text:
            emit(text)
            self.last = text[-1]

    def end_line(self) -> None:
        """Leave a terminal's cursor on a line of its own."""
        if sys.stdout is not None and sys.stdout.isatty() and self.last != "\n":
            self.show("\n")

    def close(self, texts: list[Text]) -> None:
        """Print what was not streamed."""
        if self.request.json:
            for text in texts:
                self.show(json.dumps(self._as_dict(text)) + "\n")
            return
        if not self.streaming:
            for number, text in enumerate(texts, 1):
                heading = f"--- {number}\n" if self.headed else ""
                self.show(f"{heading}{self.prompt}{text.text}\n")
        elif self.headed:
            self.end_line()
        else:
            self.show("\n")  # a row of a table is a line

    def _as_dict(self, text: Text) -> dict[str, Any]:
        def valid(written: str) -> str:  # JSON has no place for bytes that are not text
            return written.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

        values = {
            "prompt": valid(self.prompt),
            "text": valid(text.text),
            "tokens": len(text.ids),
            "ended": text.ended,
            "seed": self.request.decode.seed,
        }
        if self.request.label is not None:
            values["label"] = self.request.label
        if text.track:
            values["longest_copy"] = text.track.longest.length
            values["copied_share"] = round(text.track.share(REPORTED_RUN), 4)
        return values


def _write_texts(
    generation: Generation,
    texts: list[Text],
    place: Place,
    start_id: int,
    length: int,
    output: Writer,
) -> list[Place]:
    """Write until every text has ended; gives the place where each of them stands."""
    ends = [_row_of(place, row) for row in range(len(texts))]
    live = list(range(len(texts)))
    numbers = sum(part.size for part in generation.state)
    largest = max(1, min(PASSAGE_TOKENS, PASSAGE_NUMBERS // numbers))
    written, size = 0, 1
    while live and written < length:
        began = time.perf_counter()
        passage = generation.write(min(size, length - written))
        seconds = time.perf_counter() - began
        if seconds < PASSAGE_SECONDS / 2:
            size = min(2 * size, largest)
        elif seconds > 2 * PASSAGE_SECONDS:
            size = max(1, size // 2)
        written += passage.ids.shape[1]
        going = []
        for column, row in enumerate(live):
            count, piece = _push_passage(texts[row], passage.ids[column].tolist(), start_id)
            if output.streaming:
                output.show(piece)
            if texts[row].ended or written == length:
                ends[row] = _end_of(passage, column, count)
            if not texts[row].ended:
                going.append(column)
        if len(going) < len(live):
            live = [live[column] for column in going]
            if live:
                generation.keep(going)
    for text in texts:
        piece = text.finish()
        if output.streaming:
            output.show(piece)
    return ends


def _push_passage(text: Text, ids: list[int], start_id: int) -> tuple[int, str]:
    """Add tokens until the text ends; gives how many that took, and what can be shown now."""
    pieces = []
    for count, token in enumerate(ids, 1):
        pieces.append(text.push(token, start_id))
        if text.ended:
            return count, "".join(pieces)
    return len(ids), "".join(pieces)


def _end_of(passage: Passage, column: int, count: int) -> Place:
    """Where a text stands after so many tokens of a passage."""
    state, rng = passage.place(column, count)
    return Place(state, passage.ids[column, count - 1 : count], rngs=[rng])


def _row_of(place: Place, row: int) -> Place:
    return Place(
        select_rows(place.state, [row]),
        place.last_ids[row : row + 1],
        rngs=place.rngs[row : row + 1],
    )


def _join_places(ends: list[Place], texts: list[Text]) -> Place:
    state = tuple(
        np.concatenate(parts, axis=1) for parts in zip(*(e.state for e in ends), strict=True)
    )
    return Place(
        state,
        np.concatenate([end.last_ids for end in ends]),
        rngs=[rng for end in ends for rng in end.rngs],
        tails=[text.track.tail for text in texts if text.track],
    )


def _report(texts: list[Text], console: Console) -> None:
    """The copy meter's finding for each text, on standard error."""
    for number, text in enumerate(texts, 1):
        if text.track is None or not text.ids:
            continue
        run = text.track.longest
        copied = text.track.share(REPORTED_RUN)
        which = f"text {number}: " if len(texts) > 1 else ""
        console.notice(
            f"{which}longest run shared with the training text: {run.length} "
            + ("token" if run.length == 1 else "tokens")
            + (f"; {copied:.0%} in runs of {REPORTED_RUN} or more" if copied else "")
        )
