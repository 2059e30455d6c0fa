"""Hashed n-gram tables: what the last few tokens say by themselves, without the recurrent state.

For every order n from 2 up, the last n tokens pick one row of a table by a hash. The rows are added
to the embedding that the recurrent layers read (Huang et al. 2025, arXiv:2501.16975, section 3),
and, for small vocabularies, other rows straight to the logits: a maximum entropy n-gram model
trained together with the network (Mikolov et al. 2011, "Strategies for training large scale neural
network language models", section IV). A row costs a hundredth of what a recurrent layer costs and
learns in seconds what that needs minutes for; the layers keep their capacity for what lies further
back.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.hashing import hash_rows


class _SumRows(torch.autograd.Function):
    """Weighted sum of table rows; the gradient is sparse and coalesced, one entry for each row.

    embedding_bag's own sparse gradient has an entry for every use of a row and makes the optimizer
    sort and add them, which costs more than the recurrent layer of a small model.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor | None) -> Tensor:
        """Table (R, D), rows (N, K) and their weights (N, K) to sums (N, D)."""
        ctx.save_for_backward(rows, weights)
        ctx.shape = table.shape
        return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the sums (N, D) to that of the table."""
        (gradient,) = gradients
        rows, weights = ctx.saved_tensors
        # The uses of a row side by side: its gradient is then the sum of a bag. index_add_ on the
        # rows as they come takes three times as long.
        by_row, uses = torch.sort(rows.flatten(), stable=True)
        used, counts = torch.unique_consecutive(by_row, return_counts=True)
        values = functional.embedding_bag(
            uses // rows.shape[1],
            gradient.contiguous(),
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=None if weights is None else weights.flatten()[uses],
        )
        sparse = torch.sparse_coo_tensor(
            used[None], values, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return sparse, None, None


class NgramTables(nn.Module):
    """Rows for n-grams of order 2 to ``order``, added to a model's input and to its logits.

    ``weight`` holds the tables one below the other, (K * buckets, E + V): what a row adds to the
    input stands left, what it adds to the logits right. It starts at zero, so a fresh model is the
    plain recurrent network. Its gradient is sparse.
    """

    sparse = True  # as torch's embeddings say of theirs

    def __init__(
        self,
        order: int,
        buckets: int,
        input_size: int,
        vocab_size: int,
        *,
        dropout: float = 0.0,
    ) -> None:
        """Make tables for ``order - 1`` orders of ``buckets`` rows each.

        Args:
            order: Longest n-gram, at least 2.
            buckets: Rows of each table; n-grams with the same hash share one.
            input_size: E, width of what is added to the input.
            vocab_size: V, width of what is added to the logits; 0 to leave those alone.
            dropout: Chance in training that a token goes without one of its n-grams, so that the
                recurrent layers do not come to rely on n-grams seen once.
        """
        super().__init__()
        self.context = order - 1  # earlier tokens that matter, K
        self.buckets = buckets
        self.widths = [input_size, vocab_size]
        self.dropout = dropout
        self.weight = nn.Parameter(torch.zeros(self.context * buckets, sum(self.widths)))

    def forward(self, ids: Tensor, recent: Tensor, *, drop: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Look up a chunk of text.

        Args:
            ids: (B, T) int64.
            recent: The K tokens before it, oldest first, (1, B, K) int64; start ids at a beginning.
            drop: Whether to apply dropout.

        Returns:
            What to add to the input, (B, T, E), and to the logits, (B, T, V), and the last K
            tokens, (1, B, K).
        """
        steps = ids.shape[1]
        past = torch.cat([recent[0], ids], dim=1)  # (B, K + T)
        previous = [
            past[:, self.context - back : self.context - back + steps]
            for back in range(1, self.context + 1)
        ]
        rows = torch.stack(hash_rows(ids, previous, self.buckets), dim=-1).flatten(0, 1)  # (B*T, K)
        weights = None
        if drop and self.dropout:
            kept = torch.rand(rows.shape, device=rows.device) >= self.dropout
            weights = kept.to(self.weight.dtype) / (1 - self.dropout)
        total: Tensor = _SumRows.apply(self.weight, rows, weights)
        added_input, added_logits = torch.split(total.view(*ids.shape, -1), self.widths, dim=-1)
        return added_input, added_logits, past[:, steps:][None]
