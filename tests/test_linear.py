"""n-grams of texts, naive Bayes ratios by hand, and the optimum that the fit must reach."""

import math
from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from seqtool.calibration import fit_powers, nll, pool
from seqtool.lexicon import Lexicon
from seqtool.linear import PRIOR, STRENGTHS, _factors, fit, look_up, ngram_keys, ratios, score

TEXTS = ["good good film", "bad film", "good fun", "bad bad day", ""]
LABELS = np.array([1, 0, 1, 0, 1])


def encoded(texts):
    lexicon = Lexicon("word", [], lower=True, buckets=0)
    rows = lexicon.encode(texts)
    return np.array(lexicon.table.hashes), rows


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_ngram_of_a_text_counts_once(order):
    hashes, rows = encoded(TEXTS)
    _, where = ngram_keys(hashes, rows, order)
    for i, text in enumerate(TEXTS):
        words = text.split()
        grams = {
            tuple(words[a : a + n]) for n in range(1, order + 1) for a in range(len(words) - n + 1)
        }
        assert (where == i).sum() == len(grams)
    assert np.all(np.diff(where) >= 0)


def test_the_same_ngram_has_the_same_key_wherever_it_stands():
    hashes, rows = encoded(["a b", "x a b y", "b a", "a", "b"])
    keys, where = ngram_keys(hashes, rows, 2)
    sets = [set(keys[where == i].tolist()) for i in range(5)]
    assert sets[0] <= sets[1]
    assert sets[0] & sets[2] == sets[3] | sets[4]  # the pair is another one


def test_ratios_by_hand():
    places, labels = np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1])
    found = ratios(places, labels, 2, 2)
    # Counts + 1: feature 0 has 3 and 2, feature 1 has 1 and 2; sums 4 and 4.
    assert found[0, 0] == pytest.approx(math.log(3 / 4) - math.log(2 / 4))
    assert found[1, 1] == pytest.approx(math.log(2 / 4) - math.log(1 / 4))
    assert found[:, 0] == pytest.approx(-found[:, 1])


def test_fit_is_at_the_optimum_that_scikit_learn_finds():
    rng = np.random.default_rng(1)
    x = rng.random((60, 7)) < 0.4
    labels = np.where(x[:, 0] ^ (rng.random(60) < 0.2), 1, 0)
    rows, places = np.nonzero(x)
    # Scaled so that both classes' columns are opposite: then the softmax is a logistic one.
    scale = np.stack([-np.ones(7), np.ones(7)], axis=1)
    strength = 2.0
    factors, bias = _factors(places, rows, labels, np.ones(60), scale, strength)
    slope = (scale * factors)[:, 1] - (scale * factors)[:, 0]
    # Both factors move alike, so the slope's penalty is strength/4 (slope - 2 prior)^2, which
    # scikit-learn writes 1/(2C): shift its features by an offset logit for the prior's part.
    offset = x @ np.full(7, 2 * PRIOR)

    def loss(slope, intercept):
        z = x @ slope + intercept
        nll = np.logaddexp(0, -np.where(labels == 1, z, -z)).sum()
        return nll + strength / 4 * ((slope - 2 * PRIOR) ** 2).sum()

    mine = loss(slope, bias[1] - bias[0])
    assert offset.shape == (60,)
    for _ in range(200):
        other = loss(slope + 0.02 * rng.normal(size=7), bias[1] - bias[0] + 0.02 * rng.normal())
        assert mine <= other + 1e-4
    theirs = LogisticRegression(C=2 / strength, max_iter=1000).fit(x, labels)
    assert mine <= loss(theirs.coef_[0], theirs.intercept_[0]) + 1e-4


def test_learns_what_words_say_and_ignores_unknown_ones():
    hashes, rows = encoded([*TEXTS, "good zebra", "bad zebra", "zebra"])
    keys, where = ngram_keys(hashes, rows, 2)
    train = where < 5
    arrays = fit(
        (keys[train], where[train]),
        LABELS,
        np.ones(5),
        2,
        (np.zeros(0, np.uint64), np.zeros(0, np.int64)),
        np.zeros(0, np.int64),
    )
    logits = score(arrays, keys, where, 8)
    assert logits[:4].argmax(axis=1).tolist() == LABELS[:4].tolist()
    assert logits[5:7].argmax(axis=1).tolist() == [1, 0]
    assert logits[7] == pytest.approx(arrays["bias"])


def test_looks_up_only_what_it_knows():
    known = np.array([3, 5, 9], np.uint64)
    places, rows = look_up(known, np.array([9, 4, 3, 11], np.uint64), np.array([0, 0, 1, 1]))
    assert (places.tolist(), rows.tolist()) == ([2, 0], [0, 1])
    assert len(look_up(known[:0], known, np.zeros(3, int))[0]) == 0


def test_several_labels_are_questions_of_their_own():
    keys, where = ngram_keys(*encoded(TEXTS), 2)
    nothing = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
    other = np.array([1, 1, 0, 0, 1])
    truth = np.stack([1 - LABELS, LABELS, other], axis=1)

    def learn(columns):
        chosen = truth[:, columns]
        none = np.zeros((0, len(columns)), np.int64)
        weights = np.ones(chosen.shape)
        return fit((keys, where), chosen, weights, len(columns), nothing, none)

    together = learn([0, 1, 2])
    np.testing.assert_allclose(together["weight"][:, 0], -together["weight"][:, 1], atol=2e-3)
    for column in range(3):
        alone = learn([column])
        np.testing.assert_allclose(alone["weight"][:, 0], together["weight"][:, column], atol=5e-3)


def test_the_penalty_is_weakened_as_long_as_held_out_texts_gain(monkeypatch):
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choice(words, 30)) for _ in range(200)]
    labels = np.array([sum(text.split().count(w) for w in words[:3]) > 2 for text in texts]) * 1
    keys, where = ngram_keys(*encoded(texts), 1)
    first = where < 150
    train, held = (keys[first], where[first]), (keys[~first], where[~first] - 150)

    def learn():
        return fit(train, labels[:150], np.ones(150), 2, held, labels[150:])

    losses, weights = [], []
    for strength in STRENGTHS:
        monkeypatch.setattr("seqtool.linear.STRENGTHS", (strength,))
        arrays = learn()
        logits = score(arrays, *held, 50)
        losses.append(nll(pool([logits], fit_powers([logits], labels[150:])), labels[150:]))
        weights.append(arrays["weight"])
    monkeypatch.setattr("seqtool.linear.STRENGTHS", STRENGTHS)
    rises = [i for i, (one, other) in enumerate(pairwise(losses)) if other >= one]
    np.testing.assert_array_equal(learn()["weight"], weights[rises[0] if rises else -1])
    assert losses[rises[0] if rises else -1] < losses[0]
