"""What a cell does to each unit of one row at one time, forward and backward, as vector code.

The products are made before and after; the equations and their sources are in cells. A row's gates
are areas of padded columns, in the order that loops tells. The arrays that a function is given must
not overlap.
"""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from seqtool.compiled import arithmetic, unaliased

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu", "rnn_sigmoid")
LSTM, GRU, TANH, RELU, SIGMOID = range(len(KINDS))


def kind_of(cell: str, nonlinearity: str) -> int:
    """The number under which the loops know a cell; the nonlinearity is that of a simple RNN."""
    return KINDS.index(f"rnn_{nonlinearity}" if cell == "rnn" else cell)


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


def tanh(x: Any) -> Any:
    """Hyperbolic tangent; in float32 an approximation that is off by less than 3e-7."""
    return math.tanh(x)


def _typed_tanh(x: Any) -> Any:
    if x != types.float32:

        def precise(x: Any) -> Any:
            return math.tanh(x)

        return precise
    p0, p1, p2, p3, p4, p5 = TANH_ABOVE
    q0, q1, q2, q3, q4 = TANH_BELOW
    limit = TANH_LIMIT

    def rational(x: Any) -> Any:
        # Written so that nan stays nan: a run that has diverged must not look healthy.
        x = limit if x > limit else x
        x = -limit if x < -limit else x
        u = x * x
        above = x * (p0 + u * (p1 + u * (p2 + u * (p3 + u * (p4 + u * p5)))))
        return above / (q0 + u * (q1 + u * (q2 + u * (q3 + u * q4))))

    return rational


overload(tanh)(_typed_tanh)


@arithmetic
def copy(source: Any, target: Any) -> None:
    """Fill an array from another; a slice assignment takes numba seconds to compile."""
    for j in range(len(target)):
        target[j] = source[j]


@arithmetic
def clear(target: Any) -> None:
    """Fill an array with zeros."""
    for j in range(len(target)):
        target[j] = 0


@arithmetic
def quarters(gates: Any) -> Any:
    """The four areas of a row."""
    padded = len(gates) // 4
    first, second = gates[:padded], gates[padded : 2 * padded]
    return first, second, gates[2 * padded : 3 * padded], gates[3 * padded :]


@arithmetic
def lstm_forward(gates: Any, c_before: Any, c: Any, h: Any, size: Any, half: Any) -> None:
    """One row at one time: gates in, activated gates, c and h out."""
    i, f, g, o = quarters(gates)
    _lstm_forward(i, f, g, o, c_before, c, h, size, half)


@unaliased
def _lstm_forward(
    i: Any, f: Any, g: Any, o: Any, c_before: Any, c: Any, h: Any, size: Any, half: Any
) -> None:
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


@arithmetic
def lstm_backward(
    gates: Any,
    c_before: Any,
    c: Any,
    grad_output: Any,
    grad_h: Any,
    grad_c: Any,
    grad_gates: Any,
    size: Any,
    one: Any,
) -> None:
    """One row at one time: gradients of h and c in, of the gates and of the c before out."""
    i, f, g, o = quarters(gates)
    grad_i, grad_f, grad_g, grad_o = quarters(grad_gates)
    _lstm_backward(
        i, f, g, o, c_before, c, grad_output,
        grad_h, grad_c, grad_i, grad_f, grad_g, grad_o, size, one,
    )  # fmt: skip


@unaliased
def _lstm_backward(
    i: Any,
    f: Any,
    g: Any,
    o: Any,
    c_before: Any,
    c: Any,
    grad_output: Any,
    grad_h: Any,
    grad_c: Any,
    grad_i: Any,
    grad_f: Any,
    grad_g: Any,
    grad_o: Any,
    size: Any,
    one: Any,
) -> None:
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


@arithmetic
def gru_forward(gates: Any, h_before: Any, h: Any, size: Any, half: Any) -> None:
    """One row at one time: gates in, activated gates (m stays) and h out."""
    n, r, z, m = quarters(gates)
    _gru_forward(n, r, z, m, h_before, h, size, half)


@unaliased
def _gru_forward(
    n: Any, r: Any, z: Any, m: Any, h_before: Any, h: Any, size: Any, half: Any
) -> None:
    for j in range(size):
        r_j = half + half * tanh(half * r[j])
        z_j = half + half * tanh(half * z[j])
        n_j = tanh(n[j] + r_j * m[j])
        n[j], r[j], z[j] = n_j, r_j, z_j
        h[j] = n_j + z_j * (h_before[j] - n_j)


@arithmetic
def gru_backward(
    gates: Any, h_before: Any, grad_output: Any, grad_h: Any, grad_gates: Any, size: Any, one: Any
) -> None:
    """One row at one time: gradient of h in, of the gates and, in part, of the h before out."""
    n, r, z, m = quarters(gates)
    grad_n, grad_r, grad_z, grad_m = quarters(grad_gates)
    _gru_backward(
        n, r, z, m, h_before, grad_output, grad_h, grad_n, grad_r, grad_z, grad_m, size, one
    )


@unaliased
def _gru_backward(
    n: Any,
    r: Any,
    z: Any,
    m: Any,
    h_before: Any,
    grad_output: Any,
    grad_h: Any,
    grad_n: Any,
    grad_r: Any,
    grad_z: Any,
    grad_m: Any,
    size: Any,
    one: Any,
) -> None:
    for j in range(size):
        dh = grad_h[j] + grad_output[j]
        dn = dh * (one - z[j]) * (one - n[j] * n[j])
        grad_n[j] = dn
        grad_r[j] = dn * m[j] * r[j] * (one - r[j])
        grad_z[j] = dh * (h_before[j] - n[j]) * z[j] * (one - z[j])
        grad_m[j] = dn * r[j]
        grad_h[j] = dh * z[j]


@unaliased
def rnn_forward(kind: Any, gates: Any, h: Any, size: Any, half: Any) -> None:
    """One row at one time: activation in, h out."""
    if kind == TANH:
        for j in range(size):
            h[j] = tanh(gates[j])
    elif kind == RELU:
        for j in range(size):
            a = gates[j]
            h[j] = half - half if a < 0 else a
    else:
        for j in range(size):
            h[j] = half + half * tanh(half * gates[j])


@unaliased
def rnn_backward(
    kind: Any, h: Any, grad_output: Any, grad_h: Any, grad_gates: Any, size: Any, one: Any
) -> None:
    """One row at one time: gradient of h in, of the activation out."""
    if kind == TANH:
        for j in range(size):
            grad_gates[j] = (grad_h[j] + grad_output[j]) * (one - h[j] * h[j])
    elif kind == RELU:
        for j in range(size):
            grad_gates[j] = grad_h[j] + grad_output[j] if h[j] > 0 else one - one
    else:
        for j in range(size):
            grad_gates[j] = (grad_h[j] + grad_output[j]) * h[j] * (one - h[j])
    for j in range(size):
        grad_h[j] = 0
