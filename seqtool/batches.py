"""Padded batches of sequences of about the same length, in an order that can be taken up again."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

POOL = 50  # batches whose sequences are sorted by length together


def by_length(lengths: Array, batch_size: int) -> Iterator[Array]:
    """Rows in batches of about the same size, the longest sequences first; every row once."""
    order = np.argsort(-lengths, kind="stable")
    # Even sizes: a last batch of one row would have a loss unlike all others.
    yield from np.array_split(order, -(-len(order) // batch_size))


class Shuffled:
    """Endless batches of rows: every row once an epoch, neighbours of about the same length.

    Rows are shuffled, cut into pools of 50 batches, sorted by length inside each pool, cut into
    batches, and the batches are shuffled: lengths within a batch differ little, yet no two epochs
    have the same batches.
    """

    def __init__(self, lengths: Array, batch_size: int, seed: int) -> None:
        """Stand before the first epoch.

        Args:
            lengths: Of the sequences, (N,), N at least 1.
            batch_size: B at most.
            seed: Of the order.
        """
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epochs = 0  # begun so far
        self.left: list[Array] = []  # batches of this epoch, the next one last
        self.num_rows = 0  # given out so far
        self.num_tokens = 0

    def next(self) -> Array:
        """The rows of the next batch, (B,)."""
        if not self.left:
            self.left = self._epoch(self.epochs)
            self.epochs += 1
        rows = self.left.pop()
        self.num_rows += len(rows)
        self.num_tokens += int(self.lengths[rows].sum())
        return rows

    def _epoch(self, number: int) -> list[Array]:
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.lengths))
        pool = POOL * self.batch_size
        batches = [
            part[rows]
            for part in (order[start : start + pool] for start in range(0, len(order), pool))
            for rows in by_length(self.lengths[part], self.batch_size)
        ]
        return [batches[place] for place in rng.permutation(len(batches))]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON-able values."""
        return {
            "epochs": self.epochs,
            "left": len(self.left),
            "num_rows": self.num_rows,
            "num_tokens": self.num_tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken, with the same sequences and seed."""
        self.epochs, self.num_rows = state["epochs"], state["num_rows"]
        self.num_tokens = state["num_tokens"]
        self.left = self._epoch(self.epochs - 1)[: state["left"]] if state["left"] else []
