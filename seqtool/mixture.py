"""A network and an n-gram model predicting together: linear interpolation of their probabilities.

    p(v) = (1 - w_d) * p_network(v) + w_d * p_ngram(v)

with a weight for each length d of the longest context that the n-gram model knows (Jelinek &
Mercer 1980; for recurrent networks Mikolov et al. 2010, "Recurrent neural network based language
model", section 3). A network generalises where counts know nothing and slowly learns what counts
know at once; their errors differ, so together they predict better than either. No torch here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqtool.backoff import NGram, Scored
from seqtool.checkpoint import Saved, load_counts
from seqtool.decode import State, Steppable
from seqtool.errors import CheckpointError
from seqtool.places import COUNTS

DEFAULT_WEIGHT = 0.3  # of the n-gram model where no held-out text says better
PRIOR = 20.0  # tokens that speak for the default weight
ROUNDS = 15  # Newton steps; the weights settle in about eight


def default_weights(order: int) -> np.ndarray:
    """Weights of the n-gram model before any were fitted, (order,) float32."""
    return np.full(order, DEFAULT_WEIGHT, np.float32)


def fit_weights(nll: np.ndarray, ngram: Scored, order: int) -> np.ndarray:
    """The weights under which the mixture predicts a held-out text best.

    The likelihood is concave in each weight, so Newton steps find the maximum. A few pseudo-tokens
    hold weights at their default where hardly any token speaks.

    Args:
        nll: Of each token for the network alone, (N,), in nats.
        ngram: What the n-gram model says of the same tokens.
        order: Longest n-gram.

    Returns:
        Weights by length of the known context, (order,) float32, above 0 and below 1.
    """

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(ngram.depths, values, minlength=order)

    network = np.exp(-nll)
    gain = ngram.probs - network
    weights = np.full(order, DEFAULT_WEIGHT)
    for _ in range(ROUNDS):
        slope = gain / (network + weights[ngram.depths] * gain)
        rising, falling = (
            PRIOR * DEFAULT_WEIGHT / weights,
            PRIOR * (1 - DEFAULT_WEIGHT) / (1 - weights),
        )
        first = total(slope) + rising - falling
        second = total(slope**2) + rising / weights + falling / (1 - weights)
        # At most three quarters of the way to a bound: a full step may lead beyond it.
        weights = np.clip(weights + first / second, weights / 4, 1 - (1 - weights) / 4)
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
        mixed = mix_logits(logits, self._ngram, self._weights, contexts)
        return np.log(mixed).astype(np.float32), (*after, contexts[None])


def mix_logits(
    logits: np.ndarray, ngram: NGram, weights: np.ndarray, contexts: np.ndarray
) -> np.ndarray:
    """What the mixture says may come next in each of B texts, (B, V) float64 probabilities.

    Args:
        logits: Of the network, (B, V).
        ngram: The n-gram model.
        weights: (order,).
        contexts: Where it stands, (B, order).
    """
    counted, depths = ngram.distribution(contexts)
    weight = weights.astype(np.float64)[depths][:, None]
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    network = np.exp(scores)
    network /= network.sum(axis=-1, keepdims=True)
    return np.asarray((1 - weight) * network + weight * counted)


class Partner(NamedTuple):
    """The n-gram model of a saved mixture and its weights, (order,)."""

    ngram: NGram
    weights: np.ndarray

    def mix_text(self, logits: np.ndarray, ids: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Probabilities of the mixture after each token of a text, (T, V) float64.

        Args:
            logits: Of the network after each, (T, V).
            ids: The tokens, (T,).
            before: What stands before them, (M,); none at the beginning of a text.
        """
        contexts = [self.ngram.start()]
        for token in np.concatenate([before, ids]):
            contexts.append(self.ngram.advance(contexts[-1][None], token[None])[0])
        return mix_logits(logits, self.ngram, self.weights, np.stack(contexts[1 + len(before) :]))

    def mix_windows(self, nll: np.ndarray, seen: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """What the mixture pays for the token after each of B windows, (B,), in nats.

        Args:
            nll: What the network pays, (B,).
            seen: The windows, (B, T); before them nothing is known.
            targets: The tokens, (B,).
        """
        contexts = np.tile(self.ngram.start(), (len(seen), 1))
        for ids in seen[:, max(0, seen.shape[1] - self.ngram.order + 1) :].T:
            contexts = self.ngram.advance(contexts, ids)
        probs, depths = self.ngram.distribution(contexts)
        scored = Scored(probs[np.arange(len(targets)), targets], depths, contexts)
        return mix_nll(nll, scored, self.weights)


def load_partner(saved: Saved, path: Path) -> Partner | None:
    """What is mixed into a saved network; None if nothing is.

    Raises:
        CheckpointError: If the model directory at ``path`` does not hold it whole.
    """
    if not saved.card.model.backoff_order:
        return None
    where = f"{path}/{COUNTS}"
    ngram = NGram.from_arrays(load_counts(path), where)
    if ngram.vocab_size != saved.card.vocab_size:
        raise CheckpointError(
            f"{where}: made for {ngram.vocab_size} tokens, the model has {saved.card.vocab_size}; "
            "copy the whole directory again, or train again"
        )
    best = saved.card.extra.get("best") or {}
    return Partner(ngram, _saved_weights(best, ngram.order, str(path)))


def _saved_weights(best: Mapping[str, Any], order: int, where: str) -> np.ndarray:
    """The weights, (order,), from what a card says of the best network; if nothing, the default."""
    if "mixture" not in best:
        return default_weights(order)
    try:
        weights = np.array(best["mixture"], np.float64)  # of any size, so checked before the cast
    except (TypeError, ValueError):
        weights = np.empty(0)
    if weights.shape != (order,) or not ((weights > 0) & (weights < 1)).all():
        raise CheckpointError(
            f"{where}: the mixture weights in config.json are not {order} numbers between 0 and 1; "
            "copy the whole directory again, or train again"
        )
    return weights.astype(np.float32)


class Interpolator:
    """The n-gram model of a mixture reading along with a scorer that works in blocks.

    It can say where it stood when the scorer's present block began, which is what a saved place
    holds.
    """

    def __init__(
        self, partner: Partner, block: int, last_id: int, contexts: np.ndarray | None = None
    ) -> None:
        """Begin a text, or go on with one.

        Args:
            partner: The n-gram model and its weights.
            block: Tokens of the scorer's blocks.
            last_id: The token before the first one to score, not yet read; at first the start id.
            contexts: Where the n-gram model stands before ``last_id``, (order,); at the start of a
                text if not given.
        """
        self.partner = partner
        self._block = block
        self._base = partner.ngram.start() if contexts is None else contexts
        self._since = np.array([last_id])  # tokens after the base: the last before a block, then it
        self._contexts = partner.ngram.score(self._since, self._base).contexts

    @property
    def contexts(self) -> np.ndarray:
        """Where the n-gram model stood before the last token before the present block, (order,)."""
        return self._base

    def push(self, ids: np.ndarray) -> Scored:
        """Score more of the text, (T,)."""
        scored = self.partner.ngram.score(ids, self._contexts)
        self._contexts = scored.contexts
        self._since = np.concatenate([self._since, ids])
        done = (len(self._since) - 1) // self._block * self._block
        read, self._since = self._since[:done], self._since[done:]
        reach = self.partner.ngram.order - 1  # of older tokens no context knows
        if done >= reach:
            self._base = self.partner.ngram.read(read)
        else:
            self._base = self.partner.ngram.score(read, self._base).contexts
        return scored

    def mix(self, nll: np.ndarray, scored: Scored) -> np.ndarray:
        """Costs for the network alone, (T,), to costs for the mixture."""
        return mix_nll(nll, scored, self.partner.weights)
