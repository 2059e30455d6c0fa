"""Learning to tag: the objective of a tagger, over padded batches of tagged sentences."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqtool.batches import Shuffled, by_length, rows_within
from seqtool.calibration import fit_powers, nll, pool
from seqtool.classifier import Words
from seqtool.config import TrainConfig
from seqtool.distributed import replicate
from seqtool.judging import TextSequences
from seqtool.lexicon import Table, Texts
from seqtool.spans import Scheme, SpanCounts
from seqtool.tagger import Tagger
from seqtool.trainer import Batched, Look
from seqtool.viterbi import best_labels, marginals, neighbours

Array = npt.NDArray[Any]

BATCH = 64  # sentences evaluated side by side
LEAST = 1e-300  # probability of which a logarithm is taken
TIE = 1e-3  # how little a nat counts beside a mistake


class TaggedSentences:
    """Sentences as sequences of words, and a label for each word."""

    def __init__(self, texts: Texts, labels: Array, table: Table) -> None:
        """Take sentences, each at least one word long.

        Args:
            texts: N sentences.
            labels: Numbers of the labels of all words, (n,), one sentence after the other.
            table: Of the lexicon that the words are rows of.
        """
        self.inputs = TextSequences(texts, table)
        self.texts, self.labels = texts, labels
        self.lengths = texts.lengths

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Array) -> tuple[Words, Array, Array]:
        """Some of them: their words, lengths (B,), and labels (B, T), 0 in the padding."""
        lengths = self.lengths[rows]
        labels = np.zeros((len(rows), lengths.max()), np.int64)
        for row, padded in zip(rows, labels, strict=True):
            start, end = self.texts.offsets[row : row + 2]
            padded[: end - start] = self.labels[start:end]
        return self.inputs.batch(rows), lengths, labels


class Annotating(Batched):
    """The objective of a tagger: labels one by one, or all those of a sentence as a chain."""

    model: Tagger

    def __init__(
        self,
        model: Tagger,
        train: TaggedSentences,
        held_out: TaggedSentences | None,
        config: TrainConfig,
        labels: tuple[str, ...],
        scheme: Scheme,
    ) -> None:
        """Stand before the first batch.

        Args:
            model: What learns.
            train: To learn from.
            held_out: To look at; their order should mean nothing.
            config: ``batch_size`` and ``seed``.
            labels: C names, and behind them those of labels held out that are never given.
            scheme: Of the spans that they mark.
        """
        super().__init__(model, Shuffled(train.lengths, config.batch_size, config.seed))
        self.train = train
        self.held_out = held_out
        self.names = labels
        self.scheme = scheme
        self.compute = replicate(model, self._loss)

    def loss(self) -> Tensor:
        """Mean loss of the next batch, nats per word."""
        rows, weight = self.next_rows()
        loss: Tensor = self.compute(*self.train.batch(rows))
        return loss * weight

    def _loss(self, words: Words, lengths: Array, labels: Array) -> Tensor:
        scores = self._scores(words, lengths)
        targets = (torch.from_numpy(part).to(self.device) for part in (lengths, labels))
        return self.model.nll(scores, *targets)

    @torch.inference_mode()
    def evaluate(self, limit: int) -> Look:
        """How probable the labels held out are, calibrated on them, and how many are found.

        The best model is that with the fewest mistakes, in spans if there are some: labels go on to
        be found long after the others have become less probable (on English web text 95.17 %
        where nats were least, 95.33 % at the end). Of equals the one with fewer nats is better.
        """
        held_out = self.held_out
        if held_out is None:
            return Look(None, {"val_loss": None, "val_accuracy": None})
        count = rows_within(held_out.lengths, limit)
        self.model.eval()
        spans = SpanCounts(self.names)
        truth, guess, logits = [], [], []
        for rows in by_length(held_out.lengths[:count], BATCH):
            words, lengths, labels = held_out.batch(rows)
            paths, p = self._decode(words, lengths)
            within = np.arange(labels.shape[1]) < lengths[:, None]
            truth.append(labels[within])
            guess.append(paths[within])
            logits.append(np.log(np.maximum(p[within], LEAST)))
            if self.scheme:
                spans.add(labels, paths, lengths)
        found, opinion = np.concatenate(truth), np.concatenate(logits)
        known = found < opinion.shape[1]  # what is never given has no probability to go by
        powers = fit_powers([opinion[known]], found[known])
        loss = nll(pool([opinion[known]], powers), found[known])
        values = {"accuracy": float((found == np.concatenate(guess)).mean())}
        if self.scheme:
            values["span_f1"] = spans.total().f1
        card = {"valid_nats": loss, "power": powers[0]}
        card |= {f"valid_{name}": value for name, value in values.items()}
        shown = {f"val_{name}": value for name, value in values.items()}
        mistakes = 1 - values.get("span_f1", values["accuracy"])
        return Look(mistakes + TIE * loss, {"val_loss": loss, **shown}, card)

    def _decode(self, words: Words, lengths: Array) -> tuple[Array, Array]:
        """The best labels of a batch, (B, T), and the probabilities of all, (B, T, C)."""
        weights = None
        if self.model.chain is not None:
            parts = self.model.chain.named_parameters(prefix="chain")
            weights = {name: part.numpy(force=True) for name, part in parts}
        emissions = self._scores(words, lengths).float().numpy(force=True)
        given = self.names[: len(self.model.output.bias)]
        between = neighbours(given, self.scheme, weights)
        return best_labels(emissions, lengths, between), marginals(emissions, lengths, between)

    def _scores(self, words: Words, lengths: Array) -> Tensor:
        moved = Words(*(part.to(self.device) for part in words))
        scores: Tensor = self.model(moved, torch.from_numpy(lengths).to(self.device))
        return scores
