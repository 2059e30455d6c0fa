"""A network and an n-gram model predicting together: linear interpolation of their probabilities.

    p(v) = (1 - w_d) * p_network(v) + w_d * p_ngram(v)

with a weight for each length d of the longest context that the n-gram model knows (Jelinek &
Mercer 1980; for recurrent networks Mikolov et al. 2010, "Recurrent neural network based language
model", section 3). A network generalises where counts know nothing and slowly learns what counts
know at once; their errors differ, so together they predict better than either. NumPy only.
"""

import numpy as np

from seqtool.backoff import NGram, Scored
from seqtool.decode import State, Steppable

DEFAULT_WEIGHT = 0.3  # of the n-gram model where no held-out text says better
PRIOR = 20.0  # tokens that speak for the default weight
ROUNDS = 30  # of expectation maximisation; it settles to three digits in ten


def default_weights(order: int) -> np.ndarray:
    """Weights of the n-gram model before any were fitted, (order,) float32."""
    return np.full(order, DEFAULT_WEIGHT, np.float32)


def fit_weights(nll: np.ndarray, ngram: Scored, order: int) -> np.ndarray:
    """The weights under which the mixture predicts a held-out text best.

    Expectation maximisation: a weight becomes the mean share of the n-gram model in the
    probabilities of its tokens (Jelinek & Mercer 1980).

    Args:
        nll: Of each token for the network alone, (N,), in nats.
        ngram: What the n-gram model says of the same tokens.
        order: Longest n-gram.

    Returns:
        Weights by length of the known context, (order,) float32, above 0 and below 1.
    """
    weights = np.full(order, DEFAULT_WEIGHT)
    tokens = np.bincount(ngram.depths, minlength=order)
    network = np.exp(-nll)
    for _ in range(ROUNDS):
        weight = weights[ngram.depths]
        counted = weight * ngram.probs
        shares = counted / (counted + (1 - weight) * network)
        total = np.bincount(ngram.depths, shares, minlength=order)
        weights = (total + PRIOR * DEFAULT_WEIGHT) / (tokens + PRIOR)
    return weights.astype(np.float32)


def mix_nll(nll: np.ndarray, ngram: Scored, weights: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of tokens for the mixture, (N,) float64, in nats.

    Args:
        nll: For the network alone, (N,).
        ngram: What the n-gram model says of the same tokens.
        weights: (order,).
    """
    weight = weights.astype(np.float64)[ngram.depths]
    return np.asarray(-np.logaddexp(np.log1p(-weight) - nll, np.log(weight * ngram.probs)))


class Mixture:
    """A network and an n-gram model behind the numpy contract of decode.

    The state is the network's and, as its last part, where the n-gram model stands: (1, B, order)
    int64. Logits are log-probabilities.
    """

    def __init__(self, network: Steppable, ngram: NGram, weights: np.ndarray) -> None:
        """Join a network, an n-gram model of the same vocabulary and weights, (order,)."""
        assert network.vocab_size == ngram.vocab_size, "one vocabulary"
        self.vocab_size = network.vocab_size
        self._network = network
        self._ngram = ngram
        self._weights = weights.astype(np.float64)

    def init_state(self, batch: int) -> State:
        """The state before the first token of B texts."""
        contexts = np.tile(self._ngram.start(), (1, batch, 1))
        return (*self._network.init_state(batch), contexts)

    def step(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Feed one id to each text, (B,); gives log-probabilities, (B, V), and the new state."""
        logits, after = self._network.step(ids, state[:-1])
        contexts = self._ngram.advance(state[-1][0], ids)
        counted, depths = self._ngram.distribution(contexts)
        weight = self._weights[depths][:, None]
        scores = logits.astype(np.float64)
        scores -= scores.max(axis=-1, keepdims=True)
        network = np.exp(scores)
        network /= network.sum(axis=-1, keepdims=True)
        mixed = (1 - weight) * network + weight * counted
        return np.log(mixed).astype(np.float32), (*after, contexts[None])
