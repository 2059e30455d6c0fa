"""The mixture: it sums to one, steps as it scores, and its weights are the best ones."""

import numpy as np
import pytest

from seqtool.backoff import NGram, Scored
from seqtool.mixture import DEFAULT_WEIGHT, Mixture, default_weights, fit_weights, mix_nll

V, ORDER = 6, 3


class Network:
    """Logits that depend on the tokens read so far, in the one number of its state."""

    vocab_size = V

    def init_state(self, batch):
        return (np.zeros((1, batch, 1), np.float32),)

    def step(self, ids, state):
        after = np.sin(3 * state[0] + ids[None, :, None]).astype(np.float32)
        return after[0] * np.arange(V, dtype=np.float32), (after,)


@pytest.fixture
def ngram():
    text = np.random.default_rng(1).choice(V, size=300, p=[0, 0.5, 0.2, 0.2, 0.1, 0])
    return NGram(text, V, order=ORDER)


def test_steps_agree_with_scores(ngram):
    weights = np.array([0.2, 0.5, 0.7], np.float32)
    mixture, network = Mixture(Network(), ngram, weights), Network()
    text = np.random.default_rng(2).integers(1, V, size=(2, 40))
    state, plain = mixture.init_state(2), network.init_state(2)
    nll, alone = np.empty(text.shape), np.empty(text.shape)
    ids = np.zeros(2, np.int64)
    for place in range(text.shape[1]):
        logits, state = mixture.step(ids, state)
        np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-5)
        scores, plain = network.step(ids, plain)
        ids = text[:, place]
        nll[:, place] = -logits[[0, 1], ids]
        alone[:, place] = np.log(np.exp(scores).sum(axis=1)) - scores[[0, 1], ids]
    for row in range(2):
        scored = ngram.score(text[row], ngram.read(np.array([0])))
        np.testing.assert_allclose(mix_nll(alone[row], scored, weights), nll[row], rtol=1e-5)
    assert state[-1].shape == (1, 2, ORDER)


def test_fitted_weights_cannot_be_bettered():
    rng = np.random.default_rng(3)
    n = 20_000
    depths = rng.integers(0, ORDER, n)
    good = rng.uniform(0.3, 0.9, n)
    # At depth 2 the counts are better, at depth 0 the network, at depth 1 each now and then.
    counted = np.where(depths == 2, good, np.where(depths == 0, 0.01, rng.permutation(good)))
    nll = -np.log(np.where(depths == 2, 0.02, good))
    scored = Scored(counted, depths, np.zeros(ORDER, np.int64))
    weights = fit_weights(nll, scored, ORDER)
    assert weights[0] < 0.02 < 0.2 < weights[1] < 0.8 < 0.98 < weights[2]
    best = mix_nll(nll, scored, weights).sum()
    for change in (0.9, 1.1):
        other = weights.copy()
        other[1] *= change
        assert mix_nll(nll, scored, other).sum() > best


def test_without_evidence_weights_stay_what_they_were():
    nothing = Scored(np.empty(0), np.empty(0, np.int64), np.zeros(ORDER, np.int64))
    np.testing.assert_allclose(fit_weights(np.empty(0), nothing, ORDER), DEFAULT_WEIGHT)
    np.testing.assert_allclose(default_weights(ORDER), DEFAULT_WEIGHT)


def test_what_the_network_rules_out_still_has_a_probability(ngram):
    scored = ngram.score(np.array([1, 2]), ngram.start())
    nll = mix_nll(np.array([np.inf, 800.0]), scored, default_weights(ORDER))
    np.testing.assert_allclose(nll, -np.log(DEFAULT_WEIGHT * scored.probs), rtol=1e-6)
