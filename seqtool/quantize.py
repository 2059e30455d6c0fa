"""Weights as the compiled engine wants them: padded, one after the other, float32 or int8."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqtool.config import GATES, ModelConfig, Precision
from seqtool.products import ROWS, Matrices
from seqtool.recurrence import GRU, LSTM, RELU, SIGMOID, TANH, Network

Floats = np.ndarray[Any, np.dtype[np.float32]]

PADDING = 16  # widths and units are multiples of it: the words of a vector
LARGEST = 127  # int8 is used evenly, without -128
KINDS = {"tanh": TANH, "relu": RELU, "sigmoid": SIGMOID}


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
    gates, units = GATES[config.cell], padded(config.hidden_size)
    pairs = []  # each matrix, (R, K), padded, with its bias
    for layer in range(config.num_layers):
        for part in ("ih", "hh"):
            weight = weights[f"stack.weight_{part}_l{layer}"]
            matrix = weight.reshape(gates, config.hidden_size, -1)
            bias = weights[f"stack.bias_{part}_l{layer}"].reshape(gates, -1)
            grown = _grow(matrix, (gates, units, padded(matrix.shape[2])))
            pairs.append((grown.reshape(gates * units, -1), _grow(bias, (gates, units)).ravel()))
    output = weights["embedding.weight" if config.tied else "output.weight"]
    rows = padded(vocab_size)
    pairs.append((_grow(output, (rows, units)), _grow(weights["output.bias"], (rows,))))
    kind = {"lstm": LSTM, "gru": GRU}.get(config.cell) or KINDS[config.nonlinearity]
    embedding = np.require(weights["embedding.weight"], np.float32, ["C", "W"])
    tables = weights.get("ngrams.weight", np.zeros((0, config.embed_size), np.float32))
    return Network(
        _join(pairs, precision),
        embedding,
        np.require(tables, np.float32, ["C", "W"]),
        kind,
        gates,
        config.num_layers,
        units,
        config.ngram_order - 1,
        config.ngram_buckets,
    )


def _grow(array: Floats, shape: tuple[int, ...]) -> Floats:
    """The array with zeros after the ends of its axes."""
    grown = np.zeros(shape, np.float32)
    grown[tuple(slice(size) for size in array.shape)] = array
    return grown


def _join(pairs: Sequence[tuple[Floats, Floats]], precision: Precision) -> Matrices:
    """All matrices (R, K) and biases (R,) in one array each."""
    layout, weight, row = [], 0, 0
    for matrix, _ in pairs:
        layout.append((weight, row, matrix.shape[1]))
        weight, row = weight + matrix.size, row + len(matrix)
    exact = precision == "float32"
    lanes = 8 if exact else 16
    joined = _aligned(weight, np.float32 if exact else np.int8)
    scales = np.ones(row, np.float32)
    for (matrix, _), (first, place, _) in zip(pairs, layout, strict=True):
        if not exact:
            matrix, scales[place : place + len(matrix)] = quantize(matrix)
        blocks = matrix.reshape(-1, ROWS, matrix.shape[1] // lanes, lanes).swapaxes(1, 2)
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
