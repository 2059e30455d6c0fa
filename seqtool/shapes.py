"""The names and shapes of weights: what a model file must hold, and whether it does."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from seqtool.config import GATES, ClassifierConfig, ModelConfig, TaggerConfig, TranslatorConfig
from seqtool.errors import CheckpointError
from seqtool.places import CONFIG, COPY_AGAIN, listed
from seqtool.tensorfile import Tensors

Recurrent = ModelConfig | ClassifierConfig | TaggerConfig | TranslatorConfig
Averaged = ClassifierConfig | TranslatorConfig  # may be several networks
Shapes = dict[str, tuple[int, ...]]
ValueT = TypeVar("ValueT")

MOST_WEIGHT = 1e30  # training gives up long before; sums of such numbers are still finite


def layer_shapes(config: Recurrent, stack: str, layer: str, width: int) -> Shapes:
    """Every weight of a layer that reads vectors of a width.

    Args:
        config: Its cell and its size.
        stack: What the names begin with.
        layer: ``l0``, ``l1`` or, as in torch, ``l0_reverse``.
        width: E.
    """
    rows = GATES[config.cell] * config.hidden_size
    return {
        f"{stack}weight_ih_{layer}": (rows, width),
        f"{stack}weight_hh_{layer}": (rows, config.hidden_size),
        f"{stack}bias_ih_{layer}": (rows,),
        f"{stack}bias_hh_{layer}": (rows,),
    }


def vector_shapes(config: ClassifierConfig | TaggerConfig, vocab_size: int) -> Shapes:
    """The tables of word vectors."""
    shapes: Shapes = {"vectors.words.weight": (vocab_size, config.embed_size)}
    if config.part_buckets:
        shapes["vectors.parts"] = (config.part_buckets, config.embed_size)
    return shapes


def member_prefix(config: Averaged, number: int) -> str:
    """What the names of a network's weights begin with; a network that is alone needs no number."""
    return f"{number}." if config.members > 1 else ""


def of_member(config: Averaged, weights: Mapping[str, ValueT], number: int) -> dict[str, ValueT]:
    """What belongs to one of a model's networks, counted from 0, by names without number."""
    prefix = member_prefix(config, number)
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def of_all_members(config: Averaged, shapes: Shapes) -> Shapes:
    """Every weight of all networks, given those of one."""
    prefixes = [member_prefix(config, number) for number in range(config.members)]
    return {prefix + name: shape for prefix in prefixes for name, shape in shapes.items()}


def language_shapes(config: ModelConfig, vocab_size: int) -> Shapes:
    """Every weight of a language model."""
    shapes: Shapes = {"embedding.weight": (vocab_size, config.embed_size)}
    for layer in range(config.num_layers):
        width = config.embed_size if layer == 0 else config.hidden_size
        shapes |= layer_shapes(config, "stack.", f"l{layer}", width)
    if config.ngram_order > 1:
        buckets = (config.ngram_order - 1) * config.ngram_buckets
        width = config.embed_size + config.ngram_logits(vocab_size) * vocab_size
        shapes["ngrams.weight"] = (buckets, width)
    if not config.tied:
        shapes["output.weight"] = (vocab_size, config.hidden_size)
    shapes["output.bias"] = (vocab_size,)
    return shapes


def check_weights(weights: Tensors, expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compare names and shapes with those of the model that the card describes.

    Raises:
        CheckpointError: Naming what is missing, unexpected, of another shape or no finite numbers.
    """
    found = {name: array.shape for name, array in weights.items()}
    faults = [
        f"{name} has shape {found.get(name, 'none')}, needed {expected.get(name, 'none')}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if faults:
        raise CheckpointError(f"{where}: not as in {CONFIG}: {listed(faults)}; {COPY_AGAIN}")
    for name, array in weights.items():
        if array.dtype != np.float32:
            raise CheckpointError(f"{where}: {name} is of {array.dtype}, needed float32")
        largest = np.abs(array).max(initial=0)
        if not largest < MOST_WEIGHT:  # nor if it is nan
            raise CheckpointError(
                f"{where}: {name} is not finite or absurd ({largest}), so answers would mean "
                "nothing; train again, with a lower --lr or --clip-norm 0.25"
            )
