"""The ``cure`` command: the same data, size and minutes under each remedy for bad gradients."""

import math
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqtool.checkpoint import event_line
from seqtool.config import DataConfig, Device, ModelConfig, TokenizerKind, TrainConfig
from seqtool.console import Console, number_of
from seqtool.data import Corpus, fit_shape, load_corpus
from seqtool.errors import ConfigError
from seqtool.files import check_place
from seqtool.output import emit
from seqtool.sheet import Sheet

if TYPE_CHECKING:
    from seqtool.probes import ProbeName
    from seqtool.remedies import Outcome, Patient, Remedy

SOLVED = 0.01  # of a probe's baseline: no use in going on
SOLVED_SCALE = 0.1  # of a probe's baseline: losses differ by powers
EVAL_TOKENS = 50_000  # scored at each look
SHOWN_CURVES = 6
FEWEST = 200  # updates that tell anything
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
    steps: str | None  # updates of each remedy, or of all, instead of the time
    tokenizer: TokenizerKind
    encoding: str
    seed: int
    png: Path | None
    html: Path | None
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
    check_place("--html", request.html)
    given = None if request.steps is None else _parse_steps(request.steps)
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
    if given is None:
        console.status("measuring how long an update takes under each remedy")
        allotted = _allot(patient, tried, model, train, request, console)
    else:
        allotted = _spread(given, tried)
    baseline = None if corpus else _baseline(request)
    good_enough = -math.inf if baseline is None else SOLVED * baseline
    outcomes = []
    for number, (remedy, steps) in enumerate(zip(tried, allotted, strict=True), 1):
        console.notice(f"{number}/{len(tried)} {remedy.name}: {number_of(steps, 'update')}")
        effort = replace(train, steps=steps)
        outcomes.append(treat(patient, remedy, model, effort, good_enough=good_enough))
    outcomes.sort(key=lambda outcome: outcome.loss)
    _tell(request, outcomes, baseline, allotted, console)
    return 0


def _tell(
    request: CureRequest,
    outcomes: Sequence["Outcome"],
    baseline: float | None,
    allotted: Sequence[int],
    console: Console,
) -> None:
    """Write picture and page, and print the ranking."""
    command = winning_command(outcomes[0], request.data)
    again = f"--steps {','.join(map(str, allotted))}"
    if request.png is not None:
        from seqtool.figures import races, save_plots

        save_plots(races(outcomes), request.png)
    if request.html is not None:
        from seqtool.racing import write_race

        commands = [("to train with the best", command), ("to run the race again", again)]
        facts = _facts(outcomes, baseline)
        write_race(_title(request), _ranking(outcomes), facts, commands, outcomes, request.html)
    console.clear_status()
    if request.json:
        report: dict[str, Any] = {
            "data": request.data,
            "probe": None if request.data else request.probe,
            "baseline": baseline,
            "ranking": [outcome.as_dict() for outcome in outcomes],
            "command": command,
            "again": again,
        }
        emit(event_line(report))
        return
    sheet = Sheet()
    show_outcomes(outcomes, _title(request), baseline, sheet)
    sheet.pairs([("best", outcomes[0].remedy.name), ("type", command), ("again", again)])
    sheet.flush()


def _spread(given: list[int], tried: "Sequence[Remedy]") -> list[int]:
    """The updates of each remedy.

    Raises:
        ConfigError: If they are neither one number for all nor one for each.
    """
    if len(given) not in (1, len(tried)):
        raise ConfigError(
            f"--steps must be one number or {len(tried)}, one for each of "
            f"{', '.join(remedy.name for remedy in tried)}; got {len(given)}"
        )
    return given * (len(tried) // len(given))


def _parse_steps(text: str) -> list[int]:
    """The numbers of ``--steps``.

    Raises:
        ConfigError: If they are none.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,11}", part) for part in parts):
        raise ConfigError(
            f"--steps must be a number of updates from 1 on, or one for each remedy with commas "
            f"between, got {text!r}"
        )
    return [int(part) for part in parts]


def _allot(
    patient: "Patient",
    tried: "Sequence[Remedy]",
    model: ModelConfig,
    train: TrainConfig,
    request: CureRequest,
    console: Console,
) -> list[int]:
    """Updates that fit into the budget, for each remedy.

    They are counted in seconds of the processor, which are the same on a busy machine; how many of
    these the budget holds is seen by how many there were while they were measured.
    """
    from seqtool.remedies import allot, measure

    measure(patient, tried[0], model, train)  # what is loaded or compiled at first is not its cost
    passed, taken = time.monotonic(), time.process_time()
    costs = [measure(patient, remedy, model, train) for remedy in tried]
    now = time.monotonic()
    speed = (time.process_time() - taken) / max(now - passed, 1e-9)
    allotted = allot(costs, speed * max(0.0, request.started + request.seconds - now))
    if min(allotted) < FEWEST:
        console.warn(
            f"the budget holds {number_of(min(allotted), 'update')} of a remedy; below {FEWEST} "
            "the ranking says little: give more time, or a smaller --length, --bptt or --batch-size"
        )
    return allotted


def _shared(request: CureRequest, corpus: Corpus | None) -> tuple[ModelConfig, TrainConfig]:
    """What all remedies have in common."""
    # Without n-gram tables: they would hide what the recurrent layers cannot remember.
    model = ModelConfig(
        cell="rnn", hidden_size=request.hidden_size, num_layers=request.layers, ngram_order=1
    )
    batch_size, bptt = request.batch_size, request.length
    if corpus is not None:
        batch_size, bptt = fit_shape(len(corpus.train), request.batch_size, request.bptt)
    # A flat learning rate: what a remedy can do must not hang on how long it is given.
    train = TrainConfig(
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
    outcomes: Sequence["Outcome"], title: str, baseline: float | None, sheet: Sheet
) -> None:
    """The ranking as a table, and the course of loss, horizon and blow-ups as curves."""
    sheet.heading(title)
    sheet.table(*_ranking(outcomes))
    for fact in _facts(outcomes, baseline):
        sheet.paragraph(fact)
    # On a scale of powers only where there are any to see.
    solved = baseline is not None and outcomes[0].loss < SOLVED_SCALE * baseline
    best = outcomes[:SHOWN_CURVES]
    _show_course(best, "loss", "loss", sheet, log=solved)
    _show_course(best, "horizon", "horizon in steps back", sheet)
    most = sorted(outcomes, key=lambda outcome: -outcome.curve[-1].blow_ups)[:SHOWN_CURVES]
    if blown := [outcome for outcome in most if outcome.curve[-1].blow_ups]:
        _show_course(blown, "blow_ups", "blow-ups so far", sheet)


def _ranking(outcomes: Sequence["Outcome"]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of outcomes."""
    rows = []
    for outcome in outcomes:
        last = outcome.curve[-1]
        far = f"{last.horizon}" if last.horizon < outcome.window else f">={outcome.window}"
        cells = [outcome.remedy.name, f"{outcome.loss:.4f}", far, f"{last.blow_ups}"]
        rows.append([*cells, f"{outcome.steps}", outcome.judgement])
    return ["remedy", "loss", "horizon", "blow-ups", "updates", "gradient"], rows


def _facts(outcomes: Sequence["Outcome"], baseline: float | None) -> list[str]:
    """What belongs to the table, in words."""
    facts = [] if baseline is None else [f"without memory the loss is {baseline:.4f}"]
    if short := [outcome for outcome in outcomes if outcome.cut]:
        why = "the network would pass more on than its BPTT lets through"
        facts.append(f"{short[0].judgement}: {why}")
    calm = not any(outcome.curve[-1].blow_ups for outcome in outcomes)
    return facts + ["no remedy had a blow-up"] * calm


def _show_course(
    outcomes: Sequence["Outcome"], field: str, y: str, sheet: Sheet, *, log: bool = False
) -> None:
    """Curves of one field of ``Point`` over the shares of the runs."""
    series = [
        (
            outcome.remedy.name,
            [100 * point.share for point in outcome.curve],
            [float(getattr(point, field)) for point in outcome.curve],
        )
        for outcome in outcomes
    ]
    sheet.line()
    name = f", {outcomes[0].remedy.name}" if len(outcomes) == 1 else ""  # no legend then
    sheet.curves(series, x="% of the updates", y=y + name, log=log)


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
