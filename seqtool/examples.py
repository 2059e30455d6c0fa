"""Labelled data as numbers: words looked up, n-grams found, pixels measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seqtool.config import ClassifierConfig, LabelConfig, TrainConfig
from seqtool.images import Images
from seqtool.labelled import Split, class_weights, strings
from seqtool.lexicon import Lexicon
from seqtool.linear import fit as fit_linear
from seqtool.linear import ngram_keys
from seqtool.linear import score as score_linear

if TYPE_CHECKING:
    from torch import device as Device

    from seqtool.judging import Judging, Sequences

Array = npt.NDArray[Any]

SHIFT = 14  # an image may move by one part in so many of its shorter side
EMPTY_TOKENIZER = "{}"  # kept with models that read no text


class Examples:
    """Labelled data as numbers, ready to be learned from."""

    def __init__(self, split: Split, data: LabelConfig, lexicon: Lexicon | None = None) -> None:
        """Count the words of texts, unless a lexicon is given."""
        self.split, self.data = split, data
        self.parts = [split.train, *([split.held_out] if split.held_out is not None else [])]
        self.labels = [split.labels(part) for part in self.parts]
        self.class_counts = np.bincount(self.labels[0], minlength=len(split.classes))
        self.class_weights = class_weights(data.class_weights, split.classes, self.class_counts)
        self.features: list[tuple[Array, Array]] = []  # n-grams of each part
        self.lexicon = lexicon
        if lexicon is None and not isinstance(split.train, Images):
            self.lexicon = Lexicon.learn(
                strings(split.train),
                data.tokenizer,
                lower=data.lower,
                buckets=0,
                size=data.vocab_size,
            )
        self._encode()

    def _encode(self) -> None:
        if self.lexicon is not None:
            self.texts = [
                self.lexicon.encode(strings(part))
                for part in self.parts
                if not isinstance(part, Images)
            ]

    @property
    def vocab_size(self) -> int:
        """Words with an id and one for the others; 0 for images."""
        return 0 if self.lexicon is None else self.lexicon.size

    @property
    def lengths(self) -> Array:
        """Elements of the sequences to train on, as far as they are read, (N,)."""
        if isinstance(self.split.train, Images):
            return np.full(len(self.split.train), self.split.train.pixels.shape[1])
        return np.minimum(self.texts[0].lengths, self.data.max_length)

    def tokenizer_json(self) -> str:
        """What the model directory keeps of the lexicon."""
        return EMPTY_TOKENIZER if self.lexicon is None else self.lexicon.to_json()

    def take_parts(self, buckets: int) -> None:
        """Let words have parts."""
        if self.lexicon is not None and buckets:
            words = [*self.lexicon.ids]
            self.lexicon = Lexicon(
                self.lexicon.unit, words, lower=self.lexicon.lower, buckets=buckets
            )
            self._encode()

    def count_ngrams(self, order: int) -> None:
        """Find the n-grams of every text, for the linear classifier."""
        if order and self.lexicon is not None:
            hashes = np.array(self.lexicon.table.hashes)
            self.features = [ngram_keys(hashes, texts, order) for texts in self.texts]

    def fit_linear(self, order: int) -> dict[str, Array]:
        """Train the linear classifier, if there shall be one."""
        self.count_ngrams(order)
        if not self.features:
            return {}
        nothing = (np.zeros(0, np.uint64), np.zeros(0, np.int64)), np.zeros(0, np.int64)
        held_out = (self.features[1], self.labels[1]) if len(self.labels) > 1 else nothing
        weights = self.class_weights[self.labels[0]]
        classes = len(self.split.classes)
        return fit_linear(self.features[0], self.labels[0], weights, classes, *held_out)

    def objective(
        self,
        model_config: ClassifierConfig,
        config: TrainConfig,
        device: "Device",
        linear: Mapping[str, Array],
    ) -> "Judging":
        """A fresh recurrent classifier from the seed, and what it has to learn."""
        import torch

        from seqtool.classifier import Classifier
        from seqtool.judging import Judging, Labelled

        torch.manual_seed(config.seed % 2**64)
        width = 0
        if isinstance(self.split.train, Images):
            width = int(np.prod(self.split.train.pixels.shape[2:]))
        classes = len(self.split.classes)
        model = Classifier(model_config, classes, vocab_size=self.vocab_size, width=width)
        sets = [
            Labelled(inputs, labels)
            for inputs, labels in zip(self._sequences(), self.labels, strict=True)
        ]
        held_out = sets[1] if len(sets) > 1 else None
        second = None
        if linear and held_out:
            second = score_linear(dict(linear), *self.features[1], len(held_out.labels))
        uneven = self.class_weights if self.data.class_weights else None
        return Judging(
            model.to(device), sets[0], held_out, config, class_weights=uneven, second=second
        )

    def _sequences(self) -> "list[Sequences]":
        from seqtool.judging import ImageSequences, TextSequences

        train = self.split.train
        if not isinstance(train, Images):
            assert self.lexicon is not None
            table = self.lexicon.table
            return [TextSequences(texts.cut(self.data.max_length), table) for texts in self.texts]
        mean, deviation = pixel_statistics(train)
        shift = min(train.pixels.shape[1:3]) // SHIFT
        found: list[Sequences] = [ImageSequences(train.pixels, mean, deviation, shift=shift)]
        if isinstance(self.split.held_out, Images):
            found.append(ImageSequences(self.split.held_out.pixels, mean, deviation))
        return found


def pixel_statistics(images: Images) -> tuple[float, float]:
    """Mean and standard deviation of all pixels; the latter is never 0."""
    counts = np.bincount(images.pixels.reshape(-1), minlength=256).astype(np.float64)
    values = np.arange(256.0)
    mean = float(counts @ values / counts.sum())
    variance = float(counts @ (values - mean) ** 2 / counts.sum())
    return mean, max(1.0, variance**0.5)
