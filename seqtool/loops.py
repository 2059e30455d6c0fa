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

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.np.numpy_support import carray

from seqtool.compiled import arithmetic, callback, inlined
from seqtool.pointwise import (
    GRU,
    KINDS,
    LSTM,
    clear,
    copy,
    gru_backward,
    gru_forward,
    lstm_backward,
    lstm_forward,
    rnn_backward,
    rnn_forward,
)
from seqtool.tiles import (
    ABREAST,
    COLUMNS,
    abreast,
    claim,
    pack,
    prefetch,
    product,
    tile_rows,
    view,
)


class Job(IntEnum):
    """Places of the job array: counts first, then addresses of contiguous arrays, 0 for none."""

    NEXT = 0  # the next block to claim; ``claim`` wants it first
    BLOCKS = 1  # into how many the rows (or, for weights, the panels) are cut
    BACKWARD = 2  # 1: reads from the last time step to the first
    STEPS = 3  # T
    ROWS = 4  # B
    INPUT = 5  # E
    HIDDEN = 6  # H
    LENGTHS = 7  # (B,) int64, the steps that each row really has
    X = 8  # (T, B, E)
    BIAS = 9  # (areas P,), the sum of both where they meet
    WEIGHT_IH = 10  # panels of what multiplies the input (forward) or the gates (backward)
    WEIGHT_HH = 11
    STATES = 12  # (T + 1, B, H): h, with the start at the end that is read first
    CELLS = 13  # (T + 1, B, H): c of an LSTM
    GATES = 14  # (T, B, areas P), or (1, B, areas P) if backward does not need them
    GRAD_OUTPUT = 15  # (T, B, H)
    GRAD_STATE = 16  # (B, P): of the final h, turned into that of the first
    GRAD_CELL = 17  # (B, H): the same of c
    GRAD_GATES = 18  # (T, B, areas P + 16): the last 16 unused, lest rows share places of a cache
    GRAD_X = 19  # (T, B, E rounded up)
    GRAD_WEIGHT_IH = 20  # (input areas P, E)
    GRAD_WEIGHT_HH = 21  # (state areas P, H)
    GRAD_BIAS = 22  # (areas P,)
    KEEP = 23  # 1: forward keeps the gates of all time steps
    MATRIX_IH = 24  # (gates H, E) as torch has it: what the panels of weights are made of
    MATRIX_HH = 25  # (gates H, H)


# Rows that go through time together: enough that reading the weights does not set the pace, few
# enough that their gates stay in the second-level cache.
BLOCK_ROWS = 16 * ABREAST
FIELDS = len(Job)
TILE = COLUMNS * COLUMNS
# Rows of a chunk, which are packed together for the gradients of the weights: 8 KB of a panel of
# float32, a quarter of a first-level cache.
DEPTH = 128
PANEL = DEPTH * COLUMNS


def count_blocks(size: int, best: int, threads: int) -> int:
    """How many blocks of about the best size to cut work into: if possible, equal for all threads.

    The result of the work does not depend on it.
    """
    return min(size, threads * max(1, round(size / (threads * best))))


def areas(kind: int) -> tuple[int, int]:
    """Areas of a time step, and how many of them the input adds to."""
    return {LSTM: (4, 4), GRU: (4, 3)}.get(kind, (1, 1))


@arithmetic
def gate_of(kind: Any, area: Any, of_input: Any) -> Any:
    """Where torch has the gate of an area: the n of a GRU, here first of the input's, is last."""
    if kind == GRU and of_input:
        return (area + 2) % 3
    return area


@arithmetic
def panels(size: Any) -> Any:
    """How many panels hold so many columns."""
    return (size + COLUMNS - 1) // COLUMNS


@arithmetic
def sizes(job: Any) -> Any:
    """T, B, E, H, P."""
    size = job[Job.HIDDEN]
    return job[Job.STEPS], job[Job.ROWS], job[Job.INPUT], size, panels(size) * COLUMNS


@inlined
def next_block(job: Any, size: Any) -> Any:
    """Claim a block of ``size`` rows or panels: the first and the one to stop before, or no more.

    Blocks are at most as many as there are rows or panels, so that none of them is empty.
    """
    block, blocks = claim(job), job[Job.BLOCKS]
    if block >= blocks:
        return size, size
    return size * block // blocks, size * (block + 1) // blocks


@arithmetic
def add_rows(panel: Any, total: Any) -> None:
    """Add up the rows of a panel, into (16,)."""
    for start in range(0, len(panel), COLUMNS):
        row = panel[start : start + COLUMNS]
        for j in range(COLUMNS):
            total[j] += row[j]


@arithmetic
def transpose_tiles(tiles: Any, width: Any, target: Any) -> None:
    """Tiles (width rounded up / 16, 16, 16) one below the other to their transpose (16, width)."""
    for column in range(width):
        for row in range(COLUMNS):
            target[row * width + column] = tiles[column * COLUMNS + row]


def _rows_to_panels(kind: int, unit: Any) -> Callable[[Any], None]:
    """Panels for forward: WEIGHT_IH (input areas P / 16, E, 16) and WEIGHT_HH of the matrices."""
    _, from_input = areas(kind)

    def rows_to_panels(address: Any) -> None:
        job = carray(address, FIELDS)
        _, _, inputs, size, padded = sizes(job)
        gates = from_input * size
        count = from_input * padded // COLUMNS  # of either
        matrix_ih = view(job, Job.MATRIX_IH, gates * inputs, unit)
        matrix_hh = view(job, Job.MATRIX_HH, gates * size, unit)
        weight_ih = view(job, Job.WEIGHT_IH, count * COLUMNS * inputs, unit)
        weight_hh = view(job, Job.WEIGHT_HH, count * COLUMNS * size, unit)
        while True:
            low, high = next_block(job, 2 * count)
            if low == high:
                break
            for i in range(low, high):
                source, target, width, panel = matrix_ih, weight_ih, inputs, i
                if i >= count:
                    source, target, width, panel = matrix_hh, weight_hh, size, i - count
                gate = gate_of(kind, panel * COLUMNS // padded, i < count)
                for j in range(COLUMNS):
                    at = panel * COLUMNS * width + j
                    row = panel * COLUMNS % padded + j
                    if row < size:
                        start = (gate * size + row) * width
                        for k in range(width):
                            target[at + k * COLUMNS] = source[start + k]
                    else:
                        for k in range(width):
                            target[at + k * COLUMNS] = 0

    return rows_to_panels


def _columns_to_panels(kind: int, unit: Any) -> Callable[[Any], None]:
    """Panels for backward: WEIGHT_IH (E rounded up / 16, gates P, 16), if wanted, WEIGHT_HH too."""
    _, from_input = areas(kind)

    def columns_to_panels(address: Any) -> None:
        job = carray(address, FIELDS)
        _, _, inputs, size, padded = sizes(job)
        gates, depth = from_input * size, from_input * padded
        x_panels = panels(inputs) if job[Job.WEIGHT_IH] else 0
        count = x_panels + panels(size)
        matrix_ih = view(job, Job.MATRIX_IH, gates * inputs, unit)
        matrix_hh = view(job, Job.MATRIX_HH, gates * size, unit)
        weight_ih = view(job, Job.WEIGHT_IH, x_panels * depth * COLUMNS, unit)
        weight_hh = view(job, Job.WEIGHT_HH, depth * padded, unit)
        while True:
            low, high = next_block(job, count)
            if low == high:
                break
            for i in range(low, high):
                source, target, width, panel = matrix_ih, weight_ih, inputs, i
                if i >= x_panels:
                    source, target, width, panel = matrix_hh, weight_hh, size, i - x_panels
                for area in range(from_input):
                    gate = gate_of(kind, area, i < x_panels)
                    at = (panel * depth + area * padded) * COLUMNS
                    start = gate * size * width + panel * COLUMNS
                    here = target[at : at + padded * COLUMNS]
                    pack(source, start, width, size, width - panel * COLUMNS, here, 0, 1)
                    clear(here[size * COLUMNS :])

    return columns_to_panels


def _forward(kind: int, unit: Any) -> Callable[[Any], None]:
    """All time steps of blocks of rows: fills STATES, CELLS and GATES."""
    num_areas, from_input = areas(kind)
    half = unit / 2

    def forward(address: Any) -> None:
        job = carray(address, FIELDS)
        steps, rows, inputs, size, padded = sizes(job)
        width = num_areas * padded
        state_panel = (num_areas - from_input) * padded // COLUMNS
        input_panels = from_input * padded // COLUMNS
        x = view(job, Job.X, steps * rows * inputs, unit)
        bias = view(job, Job.BIAS, width, unit)
        weight_ih = view(job, Job.WEIGHT_IH, from_input * padded * inputs, unit)
        weight_hh = view(job, Job.WEIGHT_HH, from_input * padded * size, unit)
        states = view(job, Job.STATES, (steps + 1) * rows * size, unit)
        cells = view(job, Job.CELLS, (steps + 1) * rows * size if kind == LSTM else 0, unit)
        keep = job[Job.KEEP]
        gates = view(job, Job.GATES, (steps if keep else 1) * rows * width, unit)
        lengths = view(job, Job.LENGTHS, rows if job[Job.LENGTHS] else 0, np.int64(0))
        while True:
            low, high = next_block(job, rows)
            if low == high:
                break
            for step in range(steps):
                t = steps - 1 - step if job[Job.BACKWARD] else step
                first = t * rows + low
                before = (first + rows if job[Job.BACKWARD] else first) * size
                after = (first if job[Job.BACKWARD] else first + rows) * size
                area = first if keep else low
                for r in range(high - low):
                    copy(bias, gates[(area + r) * width : (area + r + 1) * width])
                panel, most = 0, abreast(high - low)
                while panel < width // COLUMNS:  # both products while its sums are at hand
                    at = area * width + panel * COLUMNS
                    # Up to where one of the products begins or ends.
                    end = input_panels if panel < input_panels else width // COLUMNS
                    end = state_panel if panel < state_panel else end
                    count = min(most, end - panel)
                    if panel < input_panels:
                        tile_rows(
                            x, first * inputs, inputs, 1, high - low,
                            weight_ih, panel * inputs * COLUMNS, inputs * COLUMNS, count, inputs,
                            gates, at, width, COLUMNS,
                        )  # fmt: skip
                    p = panel - state_panel
                    if p >= 0:
                        tile_rows(
                            states, before, size, 1, high - low,
                            weight_hh, p * size * COLUMNS, size * COLUMNS, count, size,
                            gates, at, width, COLUMNS,
                        )  # fmt: skip
                    panel += count
                for r in range(high - low):
                    row = gates[(area + r) * width : (area + r + 1) * width]
                    b, a = before + r * size, after + r * size
                    h_before, h = states[b : b + size], states[a : a + size]
                    if len(lengths) and t >= lengths[low + r]:
                        copy(h_before, h)
                        if kind == LSTM:
                            copy(cells[b : b + size], cells[a : a + size])
                    elif kind == LSTM:
                        lstm_forward(row, cells[b : b + size], cells[a : a + size], h, size, half)
                    elif kind == GRU:
                        gru_forward(row, h_before, h, size, half)
                    else:
                        rnn_forward(kind, row, h, size, half)

    return forward


def _backward(kind: int, unit: Any) -> Callable[[Any], None]:
    """Blocks of rows back through all time steps.

    Turns GRAD_STATE and GRAD_CELL into those of the first state and fills GRAD_GATES, and GRAD_X if
    that is there.
    """
    num_areas, from_input = areas(kind)

    def backward(address: Any) -> None:
        job = carray(address, FIELDS)
        steps, rows, inputs, size, padded = sizes(job)
        width, depth = num_areas * padded, from_input * padded
        x_panels, h_panels = panels(inputs), panels(size)
        weight_ih = view(job, Job.WEIGHT_IH, depth * x_panels * COLUMNS, unit)
        weight_hh = view(job, Job.WEIGHT_HH, depth * padded, unit)
        states = view(job, Job.STATES, (steps + 1) * rows * size, unit)
        cells = view(job, Job.CELLS, (steps + 1) * rows * size if kind == LSTM else 0, unit)
        kept = steps * rows * width if kind in (LSTM, GRU) else 0  # others need the states only
        gates = view(job, Job.GATES, kept, unit)
        grad_output = view(job, Job.GRAD_OUTPUT, steps * rows * size, unit)
        grad_state = view(job, Job.GRAD_STATE, rows * padded, unit)
        grad_cell = view(job, Job.GRAD_CELL, rows * size if kind == LSTM else 0, unit)
        row_width = width + COLUMNS
        grad_gates = view(job, Job.GRAD_GATES, steps * rows * row_width, unit)
        x_width = x_panels * COLUMNS if job[Job.GRAD_X] else 0
        grad_x = view(job, Job.GRAD_X, steps * rows * x_width, unit)
        lengths = view(job, Job.LENGTHS, rows if job[Job.LENGTHS] else 0, np.int64(0))
        while True:
            low, high = next_block(job, rows)
            if low == high:
                break
            for step in range(steps):
                t = step if job[Job.BACKWARD] else steps - 1 - step
                first = t * rows + low
                before = (first + rows if job[Job.BACKWARD] else first) * size
                after = (first if job[Job.BACKWARD] else first + rows) * size
                grad_at = first * row_width
                for r in range(high - low):
                    row = gates[(first + r) * width : (first + r + 1) * width]
                    b, a = before + r * size, after + r * size
                    h_before, h = states[b : b + size], states[a : a + size]
                    out = grad_output[(first + r) * size : (first + r + 1) * size]
                    grad_h = grad_state[(low + r) * padded : (low + r + 1) * padded]
                    at = grad_at + r * row_width
                    grad_row = grad_gates[at : at + width]
                    if len(lengths) and t >= lengths[low + r]:
                        clear(grad_row)
                    elif kind == LSTM:
                        grad_c = grad_cell[(low + r) * size : (low + r + 1) * size]
                        c_before, c = cells[b : b + size], cells[a : a + size]
                        lstm_backward(row, c_before, c, out, grad_h, grad_c, grad_row, size, unit)
                    elif kind == GRU:
                        gru_backward(row, h_before, out, grad_h, grad_row, size, unit)
                    else:
                        rnn_backward(kind, h, out, grad_h, grad_row, size, unit)
                    for area in range(num_areas if size < padded else 0):
                        clear(grad_row[area * padded + size : (area + 1) * padded])
                product(
                    grad_gates, grad_at + width - depth, row_width, high - low, depth,
                    weight_hh, 0, h_panels, grad_state, low * padded, padded,
                )  # fmt: skip
                if x_width:
                    clear(grad_x[first * x_width : (first + high - low) * x_width])
                    product(
                        grad_gates, grad_at, row_width, high - low, depth,
                        weight_ih, 0, x_panels, grad_x, first * x_width, x_width,
                    )  # fmt: skip

    return backward


def _weights(kind: int, unit: Any) -> Callable[[Any], None]:
    """Gradients of the weights from those of the gates.

    The blocks are groups of panels of the gates. A chunk of their rows is packed, and then one
    panel after the other of what the gates were made from in these rows, x and then h, which is
    multiplied with all of the group while it is in the cache. So what is multiplied together lies
    together, and not at distances that fall on the same places of a cache.
    """
    num_areas, from_input = areas(kind)

    def weights(address: Any) -> None:
        job = carray(address, FIELDS)
        steps, rows, inputs, size, padded = sizes(job)
        all_rows = steps * rows
        width, depth = num_areas * padded, from_input * padded
        row_width = width + COLUMNS
        gate_panels, x_panels = width // COLUMNS, panels(inputs)
        grad_gates = view(job, Job.GRAD_GATES, all_rows * row_width, unit)
        x = view(job, Job.X, all_rows * inputs, unit)
        h = view(job, Job.STATES, (all_rows + rows) * size, unit)
        h_start = rows * size if job[Job.BACKWARD] else 0  # of h before the first row of gates
        grad_ih = view(job, Job.GRAD_WEIGHT_IH, depth * inputs, unit)
        grad_hh = view(job, Job.GRAD_WEIGHT_HH, depth * size, unit)
        grad_bias = view(job, Job.GRAD_BIAS, width, unit)
        tiles = x_panels + panels(size)  # for each panel of the gates
        most = (gate_panels + job[Job.BLOCKS] - 1) // job[Job.BLOCKS]
        sums = np.empty(most * tiles * TILE, dtype=grad_gates.dtype)
        packed = np.empty(most * PANEL, dtype=grad_gates.dtype)
        piece = np.empty(PANEL, dtype=grad_gates.dtype)
        while True:
            low, high = next_block(job, gate_panels)
            if low == high:
                break
            clear(sums)
            clear(grad_bias[low * COLUMNS : high * COLUMNS])
            for top in range(0, all_rows, DEPTH):
                k = min(DEPTH, all_rows - top)
                start = top * row_width + low * COLUMNS
                left = width - low * COLUMNS
                pack(grad_gates, start, row_width, k, left, packed, PANEL, high - low)
                for panel in range(low, high):
                    at = (panel - low) * PANEL
                    total = grad_bias[panel * COLUMNS : (panel + 1) * COLUMNS]
                    add_rows(packed[at : at + k * COLUMNS], total)
                source, stride, here = x, inputs, top * inputs
                for p in range(tiles):
                    # x meets the first panels of the gates, h the last.
                    begin, end, column = low, min(high, depth // COLUMNS), p * COLUMNS
                    if p >= x_panels:
                        begin, end = max(low, (width - depth) // COLUMNS), high
                        column -= x_panels * COLUMNS
                    if begin < end:
                        pack(source, here, stride, k, stride - column, piece, PANEL, 1)
                    here += COLUMNS
                    if p == x_panels - 1:
                        source, stride, here = h, size, h_start + top * size
                    for panel in range(begin, end, ABREAST):
                        count = min(ABREAST, end - panel)
                        into = ((panel - low) * tiles + p) * TILE
                        tile_rows(
                            piece, 0, 1, COLUMNS, COLUMNS,
                            packed, (panel - low) * PANEL, PANEL, count, k,
                            sums, into, COLUMNS, tiles * TILE,
                        )  # fmt: skip
                        # Meanwhile the next piece is on its way from memory.
                        first = k * (panel - begin) // (end - begin)
                        last = k * (panel - begin + count) // (end - begin)
                        for r in range(first, last):
                            prefetch(source, here + r * stride)
            for i in range(high - low):
                row = (low + i) * COLUMNS
                found = sums[i * tiles * TILE : (i + 1) * tiles * TILE]
                if row < depth:
                    transpose_tiles(found, inputs, grad_ih[row * inputs : (row + COLUMNS) * inputs])
                row -= width - depth
                if row >= 0:
                    target = grad_hh[row * size : (row + COLUMNS) * size]
                    transpose_tiles(found[x_panels * TILE :], size, target)

    return weights


MAKERS = {
    "rows to panels": _rows_to_panels,
    "forward": _forward,
    "columns to panels": _columns_to_panels,
    "backward": _backward,
    "weights": _weights,
}


@cache
def loop(name: str, kind: str, dtype: type[np.floating[Any]]) -> int:
    """The address of a loop as a C function of the address of a job, compiled if need be.

    Args:
        name: Key of MAKERS, which say what it does.
        kind: One of KINDS.
        dtype: Of all arrays but the lengths.
    """
    function = MAKERS[name](KINDS.index(kind), dtype(1))
    address_of_job = types.CPointer(types.int64)
    return callback(function, types.void(address_of_job))
