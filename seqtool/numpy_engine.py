"""A trained model on a CPU with NumPy alone, one step at a time.

The same equations as cells and models, the same ``step`` contract, from the arrays of a model
file. It runs the models whose units are drawn by chance, and checks the compiled engine.
"""

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from seqtool.config import ModelConfig
from seqtool.decode import State
from seqtool.hashing import hash_rows

Floats = npt.NDArray[np.float32]
Activation = Callable[[Floats], Floats]


def sigmoid(a: Floats) -> Floats:
    """1 / (1 + exp(-a)), by way of tanh, which does not overflow."""
    return np.asarray(0.5 * np.tanh(0.5 * a) + 0.5, dtype=np.float32)


def bernoulli(a: Floats) -> Floats:
    """Units that are 1 with probability sigmoid(a), else 0 (cells.stochastic).

    The noise is drawn from a seed made of ``a`` itself, so that a step depends on its arguments
    only, and a text that is continued later is the text that was never interrupted.
    """
    rows = [np.random.Generator(np.random.Philox(zlib.crc32(row.tobytes()))) for row in a]
    noise = np.stack([rng.random(a.shape[1], dtype=np.float32) for rng in rows])
    return (noise < sigmoid(a)).astype(np.float32)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, np.float32(0)),
    "sigmoid": sigmoid,
    "stochastic": bernoulli,
}


class _Layer:
    """The weights of one recurrent layer, transposed once so that rows of states meet columns."""

    def __init__(self, weights: Mapping[str, Floats], layer: int) -> None:
        self.ih = np.ascontiguousarray(weights[f"stack.weight_ih_l{layer}"].T)  # (E, G*H)
        self.hh = np.ascontiguousarray(weights[f"stack.weight_hh_l{layer}"].T)  # (H, G*H)
        self.bias_ih = weights[f"stack.bias_ih_l{layer}"]
        self.bias_hh = weights[f"stack.bias_hh_l{layer}"]


class NumpyEngine:
    """A language model behind the numpy contract of decode, made from saved weights.

    Float32 throughout. The state is that of models.LanguageModel: (h,) or (h, c), each (L, B, H),
    and with n-gram tables the last ids, (1, B, K) int64.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, weights: Mapping[str, Floats]) -> None:
        """Take over weights that fit the config; check_weights is the caller's business."""
        self.config = config
        self.vocab_size = vocab_size
        self._embedding = weights["embedding.weight"]  # (V, E)
        self._layers = [_Layer(weights, layer) for layer in range(config.num_layers)]
        tied = config.tied
        output = weights["embedding.weight" if tied else "output.weight"]
        self._output = np.ascontiguousarray(output.T)  # (H, V)
        self._bias = weights["output.bias"]
        self._context = config.ngram_order - 1
        self._ngrams = weights.get("ngrams.weight")  # (K * buckets, E) or (K * buckets, E + V)
        self._ngram_logits = config.ngram_logits(vocab_size)
        self._activation = ACTIVATIONS[config.nonlinearity]
        self._parts = 2 if config.cell == "lstm" else 1

    def init_state(self, batch: int) -> State:
        """The zero state of a batch of texts."""
        shape = (self.config.num_layers, batch, self.config.hidden_size)
        state: State = tuple(np.zeros(shape, np.float32) for _ in range(self._parts))
        if self._ngrams is None:
            return state
        return (*state, np.zeros((1, batch, self._context), np.int64))

    def step(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Feed one id to each text.

        Args:
            ids: (B,), any integer type.
            state: As from ``init_state`` or the last step; not modified.

        Returns:
            Logits of the next id, (B, V) float32, and the new state.
        """
        x = self._embedding[ids]
        if self._ngrams is not None:
            ids = np.asarray(ids, dtype=np.int64)
            recent = state[-1][0]  # (B, K), oldest first
            previous = [recent[:, -back] for back in range(1, self._context + 1)]
            rows = hash_rows(ids, previous, self.config.ngram_buckets)
            added = np.sum([self._ngrams[row] for row in rows], axis=0)  # (B, E) or (B, E + V)
            x = x + added[:, : x.shape[1]]
        layers = []
        for index, layer in enumerate(self._layers):
            before = tuple(part[index] for part in state[: self._parts])
            after = self._advance(layer, x, before)
            layers.append(after)
            x = after[0]
        logits = x @ self._output + self._bias
        new: State = tuple(np.stack(parts) for parts in zip(*layers, strict=True))
        if self._ngrams is None:
            return logits, new
        if self._ngram_logits:
            logits = logits + added[:, self.config.embed_size :]
        return logits, (*new, np.concatenate([recent[:, 1:], ids[:, None]], axis=1)[None])

    def _advance(self, layer: _Layer, x: Floats, state: tuple[Floats, ...]) -> tuple[Floats, ...]:
        """One time step of one layer; the equations and their sources are in cells."""
        h = state[0]
        ux = x @ layer.ih + layer.bias_ih  # (B, G*H)
        wh = h @ layer.hh + layer.bias_hh
        size = self.config.hidden_size
        if self.config.cell == "rnn":
            return (self._activation(ux + wh),)
        if self.config.cell == "lstm":
            a = ux + wh  # gates i, f, g, o
            i, f, o = (
                sigmoid(a[:, :size]),
                sigmoid(a[:, size : 2 * size]),
                sigmoid(a[:, 3 * size :]),
            )
            c = f * state[1] + i * np.tanh(a[:, 2 * size : 3 * size])
            return o * np.tanh(c), c
        r, z = np.split(sigmoid(ux[:, : 2 * size] + wh[:, : 2 * size]), 2, axis=1)
        n = np.tanh(ux[:, 2 * size :] + r * wh[:, 2 * size :])
        return ((1 - z) * n + z * h,)
