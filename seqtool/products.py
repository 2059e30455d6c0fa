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
    fma,
    is_quantized,
    larger,
    largest,
    load,
    load_four,
    power_of_two,
    smaller,
    splat,
    splat_four,
    stay_apart,
    store,
    totals,
    zero,
)

Array = np.ndarray[Any, Any]

ROWS = (
    8  # of int8, multiplied together and stored side by side, so that memory is read in one stream
)
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
            see tiles. One of int8 as blocks of 8 rows: the first 2 LANES weights of each of them,
            then the next of each, and so on.
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
    matrices: Matrices, row: int, sums: Any, factor: np.float32, out: Array, there: int
) -> None:
    """Scale the sums of four rows, add their biases, and put them into ``out``."""
    scaled = sums * (load_four(matrices.scales, row) * splat_four(factor))
    put = scaled + load_four(matrices.biases, row)
    store(out, there, put)


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
        first: First row, a multiple of COLUMNS.
        last: Row to stop before, a multiple of COLUMNS.
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
    """``multiply`` with int8 weights."""
    stay_apart()
    weights, layout = matrices.weights, matrices.layout
    width = layout[matrix, 2]
    lanes = 2 * LANES
    for r in range(first, last, ROWS):
        block = layout[matrix, 0] + r * width
        row = layout[matrix, 1] + r
        m = 0
        while m + 3 <= count:  # three vectors and four rows: twelve sums fill the registers
            x = m * width
            for half in range(0, ROWS, 4):
                a0, b0, c0, d0 = zero(weights), zero(weights), zero(weights), zero(weights)
                a1, b1, c1, d1 = zero(weights), zero(weights), zero(weights), zero(weights)
                a2, b2, c2, d2 = zero(weights), zero(weights), zero(weights), zero(weights)
                for k in range(0, width, lanes):
                    p = block + k * ROWS + half * lanes
                    x0 = load(codes, x + k)
                    x1 = load(codes, x + width + k)
                    x2 = load(codes, x + 2 * width + k)
                    w = load(weights, p)
                    a0 = add_products(a0, w, x0)
                    a1 = add_products(a1, w, x1)
                    a2 = add_products(a2, w, x2)
                    w = load(weights, p + lanes)
                    b0 = add_products(b0, w, x0)
                    b1 = add_products(b1, w, x1)
                    b2 = add_products(b2, w, x2)
                    w = load(weights, p + 2 * lanes)
                    c0 = add_products(c0, w, x0)
                    c1 = add_products(c1, w, x1)
                    c2 = add_products(c2, w, x2)
                    w = load(weights, p + 3 * lanes)
                    d0 = add_products(d0, w, x0)
                    d1 = add_products(d1, w, x1)
                    d2 = add_products(d2, w, x2)
                there, above = m * stride + r + half, row + half
                finish(matrices, above, totals(a0, b0, c0, d0), factors[m], out, there)
                there += stride
                finish(matrices, above, totals(a1, b1, c1, d1), factors[m + 1], out, there)
                there += stride
                finish(matrices, above, totals(a2, b2, c2, d2), factors[m + 2], out, there)
            m += 3
        while m < count:
            x = m * width
            a, b, c, d = zero(weights), zero(weights), zero(weights), zero(weights)
            e, f, g, h = zero(weights), zero(weights), zero(weights), zero(weights)
            for k in range(0, width, lanes):
                p = block + k * ROWS
                v = load(codes, x + k)
                a = add_products(a, load(weights, p), v)
                b = add_products(b, load(weights, p + lanes), v)
                c = add_products(c, load(weights, p + 2 * lanes), v)
                d = add_products(d, load(weights, p + 3 * lanes), v)
                e = add_products(e, load(weights, p + 4 * lanes), v)
                f = add_products(f, load(weights, p + 5 * lanes), v)
                g = add_products(g, load(weights, p + 6 * lanes), v)
                h = add_products(h, load(weights, p + 7 * lanes), v)
            there = m * stride + r
            finish(matrices, row, totals(a, b, c, d), factors[m], out, there)
            finish(matrices, row + 4, totals(e, f, g, h), factors[m], out, there + 4)
            m += 1


def _typed_multiply(matrices: Any, *others: Any) -> Any:
    return multiply_floats if matrices[0].dtype == types.float32 else multiply_words


overload(multiply, jit_options={"nogil": True}, strict=False)(_typed_multiply)
