"""A language model as the compiled loops see it, and the pieces that they are made of.

Looking up what a token is, one time step of a layer's units, and how threads that share the units
meet. The equations and their sources are in cells.
"""

from typing import Any, NamedTuple

import numpy as np

from seqtool.compiled import inlined, spliced
from seqtool.hashing import BASE, PRIME, SPREAD
from seqtool.pointwise import GRU, LSTM, RELU, TANH
from seqtool.products import ROWS, Matrices, sigmoid, tanh
from seqtool.tiles import COLUMNS
from seqtool.vectors import (
    LANES,
    add_atomic,
    is_quantized,
    larger,
    load,
    load_atomic,
    splat,
    stay_apart,
    store,
    yield_core,
)

Array = np.ndarray[Any, Any]

PATIENCE = 4000  # looks at a counter before the core is offered to others, some microseconds
NOUGHT, ONE = np.float32(0), np.float32(1)


class Network(NamedTuple):
    """A language model as the loops see it; widths are padded, see quantize.

    Attributes:
        matrices: Of each layer its input and its recurrent matrix, last the output matrix.
        embedding: (V, E) float32.
        tables: Of n-grams, (R, E) or (R, E + V) float32; (0, 0) if there are none.
        kind: Of the cell: TANH, RELU, SIGMOID, LSTM or GRU.
        gates: Blocks of ``units`` rows in a layer's matrices.
        layers: Number of layers, L.
        units: Hidden units, padded, H.
        context: Earlier tokens that the tables look back on, K; 0 without tables.
        buckets: Rows of each table.
    """

    matrices: Matrices
    embedding: Array
    tables: Array
    kind: int
    gates: int
    layers: int
    units: int
    context: int
    buckets: int


@inlined
def meet(counter: Array, threads: int) -> None:
    """Wait until all threads are here; what each wrote before is then seen by all."""
    if threads == 1:
        return
    arrived: int = add_atomic(counter, 1)
    everyone = (arrived // threads + 1) * threads
    looks = 0
    while load_atomic(counter) < everyone:
        looks += 1
        if looks > PATIENCE:  # another program has the core that we wait for
            yield_core()


@spliced
def share(network: Network, size: int, thread: int, threads: int) -> tuple[int, int]:
    """First unit or row of a thread, and the one to stop before, as ``multiply`` wants them."""
    together = ROWS if is_quantized(network.matrices.code) else COLUMNS
    blocks = (size + together - 1) // together
    return blocks * thread // threads * together, blocks * (thread + 1) // threads * together


@spliced
def look_up(
    network: Network, past: Array, now: int, x: Array, first: int, rows: Array, first_row: int
) -> None:
    """The input of the first layer for one token, and the rows of its n-grams; all arrays flat.

    Args:
        network: With embedding and tables.
        past: Ids.
        now: Where among them the token stands; the ``context`` before it are those of its text.
        x: float32; the input is put into it from ``first`` on.
        first: See there.
        rows: int64; ``context`` rows of the tables are put into it (hashing.hash_rows).
        first_row: From here on.
    """
    token = past[now]
    size = network.embedding.shape[1]
    for j in range(size):
        x[first + j] = network.embedding[token, j]
    key = token
    for back in range(network.context):
        key = (key * BASE + past[now - 1 - back] * SPREAD + (back + 1)) % PRIME
        row = key % network.buckets + back * network.buckets
        rows[first_row + back] = row
        for j in range(size):
            x[first + j] += network.tables[row, j]


@spliced
def add_table_logits(
    network: Network,
    rows: Array,
    first_row: int,
    count: int,
    logits: Array,
    stride: int,
    begin: int,
    end: int,
) -> None:
    """Add what n-grams say to the logits of some texts, from ``begin`` to before ``end`` of each.

    Args:
        network: With tables.
        rows: Flat, from ``look_up``.
        first_row: Where the rows of the first text begin.
        count: Texts.
        logits: Flat float32.
        stride: Between the logits of two texts.
        begin: See there.
        end: See there.
    """
    inputs, vocab_size = network.embedding.shape[1], network.embedding.shape[0]
    if network.tables.shape[1] == inputs:
        return
    for i in range(count * network.context):
        row, text = rows[first_row + i], i // network.context * stride
        for j in range(begin, min(end, vocab_size)):
            logits[text + j] += network.tables[row, inputs + j]


@inlined
def advance(
    kind: int,
    units: int,
    begin: int,
    end: int,
    ux: Array,
    x_place: int,
    wh: Array,
    h_place: int,
    h: Array,
    before: int,
    c: Array,
    c_before: int,
    new_h: Array,
    after: int,
    c_after: int,
) -> None:
    """One time step of some units of one layer of one text; all arrays flat, with their places.

    Args:
        kind: Of the cell.
        units: Distance between the gates of a unit.
        begin: First unit.
        end: Unit to stop before.
        ux: Input products with their bias; gates i, f, g, o of an LSTM, r, z, n of a GRU.
        x_place: Where they begin.
        wh: Recurrent products with their bias.
        h_place: Where they begin.
        h: Holds the state before the step.
        before: Where it begins.
        c: Memory of an LSTM, before and after the step; others do not touch it.
        c_before: Where it begins.
        new_h: Takes the state after the step.
        after: Where it begins.
        c_after: Where the memory after the step begins.
    """
    stay_apart()
    one = splat(ONE)
    for j in range(begin, end, LANES):
        p, q = x_place + j, h_place + j
        if kind == LSTM:
            i = sigmoid(load(ux, p) + load(wh, q))
            p, q = p + units, q + units
            f = sigmoid(load(ux, p) + load(wh, q))
            p, q = p + units, q + units
            g = tanh(load(ux, p) + load(wh, q))
            p, q = p + units, q + units
            o = sigmoid(load(ux, p) + load(wh, q))
            memory = f * load(c, c_before + j) + i * g
            store(c, c_after + j, memory)
            store(new_h, after + j, o * tanh(memory))
        elif kind == GRU:
            r = sigmoid(load(ux, p) + load(wh, q))
            p, q = p + units, q + units
            z = sigmoid(load(ux, p) + load(wh, q))
            p, q = p + units, q + units
            n = tanh(load(ux, p) + r * load(wh, q))
            store(new_h, after + j, (one - z) * n + z * load(h, before + j))
        else:
            a = load(ux, p) + load(wh, q)
            if kind == TANH:
                a = tanh(a)
            elif kind == RELU:
                a = larger(a, splat(NOUGHT))
            else:
                a = sigmoid(a)
            store(new_h, after + j, a)
