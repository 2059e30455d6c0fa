"""The ``train`` command once its options are known: read, choose, run, show, save."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.backoff import NGram
from seqtool.checkpoint import (
    COUNTS,
    TEXT,
    Card,
    ModelDir,
    Saved,
    check_weights,
    load,
    load_last,
)
from seqtool.config import DataConfig, DecodeConfig, ModelConfig, TrainConfig
from seqtool.console import Console, format_count
from seqtool.data import Corpus, fit_shape, load_corpus
from seqtool.decode import Generation, Steppable, row_rngs, warm_up
from seqtool.errors import ConfigError, DataError
from seqtool.mixture import Mixture
from seqtool.output import emit
from seqtool.overview import listed, model_rows, show_corpus
from seqtool.runs import (
    TrainRequest,
    enough_memory,
    flag,
    resumed_device,
    run,
    shown_settings,
)
from seqtool.settings import Settings
from seqtool.tokenizer import Tokenizer

if TYPE_CHECKING:
    from seqtool.language import NextToken
    from seqtool.models import LanguageModel
    from seqtool.trainer import Trainer

SAMPLE_LENGTH = 160  # tokens of a sample shown in training
KEEP_TEXT_TOKENS = 64_000_000  # longer training texts are not kept with the model


def train(request: TrainRequest, console: Console) -> int:
    """Train a model; gives the exit status.

    Raises:
        SeqtoolError: If flags, data or the output directory make it impossible.
    """
    request = replace(request, settings=_tied_sizes(request.settings))
    _configs(request.settings)  # bad flags fail here, before anything is read
    if request.resume:
        return _resume(request, console)
    if not request.show_config:
        ModelDir.create(request.out, force=request.force)  # refuses now, not after the reading
    console.status(f"reading {request.data}")
    parent = load(request.init_from, "generate") if request.init_from else None
    settings = request.settings
    if parent is not None:
        settings = _inherit(settings, parent.card, request.init_from)
    corpus, tokenizer_note = _read_corpus(request, settings, parent, console)
    show_corpus(corpus, console)
    if tokenizer_note:
        console.notice(tokenizer_note)
    settings, seconds, reasons = _choose(request, settings, corpus, console)
    model_config, data_config, train_config = _configs(settings)
    if request.show_config:
        console.clear_status()
        emit(shown_settings(settings, request.others, seconds).toml())
        return 0

    from seqtool.budget import Budget
    from seqtool.devices import torch_device
    from seqtool.language import NextToken
    from seqtool.train import Keeper
    from seqtool.trainer import Trainer

    with enough_memory(model_config, train_config):
        model = _new_model(model_config, train_config, corpus.tokenizer, parent)
        model.to(torch_device(request.device))
        ngram = _count(model_config, corpus, console)
        objective = NextToken(model, corpus, train_config, ngram=ngram)
        trainer = Trainer(objective, train_config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    table = sizes.get("ngrams.weight", 0)
    rows = model_rows(
        sum(sizes.values()), table, model_config, train_config, settings, seconds, reasons
    )
    console.table("Model", rows)
    card = Card(
        task="generate",
        model=model_config,
        data=data_config,
        train=train_config,
        vocab_size=corpus.tokenizer.vocab_size,
        source=_source(request, corpus),
        extra={
            "budget_seconds": seconds,
            "epochs": request.epochs,
            "origins": settings.origins,  # what inspect tells
            "device": trainer.device.type,
        },
    )
    output = ModelDir.create(request.out, force=request.force)
    parts: dict[str, dict[str, np.ndarray]] = {}
    if len(corpus.train) <= KEEP_TEXT_TOKENS:
        parts[TEXT] = {"ids": corpus.train}
    if ngram is not None:
        parts[COUNTS] = ngram.to_arrays()
    keeper = Keeper(output, card, corpus.tokenizer.to_json(), parts)
    given = frozenset(request.settings.values)
    budget = Budget(seconds, request.started, given) if seconds else None
    _prepare(model, train_config, console)
    sampler = _sampler(trainer, objective)
    return run(request, console, trainer, keeper, budget=budget, write_sample=sampler)


def _choose(
    request: TrainRequest, settings: Settings, corpus: Corpus, console: Console
) -> tuple[Settings, float | None, list[str]]:
    """Every setting that the user left open, the budget, if that is the length, and the reasons."""
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.plan import DEFAULT_SECONDS, choose, measure_gflops

    set_up(request.device, request.threads)
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
    settings = settings.add(plan.model | plan.train, "chosen by seqtool")
    settings = _fit_to_text(settings, corpus, request.epochs, seconds, console)
    return settings.add(_defaults(), "default"), seconds, plan.reasons


def _new_model(
    config: ModelConfig, train_config: TrainConfig, tokenizer: Tokenizer, parent: Saved | None
) -> "LanguageModel":
    """A model with fresh weights from the seed, or with those of ``--init-from``."""
    import torch

    from seqtool.models import build_model, copy_grown, shapes

    torch.manual_seed(train_config.seed % 2**64)
    model = build_model(config, tokenizer.vocab_size, unknown_id=tokenizer.unknown_id)
    if parent is not None:
        before = parent.card.vocab_size
        check_weights(parent.weights, shapes(model, before), "--init-from")
        copy_grown(model, parent.weights)
    return model


def _resume(request: TrainRequest, console: Console) -> int:
    output = ModelDir.resume(request.out)
    saved = load(request.out, "generate")
    card = saved.card
    _check_same(request, card)
    if request.show_config:
        seconds = card.extra.get("budget_seconds")
        values = asdict(card.model) | asdict(card.data) | asdict(card.train)
        others = Settings().add({"out": request.out}, "saved run")
        emit(shown_settings(Settings().add(values, "saved run"), others, seconds).toml())
        return 0
    console.status(f"reading {request.data}")
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.out))
    corpus = load_corpus(request.data, card.data, valid=request.valid, tokenizer=tokenizer)
    _check_text(request, corpus, card)
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.language import NextToken
    from seqtool.models import build_model, shapes
    from seqtool.train import Keeper, restore_last
    from seqtool.trainer import Trainer

    device = set_up(resumed_device(request, card, console), request.threads)
    with enough_memory(card.model, card.train):
        model = build_model(card.model, card.vocab_size, unknown_id=tokenizer.unknown_id)
        check_weights(saved.weights, shapes(model), str(request.out))
        model.to(device)
        ngram = _count(card.model, corpus, console)
        objective = NextToken(model, corpus, card.train, ngram=ngram)
        trainer = Trainer(objective, card.train)
        good = restore_last(trainer, *load_last(request.out))
    if trainer.step >= card.train.steps:
        raise ConfigError(
            f"{request.out}: this run is finished ({trainer.step} of {card.train.steps} steps); "
            f"train on from its weights with --init-from {request.out} -o NEW"
        )
    if card.train.patience and trainer.stale >= card.train.patience:
        raise ConfigError(
            f"{request.out}: this run stopped early, at step {trainer.step}, after "
            f"{trainer.stale} evaluations without a better one (--patience "
            f"{card.train.patience}); train on from its weights with --init-from {request.out} "
            "-o NEW"
        )
    console.notice(f"resuming {request.out} at step {trainer.step} of {card.train.steps}")
    keeper = Keeper(output, card, saved.tokenizer_json)
    _prepare(model, card.train, console)
    sampler = _sampler(trainer, objective)
    return run(request, console, trainer, keeper, good=good, write_sample=sampler)


def _tied_sizes(settings: Settings) -> Settings:
    """With --tied, the embedding and the layers have one width: one given stands for both."""
    if not settings.values.get("tied"):
        return settings
    sizes = [settings.values[n] for n in ("hidden_size", "embed_size") if n in settings.values]
    width = sizes[0] if sizes else ModelConfig.hidden_size
    return settings.add({"hidden_size": width, "embed_size": width}, "equal for --tied")


def _configs(settings: Settings) -> tuple[ModelConfig, DataConfig, TrainConfig]:
    def build(kind: Any) -> Any:
        names = {field.name for field in fields(kind)}
        return kind(**{name: v for name, v in settings.values.items() if name in names})

    return build(ModelConfig), build(DataConfig), build(TrainConfig)


def _defaults() -> dict[str, Any]:
    return asdict(ModelConfig()) | asdict(DataConfig()) | asdict(TrainConfig())


def _inherit(settings: Settings, card: Card, path: Path | None) -> Settings:
    """With ``--init-from``, shape and vocabulary are the parent's; a flag may not differ."""
    free = ("dropout", "ngram_dropout", "backoff_order")  # of training, not of the shape
    shape = {name: value for name, value in asdict(card.model).items() if name not in free}
    shape |= {"tokenizer": card.data.tokenizer, "vocab_size": card.data.vocab_size}
    shape["ngram_output"] = card.model.ngram_logits(card.vocab_size)
    for name, value in shape.items():
        given = settings.values.get(name, value)
        if given != value:
            raise ConfigError(
                f"{flag(name)} {given} does not fit --init-from {path}, which has {value}; "
                "leave it out"
            )
    return settings.add(shape, f"--init-from {path}")


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
        note += f"; {len(new)} new characters extend its vocabulary: {listed(new)}"
    return corpus, note


def _check_same(request: TrainRequest, card: Card) -> None:
    """A flag that contradicts the saved run is an error, never silently ignored."""
    if request.init_from is not None:
        raise ConfigError("--resume goes on with a run, --init-from starts a new one; give one")
    seconds, epochs = card.extra.get("budget_seconds"), card.extra.get("epochs")
    saved = asdict(card.model) | asdict(card.data) | asdict(card.train)
    length = f"--steps {card.train.steps}"
    if seconds is not None:
        length = f"--budget {seconds:g}s"
    elif epochs is not None:
        length = f"--epochs {epochs:g}"
    asked = {"budget": (request.seconds, seconds), "epochs": (request.epochs, epochs)}
    for name, (value, before) in asked.items():
        if value is not None and value != before:
            shown = f"{value:g}s" if name == "budget" else f"{value:g}"
            raise ConfigError(
                f"--{name} {shown} contradicts the saved run, which has {length}; leave it out"
            )
    # The same command may be given again: a batch is then shrunk to the text as it was before.
    values = {"batch_size": card.train.batch_size, "bptt": card.train.bptt}
    values |= request.settings.values
    fitted = fit_shape(card.source["train_tokens"], values["batch_size"], values["bptt"])
    for name, value in request.settings.values.items():
        again = dict(zip(("batch_size", "bptt"), fitted, strict=True)).get(name, value)
        if again != saved[name]:
            raise ConfigError(
                f"{flag(name)} {value} ({request.settings.origins[name]}) contradicts the saved "
                f"run, which has {saved[name]}; leave it out, or start a new run with --init-from"
            )


def _check_text(request: TrainRequest, corpus: Corpus, card: Card) -> None:
    """See that a run is resumed with the text that it began with."""
    source = card.source
    if corpus.sha256 != source["sha256"]:
        raise DataError(
            f"{request.data}: not the text that {request.out} was trained on ({source['name']}, "
            f"{format_count(source['train_chars'] + source['valid_chars'])} characters); resume "
            "with that, or start a new run with --init-from"
        )
    if corpus.valid_sha256 != source["valid_sha256"]:
        before = f"--valid {source['valid']}" if source["valid"] else "no --valid"
        raise DataError(
            f"{request.out}: not the text that was held out before; resume with {before}"
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
        from seqtool.plan import rhythm

        steps = settings.values.get("steps", TrainConfig.steps)
        return settings.add(rhythm(steps), "chosen by seqtool")
    # The real number comes from timed steps; until then the schedule is flat, so any will do.
    return settings.add({"steps": 10**9}, "to be measured")


def _prepare(model: "LanguageModel", config: TrainConfig, console: Console) -> None:
    """Compile now what updates need, or the first of them would be taken for a slow one."""
    model.stack.prepare(
        config.batch_size,
        config.bptt,
        lambda: console.status("compiling for this processor, once"),
    )


def _count(config: ModelConfig, corpus: Corpus, console: Console) -> NGram | None:
    """The n-gram model that is mixed in, if one is."""
    if not config.backoff_order:
        return None
    console.status("counting n-grams")
    return NGram(corpus.train, corpus.tokenizer.vocab_size, order=config.backoff_order)


def _sampler(trainer: "Trainer", objective: "NextToken") -> Callable[[], str]:
    """Writes a short text with the present averaged weights, always from the same seed."""
    from seqtool.models import Stepper

    tokenizer = objective.corpus.tokenizer
    banned = [tokenizer.start_id]
    if tokenizer.unknown_id is not None:
        banned.append(tokenizer.unknown_id)

    def write() -> str:
        stepper: Steppable = Stepper(objective.model)
        if objective.ngram is not None:
            stepper = Mixture(stepper, objective.ngram, objective.mixture)
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
