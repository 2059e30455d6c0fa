"""The compiled loops of the engine: whole texts written or read in one call.

Several threads may run the same call, each on its share of the units of every layer; they meet
where one needs what the others have computed. The equations and their sources are in cells.
"""

from typing import Any, NamedTuple

import numpy as np

from seqtool.choosing import NOT_FINITE, Options, choose
from seqtool.compiled import compiled, spliced
from seqtool.counting import Counts, follow, interpolate
from seqtool.network import Network, add_table_logits, advance, look_up, meet, share
from seqtool.products import encode, encode_rows, multiply
from seqtool.tiles import COLUMNS

Array = np.ndarray[Any, Any]

TOGETHER = 64  # texts whose gates are held at once: a second-level cache has room for them
GAP = 3 * COLUMNS  # between rows of gates: rows a power of two apart share places of a cache


class Room(NamedTuple):
    """Scratch space of one thread for B texts; of the gates it uses its own share of units.

    Attributes:
        codes: What ``encode`` makes of the input of a layer, flat (B, widest).
        codes_h: The same of the state, flat (B, H).
        factors: What ``encode`` returned, (B,) float32.
        factors_h: The same for the state.
        ux: Products of inputs, flat (B or TOGETHER, gates H and a gap) float32.
        wh: Products of states alike.
    """

    codes: Array
    codes_h: Array
    factors: Array
    factors_h: Array
    ux: Array
    wh: Array


@spliced
def make_room(network: Network, batch: int) -> Room:
    """Scratch space for so many texts side by side."""
    units = network.units
    widest = max(network.matrices.layout[0, 2], units)
    gates = min(batch, TOGETHER) * (network.gates * units + GAP)
    return Room(
        np.empty(batch * widest, network.matrices.code.dtype),
        np.empty(batch * units, network.matrices.code.dtype),
        np.empty(batch, np.float32),
        np.empty(batch, np.float32),
        np.empty(gates, np.float32),
        np.empty(gates, np.float32),
    )


@spliced
def feed(
    network: Network,
    room: Room,
    begin: int,
    end: int,
    threads: int,
    counter: Array,
    x: Array,
    h: Array,
    c: Array,
    step: int,
) -> None:
    """Read a token in each text: all layers.

    Args:
        network: The model.
        room: Scratch space; afterwards its codes and factors are those of the last layer.
        begin: First unit of this thread, in each gate.
        end: Unit to stop before.
        threads: How many make this call together.
        counter: Shared by the threads.
        x: Inputs of the first layer, (B, width) float32.
        h: States, (N + 1, L, B, H); those of ``step`` are read, the next are written.
        c: Memories alike.
        step: See there.
    """
    layers, batch, units = h.shape[1], h.shape[2], h.shape[3]
    matrices, stride = network.matrices, network.gates * units + GAP
    states, memories = h.ravel(), c.ravel()
    codes, codes_h = room.codes, room.codes_h
    encode_rows(x.ravel(), 0, x.shape[1], batch, codes, room.factors)
    for layer in range(layers):
        old = (step * layers + layer) * batch * units
        new = old + layers * batch * units
        encode_rows(states, old, units, batch, codes_h, room.factors_h)
        for first in range(0, batch, TOGETHER):
            last = min(batch, first + TOGETHER)
            for part in range(2):
                own, values, factors = room.ux, room.codes, room.factors
                if part == 1:
                    own, values, factors = room.wh, room.codes_h, room.factors_h
                width = network.matrices.layout[2 * layer + part, 2]
                flat = values[first * width : last * width]
                for gate in range(network.gates):
                    low, high = gate * units + begin, gate * units + end
                    multiply(
                        matrices, 2 * layer + part, low, high,
                        flat, factors[first:last], last - first, own, stride,
                    )  # fmt: skip
            for b in range(first, last):
                own_place, before, after = (b - first) * stride, old + b * units, new + b * units
                advance(
                    network.kind, units, begin, end, room.ux, own_place, room.wh, own_place,
                    states, before, memories, before, states, after, after,
                )  # fmt: skip
        meet(counter, threads)
        encode_rows(states, new, units, batch, codes, room.factors)


@spliced
def pick(
    options: Options,
    logits: Array,
    allowed: Array,
    uniforms: Array,
    step: int,
    first: int,
    last: int,
    past: Array,
    now: int,
    room: tuple[Array, Array],
) -> bool:
    """Choose the next token of some texts.

    Args:
        options: How.
        logits: (B, V padded) float32.
        allowed: Which tokens may be chosen, (B or 1, V) bool.
        uniforms: A random number for each choice, (B, N) float64.
        step: Which of them.
        first: First text.
        last: Text to stop before.
        past: Ids, (B, K + N); the token is put into it.
        now: Where in each text it stands.
        room: Scratch space of ``choose``.

    Returns:
        Whether there was a choice in each.
    """
    padded, flat, marks = logits.shape[1], logits.ravel(), allowed.ravel()
    per_row = 0 if allowed.shape[0] == 1 else allowed.shape[1]
    for b in range(first, last):
        uniform = uniforms[b, step]
        token = choose(flat, b * padded, marks, b * per_row, uniform, options, room[0], room[1])
        if token == NOT_FINITE:
            return False
        past[b, now] = token
    return True


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
    x: Array,
    table_rows: Array,
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
        x: Scratch space, (B, width of the first layer) float32, zeros, shared by the threads; not
            used for a lone text.
        table_rows: Scratch space, (B, K) int64, shared by the threads.
        logits: Of the next token, (B, V padded) float32; read, then overwritten in each step.
        allowed: Which tokens may be chosen, (B or 1, V) bool.
        uniforms: A random number for each choice, (B, N) float64.
        given: Whether the one new token is already in ``past``.

    Returns:
        How many tokens were written: N, or fewer if the logits allow no choice.
    """
    steps: int = h.shape[0] - 1
    layers, batch = h.shape[1], h.shape[2]
    vocab_size, padded, width = allowed.shape[1], logits.shape[1], x.shape[1]
    room = make_room(network, batch)
    weights, heap = np.empty(vocab_size, np.float64), np.empty(vocab_size, np.int64)
    begin, end = share(network, network.units, thread, threads)
    first_row, last_row = share(network, padded, thread, threads)
    # A lone text's token is chosen and looked up by every thread, each for itself: cheaper than to
    # wait for it. What is looked up is added up in place, which no other thread must see.
    first, last = 0, batch
    if batch > 1:
        first, last = batch * thread // threads, batch * (thread + 1) // threads
    else:
        x = np.zeros((1, width), np.float32)
    ids, inputs, rows, scores = past.ravel(), x.ravel(), table_rows.ravel(), logits.ravel()
    order = len(counts.weights)
    for step in range(steps):
        now = network.context + step
        if not given and not pick(
            options, logits, allowed, uniforms, step, first, last, past, now, (weights, heap)
        ):
            failed[0] = 1
        else:
            for b in range(first, last):
                here = b * past.shape[1] + now
                look_up(network, ids, here, inputs, b * width, rows, b * network.context)
        if batch > 1:
            meet(counter, threads)
        if failed[0]:
            return step
        feed(network, room, begin, end, threads, counter, x, h, c, step)
        multiply(
            network.matrices, 2 * layers, first_row, last_row,
            room.codes, room.factors, batch, scores, padded,
        )  # fmt: skip
        add_table_logits(network, rows, 0, batch, scores, padded, first_row, last_row)
        meet(counter, threads)
        if order:
            # A lone text's logits are mixed by one thread: the others read them.
            for b in range(first, last if batch > 1 or thread == 0 else first):
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
    gap = network.gates * units + GAP
    codes = np.empty(steps * stride, matrices.code.dtype)
    codes_h = np.empty(units, matrices.code.dtype)
    factors, factors_h = np.empty(steps, np.float32), np.empty(1, np.float32)
    ux, wh = np.empty(steps * gap, np.float32), np.empty(gap, np.float32)
    begin, end = share(network, units, thread, threads)
    rows, scores, states, memories = table_rows.ravel(), logits.ravel(), h.ravel(), c.ravel()
    for t in range(steps * thread // threads, steps * (thread + 1) // threads):
        now = network.context + t
        look_up(network, past, now, flow.ravel(), t * stride, rows, t * network.context)
    meet(counter, threads)
    for layer in range(layers):
        width, place = layout[2 * layer, 2], layer * units
        into, out = flow[layer % 2].ravel(), flow[1 - layer % 2].ravel()
        for t in range(steps):
            factors[t] = encode(into, t * stride, width, codes, t * width)
        for gate in range(network.gates):
            low, high = gate * units + begin, gate * units + end
            multiply(matrices, 2 * layer, low, high, codes, factors, steps, ux, gap)
        memory, next_memory = place, place + layers * units
        for t in range(steps):
            before, old = (states, place) if t == 0 else (out, (t - 1) * stride)
            factors_h[0] = encode(before, old, units, codes_h, 0)
            for gate in range(network.gates):
                low, high = gate * units + begin, gate * units + end
                multiply(matrices, 2 * layer + 1, low, high, codes_h, factors_h, 1, wh, gap)
            advance(
                network.kind, units, begin, end, ux, t * gap, wh, 0,
                before, old, memories, memory, out, t * stride, next_memory,
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
        factors[t - first] = encode(top, t * stride, units, codes, place)
    first_row, last_row = share(network, padded, thread, threads)
    multiply(
        matrices, 2 * layers, first_row, last_row, codes, factors, steps - first, scores, padded
    )
    add_table_logits(
        network, rows, first * network.context, steps - first,
        scores, padded, first_row, last_row,
    )  # fmt: skip
    return 0
