"""Tasks made to test memory: nothing but a long lag stands between a network and the answer.

Each is an Objective for a Trainer, with its own generator: the same seed gives the same sequences
to every network. B sequences of T steps; what is learned is scored at the end.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.cells import RecurrentStack, detach
from seqtool.config import ModelConfig
from seqtool.tape import Tape
from seqtool.trainer import Look

ProbeName = Literal["adding", "copy"]

SYMBOLS = 8  # of the copy task, besides blank and signal
RECALL = 10  # symbols to remember
TEST = 512  # sequences never learned from


class Task(NamedTuple):
    """One batch of a probe."""

    inputs: Tensor  # (B, T, E)
    targets: Tensor  # adding: (B, 1) floats; copy: (B, RECALL) int64


def adding(rng: np.random.Generator, batch: int, length: int) -> Task:
    """Add the two numbers that are marked, one in each half of the sequence.

    Inputs are a number, uniform from 0 to 1, and a mark, 0 or 1. A network that always answers 1
    has a mean squared error of 1/6 = 0.167, the variance of the sum.

    Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, experiment 4, in the
    form of Le et al. 2015, arXiv:1504.00941, section 4.1 (marks are 0 and 1, lengths are equal).
    """
    numbers = rng.random((batch, length))
    marks = np.zeros((batch, length))
    rows, half = np.arange(batch), length // 2
    marks[rows, rng.integers(0, half, batch)] = 1
    marks[rows, rng.integers(half, length, batch)] = 1
    inputs = np.stack([numbers, marks], axis=-1)
    targets = (numbers * marks).sum(axis=1, keepdims=True)
    return Task(torch.tensor(inputs).float(), torch.tensor(targets).float())


def copy_memory(rng: np.random.Generator, batch: int, length: int) -> Task:
    """Repeat ten symbols after ``length`` blanks, when a signal asks for them.

    Guessing costs ln 8 = 2.08 nats a symbol.

    Source: Hochreiter & Schmidhuber 1997, experiment 5c, in the form of Arjovsky, Shah & Bengio
    2016, arXiv:1511.06464, section 4.1.
    """
    symbols = rng.integers(0, SYMBOLS, (batch, RECALL))
    ids = np.full((batch, length + 2 * RECALL), SYMBOLS)
    ids[:, :RECALL] = symbols
    ids[:, length + RECALL - 1] = SYMBOLS + 1
    inputs = functional.one_hot(torch.from_numpy(ids), SYMBOLS + 2).float()
    return Task(inputs, torch.from_numpy(symbols))


MAKERS: dict[ProbeName, Callable[[np.random.Generator, int, int], Task]] = {
    "adding": adding,
    "copy": copy_memory,
}
# The cost of the best answer without any memory: the variance of the sum, and guessing.
BASELINES: dict[ProbeName, float] = {"adding": 1 / 6, "copy": math.log(SYMBOLS)}


class ProbeModel(nn.Module):
    """A stack of recurrent layers and an output layer that reads its last outputs."""

    def __init__(self, config: ModelConfig, probe: ProbeName) -> None:
        super().__init__()
        self.probe = probe
        inputs, outputs = (2, 1) if probe == "adding" else (SYMBOLS + 2, SYMBOLS)
        self.stack = RecurrentStack(
            inputs,
            config.hidden_size,
            config.num_layers,
            cell=config.cell,
            nonlinearity=config.nonlinearity,
        )
        self.output = nn.Linear(config.hidden_size, outputs)

    def costs(self, task: Task, *, truncate: int = 0, tape: Tape | None = None) -> Tensor:
        """Cost of each sequence, (B,): squared error, or mean nats of a symbol.

        Args:
            task: The batch.
            truncate: Steps from the end that the gradient goes back; 0 for all.
            tape: Runs the layers and takes notes.
        """
        inputs, state = task.inputs, self.stack.init_state(len(task.inputs))
        run = self.stack if tape is None else tape
        if 0 < truncate < inputs.shape[1]:
            with torch.no_grad():
                _, state = self.stack(inputs[:, :-truncate], state)
            inputs, state = inputs[:, -truncate:], detach(state)
        output, _ = run(inputs, state)
        steps = 1 if self.probe == "adding" else min(RECALL, inputs.shape[1])
        logits = self.output(output[:, -steps:])  # (B, steps, outputs)
        if self.probe == "adding":
            errors: Tensor = logits[:, 0, 0] - task.targets[:, 0]
            return errors.square()
        targets = task.targets[:, -steps:]
        nll = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return nll.view_as(targets).mean(dim=1)


class Probe:
    """The objective of a probe: fresh sequences without end, scored on a fixed set of others."""

    def __init__(
        self, model: ProbeModel, *, length: int, batch_size: int, truncate: int, seed: int
    ) -> None:
        """Begin.

        Args:
            model: What learns.
            length: T of adding; blanks of copy.
            batch_size: B.
            truncate: Steps that a gradient goes back; 0 for all.
            seed: Of all sequences.
        """
        self.model = model
        self.length = length
        self.batch_size = batch_size
        self.truncate = truncate
        self.make = MAKERS[model.probe]
        self.rng = np.random.default_rng([seed, 0])
        self.test = self.make(np.random.default_rng([seed, 1]), TEST, length)
        self.batches = 0

    @property
    def tokens(self) -> int:
        """Time steps learned from so far."""
        return self.batches * self.batch_size * self.test.inputs.shape[1]

    @property
    def epoch(self) -> float:
        """There is no end of sequences."""
        return 0.0

    def loss(self) -> Tensor:
        """Mean cost of the next batch."""
        self.batches += 1
        task = self.make(self.rng, self.batch_size, self.length)
        return self.model.costs(task, truncate=self.truncate).mean()

    def units(self, loss: float) -> dict[str, float]:
        """There are no others."""
        return {}

    def evaluate(self, limit: int) -> Look:
        """Mean cost on the test sequences, ``limit`` time steps of them at most."""
        count = max(1, min(TEST, limit // self.test.inputs.shape[1]))
        with torch.no_grad():
            loss = float(self.model.costs(Task(*(part[:count] for part in self.test))).mean())
        return Look(loss, {"val_loss": loss})

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The generator's place."""
        return {}, {"probe": {"rng": self.rng.bit_generator.state, "batches": self.batches}}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Put back what ``capture`` gave."""
        self.rng.bit_generator.state = counters["probe"]["rng"]
        self.batches = counters["probe"]["batches"]
