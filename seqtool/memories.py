"""Sources read into memories by compiled loops: the encoder of the translator.

Several threads may run the same call, each on sentences of its own.
"""

from typing import Any

import numpy as np

from seqtool.compiled import compiled, inlined
from seqtool.network import advance
from seqtool.pointwise import LSTM
from seqtool.products import encode_rows, multiply
from seqtool.transducer import (
    NONE,
    Memory,
    Transducer,
    apply_tanh,
    copy,
    normalise,
)
from seqtool.vectors import stay_apart

Array = np.ndarray[Any, Any]


@compiled
def read(
    net: Transducer,
    thread: int,
    threads: int,
    ids: Array,
    starts: Array,
    memory: Memory,
    h: Array,
    c: Array,
) -> int:
    """Read N sources in both directions; threads take every so manieth of them.

    Args:
        net: The model.
        thread: Which of the threads this is; 0 if alone.
        threads: How many make this call together.
        ids: Of all sources one after the other, int64.
        starts: Where each begins in ids and where the last ends, (N + 1,) int64; the longest first.
        memory: Room for what they become, zeros.
        h: The decoder's first state, (K, N, H padded) float32, written.
        c: Its memories if it is an LSTM, the same; (0, 0, 0) for others.

    Returns:
        0, like a successful program.
    """
    matrices, units = net.matrices, net.units
    sources = np.arange(thread, len(starts) - 1, threads)
    count, tokens = len(sources), 0
    firsts, lengths = np.empty(count, np.int64), np.empty(count, np.int64)
    for i in range(count):
        firsts[i], lengths[i] = tokens, starts[sources[i] + 1] - starts[sources[i]]
        tokens += lengths[i]
    if count == 0:
        return 0
    both, rows = 2 * units, net.gates * units
    widest = max(both, net.width)
    flow, out = np.zeros(tokens * widest, np.float32), np.zeros(tokens * both, np.float32)
    size = net.source.shape[1]
    for i in range(count):
        for t in range(lengths[i]):
            token, there = ids[starts[sources[i]] + t], (firsts[i] + t) * net.width
            for j in range(size):
                flow[there + j] = net.source[token, j]
    codes = np.empty(tokens * widest, matrices.code.dtype)
    factors = np.empty(tokens, np.float32)
    ux = np.empty((tokens, rows), np.float32)
    summary = np.zeros(count * both, np.float32)
    for layer in range(net.layers):
        encode_rows(flow, 0, net.width if layer == 0 else both, tokens, codes, factors)
        for back in range(2):
            matrix = 4 * layer + 2 * back
            multiply(matrices, matrix, 0, rows, codes, factors, tokens, ux, rows)
            run(net, matrix + 1, back, firsts, lengths, ux, out, summary)
        flow[: tokens * both] = out
    start(net, sources, summary, h, c)
    remember(net, sources, firsts, lengths, out, summary, memory)
    return 0


@inlined
def run(
    net: Transducer,
    matrix: int,
    back: int,
    firsts: Array,
    lengths: Array,
    ux: Array,
    out: Array,
    summary: Array,
) -> None:
    """One recurrent layer over sequences in step, in one direction.

    Args:
        net: The model.
        matrix: Number of the recurrent matrix.
        back: 1 to read from the ends.
        firsts: First token of each sequence, (B,).
        lengths: Falling, (B,).
        ux: Input products of all tokens, (T, rows).
        out: Flat; h of each token is put into the half of its row that belongs to the direction.
        summary: Flat, (B, 2H); the same with the last h of each sequence.
    """
    stay_apart()
    matrices, units, count = net.matrices, net.units, len(lengths)
    rows, both = net.gates * units, 2 * units
    h, c = np.zeros(count * units, np.float32), np.zeros(count * units, np.float32)
    wh = np.empty((count, rows), np.float32)
    codes, factors = np.empty(count * units, matrices.code.dtype), np.empty(count, np.float32)
    active = count
    for t in range(lengths[0]):
        while lengths[active - 1] <= t:
            active -= 1
        encode_rows(h, 0, units, active, codes, factors)
        multiply(matrices, matrix, 0, rows, codes, factors, active, wh, rows)
        for i in range(active):
            now = firsts[i] + (lengths[i] - 1 - t if back else t)
            own = i * units
            advance(
                net.kind, units, 0, units, ux, now * rows, wh, i * rows,
                h, own, c, own, h, own, own,
            )  # fmt: skip
            copy(h, own, units, out, now * both + back * units)
    for i in range(count):
        copy(h, i * units, units, summary, i * both + back * units)


@inlined
def start(net: Transducer, sources: Array, summary: Array, h: Array, c: Array) -> None:
    """The decoder's first state, from the summaries of sources, (B, 2H) flat."""
    stay_apart()
    count, units, both = len(sources), net.units, 2 * net.units
    layers, total = h.shape[0], h.shape[1]
    rows = layers * units * (2 if net.kind == LSTM else 1)
    codes, factors = np.empty(count * both, net.matrices.code.dtype), np.empty(count, np.float32)
    made = np.empty((count, rows), np.float32)
    encode_rows(summary, 0, both, count, codes, factors)
    multiply(net.matrices, net.places.bridge, 0, rows, codes, factors, count, made, rows)
    for i in range(count):
        apply_tanh(made, i * rows, layers * units)
        for layer in range(layers):
            there, here = (layer * total + sources[i]) * units, i * rows + layer * units
            copy(made, here, units, h, there)
            if net.kind == LSTM:
                copy(made, here + layers * units, units, c, there)


@inlined
def remember(
    net: Transducer,
    sources: Array,
    firsts: Array,
    lengths: Array,
    out: Array,
    summary: Array,
    memory: Memory,
) -> None:
    """Keys and values of the encoder's last layer; without attention one value, of the summary."""
    stay_apart()
    matrices, places, units, both = net.matrices, net.places, net.units, 2 * net.units
    tokens, flow = len(out) // both, out
    if net.attention == NONE:
        tokens, flow = len(sources), summary
    elif net.memory_norm.shape[1]:
        for n in range(tokens):
            normalise(flow, n * both, 2, net.hidden, units, net.memory_norm)
    codes, factors = np.empty(tokens * both, matrices.code.dtype), np.empty(tokens, np.float32)
    made = np.empty((tokens, units), np.float32)
    encode_rows(flow, 0, both, tokens, codes, factors)
    for part in range(2):
        matrix = places.value if part == 0 else places.key
        if matrix < 0:
            continue
        multiply(matrices, matrix, 0, units, codes, factors, tokens, made, units)
        kept = memory.values if part == 0 else memory.keys
        for i in range(len(sources)):
            there = memory.places[sources[i]] * units
            first = i if net.attention == NONE else firsts[i]
            length = 1 if net.attention == NONE else lengths[i]
            copy(made, first * units, length * units, kept, there)
