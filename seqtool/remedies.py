"""Remedies for gradients that vanish or explode, each given the same data, size and effort.

Clipping and short BPTT are against explosion, gates and the identity start against vanishing;
RMSprop against both sizes. A remedy is a set of settings of ``train``; the race trains a network
with each and measures what came of it. How many updates each may make is settled before it begins,
so that a race can be run again: seconds of the processor, measured once, say how many are as long
as those of the others.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from seqtool.cells import RecurrentStack
from seqtool.config import GATES, ModelConfig, TrainConfig
from seqtool.data import Corpus
from seqtool.diagnostics import Flow, flow, language_flow
from seqtool.language import NextToken
from seqtool.models import LanguageModel
from seqtool.probes import MAKERS, Probe, ProbeModel, ProbeName
from seqtool.tape import Tape
from seqtool.trainer import Diverged, Objective, Trainer

WINDOW = 128  # longest lag looked at on a text
SEQUENCES = 16  # of a probe, over which its gradient flow is measured
SNAPSHOT_EVERY = 50  # updates: how much a blow-up costs
SPIKE = 10.0  # times the usual gradient norm
LOOKS = 12  # measurements on the way
CUT = "cut short"  # said of a gradient that BPTT ends before the network does
GIVE_UP = 100  # blow-ups after which a run ends
TIMED, TIMED_UPDATES = 0.2, 50  # seconds and updates after which an update's time is known
TICK = 1e-3  # seconds, the least that timed updates are taken to need together
RESERVE = 0.05  # of the time, for updates that turn out slower than those that were timed

# Learning rates that suit each kind of network with Adam; plain RNNs want small steps.
RATES = {"rnn": 1e-3, "lstm": 1e-2, "gru": 5e-3}


@dataclass(frozen=True)
class Remedy:
    """A name, and what it changes."""

    name: str
    model: dict[str, Any]
    train: dict[str, Any]

    def configs(self, model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, TrainConfig]:
        """The remedy on top of what all runs share.

        The number of recurrent weights stays that of a simple RNN with ``model.hidden_size`` units:
        a cell with G gates has H / sqrt(G) of them.
        """
        cell = self.model.get("cell", "rnn")
        hidden = max(1, round(model.hidden_size / math.sqrt(GATES[cell])))
        shape = {"cell": cell, "hidden_size": hidden} | self.model
        effort = {"clip_norm": 0.0, "clip_value": 0.0, "lr": RATES[cell]} | self.train
        return replace(model, **shape), replace(train, **effort)


def remedies(bptt: int) -> list[Remedy]:
    """What is tried, from nothing on.

    Args:
        bptt: Steps that a gradient goes back where nothing else is said; 2 at least.
    """
    clip = {"clip_norm": 1.0}
    cuts = sorted({max(1, bptt // 4), max(1, bptt // 16)} - {bptt}, reverse=True)
    return [
        Remedy("nothing", {}, {}),
        Remedy("clip by norm", {}, clip),
        Remedy("clip by value", {}, {"clip_value": 0.01}),
        *(Remedy(f"BPTT {cut}", {}, {"bptt": cut}) for cut in cuts),
        Remedy("RMSprop", {}, {"optimizer": "rmsprop"}),
        Remedy("ReLU, identity", {"nonlinearity": "relu"}, clip),
        Remedy("LSTM", {"cell": "lstm"}, clip),
        Remedy("GRU", {"cell": "gru"}, clip),
    ]


class Patient(Protocol):
    """What every remedy is tried on: makes an objective, and measures its gradient flow."""

    def objective(self, model: ModelConfig, train: TrainConfig) -> Objective:
        """The task with a fresh network; its chance comes from ``train.seed``."""

    def flow(self, model: nn.Module) -> Flow:
        """The gradient flow of the network, without Jacobians."""


class TextPatient:
    """Predicting the next token of a text."""

    def __init__(self, corpus: Corpus, device: torch.device) -> None:
        """Take the text; a part of it must be held out."""
        self.corpus = corpus
        self.device = device

    def objective(self, model: ModelConfig, train: TrainConfig) -> NextToken:
        """A fresh language model."""
        tokenizer = self.corpus.tokenizer
        made = LanguageModel(model, tokenizer.vocab_size, unknown_id=tokenizer.unknown_id)
        made = made.to(self.device)
        if self.device.type == "cpu":
            _quicken(made.stack)
        return NextToken(made, self.corpus, train)

    def flow(self, model: nn.Module) -> Flow:
        """On the part held out."""
        assert isinstance(model, LanguageModel)
        return language_flow(model, self.corpus.valid, window=WINDOW, jacobians=False)


class ProbePatient:
    """A task made to test memory."""

    def __init__(self, name: ProbeName, length: int, seed: int) -> None:
        """Choose the task, its number of steps, and its chance."""
        self.name = name
        self.length = length
        self.seed = seed

    def objective(self, model: ModelConfig, train: TrainConfig) -> Probe:
        """A fresh network."""
        made = ProbeModel(model, self.name)
        _quicken(made.stack)
        return Probe(
            made,
            length=self.length,
            batch_size=train.batch_size,
            truncate=0 if train.bptt == self.length else train.bptt,
            seed=train.seed,
        )

    def flow(self, model: nn.Module) -> Flow:
        """On sequences of its own."""
        assert isinstance(model, ProbeModel)
        task = MAKERS[self.name](np.random.default_rng([self.seed, 2]), SEQUENCES, self.length)
        tape = Tape(model.stack)
        costs = model.costs(task, tape=tape)
        return flow((tape.tracks, costs), jacobians=False, element="step")


def _quicken(stack: RecurrentStack) -> None:
    """Run a stack on a CPU by the compiled loops, however few its units are.

    torch's loop makes an update of a GRU with 37 units seven times as long, which would be taken
    for a fault of the GRU.
    """
    stack.path = "compiled"


class Point(NamedTuple):
    """How a run stood at one look."""

    share: float  # of its updates, made by then
    seconds: float
    loss: float  # on data not learned from
    horizon: int  # tokens that the gradient reaches, within the chunk
    blow_ups: int  # so far: updates not finite, that jumped, or of ten times the usual gradient


@dataclass(frozen=True)
class Outcome:
    """What a remedy achieved."""

    remedy: Remedy
    model: ModelConfig
    train: TrainConfig  # its ``steps`` is what was allotted
    curve: tuple[Point, ...]  # at least one
    steps: int  # made
    window: int  # longest lag that was looked at
    judgement: str  # of the gradient flow at the end, or CUT

    @property
    def loss(self) -> float:
        """The best on the way; inf if none is finite."""
        losses = (point.loss for point in self.curve)
        return min(filter(math.isfinite, losses), default=math.inf)

    @property
    def cut(self) -> bool:
        """Whether BPTT ends the gradient before the network does."""
        return self.judgement == CUT

    def as_dict(self) -> dict[str, Any]:
        """Values fit for JSON."""
        last = self.curve[-1]
        return {
            "remedy": self.remedy.name,
            "settings": self.remedy.model | self.remedy.train,
            "hidden_size": self.model.hidden_size,
            "loss": self.loss,
            "steps": self.steps,
            "allotted": self.train.steps,
            "blow_ups": last.blow_ups,
            "horizon": last.horizon,
            "window": self.window,
            "verdict": self.judgement,
            "curve": [[point.seconds, point.loss] for point in self.curve],
            "looks": [point._asdict() for point in self.curve],
        }


class Cost(NamedTuple):
    """What a remedy takes of the processor's time, in seconds."""

    update: float
    look: float


def measure(patient: Patient, remedy: Remedy, model: ModelConfig, train: TrainConfig) -> Cost:
    """Time some updates and one look of a network that is thrown away.

    By the processor's clock, which does not count what other programs take.
    """
    trainer = _trainer(patient, remedy, model, train)
    updates = _updates(trainer)
    next(updates)  # what is loaded or compiled at first is not what an update costs
    began, count = time.process_time(), 0
    while count < TIMED_UPDATES and (count < 2 or time.process_time() - began < TIMED):
        next(updates)
        count += 1
    updated = time.process_time()
    trainer.evaluate()
    patient.flow(trainer.model)
    # A coarse clock, as on Windows, may not have moved at all.
    return Cost(max(updated - began, TICK) / count, time.process_time() - updated)


def allot(costs: Sequence[Cost], seconds: float) -> list[int]:
    """As many updates to each remedy as make its run as long as that of the others.

    Args:
        costs: Of each.
        seconds: Of the processor's time, for all of them.
    """
    share = (1 - RESERVE) * seconds / len(costs)
    return [max(LOOKS, int((share - LOOKS * cost.look) / cost.update)) for cost in costs]


def treat(
    patient: Patient,
    remedy: Remedy,
    model: ModelConfig,
    train: TrainConfig,
    *,
    good_enough: float = -math.inf,
) -> Outcome:
    """Train one network with one remedy; all but the seconds depends on the seed alone.

    Args:
        patient: The data.
        remedy: What to try.
        model: Shape that all share.
        train: Effort that all share; ``steps`` is how many updates this one may make.
        good_enough: A loss at which to stop early.
    """
    trainer = _trainer(patient, remedy, model, train)
    config, began = trainer.config, time.monotonic()
    curve: list[Point] = []
    blow_ups = 0
    for event in _updates(trainer):
        blow_ups += event
        share = trainer.step / config.steps
        over = share >= 1 or blow_ups >= GIVE_UP
        if over or share * LOOKS >= len(curve) + 1:
            loss, found = trainer.evaluate().loss, patient.flow(trainer.model)
            assert loss is not None, "nothing is held out"
            whole = max(layer.horizon for layer in found.layers)
            reach = min(whole, config.bptt - 1)
            passed = round(time.monotonic() - began, 2)
            curve.append(Point(share, passed, loss, reach, blow_ups))
            if over or loss <= good_enough:
                break
    return Outcome(
        remedy,
        remedy.configs(model, train)[0],
        config,
        tuple(curve),
        trainer.step,
        found.window,
        found.verdict.judgement if reach == whole else CUT,
    )


def _trainer(patient: Patient, remedy: Remedy, model: ModelConfig, train: TrainConfig) -> Trainer:
    """A fresh network, before its first update."""
    model, train = remedy.configs(model, train)
    torch.manual_seed(train.seed % 2**64)
    return Trainer(patient.objective(model, train), train)


def _updates(trainer: Trainer) -> Iterator[bool]:
    """Updates without end; for each whether it blew up. One that is not finite is undone."""
    trainer.excused = sys.maxsize  # a jump of the loss is part of what is measured
    good = trainer.capture()
    usual = math.nan
    while True:
        try:
            _, norm = trainer.update()
        except Diverged:
            step, place = trainer.step, trainer.objective.capture()
            trainer.restore(*good)
            trainer.objective.restore(*place)  # go on with other data: the same would do the same
            trainer.step = step + 1  # it took its time and its turn
            yield True
            continue
        spiked = norm > SPIKE * usual
        usual = norm if math.isnan(usual) else 0.95 * usual + 0.05 * min(norm, SPIKE * usual)
        if trainer.step % SNAPSHOT_EVERY == 0 and not spiked:
            good = trainer.capture()
        yield spiked
