"""Attention: for each step of a decoder, where to look in the source and what is seen there.

    k_j = W_k m_j                       keys: what can be asked for
    v_j = W_v m_j                       values: what is then seen
    score_tj = q_t . k_j / sqrt(H)      "dot"
             = v . tanh(W_q q_t + k_j)  "additive"
    a_t = softmax_j(score_tj)           the alignment
    c_t = sum_j a_tj v_j                the context

Source of "additive": Bahdanau, Cho & Bengio 2015, arXiv:1409.0473, section 3; of "dot": Luong, Pham
& Manning 2015, arXiv:1508.04025, section 3.1 ("general": the keys have a matrix of their own), with
the scale of Vaswani et al. 2017, arXiv:1706.03762. With "none" the context of all steps is the same
vector, made of the encoder's last states (Cho et al. 2014, arXiv:1406.1078).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqtool.config import Attention as Kind
from seqtool.dense import Linear


class Memory(NamedTuple):
    """A batch of sources as a decoder sees them; the batch is the first axis of all."""

    keys: Tensor  # (B, S, H); (B, 1, 0) without attention
    values: Tensor  # (B, S, H); (B, 1, H) without attention
    lengths: Tensor  # (B,), positions that are no padding

    def select(self, rows: Tensor) -> "Memory":
        """Some of the sources, in any order and any number of times."""
        return Memory(*(part[rows] for part in self))


class Attention(nn.Module):
    """Scores of a kind, and the matrices that make keys and values."""

    def __init__(self, kind: Kind, memory_size: int, hidden_size: int) -> None:
        """Make the matrices and draw them from torch's global generator.

        Args:
            kind: Of the scores.
            memory_size: M, width of what is read of the source.
            hidden_size: H, width of queries, keys, values and context.
        """
        super().__init__()
        self.kind = kind
        self.scale = 1 / math.sqrt(hidden_size)
        self.value = Linear(memory_size, hidden_size, bias=False)
        nn.init.xavier_uniform_(self.value.weight)
        if kind == "none":
            return
        self.key = Linear(memory_size, hidden_size, bias=kind == "additive")
        nn.init.xavier_uniform_(self.key.weight)
        if kind == "additive":
            nn.init.zeros_(self.key.bias)
            self.query = Linear(hidden_size, hidden_size, bias=False)
            nn.init.xavier_uniform_(self.query.weight)
            self.score = nn.Parameter(torch.empty(hidden_size))
            nn.init.normal_(self.score, std=self.scale)

    def read(self, memory: Tensor, summary: Tensor, lengths: Tensor) -> Memory:
        """Keys and values of a batch of sources.

        Args:
            memory: What the encoder says at each position, (B, S, M).
            summary: What it says at the end, (B, M); all that is seen without attention.
            lengths: Positions that are no padding, (B,), each at least 1.
        """
        if self.kind == "none":
            values = self.value(summary[:, None])
            return Memory(values[:, :, :0], values, torch.ones_like(lengths))
        return Memory(self.key(memory), self.value(memory), lengths)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Look at the sources.

        Args:
            queries: q, (B, T, H).
            memory: From ``read``.

        Returns:
            Contexts, (B, T, H), and alignments, (B, T, S), whose rows sum to 1 and are 0 in the
            padding.
        """
        keys, values, lengths = memory
        if self.kind == "none":
            batch, steps, _ = queries.shape
            return values.expand(-1, steps, -1), values.new_ones(batch, steps, 1)
        if self.kind == "dot":
            scores = torch.bmm(queries * self.scale, keys.transpose(1, 2))
        else:
            asked = self.query(queries)[:, :, None] + keys[:, None]  # (B, T, S, H)
            scores = torch.tanh(asked) @ self.score
        outside = torch.arange(keys.shape[1], device=keys.device) >= lengths[:, None]  # (B, S)
        weights = scores.masked_fill(outside[:, None], -torch.inf).softmax(dim=-1)
        return torch.bmm(weights, values), weights
