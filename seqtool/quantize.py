"""Weights as the compiled engine wants them: padded, one after the other, float32 or int8."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqtool.config import GATES, ModelConfig, Precision
from seqtool.network import Network
from seqtool.pointwise import kind_of
from seqtool.products import ROWS, Matrices
from seqtool.tiles import COLUMNS

Floats = np.ndarray[Any, np.dtype[np.float32]]

PADDING = ROWS  # widths and units are multiples of it, so that matrices have whole blocks
LARGEST = 127  # int8 is used evenly, without -128


def padded(size: int) -> int:
    """The next multiple of the padding."""
    return -(-size // PADDING) * PADDING


def quantize(rows: Floats) -> tuple[np.ndarray[Any, Any], Floats]:
    """Round each row (K,) of a matrix to whole numbers from -127 to 127.

    Args:
        rows: (R, K) float32, finite.

    Returns:
        The numbers, (R, K) int8, and what each row is to be multiplied by, (R,) float32.
    """
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    scales = np.where(peaks > 0, peaks / LARGEST, 1).astype(np.float32)
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


def build_network(
    config: ModelConfig, vocab_size: int, weights: Mapping[str, Floats], precision: Precision
) -> Network:
    """Lay out the weights of a language model.

    Args:
        config: Its shape; units must not be stochastic.
        vocab_size: V.
        weights: By name, as in a model file; they must fit the config.
        precision: Of all matrices but embedding and n-gram tables, of which only rows are read.
    """
    gates, hidden = [config.hidden_size] * GATES[config.cell], [config.hidden_size]
    pairs = []  # each matrix with its bias
    for layer in range(config.num_layers):
        width = config.hidden_size if layer else config.embed_size
        pairs += layer_pairs(weights, "stack", f"l{layer}", gates, [width])
    output = weights["embedding.weight" if config.tied else "output.weight"]
    pairs.append(
        (spread(output, [vocab_size], hidden), spread(weights["output.bias"], [vocab_size]))
    )
    tables = weights.get("ngrams.weight", np.zeros((0, config.embed_size), np.float32))
    return Network(
        join(pairs, precision),
        contiguous(weights["embedding.weight"]),
        contiguous(tables),
        kind_of(config.cell, config.nonlinearity),
        len(gates),
        config.num_layers,
        padded(config.hidden_size),
        config.ngram_order - 1,
        config.ngram_buckets,
    )


def contiguous(array: Floats) -> Floats:
    """The array as the loops can read it: float32, in one piece."""
    return np.require(array, np.float32, ["C", "W"])


def layer_pairs(
    weights: Mapping[str, Floats],
    stack: str,
    layer: str,
    gates: Sequence[int],
    inputs: Sequence[int],
) -> list[tuple[Floats, Floats]]:
    """The input and the recurrent matrix of one layer, each with its bias.

    Args:
        weights: By name.
        stack: Name of the stack.
        layer: The end of the names, such as "l0".
        gates: Hidden units, once for each gate.
        inputs: Sizes of what is read, one after the other.
    """
    return [
        (
            spread(weights[f"{stack}.weight_{part}_{layer}"], gates, columns),
            spread(weights[f"{stack}.bias_{part}_{layer}"], gates),
        )
        for part, columns in (("ih", inputs), ("hh", gates[:1]))
    ]


def spread(array: Floats, *axes: Sequence[int]) -> Floats:
    """The array with zeros after each piece of each axis, so that every piece is padded.

    Args:
        array: One axis or more.
        axes: For each the sizes of its pieces.
    """
    places = []
    for pieces in axes:
        ends = np.cumsum([padded(size) for size in pieces])
        starts = ends - [padded(size) for size in pieces]
        places.append(
            np.concatenate([first + np.arange(n) for first, n in zip(starts, pieces, strict=True)])
        )
    shape = [sum(padded(size) for size in pieces) for pieces in axes]
    grown = np.zeros(shape, np.float32)
    grown[np.ix_(*places)] = array
    return grown


def join(pairs: Sequence[tuple[Floats, Floats]], precision: Precision) -> Matrices:
    """All matrices (R, K) and biases (R,) in one array each."""
    layout, weight, row = [], 0, 0
    for matrix, _ in pairs:
        layout.append((weight, row, matrix.shape[1]))
        weight, row = weight + matrix.size, row + len(matrix)
    exact = precision == "float32"
    joined = _aligned(weight, np.float32 if exact else np.int8)
    scales = np.ones(row, np.float32)
    for (matrix, _), (first, place, _) in zip(pairs, layout, strict=True):
        rows, together = COLUMNS, 1
        if not exact:
            rows, together = ROWS, 2
            matrix, scales[place : place + len(matrix)] = quantize(matrix)
        blocks = matrix.reshape(-1, rows, matrix.shape[1] // together, together).swapaxes(1, 2)
        joined[first : first + matrix.size] = blocks.ravel()
    biases = np.concatenate([bias for _, bias in pairs])
    code = np.empty(0, np.float32 if exact else np.int16)
    return Matrices(joined, scales, biases, np.array(layout, np.int64), code)


def _aligned(size: int, dtype: Any) -> np.ndarray[Any, Any]:
    """Zeros that begin where a line of the cache begins: vectors then never lie across two."""
    line = 64
    room = np.zeros(size * np.dtype(dtype).itemsize + line, np.uint8)
    first = -room.ctypes.data % line
    return room[first : first + size * np.dtype(dtype).itemsize].view(dtype)
