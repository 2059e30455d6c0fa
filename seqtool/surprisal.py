"""How well the torch-free engine predicts a text, token by token."""

from typing import NamedTuple

import numpy as np

from seqtool.decode import Reader, State

PIECE = 256  # tokens whose logits are held at once


class Position(NamedTuple):
    """Where a scorer stands, exactly: one made from it goes on from there.

    Attributes:
        state: State before ``last_id`` was read, each part (L, 1, H).
        last_id: The next token to read.
        pending: Tokens after it, (N,) int64; already scored. Only torch has any.
    """

    state: State
    last_id: int
    pending: np.ndarray


class Surprisal:
    """Scores a text of any length token by token, in constant memory, with carried state.

    However the text is pushed, a token's score is the same to the bit.
    """

    block = 1  # tokens that have to be read together

    def __init__(self, reader: Reader, start_id: int, position: Position | None = None) -> None:
        """Begin a text with the start id, or go on with one."""
        self._reader = reader
        self._state = reader.init_state(1) if position is None else position.state
        self._last_id = start_id if position is None else position.last_id
        if position is not None:
            self.push(position.pending)

    @property
    def position(self) -> Position:
        """What another one needs to go on exactly as this one would."""
        return Position(self._state, self._last_id, np.empty(0, np.int64))

    def push(self, ids: np.ndarray) -> np.ndarray:
        """Score more of the text.

        Args:
            ids: Next tokens, (T,) of any integer type, T may be 0.

        Returns:
            Negative log-likelihood of each given all before it, (T,) float64, in nats.
        """
        nll = np.empty(len(ids))
        for first in range(0, len(ids), PIECE):
            targets = np.asarray(ids[first : first + PIECE], np.int64)
            inputs = np.concatenate([[self._last_id], targets[:-1]])
            logits, self._state = self._reader.read(inputs, self._state, all_logits=True)
            nll[first : first + PIECE] = negative_log_likelihood(logits, targets)
            self._last_id = int(targets[-1])
        return nll


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of tokens (T,) under logits (T, V) float32: (T,) float64, in nats."""
    best = logits.max(axis=1, keepdims=True)
    masses = np.exp(logits - best).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(np.log(masses) + best[:, 0] - chosen)
