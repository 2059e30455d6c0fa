"""The ``train`` command whatever is learned: read, choose, show, run, save; or go on with a run.

What a task does its own way is a ``Task``: train_text has the language model's, train_classify the
classifier's. A run, once it is set up, is in runs.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from seqtool.checkpoint import Card, ModelDir, Saved, load, load_last
from seqtool.config import CONFIGS, TrainConfig
from seqtool.console import Console, format_count
from seqtool.distributed import agree, join, world
from seqtool.errors import ConfigError, DataError
from seqtool.files import alone
from seqtool.memory import give_back
from seqtool.output import emit
from seqtool.places import LAST, is_free
from seqtool.receipts import receipt
from seqtool.runs import TrainRequest, enough_memory, flag, resumed_device, run, shown_settings
from seqtool.settings import Settings
from seqtool.shapes import check_weights
from seqtool.tensorfile import Tensors

if TYPE_CHECKING:
    import torch

    from seqtool.trainer import Objective, Trainer

EVAL_TOKENS = 200_000  # an evaluation reads; enough to choose by, and seconds at most
LOOKS = 12  # evaluations of a run that nobody gave a rhythm
# Fields of TrainConfig about streams of text, of no use where sequences stand for themselves.
OF_STREAMS = frozenset({"bptt", "restart", "table_lr", "sample_every"})


@dataclass(frozen=True)
class Allowance:
    """How long a run may take."""

    epochs: float | None  # passes over the data asked for
    # Budget of the whole command; None if a number of steps or epochs is given, and then nothing
    # may depend on the machine.
    seconds: float | None
    gflops: float  # from ``plan.measure_gflops``, 0 without a budget

    def in_passes(self, settings: Settings, updates: float) -> Settings:
        """The settings with the steps of the passes asked for, if any, of so many updates each."""
        if self.epochs is None:
            return settings
        return settings.add({"steps": max(1, round(self.epochs * updates))}, "from --epochs")


@dataclass(frozen=True)
class Choice:
    """What seqtool chose for a run."""

    settings: Settings  # with the chosen ones
    reasons: Sequence[str]  # for people
    most_steps: int | None = None  # updates after which more would not help
    fixed: frozenset[str] = frozenset()  # settings that timed steps must not change


class Task(ABC):
    """What is particular to one kind of model in the ``train`` command. Made anew for each run.

    The methods are called in the order in which they stand here; ``read`` or ``read_again`` keeps
    the data for those that follow.
    """

    name: ClassVar[str]  # a key of CONFIGS
    unused: ClassVar[frozenset[str]] = frozenset()  # fields of TrainConfig that mean nothing to it
    inheritable: ClassVar[bool] = False  # whether --init-from takes a model of this task for it
    embeddable: ClassVar[bool] = False  # whether --embeddings means something to it

    def settle(self, request: TrainRequest) -> Settings:
        """The settings asked for, with those that follow from them alone.

        Raises:
            ConfigError: For a request that this task cannot fulfil.
        """
        if request.init_from is not None and not self.inheritable:
            raise ConfigError(f"--init-from: no model can be the start for --task {self.name}")
        return request.settings

    @abstractmethod
    def read(self, request: TrainRequest, settings: Settings, console: Console) -> Settings:
        """Read the data and show what they are; gives the settings with what they decide."""

    @abstractmethod
    def read_again(self, request: TrainRequest, saved: Saved, console: Console) -> None:
        """Read the data of a run that goes on, and whatever was learned from them before it."""

    @abstractmethod
    def source(self, request: TrainRequest) -> dict[str, Any]:
        """What the data were, as JSON values for the card."""

    def as_before(self, values: dict[str, Any], card: Card) -> dict[str, Any]:
        """What settings given again to a saved run had become in it, by name."""
        return values

    @abstractmethod
    def choose(self, settings: Settings, allowed: Allowance, console: Console) -> Choice:
        """Choose what the settings leave open and is not simply a default.

        Args:
            settings: Of the user, and of the data.
            allowed: How long it may take.
            console: For notices.
        """

    def fill(
        self,
        settings: Settings,
        device: "torch.device",
        left: Callable[[], float],
        console: Console,
    ) -> Settings:
        """What more a budget that the user gave has time for, once the sizes are settled.

        Args:
            settings: Chosen so far.
            device: Where it will be trained.
            left: Seconds of the budget that are left at the time of asking.
            console: For notices.
        """
        return settings

    @abstractmethod
    def objective(
        self, model: Any, train: TrainConfig, device: "torch.device", console: Console
    ) -> "Objective":
        """A fresh model from the seed, on the device, and what it has to learn."""

    @abstractmethod
    def rows(
        self,
        objective: Any,
        train: TrainConfig,
        settings: Settings,
        seconds: float | None,
        reasons: Sequence[str],
    ) -> list[tuple[str, str]]:
        """What was chosen, for people: rows of the table "Model"."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """What the card says of the vocabulary."""

    @abstractmethod
    def tokenizer_json(self) -> str:
        """The content of tokenizer.json."""

    def parts(self) -> dict[str, Tensors]:
        """What else is kept with the model and never changes, by file name."""
        return {}

    @abstractmethod
    def prepare(self, objective: Any, train: TrainConfig, announce: Callable[[], None]) -> None:
        """Compile now what updates need, or the first of them would be taken for a slow one."""

    def sampler(self, trainer: "Trainer") -> Callable[[], str] | None:
        """What writes a sample of the model's work as it stands, if there is such a thing."""
        return None

    def closing(self, best: Mapping[str, Any]) -> str:
        """What is said of the best model at the end, from the card's notes on it."""
        return ""


def train(task: Task, request: TrainRequest, console: Console) -> int:
    """Train a model; gives the exit status.

    Raises:
        SeqtoolError: If flags, data or the output directory make it impossible.
    """
    settings = task.settle(request)
    if request.embeddings is not None and not task.embeddable:
        raise ConfigError(
            f"--embeddings {request.embeddings} is not for --task {task.name}; leave it out, or "
            "name another --task"
        )
    configs(task, settings)  # bad flags fail here, before anything is read
    if world().restarts and (request.out / LAST).exists():
        request = replace(request, resume=True, force=False)
    writes = world().first and not request.show_config
    with alone(request.out, "-o") if writes else nullcontext():
        if request.resume and (request.show_config or not is_free(request.out)):
            return _resume(task, request, console)
        if request.resume:  # a run may be killed before its first save
            console.notice(f"nothing to resume in {request.out} yet: the run begins")
        return _begin(task, request, settings, console)


def _begin(task: Task, request: TrainRequest, settings: Settings, console: Console) -> int:
    if not request.show_config and world().first:
        ModelDir.create(request.out, force=request.force)  # refuses now, not after the reading
    if request.guessed:
        console.notice(f"seen from {request.data}: --task {task.name}")
    console.status(f"reading {request.data}")
    settings = task.read(request, settings, console)
    if request.reproduces is not None:
        before = load(request.reproduces, task.name).card
        _check_data(task.source(request), replace(request, out=request.reproduces), before)
    give_back()  # what reading has freed
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.plan import DEFAULT_SECONDS, measure_gflops

    device = set_up(request.device, request.threads)
    join(device)
    seconds = request.seconds
    if seconds is None and request.epochs is None and "steps" not in settings.values:
        seconds = DEFAULT_SECONDS
    gflops = agree(measure_gflops()) * world().size if seconds else 0.0
    choice = task.choose(settings, Allowance(request.epochs, seconds, gflops), console)
    kinds = (*CONFIGS[task.name], TrainConfig)
    defaults = {name: value for kind in kinds for name, value in asdict(kind()).items()}
    settings = choice.settings
    if request.seconds is not None and not request.show_config:
        ends = request.started + request.seconds
        settings = task.fill(settings, device, lambda: agree(ends - time.monotonic()), console)
    settings = settings.add(defaults, "default")
    if request.show_config:
        console.clear_status()
        emit(shown_settings(used(task, settings), request.others, seconds).toml())
        return 0

    import torch

    from seqtool.budget import Budget
    from seqtool.train import Keeper, Onlooker
    from seqtool.trainer import Trainer

    model_config, data_config, train_config = configs(task, used(task, settings))
    with enough_memory(model_config, train_config):
        objective = task.objective(model_config, train_config, device, console)
        trainer = Trainer(objective, train_config)
    rows = task.rows(objective, train_config, settings, seconds, choice.reasons)
    console.table("Model", rows)
    card = Card(
        task=task.name,
        model=model_config,
        data=data_config,
        train=train_config,
        vocab_size=task.vocab_size,
        source=task.source(request),
        extra={
            "budget_seconds": seconds,
            "epochs": request.epochs,
            "origins": settings.origins,  # what inspect tells
            "device": trainer.device.type,
            "init_from": None if request.init_from is None else str(request.init_from),
            "embeddings": request.embeddings,
            "receipt": receipt(
                data=request.data,
                embeddings=request.embeddings,
                valid=request.valid,
                target=request.target,
                valid_target=request.valid_target,
                init_from=str(request.init_from) if request.init_from else None,
                threads=torch.get_num_threads(),
                processes=world().size,
            ),
        },
    )
    keeper = Onlooker(card)
    if world().first:
        output = ModelDir.create(request.out, force=request.force)
        keeper = Keeper(output, card, task.tokenizer_json(), task.parts())
    budget = None
    if seconds is not None:
        given = choice.fixed | request.settings.values.keys()
        budget = Budget(seconds, request.started, given, choice.most_steps)
    return _finish(task, request, console, trainer, keeper, budget=budget)


def _resume(task: Task, request: TrainRequest, console: Console) -> int:
    output = ModelDir.resume(request.out) if world().first else None
    saved = load(request.out, task.name)
    card = saved.card
    _check_same(task, request, card)
    if request.show_config:
        values = asdict(card.model) | asdict(card.data) | asdict(card.train)
        others = Settings().add({"out": request.out}, "saved run")
        settings = used(task, Settings().add(values, "saved run"))
        emit(shown_settings(settings, others, card.extra.get("budget_seconds")).toml())
        return 0
    console.status(f"reading {request.data}")
    task.read_again(request, saved, console)
    _check_data(task.source(request), request, card)
    give_back()  # what reading has freed
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.models import shapes
    from seqtool.train import Keeper, Onlooker, restore_last
    from seqtool.trainer import Trainer

    device = set_up(resumed_device(request, card, console), request.threads)
    join(device)
    with enough_memory(card.model, card.train):
        objective = task.objective(card.model, card.train, device, console)
        check_weights(saved.weights, shapes(objective.model), str(request.out))
        trainer = Trainer(objective, card.train)
        good = restore_last(trainer, *load_last(request.out))
    if how := _over(trainer):
        more = f"; train on from its weights with --init-from {request.out} -o NEW"
        console.notice(f"{request.out}: this run {how}{more if task.inheritable else ''}")
        if not request.json and world().first:
            emit(f"{request.out}\n")
        return 0
    console.notice(f"resuming {request.out} at step {trainer.step} of {card.train.steps}")
    keeper = Keeper(output, card, saved.tokenizer_json) if output else Onlooker(card)
    return _finish(task, request, console, trainer, keeper, good=good)


def _over(trainer: "Trainer") -> str:
    """How a run ended that has nothing left to do, "" if it has something.

    To resume such a run is no error: a script may repeat its command until that succeeds.
    """
    step, config, stale = trainer.step, trainer.config, trainer.stale
    if step >= config.steps:
        return f"is finished ({step} of {config.steps} steps)"
    if config.patience and stale >= config.patience:
        return (
            f"stopped early, at step {step}, after {stale} evaluations without a better one "
            f"(--patience {config.patience})"
        )
    return ""


def _finish(
    task: Task,
    request: TrainRequest,
    console: Console,
    trainer: "Trainer",
    keeper: Any,
    **rest: Any,
) -> int:
    give_back()  # what was freed while the n-grams were counted
    task.prepare(trainer.objective, trainer.config, console.compiling)
    sampler = task.sampler(trainer) if world().first else None
    status = run(request, console, trainer, keeper, write_sample=sampler, **rest)
    if status == 0 and (said := task.closing(keeper.card.extra.get("best", {}))):
        console.notice(said)
    return status


def configs(task: Task, settings: Settings) -> tuple[Any, Any, TrainConfig]:
    """The configs of model, data and training with these settings.

    Raises:
        ConfigError: For a value out of range, or a setting that is another task's.
    """
    kinds = (*CONFIGS[task.name], TrainConfig)
    names = [{field.name for field in fields(kind)} for kind in kinds]
    for name, value in settings.values.items():
        if name in task.unused or not any(name in known for known in names):
            raise ConfigError(
                f"{flag(name)} {value} ({settings.origins[name]}) is not for --task {task.name}; "
                "leave it out, or name another --task"
            )
    model, data, training = (
        kind(**{name: value for name, value in settings.values.items() if name in known})
        for kind, known in zip(kinds, names, strict=True)
    )
    return model, data, training


def used(task: Task, settings: Settings) -> Settings:
    """The settings that mean something to a task."""
    kept = {name: value for name, value in settings.values.items() if name not in task.unused}
    return Settings(kept, settings.origins)


def by_passes(settings: Settings, updates: float, allowed: Allowance, *, most: int) -> Settings:
    """With the length and the rhythm of a run over rows in random order.

    Args:
        settings: Of the user, and what has been chosen so far.
        updates: That make one pass.
        allowed: How long it may take.
        most: Updates after which more would not help.
    """
    settings = allowed.in_passes(settings, updates).add({"steps": most}, "chosen by seqtool")
    in_all = settings.values["steps"]
    rhythm = {
        "warmup": min(TrainConfig.warmup, in_all // 10),
        "report_every": max(1, in_all // 60),
        "eval_every": max(1, -(-in_all // LOOKS)),
        "eval_tokens": EVAL_TOKENS,
        "patience": 0,  # the length is chosen such that the end is worth waiting for
    }
    return settings.add(rhythm, "chosen by seqtool")


def starred(settings: Settings, name: str) -> str:
    """A star for a setting that the user did not fix."""
    return "*" if settings.origins[name] in ("chosen by seqtool", "default") else ""


def reader_rows(
    model: Any,
    train: TrainConfig,
    settings: Settings,
    seconds: float | None,
    reasons: Sequence[str],
    extra: Sequence[tuple[str, str]],
) -> list[tuple[str, str]]:
    """What was chosen for a model that reads in both directions, a star on what was not given."""
    star = partial(starred, settings)
    config = model.config
    weights = sum(p.numel() for p in model.parameters())
    length = f"{train.steps} steps" + ("" if seconds is None else f" or {seconds:g} s")
    several = []
    if (members := getattr(config, "members", 1)) > 1:
        said = f"{members}{star('members')} such networks, whose logits are averaged"
        several = [("members", said)]
    rows = [
        (
            "network",
            f"{config.cell.upper()} in both directions, {config.num_layers} x "
            f"{config.hidden_size}{star('hidden_size')} units, dropout {config.dropout:g}"
            f"{star('dropout')}, {format_count(weights)} weights",
        ),
        *several,
        *extra,
        (
            "training",
            f"{train.optimizer}, learning rate {train.lr:g}{star('lr')}, batch "
            f"{train.batch_size}{star('batch_size')}, {length}",
        ),
    ]
    return [*rows, ("* chosen", "; ".join(reasons))] if reasons else rows


def _check_same(task: Task, request: TrainRequest, card: Card) -> None:
    """A flag that contradicts the saved run is an error, never silently ignored."""
    if request.init_from is not None:
        raise ConfigError("--resume goes on with a run, --init-from starts a new one; give one")
    vectors = card.extra.get("embeddings")
    if request.embeddings not in (None, vectors):
        raise ConfigError(
            f"--embeddings {request.embeddings} contradicts the saved run, which has "
            f"{vectors or 'none'}; leave it out"
        )
    seconds, epochs = card.extra.get("budget_seconds"), card.extra.get("epochs")
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
    saved = asdict(card.model) | asdict(card.data) | asdict(card.train)
    given = request.settings
    again = task.as_before(given.values, card)
    for name, value in given.values.items():
        if again[name] != saved[name]:
            other = " with --init-from" if task.inheritable else ""
            raise ConfigError(
                f"{flag(name)} {value} ({given.origins[name]}) contradicts the saved run, which "
                f"has {saved[name]}; leave it out, or start a new run{other}"
            )


def _check_data(source: dict[str, Any], request: TrainRequest, card: Card) -> None:
    """See that a run goes on with the data that it began with, wherever they lie now."""
    before = card.source
    if source["valid_sha256"] != before["valid_sha256"]:
        held_out = f"--valid {before['valid']}" if before["valid"] else "no --valid"
        raise DataError(
            f"{request.out}: not the data that were held out before; resume with {held_out}"
        )
    named = ("name", "valid", "target", "valid_target")
    if any(source[key] != value for key, value in before.items() if key not in named):
        raise DataError(
            f"{request.data}: not the data that {request.out} was trained on ({before['name']}); "
            "resume with those, or start a new run"
        )
