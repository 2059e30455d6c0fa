"""The loss of an output layer, without ever holding the scores of all tokens at once.

With a vocabulary of words the scores of one batch are larger than the model, and a plain cross
entropy passes over them half a dozen times. Here a few rows at a time are scored, and what their
gradient adds is added up at once, while their scores are in the cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Scores held at a time, 16 MB: in the third-level cache of many machines. But never fewer rows than
# this: the gradient of the whole matrix is read and written for each chunk.
SCORES = 1 << 22
FEWEST_ROWS = 128
# From this many tokens on; below, one pass is as fast.
LARGE_VOCABULARY = 1024


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of a linear layer; forms its gradients while it has the scores."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """x (N, H), weight (V, H), bias (V,), targets (N,) to a scalar."""
        count, vocab_size = len(x), len(weight)
        wanted = any(ctx.needs_input_grad)
        grads = tuple(torch.zeros_like(part) for part in (x, weight, bias)) if wanted else ()
        rows = min(count, max(FEWEST_ROWS, SCORES // vocab_size))
        buffer = x.new_empty(rows, vocab_size)
        minus_one = x.new_full((rows, 1), -1)
        total = x.new_zeros(())
        for first in range(0, count, rows):
            part, answers = x[first : first + rows], targets[first : first + rows, None]
            scores = torch.addmm(bias, part, weight.t(), out=buffer[: len(part)])
            log_probs = functional.log_softmax(scores, dim=1)
            total -= log_probs.gather(1, answers).sum()
            if wanted:  # of the scores: softmax - 1 at the answer, and the mean's 1 / N
                errors = log_probs.exp_().scatter_add_(1, answers, minus_one[: len(part)])
                mine = grads[0][first : first + rows]
                torch.addmm(mine, errors, weight, beta=0, alpha=1 / count, out=mine)
                grads[1].addmm_(errors.t(), part, alpha=1 / count)
                grads[2].add_(errors.sum(dim=0), alpha=1 / count)
        ctx.save_for_backward(*grads)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the scalar to those of x, weight and bias."""
        (scale,) = gradients
        grads = ctx.saved_tensors
        if scale != 1:
            grads = [part * scale for part in grads]
        return *grads, None


def cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of the targets under softmax(x W^T + b), in nats.

    Args:
        x: Output of the layer below, (N, H).
        weight: W, (V, H).
        bias: b, (V,).
        targets: (N,) int64.
    """
    if len(weight) < LARGE_VOCABULARY:
        return functional.cross_entropy(functional.linear(x, weight, bias), targets)
    loss: Tensor = _ChunkedCrossEntropy.apply(x, weight, bias, targets)
    return loss
