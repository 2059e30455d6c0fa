"""A training run as the ``train`` command drives it: asked for, shown, interrupted, closed.

What every task shares, once its data are read and its model is made; that is in tasks.
"""

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from seqtool.checkpoint import Card, event_line
from seqtool.config import Device, ModelConfig, TrainConfig
from seqtool.console import Console
from seqtool.display import TrainingDisplay
from seqtool.errors import ConfigError, SeqtoolError, is_out_of_memory
from seqtool.output import emit
from seqtool.settings import Settings

if TYPE_CHECKING:
    from seqtool.budget import Budget
    from seqtool.train import Event, Onlooker
    from seqtool.trainer import Snapshot, Trainer

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")  # signals that save the run; Windows lacks the last
CLOSING_SECONDS = 1.0  # that a second Ctrl-C waits at most
# What makes a model or a batch large, in the order in which it is told.
LARGE = (
    *("hidden_size", "num_layers", "members", "embed_size"),
    *("ngram_buckets", "batch_size", "bptt"),
)


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
    embeddings: str | None  # a file of vectors of words
    force: bool
    show_config: bool
    guessed: bool  # nobody has named the task
    device: Device
    threads: int | None
    json: bool
    settings: Settings  # fields of the configs, by name
    others: Settings  # what else was set that belongs into a settings file
    started: float  # time.monotonic() when the command began
    target: str | None = None  # translations of ``data``, line for line, in a file of their own
    valid_target: str | None = None  # the same of ``valid``
    reproduces: Path | None = None  # the model whose run this is once more


def run(
    request: TrainRequest,
    console: Console,
    trainer: "Trainer",
    keeper: "Onlooker",
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
    memory = enough_memory(keeper.card.model, trainer.config)
    with memory, _signals(display.close) as interrupted, display:
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
    if reason in ("done", "early stop"):
        saved = f"the model is complete in {request.out}"
    else:
        saved = f"saved after step {trainer.step}; go on with: {_resume_command(request)}"
    try:
        if not lost and not request.json and not request.reproduces and reason != name:
            emit(f"{request.out}\n")
    except (BrokenPipeError, SeqtoolError) as err:
        lost.append(err)
    for why in lost:
        raise why if isinstance(why, BrokenPipeError) else SeqtoolError(f"{why}; {saved}")
    if name is not None and reason == name:
        console.notice(saved)
        return 128 + signal.Signals[name]
    return 0


@contextmanager
def enough_memory(model: Any, config: TrainConfig) -> Iterator[None]:
    """Turn a refusal of memory, for the model, its updates or its batches, into advice.

    Args:
        model: The model's config, of whatever task.
        config: How it is trained.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        sizes = {**asdict(model), "batch_size": config.batch_size}
        if isinstance(model, ModelConfig):  # others read whole sequences
            sizes["bptt"] = config.bptt
        shown = [f"{flag(name)} {sizes[name]}" for name in LARGE if name in sizes]
        raise ConfigError(
            f"not enough memory to train with {', '.join(shown[:-1])} and {shown[-1]}; "
            "lower one of them"
        ) from err


def resumed_device(request: TrainRequest, card: Card, console: Console) -> Device:
    """Where a run goes on: with ``auto`` where it began, since only there can it be exact."""
    from seqtool.devices import torch_device

    before: Device = card.extra.get("device", "cpu")
    device = before if request.device == "auto" else request.device
    try:
        here = torch_device(device).type
    except ConfigError:
        if request.device != "auto":
            raise
        device, here = "auto", torch_device("auto").type
    if here != before:
        console.warn(
            f"{request.out} was trained on {before} so far, this goes on on {here}: the weights "
            "will not be those of a run without the break"
        )
    return device


def _resume_command(request: TrainRequest) -> str:
    """What to type to go on, fit to be pasted into a shell."""
    words = ["seqtool", "train", request.data, "-o", str(request.out), "--resume"]
    if request.target is not None:
        words += ["--target", request.target]
    if request.valid is not None:
        words += ["--valid", request.valid]
    if request.valid_target is not None:
        words += ["--valid-target", request.valid_target]
    if request.device != "auto":
        words += ["--device", request.device]
    if request.threads is not None:
        words += ["--threads", str(request.threads)]
    return shlex.join(words)


@contextmanager
def _signals(close: Callable[[], None]) -> Iterator[Callable[[], str | None]]:
    """Ctrl-C, SIGTERM and a closed terminal ask the run to save and stop; a second one is obeyed.

    A signal that was ignored when the command began, as by nohup, stays ignored.
    """
    caught: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            # Restore the terminal, in a thread since this one may hold what that needs.
            closing = threading.Thread(target=close, daemon=True)
            closing.start()
            closing.join(CLOSING_SECONDS)
            os._exit(128 + number)
        caught.append(signal.Signals(number).name)

    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shown_settings(settings: Settings, others: Settings, seconds: float | None) -> Settings:
    """What ``--show-config`` prints: a settings file that asks for this run."""
    if seconds is not None:
        others = others.add({"budget": f"{seconds:g}s"}, "default")
    left_out = {"bends"}  # of one run on one day
    left_out |= {"table_order", "table_buckets"}  # they come with --init-from
    left_out |= {"steps"} if {"budget", "epochs"} & others.values.keys() else set()
    left_out |= {"valid_fraction"} if "valid" in others.values else set()
    if seconds is not None:  # these follow from the first timed steps
        rhythm = ("report_every", "eval_every", "eval_tokens", "members")
        left_out |= {name for name in rhythm if settings.origins.get(name) == "default"}
    kept = {name: value for name, value in settings.values.items() if name not in left_out}
    return Settings(others.values | kept, others.origins | settings.origins)


def inherit(settings: Settings, shape: Mapping[str, Any], origin: str) -> Settings:
    """Take over what weights from elsewhere settle; a flag may not differ.

    Raises:
        ConfigError: If one does.
    """
    for name, value in shape.items():
        given = settings.values.get(name, value)
        if given != value:
            raise ConfigError(
                f"{flag(name)} {given} does not fit {origin}, which has {value}; leave it out"
            )
    return settings.add(dict(shape), origin)


def flag(name: str) -> str:
    """The option that sets a field of a config."""
    return "--" + {"num_layers": "layers"}.get(name, name).replace("_", "-")
