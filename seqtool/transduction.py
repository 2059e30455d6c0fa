"""The compiled loops of the translator: sources read into memories, targets written a step at once.

The equations are those of encdec. Several threads may run the same call, each on sentences or rows
of its own. Every sum is added in an order that no neighbour changes, see products.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from seqtool.compiled import compiled, inlined
from seqtool.network import advance
from seqtool.pointwise import LSTM
from seqtool.products import Matrices, encode, encode_rows, exponential, multiply, tanh
from seqtool.vectors import LANES, fma, load, splat, stay_apart, store, totals, zero

Array = np.ndarray[Any, Any]

NONE, DOT, ADDITIVE = range(3)  # kinds of attention
GROUP = 4  # positions of a source are compared four at a time; memories are padded to that
BLOCK = 24  # rows that go through a step together: what they need stays in the nearer caches
EPSILON = 1e-5  # of layer normalisation, as torch has it
NOUGHT = np.float32(0)


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


@inlined
def attend(
    net: Transducer,
    memory: Memory,
    sentence: int,
    query: Array,
    asked: int,
    scores: Array,
    out: Array,
    there: int,
) -> None:
    """What a source tells a query: its values, weighed by how their keys fit.

    Args:
        net: The model.
        memory: Of all sources.
        sentence: Which of them.
        query: Flat; the query, for additive attention already multiplied, from ``asked`` on.
        asked: See there.
        scores: Scratch space, flat, at least the source's length padded to a group; holds the
            weights afterwards.
        out: Flat; the context is put there, from ``there`` on.
        there: See there.
    """
    stay_apart()
    units = net.units
    first, length = memory.places[sentence], memory.lengths[sentence]
    keys, values = memory.keys, memory.values
    if net.attention == NONE:
        scores[0] = 1
        copy(values, first * units, units, out, there)
        return
    for j in range(0, length, GROUP):
        place = (first + j) * units
        a, b, c, d = zero(query), zero(query), zero(query), zero(query)
        for k in range(0, units, LANES):
            q, p = load(query, asked + k), place + k
            if net.attention == DOT:
                a = fma(q, load(keys, p), a)
                b = fma(q, load(keys, p + units), b)
                c = fma(q, load(keys, p + 2 * units), c)
                d = fma(q, load(keys, p + 3 * units), d)
            else:
                weight = load(net.score, k)
                a = fma(weight, tanh(q + load(keys, p)), a)
                b = fma(weight, tanh(q + load(keys, p + units)), b)
                c = fma(weight, tanh(q + load(keys, p + 2 * units)), c)
                d = fma(weight, tanh(q + load(keys, p + 3 * units)), d)
        store(scores, j, totals(a, b, c, d))
    scale = 1 / math.sqrt(net.hidden) if net.attention == DOT else 1.0
    best = -np.inf
    for j in range(length):
        best = max(best, float(scores[j]))
    total = 0.0
    for j in range(length):
        weight = math.exp((float(scores[j]) - best) * scale)
        scores[j] = weight
        total += weight
    for j in range(length):
        scores[j] = np.float32(float(scores[j]) / total)
    for k in range(0, units, LANES):
        sums = splat(NOUGHT)
        for j in range(length):
            sums = fma(splat(scores[j]), load(values, (first + j) * units + k), sums)
        store(out, there + k, sums)


@inlined
def likeliest(logits: Array, first: int, banned: Array, ids: Array, logs: Array) -> float:
    """The likeliest tokens of one row of logits and their log-probs; equal ones by id.

    Args:
        logits: Flat float32, a multiple of 8 from ``first`` on, those behind the vocabulary -inf.
        first: See there.
        banned: Which tokens must not be written, (V,) bool.
        ids: As many as are wanted, (K,) int64, written.
        logs: Their log-probs, (K,) float64, written; -inf where fewer are allowed.

    Returns:
        The logarithm of the sum that the probabilities are divided by; nan or infinite if a logit
        is. No log-prob is above 0.
    """
    size, wanted = len(banned), len(ids)
    logs[:], ids[:] = -np.inf, 0
    best, least = np.float32(-np.inf), np.float32(-np.inf)
    for i in range(size):
        score = logits[first + i]
        best = max(best, score)
        if score > least and not banned[i]:
            k = wanted - 1
            while k > 0 and score > logs[k - 1]:
                logs[k], ids[k] = logs[k - 1], ids[k - 1]
                k -= 1
            logs[k], ids[k] = score, i
            least = np.float32(logs[wanted - 1])
    total, top = splat(NOUGHT), splat(best)
    for i in range(first, first + (size + LANES - 1) // LANES * LANES, LANES):
        total = total + exponential(load(logits, i) - top)
    sums = np.empty(GROUP, np.float32)
    store(sums, 0, totals(total, total, total, total))
    norm = float(best) + math.log(float(sums[0]))
    for k in range(wanted):
        logs[k] = min(0.0, logs[k] - norm)
    return norm


@compiled
def step(
    net: Transducer,
    thread: int,
    threads: int,
    memory: Memory,
    ids: Array,
    sentences: Array,
    h: Array,
    c: Array,
    o: Array,
    new_h: Array,
    new_o: Array,
    weights: Array,
    logits: Array,
    banned: Array,
    top: Array,
    logs: Array,
    norms: Array,
    ends: Array,
    end_id: int,
) -> int:
    """Read one target token in each of B rows and say what comes next; threads share the rows.

    Args:
        net: The model.
        thread: Which of the threads this is; 0 if alone.
        threads: How many make this call together.
        memory: Of the sources.
        ids: One token for each row, (B,) int64.
        sentences: Which source a row belongs to, (B,) int64.
        h: States, (K, B, H padded) float32.
        c: Memories of an LSTM, (2, K, B, H padded): before, and after, written; (2, 0, 0, 0) for
            others.
        o: What each row last said from, (1, B, E padded), or (0, 0, 0) if that is not fed back.
        new_h: As h, written.
        new_o: As o, written.
        weights: Of attention, (B, longest source padded to a group), written, or (0, 0).
        logits: (B, V padded), written; with (0, V padded) they are ranked instead.
        banned: Tokens that a ranking leaves out, (V,) bool.
        top: The likeliest tokens, (B, wanted) int64, written if they are ranked.
        logs: Their log-probs, (B, wanted) float64, written.
        norms: Logarithms of the sums of exponentials, (B,) float64, written.
        ends: Log-probs of ``end_id``, (B,) float64, written.
        end_id: See there.

    Returns:
        0, like a successful program.
    """
    matrices, places, units, width = net.matrices, net.places, net.units, net.width
    batch, rows, both = len(ids), net.gates * units, 2 * units
    padded = logits.shape[1]
    fed = 2 * width if net.feeding else width
    widest = max(3 * units, fed)
    x = np.zeros(BLOCK * fed, np.float32)
    joined, deep = np.empty(BLOCK * both, np.float32), np.empty(BLOCK * 3 * units, np.float32)
    asked, said = np.empty((BLOCK, units), np.float32), np.empty((BLOCK, width), np.float32)
    codes = np.empty(BLOCK * widest, matrices.code.dtype)
    factors = np.empty(BLOCK, np.float32)
    ux, wh = np.empty((BLOCK, rows), np.float32), np.empty((BLOCK, rows), np.float32)
    scratch = np.empty((BLOCK if logits.shape[0] == 0 else 0, padded), np.float32)
    longest = 0
    for b in range(len(memory.lengths)):
        longest = max(longest, memory.lengths[b])
    scores = np.empty((longest + GROUP - 1) // GROUP * GROUP, np.float32)
    last_row = batch * (thread + 1) // threads
    for first in range(batch * thread // threads, last_row, BLOCK):
        count = min(BLOCK, last_row - first)
        for i in range(count):
            for j in range(net.target.shape[1]):
                x[i * fed + j] = net.target[ids[first + i], j]
            if net.feeding:
                copy(o, (first + i) * width, width, x, i * fed + width)
        encode_rows(x, 0, fed, count, codes, factors)
        move(net, places.query, 0, first, count, codes, factors, ux, wh, h, c, new_h)
        query, asking = new_h.ravel(), first * units
        if net.attention == ADDITIVE:
            for i in range(count):
                factors[i] = encode(query, asking + i * units, units, codes, i * units)
            multiply(matrices, places.ask, 0, units, codes, factors, count, asked, units)
            query, asking = asked.ravel(), 0
        for i in range(count):
            own = (first + i) * units
            copy(new_h, own, units, joined, i * both)
            copy(new_h, own, units, deep, i * 3 * units + both)
            attend(
                net, memory, sentences[first + i], query, asking + i * units, scores,
                joined, i * both + units,
            )  # fmt: skip
            copy(joined, i * both + units, units, deep, i * 3 * units + units)
            if weights.shape[0]:
                for j in range(memory.lengths[sentences[first + i]]):
                    weights[first + i, j] = scores[j]
        encode_rows(joined, 0, both, count, codes, factors)
        for layer in range(1, net.layers + 1):
            matrix = places.reader + 2 * (layer - 1)
            move(net, matrix, layer, first, count, codes, factors, ux, wh, h, c, new_h)
            for i in range(count):
                here = (layer * batch + first + i) * units
                factors[i] = encode(new_h.ravel(), here, units, codes, i * units)
        for i in range(count):
            here = (net.layers * batch + first + i) * units
            copy(new_h, here, units, deep, i * 3 * units)
        encode_rows(deep, 0, 3 * units, count, codes, factors)
        multiply(matrices, places.deep, 0, width, codes, factors, count, said, width)
        for i in range(count):
            if net.deep_norm.shape[1]:
                normalise(said.ravel(), i * width, 1, net.target.shape[1], width, net.deep_norm)
            apply_tanh(said, i * width, width)
            if net.feeding:
                copy(said, i * width, width, new_o, (first + i) * width)
        encode_rows(said.ravel(), 0, width, count, codes, factors)
        if logits.shape[0]:
            multiply(
                matrices, places.output, 0, padded, codes, factors, count, logits[first:], padded
            )
            continue
        multiply(matrices, places.output, 0, padded, codes, factors, count, scratch, padded)
        for i in range(count):
            for j in range(len(banned), padded):
                scratch[i, j] = -np.inf
            norm = likeliest(scratch.ravel(), i * padded, banned, top[first + i], logs[first + i])
            norms[first + i] = norm
            ends[first + i] = min(0.0, float(scratch[i, end_id]) - norm)
    return 0


@inlined
def move(
    net: Transducer,
    matrix: int,
    layer: int,
    first: int,
    count: int,
    codes: Array,
    factors: Array,
    ux: Array,
    wh: Array,
    h: Array,
    c: Array,
    new_h: Array,
) -> None:
    """One time step of a decoder layer for some rows.

    Args:
        net: The model.
        matrix: Number of its input matrix; the recurrent one is next.
        layer: Its number in the state.
        first: First row.
        count: Number of rows.
        codes: Its inputs from ``encode``; overwritten.
        factors: The same.
        ux: Scratch space, (BLOCK, rows).
        wh: The same.
        h: States before, (K, B, H padded).
        c: Memories before and, written, after.
        new_h: States after, written.
    """
    stay_apart()
    matrices, units = net.matrices, net.units
    rows, here = net.gates * units, (layer * h.shape[1] + first) * units
    # Flat, as in ``run``: one machine code for both.
    states, memories, new_states = h.ravel(), c.ravel(), new_h.ravel()
    multiply(matrices, matrix, 0, rows, codes, factors, count, ux, rows)
    for i in range(count):
        factors[i] = encode(states, here + i * units, units, codes, i * units)
    multiply(matrices, matrix + 1, 0, rows, codes, factors, count, wh, rows)
    for i in range(count):
        own, place = i * rows, here + i * units
        advance(
            net.kind, units, 0, units, ux, own, wh, own,
            states, place, memories, place, new_states, place, place + h.size,
        )  # fmt: skip
