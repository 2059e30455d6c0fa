"""The state of a training run, and the one update that moves it on.

Truncated backpropagation through time: each update reads a chunk of every stream, from the state
where the last chunk ended, and its gradient stops there. What is left out: when to report, evaluate
and save, and what to do when an update fails; that is train.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqtool.cells import detach, reset
from seqtool.config import TrainConfig
from seqtool.data import Corpus, Streams
from seqtool.devices import generator_states, restore_generators
from seqtool.evaluation import score_streams
from seqtool.models import LanguageModel
from seqtool.optim import Updater

SPIKE = 1.0  # nats above the recent mean that count as divergence, or eight deviations


class Diverged(Exception):
    """The last update must not stand; the message says why.

    ``loss`` is what the loss jumped to, nan if that or the gradient is not even finite.
    """

    loss = math.nan


class Trainer:
    """The state of one run: model, optimizer, data cursor, carried state, counters.

    Everything the next update depends on is in ``capture`` and nothing else is.
    """

    def __init__(self, model: LanguageModel, corpus: Corpus, config: TrainConfig) -> None:
        self.model = model
        self.corpus = corpus
        self.config = config
        self.updater = Updater(model, config)
        self.streams = Streams(
            corpus.train,
            batch_size=config.batch_size,
            bptt=config.bptt,
            restart=config.restart,
            line_ends=corpus.tokenizer.line_end_ids(),
            start_id=corpus.tokenizer.start_id,
            seed=config.seed,
        )
        self.state: tuple[Tensor, ...] = model.init_state(config.batch_size)
        self.device = next(model.parameters()).device
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
        self.excused = -1  # up to this step, jumps are known to be the text's

    def update(self) -> tuple[float, float]:
        """Make one update.

        Returns:
            Loss in nats per token, and the gradient norm before clipping.

        Raises:
            Diverged: If either is not finite or the loss jumped; the weights may be spoilt.
        """
        batch = self.streams.next()
        inputs = torch.from_numpy(batch.inputs).to(self.device)
        targets = torch.from_numpy(batch.targets).to(self.device)
        restart = torch.from_numpy(batch.restart).to(self.device)
        state = reset(detach(self.state), restart)
        self.model.train()
        logits, self.state = self.model(inputs, state)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.updater.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item()
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

    def evaluate(self) -> float:
        """Mean negative log-likelihood of the validation text, nats per token, averaged weights."""
        with self.updater.averaged():
            return score_streams(self.model, self.corpus.valid, limit=self.config.eval_tokens)

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copy everything the next update depends on: tensors, and counters fit for JSON."""
        tensors = {f"weight.{n}": p.detach() for n, p in self.model.named_parameters()}
        tensors |= self.updater.tensors()
        tensors |= {f"state.{i}": s.detach() for i, s in enumerate(self.state)}
        tensors |= generator_states(self.device)
        counters = {
            "step": self.step,
            "lr_scale": self.lr_scale,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "loss_mean": self.loss_mean,
            "loss_variance": self.loss_variance,
            "best": self.best,
            "best_step": self.best_step,
            "stale": self.stale,
            "jump_step": self.jump_step,
            "jump_loss": self.jump_loss,
            "excused": self.excused,
            "streams": self.streams.state_dict(),
        }
        return {name: tensor.clone() for name, tensor in tensors.items()}, counters

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Put back what ``capture`` gave."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"weight.{name}"])
        self.updater.load_tensors(tensors)
        count = len(self.state)
        self.state = tuple(tensors[f"state.{i}"].to(self.device) for i in range(count))
        restore_generators(tensors, self.device, seed=self.config.seed)
        self.streams.load_state_dict(counters["streams"])
        for name, value in counters.items():
            if name != "streams":
                setattr(self, name, value)

    def set_lengths(self, **lengths: Any) -> None:
        """Fix the run's length, or how often it reports: ``steps``, ``eval_every`` and the like."""
        self.config = self.updater.config = replace(self.config, **lengths)


@dataclass
class Snapshot:
    """A state to go back to."""

    tensors: dict[str, Tensor]
    counters: dict[str, Any]
