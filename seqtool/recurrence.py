"""The compiled loops of the engine: whole texts written or read in one call.

Several threads may run the same call, each on its share of the units of every layer; they meet
where one needs what the others have computed. The equations and their sources are in cells.
"""

from typing import Any, NamedTuple

import numpy as np

from seqtool.choosing import NOT_FINITE, Options, choose
from seqtool.compiled import compiled, inlined
from seqtool.counting import Counts, follow, interpolate
from seqtool.hashing import BASE, PRIME, SPREAD
from seqtool.products import Matrices, encode, multiply, sigmoid, tanh
from seqtool.vectors import (
    LANES,
    add_atomic,
    larger,
    load,
    load_atomic,
    splat,
    stay_apart,
    store,
    yield_core,
)

Array = np.ndarray[Any, Any]

TANH, RELU, SIGMOID, LSTM, GRU = range(5)  # kinds of cells
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


@inlined
def share(size: int, thread: int, threads: int) -> tuple[int, int]:
    """First unit or row of a thread, and the one to stop before; multiples of LANES."""
    blocks = (size + LANES - 1) // LANES
    return blocks * thread // threads * LANES, blocks * (thread + 1) // threads * LANES


@inlined
def look_up(network: Network, past: Array, now: int, x: Array, first: int, rows: Array) -> None:
    """The input of the first layer for one token, and the rows of its n-grams.

    Args:
        network: With embedding and tables.
        past: Ids of one text, flat.
        now: Where in it the token stands; the ``context`` before it are there too.
        x: Flat float32; the input is put into it from ``first`` on.
        first: See there.
        rows: (K,) int64, filled with the rows of the tables (hashing.hash_rows).
    """
    token = past[now]
    size = network.embedding.shape[1]
    for j in range(size):
        x[first + j] = network.embedding[token, j]
    key = token
    for back in range(network.context):
        key = (key * BASE + past[now - 1 - back] * SPREAD + (back + 1)) % PRIME
        row = key % network.buckets + back * network.buckets
        rows[back] = row
        for j in range(size):
            x[first + j] += network.tables[row, j]


@inlined
def add_table_logits(
    network: Network, rows: Array, logits: Array, first: int, begin: int, end: int
) -> None:
    """Add what n-grams say to some logits, from ``begin`` to before ``end``, of one text."""
    inputs, vocab_size = network.embedding.shape[1], network.embedding.shape[0]
    if network.tables.shape[1] == inputs:
        return
    for row in rows:
        for j in range(begin, min(end, vocab_size)):
            logits[first + j] += network.tables[row, inputs + j]


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


@compiled
def write(
    network: Network,
    counts: Counts,
    options: Options,
    thread: int,
    threads: int,
    counter: Array,
    failed: Array,
    h: Array,
    c: Array,
    past: Array,
    contexts: Array,
    logits: Array,
    allowed: Array,
    uniforms: Array,
    given: bool,
) -> int:
    """Choose and read tokens in B texts, one after the other; or read one that is given.

    Args:
        network: The model.
        counts: An n-gram model that is mixed in; order 0 for none.
        options: How to choose.
        thread: Which of the threads this is; 0 if alone.
        threads: How many make this call together.
        counter: (1,) int64, zero at first, shared by the threads.
        failed: (1,) int64, zero at first, shared by the threads.
        h: States, (N + 1, L, B, H) float32; the first is read, the others are written.
        c: Memories of an LSTM alike; (N + 1, 0, 0, 0) for others.
        past: Ids, (B, K + N) int64: first the last K read, then the new ones, written here unless
            given.
        contexts: Where the n-gram model stands, (B, N + 1, order) int64; the first is read, the
            others are written.
        logits: Of the next token, (B, V padded) float32; read, then overwritten in each step.
        allowed: Which tokens may be chosen, (B or 1, V) bool.
        uniforms: A random number for each choice, (B, N) float64.
        given: Whether the one new token is already in ``past``.

    Returns:
        How many tokens were written: N, or fewer if the logits allow no choice.
    """
    steps: int = h.shape[0] - 1
    layers, batch, units = h.shape[1], h.shape[2], h.shape[3]
    matrices, layout = network.matrices, network.matrices.layout
    vocab_size, padded = allowed.shape[1], logits.shape[1]
    rows_of_gates = network.gates * units
    width = layout[0, 2]
    x = np.zeros((batch, width), np.float32)
    codes = np.empty((batch, max(width, units)), matrices.code.dtype)
    codes_h = np.empty((batch, units), matrices.code.dtype)
    factors, factors_h = np.empty(batch, np.float32), np.empty(batch, np.float32)
    ux = np.empty((batch, rows_of_gates), np.float32)
    wh = np.empty((batch, rows_of_gates), np.float32)
    table_rows = np.empty((batch, network.context), np.int64)
    weights, heap = np.empty(vocab_size, np.float64), np.empty(vocab_size, np.int64)
    begin, end = share(units, thread, threads)
    first_row, last_row = share(padded, thread, threads)
    # A lone text's token is chosen by every thread for itself: cheaper than to wait for it.
    first_text, last_text = 0, batch
    if batch > 1:
        first_text, last_text = batch * thread // threads, batch * (thread + 1) // threads
    order = len(counts.weights)
    per_row = 0 if allowed.shape[0] == 1 else vocab_size
    for step in range(steps):
        now = network.context + step
        if not given:
            for b in range(first_text, last_text):
                token = choose(
                    logits.ravel(),
                    b * padded,
                    allowed.ravel(),
                    b * per_row,
                    uniforms[b, step],
                    options,
                    weights,
                    heap,
                )
                if token == NOT_FINITE:
                    failed[0] = 1
                else:
                    past[b, now] = token
            if batch > 1:
                meet(counter, threads)
            if failed[0]:
                return step
        for b in range(batch):
            look_up(network, past[b], now, x.ravel(), b * width, table_rows[b])
            factors[b] = encode(x.ravel(), b * width, width, codes.ravel(), b * width)
        for layer in range(layers):
            before = (step * layers + layer) * batch * units
            after = before + layers * batch * units
            for b in range(batch):
                factors_h[b] = encode(
                    h.ravel(), before + b * units, units, codes_h.ravel(), b * units
                )
            for gate in range(network.gates):
                low, high = gate * units + begin, gate * units + end
                multiply(matrices, 2 * layer, low, high, codes, factors, batch, ux, rows_of_gates)
                multiply(
                    matrices, 2 * layer + 1, low, high, codes_h, factors_h, batch, wh, rows_of_gates
                )
            for b in range(batch):
                own = b * rows_of_gates
                old, new = before + b * units, after + b * units
                advance(
                    network.kind, units, begin, end, ux, own, wh, own,
                    h, old, c, old, h, new, new,
                )  # fmt: skip
            meet(counter, threads)
            for b in range(batch):
                factors[b] = encode(h.ravel(), after + b * units, units, codes.ravel(), b * units)
        multiply(matrices, 2 * layers, first_row, last_row, codes, factors, batch, logits, padded)
        for b in range(batch):
            add_table_logits(
                network, table_rows[b], logits.ravel(), b * padded, first_row, last_row
            )
        meet(counter, threads)
        if order:
            # A lone text's logits are mixed by one thread: the others read them.
            for b in range(first_text, last_text if batch > 1 or thread == 0 else first_text):
                known = (b * (steps + 1) + step) * order
                follow(counts, contexts.ravel(), known, known + order, past[b, now], vocab_size)
                interpolate(
                    counts, contexts.ravel(), known + order, logits.ravel(), b * padded, weights
                )
            meet(counter, threads)
    return steps


@compiled
def read(
    network: Network,
    thread: int,
    threads: int,
    counter: Array,
    h: Array,
    c: Array,
    past: Array,
    flow: Array,
    table_rows: Array,
    logits: Array,
) -> int:
    """Read one text of T tokens: in each layer one product for the inputs of all of them.

    Args:
        network: The model.
        thread: Which of the threads this is; 0 if alone.
        threads: How many make this call together.
        counter: (1,) int64, zero at first, shared by the threads.
        h: States, (2, L, 1, H) float32, before and after the text.
        c: Memories of an LSTM alike; (2, 0, 0, 0) for others.
        past: Ids, (K + T,) int64: the last K read before, then the text.
        flow: Scratch space, (2, T, widest input or H) float32, zeros, shared by the threads.
        table_rows: Scratch space, (T, K) int64, shared by the threads.
        logits: (T, V padded) float32, written; with (1, V padded) only those after the last token.

    Returns:
        0, like a successful program.
    """
    layers, units = h.shape[1], h.shape[3]
    matrices, layout = network.matrices, network.matrices.layout
    steps, stride = flow.shape[1], flow.shape[2]
    padded = logits.shape[1]
    rows_of_gates = network.gates * units
    codes = np.empty((steps, stride), matrices.code.dtype)
    codes_h = np.empty((1, units), matrices.code.dtype)
    factors, factors_h = np.empty(steps, np.float32), np.empty(1, np.float32)
    ux = np.empty((steps, rows_of_gates), np.float32)
    wh = np.empty((1, rows_of_gates), np.float32)
    begin, end = share(units, thread, threads)
    for t in range(steps * thread // threads, steps * (thread + 1) // threads):
        look_up(network, past, network.context + t, flow.ravel(), t * stride, table_rows[t])
    meet(counter, threads)
    for layer in range(layers):
        width, place = layout[2 * layer, 2], layer * units
        into, out = flow[layer % 2].ravel(), flow[1 - layer % 2].ravel()
        for t in range(steps):
            factors[t] = encode(into, t * stride, width, codes.ravel(), t * width)
        for gate in range(network.gates):
            low, high = gate * units + begin, gate * units + end
            multiply(matrices, 2 * layer, low, high, codes, factors, steps, ux, rows_of_gates)
        memory, next_memory = place, place + layers * units
        for t in range(steps):
            before, old = (h.ravel(), place) if t == 0 else (out, (t - 1) * stride)
            factors_h[0] = encode(before, old, units, codes_h.ravel(), 0)
            for gate in range(network.gates):
                low, high = gate * units + begin, gate * units + end
                multiply(
                    matrices, 2 * layer + 1, low, high, codes_h, factors_h, 1, wh, rows_of_gates
                )
            advance(
                network.kind, units, begin, end, ux, t * rows_of_gates, wh, 0,
                before, old, c, memory, out, t * stride, next_memory,
            )  # fmt: skip
            memory = next_memory
            meet(counter, threads)
        last = (steps - 1) * stride
        for j in range(begin, end):
            h[1, layer, 0, j] = out[last + j]
    first = 0 if logits.shape[0] == steps else steps - 1
    top = flow[layers % 2].ravel()
    for t in range(first, steps):
        place = (t - first) * units
        factors[t - first] = encode(top, t * stride, units, codes.ravel(), place)
    first_row, last_row = share(padded, thread, threads)
    multiply(
        matrices, 2 * layers, first_row, last_row, codes, factors, steps - first, logits, padded
    )
    for t in range(first, steps):
        place = (t - first) * padded
        add_table_logits(network, table_rows[t], logits.ravel(), place, first_row, last_row)
    return 0
