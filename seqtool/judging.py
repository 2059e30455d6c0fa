"""Learning to judge: the objective of a classifier, over padded batches of labelled sequences.

The recurrent model learns by itself. The linear classifier of n-grams, trained before, is only the
second opinion: trained together, each would leave to the other what it could learn (measured on
short film reviews: 80.0 % together, 83.4 % apart). Held-out sequences tell how much each counts.
"""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.batches import Shuffled, by_length, rows_within
from seqtool.calibration import calibration_error, fit_powers, nll, pool, set_scores
from seqtool.classifier import Classifier, Words
from seqtool.config import Steps, TrainConfig
from seqtool.distributed import replicate
from seqtool.labelsets import fit_label_powers, label_scores, label_thresholds, probabilities
from seqtool.lexicon import Table, Texts
from seqtool.pixels import image_steps, step_count
from seqtool.trainer import Batched, Look, as_if_alone, side_by_side

Array = npt.NDArray[Any]

BATCH = 64  # sequences evaluated side by side


class Sequences(Protocol):
    """What a classifier reads: N sequences that can be had in padded batches."""

    @property
    def lengths(self) -> Array:
        """(N,), each at least 1."""

    def batch(self, rows: Array) -> Words | Tensor:
        """Some of them, padded at their ends to the longest."""


class TextSequences:
    """Texts as sequences of words."""

    def __init__(self, texts: Texts, table: Table) -> None:
        self.texts = texts
        self.lengths = np.maximum(texts.lengths, 1)  # no words: one that tells nothing
        # The last word is that one: not in the vocabulary, and without parts.
        self._ids = np.array([*table.ids, 0])
        self._counts = np.array([*map(len, table.grams), 0])
        self._starts = np.cumsum(self._counts) - self._counts
        self._parts = np.array([part for parts in table.grams for part in parts], np.int64)

    def batch(self, rows: Array) -> Words:
        """The words of some texts."""
        texts, lengths = self.texts.select(rows), self.lengths[rows]
        words = np.full((len(rows), lengths.max()), len(self._ids) - 1)
        words[np.arange(words.shape[1]) < texts.lengths[:, None]] = texts.words
        used, places = np.unique(words, return_inverse=True)
        counts = self._counts[used]
        starts = np.cumsum(counts) - counts
        where = np.arange(counts.sum()) + np.repeat(self._starts[used] - starts, counts)
        arrays = self._ids[used], self._parts[where], starts, places.reshape(words.shape)
        return Words(*map(torch.from_numpy, arrays))


class ImageSequences:
    """Images as sequences of rows of pixels, of pixels or of blocks of them."""

    def __init__(
        self, pixels: Array, by: Steps, mean: float, deviation: float, *, shift: int = 0
    ) -> None:
        """Take images.

        Args:
            pixels: (N, H, W, C) uint8.
            by: What a step is.
            mean: Of the pixels that training reads.
            deviation: Of the same.
            shift: Pixels by which an image may be moved in each direction, at random.
        """
        self.pixels, self.by, self.mean, self.deviation = pixels, by, mean, deviation
        self.shift = shift
        self.lengths = np.full(len(pixels), step_count(pixels.shape[1:], by))

    def batch(self, rows: Array) -> Tensor:
        """Some images, (B, T, D) float32."""
        images = self.pixels[rows]
        if self.shift:
            count, height, width, _ = images.shape
            # torch's chance: resume keeps it. What comes in is like the edge.
            moves = torch.randint(-self.shift, self.shift + 1, (2, count, 1)).numpy()
            down = (moves[0] + np.arange(height)).clip(0, height - 1)  # (B, H)
            right = (moves[1] + np.arange(width)).clip(0, width - 1)
            images = images[np.arange(count)[:, None, None], down[:, :, None], right[:, None, :]]
        return torch.from_numpy(image_steps(images, self.by, self.mean, self.deviation))


@dataclass(frozen=True)
class Labelled:
    """Sequences and their classes: (N,) int64, or 1 for each that a sequence has, (N, C)."""

    inputs: Sequences
    labels: Array


class Judging(Batched):
    """The objective of a classifier: cross entropy of the labels.

    Where a sequence may have several, every label is a question of its own, and the loss the mean
    over all questions. Several networks read the same batches side by side, each learning as if it
    were alone: they differ in what they started from and in what they drop. Their logits are
    averaged, which is a logarithmic opinion pool in which all count alike.
    """

    def __init__(
        self,
        networks: SequenceOf[Classifier],
        train: Labelled,
        held_out: Labelled | None,
        config: TrainConfig,
        *,
        class_weights: Array | None = None,
        second: Array | None = None,
    ) -> None:
        """Stand before the first batch.

        Args:
            networks: What learns, one at least.
            train: To learn from.
            held_out: To look at; their order should mean nothing.
            config: ``batch_size`` and ``seed``.
            class_weights: How much a sequence of each class counts, (C,); of several labels, how
                much it counts that a sequence has it.
            second: Logits of another classifier on those held out, (M, C).
        """
        batches = Shuffled(train.inputs.lengths, config.batch_size, config.seed)
        super().__init__(side_by_side(networks), batches)
        self.networks = networks
        self.train = train
        self.held_out = held_out
        self.second = second
        self.compute = replicate(self.model, self._read)
        self.labels = torch.from_numpy(train.labels)
        self.weights: Tensor | None = None
        if class_weights is not None:
            self.weights = torch.from_numpy(class_weights).float().to(self.device)

    def counts(self, rows: Array) -> Array:
        """As much as its class does."""
        if self.weights is None or self.labels.ndim == 2:
            return np.ones(len(rows))
        return self.weights[self.labels[rows]].numpy(force=True)

    def loss(self) -> Tensor:
        """Mean loss of the next batch, nats per sequence, or per label if there are several."""
        rows, weight = self.next_rows()
        logits = self._logits(self.compute, self.train.inputs, rows)
        labels = self.labels[rows].to(self.device)
        losses = torch.stack([self._loss_of(one, labels) for one in logits])
        return as_if_alone(losses) * weight

    def _loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of one network, from logits (B, C)."""
        smoothing = self.networks[0].config.label_smoothing
        if labels.ndim == 2:
            targets = labels * (1 - smoothing) + smoothing / 2
            return functional.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=self.weights
            )
        return functional.cross_entropy(
            logits, labels, weight=self.weights, label_smoothing=smoothing
        )

    @torch.inference_mode()
    def evaluate(self, limit: int) -> Look:
        """How probable the labels held out are, all opinions together and calibrated on them."""
        if self.held_out is None:
            return Look(None, {"val_loss": None})
        inputs, labels = self.held_out.inputs, self.held_out.labels
        count = rows_within(inputs.lengths, limit)
        labels = labels[:count]
        self.model.eval()
        logits = np.empty((len(labels), len(self.networks[0].output.bias)), np.float32)
        for rows in by_length(inputs.lengths[:count], BATCH):
            found = self._logits(self._read, inputs, rows).mean(dim=0)
            logits[rows] = found.float().numpy(force=True)
        opinions = [logits] if self.second is None else [logits, self.second[:count]]
        return _look_at_sets(opinions, labels) if labels.ndim == 2 else _look(opinions, labels)

    def _logits(
        self, compute: Callable[[Words | Tensor, Tensor], Tensor], inputs: Sequences, rows: Array
    ) -> Tensor:
        lengths = torch.from_numpy(inputs.lengths[rows])
        return compute(inputs.batch(rows).to(self.device), lengths.to(self.device))

    def _read(self, inputs: Words | Tensor, lengths: Tensor) -> Tensor:
        """What every network says of a batch: logits, (K, B, C)."""
        return torch.stack([network(inputs, lengths) for network in self.networks])


def _look(opinions: list[Array], labels: Array) -> Look:
    """How good opinions, logits (N, C) each, are where exactly one label is right."""
    powers = fit_powers(opinions, labels)
    p = pool(opinions, powers)
    loss = nll(p, labels)
    accuracy = float((p.argmax(axis=1) == labels).mean())
    card = {
        "valid_nats": loss,
        "valid_accuracy": accuracy,
        "valid_ece": calibration_error(p, labels),
        "powers": powers,
        "set_scores": set_scores(p, labels),
    }
    return Look(loss, {"val_loss": loss, "val_accuracy": accuracy}, card)


def _look_at_sets(opinions: list[Array], truth: Array) -> Look:
    """The same where any number of labels may be right, (N, C)."""
    powers = fit_label_powers(opinions, truth)
    p = probabilities(opinions, powers)
    least = label_thresholds(p, truth)
    found = label_scores(p, truth, least)
    card = {
        "valid_nats": found["nats"],
        "valid_accuracy": found["accuracy"],
        "valid_micro_f1": found["micro_f1"],
        "valid_ece": found["ece"],
        "powers": powers,
        "thresholds": least,
    }
    scores = {"val_loss": found["nats"], "val_micro_f1": found["micro_f1"]}
    return Look(found["nats"], scores, card)
