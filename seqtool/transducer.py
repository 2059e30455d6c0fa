"""What the translator's compiled loops see of a model and of its sources, and what all of them do.

The equations are those of encdec. Every sum is added in an order that no neighbour changes, see
products.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from seqtool.compiled import inlined
from seqtool.products import Matrices, tanh
from seqtool.vectors import LANES, load, store

Array = np.ndarray[Any, Any]

NONE, DOT, ADDITIVE = range(3)  # kinds of attention
GROUP = 4  # positions of a source are compared four at a time; memories are padded to that
EPSILON = 1e-5  # of layer normalisation, as torch has it


class Places(NamedTuple):
    """Numbers of the matrices; -1 for what a model does not have. The encoder's are the first.

    Attributes:
        bridge: From the source's summary to the decoder's first state.
        value: From memory to what is attended to.
        key: From memory to what queries are compared with.
        ask: From a query to what is compared with keys, additive only.
        query: Input of the decoder's first layer, its recurrent matrix next.
        reader: The same of the layers after attention, one after the other.
        deep: From state, context and query to what the output layer reads.
        output: To the vocabulary.
    """

    bridge: int
    value: int
    key: int
    ask: int
    query: int
    reader: int
    deep: int
    output: int


class Transducer(NamedTuple):
    """An encoder-decoder as the loops see it; widths are padded, see quantize.

    Attributes:
        matrices: All of its matrices.
        places: Which is which.
        source: Embedding of source tokens, (V_s, E) float32.
        target: Embedding of target tokens, (V, E) float32.
        memory_norm: Scale and shift of the memory, (2, 2H padded), or (2, 0) without.
        deep_norm: Of what the output layer reads, (2, E padded), or (2, 0) without.
        score: What additive attention multiplies tanh with, (H padded,), or (0,).
        kind: Of the cell, see recurrence.
        gates: Blocks of rows in a layer's matrices.
        layers: Of the encoder, and of the decoder after attention, L.
        hidden: H.
        units: H padded.
        width: E padded.
        attention: NONE, DOT or ADDITIVE.
        feeding: Whether the decoder also reads what it last said from.
    """

    matrices: Matrices
    places: Places
    source: Array
    target: Array
    memory_norm: Array
    deep_norm: Array
    score: Array
    kind: int
    gates: int
    layers: int
    hidden: int
    units: int
    width: int
    attention: int
    feeding: bool


class Memory(NamedTuple):
    """What N sources have become.

    Attributes:
        keys: (P, H padded) float32; of each source its positions, then zeros up to a group.
        values: The same.
        places: Where each source begins in them, (N,) int64.
        lengths: Positions of each source, (N,) int64.
    """

    keys: Array
    values: Array
    places: Array
    lengths: Array


@inlined
def normalise(x: Array, first: int, pieces: int, size: int, padded: int, norm: Array) -> None:
    """Layer normalisation (Ba et al. 2016) of ``pieces`` times ``size`` numbers, in place."""
    count = pieces * size
    total = 0.0
    for piece in range(pieces):
        for j in range(first + piece * padded, first + piece * padded + size):
            total += float(x[j])
    mean, total = total / count, 0.0
    for piece in range(pieces):
        for j in range(first + piece * padded, first + piece * padded + size):
            total += (float(x[j]) - mean) ** 2
    factor = 1 / math.sqrt(total / count + EPSILON)
    for piece in range(pieces):
        for j in range(piece * padded, piece * padded + size):
            value = (float(x[first + j]) - mean) * factor
            x[first + j] = np.float32(value) * norm[0, j] + norm[1, j]


@inlined
def copy(values: Array, first: int, size: int, out: Array, there: int) -> None:
    """Put ``size`` floats, a multiple of LANES, into another array."""
    for k in range(0, size, LANES):
        store(out, there + k, load(values, first + k))


@inlined
def apply_tanh(x: Array, first: int, size: int) -> None:
    """tanh of ``size`` floats, a multiple of LANES, in place."""
    for k in range(first, first + size, LANES):
        store(x, k, tanh(load(x, k)))
