"""Matrix products and activations of the compiled engine, on vectors.

Every sum is added in one order that depends on its length only: a text's numbers are the same to
the bit whatever stands beside it in a batch, however many tokens are read at once and however many
threads share the rows. With int8 weights the sums are whole numbers, so exact.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from seqtool.compiled import inlined
from seqtool.tiles import COLUMNS, product
from seqtool.vectors import (
    LANES,
    SHIFT,
    add_products,
    add_sums,
    as_floats,
    fma,
    is_quantized,
    larger,
    largest,
    load,
    load_pair,
    power_of_two,
    smaller,
    splat,
    stay_apart,
    store,
    zero,
)

Array = np.ndarray[Any, Any]

ROWS = 2 * LANES  # of int8, stored and multiplied together
LOG2E = np.float32(1 / np.log(2))
LN2_HIGH = np.float32(0.693359375)  # exact in few bits: its product with a whole number is exact
LN2_LOW = np.float32(np.log(2) - 0.693359375)
TAYLOR = tuple(np.float32(1 / np.prod(np.arange(1.0, k + 1))) for k in range(8))
MAX_EXPONENT = np.float32(87)  # exp of it is a float32, and of its negative a normal one
HALF_RANGE = 32767  # of int16
ONE, TWO, NOUGHT = np.float32(1), np.float32(2), np.float32(0)


class Matrices(NamedTuple):
    """Weight matrices one after the other, their rows padded with zeros, see quantize.

    Attributes:
        weights: (N,) float32 or int8. A float32 matrix (R, K) is stored as panels, (R / 16, K, 16),
            see tiles. One of int8 as (R / ROWS, K / 2, ROWS, 2): what meets the same two numbers
            of a vector stands together, a lane sums up one row, and memory is read in one stream.
        scales: What a row's products are multiplied by, (R,) float32.
        biases: What is added to them, (R,) float32.
        layout: (M, 3) int64: for each matrix its first weight, first row, and width in weights.
        code: An empty array of the type that vectors must have: int16 or float32.
    """

    weights: Array
    scales: Array
    biases: Array
    layout: Array
    code: Array


@inlined
def exponential(x: Any) -> Any:
    """exp of each lane, relative error below 2e-7; beyond +-87 that of +-87.

    2^n e^r with n whole and |r| <= ln(2) / 2, e^r from its Taylor series to the seventh power.
    """
    x = smaller(larger(x, splat(-MAX_EXPONENT)), splat(MAX_EXPONENT))
    shifted = fma(x, splat(LOG2E), splat(SHIFT))
    n = shifted - splat(SHIFT)
    r = fma(n, splat(-LN2_LOW), fma(n, splat(-LN2_HIGH), x))
    series = splat(TAYLOR[7])
    series = fma(series, r, splat(TAYLOR[6]))
    series = fma(series, r, splat(TAYLOR[5]))
    series = fma(series, r, splat(TAYLOR[4]))
    series = fma(series, r, splat(TAYLOR[3]))
    series = fma(series, r, splat(TAYLOR[2]))
    series = fma(series, r, splat(ONE))
    series = fma(series, r, splat(ONE))
    return series * power_of_two(shifted)


@inlined
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) of each lane, absolute error below 2e-7."""
    return splat(ONE) / (splat(ONE) + exponential(splat(NOUGHT) - x))


@inlined
def tanh(x: Any) -> Any:
    """1 - 2 / (1 + exp(2x)) of each lane, absolute error below 3e-7."""
    return splat(ONE) - splat(TWO) / (splat(ONE) + exponential(x + x))


@inlined
def encode(values: Array, first: int, size: int, codes: Array, start: int) -> Any:
    """Bring values into the form that the weights are multiplied with.

    For float32 weights that is a copy. For int8 weights it is int16, spread so that the largest
    value gets the largest number with which a sum of ``size`` products cannot overflow.

    Args:
        values: float32, of which ``size`` from ``first`` on are read.
        size: A multiple of LANES, for int8 weights of twice that.
        codes: Where they are put from ``start`` on; int16 or float32.

    Returns:
        What the products are to be multiplied by, float32.
    """
    if not is_quantized(codes):
        for k in range(0, size, LANES):
            store(codes, start + k, load(values, first + k))
        return ONE
    peaks = splat(NOUGHT)
    for k in range(0, size, LANES):
        value = load(values, first + k)
        peaks = larger(peaks, larger(value, splat(NOUGHT) - value))
    peak = largest(peaks)
    most = np.float32(min(HALF_RANGE, (2**31 - 1) // (127 * size)))
    if not peak > NOUGHT:
        for k in range(0, size, LANES):
            store(codes, start + k, splat(NOUGHT))
        return ONE
    factor = splat(most / peak)
    for k in range(0, size, LANES):
        rounded = fma(load(values, first + k), factor, splat(SHIFT)) - splat(SHIFT)
        store(codes, start + k, rounded)
    return np.float32(peak / most)


@inlined
def encode_rows(
    values: Array, first: int, width: int, count: int, codes: Array, factors: Array
) -> None:
    """Encode ``count`` rows that follow each other, from ``first`` on; codes are flat, from 0."""
    for i in range(count):
        factors[i] = encode(values, first + i * width, width, codes, i * width)


@inlined
def finish(
    matrices: Matrices, row: int, a: Any, b: Any, factor: np.float32, out: Array, there: int
) -> None:
    """Scale the sums of a block's rows, add their biases, and put them into ``out``."""
    scale = splat(factor)
    low = as_floats(a) * (load(matrices.scales, row) * scale)
    high = as_floats(b) * (load(matrices.scales, row + LANES) * scale)
    store(out, there, low + load(matrices.biases, row))
    store(out, there + LANES, high + load(matrices.biases, row + LANES))


def multiply(
    matrices: Matrices,
    matrix: int,
    first: int,
    last: int,
    codes: Array,
    factors: Array,
    count: int,
    out: Array,
    stride: int,
) -> None:
    """Some rows of a matrix times several vectors, plus the bias: out[m, r] = W[r] x[m] + b[r].

    Args:
        matrices: Holds the matrix.
        matrix: Its number in the layout.
        first: First row, a multiple of COLUMNS and with int8 weights of ROWS.
        last: Row to stop before, a multiple of the same.
        codes: The vectors, one after the other, each as wide as the matrix, from ``encode``.
        factors: What ``encode`` returned for each, (count,).
        count: Number of vectors.
        out: Results, a row of ``stride`` numbers for each vector.
        stride: At least ``last``.
    """
    raise TypeError("products are for compiled code; in Python there is NumPy")


def multiply_floats(
    matrices: Matrices,
    matrix: int,
    first: int,
    last: int,
    codes: Array,
    factors: Array,
    count: int,
    out: Array,
    stride: int,
) -> None:
    """``multiply`` with float32 weights: each sum begins with the bias."""
    stay_apart()
    weight, row, width = matrices.layout[matrix]
    for m in range(count):
        for r in range(first, last, LANES):
            store(out, m * stride + r, load(matrices.biases, row + r))
    product(
        codes, 0, width, count, width,
        matrices.weights, weight + first * width, (last - first) // COLUMNS,
        out, first, stride,
    )  # fmt: skip


def multiply_words(
    matrices: Matrices,
    matrix: int,
    first: int,
    last: int,
    codes: Array,
    factors: Array,
    count: int,
    out: Array,
    stride: int,
) -> None:
    """``multiply`` with int8 weights, whole blocks of rows."""
    stay_apart()
    weights, layout = matrices.weights, matrices.layout
    width = layout[matrix, 2]
    for r in range(first, last, ROWS):
        block, row = layout[matrix, 0] + r * width, layout[matrix, 1] + r
        m = 0
        while m + 4 <= count:
            x0, x1, x2, x3 = m * width, (m + 1) * width, (m + 2) * width, (m + 3) * width
            a0, a1, a2, a3 = zero(weights), zero(weights), zero(weights), zero(weights)
            b0, b1, b2, b3 = zero(weights), zero(weights), zero(weights), zero(weights)
            for k in range(0, width, 2):
                p = block + k * ROWS
                a, b = load(weights, p), load(weights, p + ROWS)
                v = load_pair(codes, x0 + k)
                a0, b0 = add_products(a0, a, v), add_products(b0, b, v)
                v = load_pair(codes, x1 + k)
                a1, b1 = add_products(a1, a, v), add_products(b1, b, v)
                v = load_pair(codes, x2 + k)
                a2, b2 = add_products(a2, a, v), add_products(b2, b, v)
                v = load_pair(codes, x3 + k)
                a3, b3 = add_products(a3, a, v), add_products(b3, b, v)
            there = m * stride + r
            finish(matrices, row, a0, b0, factors[m], out, there)
            finish(matrices, row, a1, b1, factors[m + 1], out, there + stride)
            finish(matrices, row, a2, b2, factors[m + 2], out, there + 2 * stride)
            finish(matrices, row, a3, b3, factors[m + 3], out, there + 3 * stride)
            m += 4
        while m < count:  # four sums for each row, as one would wait for its last product
            x = m * width
            a0, a1, a2, a3 = zero(weights), zero(weights), zero(weights), zero(weights)
            b0, b1, b2, b3 = zero(weights), zero(weights), zero(weights), zero(weights)
            for k in range(0, width, 8):
                p = block + k * ROWS
                v = load_pair(codes, x + k)
                a0 = add_products(a0, load(weights, p), v)
                b0 = add_products(b0, load(weights, p + ROWS), v)
                v = load_pair(codes, x + k + 2)
                a1 = add_products(a1, load(weights, p + 2 * ROWS), v)
                b1 = add_products(b1, load(weights, p + 3 * ROWS), v)
                v = load_pair(codes, x + k + 4)
                a2 = add_products(a2, load(weights, p + 4 * ROWS), v)
                b2 = add_products(b2, load(weights, p + 5 * ROWS), v)
                v = load_pair(codes, x + k + 6)
                a3 = add_products(a3, load(weights, p + 6 * ROWS), v)
                b3 = add_products(b3, load(weights, p + 7 * ROWS), v)
            a, b = add_sums(a0, a1), add_sums(b0, b1)
            a, b = add_sums(a, add_sums(a2, a3)), add_sums(b, add_sums(b2, b3))
            finish(matrices, row, a, b, factors[m], out, m * stride + r)
            m += 1


def _typed_multiply(matrices: Any, *others: Any) -> Any:
    return multiply_floats if matrices[0].dtype == types.float32 else multiply_words


overload(multiply, jit_options={"nogil": True}, strict=False)(_typed_multiply)
