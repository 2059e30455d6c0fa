"""The state of a training run, and the one update that moves it on.

What is learned is an ``Objective``: the language model's is in language, the classifier's in
judging. Those that read a finite set of sequences in shuffled batches are ``Batched``. What is left
out: when to report, evaluate and save, and what to do when an update fails; that is train.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor, nn

from seqtool.batches import Shuffled
from seqtool.config import TrainConfig
from seqtool.devices import generator_states, restore_generators
from seqtool.distributed import agree, divide, mean, vary_chance, world
from seqtool.optim import Updater

Array = npt.NDArray[Any]

COUNTERS = (
    *("step", "lr_scale", "loss_sum", "loss_count", "loss_mean", "loss_variance"),
    *("best", "best_step", "stale", "jump_step", "jump_loss", "excused"),
)
SPIKE = 1.0  # nats above the recent mean that count as divergence, or eight deviations


class Diverged(Exception):
    """The last update must not stand; the message says why.

    ``loss`` is what the loss jumped to, nan if that or the gradient is not even finite.
    """

    loss = math.nan


@dataclass(frozen=True)
class Look:
    """What an evaluation saw."""

    loss: float | None  # what the best model has least of; None if nothing is held out
    scores: Mapping[str, Any]  # fields of the event: val_loss and the task's own; JSON values
    card: dict[str, Any] = field(default_factory=dict)  # kept with these weights; JSON values


class Objective(Protocol):
    """What a run learns: a model, the next batch's loss, and how good the model is by now.

    Whatever the next batch depends on (place in the data, carried state, own random generator) is
    in ``capture``. Chance inside the model comes from torch's global generator, which the trainer
    keeps.
    """

    @property
    def model(self) -> nn.Module:
        """The model that learns; in training mode whenever ``loss`` is called."""

    @property
    def tokens(self) -> int:
        """Tokens learned from so far."""

    @property
    def epoch(self) -> float:
        """Passes over the training data so far."""

    def loss(self) -> Tensor:
        """The loss of the next batch in nats, a scalar with a gradient.

        Of several processes each computes its share of the batch: the mean over them is the loss.
        """

    def units(self, loss: float) -> dict[str, float]:
        """A training loss in the other units that the task reports, as fields of the event."""

    def evaluate(self, limit: int) -> Look:
        """Look at the validation data with the present weights, at ``limit`` tokens at most."""

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the next batch depends on: tensors (not copied), and counters fit for JSON."""

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Put back what ``capture`` gave; others' entries may be among it."""


class Batched:
    """What the objectives share whose data are N sequences, read in shuffled batches."""

    def __init__(self, model: nn.Module, batches: Shuffled) -> None:
        """Stand before the first batch."""
        self.model = model
        self.batches = batches
        self.device = next(model.parameters()).device

    @property
    def tokens(self) -> int:
        """Tokens of the batches begun so far, of the side that is learned."""
        return self.batches.num_tokens

    @property
    def epoch(self) -> float:
        """Sequences begun, as a multiple of all."""
        return self.batches.num_rows / len(self.batches.lengths)

    def next_rows(self) -> tuple[Array, float]:
        """This process's rows of the next batch, and the weight of their mean loss, see divide."""
        batch = self.batches.next()
        return divide(batch, self.counts(batch))

    def counts(self, rows: Array) -> Array:
        """How much each of some sequences counts in a mean loss, (B,): as much as it has tokens."""
        return self.batches.lengths[rows]

    def units(self, loss: float) -> dict[str, float]:
        """None: only a language model's loss has a name in another unit."""
        return {}

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Where the batches are."""
        return {}, {"batches": self.batches.state_dict()}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Put back what ``capture`` gave."""
        self.batches.load_state_dict(counters["batches"])


def side_by_side(networks: Sequence[nn.Module]) -> nn.Module:
    """Networks as one module, in which they have numbers; one that is alone stays what it is."""
    return networks[0] if len(networks) == 1 else nn.ModuleList(networks)


def as_if_alone(losses: Tensor) -> Tensor:
    """The mean loss of K networks, (K,), with the gradient of the sum: each learns as if alone."""
    total = losses.sum()
    return total + (losses.mean() - total).detach()


class Trainer:
    """The state of one run: objective, optimizer, counters.

    Everything the next update depends on is in ``capture`` and nothing else is.
    """

    def __init__(self, objective: Objective, config: TrainConfig) -> None:
        self.objective = objective
        self.model = objective.model
        self.config = config
        self.updater = Updater(self.model, config)
        self.device = next(self.model.parameters()).device
        self.step = 0
        self.lr_scale = 1.0
        self.loss_sum = 0.0  # since the last report
        self.loss_count = 0
        self.loss_mean = math.nan  # recent mean and variance, to tell a spike
        self.loss_variance = 0.0
        self.best = math.inf
        self.best_step = 0
        self.stale = 0  # evaluations since the best
        self.jump_step = -1  # where the loss last jumped, and to what
        self.jump_loss = math.nan
        self.excused = -1  # up to this step, jumps are known to be the data's

    def update(self) -> tuple[float, float]:
        """Make one update.

        Returns:
            Loss in nats, and the gradient norm before clipping.

        Raises:
            Diverged: If either is not finite or the loss jumped; the weights may be spoilt.
        """
        self.model.train()
        vary_chance(self.config.seed, self.step)
        loss = self.objective.loss()
        self.updater.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        value = mean(loss)
        self._check_loss(value)
        norm = self.updater.update(self.step, lr_scale=self.lr_scale)
        if not math.isfinite(norm):
            raise Diverged("the gradient is not finite")
        self.step += 1
        self.loss_sum += value
        self.loss_count += 1
        return value, norm

    def _check_loss(self, value: float) -> None:
        if not math.isfinite(value):
            raise Diverged("the loss is not finite")
        if math.isnan(self.loss_mean):
            self.loss_mean = value
        surprise = value - self.loss_mean
        limit = max(SPIKE, 8 * math.sqrt(self.loss_variance))
        if surprise > limit and self.step > self.excused:
            why = Diverged(f"the loss jumped from {self.loss_mean:.2f} to {value:.2f}")
            why.loss = value
            raise why
        self.loss_mean += 0.05 * surprise
        self.loss_variance += 0.05 * (surprise * surprise - self.loss_variance)

    def evaluate(self) -> Look:
        """Look at the validation data with the averaged weights."""
        look = None
        if world().first:
            with self.updater.averaged():
                look = self.objective.evaluate(self.config.eval_tokens)
        look = agree(look)
        assert look is not None
        return look

    def capture(self, *, copy: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the next update depends on: tensors, and counters fit for JSON.

        Without ``copy`` the tensors are to be used before that update, which may change them.
        """
        own_tensors, own_counters = self.objective.capture()
        tensors = {f"weight.{n}": p.detach() for n, p in self.model.named_parameters()}
        tensors |= self.updater.tensors()
        tensors |= own_tensors
        tensors |= generator_states(self.device)
        counters = {name: getattr(self, name) for name in COUNTERS}
        assert not counters.keys() & own_counters.keys()
        if copy:
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        return tensors, counters | own_counters

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Put back what ``capture`` gave."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"weight.{name}"])
        self.updater.load_tensors(tensors)
        restore_generators(tensors, self.device, seed=self.config.seed)
        self.objective.restore(tensors, counters)
        for name in COUNTERS:
            setattr(self, name, counters[name])

    def set_lengths(self, **lengths: Any) -> None:
        """Fix the run's length, or how often it reports: ``steps``, ``eval_every`` and the like."""
        self.follow(replace(self.config, **lengths))

    def follow(self, config: TrainConfig) -> None:
        """Go on with this config, which differs in the run's length or rhythm at most."""
        self.config = self.updater.config = config


@dataclass
class Snapshot:
    """A state to go back to."""

    tensors: dict[str, Tensor]
    counters: dict[str, Any]
