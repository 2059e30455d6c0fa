"""The time loops of recurrent layers, forward and backward, as compiled code.

One call runs all time steps for a block of the batch. The rows of a batch never meet, so a thread
takes a block and goes through time on its own: nothing waits for another thread at a time step.
The equations are those of cells. What a loop reads and writes is described by a job, an array of
integers that the threads share and from which they claim blocks until none is left.

A unit's numbers are padded to whole panels: P is H rounded up to a multiple of 16. The gates of one
time step are areas of P columns, side by side. What the input adds goes to the first of them and
what the state adds to the last. For LSTM [i f g o] and simple RNN [h] that is all of them; the GRU
has [n r z m], where m = W_n h + b_hn, which the reset gate scales, stays apart from n.
"""

import math
from enum import IntEnum

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import overload

from seqtool.tiles import COLUMNS, claim, product, tile_rows, to_panels, view


class Kind(IntEnum):
    """The cells that have a loop."""

    LSTM = 0
    GRU = 1
    TANH = 2
    RELU = 3
    SIGMOID = 4


class Job(IntEnum):
    """Places of the job array: counts first, then addresses of contiguous arrays, 0 for none."""

    NEXT = 0  # the next block to claim; ``claim`` wants it first
    BLOCKS = 1  # into how many the rows (or, for weights, the panels) are cut
    KIND = 2
    BACKWARD = 3  # 1: reads from the last time step to the first
    STEPS = 4  # T
    ROWS = 5  # B
    INPUT = 6  # E
    HIDDEN = 7  # H
    LENGTHS = 8  # (B,) int64, the steps that each row really has
    X = 9  # (T, B, E)
    BIAS = 10  # (areas P,), the sum of both where they meet
    WEIGHT_IH = 11  # panels of what multiplies the input (forward) or the gates (backward)
    WEIGHT_HH = 12
    STATES = 13  # (T + 1, B, H): h, with the start at the end that is read first
    CELLS = 14  # (T + 1, B, H): c of an LSTM
    GATES = 15  # (T, B, areas P)
    GRAD_OUTPUT = 16  # (T, B, H)
    GRAD_STATE = 17  # (B, P): of the final h, turned into that of the first
    GRAD_CELL = 18  # (B, H): the same of c
    GRAD_GATES = 19  # (B, areas P + 16): of one time step; zeros in the padding
    GRAD_X = 20  # (T, B, E rounded up), zeros
    GATE_PANELS = 21  # (areas P / 16, T B, 16): gradient of the gates at all times
    X_PANELS = 22  # (E rounded up / 16, T B, 16)
    H_PANELS = 23  # (P / 16, T B, 16): h before each step
    GRAD_WEIGHT_IH = 24  # (input areas P, E)
    GRAD_WEIGHT_HH = 25  # (state areas P, H)
    GRAD_BIAS = 26  # (areas P,)


FIELDS = len(Job)
# The product of all time steps: so many of them at once for so many panels of the gates. A piece of
# the input is then in the first-level cache while these pass by, and they are in the second.
DEPTH = 256
GROUP = 4

# The best rational approximation of tanh on [-9, 9] with these degrees, odd over even, found by
# Lawson's iteration; 1.2e-9 off before rounding. Further out tanh is 1 in float32.
TANH_LIMIT = np.float32(9.0)
TANH_ABOVE = np.array(
    [0.999999994, 0.136762975, 3.86387112e-3, 2.79221026e-5, 3.03978365e-8, -1.20807652e-11],
    dtype=np.float32,
)
TANH_BELOW = np.array(
    [1.0, 0.470096282, 2.72293317e-2, 3.93093668e-4, 1.28164472e-6], dtype=np.float32
)

compiled = njit(
    nogil=True, cache=True, no_cpython_wrapper=True, fastmath={"contract"}, error_model="numpy"
)


def tanh(x: float) -> float:
    """Hyperbolic tangent; in float32 an approximation that is off by less than 3e-7."""
    return math.tanh(x)


@overload(tanh, inline="always")
def _typed_tanh(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: math.tanh(x)
    p0, p1, p2, p3, p4, p5 = TANH_ABOVE
    q0, q1, q2, q3, q4 = TANH_BELOW
    limit = TANH_LIMIT

    def rational(x):  # type: ignore[no-untyped-def]
        # Written so that nan stays nan: a run that has diverged must not look healthy.
        x = limit if x > limit else x
        x = -limit if x < -limit else x
        u = x * x
        above = x * (p0 + u * (p1 + u * (p2 + u * (p3 + u * (p4 + u * p5)))))
        return above / (q0 + u * (q1 + u * (q2 + u * (q3 + u * q4))))

    return rational


@compiled
def copy(source, target):  # type: ignore[no-untyped-def]
    """Fill an array from another; a slice assignment takes numba seconds to compile."""
    for j in range(len(target)):
        target[j] = source[j]


@compiled
def clear(target):  # type: ignore[no-untyped-def]
    """Fill an array with zeros."""
    for j in range(len(target)):
        target[j] = 0


@compiled
def lstm_forward(gates, c_before, c, h, size, half):  # type: ignore[no-untyped-def]
    """One row at one time: gates in, activated gates, c and h out."""
    padded = len(gates) // 4
    i, f = gates[:padded], gates[padded : 2 * padded]
    g, o = gates[2 * padded : 3 * padded], gates[3 * padded :]
    for j in range(size):
        # sigmoid(x) = (1 + tanh(x / 2)) / 2
        i_j = half + half * tanh(half * i[j])
        f_j = half + half * tanh(half * f[j])
        g_j = tanh(g[j])
        o_j = half + half * tanh(half * o[j])
        c_j = f_j * c_before[j] + i_j * g_j
        i[j], f[j], g[j], o[j] = i_j, f_j, g_j, o_j
        c[j] = c_j
        h[j] = o_j * tanh(c_j)


@compiled
def lstm_backward(gates, c_before, c, grad_output, grad_h, grad_c, grad_gates, size, one):  # type: ignore[no-untyped-def]
    """One row at one time: gradients of h and c in, of the gates and of the c before out."""
    padded = len(gates) // 4
    i, f = gates[:padded], gates[padded : 2 * padded]
    g, o = gates[2 * padded : 3 * padded], gates[3 * padded :]
    grad_i, grad_f = grad_gates[:padded], grad_gates[padded : 2 * padded]
    grad_g, grad_o = grad_gates[2 * padded : 3 * padded], grad_gates[3 * padded :]
    for j in range(size):
        dh = grad_h[j] + grad_output[j]
        squashed = tanh(c[j])
        dc = grad_c[j] + dh * o[j] * (one - squashed * squashed)
        grad_i[j] = dc * g[j] * i[j] * (one - i[j])
        grad_f[j] = dc * c_before[j] * f[j] * (one - f[j])
        grad_g[j] = dc * i[j] * (one - g[j] * g[j])
        grad_o[j] = dh * squashed * o[j] * (one - o[j])
        grad_c[j] = dc * f[j]
        grad_h[j] = 0


@compiled
def gru_forward(gates, h_before, h, size, half):  # type: ignore[no-untyped-def]
    """One row at one time: gates in, activated gates (m stays) and h out."""
    padded = len(gates) // 4
    n, r = gates[:padded], gates[padded : 2 * padded]
    z, m = gates[2 * padded : 3 * padded], gates[3 * padded :]
    for j in range(size):
        r_j = half + half * tanh(half * r[j])
        z_j = half + half * tanh(half * z[j])
        n_j = tanh(n[j] + r_j * m[j])
        n[j], r[j], z[j] = n_j, r_j, z_j
        h[j] = n_j + z_j * (h_before[j] - n_j)


@compiled
def gru_backward(gates, h_before, grad_output, grad_h, grad_gates, size, one):  # type: ignore[no-untyped-def]
    """One row at one time: gradient of h in, of the gates and, in part, of the h before out."""
    padded = len(gates) // 4
    n, r = gates[:padded], gates[padded : 2 * padded]
    z, m = gates[2 * padded : 3 * padded], gates[3 * padded :]
    grad_n, grad_r = grad_gates[:padded], grad_gates[padded : 2 * padded]
    grad_z, grad_m = grad_gates[2 * padded : 3 * padded], grad_gates[3 * padded :]
    for j in range(size):
        dh = grad_h[j] + grad_output[j]
        dn = dh * (one - z[j]) * (one - n[j] * n[j])
        grad_n[j] = dn
        grad_r[j] = dn * m[j] * r[j] * (one - r[j])
        grad_z[j] = dh * (h_before[j] - n[j]) * z[j] * (one - z[j])
        grad_m[j] = dn * r[j]
        grad_h[j] = dh * z[j]


@compiled
def rnn_forward(kind, gates, h, size, half):  # type: ignore[no-untyped-def]
    """One row at one time: activation in, h out."""
    if kind == Kind.TANH:
        for j in range(size):
            h[j] = tanh(gates[j])
    elif kind == Kind.RELU:
        for j in range(size):
            a = gates[j]
            h[j] = half - half if a < 0 else a
    else:
        for j in range(size):
            h[j] = half + half * tanh(half * gates[j])


@compiled
def rnn_backward(kind, h, grad_output, grad_h, grad_gates, size, one):  # type: ignore[no-untyped-def]
    """One row at one time: gradient of h in, of the activation out."""
    if kind == Kind.TANH:
        for j in range(size):
            grad_gates[j] = (grad_h[j] + grad_output[j]) * (one - h[j] * h[j])
    elif kind == Kind.RELU:
        for j in range(size):
            grad_gates[j] = grad_h[j] + grad_output[j] if h[j] > 0 else one - one
    else:
        for j in range(size):
            grad_gates[j] = (grad_h[j] + grad_output[j]) * h[j] * (one - h[j])
    for j in range(size):
        grad_h[j] = 0


@compiled
def shape(job):  # type: ignore[no-untyped-def]
    """T, B, E, H, P, the areas of a time step, and how many of them the input adds to."""
    size = job[Job.HIDDEN]
    padded = (size + COLUMNS - 1) // COLUMNS * COLUMNS
    areas, from_input = 1, 1
    if job[Job.KIND] == Kind.LSTM:
        areas, from_input = 4, 4
    elif job[Job.KIND] == Kind.GRU:
        areas, from_input = 4, 3
    return job[Job.STEPS], job[Job.ROWS], job[Job.INPUT], size, padded, areas, from_input


@njit(nogil=True, cache=True, error_model="numpy")
def forward(job, unit):  # type: ignore[no-untyped-def]
    """Run blocks of rows through all time steps, filling STATES, CELLS and GATES.

    Args:
        job: int64, see Job; the other arrays of a training step may be absent.
        unit: The number 1 in the type of all arrays.
    """
    half = unit / (unit + unit)
    steps, rows, inputs, size, padded, areas, from_input = shape(job)
    kind, backward = job[Job.KIND], job[Job.BACKWARD]
    width = areas * padded
    panels = from_input * padded // COLUMNS
    # The last so many areas, where the GRU has one more than the input adds to.
    state_panel = (areas - from_input) * padded // COLUMNS
    x = view(job, Job.X, steps * rows * inputs, unit)
    bias = view(job, Job.BIAS, width, unit)
    weight_ih = view(job, Job.WEIGHT_IH, panels * COLUMNS * inputs, unit)
    weight_hh = view(job, Job.WEIGHT_HH, panels * COLUMNS * size, unit)
    states = view(job, Job.STATES, (steps + 1) * rows * size, unit)
    cells = view(job, Job.CELLS, (steps + 1) * rows * size if kind == Kind.LSTM else 0, unit)
    gates = view(job, Job.GATES, steps * rows * width, unit)
    lengths = view(job, Job.LENGTHS, rows if job[Job.LENGTHS] else 0, np.int64(0))
    while True:
        block = claim(job)
        if block >= job[Job.BLOCKS]:
            break
        low = rows * block // job[Job.BLOCKS]
        high = rows * (block + 1) // job[Job.BLOCKS]
        for step in range(steps):
            t = steps - 1 - step if backward else step
            first = t * rows + low
            before = (first + rows if backward else first) * size
            after = (first if backward else first + rows) * size
            for r in range(high - low):
                copy(bias, gates[(first + r) * width : (first + r + 1) * width])
            for panel in range(width // COLUMNS):  # both products, while its sums are at hand
                at = first * width + panel * COLUMNS
                if panel < panels:
                    tile_rows(
                        *(x, first * inputs, inputs, 1, high - low),
                        *(weight_ih, panel * inputs * COLUMNS, inputs, gates, at, width),
                    )
                p = panel - state_panel
                if p >= 0:
                    tile_rows(
                        *(states, before, size, 1, high - low),
                        *(weight_hh, p * size * COLUMNS, size, gates, at, width),
                    )
            for r in range(high - low):
                row = gates[(first + r) * width : (first + r + 1) * width]
                b, a = before + r * size, after + r * size
                h_before, h = states[b : b + size], states[a : a + size]
                if len(lengths) and t >= lengths[low + r]:
                    copy(h_before, h)
                    if kind == Kind.LSTM:
                        copy(cells[b : b + size], cells[a : a + size])
                elif kind == Kind.LSTM:
                    lstm_forward(row, cells[b : b + size], cells[a : a + size], h, size, half)
                elif kind == Kind.GRU:
                    gru_forward(row, h_before, h, size, half)
                else:
                    rnn_forward(kind, row, h, size, half)


@njit(nogil=True, cache=True, error_model="numpy")
def backward(job, unit):  # type: ignore[no-untyped-def]
    """Run blocks of rows back through all time steps.

    Turns GRAD_STATE and GRAD_CELL into those of the first state, adds to GRAD_X if that is there,
    and fills the panels from which ``weights`` makes the gradients of the weights.

    Args:
        job: int64, see Job; STATES, CELLS and GATES as ``forward`` left them.
        unit: The number 1 in the type of all arrays.
    """
    steps, rows, inputs, size, padded, areas, from_input = shape(job)
    kind, backward = job[Job.KIND], job[Job.BACKWARD]
    width, depth = areas * padded, from_input * padded
    state_at = (areas - from_input) * padded
    x_panels = (inputs + COLUMNS - 1) // COLUMNS
    h_panels = padded // COLUMNS
    steps_size = (steps + 1) * rows * size
    x = view(job, Job.X, steps * rows * inputs, unit)
    weight_ih = view(job, Job.WEIGHT_IH, depth * x_panels * COLUMNS, unit)
    weight_hh = view(job, Job.WEIGHT_HH, depth * padded, unit)
    states = view(job, Job.STATES, steps_size, unit)
    cells = view(job, Job.CELLS, steps_size if kind == Kind.LSTM else 0, unit)
    gates = view(job, Job.GATES, steps * rows * width, unit)
    grad_output = view(job, Job.GRAD_OUTPUT, steps * rows * size, unit)
    grad_state = view(job, Job.GRAD_STATE, rows * padded, unit)
    grad_cell = view(job, Job.GRAD_CELL, rows * size if kind == Kind.LSTM else 0, unit)
    # Rows a power of two apart would meet in the same places of the cache.
    row_width = width + COLUMNS
    grad_gates = view(job, Job.GRAD_GATES, rows * row_width, unit)
    x_width = x_panels * COLUMNS if job[Job.GRAD_X] else 0
    grad_x = view(job, Job.GRAD_X, steps * rows * x_width, unit)
    all_steps = steps * rows
    gates_out = view(job, Job.GATE_PANELS, all_steps * width, unit)
    x_out = view(job, Job.X_PANELS, all_steps * x_panels * COLUMNS, unit)
    h_out = view(job, Job.H_PANELS, all_steps * padded, unit)
    lengths = view(job, Job.LENGTHS, rows if job[Job.LENGTHS] else 0, np.int64(0))
    while True:
        block = claim(job)
        if block >= job[Job.BLOCKS]:
            break
        low = rows * block // job[Job.BLOCKS]
        high = rows * (block + 1) // job[Job.BLOCKS]
        for step in range(steps):
            t = step if backward else steps - 1 - step
            first = t * rows + low
            before = (first + rows if backward else first) * size
            after = (first if backward else first + rows) * size
            for r in range(high - low):
                row = gates[(first + r) * width : (first + r + 1) * width]
                b, a = before + r * size, after + r * size
                h_before, h = states[b : b + size], states[a : a + size]
                out = grad_output[(first + r) * size : (first + r + 1) * size]
                grad_h = grad_state[(low + r) * padded : (low + r + 1) * padded]
                grad_row = grad_gates[(low + r) * row_width : (low + r) * row_width + width]
                if len(lengths) and t >= lengths[low + r]:
                    clear(grad_row)
                elif kind == Kind.LSTM:
                    grad_c = grad_cell[(low + r) * size : (low + r + 1) * size]
                    c_before, c = cells[b : b + size], cells[a : a + size]
                    lstm_backward(row, c_before, c, out, grad_h, grad_c, grad_row, size, unit)
                elif kind == Kind.GRU:
                    gru_backward(row, h_before, out, grad_h, grad_row, size, unit)
                else:
                    rnn_backward(kind, h, out, grad_h, grad_row, size, unit)
            product(
                *(grad_gates, low * row_width + state_at, row_width, high - low, depth),
                *(weight_hh, h_panels, grad_state, low * padded, padded),
            )
            if x_width:
                product(
                    *(grad_gates, low * row_width, row_width, high - low, depth),
                    *(weight_ih, x_panels, grad_x, first * x_width, x_width),
                )
            to_panels(
                *(grad_gates, low * row_width, row_width, high - low, width),
                *(gates_out, all_steps, first),
            )
            to_panels(x, first * inputs, inputs, high - low, inputs, x_out, all_steps, first)
            to_panels(states, before, size, high - low, size, h_out, all_steps, first)


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def weights(job, unit):  # type: ignore[no-untyped-def]
    """Make the gradients of the weights from the panels that ``backward`` filled.

    Args:
        job: int64, see Job; the blocks are the panels of the gates.
        unit: The number 1 in the type of all arrays.
    """
    steps, rows, inputs, size, padded, areas, from_input = shape(job)
    all_steps = steps * rows
    width = areas * padded
    depth = from_input * padded
    x_panels = (inputs + COLUMNS - 1) // COLUMNS
    h_panels = padded // COLUMNS
    gates = view(job, Job.GATE_PANELS, all_steps * width, unit)
    x = view(job, Job.X_PANELS, all_steps * x_panels * COLUMNS, unit)
    h = view(job, Job.H_PANELS, all_steps * padded, unit)
    grad_ih = view(job, Job.GRAD_WEIGHT_IH, depth * inputs, unit)
    grad_hh = view(job, Job.GRAD_WEIGHT_HH, depth * size, unit)
    grad_bias = view(job, Job.GRAD_BIAS, width, unit)
    tile = COLUMNS * COLUMNS
    tiles = x_panels + h_panels  # for each panel of the gates
    sums = np.empty(GROUP * tiles * tile, dtype=gates.dtype)
    while True:
        group = claim(job) * GROUP
        if group >= width // COLUMNS:
            break
        clear(sums)
        panels = range(group, min(group + GROUP, width // COLUMNS))
        for top in range(0, all_steps, DEPTH):
            k = min(DEPTH, all_steps - top)
            for p in range(tiles):
                of_input = p < x_panels
                left = x if of_input else h
                a = ((p if of_input else p - x_panels) * all_steps + top) * COLUMNS
                for panel in panels:
                    if panel * COLUMNS < depth if of_input else panel * COLUMNS >= width - depth:
                        start = (panel * all_steps + top) * COLUMNS
                        at = ((panel - group) * tiles + p) * tile
                        tile_rows(
                            left, a, 1, COLUMNS, COLUMNS, gates, start, k, sums, at, COLUMNS
                        )
        for panel in panels:
            row = panel * COLUMNS
            start = row * all_steps
            sum_rows(gates[start : start + COLUMNS * all_steps], grad_bias[row : row + COLUMNS])
            mine = sums[(panel - group) * tiles * tile : (panel - group + 1) * tiles * tile]
            if row < depth:
                transpose_tiles(mine, inputs, grad_ih[row * inputs : (row + COLUMNS) * inputs])
            row -= width - depth
            if row >= 0:
                target = grad_hh[row * size : (row + COLUMNS) * size]
                transpose_tiles(mine[x_panels * tile :], size, target)


@compiled
def sum_rows(panel, total):  # type: ignore[no-untyped-def]
    """The sum of the rows of one panel, (16,)."""
    clear(total)
    for start in range(0, len(panel), COLUMNS):
        row = panel[start : start + COLUMNS]
        for j in range(COLUMNS):
            total[j] += row[j]


@compiled
def transpose_tiles(tiles, width, target):  # type: ignore[no-untyped-def]
    """Tiles (width rounded up / 16, 16, 16) one below the other to their transpose (16, width)."""
    for column in range(width):
        for row in range(COLUMNS):
            target[row * width + column] = tiles[column * COLUMNS + row]


# What a team of threads calls: C functions of the job's address, for float32.
_ENTRY = types.void(types.CPointer(types.int64))


@cfunc(_ENTRY, cache=True)
def forward_entry(job):  # type: ignore[no-untyped-def]
    """``forward`` for float32."""
    forward(carray(job, FIELDS), np.float32(1))


@cfunc(_ENTRY, cache=True)
def backward_entry(job):  # type: ignore[no-untyped-def]
    """``backward`` for float32."""
    backward(carray(job, FIELDS), np.float32(1))


@cfunc(_ENTRY, cache=True)
def weights_entry(job):  # type: ignore[no-untyped-def]
    """``weights`` for float32."""
    weights(carray(job, FIELDS), np.float32(1))
