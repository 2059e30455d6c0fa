"""Hashed n-gram tables: what the last few tokens say by themselves, without the recurrent state.

For every order n from 2 up, the last n tokens pick one row of a table by a hash. The rows are added
to the embedding that the recurrent layers read (Huang et al. 2025, arXiv:2501.16975, section 3),
and, for small vocabularies, other rows straight to the logits: a maximum entropy n-gram model
trained together with the network (Mikolov et al. 2011, "Strategies for training large scale neural
network language models", section IV). A row costs a hundredth of what a recurrent layer costs and
learns in seconds what that needs minutes for; the layers keep their capacity for what lies further
back.
"""

import torch
from torch import Tensor, nn

from seqtool.hashing import hash_rows


class NgramTables(nn.Module):
    """Rows for n-grams of order 2 to ``order``, added to a model's input and to its logits.

    All start at zero: a fresh model is the plain recurrent network. Gradients are sparse.
    """

    def __init__(
        self,
        order: int,
        buckets: int,
        input_size: int,
        vocab_size: int | None,
        *,
        dropout: float = 0.0,
    ) -> None:
        """Make tables for ``order - 1`` orders of ``buckets`` rows each.

        Args:
            order: Longest n-gram, at least 2.
            buckets: Rows of each table; n-grams with the same hash share one.
            input_size: E, width of what is added to the input.
            vocab_size: V, width of what is added to the logits; None for no such table.
            dropout: Chance in training that a token goes without one of its n-grams, so that the
                recurrent layers do not come to rely on n-grams seen once.
        """
        super().__init__()
        self.context = order - 1  # earlier tokens that matter, K
        self.buckets = buckets
        self.dropout = dropout
        rows = self.context * buckets
        self.input = nn.EmbeddingBag(rows, input_size, mode="sum", sparse=True)
        nn.init.zeros_(self.input.weight)
        self.output: nn.EmbeddingBag | None = None
        if vocab_size is not None:
            self.output = nn.EmbeddingBag(rows, vocab_size, mode="sum", sparse=True)
            nn.init.zeros_(self.output.weight)

    def look_up(self, ids: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """Rows for a chunk of text.

        Args:
            ids: (B, T) int64.
            recent: The K tokens before it, oldest first, (1, B, K) int64; start ids at a beginning.

        Returns:
            Rows (B, T, K), order 2 first, and the last K tokens, (1, B, K).
        """
        steps = ids.shape[1]
        past = torch.cat([recent[0], ids], dim=1)  # (B, K + T)
        previous = [
            past[:, self.context - back : self.context - back + steps]
            for back in range(1, self.context + 1)
        ]
        rows = torch.stack(hash_rows(ids, previous, self.buckets), dim=-1)
        return rows, past[:, steps:][None]

    def drop(self, rows: Tensor) -> Tensor | None:
        """Weight of every row in this pass, (B * T, K): 0 or 1 / (1 - p); None outside training."""
        if not self.training or self.dropout == 0:
            return None
        kept = torch.rand(rows.shape, device=rows.device) >= self.dropout
        return (kept / (1 - self.dropout)).flatten(0, 1)

    def add(self, table: nn.EmbeddingBag, rows: Tensor, weights: Tensor | None) -> Tensor:
        """Sum of a table's rows at every time, (B, T, width)."""
        total: Tensor = table(rows.flatten(0, 1), per_sample_weights=weights)
        return total.view(*rows.shape[:2], -1)
