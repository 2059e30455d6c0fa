"""Labelled data as numbers: words looked up, n-grams found, pixels measured."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seqtool.audit import measure_lengths
from seqtool.checkpoint import Saved
from seqtool.config import ClassifierConfig, LabelConfig, TrainConfig
from seqtool.embeddings import Vectors
from seqtool.images import Images
from seqtool.labelled import Split, class_counts, class_weights, strings
from seqtool.lexicon import Lexicon, Texts
from seqtool.linear import Part, Parts, ngram_keys
from seqtool.linear import fit as fit_linear
from seqtool.linear import score as score_linear
from seqtool.pixels import pixel_statistics, step_count, step_width
from seqtool.pretrained import (
    lexicon_of,
    place_language_model,
    place_vectors,
    with_vectors,
)

if TYPE_CHECKING:
    from torch import device as Device

    from seqtool.judging import Judging, Sequences

Array = npt.NDArray[Any]

MOST_NGRAMS = 16_000_000  # that the linear classifier is trained on; 8 bytes each
WORDS_AT_ONCE = 1 << 20  # whose n-grams are found together; some 50 bytes each and order
SHIFT = 14  # an image may move by one part in so many of its shorter side
_UNITS = {"word": "words", "char": "characters", "byte": "bytes", "bpe": "pieces of words"}
EMPTY_TOKENIZER = "{}"  # kept with models that read no text


def evenly(lengths: Array, most: int) -> Array:
    """Rows spread evenly over all, with about ``most`` words in all of them; all if they are few.

    Args:
        lengths: Words of each row, (N,).
        most: How many.
    """
    total = int(lengths.sum())
    if total <= most:
        return np.arange(len(lengths))
    return np.flatnonzero(np.diff(np.arange(len(lengths) + 1) * most // total))


class Examples:
    """Labelled data as numbers, ready to be learned from."""

    def __init__(
        self,
        split: Split,
        data: LabelConfig,
        lexicon: Lexicon | None = None,
        *,
        parent: Saved | None = None,
    ) -> None:
        """Count the words of texts, unless a lexicon is given or a language model to start from."""
        self.split, self.data, self.parent = split, data, parent
        self.parts = [split.train, *([split.held_out] if split.held_out is not None else [])]
        self.labels = [split.labels(part) for part in self.parts]
        self.class_counts = class_counts(self.labels[0], len(split.classes))
        self.class_weights = class_weights(data.class_weights, split.classes, self.class_counts)
        self.order = 0  # of the n-grams that the linear classifier reads
        self._second: Array | None = None  # what it says of the texts held out, once that is known
        self.vectors: Vectors | None = None
        self.lexicon = lexicon
        if parent is not None:
            self.lexicon = lexicon_of(parent, "--init-from")
        elif lexicon is None and not isinstance(split.train, Images):
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
        train = self.split.train
        if isinstance(train, Images):
            return np.full(len(train), step_count(train.pixels.shape[1:], self.data.by))
        return np.minimum(self.texts[0].lengths, self.data.max_length)

    def described(self) -> list[tuple[str, str]]:
        """Lengths of the texts and how many of their words are known, for people."""
        lexicon = self.lexicon
        if lexicon is None:
            return []
        found = measure_lengths(self.texts[0].lengths.tolist())
        unit = _UNITS[lexicon.unit]
        text = f"from {found.shortest:,} to {found.longest:,} {unit}, median {found.median:,g}"
        if found.longest > self.data.max_length:
            text += f"; {self.data.max_length:,} of a text are read, its beginning and its end"
        rows = [("lengths", text)]
        if len(self.texts) > 1 and len(self.texts[1].words):
            apart = self.texts[1].words
            unseen = 1 - float(np.isin(apart, self.texts[0].words).mean())
            unknown = float((np.array(lexicon.table.ids)[apart] == 0).mean())
            rows.append(
                (
                    "unknown",
                    f"of the {unit} held out {unseen:.1%} never occur in what is trained on, "
                    f"{unknown:.1%} are not among the {lexicon.size - 1:,} with a vector of their "
                    "own",
                )
            )
        return rows

    def tokenizer_json(self) -> str:
        """What the model directory keeps of the lexicon."""
        return EMPTY_TOKENIZER if self.lexicon is None else self.lexicon.to_json()

    def take_parts(self, buckets: int) -> None:
        """Let words have parts."""
        if self.lexicon is not None and buckets:
            self.lexicon = self.lexicon.with_parts(buckets)
            self._encode()

    def take_vectors(self, source: str) -> str:
        """Start words from the vectors of a file; says how many have one.

        Raises:
            DataError: If it cannot be read.
        """
        assert self.lexicon is not None, "only texts have words"
        words = [*self.lexicon.table.rows]
        counts = np.bincount(self.texts[0].words, minlength=len(words))
        seen = [word for word, count in zip(words, counts, strict=True) if count]
        self.lexicon, self.vectors = with_vectors(self.lexicon, seen, source, self.data.vocab_size)
        self._encode()
        found, vectors = self.vectors.rows, self.vectors
        covered = sum(word in found for word in seen)
        read = sum(int(counts[i]) for i, word in enumerate(words) if word in found)
        note = (
            f"{vectors.total:,} words of {vectors.width} numbers; {covered:,} of the "
            f"{len(seen):,} different words here have one, {read / max(1, counts.sum()):.1%} of "
            "all that are read"
        )
        if vectors.announced not in (None, vectors.total):
            note += f" (its first line announces {vectors.announced:,} words)"
        return note

    def take_ngrams(self, order: int) -> None:
        """Let a linear classifier read n-grams up to an order; none with 0."""
        if order and self.lexicon is not None:
            self.order, self._hashes = order, np.array(self.lexicon.table.hashes)

    def _ngrams(self, texts: Texts, rows: Array) -> Iterator[Part]:
        """Of some of the texts, in parts of WORDS_AT_ONCE and at most one text more."""
        ends = np.cumsum(texts.lengths[rows] + 2)  # with the borders of each
        for some in np.split(rows, np.flatnonzero(np.diff(ends // WORDS_AT_ONCE)) + 1):
            yield *ngram_keys(self._hashes, texts.select(some), self.order), len(some)

    def _sample(self, part: int, most: int) -> tuple[Parts, Array]:
        """Texts of a part with about so many words, and their labels."""
        texts = self.texts[part]
        rows = evenly(texts.lengths, most)
        return partial(self._ngrams, texts, rows), self.labels[part][rows]

    def fit_linear(self, order: int) -> dict[str, Array]:
        """Train the linear classifier, if there shall be one; on a sample if there are too many."""
        self.take_ngrams(order)
        if not self.order:
            return {}
        most = MOST_NGRAMS // order  # words, each of which ends as many n-grams
        texts, labels = self._sample(0, most)
        held_out: tuple[Parts, Array] = (lambda: ()), labels[:0]
        if len(self.parts) > 1:
            held_out = self._sample(1, most // 4)
        if labels.ndim == 2:  # what is weighted is that a label is there
            weights = np.where(labels > 0, self.class_weights, 1.0)
        else:
            weights = self.class_weights[labels]
        return fit_linear(texts, labels, weights, len(self.split.classes), *held_out)

    def _opinions(self, linear: dict[str, Array]) -> Array:
        """What the linear classifier says of the texts held out, (M, C) float32."""
        if self._second is None:  # the networks may be built twice, for a timing and for the run
            texts = self.texts[1]
            parts = self._ngrams(texts, np.arange(len(texts)))
            self._second = np.concatenate([score_linear(linear, *part) for part in parts])
        return self._second

    def objective(
        self,
        model_config: ClassifierConfig,
        config: TrainConfig,
        device: "Device",
        linear: Mapping[str, Array],
    ) -> "Judging":
        """Fresh recurrent networks from the seed, and what they have to learn."""
        import torch

        from seqtool.classifier import Classifier
        from seqtool.judging import Judging, Labelled

        torch.manual_seed(config.seed % 2**64)
        width = 0
        if isinstance(self.split.train, Images):
            width = step_width(self.split.train.pixels.shape[1:], self.data.by)
        classes = len(self.split.classes)
        networks = []
        for _ in range(model_config.members):
            model = Classifier(model_config, classes, vocab_size=self.vocab_size, width=width)
            if self.parent is not None:
                place_language_model(model, self.parent)
            if self.vectors is not None and self.lexicon is not None:
                place_vectors(model, self.lexicon, self.vectors)
            networks.append(model.to(device))
        sets = [
            Labelled(inputs, labels)
            for inputs, labels in zip(self._sequences(), self.labels, strict=True)
        ]
        held_out = sets[1] if len(sets) > 1 else None
        second = None
        if linear and held_out:
            second = self._opinions(dict(linear))
        uneven = self.class_weights if self.data.class_weights else None
        return Judging(networks, sets[0], held_out, config, class_weights=uneven, second=second)

    def _sequences(self) -> "list[Sequences]":
        from seqtool.judging import ImageSequences, TextSequences

        train = self.split.train
        if not isinstance(train, Images):
            assert self.lexicon is not None
            table = self.lexicon.table
            return [TextSequences(texts.cut(self.data.max_length), table) for texts in self.texts]
        mean, deviation = pixel_statistics(train.pixels)
        shift = min(train.pixels.shape[1:3]) // SHIFT
        numbers = self.data.by, mean, deviation
        found: list[Sequences] = [ImageSequences(train.pixels, *numbers, shift=shift)]
        if isinstance(self.split.held_out, Images):
            found.append(ImageSequences(self.split.held_out.pixels, *numbers))
        return found
