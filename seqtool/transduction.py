"""Targets written a step at once by compiled loops: the attention and decoder of the translator.

Several threads may run the same call, each on rows of its own.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from seqtool.compiled import compiled, inlined
from seqtool.network import advance
from seqtool.products import encode_rows, exponential, multiply, tanh
from seqtool.transducer import (
    ADDITIVE,
    DOT,
    GROUP,
    NONE,
    Memory,
    Transducer,
    apply_tanh,
    copy,
    normalise,
)
from seqtool.vectors import LANES, fma, load, splat, stay_apart, store, totals, zero

Array = np.ndarray[Any, Any]

BLOCK = 24  # rows that go through a step together: what they need stays in the nearer caches
NOUGHT = np.float32(0)
NO_WEIGHTS = np.zeros((0, 0), np.float32)


class Rows(NamedTuple):
    """The hypotheses that take a step, B rows.

    Attributes:
        ids: The last token of each, (B,) int64.
        sentences: Which source it translates, (B,) int64.
        h: States, (K, B, H padded) float32.
        c: Memories of an LSTM, (2, K, B, H padded): before, and after, written; (2, 0, 0, 0) for
            others.
        o: What each last said from, (1, B, E padded), or (0, 0, 0) if that is not fed back.
        new_h: As h, written.
        new_o: As o, written.
    """

    ids: Array
    sentences: Array
    h: Array
    c: Array
    o: Array
    new_h: Array
    new_o: Array


class Said(NamedTuple):
    """What comes next in each of B rows; all arrays are written but ``banned``.

    Attributes:
        weights: Of attention, (B, longest source padded to a group), or (0, 0) if not wanted.
        logits: (B, V padded); with (0, V padded) they are ranked instead.
        banned: Tokens that a ranking leaves out, (V,) bool.
        top: The likeliest tokens, (B, wanted) int64, if they are ranked.
        logs: Their log-probs, (B, wanted) float64.
        norms: Logarithms of the sums of exponentials, (B,) float64.
        ends: Log-probs of ``end_id``, (B,) float64.
        end_id: The token that ends a target.
    """

    weights: Array
    logits: Array
    banned: Array
    top: Array
    logs: Array
    norms: Array
    ends: Array
    end_id: int


class Desk(NamedTuple):
    """Scratch space for a block of rows, float32 but the codes.

    Attributes:
        x: Inputs of the query layer, flat.
        joined: Query and context, flat, 2H padded a row.
        deep: State, context and query, flat, 3H padded a row.
        asked: What is compared with keys if attention is additive, (BLOCK, H padded).
        said: What the output layer reads, (BLOCK, E padded).
        codes: Rows in the form that weights are multiplied with, flat.
        factors: Their factors, (BLOCK,).
        ux: Products with inputs, (BLOCK, rows).
        wh: Products with states, the same.
        scores: Of the positions of one source, flat.
        logits: (BLOCK, V padded) if they are ranked, else (0, V padded).
    """

    x: Array
    joined: Array
    deep: Array
    asked: Array
    said: Array
    codes: Array
    factors: Array
    ux: Array
    wh: Array
    scores: Array
    logits: Array


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
        ids: From here to ``new_o`` the fields of Rows, one by one: numba takes longer over a tuple.
        weights: From here on those of Said.

    Returns:
        0, like a successful program.
    """
    batch = Rows(ids, sentences, h, c, o, new_h, new_o)
    said = Said(weights, logits, banned, top, logs, norms, ends, end_id)
    desk = furnish(net, memory, said)
    last = len(ids) * (thread + 1) // threads
    for first in range(len(ids) * thread // threads, last, BLOCK):
        count = min(BLOCK, last - first)
        look(net, memory, batch, said, desk, first, count)
        think(net, batch, desk, first, count)
        say(net, said, desk, first, count)
    return 0


@inlined
def furnish(net: Transducer, memory: Memory, said: Said) -> Desk:
    """Scratch space for steps of a model."""
    units, width, padded = net.units, net.width, said.logits.shape[1]
    rows, fed = net.gates * units, 2 * width if net.feeding else width
    longest = 0
    for b in range(len(memory.lengths)):
        longest = max(longest, memory.lengths[b])
    return Desk(
        np.zeros(BLOCK * fed, np.float32),
        np.empty(BLOCK * 2 * units, np.float32),
        np.empty(BLOCK * 3 * units, np.float32),
        np.empty((BLOCK, units), np.float32),
        np.empty((BLOCK, width), np.float32),
        np.empty(BLOCK * max(3 * units, fed), net.matrices.code.dtype),
        np.empty(BLOCK, np.float32),
        np.empty((BLOCK, rows), np.float32),
        np.empty((BLOCK, rows), np.float32),
        np.empty((longest + GROUP - 1) // GROUP * GROUP, np.float32),
        np.empty((BLOCK if said.logits.shape[0] == 0 else 0, padded), np.float32),
    )


@inlined
def look(
    net: Transducer, memory: Memory, batch: Rows, said: Said, desk: Desk, first: int, count: int
) -> None:
    """Read the last tokens of a block of rows and attend to their sources."""
    stay_apart()
    units, width, x = net.units, net.width, desk.x
    codes, factors = desk.codes, desk.factors
    fed = 2 * width if net.feeding else width
    for i in range(count):
        for j in range(net.target.shape[1]):
            x[i * fed + j] = net.target[batch.ids[first + i], j]
        if net.feeding:
            copy(batch.o, (first + i) * width, width, x, i * fed + width)
    encode_rows(x, 0, fed, count, codes, factors)
    move(net, net.places.query, 0, batch, desk, first, count)
    query, asking = batch.new_h.ravel(), first * units
    if net.attention == ADDITIVE:
        encode_rows(query, asking, units, count, codes, factors)
        multiply(net.matrices, net.places.ask, 0, units, codes, factors, count, desk.asked, units)
        query, asking = desk.asked.ravel(), 0
    for i in range(count):
        own, context = (first + i) * units, (2 * i + 1) * units
        sentence = batch.sentences[first + i]
        copy(batch.new_h, own, units, desk.joined, context - units)
        copy(batch.new_h, own, units, desk.deep, (3 * i + 2) * units)
        attend(net, memory, sentence, query, asking + i * units, desk.scores, desk.joined, context)
        copy(desk.joined, context, units, desk.deep, (3 * i + 1) * units)
        if said.weights.shape[0]:
            for j in range(memory.lengths[sentence]):
                said.weights[first + i, j] = desk.scores[j]


@inlined
def think(net: Transducer, batch: Rows, desk: Desk, first: int, count: int) -> None:
    """Take query and context of a block of rows to what the output layer reads."""
    stay_apart()
    units, width, size = net.units, net.width, len(batch.ids)
    codes, factors, said = desk.codes, desk.factors, desk.said
    encode_rows(desk.joined, 0, 2 * units, count, codes, factors)
    for layer in range(1, net.layers + 1):
        move(net, net.places.reader + 2 * (layer - 1), layer, batch, desk, first, count)
        here = (layer * size + first) * units
        encode_rows(batch.new_h.ravel(), here, units, count, codes, factors)
    for i in range(count):
        here = (net.layers * size + first + i) * units
        copy(batch.new_h, here, units, desk.deep, i * 3 * units)
    encode_rows(desk.deep, 0, 3 * units, count, codes, factors)
    multiply(net.matrices, net.places.deep, 0, width, codes, factors, count, said, width)
    for i in range(count):
        if net.deep_norm.shape[1]:
            normalise(said.ravel(), i * width, 1, net.target.shape[1], width, net.deep_norm)
        apply_tanh(said, i * width, width)
        if net.feeding:
            copy(said, i * width, width, batch.new_o, (first + i) * width)


@inlined
def say(net: Transducer, said: Said, desk: Desk, first: int, count: int) -> None:
    """The logits of a block of rows, or the likeliest tokens."""
    stay_apart()
    width, padded, place = net.width, said.logits.shape[1], net.places.output
    codes, factors, made = desk.codes, desk.factors, desk.logits
    encode_rows(desk.said.ravel(), 0, width, count, codes, factors)
    if said.logits.shape[0]:
        made = said.logits[first:]
    multiply(net.matrices, place, 0, padded, codes, factors, count, made, padded)
    if said.logits.shape[0]:
        return
    for i in range(count):
        for j in range(len(said.banned), padded):
            made[i, j] = -np.inf
        rank_row(made, i, said, first + i)


@inlined
def rank_row(logits: Array, i: int, said: Said, row: int) -> None:
    """The likeliest tokens by row i of logits (B, V padded), those behind the vocabulary -inf."""
    place = i * logits.shape[1]
    norm = likeliest(logits.ravel(), place, said.banned, said.top[row], said.logs[row])
    said.norms[row] = norm
    said.ends[row] = min(0.0, float(logits[i, said.end_id]) - norm)


@compiled
def rank_rows(
    logits: Array,
    banned: Array,
    top: Array,
    logs: Array,
    norms: Array,
    ends: Array,
    end_id: int,
) -> int:
    """The likeliest tokens of rows of logits, (B, V padded) float32; see ``rank_row``.

    Args:
        logits: From here on those of Said.

    Returns:
        0, like a successful program.
    """
    said = Said(NO_WEIGHTS, logits, banned, top, logs, norms, ends, end_id)
    for i in range(len(logits)):
        rank_row(logits, i, said, i)
    return 0


@inlined
def move(
    net: Transducer, matrix: int, layer: int, batch: Rows, desk: Desk, first: int, count: int
) -> None:
    """One time step of a decoder layer for a block of rows.

    Args:
        net: The model.
        matrix: Number of its input matrix; the recurrent one is next.
        layer: Its number in the state.
        batch: All rows.
        desk: Its codes and factors hold the inputs of the block; overwritten.
        first: First row.
        count: Number of rows.
    """
    stay_apart()
    matrices, units, size = net.matrices, net.units, batch.h.size
    codes, factors, ux, wh = desk.codes, desk.factors, desk.ux, desk.wh
    rows, here = net.gates * units, (layer * batch.h.shape[1] + first) * units
    # Flat, as in memories.run: one machine code for both.
    states, cells, new_states = batch.h.ravel(), batch.c.ravel(), batch.new_h.ravel()
    multiply(matrices, matrix, 0, rows, codes, factors, count, ux, rows)
    encode_rows(states, here, units, count, codes, factors)
    multiply(matrices, matrix + 1, 0, rows, codes, factors, count, wh, rows)
    for i in range(count):
        own, place = i * rows, here + i * units
        advance(
            net.kind, units, 0, units, ux, own, wh, own,
            states, place, cells, place, new_states, place, place + size,
        )  # fmt: skip
