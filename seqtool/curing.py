"""The ``cure`` command: the same data, size and minutes under each remedy for bad gradients."""

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqtool.checkpoint import event_line
from seqtool.config import DataConfig, Device, ModelConfig, TokenizerKind, TrainConfig
from seqtool.console import Console, format_duration
from seqtool.data import Corpus, fit_shape, load_corpus
from seqtool.errors import ConfigError
from seqtool.files import check_place
from seqtool.output import emit
from seqtool.sheet import Sheet

if TYPE_CHECKING:
    from seqtool.probes import ProbeName
    from seqtool.remedies import Outcome

SOLVED = 0.01  # of a probe's baseline: no use in going on
SOLVED_SCALE = 0.1  # of a probe's baseline: losses differ by powers
EVAL_TOKENS = 50_000  # scored at each look
SHOWN_CURVES = 6
# Units up to which a second thread gains nothing. On a busy machine threads wait for each other: a
# GRU had 60 times slower updates with two, which makes a race under a budget unfair.
SMALL = 128


@dataclass(frozen=True)
class CureRequest:
    """What the user asked ``cure`` for."""

    data: str | None
    probe: "ProbeName"
    length: int  # T of a probe
    hidden_size: int  # of the simple RNNs
    layers: int
    batch_size: int
    bptt: int
    seconds: float  # for all remedies together
    steps: int | None  # updates of each remedy, instead of the time
    tokenizer: TokenizerKind
    encoding: str
    seed: int
    png: Path | None
    device: Device
    threads: int | None
    json: bool
    started: float  # time.monotonic() when the command began


def cure(request: CureRequest, console: Console) -> int:
    """Try every remedy and rank them; gives the exit status.

    Raises:
        SeqtoolError: If data or options do not fit.
    """
    check_place("--png", request.png)
    corpus = None
    if request.data is not None:
        console.status(f"reading {request.data}")
        config = DataConfig(tokenizer=request.tokenizer, encoding=request.encoding)
        corpus = load_corpus(request.data, config, tell=console.status)
        if corpus.valid.size == 0:
            raise ConfigError(f"{request.data}: too short to hold a part out; give more text")
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.remedies import ProbePatient, TextPatient, remedies, treat

    alone = 1 if request.hidden_size <= SMALL else None
    device = set_up(request.device, request.threads or alone)
    model, train = _shared(request, corpus)
    patient = (
        ProbePatient(request.probe, request.length, request.seed)
        if corpus is None
        else TextPatient(corpus, device)
    )
    tried = remedies(train.bptt)
    # What is loaded or compiled at the first update is no part of the first remedy's time.
    treat(patient, tried[0], model, replace(train, steps=1), seconds=math.inf)
    # A late remedy must not pay for what an early one overspent.
    share = (request.started + request.seconds - time.monotonic() - 1) / len(tried)
    seconds = math.inf if request.steps is not None else max(0.2, share)
    baseline = None if corpus else _baseline(request)
    good_enough = -math.inf if baseline is None else SOLVED * baseline
    outcomes = []
    for number, remedy in enumerate(tried, 1):
        each = f"{request.steps} steps" if request.steps else f"at most {format_duration(seconds)}"
        console.notice(f"{number}/{len(tried)} {remedy.name}: {each}")
        outcomes.append(
            treat(patient, remedy, model, train, seconds=seconds, good_enough=good_enough)
        )
    outcomes.sort(key=lambda outcome: outcome.loss)
    command = winning_command(outcomes[0], request.data)
    if request.png is not None:
        from seqtool.figures import save_race

        save_race(outcomes, request.png)
    console.clear_status()
    if request.json:
        report: dict[str, Any] = {
            "data": request.data,
            "probe": None if request.data else request.probe,
            "baseline": baseline,
            "ranking": [outcome.as_dict() for outcome in outcomes],
            "command": command,
        }
        emit(event_line(report))
        return 0
    sheet = Sheet()
    show_outcomes(outcomes, _title(request), baseline, command, sheet)
    sheet.flush()
    return 0


def _shared(request: CureRequest, corpus: Corpus | None) -> tuple[ModelConfig, TrainConfig]:
    """What all remedies have in common."""
    # Without n-gram tables: they would hide what the recurrent layers cannot remember.
    model = ModelConfig(
        cell="rnn", hidden_size=request.hidden_size, num_layers=request.layers, ngram_order=1
    )
    batch_size, bptt = request.batch_size, request.length
    if corpus is not None:
        batch_size, bptt = fit_shape(len(corpus.train), request.batch_size, request.bptt)
    # A flat learning rate: nobody knows beforehand how many steps fit into the time.
    train = TrainConfig(
        steps=request.steps or 1_000_000_000,
        batch_size=batch_size,
        bptt=bptt,
        decay=0.0,
        warmup=10,
        average=0,
        weight_decay=0.0,
        eval_tokens=EVAL_TOKENS,
        seed=request.seed,
    )
    return model, train


def _baseline(request: CureRequest) -> float:
    """The cost of a probe's best answer without memory."""
    from seqtool.probes import BASELINES

    return BASELINES[request.probe]


def _title(request: CureRequest) -> str:
    if request.data is not None:
        return f"Remedies on {request.data}"
    names = {"adding": "the adding problem", "copy": "copy memory"}
    return f"Remedies on {names[request.probe]}, {request.length} steps"


def show_outcomes(
    outcomes: Sequence["Outcome"],
    title: str,
    baseline: float | None,
    command: str,
    sheet: Sheet,
) -> None:
    """The ranking as a table and curves, and what to type."""
    sheet.heading(title)
    rows = []
    for outcome in outcomes:
        far = f"{outcome.horizon}" if outcome.horizon < outcome.window else f">={outcome.window}"
        rows.append(
            [
                outcome.remedy.name,
                f"{outcome.loss:.4f}",
                far,
                f"{outcome.blow_ups}",
                f"{outcome.steps}",
                outcome.judgement,
            ]
        )
    sheet.table(["remedy", "loss", "horizon", "blow-ups", "steps", "gradient"], rows)
    if baseline is not None:
        sheet.paragraph(f"without memory the loss is {baseline:.4f}")
    sheet.line()
    series = [
        (
            outcome.remedy.name,
            [seconds for seconds, _ in outcome.curve],
            [loss for _, loss in outcome.curve],
        )
        for outcome in outcomes[:SHOWN_CURVES]
    ]
    # On a scale of powers only where there are any to see.
    solved = baseline is not None and outcomes[0].loss < SOLVED_SCALE * baseline
    sheet.curves(series, x="seconds", y="loss", log=solved)
    sheet.pairs([("best", outcomes[0].remedy.name), ("type", command)])


def winning_command(outcome: "Outcome", data: str | None) -> str:
    """The ``train`` command with the winner's settings."""
    settings = {"cell": "rnn"} | outcome.remedy.model
    settings |= {"hidden-size": outcome.model.hidden_size, "layers": outcome.model.num_layers}
    shared = ("lr", "clip_norm", "clip_value", "optimizer", "bptt")
    values = {name.replace("_", "-"): getattr(outcome.train, name) for name in shared}
    if not outcome.train.clip_value:
        del values["clip-value"]
    words = ["seqtool", "train", data or "DATA"]
    for name, value in (settings | values).items():
        words += [f"--{name}", f"{value:g}" if isinstance(value, float) else f"{value}"]
    return shlex.join(words)
