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


def pad_rows(rows: Tensor) -> Tensor:
    """Rows (N, K), with as many of zeros behind them as oneDNN needs for a shape that comes again.

    None are put there if it has no part in their products.
    """
    missing = -len(rows) % MULTIPLE if _can_have(rows) else 0
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _first(rows: Tensor, count: int) -> Tensor:
    """Without what ``pad_rows`` has put behind them; no view if that was nothing."""
    return rows if len(rows) == count else rows[:count]


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """The matrix a b^T + bias, without a gradient.

    Args:
        a: (N, K); quickest if one of its axes is contiguous, as of b. Where N or K changes from
            call to call, what has that axis should have gone through ``pad_rows`` along it.
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


def look_up(weight: Tensor, ids: Tensor, still: int | None = None) -> Tensor:
    """Rows (..., E) of a matrix (V, E), with a gradient that takes a quarter of the time on a CPU.

    There torch looks through all ids for each row, if not for each thread. What is added to a row
    is added in the order of the ids here as there: the bits are the same.

    Args:
        weight: (V, E).
        ids: (...), one at least.
        still: A row that gets no gradient; ``padding_idx`` is torch's name for it.
    """
    if weight.device.type != "cpu":
        return functional.embedding(ids, weight, still)
    made: Tensor = _LookUp.apply(weight, ids, still)
    return made


class Embedding(nn.Embedding):
    """torch's table of vectors, by ``look_up``; with no option but ``padding_idx``."""

    def forward(self, input: Tensor) -> Tensor:
        """Ids (...) to vectors (..., E)."""
        return look_up(self.weight, input, self.padding_idx)


class _LookUp(torch.autograd.Function):
    """Rows of a matrix."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, still: int | None) -> Tensor:
        """weight (V, E), ids (...) to (..., E); the row ``still`` gets no gradient."""
        ctx.save_for_backward(ids)
        ctx.size, ctx.still = len(weight), still
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the result to that of the matrix."""
        (ids,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.size, grad.shape[-1])
        total.index_add_(0, ids.flatten(), grad.flatten(0, -2))
        if ctx.still is not None:
            total[ctx.still] = 0
        return total, None, None


def _can_have(a: Tensor) -> bool:
    """Whether oneDNN is there for such numbers."""
    return _onednn is not None and a.dtype == torch.float32 and a.device.type == "cpu"


def _suits(a: Tensor) -> bool:
    """Whether it is also worth the asking."""
    return _can_have(a) and len(a) >= FEWEST_ROWS


class _Linear(torch.autograd.Function):
    """A linear layer whose products are by ``product``, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x (N, K), weight (M, K), bias (M,) to (N, M)."""
        ctx.save_for_backward(x, weight)  # not the padded copy: x is often kept by others too
        return _first(product(pad_rows(x), weight, bias), len(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the result to those of x, weight and bias."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad = pad_rows(grad)
        return (
            _first(product(grad, weight.t()), len(x)) if of_x else None,
            product(grad.t(), pad_rows(x).t()) if of_weight else None,
            grad.sum(dim=0) if of_bias else None,
        )
