"""Learning to write for a label: each row of a table is one sequence that its label begins.

A row is read from the zero state and ends with the end token. Batches are of whole rows of about
the same length, so that hardly anything is padding; long ones are read in chunks with carried
state, and the gradient stops between these (truncated backpropagation through time).
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.batches import Shuffled, by_length, padded, rows_within
from seqtool.cells import detach
from seqtool.config import TrainConfig
from seqtool.distributed import divide, gather, replicate, share
from seqtool.evaluation import evaluating
from seqtool.lexicon import Texts
from seqtool.models import LanguageModel
from seqtool.tokenizer import START_ID
from seqtool.trainer import Batched, Look

Array = npt.NDArray[Any]

BATCH = 64  # rows looked at side by side
STEPS = 256  # of a chunk that is only looked at


class Chunk(NamedTuple):
    """Some time steps of some rows."""

    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T), the tokens that follow
    counted: Tensor  # (B, T) bool: not behind the end


def chunks(rows: Texts, chosen: Array, steps: int, first: int = 0) -> Iterator[Chunk]:
    """Some rows side by side, so many time steps at once.

    Args:
        rows: All rows of ids.
        chosen: Which, (B,).
        steps: T.
        first: Time step to begin with.
    """
    ids, lengths = padded(rows, chosen, boundary=START_ID)
    last = ids.shape[1] - 1  # that of the longest row's last input
    for begin in range(first, last, steps):
        times = np.arange(begin, min(begin + steps, last))
        counted = times < lengths[:, None] - 1
        arrays = ids[:, times], ids[:, times + 1], counted
        yield Chunk(*map(torch.from_numpy, arrays))


class RowWriting(Batched):
    """The objective: cross entropy of each token of a row and of its end, given its label."""

    model: LanguageModel

    def __init__(
        self,
        model: LanguageModel,
        train: Texts,
        held_out: Texts,
        config: TrainConfig,
        *,
        tokens_per_char: float,
    ) -> None:
        """Stand before the first batch.

        Args:
            model: What learns.
            train: Rows to learn from, each with its label before its tokens.
            held_out: To look at; their order should mean nothing.
            config: ``batch_size`` in rows, ``bptt`` and ``seed``.
            tokens_per_char: Turns nats per token into nats per character.
        """
        super().__init__(model, Shuffled(train.lengths, config.batch_size, config.seed))
        self.train = train
        self.held_out = held_out
        self.tokens_per_char = tokens_per_char
        self.bptt = config.bptt
        self.compute = replicate(model, model.loss)
        self.rows: Array = np.zeros(0, np.int64)  # of the batch that is being read
        self.at = 0  # its time steps read so far
        self.state: tuple[Tensor, ...] = ()  # of this process's rows

    def loss(self) -> Tensor:
        """Mean loss of the next chunk, nats per token."""
        chunk = next(chunks(self.train, self.rows, self.bptt, self.at), None)
        if chunk is None:
            self.rows, self.at, self.state = self.batches.next(), 0, ()
            chunk = next(chunks(self.train, self.rows, self.bptt))
        self.at += chunk.inputs.shape[1]
        places, weight = divide(np.arange(len(self.rows)), chunk.counted.sum(dim=1).numpy())
        inputs, targets, counted = (part[places].to(self.device) for part in chunk)
        if not counted.any():  # all that counts is other processes'; of nothing there is no mean
            counted = torch.ones_like(counted)
        state = detach(self.state) if self.state else self.model.init_state(len(places))
        loss: Tensor
        loss, self.state = self.compute(inputs, targets, state, counted)
        return loss * weight

    def units(self, loss: float) -> dict[str, float]:
        """Nats per token in bits per character."""
        return {"bits_per_char": loss / math.log(2) * self.tokens_per_char}

    def evaluate(self, limit: int) -> Look:
        """Mean negative log-likelihood of the rows held out given their labels, nats per token."""
        if not len(self.held_out):
            return Look(None, {"val_loss": None, "val_bits_per_char": None})
        count = rows_within(self.held_out.lengths, limit)
        tokens = self.held_out.lengths[:count].sum()
        loss = float(row_costs(self.model, self.held_out, count).sum() / tokens)
        bits = loss / math.log(2) * self.tokens_per_char
        scores = {"val_loss": loss, "val_bits_per_char": bits}
        return Look(loss, scores, {"valid_nats_per_token": loss})

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The carried state of all processes, and where the batches are."""
        own = share(len(self.rows))
        count = own.stop - own.start  # a row read only to have gradients is another process's
        parts = (part.detach()[:, :count] for part in self.state)
        tensors = {f"state.{i}": gather(part, 1) for i, part in enumerate(parts)}
        place = {"rows": self.rows.tolist(), "at": self.at}
        return tensors, super().capture()[1] | {"place": place}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Put back what ``capture`` gave."""
        super().restore(tensors, counters)
        place = counters["place"]
        self.rows, self.at = np.array(place["rows"], np.int64), place["at"]
        parts = len(self.model.init_state(1)) if len(self.rows) else 0
        whole = (tensors[f"state.{i}"].to(self.device) for i in range(parts))
        places = divide(np.arange(len(self.rows)), np.ones(len(self.rows)))[0]
        self.state = tuple(part[:, places] for part in whole)


@torch.inference_mode()
def row_costs(model: LanguageModel, rows: Texts, count: int) -> Array:
    """Negative log-likelihood of the first rows given their labels, with their ends, (N,), nats."""
    device = model.embedding.weight.device
    nll = np.zeros(count)
    with evaluating(model):
        for chosen in by_length(rows.lengths[:count], BATCH):
            state = model.init_state(len(chosen))
            for chunk in chunks(rows, chosen, STEPS):
                inputs, targets, counted = (part.to(device) for part in chunk)
                logits, state = model(inputs, state)
                costs = functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), reduction="none"
                )
                costs = (costs.view_as(targets) * counted).double().sum(dim=1)
                nll[chosen] += costs.numpy(force=True)
    return nll
