"""What a classifier starts from, if not from chance: vectors of words, or a language model.

A language model lends its tokens, their vectors, what its n-gram tables add to them, and its
recurrent layers, which both directions start from; what it says of the next token is left behind.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.checkpoint import Card, Saved
from seqtool.embeddings import Vectors, read_vectors
from seqtool.lexicon import Lexicon
from seqtool.shapes import check_weights
from seqtool.tokenizer import Tokenizer

if TYPE_CHECKING:
    from seqtool.classifier import Classifier


def with_vectors(
    lexicon: Lexicon, seen: Collection[str], source: str, size: int
) -> tuple[Lexicon, Vectors]:
    """Read vectors, and let the words that have one into the vocabulary.

    Those of the training texts come first, however rare; then others in the order of the file, for
    texts yet to come, until the vocabulary is full.

    Args:
        lexicon: Of the training texts.
        seen: Their different words.
        source: The file of vectors.
        size: Words that a vocabulary may have.

    Raises:
        DataError: As ``read_vectors``.
    """
    room = max(0, size - len(lexicon.ids))
    vectors = read_vectors(source, seen, others=room, lower=lexicon.lower)
    known = {*seen}
    rare = [word for word in seen if word in vectors.rows and word not in lexicon.ids]
    others = [word for word in vectors.rows if word not in known]
    words = [*lexicon.ids, *(rare + others)[:room]]
    grown = Lexicon(lexicon.unit, words, lower=lexicon.lower, buckets=lexicon.buckets)
    return grown, vectors


def place_vectors(model: "Classifier", lexicon: Lexicon, vectors: Vectors) -> None:
    """Give words their vectors, in place; the others stay random, of the same spread."""
    import torch

    from seqtool.classifier import EMBEDDING_STD

    assert model.vectors is not None, "only texts have words"
    places, values = vectors.rows_of([*lexicon.ids])
    with torch.no_grad():
        model.vectors.words.weight.mul_(vectors.deviation / EMBEDDING_STD)
        model.vectors.words.weight[torch.from_numpy(places + 1)] = torch.from_numpy(values)


def shape_of(card: Card) -> dict[str, Any]:
    """What a language model settles about a classifier that starts from it, by setting."""
    model = card.model
    names = ("cell", "nonlinearity", "hidden_size", "num_layers", "embed_size")
    return {name: getattr(model, name) for name in names} | {
        "table_order": model.ngram_order,
        "table_buckets": model.ngram_buckets,
        "tokenizer": card.data.tokenizer,
        "vocab_size": card.data.vocab_size,
        "lower": False,  # it has learned what case means
    }


def lexicon_of(parent: Saved, where: str) -> Lexicon:
    """The tokens of a language model as those of a classifier."""
    return Lexicon.of(Tokenizer.from_json(parent.tokenizer_json, where))


def place_language_model(model: "Classifier", parent: Saved) -> None:
    """Copy what a language model knows into a classifier of its shape, in place.

    Raises:
        CheckpointError: If its weights are not those that its card describes.
    """
    import torch

    vectors = model.vectors
    assert vectors is not None, "a language model reads tokens"
    expected = {"embedding.weight": tuple(vectors.words.weight.shape)}
    layers = dict(model.onward.named_parameters())
    expected |= {f"stack.{name}": tuple(p.shape) for name, p in layers.items()}
    weights = {name: parent.weights[name] for name in expected if name in parent.weights}
    check_weights(weights, expected, "--init-from")

    with torch.no_grad():
        vectors.words.weight.copy_(torch.from_numpy(weights["embedding.weight"]))
        vectors.words.weight[0] = 0  # of the start; here no text has it
        for stack in (model.onward, model.back):
            for name, p in stack.named_parameters():
                p.copy_(torch.from_numpy(weights[f"stack.{name}"]))
        if model.tables is not None:  # left stands what is added to the input
            width = vectors.words.weight.shape[1]
            rows = np.ascontiguousarray(parent.weights["ngrams.weight"][:, :width])
            model.tables.weight.copy_(torch.from_numpy(rows))
