"""Remedies for gradients that vanish or explode, each given the same data, size and effort.

Clipping and short BPTT are against explosion, gates and the identity start against vanishing;
RMSprop against both sizes. A remedy is a set of settings of ``train``; the race trains a network
with each and measures what came of it.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

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
GIVE_UP = 100  # blow-ups after which a run ends

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
        return NextToken(made.to(self.device), self.corpus, train)

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
        return Probe(
            ProbeModel(model, self.name),
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
        return flow(tape.tracks, costs, jacobians=False)


@dataclass(frozen=True)
class Outcome:
    """What a remedy achieved."""

    remedy: Remedy
    model: ModelConfig
    train: TrainConfig
    curve: tuple[tuple[float, float], ...]  # (seconds, loss on data not learned from)
    loss: float  # the best of them; inf if none is finite
    steps: int
    blow_ups: int  # updates that were not finite, jumped, or had ten times the usual gradient
    horizon: int  # tokens that the gradient reaches at the end, within the chunk
    window: int  # longest that was looked at
    judgement: str

    def as_dict(self) -> dict[str, Any]:
        """Values fit for JSON."""
        return {
            "remedy": self.remedy.name,
            "settings": self.remedy.model | self.remedy.train,
            "hidden_size": self.model.hidden_size,
            "loss": self.loss,
            "steps": self.steps,
            "blow_ups": self.blow_ups,
            "horizon": self.horizon,
            "window": self.window,
            "verdict": self.judgement,
            "curve": [list(point) for point in self.curve],
        }


def treat(
    patient: Patient,
    remedy: Remedy,
    model: ModelConfig,
    train: TrainConfig,
    *,
    seconds: float,
    good_enough: float = -math.inf,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train one network with one remedy.

    Args:
        patient: The data.
        remedy: What to try.
        model: Shape that all share.
        train: Effort that all share; ``steps`` ends a run if the time does not.
        seconds: For updates and measurements; with infinity the outcome depends on the seed alone.
        good_enough: A loss at which to stop early.
        interrupted: Asked at each measurement.
    """
    model_config, train_config = remedy.configs(model, train)
    torch.manual_seed(train.seed % 2**64)
    objective = patient.objective(model_config, train_config)
    trainer = Trainer(objective, train_config)
    began = time.monotonic()
    curve: list[tuple[float, float]] = []
    blow_ups = 0
    for event in _updates(trainer):
        blow_ups += event
        passed = time.monotonic() - began
        over = trainer.step >= train_config.steps or passed >= seconds or blow_ups >= GIVE_UP
        due = max(trainer.step / train_config.steps, passed / seconds) * LOOKS >= len(curve) + 1
        if over or due:
            loss = trainer.evaluate().loss
            assert loss is not None
            curve.append((round(passed, 2), loss))
            if over or loss <= good_enough or interrupted():
                break
    losses = [loss for _, loss in curve if math.isfinite(loss)]
    found = patient.flow(objective.model)
    return Outcome(
        remedy,
        model_config,
        train_config,
        tuple(curve),
        min(losses, default=math.inf),
        trainer.step,
        blow_ups,
        min(max(layer.horizon for layer in found.layers), train_config.bptt - 1),
        found.window,
        found.verdict.judgement,
    )


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
