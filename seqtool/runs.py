"""A training run as the ``train`` command drives it: asked for, shown, interrupted, closed.

What every task shares; what is read, chosen and learned is the task's: training for text,
judging_training for labels.
"""

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from seqtool.checkpoint import event_line
from seqtool.config import Device
from seqtool.console import Console, TrainingDisplay
from seqtool.errors import SeqtoolError
from seqtool.output import emit
from seqtool.settings import Settings

if TYPE_CHECKING:
    from seqtool.train import Budget, Event, Keeper, Snapshot, Trainer

CLOSING_SECONDS = 1.0  # that a second Ctrl-C waits at most


@dataclass(frozen=True)
class TrainRequest:
    """What the user asked ``train`` for."""

    data: str
    out: Path
    valid: str | None
    seconds: float | None  # budget
    epochs: float | None
    resume: bool
    init_from: Path | None
    force: bool
    show_config: bool
    device: Device
    threads: int | None
    json: bool
    settings: Settings  # fields of the configs, by name
    others: Settings  # what else was set that belongs into a settings file
    started: float  # time.monotonic() when the command began


def run(
    request: TrainRequest,
    console: Console,
    trainer: "Trainer",
    keeper: "Keeper",
    *,
    budget: "Budget | None" = None,
    good: "Snapshot | None" = None,
    write_sample: Callable[[], str] | None = None,
) -> int:
    """Consume the events of ``fit``: show them, print them, and close the run."""
    from seqtool.train import fit

    event: Event = {}
    lost: list[BrokenPipeError | SeqtoolError] = []  # why nobody can be told any more
    display = TrainingDisplay(console)
    with _signals(display.close) as interrupted, display:
        for event in fit(
            trainer,
            keeper,
            budget=budget,
            good=good,
            write_sample=write_sample,
            interrupted=lambda: "output lost" if lost else interrupted(),
        ):
            try:
                if not lost:
                    display.show(event)
                    if request.json:
                        emit(event_line(event))
            except (BrokenPipeError, SeqtoolError) as err:
                lost.append(err)  # the run is saved all the same
    name, reason = interrupted(), event["reason"]
    saved = f"saved after step {trainer.step}; go on with: {_resume_command(request)}"
    for why in lost:
        raise why if isinstance(why, BrokenPipeError) else SeqtoolError(f"{why}; {saved}")
    if name is not None and reason == name:
        console.notice(saved)
        return 128 + signal.Signals[name]
    if not request.json:
        emit(f"{request.out}\n")
    return 0


def _resume_command(request: TrainRequest) -> str:
    """What to type to go on, fit to be pasted into a shell."""
    words = ["seqtool", "train", request.data, "-o", str(request.out), "--resume"]
    if request.valid is not None:
        words += ["--valid", request.valid]
    if request.device != "auto":
        words += ["--device", request.device]
    if request.threads is not None:
        words += ["--threads", str(request.threads)]
    return shlex.join(words)


@contextmanager
def _signals(close: Callable[[], None]) -> Iterator[Callable[[], str | None]]:
    """Ctrl-C and SIGTERM ask the run to save and stop; a second one stops at once."""
    caught: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            # Restore the terminal, in a thread since this one may hold what that needs.
            closing = threading.Thread(target=close, daemon=True)
            closing.start()
            closing.join(CLOSING_SECONDS)
            os._exit(128 + number)
        caught.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shown_settings(settings: Settings, others: Settings, seconds: float | None) -> Settings:
    """What ``--show-config`` prints: a settings file that asks for this run."""
    if seconds is not None:
        others = others.add({"budget": f"{seconds:g}s"}, "default")
    left_out = {"steps"} if {"budget", "epochs"} & others.values.keys() else set()
    if seconds is not None:  # these follow from the first timed steps
        rhythm = ("report_every", "eval_every", "eval_tokens")
        left_out |= {name for name in rhythm if settings.origins[name] == "default"}
    kept = {name: value for name, value in settings.values.items() if name not in left_out}
    return Settings(others.values | kept, others.origins | settings.origins)


def flag(name: str) -> str:
    """The option that sets a field of a config."""
    return "--" + {"num_layers": "layers"}.get(name, name).replace("_", "-")
