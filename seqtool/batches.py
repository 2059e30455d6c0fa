"""Padded batches of sequences of about the same length, in an order that can be taken up again."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.lexicon import Texts

Array = npt.NDArray[Any]

POOL = 50  # batches whose sequences are sorted by length together


def by_length(lengths: Array, batch_size: int) -> Iterator[Array]:
    """Rows in batches of about the same size, the longest sequences first; every row once."""
    order = np.argsort(-lengths, kind="stable")
    # Even sizes: a last batch of one row would have a loss unlike all others.
    yield from np.array_split(order, -(-len(order) // batch_size))


def by_tokens(lengths: Array, others: Array, most: int) -> Iterator[Array]:
    """Rows in batches of about the same size with their padding, the longest first; each once.

    Args:
        lengths: Of the sequences, (N,).
        others: Lengths of what belongs to them; of equally long ones these are kept together.
        most: Rows of a batch times its longest sequence, at most; but one row is always a batch.
    """
    order = np.lexsort((-others, -lengths))
    longest = lengths[order]
    starts = [0]
    while (end := starts[-1] + max(1, most // int(longest[starts[-1]]))) < len(order):
        starts.append(end)
    if len(starts) > 1:
        # The last two share their rows: a batch of few would have a loss unlike all others.
        starts[-1] = max(starts[-2] + 1, -(-(starts[-2] + len(order)) // 2))
    yield from np.split(order, starts[1:])


def padded(
    texts: Texts, rows: Array, *, boundary: int, reverse: bool = False
) -> tuple[Array, Array]:
    """Some sequences of ids side by side, each with a boundary at its end.

    Args:
        texts: The sequences.
        rows: Which, (B,).
        boundary: The id; padding is filled with it as well.
        reverse: Each from its end; the boundary stays last.

    Returns:
        Ids, (B, T) int64, and lengths with the boundary, (B,) int64.
    """
    chosen = texts.select(rows)
    lengths = chosen.lengths
    ids = np.full((len(rows), int(lengths.max(initial=0)) + 1), boundary, np.int64)
    steps = np.arange(ids.shape[1])
    ids[steps < lengths[:, None]] = chosen.words
    if reverse:
        turned = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        ids = np.take_along_axis(ids, turned, axis=1)
    return ids, lengths + 1


def rows_within(lengths: Array, limit: int) -> int:
    """How many of the first sequences hold together ``limit`` tokens at most; at least one."""
    return max(1, int(np.searchsorted(np.cumsum(lengths), limit, side="right")))


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
        self.pool = POOL * batch_size
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
        batches = [
            part[rows]
            for part in np.split(order, range(self.pool, len(order), self.pool))
            for rows in self._cut(part)
        ]
        return [batches[place] for place in rng.permutation(len(batches))]

    def per_epoch(self) -> int:
        """Batches of an epoch; epochs differ by few."""
        return len(self._epoch(0))

    def _cut(self, part: Array) -> Iterator[Array]:
        """Batches of a pool, as places in it."""
        return by_length(self.lengths[part], self.batch_size)

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


class ShuffledPairs(Shuffled):
    """The same for pairs of sequences, in batches of about the same number of tokens."""

    def __init__(self, sources: Array, targets: Array, most: int, seed: int) -> None:
        """Stand before the first epoch.

        Args:
            sources: Lengths of the one side, (N,), N at least 1.
            targets: Of the other; these are the tokens that are counted.
            most: Tokens of the longer side in a batch, with padding, at most.
            seed: Of the order.
        """
        self.longer = np.maximum(sources, targets)
        super().__init__(targets, max(1, round(most / float(self.longer.mean()))), seed)
        self.most = most

    def _cut(self, part: Array) -> Iterator[Array]:
        return by_tokens(self.longer[part], self.lengths[part], self.most)
