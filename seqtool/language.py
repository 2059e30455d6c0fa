"""Learning to predict the next token: truncated backpropagation through time over streams of text.

Each batch is a chunk of every stream, read from the state where the last chunk ended, and its
gradient stops there. Layers whose state may explode begin each chunk from zero.
"""

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqtool.backoff import NGram, Scored
from seqtool.cells import detach, reset
from seqtool.config import TrainConfig
from seqtool.data import Corpus, Streams, let_go
from seqtool.diagnostics import Judgement, language_flow
from seqtool.distributed import gather, replicate, share, weight, world
from seqtool.errors import ConfigError
from seqtool.evaluation import score_streams
from seqtool.mixture import default_weights, fit_weights, mix_nll
from seqtool.models import LanguageModel
from seqtool.trainer import Look

# Tokens learned from between two measurements of the gradient flow, at least. One costs what some
# 7,000 tokens cost in training on a CPU; where it costs more, it waits.
FLOW_EVERY = 250_000
FLOW_SHARE = 0.03  # of the time since the last measurement, at most


class NextToken:
    """The objective of a language model: cross entropy of each token, given all before it.

    The network learns alone. With an n-gram model as partner, the validation loss is that of the
    mixture of both, with the weights that are best on the validation text.
    """

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        config: TrainConfig,
        *,
        ngram: NGram | None = None,
    ) -> None:
        self.model = model
        self.ngram = ngram
        self.mixture = default_weights(ngram.order if ngram else 0)  # of the n-gram model, (order,)
        self.corpus = corpus
        self.streams = Streams(
            corpus.train,
            batch_size=config.batch_size,
            bptt=config.bptt,
            restart=config.restart,
            line_ends=corpus.tokenizer.line_end_ids(),
            start_id=corpus.tokenizer.start_id,
            seed=config.seed,
        )
        self.share = share(config.batch_size)  # of the streams
        if self.share.start == self.share.stop:
            raise ConfigError(
                f"--batch-size {config.batch_size}: at least one stream for each of "
                f"{world().size} processes is needed; raise it, or start fewer"
            )
        self.state: tuple[Tensor, ...] = model.init_state(self.share.stop - self.share.start)
        self.compute = replicate(model, model.loss)
        self.device = next(model.parameters()).device
        self.bptt = config.bptt
        self.counted: tuple[np.ndarray, Scored] | None = None  # of the last places looked at
        self.flow_at = 0  # tokens read when the gradient flow was last measured
        self.flow_ended, self.flow_seconds = (
            time.monotonic(),
            0.0,
        )  # when that was, how long it took
        self.judged: Judgement | None = None  # what it was found to be

    @property
    def tokens(self) -> int:
        """Tokens read so far, in all streams together."""
        return self.streams.num_tokens

    @property
    def epoch(self) -> float:
        """Tokens read, as a multiple of the text."""
        return self.streams.epoch

    def loss(self) -> Tensor:
        """Mean loss of the next chunk, nats per token; the carried state moves on."""
        batch = self.streams.next()
        inputs = torch.from_numpy(batch.inputs[self.share]).to(self.device)  # (B, T)
        targets = torch.from_numpy(batch.targets[self.share]).to(self.device)
        restart = torch.from_numpy(batch.restart[self.share]).to(self.device)  # (B,)
        loss: Tensor
        loss, self.state = self.compute(inputs, targets, self._start(restart))
        return loss * weight(len(inputs), len(batch.inputs))

    def _start(self, restart: Tensor) -> tuple[Tensor, ...]:
        """The state from which the next chunk is read, each part (L, B, H), given restarts (B,).

        One recurrent weight of ReLU layers too many multiplies a state by as much in each chunk,
        and no gradient crosses the chunks to take it back: within 25 updates losses were in the
        thousands, at every learning rate. From zero, and so bounded by what one chunk can do, these
        layers learn as tanh does, and still keep their state at bay over a long text in use.
        """
        state = reset(detach(self.state), restart)
        if not self.model.stack.may_explode:
            return state
        layers = self.model.stack.init_state(len(restart))
        return (*layers, *state[len(layers) :])  # recent ids of n-grams are tokens: they stay

    def units(self, loss: float) -> dict[str, float]:
        """Nats per token of the training text in bits per character."""
        return {"bits_per_char": loss / math.log(2) * self.corpus.train_tokens_per_char}

    def evaluate(self, limit: int) -> Look:
        """Mean negative log-likelihood of the validation text, nats per token."""
        if self.corpus.valid.size == 0:
            return Look(None, {"val_loss": None, "val_bits_per_char": None})
        costs = score_streams(self.model, self.corpus.valid, limit=limit)
        loss = float(costs.nll.mean())
        found: dict[str, Any] = {"valid_nats_per_token": loss}
        scores: dict[str, Any] = {"val_loss": loss}
        if self.ngram is not None:
            counted = self._counts(self.ngram, costs.places)
            self.mixture = fit_weights(costs.nll, counted, self.ngram.order)
            mixed = float(mix_nll(costs.nll, counted, self.mixture).mean())
            found = {"valid_nats_per_token": mixed, "mixture": self.mixture.tolist()}
            scores = {"val_loss": mixed, "val_network_loss": loss}
            loss = mixed
        bits = loss / math.log(2) * self.corpus.valid_tokens_per_char
        scores |= {"val_bits_per_char": bits} | self._gradient()
        let_go(self.corpus.valid)
        return Look(loss, scores, found)

    def _counts(self, ngram: NGram, places: np.ndarray) -> Scored:
        """What the n-gram model says at some places, most times those of the look before."""
        if self.counted is None or not np.array_equal(self.counted[0], places):
            self.counted = places, score_places(ngram, self.corpus.valid, places)
        return self.counted[1]

    def _gradient(self) -> dict[str, Any]:
        """The gradient flow on the validation text as a field of the event, now and then."""
        began = time.monotonic()
        dear = self.flow_seconds > FLOW_SHARE * (began - self.flow_ended)
        if self.tokens - self.flow_at < FLOW_EVERY or dear or len(self.corpus.valid) < 3:
            return {}
        self.flow_at = self.tokens
        flow = language_flow(
            self.model,
            self.corpus.valid,
            window=self.bptt,
            jacobians=False,
            stood=self.judged,
        )
        self.judged = flow.verdict.judgement
        self.flow_ended = time.monotonic()
        self.flow_seconds = self.flow_ended - began
        return {"gradient": flow.summary()}

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The carried state, and where the streams are."""
        tensors = {f"state.{i}": gather(part.detach(), 1) for i, part in enumerate(self.state)}
        counters = {
            "streams": self.streams.state_dict(),
            "mixture": self.mixture.tolist(),
            "flow_at": self.flow_at,
            "judged": self.judged,
        }
        return tensors, counters

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Put back what ``capture`` gave."""
        count = len(self.state)
        whole = (tensors[f"state.{i}"].to(self.device) for i in range(count))
        self.state = tuple(part[:, self.share] for part in whole)
        self.streams.load_state_dict(counters["streams"])
        self.mixture = np.array(counters.get("mixture", []), np.float32)
        self.flow_at = counters.get("flow_at", 0)
        self.judged = counters.get("judged")


def score_places(ngram: NGram, ids: np.ndarray, places: np.ndarray) -> Scored:
    """Score some tokens of a text, each after all that stands before it.

    Args:
        ngram: The model.
        ids: The text, (n,).
        places: Where the tokens stand, (N,), ascending.
    """
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    scored = []
    for run in runs:
        first, last = int(run[0]), int(run[-1])
        history = ids[max(0, first - ngram.order) : first]
        scored.append(ngram.score(ids[first : last + 1], ngram.read(history)))
    probs, depths, contexts = zip(*scored, strict=True)
    return Scored(np.concatenate(probs), np.concatenate(depths), contexts[-1])
