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

from seqtool.dense import MULTIPLE, linear, pad_rows, product

# Scores held at a time, 16 MB: in the third-level cache of many machines. But never fewer rows than
# this: the gradient of the whole matrix is read and written for each chunk.
SCORES = 1 << 22
FEWEST_ROWS = 128
# From this many tokens on; below, one pass is as fast.
LARGE_VOCABULARY = 1024


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of a linear layer; forms its gradients while it has the scores."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float
    ) -> Tensor:
        """x (N, H), weight (V, H), bias (V,), targets (N,) to a scalar."""
        count, vocab_size = len(x), len(weight)
        x = pad_rows(x)
        targets = functional.pad(targets, (0, len(x) - count))
        wanted = any(ctx.needs_input_grad)
        # That of the matrix lies as its transpose: so its products are the quickest.
        grads = tuple(map(torch.zeros_like, (x, weight.t(), bias))) if wanted else ()
        rows = max(FEWEST_ROWS, SCORES // vocab_size // MULTIPLE * MULTIPLE)
        answer = x.new_full((min(rows, len(x)), 1), smoothing - 1)
        total = x.new_zeros(())
        for first in range(0, len(x), rows):
            part, answers = x[first : first + rows], targets[first : first + rows, None]
            real = min(len(part), count - first)  # behind them stand rows of zeros
            scores = product(part, weight, bias)
            log_probs = functional.log_softmax(scores, dim=1)
            found = log_probs[:real].gather(1, answers[:real]).sum()
            # All log-probabilities of a row are its scores less one number, log Z: the sum of them
            # takes no pass over them, for the sum of all scores is a product of sums (below).
            log_z = scores[:real].gather(1, answers[:real]).sum() - found
            total += smoothing * log_z - (1 - smoothing) * found
            if wanted:  # of the scores: softmax less the target, and the mean's 1 / N
                errors = log_probs.exp_().scatter_add_(1, answers, answer[: len(part)])
                errors[real:] = 0
                torch.mul(
                    product(errors, weight.t()), 1 / count, out=grads[0][first : first + rows]
                )
                grads[1].add_(product(part.t(), errors.t()), alpha=1 / count)
                grads[2].add_(errors.sum(dim=0), alpha=1 / count)
        if smoothing:
            share = smoothing / vocab_size  # of the target, that every token gets
            x_sum, weight_sum = x.sum(dim=0), weight.sum(dim=0)
            total -= share * (x_sum @ weight_sum + count * bias.sum())
            if wanted:
                grads[0].sub_(weight_sum, alpha=share / count)
                grads[1].sub_(x_sum[:, None], alpha=share / count)
                grads[2].sub_(share)
        if wanted:
            grads = grads[0][:count], grads[1].t(), grads[2]
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
        return *grads, None, None


def cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, *, smoothing: float = 0.0
) -> Tensor:
    """Mean negative log-likelihood of the targets under softmax(x W^T + b), in nats.

    Args:
        x: Output of the layer below, (N, H).
        weight: W, (V, H).
        bias: b, (V,).
        targets: (N,) int64.
        smoothing: Share of each target that goes to all tokens alike (Szegedy et al. 2016,
            arXiv:1512.00567, section 7).
    """
    if len(weight) < LARGE_VOCABULARY:
        scores = linear(x, weight, bias)
        return functional.cross_entropy(scores, targets, label_smoothing=smoothing)
    loss: Tensor = _ChunkedCrossEntropy.apply(x, weight, bias, targets, smoothing)
    return loss
