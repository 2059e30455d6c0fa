"""A trained classifier on a CPU without torch: texts in, probabilities out.

What classifier computes, from the arrays of a model file, by the compiled loops of layers. An
answer is the same to the bit whatever is judged beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.batches import by_length
from seqtool.checkpoint import Card, Saved, load, load_counts
from seqtool.claims import check_data, check_fitted, each, number, optional, text, whole
from seqtool.config import ClassifierConfig, Steps
from seqtool.ensemble import together
from seqtool.errors import CheckpointError
from seqtool.hashing import hash_rows
from seqtool.labelsets import Powers, probabilities
from seqtool.lexicon import Lexicon, Texts
from seqtool.linear import check_linear, ngram_keys, score
from seqtool.pixels import image_steps, step_width
from seqtool.shapes import check_weights, layer_shapes, of_all_members, of_member, vector_shapes
from seqtool.team import Team

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

DIRECTIONS = ("onward", "back")
BATCH = 64  # sequences computed side by side; what is computed does not depend on it


class Rows:
    """An array that grows at its end; most times that does not mean to copy it."""

    def __init__(self, values: Array) -> None:
        self._room = values
        self._size = len(values)

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> Array:
        """The rows so far: a view that holds until the next change."""
        return self._room[: self._size]

    def extend(self, rows: Array) -> None:
        """Put more rows behind."""
        size = self._size + len(rows)
        if size > len(self._room):
            room = np.empty((2 * size, *self._room.shape[1:]), self._room.dtype)
            room[: self._size] = self.values
            self._room = room
        self._room[self._size : size] = rows
        self._size = size

    def cut(self, size: int) -> None:
        """Keep the first rows only."""
        self._size = size


class Vectors:
    """The vectors of all words in a lexicon's table, worked out as the table grows."""

    def __init__(
        self,
        lexicon: Lexicon,
        weights: Mapping[str, Array],
        *,
        side_by_side: bool = False,
        buckets: int = 1,
    ) -> None:
        """As classifier's WordVectors, with an empty table; ``buckets`` are of n-gram tables."""
        self.lexicon, self.table = lexicon, lexicon.table
        self.words = weights["vectors.words.weight"]
        self.parts = weights.get("vectors.parts")
        self.ngrams, self.buckets = weights.get("tables.weight"), buckets
        self.side_by_side = side_by_side and self.parts is not None
        width = self.words.shape[1] * (2 if self.side_by_side else 1)
        self.known = Rows(np.zeros((1, width), np.float32))  # what tells nothing, then the words
        self.hashes = Rows(np.zeros(0, np.int64))
        self.ids = Rows(np.zeros(1, np.int64))  # in the vocabulary, as ``known``

    def complete(self) -> None:
        """Work out the vectors of the words that are new in the table."""
        table = self.lexicon.table
        if table is not self.table:  # the one before was forgotten
            self.table = table
            self.known.cut(1)
            self.hashes.cut(0)
            self.ids.cut(1)
        old = len(self.hashes)
        if old == len(table.ids):
            return
        ids, grams = np.array(table.ids[old:], np.int64), table.grams[old:]
        new = self.words[ids]
        if self.parts is not None:
            counts = np.array([len(parts) for parts in grams])
            flat = np.array([bucket for parts in grams for bucket in parts])
            mean = np.add.reduceat(self.parts[flat], np.cumsum(counts) - counts) / counts[:, None]
            new = np.concatenate([new, mean], axis=1) if self.side_by_side else new + mean
        self.known.extend(new)
        self.hashes.extend(np.array(table.hashes[old:], np.int64))
        self.ids.extend(ids)

    def sequences(self, rows: Texts, lengths: Array) -> Floats:
        """Some rows of words as sequences of vectors, (T, B, E), zero behind their ends.

        Args:
            rows: B rows; ``complete`` was called since they were encoded.
            lengths: Of the sequences, (B,), at least those of the rows.
        """
        places = np.zeros((len(rows), lengths.max()), np.int64)
        places[np.arange(places.shape[1]) < rows.lengths[:, None]] = rows.words + 1
        found: Floats = self.known.values[places.T]
        if self.ngrams is not None:
            found += self._of_ngrams(self.ngrams, self.ids.values[places]).swapaxes(0, 1)
        return found

    def _of_ngrams(self, tables: Floats, ids: Array) -> Floats:
        """What the n-grams that end at each of some tokens (B, T) add, (B, T, E)."""
        steps, context = ids.shape[1], len(tables) // self.buckets
        past = np.pad(ids, ((0, 0), (context, 0)))
        previous = [past[:, context - k : context - k + steps] for k in range(1, context + 1)]
        total: Floats = sum(tables[rows] for rows in hash_rows(ids, previous, self.buckets))
        return total


class Network:
    """The recurrent opinion: sequences of numbers in, logits out."""

    def __init__(
        self,
        config: ClassifierConfig,
        weights: Mapping[str, Floats],
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over weights that fit the config.

        Args:
            config: The model's shape.
            weights: By name.
            announce: Called if code has to be compiled, which takes seconds, once.
        """
        from seqtool.compiled import announced  # these load numba
        from seqtool.layers import Layer

        with announced(announce):
            self.stacks = [
                [
                    Layer(config, weights, name, f"l{layer}", backward=name == "back")
                    for layer in range(config.num_layers)
                ]
                for name in DIRECTIONS
            ]
        self.pools = config.pools
        if "attention" in self.pools:
            names = ("weight", "bias", "query")
            self.attention = [weights[f"attention.{name}"] for name in names]
        self.weight, self.bias = weights["output.weight"], weights["output.bias"]
        self._team = Team()

    def logits(self, x: Floats, lengths: Array) -> Floats:
        """Judge sequences side by side.

        Args:
            x: (T, B, E); what stands after an end does not matter.
            lengths: (B,), each at least 1.

        Returns:
            (B, C), each row the same to the bit whatever the others are.
        """
        outside = np.arange(len(x))[:, None] >= lengths  # (T, B)
        outputs: list[Floats] = []
        pooled: dict[str, list[Floats]] = {"max": [], "mean": [], "last": []}
        for onward, stack in zip((True, False), self.stacks, strict=True):
            h = x
            for layer in stack:
                states = layer.run(h, lengths, self._team)
                h = states[1:] if onward else states[:-1]
            pooled["last"].append((states[-1] if onward else states[0]).copy())
            h[outside] = 0
            if "attention" in self.pools:
                outputs.append(h.copy())
            pooled["mean"].append(h.sum(axis=0) / lengths[:, None].astype(np.float32))
            h[outside] = -np.inf
            pooled["max"].append(h.max(axis=0))
        if outputs:
            pooled["attention"] = [self._attend(np.concatenate(outputs, axis=2), outside)]
        parts = [part for how in self.pools for part in pooled[how]]
        return linear_map(np.concatenate(parts, axis=1), self.weight, self.bias)

    def _attend(self, h: Floats, outside: Array) -> Floats:
        """The mean of outputs (T, B, 2H), zero outside, weighted by attention: (B, 2H)."""
        weight, bias, query = self.attention
        scores = np.einsum("tbk,k->tb", np.tanh(linear_map(h, weight, bias)), query)
        scores[outside] = -np.inf
        shares = np.exp(scores - scores.max(axis=0))
        # A running sum: numpy's own depends on how many sequences stand side by side.
        shares /= shares.cumsum(axis=0)[-1]
        result: Floats = (shares[:, :, None] * h).sum(axis=0)
        return result


def linear_map(h: Floats, weight: Floats, bias: Floats) -> Floats:
    """h W^T + b for h (..., H): each row the same to the bit whatever the others are.

    einsum adds up each entry on its own; a BLAS product adds up rows side by side.
    """
    result: Floats = np.einsum("...k,ck->...c", h, weight) + bias
    return result


class ImageJudge:
    """Judges images as training's model does, with calibrated probabilities."""

    def __init__(
        self,
        config: ClassifierConfig,
        weights: Mapping[str, Array],
        powers: Powers,
        *,
        by: Steps,
        mean: float,
        deviation: float,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over weights that fit the config; check_weights is the caller's business.

        Args:
            config: The model's shape.
            weights: By name.
            powers: Of the one opinion, from calibration.
            by: What a step is.
            mean: Of the pixels that training read.
            deviation: Of the same.
            announce: Called if code has to be compiled, which takes seconds, once.
        """
        self.networks = networks_of(config, weights, announce)
        self.powers, self.by, self.mean, self.deviation = powers, by, mean, deviation

    def opinions(self, pixels: Array) -> list[Array]:
        """Logits (N, C) of images (N, H, W, C), brought to the size that training read."""
        parts = []
        for start in range(0, len(pixels), BATCH):
            part = pixels[start : start + BATCH]
            steps = image_steps(part, self.by, self.mean, self.deviation).swapaxes(0, 1)
            parts.append(self._logits(steps, np.full(len(part), len(steps))))
        return [np.concatenate(parts)]

    def probabilities(self, pixels: Array) -> Array:
        """Probabilities of all classes, (N, C)."""
        return sure(probabilities(self.opinions(pixels), self.powers))

    def trace(self, pixels: Array) -> Array:
        """Probabilities after each step of one image (H, W, C) of the size that training read."""
        steps = image_steps(pixels[None], self.by, self.mean, self.deviation)[0]  # (T, E)
        parts = []
        for start in range(0, len(steps), BATCH):
            lengths = np.arange(start + 1, min(start + BATCH, len(steps)) + 1)
            read = steps[: lengths[-1], None]
            x = np.ascontiguousarray(
                np.broadcast_to(read, (len(read), len(lengths), read.shape[2]))
            )
            parts.append(self._logits(x, lengths))
        return probabilities([np.concatenate(parts)], self.powers)

    def _logits(self, x: Floats, lengths: Array) -> Array:
        """Of all networks together, (B, C)."""
        return together([network.logits(x, lengths) for network in self.networks])


class TextJudge:
    """Judges texts as training's model does, with calibrated probabilities."""

    def __init__(
        self,
        config: ClassifierConfig,
        lexicon: Lexicon,
        weights: Mapping[str, Array],
        powers: Powers,
        *,
        max_length: int,
        linear: Mapping[str, Array] | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over weights that fit the config; check_weights is the caller's business.

        Args:
            config: The model's shape.
            lexicon: Its words; its table grows and is forgotten now and then.
            weights: By name.
            powers: Of the opinions, from calibration.
            max_length: Words of a text that are read.
            linear: The linear classifier beside it, if there is one.
            announce: Called if code has to be compiled, which takes seconds, once.
        """
        self.lexicon = lexicon
        self.order = config.ngram_order
        self.vectors = [
            Vectors(lexicon, of_member(config, weights, number), buckets=config.table_buckets)
            for number in range(config.members)
        ]
        self.networks = networks_of(config, weights, announce)
        self.linear = dict(linear or {})
        self.powers = powers
        self.max_length = max_length

    def opinions(self, texts: Sequence[str]) -> list[Array]:
        """Logits (N, C) of the recurrent and, if there is one, the linear classifier."""
        self.lexicon.forget()
        rows = self.lexicon.encode(texts)
        for vectors in self.vectors:
            vectors.complete()
        found = [self._recurrent(rows.cut(self.max_length))]
        if self.linear:
            keys = ngram_keys(self.vectors[0].hashes.values, rows, self.order)
            found.append(score(self.linear, *keys, len(texts)))
        return found

    def probabilities(self, texts: Sequence[str]) -> Array:
        """Probabilities of all classes, (N, C)."""
        return sure(probabilities(self.opinions(texts), self.powers))

    def trace(self, text: str) -> tuple[list[str], Array]:
        """Probabilities after each word of a text.

        Returns:
            The words with the space before them, T of them, and (T, C).
        """
        ends = self.lexicon.ends(text)
        if not ends:
            return [], np.empty((0, len(self.networks[0].bias)))
        words = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        return words, self.probabilities([text[:end] for end in ends])

    def _recurrent(self, rows: Texts) -> Array:
        logits = np.empty((len(rows), len(self.networks[0].bias)), np.float32)
        # A text without words is judged as one word that tells nothing.
        lengths = np.maximum(rows.lengths, 1)
        for batch in by_length(lengths, BATCH):
            some, sizes = rows.select(batch), lengths[batch]
            pairs = zip(self.vectors, self.networks, strict=True)
            logits[batch] = together(
                [
                    network.logits(vectors.sequences(some, sizes), sizes)
                    for vectors, network in pairs
                ]
            )
        return logits


def networks_of(
    config: ClassifierConfig, weights: Mapping[str, Floats], announce: Callable[[], None]
) -> list[Network]:
    """All networks of a classifier, one at least; arguments as for ``Network``."""
    return [
        Network(config, of_member(config, weights, number), announce)
        for number in range(config.members)
    ]


def sure(p: Array) -> Array:
    """Probabilities that are numbers.

    Raises:
        CheckpointError: If they are not.
    """
    if not np.isfinite(p).all():
        raise CheckpointError(
            "the model's probabilities are not finite, so its weights are damaged; train it again"
        )
    return p


def weight_shapes(
    config: ClassifierConfig, num_classes: int, *, vocab_size: int = 0, width: int = 0
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight that is trained: what a model file must hold."""
    shapes: dict[str, tuple[int, ...]] = {}
    if vocab_size:
        shapes |= vector_shapes(config, vocab_size)
        width = config.embed_size
    for name in DIRECTIONS:
        for layer in range(config.num_layers):
            below = width if layer == 0 else config.hidden_size
            shapes |= layer_shapes(config, f"{name}.", f"l{layer}", below)
    size = config.hidden_size
    if config.table_order > 1:
        rows = (config.table_order - 1) * config.table_buckets
        shapes["tables.weight"] = (rows, config.embed_size)
    if "attention" in config.pools:
        shapes["attention.weight"] = (size, 2 * size)
        shapes["attention.bias"] = shapes["attention.query"] = (size,)
    shapes["output.weight"] = (num_classes, len(config.pools) * 2 * size)
    shapes["output.bias"] = (num_classes,)
    return of_all_members(config, shapes)


def load_judge(
    path: Path, announce: Callable[[], None] = lambda: None
) -> tuple[TextJudge | ImageJudge, Card]:
    """Read a classifier from its directory.

    Args:
        path: The directory.
        announce: Called if code has to be compiled, which takes seconds, once.

    Raises:
        CheckpointError: As ``checkpoint.load``.
        ConfigError: If the model was trained for another task.
    """
    saved = load(path, "classify")
    check_saved(saved, str(path))
    card = saved.card
    # Without examples held out nothing is known of the opinions: then they count alike.
    opinions, best = _opinions(card), card.extra.get("best") or {}
    alike: Powers = [1 / opinions] * opinions
    if card.data.multi_label:
        alike = [[*alike, 0.0]] * len(card.source["classes"])
    powers = best.get("powers", alike)
    if card.data.tokenizer == "row":
        mean, deviation = card.source["pixel_mean"], card.source["pixel_deviation"]
        image_judge = ImageJudge(
            card.model,
            saved.weights,
            powers,
            by=card.data.by,
            mean=mean,
            deviation=deviation,
            announce=announce,
        )
        return image_judge, card
    lexicon = Lexicon.from_json(
        saved.tokenizer_json, str(path), buckets=card.model.part_buckets, size=card.vocab_size
    )
    linear = load_counts(path) if card.model.ngram_order else None
    if linear is not None:
        check_linear(linear, len(card.source["classes"]), str(path))
    text_judge = TextJudge(
        card.model,
        lexicon,
        saved.weights,
        powers,
        max_length=card.data.max_length,
        linear=linear,
        announce=announce,
    )
    return text_judge, card


def check_saved(saved: Saved, where: str) -> None:
    """See that a model's card is sound, and that its weights are those that it describes.

    Raises:
        CheckpointError: If not.
    """
    card, images = saved.card, saved.card.data.tokenizer == "row"
    of_texts = {"text_columns": each(text), "label_column": optional(text)}
    of_images = {"image_shape": each(whole(1), 3), "pixel_mean": number, "pixel_deviation": number}
    classes = len(check_data(card, of_images if images else of_texts, where))
    opinions = _opinions(card)
    powers = each(number, opinions)
    if card.data.multi_label:
        powers = each(each(number, opinions + 1), classes)
    fitted = {"powers": powers, "thresholds": each(number, classes), "set_scores": each(number)}
    check_fitted(card, fitted, where)
    width = image_width(card)
    expected = weight_shapes(card.model, classes, vocab_size=card.vocab_size, width=width)
    check_weights(saved.weights, expected, where)


def image_width(card: Card) -> int:
    """Values that a classifier of images reads at each step; 0 for one of texts."""
    shape = card.source.get("image_shape")
    return step_width(shape, card.data.by) if shape else 0


def _opinions(card: Card) -> int:
    """How many a classifier has: images have no n-grams."""
    return 2 if card.model.ngram_order and card.data.tokenizer != "row" else 1
