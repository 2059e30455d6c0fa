"""A trained classifier on a CPU without torch: texts in, probabilities out, NumPy only.

The same equations as classifier, from the arrays of a model file. Loading torch takes longer than
judging ten thousand lines. Sequences are computed in order of length and each only as far as it
goes, so nothing is padded; a batch only sets how many are computed side by side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.batches import by_length
from seqtool.calibration import pool
from seqtool.checkpoint import Card, Saved, check_weights, load, load_counts
from seqtool.config import GATES, ClassifierConfig, TaggerConfig
from seqtool.lexicon import Lexicon, Texts
from seqtool.linear import ngram_keys, score

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

DIRECTIONS = ("onward", "back")


def sigmoid(a: Floats) -> Floats:
    """1 / (1 + exp(-a)), in place; NumPy's exp is several times as fast as its tanh."""
    np.negative(np.maximum(a, np.float32(-80), out=a), out=a)
    np.exp(a, out=a)
    a += 1
    return np.reciprocal(a, out=a)


def tanh(a: Floats) -> Floats:
    """2 sigmoid(2a) - 1, in place."""
    a *= 2
    a = sigmoid(a)
    a *= 2
    a -= 1
    return a


class Layer:
    """One recurrent layer in one direction."""

    def __init__(
        self,
        config: ClassifierConfig | TaggerConfig,
        weights: Mapping[str, Floats],
        name: str,
        layer: str,
    ) -> None:
        """Take over the weights of a layer, named as in torch: ``l0``, or ``l0_reverse``."""
        self.kind = config.nonlinearity if config.cell == "rnn" else config.cell
        self.size = config.hidden_size
        self.ih = np.ascontiguousarray(weights[f"{name}.weight_ih_{layer}"].T)  # (E, G*H)
        self.hh = np.ascontiguousarray(weights[f"{name}.weight_hh_{layer}"].T)  # (H, G*H)
        bias_ih, bias_hh = weights[f"{name}.bias_ih_{layer}"], weights[f"{name}.bias_hh_{layer}"]
        self.bias = bias_ih.copy()
        self.bias_hh = np.zeros_like(bias_hh)
        if config.cell == "gru":  # the candidate's recurrent bias stands inside the reset gate
            self.bias_hh[2 * self.size :] = bias_hh[2 * self.size :]
            self.bias[: 2 * self.size] += bias_hh[: 2 * self.size]
        else:
            self.bias += bias_hh

    def run(self, x: Floats, active: Array) -> Floats:
        """Read sequences in step.

        Args:
            x: (T, B, E), the longest sequences first.
            active: How many of them go on to each time, (T,).

        Returns:
            h at every time, (T, B, H), zero after the end of a sequence.
        """
        ux = x @ self.ih + self.bias  # (T, B, G*H)
        h = np.zeros((x.shape[1], self.size), np.float32)
        c = np.zeros_like(h)
        outputs = np.zeros((len(x), x.shape[1], self.size), np.float32)
        for t, count in enumerate(active):
            h, c = self._step(ux[t, :count], h[:count], c[:count])
            outputs[t, :count] = h
        return outputs

    def _step(self, ux: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
        """The equations of cells, on the gates of torch's order."""
        size, wh = self.size, h @ self.hh
        if self.kind == "lstm":
            wh += ux
            i, f, o = (sigmoid(wh[:, k * size : (k + 1) * size]) for k in (0, 1, 3))
            c = f * c + i * tanh(wh[:, 2 * size : 3 * size])
            return o * tanh(c.copy()), c
        if self.kind == "gru":
            gates = sigmoid(ux[:, : 2 * size] + wh[:, : 2 * size])
            r, z = gates[:, :size], gates[:, size:]
            n = tanh(ux[:, 2 * size :] + r * (wh[:, 2 * size :] + self.bias_hh[2 * size :]))
            return n + z * (h - n), c
        wh += ux
        if self.kind == "relu":
            return np.maximum(wh, 0), c
        return (tanh(wh) if self.kind == "tanh" else sigmoid(wh)), c


class Vectors:
    """The vectors of all words in a lexicon's table, worked out as the table grows."""

    def __init__(
        self, lexicon: Lexicon, weights: Mapping[str, Array], *, side_by_side: bool = False
    ) -> None:
        """As classifier's WordVectors, with an empty table."""
        self.lexicon, self.table = lexicon, lexicon.table
        self.words = weights["vectors.words.weight"]
        self.parts = weights.get("vectors.parts")
        self.side_by_side = side_by_side and self.parts is not None
        width = self.words.shape[1] * (2 if self.side_by_side else 1)
        self.known = np.zeros((1, width), np.float32)

    def of_table(self) -> Floats:
        """A row for each word and a zero one at the end, (W + 1, E)."""
        table = self.lexicon.table
        if table is not self.table:  # the one before was forgotten
            self.table, self.known = table, self.known[-1:]
        old = len(self.known) - 1
        if old == len(table.ids):
            return self.known
        new, grams = self.words[np.array(table.ids[old:])], table.grams[old:]
        if self.parts is not None:
            counts = np.array([len(parts) for parts in grams])
            flat = np.array([bucket for parts in grams for bucket in parts])
            mean = np.add.reduceat(self.parts[flat], np.cumsum(counts) - counts) / counts[:, None]
            new = np.concatenate([new, mean], axis=1) if self.side_by_side else new + mean
        zero = self.known[old:]
        self.known = np.concatenate([self.known[:old], new, zero]).astype(np.float32)
        return self.known

    def sequences(self, rows: Texts, lengths: Array) -> Floats:
        """Some rows of words as sequences of vectors, (B, T, E), zero behind their ends.

        Args:
            rows: B rows; ``of_table`` was called since they were encoded.
            lengths: Of the sequences, (B,), at least those of the rows.
        """
        places = np.full((len(rows), lengths.max()), len(self.known) - 1)
        places[np.arange(places.shape[1]) < rows.lengths[:, None]] = rows.words
        return self.known[places]


def places(lengths: Array, steps: int) -> tuple[Array, Array, Array]:
    """Where sequences of different lengths are at each time.

    Args:
        lengths: (B,), falling.
        steps: T, the largest.

    Returns:
        Whether time t is within a sequence, (T, B); how many sequences go on to it, (T,); and which
        time is read in its place from the end, (T, B), itself behind the end.
    """
    times = np.arange(steps)[:, None]
    inside = times < lengths
    return inside, inside.sum(axis=1), np.where(inside, lengths - 1 - times, times)


class Network:
    """The recurrent opinion: sequences of numbers in, logits out."""

    def __init__(self, config: ClassifierConfig, weights: Mapping[str, Floats]) -> None:
        self.layers = [
            [Layer(config, weights, name, f"l{layer}") for name in DIRECTIONS]
            for layer in range(config.num_layers)
        ]
        self.stacks = list(zip(*self.layers, strict=True))
        self.weight, self.bias = weights["output.weight"], weights["output.bias"]

    def logits(self, x: Floats, lengths: Array) -> Floats:
        """Judge sequences side by side.

        Args:
            x: (B, T, E), the longest sequences first; what stands after an end is not read.
            lengths: (B,), falling, each at least 1.

        Returns:
            (B, C).
        """
        count = len(x)
        inside, active, turned = places(lengths, x.shape[1])
        onward = x.transpose(1, 0, 2)
        back = onward[turned, np.arange(count)]
        pooled, ends = [], []
        for stack, h in zip(self.stacks, (onward, back), strict=True):
            for layer in stack:
                h = layer.run(h, active)
            ends.append(h[lengths - 1, np.arange(count)])
            mean = h.sum(axis=0) / lengths[:, None].astype(np.float32)
            h[~inside] = -np.inf
            pooled.append((h.max(axis=0), mean))
        parts = [*(highest for highest, _ in pooled), *(mean for _, mean in pooled), *ends]
        result: Floats = np.concatenate(parts, axis=1) @ self.weight.T + self.bias
        return result


def standardised(pixels: Array, mean: float, deviation: float) -> Floats:
    """Images (N, H, W, C) as sequences of rows of pixels, (N, H, W*C), of mean 0 and variance 1."""
    rows = pixels.reshape(*pixels.shape[:2], -1).astype(np.float32)
    return (rows - np.float32(mean)) / np.float32(deviation)


class ImageJudge:
    """Judges images as training's model does, with calibrated probabilities."""

    def __init__(
        self,
        config: ClassifierConfig,
        weights: Mapping[str, Array],
        powers: Sequence[float],
        *,
        mean: float,
        deviation: float,
        batch_size: int = 64,
    ) -> None:
        """Take over weights that fit the config; check_weights is the caller's business.

        Args:
            config: The model's shape.
            weights: By name.
            powers: Of the one opinion, from calibration.
            mean: Of the pixels that training read.
            deviation: Of the same.
            batch_size: Images computed side by side.
        """
        self.network = Network(config, weights)
        self.powers, self.mean, self.deviation = powers, mean, deviation
        self.batch_size = batch_size

    def opinions(self, pixels: Array) -> list[Array]:
        """Logits (N, C) of images (N, H, W, C), brought to the size that training read."""
        parts = [
            self.network.logits(
                standardised(part, self.mean, self.deviation), np.full(len(part), part.shape[1])
            )
            for start in range(0, len(pixels), self.batch_size)
            if len(part := pixels[start : start + self.batch_size])
        ]
        return [np.concatenate(parts)]

    def probabilities(self, pixels: Array) -> Array:
        """Probabilities of all classes, (N, C)."""
        return pool(self.opinions(pixels), self.powers)


class TextJudge:
    """Judges texts as training's model does, with calibrated probabilities."""

    def __init__(
        self,
        config: ClassifierConfig,
        lexicon: Lexicon,
        weights: Mapping[str, Array],
        powers: Sequence[float],
        *,
        max_length: int,
        linear: Mapping[str, Array] | None = None,
        batch_size: int = 64,
    ) -> None:
        """Take over weights that fit the config; check_weights is the caller's business.

        Args:
            config: The model's shape.
            lexicon: Its words; its table grows and is forgotten now and then.
            weights: By name.
            powers: Of the opinions, from calibration.
            max_length: Words of a text that are read.
            linear: The linear classifier beside it, if there is one.
            batch_size: Texts computed side by side.
        """
        self.lexicon = lexicon
        self.order = config.ngram_order
        self.vectors = Vectors(lexicon, weights)
        self.network = Network(config, weights)
        self.linear = dict(linear or {})
        self.powers = powers
        self.max_length = max_length
        self.batch_size = batch_size

    def opinions(self, texts: Sequence[str]) -> list[Array]:
        """Logits (N, C) of the recurrent and, if there is one, the linear classifier."""
        self.lexicon.forget()
        rows = self.lexicon.encode(texts)
        self.vectors.of_table()
        found = [self._recurrent(rows.cut(self.max_length))]
        if self.linear:
            hashes = np.array(self.lexicon.table.hashes)
            keys = ngram_keys(hashes, rows, self.order)
            found.append(score(self.linear, *keys, len(texts)))
        return found

    def probabilities(self, texts: Sequence[str]) -> Array:
        """Probabilities of all classes, (N, C)."""
        return pool(self.opinions(texts), self.powers)

    def _recurrent(self, rows: Texts) -> Array:
        logits = np.empty((len(rows), len(self.network.bias)), np.float32)
        # A text without words is judged as one word that tells nothing.
        lengths = np.maximum(rows.lengths, 1)
        for batch in by_length(lengths, self.batch_size):
            x = self.vectors.sequences(rows.select(batch), lengths[batch])
            logits[batch] = self.network.logits(x, lengths[batch])
        return logits


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
    shapes["output.weight"] = (num_classes, 6 * config.hidden_size)
    shapes["output.bias"] = (num_classes,)
    return shapes


def vector_shapes(
    config: ClassifierConfig | TaggerConfig, vocab_size: int
) -> dict[str, tuple[int, ...]]:
    """The name and shape of the tables of word vectors."""
    shapes: dict[str, tuple[int, ...]] = {
        "vectors.words.weight": (vocab_size, config.embed_size),
    }
    if config.part_buckets:
        shapes["vectors.parts"] = (config.part_buckets, config.embed_size)
    return shapes


def layer_shapes(
    config: ClassifierConfig | TaggerConfig, stack: str, layer: str, width: int
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight of a layer that reads vectors of a width."""
    rows = GATES[config.cell] * config.hidden_size
    return {
        f"{stack}weight_ih_{layer}": (rows, width),
        f"{stack}weight_hh_{layer}": (rows, config.hidden_size),
        f"{stack}bias_ih_{layer}": (rows,),
        f"{stack}bias_hh_{layer}": (rows,),
    }


def load_judge(path: Path, batch_size: int = 64) -> tuple[TextJudge | ImageJudge, Card]:
    """Read a classifier from its directory.

    Raises:
        CheckpointError: As ``checkpoint.load``.
        ConfigError: If the model was trained for another task.
    """
    saved = load(path, "classify")
    check_saved(saved, str(path))
    card = saved.card
    opinions = 2 if card.model.ngram_order else 1
    # Without examples held out nothing is known of the opinions: then they count alike.
    powers = card.extra["best"].get("powers", [1 / opinions] * opinions)
    if card.data.tokenizer == "row":
        mean, deviation = card.source["pixel_mean"], card.source["pixel_deviation"]
        image_judge = ImageJudge(
            card.model,
            saved.weights,
            powers,
            mean=mean,
            deviation=deviation,
            batch_size=batch_size,
        )
        return image_judge, card
    buckets = card.model.part_buckets
    lexicon = Lexicon.from_json(saved.tokenizer_json, str(path), buckets=buckets)
    text_judge = TextJudge(
        card.model,
        lexicon,
        saved.weights,
        powers,
        max_length=card.data.max_length,
        linear=load_counts(path) if card.model.ngram_order else None,
        batch_size=batch_size,
    )
    return text_judge, card


def check_saved(saved: Saved, where: str) -> None:
    """See that a model's weights are those that its card describes.

    Raises:
        CheckpointError: If not.
    """
    card, classes = saved.card, len(saved.card.source["classes"])
    _, width, channels = card.source.get("image_shape", (0, 0, 0))
    expected = weight_shapes(
        card.model, classes, vocab_size=card.vocab_size, width=width * channels
    )
    check_weights(saved.weights, expected, where)
