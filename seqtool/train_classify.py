"""The ``train`` command for labelled data: read, choose, run, show, save."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.checkpoint import COUNTS, Card, ModelDir, load, load_counts, load_last
from seqtool.config import ClassifierConfig, LabelConfig, TrainConfig
from seqtool.console import Console, format_count
from seqtool.errors import ConfigError, DataError
from seqtool.examples import Examples, pixel_statistics
from seqtool.images import Images
from seqtool.judge import check_saved
from seqtool.labelled import Split, read_split, shares, strings
from seqtool.lexicon import Lexicon
from seqtool.output import emit
from seqtool.runs import TrainRequest, flag, run, shown_settings
from seqtool.settings import Settings

if TYPE_CHECKING:
    from seqtool.judging import Judging
    from seqtool.train import Keeper
    from seqtool.trainer import Trainer

KINDS = (ClassifierConfig, LabelConfig, TrainConfig)
SHORT_TEXT = 2.5  # words; texts shorter than this on average are read by characters
EVAL_TOKENS = 200_000  # an evaluation reads; enough to choose by, and seconds at most
LOOKS = 12  # evaluations of a run that nobody gave a rhythm


def train(request: TrainRequest, console: Console) -> int:
    """Train a classifier; gives the exit status.

    Raises:
        SeqtoolError: If flags, data or the output directory make it impossible.
    """
    _configs(request.settings)  # bad flags fail here, before anything is read
    if request.init_from is not None:
        raise ConfigError("--init-from starts from a language model, for --task generate only")
    if request.resume:
        return _resume(request, console)
    if not request.show_config:
        ModelDir.create(request.out, force=request.force)
    console.status(f"reading {request.data}")
    _, data, config = _configs(request.settings)
    split = read_split(request.data, request.valid, data, config.seed)
    _show(split, console)
    settings = _unit(request.settings, split, console)
    console.status("loading PyTorch")
    examples = Examples(split, _configs(settings)[1])
    settings, seconds, reasons, most = _choose(request, settings, examples)
    model_config, data, config = _configs(settings)
    if request.show_config:
        console.clear_status()
        emit(shown_settings(settings, request.others, seconds).toml())
        return 0
    examples.take_parts(model_config.part_buckets)
    if model_config.ngram_order:
        console.status("training the linear classifier")
    linear = examples.fit_linear(model_config.ngram_order)

    from seqtool.budget import Budget
    from seqtool.devices import torch_device
    from seqtool.train import Keeper
    from seqtool.trainer import Trainer

    device = torch_device(request.device)
    objective = examples.objective(model_config, config, device, linear)
    _show_model(objective, config, seconds, settings, reasons, console)
    card = Card(
        task="classify",
        model=model_config,
        data=data,
        train=config,
        vocab_size=examples.vocab_size,
        source=_source(request, split),
        extra={"budget_seconds": seconds, "epochs": request.epochs},
    )
    output = ModelDir.create(request.out, force=request.force)
    parts = {COUNTS: linear} if linear else None
    keeper = Keeper(output, card, examples.tokenizer_json(), parts)
    budget = None
    if seconds is not None:
        given = frozenset({*request.settings.values, "eval_tokens"})
        budget = Budget(seconds, request.started, given, most)
    return _finish(request, console, Trainer(objective, config), keeper, budget=budget)


def _resume(request: TrainRequest, console: Console) -> int:
    from seqtool.devices import set_up
    from seqtool.train import Keeper, restore_last
    from seqtool.trainer import Trainer

    output = ModelDir.resume(request.out)
    saved = load(request.out, "classify")
    card = saved.card
    _check_same(request, card)
    if request.show_config:
        values = asdict(card.model) | asdict(card.data) | asdict(card.train)
        others = Settings().add({"out": request.out}, "saved run")
        settings = Settings().add(values, "saved run")
        emit(shown_settings(settings, others, card.extra.get("budget_seconds")).toml())
        return 0
    console.status(f"reading {request.data}")
    split = read_split(request.data, request.valid, card.data, card.train.seed)
    if _source(request, split) != card.source:
        raise DataError(
            f"{request.data}: not the data that {request.out} was trained on; resume with "
            f"{card.source['name']}, or start a new run"
        )
    check_saved(saved, str(request.out))
    examples = Examples(split, card.data)
    if examples.lexicon is not None:
        buckets = card.model.part_buckets
        lexicon = Lexicon.from_json(saved.tokenizer_json, str(request.out), buckets=buckets)
        examples = Examples(split, card.data, lexicon)
    examples.count_ngrams(card.model.ngram_order)
    linear = load_counts(request.out) if card.model.ngram_order else {}
    device = set_up(request.device, request.threads)
    objective = examples.objective(card.model, card.train, device, linear)
    trainer = Trainer(objective, card.train)
    good = restore_last(trainer, *load_last(request.out))
    if trainer.step >= card.train.steps:
        raise ConfigError(
            f"{request.out}: this run is finished ({trainer.step} of {card.train.steps} steps)"
        )
    console.notice(f"resuming {request.out} at step {trainer.step} of {card.train.steps}")
    keeper = Keeper(output, card, saved.tokenizer_json)
    return _finish(request, console, trainer, keeper, good=good)


def _finish(
    request: TrainRequest, console: Console, trainer: "Trainer", keeper: "Keeper", **rest: Any
) -> int:
    # Compiled now, or the first update would be taken for a slow one.
    objective: Any = trainer.objective
    objective.model.onward.prepare(
        trainer.config.batch_size, 64, lambda: console.status("compiling for this processor, once")
    )
    status = run(request, console, trainer, keeper, **rest)
    best = keeper.card.extra.get("best", {})
    if status == 0 and "valid_accuracy" in best:
        console.notice(
            f"accuracy {best['valid_accuracy']:.4f} on what was held out, expected calibration "
            f"error {best['valid_ece']:.3f}"
        )
    return status


def _unit(settings: Settings, split: Split, console: Console) -> Settings:
    """Whether rows of pixels, words or characters are read, unless the user said."""
    unit = settings.values.get("tokenizer")
    if isinstance(split.train, Images):
        if unit not in (None, "row"):
            raise ConfigError(f"--tokenizer {unit} is for texts, {split.train.name} holds images")
        return settings.add({"tokenizer": "row"}, "seen from the data")
    if unit == "row":
        raise ConfigError(f"--tokenizer row is for images, {split.train.name} holds texts")
    if unit is None:
        splitter = Lexicon("word", [], lower=False, buckets=0)
        sample = strings(split.train)[:2000]
        mean = sum(len(splitter.split(text)) for text in sample) / len(sample)
        unit = "word" if mean >= SHORT_TEXT else "char"
        if unit == "char":
            console.notice(f"texts of {mean:.1f} words on average: read by characters")
    return settings.add({"tokenizer": unit, "lower": unit == "word"}, "seen from the data")


def _choose(
    request: TrainRequest, settings: Settings, examples: Examples
) -> tuple[Settings, float | None, list[str], int]:
    """Every setting left open, the budget in seconds, why, and the most updates that help."""
    from seqtool.devices import set_up
    from seqtool.plan import DEFAULT_SECONDS, measure_gflops
    from seqtool.plan_classify import choose_classifier, most_steps

    set_up(request.device, request.threads)
    seconds = request.seconds
    if seconds is None and request.epochs is None and "steps" not in settings.values:
        seconds = DEFAULT_SECONDS
    lengths, unit = examples.lengths, settings.values["tokenizer"]
    plan = choose_classifier(
        examples=len(lengths),
        tokens=int(lengths.sum()),
        unit=unit,
        seconds=seconds,
        gflops=measure_gflops() if seconds else 0.0,
        given=settings.values,
    )
    settings = settings.add(plan.model | plan.train, "chosen by seqtool")
    batch = min(settings.values["batch_size"], len(lengths))
    most = most_steps(len(lengths), batch, unit)
    if request.epochs is not None:
        steps = {"steps": max(1, round(request.epochs * len(lengths) / batch))}
        settings = settings.add(steps, "from --epochs")
    settings = settings.add({"steps": most}, "chosen by seqtool")
    in_all = settings.values["steps"]
    rhythm = {
        "warmup": min(TrainConfig.warmup, in_all // 10),
        "report_every": max(1, in_all // 60),
        "eval_every": max(1, -(-in_all // LOOKS)),
        "eval_tokens": EVAL_TOKENS,
        "patience": 0,  # the length is chosen such that the end is worth waiting for
    }
    settings = settings.add(rhythm, "chosen by seqtool")
    defaults = {name: value for kind in KINDS for name, value in asdict(kind()).items()}
    return settings.add(defaults, "default"), seconds, plan.reasons, most


def _configs(settings: Settings) -> tuple[ClassifierConfig, LabelConfig, TrainConfig]:
    def build(kind: Any) -> Any:
        names = {field.name for field in fields(kind)}
        return kind(**{name: v for name, v in settings.values.items() if name in names})

    known = {field.name for kind in KINDS for field in fields(kind)}
    for name, value in settings.values.items():
        if name not in known:
            raise ConfigError(
                f"{flag(name)} {value} ({settings.origins[name]}) is not for classifying; leave "
                "it out, or say --task generate"
            )
    return build(ClassifierConfig), build(LabelConfig), build(TrainConfig)


def _check_same(request: TrainRequest, card: Card) -> None:
    """A flag that contradicts the saved run is an error, never silently ignored."""
    lengths = {"budget": request.seconds, "epochs": request.epochs}
    before = {"budget": card.extra["budget_seconds"], "epochs": card.extra["epochs"]}
    for name, asked in lengths.items():
        if asked is not None and asked != before[name]:
            raise ConfigError(
                f"--{name} contradicts the saved run, which ends after {card.train.steps} steps; "
                "leave it out"
            )
    saved = asdict(card.model) | asdict(card.data) | asdict(card.train)
    for name, value in request.settings.values.items():
        if value != saved.get(name):
            raise ConfigError(
                f"{flag(name)} {value} ({request.settings.origins[name]}) contradicts the saved "
                f"run, which has {saved.get(name)}; leave it out, or start a new run"
            )


def _source(request: TrainRequest, split: Split) -> dict[str, Any]:
    """What the data were, for the card."""
    data, held_out = split.train, split.held_out
    found: dict[str, Any] = {
        "name": data.name,
        "sha256": data.sha256,
        "valid": request.valid,
        "valid_sha256": held_out.sha256 if held_out is not None and request.valid else None,
        "classes": list(split.classes),
        "class_counts": np.bincount(split.labels(data), minlength=len(split.classes)).tolist(),
        "train_rows": len(data),
        "valid_rows": 0 if held_out is None else len(held_out),
    }
    if isinstance(data, Images):
        mean, deviation = pixel_statistics(data)
        shape = list(data.pixels.shape[1:])
        return found | {"image_shape": shape, "pixel_mean": mean, "pixel_deviation": deviation}
    columns = data.columns
    return found | {"text_columns": list(columns.texts), "label_column": columns.label}


def _show(split: Split, console: Console) -> None:
    """What the data hold, and how they are split."""
    data, held_out = split.train, split.held_out
    apart = 0 if held_out is None else len(held_out)
    if isinstance(data, Images):
        height, width, channels = data.pixels.shape[1:]
        kind = "colour" if channels == 3 else "grey"
        rows = [("images", f"{height} x {width} pixels, {kind}: {height} steps of a row each")]
        rows += [("", note) for note in data.notes]
    else:
        rows = [("columns", data.columns.reason)]
    rows.append(("classes", shares(data)))
    rows.append(("split", f"{len(data)} to train on, {apart} held out ({split.note})"))
    console.table(data.name, rows)
    if held_out is None:
        console.warn("nothing is held out, so probabilities are not calibrated")
    for finding in split.findings:
        console.warn(finding.message)


def _show_model(
    objective: "Judging",
    config: TrainConfig,
    seconds: float | None,
    settings: Settings,
    reasons: Sequence[str],
    console: Console,
) -> None:
    """What was chosen, a star on what the user did not fix."""

    def star(name: str) -> str:
        return "*" if settings.origins[name] in ("chosen by seqtool", "default") else ""

    model = objective.model.config
    weights = sum(p.numel() for p in objective.model.parameters())
    length = f"{config.steps} steps" + ("" if seconds is None else f" or {seconds:g} s")
    rows = [
        (
            "network",
            f"{model.cell.upper()} in both directions, {model.num_layers} x "
            f"{model.hidden_size}{star('hidden_size')} units, dropout {model.dropout:g}"
            f"{star('dropout')}, {format_count(weights)} weights",
        ),
        (
            "beside it",
            f"linear classifier of n-grams up to {model.ngram_order}{star('ngram_order')}"
            if model.ngram_order
            else "nothing",
        ),
        (
            "training",
            f"{config.optimizer}, learning rate {config.lr:g}{star('lr')}, batch "
            f"{config.batch_size}{star('batch_size')}, {length}",
        ),
    ]
    if reasons:
        rows.append(("* chosen", "; ".join(reasons)))
    console.table("Model", rows)
