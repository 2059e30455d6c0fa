"""The ``train`` command once its options are known: read, choose, run, show, save."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.checkpoint import Card, ModelDir, Saved, check_weights, load, load_last
from seqtool.config import DataConfig, DecodeConfig, Device, ModelConfig, TrainConfig
from seqtool.console import Console, TrainingDisplay, format_bytes, format_count
from seqtool.data import Corpus, fit_shape, load_corpus
from seqtool.decode import Generation, row_rngs, warm_up
from seqtool.errors import ConfigError, DataError
from seqtool.settings import Settings
from seqtool.tokenizer import Tokenizer

if TYPE_CHECKING:
    from seqtool.models import LanguageModel
    from seqtool.train import Budget, Event, Keeper, Snapshot, Trainer

SAMPLE_LENGTH = 160  # tokens of a sample shown in training
SHOWN = 12  # rare or strange characters listed
KEEP_TEXT_TOKENS = 64_000_000  # longer training texts are not kept with the model


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
    started: float  # time.monotonic() when the command began


def train(request: TrainRequest, console: Console) -> int:
    """Train a model; gives the exit status.

    Raises:
        SeqtoolError: If flags, data or the output directory make it impossible.
    """
    _configs(request.settings)  # bad flags fail here, before anything is read
    if request.resume:
        return _resume(request, console)
    output = ModelDir.create(request.out, force=request.force)
    console.status(f"reading {request.data}")
    parent = load(request.init_from) if request.init_from else None
    settings = request.settings
    if parent is not None:
        settings = _inherit(settings, parent.card, request.init_from)
    corpus, tokenizer_note = _read_corpus(request, settings, parent, console)
    _show_corpus(corpus, console)
    if tokenizer_note:
        console.notice(tokenizer_note)

    console.status("loading PyTorch")
    import torch

    from seqtool.devices import set_up
    from seqtool.models import build_model
    from seqtool.plan import DEFAULT_SECONDS, choose, measure_gflops
    from seqtool.train import Budget, Keeper, Trainer

    device = set_up(request.device, request.threads)
    seconds = request.seconds
    if seconds is None and request.epochs is None and "steps" not in settings.values:
        seconds = DEFAULT_SECONDS
    plan = choose(
        tokens=len(corpus.train),
        vocab_size=corpus.tokenizer.vocab_size,
        seconds=seconds,
        gflops=measure_gflops() if seconds else 0.0,
        given=settings.values | ({"epochs": request.epochs} if request.epochs else {}),
    )
    why = "; ".join(f"{name} {reason}" for name, reason in plan.reasons)
    settings = settings.add(plan.model | plan.train, "chosen by seqtool")
    settings = _fit_to_text(settings, corpus, request.epochs, seconds, console)
    settings = settings.add(_defaults(), "default")
    model_config, data_config, train_config = _configs(settings)
    if request.show_config:
        console.clear_status()
        print(settings.toml(), end="")
        return 0
    torch.manual_seed(train_config.seed)
    tokenizer = corpus.tokenizer
    model = build_model(model_config, tokenizer.vocab_size, unknown_id=tokenizer.unknown_id)
    if parent is not None:
        _copy_weights(model, parent, tokenizer)
    model.to(device)
    console.table("Model", _model_rows(model, model_config, train_config, settings, seconds))
    console.debug(f"chosen because: {why}")
    card = Card(
        task="generate",
        model=model_config,
        data=data_config,
        train=train_config,
        vocab_size=tokenizer.vocab_size,
        source=_source(request, corpus),
        extra={"budget_seconds": seconds} if seconds else {},
    )
    trainer = Trainer(model, corpus, train_config)
    text = corpus.train if len(corpus.train) <= KEEP_TEXT_TOKENS else None
    keeper = Keeper(output, card, tokenizer.to_json(), text)
    budget = Budget(seconds, request.started) if seconds else None
    return _run(request, console, trainer, keeper, budget=budget)


def _resume(request: TrainRequest, console: Console) -> int:
    output = ModelDir.resume(request.out)
    saved = load(request.out)
    card = saved.card
    _check_same(request, card)
    console.status(f"reading {request.data}")
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.out))
    corpus = load_corpus(request.data, card.data, valid=request.valid, tokenizer=tokenizer)
    if corpus.sha256 != card.source["sha256"] or corpus.valid_sha256 != card.source["valid_sha256"]:
        raise DataError(
            f"{request.data}: not the text that {request.out} was trained on "
            f"({card.source['name']}); resume with that, or start anew with --init-from"
        )
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.models import build_model, shapes
    from seqtool.train import Keeper, Trainer, restore_last

    device = set_up(request.device, request.threads)
    model = build_model(card.model, card.vocab_size, unknown_id=tokenizer.unknown_id)
    check_weights(saved.weights, shapes(model), str(request.out))
    model.to(device)
    trainer = Trainer(model, corpus, card.train)
    good = restore_last(trainer, *load_last(request.out))
    if trainer.step >= card.train.steps:
        raise ConfigError(
            f"{request.out}: this run is finished ({trainer.step} of {card.train.steps} steps); "
            f"train on from its weights with --init-from {request.out} -o NEW"
        )
    console.notice(f"resuming {request.out} at step {trainer.step} of {card.train.steps}")
    keeper = Keeper(output, card, saved.tokenizer_json)
    return _run(request, console, trainer, keeper, good=good)


def _run(
    request: TrainRequest,
    console: Console,
    trainer: "Trainer",
    keeper: "Keeper",
    *,
    budget: "Budget | None" = None,
    good: "Snapshot | None" = None,
) -> int:
    """Consume the events of ``fit``: show them, print them, and close the run."""
    from seqtool.train import fit

    event: Event = {}
    with _signals() as interrupted, TrainingDisplay(console) as display:
        for event in fit(
            trainer,
            keeper,
            budget=budget,
            good=good,
            write_sample=_sampler(trainer),
            interrupted=interrupted,
        ):
            display.show(event)
            if request.json:
                print(json.dumps(event), flush=True)
    name = interrupted()
    if name and event["reason"] == name:
        again = f"seqtool train {request.data} -o {request.out} --resume"
        if request.valid:
            again += f" --valid {request.valid}"
        console.notice(f"saved after step {trainer.step}; go on with: {again}")
        return 128 + signal.Signals[name]
    if not request.json:
        print(request.out, flush=True)
    return 0


@contextmanager
def _signals() -> Iterator[Callable[[], str | None]]:
    """Ctrl-C and SIGTERM ask the run to save and stop; a second one stops at once."""
    caught: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _configs(settings: Settings) -> tuple[ModelConfig, DataConfig, TrainConfig]:
    def build(kind: Any) -> Any:
        names = {field.name for field in fields(kind)}
        return kind(**{name: v for name, v in settings.values.items() if name in names})

    return build(ModelConfig), build(DataConfig), build(TrainConfig)


def _defaults() -> dict[str, Any]:
    return asdict(ModelConfig()) | asdict(DataConfig()) | asdict(TrainConfig())


def _inherit(settings: Settings, card: Card, path: Path | None) -> Settings:
    """With ``--init-from``, shape and vocabulary are the parent's; a flag may not differ."""
    shape = asdict(card.model) | {"tokenizer": card.data.tokenizer}
    for name, value in shape.items():
        given = settings.values.get(name, value)
        if given != value and name not in ("dropout", "ngram_dropout"):
            flag = "--" + {"num_layers": "layers"}.get(name, name).replace("_", "-")
            raise ConfigError(
                f"{flag} {given} does not fit --init-from {path}, which has {value}; leave it out"
            )
    inherited = {n: v for n, v in shape.items() if n not in ("dropout", "ngram_dropout")}
    return settings.add(inherited, f"--init-from {path}")


def _read_corpus(
    request: TrainRequest, settings: Settings, parent: Saved | None, console: Console
) -> tuple[Corpus, str]:
    _, data_config, _ = _configs(settings)
    if parent is None:
        return load_corpus(request.data, data_config, valid=request.valid), ""
    tokenizer = Tokenizer.from_json(parent.tokenizer_json, str(request.init_from))
    corpus = load_corpus(request.data, data_config, valid=request.valid, tokenizer=tokenizer)
    note = f"starting from the weights of {request.init_from}"
    if corpus.unknown:
        new = corpus.unknown
        tokenizer = tokenizer.extend(new)
        corpus = load_corpus(request.data, data_config, valid=request.valid, tokenizer=tokenizer)
        note += f"; {len(new)} new characters extend its vocabulary: {_listed(new)}"
    return corpus, note


def _check_same(request: TrainRequest, card: Card) -> None:
    """A flag that contradicts the saved run is an error, never silently ignored."""
    if request.seconds is not None and request.seconds != card.extra.get("budget_seconds"):
        saved = card.extra.get("budget_seconds")
        raise ConfigError(
            f"--budget {request.seconds:g}s contradicts the saved run, which "
            + (f"has --budget {saved:g}s" if saved else f"has --steps {card.train.steps}")
            + "; leave it out"
        )
    if request.epochs is not None and request.epochs != card.extra.get("epochs"):
        raise ConfigError("--epochs contradicts the saved run; leave it out")
    if request.init_from is not None:
        raise ConfigError("--resume goes on with a run, --init-from starts a new one; give one")
    saved_values = asdict(card.model) | asdict(card.data) | asdict(card.train)
    for name, value in request.settings.values.items():
        if value != saved_values[name]:
            flag = "--" + {"num_layers": "layers"}.get(name, name).replace("_", "-")
            raise ConfigError(
                f"{flag} {value} contradicts the saved run, which has {saved_values[name]}; "
                "leave it out, or start a new run with --init-from"
            )


def _fit_to_text(
    settings: Settings,
    corpus: Corpus,
    epochs: float | None,
    seconds: float | None,
    console: Console,
) -> Settings:
    """Shrink the batch to a short text, and turn epochs into steps."""
    wanted = {"batch_size": 0, "bptt": 0}
    wanted = {name: settings.values.get(name, getattr(TrainConfig, name)) for name in wanted}
    fitted = fit_shape(len(corpus.train), wanted["batch_size"], wanted["bptt"])
    if fitted != tuple(wanted.values()):
        console.notice(
            f"the text has only {len(corpus.train)} training tokens: batch size {fitted[0]} and "
            f"bptt {fitted[1]} instead of {wanted['batch_size']} and {wanted['bptt']}"
        )
        kept = {n: v for n, v in settings.values.items() if n not in wanted}
        settings = Settings(kept, settings.origins).add(
            {"batch_size": fitted[0], "bptt": fitted[1]}, "shrunk to the text"
        )
    per_epoch = len(corpus.train) / (fitted[0] * fitted[1])
    if epochs is not None:
        settings = settings.add({"steps": max(1, round(epochs * per_epoch))}, "from --epochs")
    if seconds is None:
        steps = settings.values.get("steps", TrainConfig.steps)
        rhythm = {
            "warmup": min(TrainConfig.warmup, steps // 10),
            "report_every": max(1, steps // 100),
            "eval_every": max(1, -(-steps // 12)),
        }
        return settings.add(rhythm, "chosen by seqtool")
    # The real number comes from timed steps; until then the schedule is flat, so any will do.
    return settings.add({"steps": 10**9}, "to be measured")


def _copy_weights(model: "LanguageModel", parent: Saved, tokenizer: Tokenizer) -> None:
    """Start from another model's weights; rows for new characters keep their fresh start."""
    import torch

    from seqtool.models import shapes, vocabulary_axes

    axes = vocabulary_axes(model)
    grown = model.vocab_size - parent.card.vocab_size
    expected = {
        name: tuple(
            length - grown if axes.get(name) == axis else length
            for axis, length in enumerate(shape)
        )
        for name, shape in shapes(model).items()
    }
    check_weights(parent.weights, expected, "--init-from")
    with torch.no_grad():
        for name, target in model.named_parameters():
            weight = torch.from_numpy(parent.weights[name])
            axis = axes.get(name, 0)
            target.narrow(axis, 0, weight.shape[axis]).copy_(weight)


def _sampler(trainer: "Trainer") -> Callable[[], str]:
    """Writes a short text with the present averaged weights, always from the same seed."""
    from seqtool.models import Stepper

    tokenizer = trainer.corpus.tokenizer
    banned = [tokenizer.start_id]
    if tokenizer.unknown_id is not None:
        banned.append(tokenizer.unknown_id)

    def write() -> str:
        stepper = Stepper(trainer.model)
        with trainer.updater.averaged():
            logits, state = warm_up(stepper, np.array([tokenizer.start_id]), stepper.init_state(1))
            generation = Generation(
                stepper,
                DecodeConfig(),
                logits=logits,
                state=state,
                rngs=row_rngs(trainer.config.seed, 1),
                banned_ids=banned,
            )
            ids = [int(generation.next()[0]) for _ in range(SAMPLE_LENGTH)]
        return tokenizer.decode(ids)

    return write


def _listed(characters: "dict[str, int]") -> str:
    """Characters with their counts, most frequent first, the invisible ones by code point."""
    shown = sorted(characters.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    names = [
        f"{char if char.isprintable() and not char.isspace() else f'U+{ord(char):04X}'} x{count}"
        for char, count in shown
    ]
    more = len(characters) - len(shown)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _show_corpus(corpus: Corpus, console: Console) -> None:
    stats = corpus.stats
    size = f"{format_count(stats.characters)} characters, {format_bytes(stats.bytes)}"
    if stats.documents > 1:
        size += f" in {stats.documents} files"
    kind = corpus.tokenizer.kind
    rows = [
        ("size", f"{size}, {format_count(stats.lines)} lines"),
        ("vocabulary", f"{corpus.tokenizer.vocab_size} entries ({kind})"),
        (
            "split",
            f"{format_count(corpus.train_chars)} characters to train on, the last "
            f"{format_count(corpus.valid_chars)} held out"
            if corpus.valid_sha256 is None
            else f"all to train on; {format_count(corpus.valid_chars)} characters of --valid",
        ),
    ]
    if kind != "char":
        per_token = corpus.train_chars / max(1, len(corpus.train))
        rows.append(
            ("tokens", f"{format_count(len(corpus.train))}, {per_token:.2f} characters each")
        )
    if kind == "char" and stats.rare:
        rows.append(("rare", f"{len(stats.rare)} characters: {_listed(stats.rare)}"))
    if stats.strange:
        rows.append(("strange", f"{len(stats.strange)} characters: {_listed(stats.strange)}"))
    if corpus.unknown:
        rows.append(("unknown", f"not in the vocabulary: {_listed(corpus.unknown)}"))
    console.table(corpus.name, rows)
    if corpus.valid.size == 0:
        console.warn("nothing is held out, so nothing tells when the model starts to memorise")


def _model_rows(
    model: "LanguageModel",
    model_config: ModelConfig,
    config: TrainConfig,
    settings: Settings,
    seconds: float | None,
) -> list[tuple[str, str]]:
    """What was chosen, a star on what the user did not fix."""

    def star(name: str) -> str:
        return "" if settings.origins[name] in ("flag", "environment", "config file") else "*"

    cell = model_config.cell.upper()
    if model_config.cell == "rnn":
        cell += f" ({model_config.nonlinearity})"
    size = sum(p.numel() for p in model.parameters())
    tables = sum(p.numel() for name, p in model.named_parameters() if name == "ngrams.weight")
    layers, hidden = model_config.num_layers, model_config.hidden_size
    rows = [
        (
            "network",
            f"{cell}, {layers} x {hidden}{star('hidden_size')} units, "
            f"dropout {model_config.dropout:g}{star('dropout')}",
        ),
        (
            "weights",
            f"{format_count(size - tables)} in the network, "
            f"{format_count(tables)} in n-gram tables",
        ),
        (
            "training",
            f"{config.optimizer}, learning rate {config.lr:g}{star('lr')}, "
            f"batch {config.batch_size}{star('batch_size')} x {config.bptt}{star('bptt')}, "
            + (f"{config.steps} steps" if seconds is None else f"a budget of {seconds:g} s"),
        ),
        ("", "* chosen for this text, this budget and this machine"),
    ]
    return rows


def _source(request: TrainRequest, corpus: Corpus) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "sha256": corpus.sha256,
        "valid": request.valid,
        "valid_sha256": corpus.valid_sha256,
        "train_tokens": len(corpus.train),
        "train_chars": corpus.train_chars,
        "valid_tokens": len(corpus.valid),
        "valid_chars": corpus.valid_chars,
    }
