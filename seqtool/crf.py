"""A linear chain over labels: the probability of a whole sequence of labels, not of each alone.

    p(y | x) = exp(s(y)) / sum_y' exp(s(y')),
    s(y) = first[y_1] + sum_t emission_t[y_t] + sum_t after[y_{t-1}, y_t] + last[y_T]

Source: Lafferty, McCallum & Pereira 2001, "Conditional random fields"; on top of recurrent layers
Huang, Xu & Yu 2015, arXiv:1508.01991. The likeliest sequence is viterbi's.
"""

import torch
from torch import Tensor, nn


class Chain(nn.Module):
    """What it is worth that one label follows another, begins a sentence or ends it."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.after = nn.Parameter(torch.zeros(num_labels, num_labels))  # from row to column
        self.first = nn.Parameter(torch.zeros(num_labels))
        self.last = nn.Parameter(torch.zeros(num_labels))

    def forward(self, emissions: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """How improbable sequences of labels are.

        Args:
            emissions: (B, T, C).
            lengths: Of the sentences, (B,), each at least 1.
            labels: (B, T) int64; any label in the padding.

        Returns:
            -log p of each sequence, (B,), in nats.
        """
        return self.log_partition(emissions, lengths) - self.score(emissions, lengths, labels)

    def score(self, emissions: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """s(y) of sequences of labels, (B,)."""
        inside = torch.arange(emissions.shape[1], device=lengths.device) < lengths[:, None]
        each = emissions.gather(2, labels[:, :, None])[:, :, 0]  # (B, T)
        pairs = self.after[labels[:, :-1], labels[:, 1:]]  # (B, T - 1)
        ends = labels.gather(1, lengths[:, None] - 1)[:, 0]
        total = each.masked_fill(~inside, 0).sum(1) + pairs.masked_fill(~inside[:, 1:], 0).sum(1)
        return total + self.first[labels[:, 0]] + self.last[ends]

    def log_partition(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """log sum_y exp(s(y)) over all sequences of labels, (B,): the forward algorithm.

        The sum over the label before is a matrix product of exponentials, each row shifted by its
        maximum: many times as fast as C x C log-sum-exps, and as exact as long as no two scores in
        ``after`` are more than 80 nats apart, which no training leads to.
        """
        tiny = torch.finfo(emissions.dtype).tiny
        ceiling = self.after.detach().amax()
        after = (self.after - ceiling).exp()
        total = self.first + emissions[:, 0]  # (B, C)
        for t in range(1, emissions.shape[1]):
            highest = total.detach().amax(1, keepdim=True)
            reached = (total - highest).exp() @ after
            new = reached.clamp_min(tiny).log() + highest + ceiling + emissions[:, t]
            total = torch.where((t < lengths)[:, None], new, total)
        return (total + self.last).logsumexp(1)
