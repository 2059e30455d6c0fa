"""Products of matrices on a CPU, by the library that is fast on all of them.

torch hands float32 products to MKL, which uses half of what a processor of another maker than its
own can do: 105 GFLOP/s on a core of Zen 5, where oneDNN, which torch has for its convolutions,
reaches 240. torch asks oneDNN only through an operator made for its compiler; where that is missing
or another one, and for all other numbers and devices, torch's own product is taken.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

FEWEST_ROWS = 64  # a smaller product is over before oneDNN has found out how to do it
# oneDNN makes code for each shape that it meets and keeps that of the last thousand: with batches
# of any number of tokens a gigabyte or two. So shapes are made to come again.
MULTIPLE = 64


def _find() -> Any:
    """The operator; None if there is none that can be called as here."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return None
    found: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    try:
        found(torch.zeros(1, 1), torch.zeros(1, 1), None, "none", [], "")
    except (RuntimeError, TypeError):
        return None
    return found


_onednn = _find()


def whole(rows: Tensor) -> Tensor:
    """Rows (N, K) with as many of zeros behind them as make their number a multiple."""
    missing = -len(rows) % MULTIPLE
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _first(rows: Tensor, count: int) -> Tensor:
    """Without what ``whole`` has put behind them; no view if that was nothing."""
    return rows if len(rows) == count else rows[:count]


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """The matrix a b^T + bias, without a gradient.

    Args:
        a: (N, K); quickest if one of its axes is contiguous, as of b. Where N or K changes from
            call to call, the matrices should be ``whole`` along it.
        b: (M, K).
        bias: (M,).
    """
    if _suits(a):
        made: Tensor = _onednn(a, b, bias, "none", [], "")
        return made
    return functional.linear(a, b, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What ``functional.linear`` gives: x W^T + b for x (..., K), W (M, K) and b (M,)."""
    rows = x.flatten(0, -2)
    if not _suits(rows):
        return functional.linear(x, weight, bias)
    made: Tensor = _Linear.apply(rows, weight, bias)
    return made.view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """torch's layer, by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` (..., K) to (..., M)."""
        return linear(input, self.weight, self.bias)


def _suits(a: Tensor) -> bool:
    fits = a.dtype == torch.float32 and a.device.type == "cpu" and len(a) >= FEWEST_ROWS
    return fits and _onednn is not None


class _Linear(torch.autograd.Function):
    """A linear layer whose products are by ``product``, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x (N, K), weight (M, K), bias (M,) to (N, M)."""
        count, x = len(x), whole(x)
        ctx.save_for_backward(x, weight)
        return _first(product(x, weight, bias), count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the result to those of x, weight and bias."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        count, grad = len(grad), whole(grad)
        return (
            _first(product(grad, weight.t()), count) if of_x else None,
            product(grad.t(), x.t()) if of_weight else None,
            grad.sum(dim=0) if of_bias else None,
        )
