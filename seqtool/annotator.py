"""A trained tagger on a CPU without torch: sentences in, a label for each word out.

What tagger computes, from the arrays of a model file, by the compiled loops of layers. A batch only
sets how many sentences are computed side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from seqtool.batches import by_length
from seqtool.checkpoint import Card, Saved, load
from seqtool.claims import check_data, check_fitted, number, whole
from seqtool.config import TaggerConfig
from seqtool.judge import Floats, Vectors, linear_map
from seqtool.lexicon import TokenLexicon
from seqtool.shapes import check_weights, layer_shapes, vector_shapes
from seqtool.spans import Scheme
from seqtool.team import Team
from seqtool.viterbi import best_labels, marginals, neighbours

Array = npt.NDArray[Any]

SUFFIXES = ("", "_reverse")  # of a layer's weights in each direction, as in torch


class Annotated(NamedTuple):
    """What is said of one sentence."""

    labels: list[str]  # (T,)
    chances: Array  # the probability of each label, (T,); none if they were not wanted


class Annotator:
    """Labels sentences as training's model does."""

    def __init__(
        self,
        config: TaggerConfig,
        lexicon: TokenLexicon,
        weights: Mapping[str, Array],
        labels: Sequence[str],
        *,
        scheme: Scheme,
        power: float = 1.0,
        batch_size: int = 64,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over weights that fit the config; check_weights is the caller's business.

        Args:
            config: The model's shape.
            lexicon: Its words; its table grows and is forgotten now and then.
            weights: By name.
            labels: C names.
            scheme: Of spans, which says what may follow what.
            power: That probabilities are raised to, from calibration.
            batch_size: Sentences computed side by side.
            announce: Called if code has to be compiled, which takes seconds, once.
        """
        from seqtool.compiled import announced  # these load numba
        from seqtool.layers import Layer

        self.lexicon = lexicon
        self.labels = list(labels)
        self.vectors = Vectors(lexicon, weights, side_by_side=True)
        with announced(announce):
            self.layers = [
                [
                    Layer(config, weights, "stack", f"l{layer}{suffix}", backward=suffix != "")
                    for suffix in SUFFIXES
                ]
                for layer in range(config.num_layers)
            ]
        self._team = Team()
        self.weight, self.bias = weights["output.weight"], weights["output.bias"]
        self.scores = neighbours(labels, scheme, weights if config.crf else None)
        self.power = power
        self.batch_size = batch_size

    def annotate(
        self, sentences: Sequence[Sequence[str]], *, chances: bool = False
    ) -> list[Annotated]:
        """Label sentences, each at least one word long, with probabilities if they are wanted."""
        found: list[Any] = [None] * len(sentences)
        for rows, emissions, lengths in self.emissions(sentences):
            paths = best_labels(emissions, lengths, self.scores)
            p = self._chances(paths, emissions, lengths) if chances else paths[:, :0]
            for row, path, known, length in zip(rows, paths, p, lengths, strict=True):
                labels = [self.labels[label] for label in path[:length]]
                found[row] = Annotated(labels, known[:length])
        return found

    def beliefs(self, sentences: Sequence[Sequence[str]]) -> list[tuple[list[str], Array]]:
        """The labels given to each sentence, and how probable all are at each word, (T, C)."""
        found: list[Any] = [None] * len(sentences)
        for rows, emissions, lengths in self.emissions(sentences):
            paths = best_labels(emissions, lengths, self.scores)
            p = self._calibrated(emissions, lengths)
            for row, path, known, length in zip(rows, paths, p, lengths, strict=True):
                labels = [self.labels[label] for label in path[:length]]
                found[row] = labels, known[:length]
        return found

    def _calibrated(self, emissions: Floats, lengths: Array) -> Array:
        """The probability of every label at every word, (B, T, C)."""
        p = marginals(emissions, lengths, self.scores) ** self.power
        return np.asarray(p / p.sum(axis=2, keepdims=True))

    def _chances(self, paths: Array, emissions: Floats, lengths: Array) -> Array:
        """The calibrated probability of each label of some paths, (B, T)."""
        p = self._calibrated(emissions, lengths)
        return np.asarray(np.take_along_axis(p, paths[:, :, None], axis=2)[:, :, 0])

    def emissions(self, sentences: Sequence[Sequence[str]]) -> list[tuple[Array, Floats, Array]]:
        """Scores of the labels at each word, batch by batch.

        Returns:
            For each batch which sentences are in it, (B,); their scores, (B, T, C), where those
            behind the end of a sentence mean nothing; and their lengths, (B,).
        """
        self.lexicon.forget()
        texts = self.lexicon.encode_words(sentences)
        self.vectors.complete()
        found = []
        for rows in by_length(texts.lengths, self.batch_size) if sentences else ():
            lengths = texts.lengths[rows]
            x = self.vectors.sequences(texts.select(rows), lengths)
            found.append((rows, self._read(x, lengths), lengths))
        return found

    def _read(self, x: Floats, lengths: Array) -> Floats:
        h = x  # (T, B, E)
        for onward, back in self.layers:
            ahead = onward.run(h, lengths, self._team)[1:]
            behind = back.run(h, lengths, self._team)[:-1]
            h = np.concatenate([ahead, behind], axis=2)  # (T, B, 2H)
        return linear_map(h, self.weight, self.bias).transpose(1, 0, 2)


def weight_shapes(
    config: TaggerConfig, num_labels: int, vocab_size: int
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight that is trained: what a model file must hold."""
    shapes = vector_shapes(config, vocab_size)
    width = config.embed_size * (2 if config.part_buckets else 1)
    for layer in range(config.num_layers):
        for suffix in SUFFIXES:
            shapes |= layer_shapes(config, "stack.", f"l{layer}{suffix}", width)
        width = 2 * config.hidden_size
    shapes["output.weight"] = (num_labels, width)
    shapes["output.bias"] = (num_labels,)
    if config.crf:
        shapes["chain.after"] = (num_labels, num_labels)
        shapes["chain.first"] = shapes["chain.last"] = (num_labels,)
    return shapes


def load_annotator(
    path: Path, batch_size: int = 64, announce: Callable[[], None] = lambda: None
) -> tuple[Annotator, Card]:
    """Read a tagger from its directory.

    Args:
        path: The directory.
        batch_size: Sentences computed side by side.
        announce: Called if code has to be compiled, which takes seconds, once.

    Raises:
        CheckpointError: As ``checkpoint.load``.
        ConfigError: If the model was trained for another task.
    """
    saved = load(path, "tag")
    check_saved(saved, str(path))
    card = saved.card
    lexicon = TokenLexicon.from_json(
        saved.tokenizer_json, str(path), buckets=card.model.part_buckets, size=card.vocab_size
    )
    annotator = Annotator(
        card.model,
        lexicon,
        saved.weights,
        card.source["classes"],
        scheme=card.source["scheme"],
        power=(card.extra.get("best") or {}).get("power", 1.0),
        batch_size=batch_size,
        announce=announce,
    )
    return annotator, card


def check_saved(saved: Saved, where: str) -> None:
    """See that a model's card is sound, and that its weights are those that it describes.

    Raises:
        CheckpointError: If not.
    """
    card = saved.card
    needed = {
        "scheme": get_args(Scheme).__contains__,
        "conllu": lambda value: isinstance(value, bool),
        "token_column": whole(1),
        "label_column": whole(1),
    }
    classes = check_data(card, needed, where)
    check_fitted(card, {"power": number}, where)
    expected = weight_shapes(card.model, len(classes), card.vocab_size)
    check_weights(saved.weights, expected, where)
