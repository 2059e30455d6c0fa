"""n-grams of texts, naive Bayes ratios by hand, and the optimum that the fit must reach."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from seqtool import linear
from seqtool.calibration import fit_powers, nll, pool
from seqtool.lexicon import Lexicon
from seqtool.linear import (
    GAIN,
    WAYS,
    Standing,
    _factors,
    fit,
    frequent,
    look_up,
    ngram_keys,
    ratios,
    score,
    standing,
)

TEXTS = ["good good film", "bad film", "good fun", "bad bad day", ""]
LABELS = np.array([1, 0, 1, 0, 1])


def encoded(texts):
    lexicon = Lexicon("word", [], lower=True, buckets=0)
    rows = lexicon.encode(texts)
    return np.array(lexicon.table.hashes), rows


def parts(keys, rows, count):
    """Some texts, all of them together."""
    return lambda: [(keys, rows, count)]


def nothing():
    """No texts."""
    return []


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_ngram_of_a_text_counts_once(order):
    hashes, rows = encoded(TEXTS)
    _, where = ngram_keys(hashes, rows, order)
    for i, text in enumerate(TEXTS):
        words = ["<", *text.split(), ">"]
        grams = {
            tuple(words[a : a + n]) for n in range(1, order + 1) for a in range(len(words) - n + 1)
        } - {("<",), (">",)}
        assert (where == i).sum() == len(grams)
    assert np.all(np.diff(where) >= 0)


def test_the_same_ngram_has_the_same_key_wherever_it_stands():
    hashes, rows = encoded(["a b", "x a b y", "b a", "a", "b"])
    keys, where = ngram_keys(hashes, rows, 2)
    sets = [set(keys[where == i].tolist()) for i in range(5)]
    one = sets[3] & sets[0]  # without what stands at its borders
    assert len(sets[0] & sets[1]) == 3
    assert len(sets[0] & sets[2]) == 2  # the pair is another one
    assert len(sets[3]) == 3
    assert len(one) == 2  # "a" begins both


def test_ratios_by_hand():
    texts = Standing(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 4]))
    labels = np.array([0, 0, 1])
    found = ratios(texts, labels, 2, 2)
    # Counts + 1: feature 0 has 3 and 2, feature 1 has 1 and 2; sums 4 and 4.
    assert found[0, 0] == pytest.approx(math.log(3 / 4) - math.log(2 / 4))
    assert found[1, 1] == pytest.approx(math.log(2 / 4) - math.log(1 / 4))
    assert found[:, 0] == pytest.approx(-found[:, 1])
    # The same, as a set of labels for each text.
    np.testing.assert_array_equal(ratios(texts, np.eye(2, dtype=int)[labels], 2, 2), found)


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_fit_is_at_the_optimum_that_scikit_learn_finds(prior):
    rng = np.random.default_rng(1)
    x = rng.random((60, 7)) < 0.4
    labels = np.where(x[:, 0] ^ (rng.random(60) < 0.2), 1, 0)
    # Scaled so that both classes' columns are opposite: then the softmax is a logistic one.
    scale = np.stack([-np.ones(7), np.ones(7)], axis=1).astype(np.float32)
    strength = 2.0
    start = np.zeros_like(scale), np.zeros(2, np.float32)
    texts = csr_array(x.astype(np.float32))
    factors, bias = _factors(texts, labels, np.ones(60), scale, (strength, prior), start)
    slope = (scale * factors)[:, 1] - (scale * factors)[:, 0]

    # Both factors move alike, so the slope's penalty is strength/4 (slope - 2 prior)^2, which
    # scikit-learn, that knows no prior, writes 1/(2C).
    def loss(slope, intercept):
        z = x @ slope + intercept
        nll = np.logaddexp(0, -np.where(labels == 1, z, -z)).sum()
        return nll + strength / 4 * ((slope - 2 * prior) ** 2).sum()

    mine = loss(slope, bias[1] - bias[0])
    for _ in range(200):
        other = loss(slope + 0.02 * rng.normal(size=7), bias[1] - bias[0] + 0.02 * rng.normal())
        assert mine <= other + 1e-4
    theirs = LogisticRegression(C=2 / strength, max_iter=1000).fit(x, labels)
    assert mine <= loss(theirs.coef_[0], theirs.intercept_[0]) + 1e-4
    if not prior:
        assert slope == pytest.approx(theirs.coef_[0], abs=2e-3)


def test_features_of_a_text_are_those_of_scikit_learns_tf_idf(monkeypatch):
    hashes, rows = encoded(TEXTS)
    keys, where = ngram_keys(hashes, rows, 1)
    seen = {}

    def see(texts, labels, weights, scale, pull, start):
        seen["texts"] = texts.toarray()
        return start

    monkeypatch.setattr("seqtool.linear._factors", see)
    monkeypatch.setattr("seqtool.linear.USUAL", WAYS[1])
    fit(parts(keys, where, 5), LABELS, np.ones(5), 2, nothing, LABELS[:0])
    theirs = TfidfVectorizer(binary=True).fit_transform(TEXTS).toarray()
    # The columns stand in another order.
    np.testing.assert_allclose(
        sorted(map(tuple, seen["texts"].T)), sorted(map(tuple, theirs.T)), atol=1e-6
    )


def test_learns_what_words_say_and_ignores_unknown_ones():
    hashes, rows = encoded([*TEXTS, "good zebra", "bad zebra", "zebra"])
    keys, where = ngram_keys(hashes, rows, 2)
    train = where < 5
    texts = parts(keys[train], where[train], 5)
    arrays = fit(texts, LABELS, np.ones(5), 2, nothing, LABELS[:0])
    logits = score(arrays, keys, where, 8)
    assert logits[:4].argmax(axis=1).tolist() == LABELS[:4].tolist()
    assert logits[5:7].argmax(axis=1).tolist() == [1, 0]
    assert logits[7] == pytest.approx(arrays["bias"])


def test_looks_up_only_what_it_knows():
    known = np.array([3, 5, 9], np.uint64)
    places, rows = look_up(known, np.array([9, 4, 3, 11], np.uint64), np.array([0, 0, 1, 1]))
    assert (places.tolist(), rows.tolist()) == ([2, 0], [0, 1])
    assert len(look_up(known[:0], known, np.zeros(3, int))[0]) == 0


@pytest.mark.parametrize("size", [7, 40, 300, 5000])
def test_counting_in_parts_is_counting_at_once(size, monkeypatch):
    monkeypatch.setattr(linear, "MOST_COUNTED", 1000)
    rng = np.random.default_rng(2)
    keys = rng.zipf(1.3, 3000).astype(np.uint64) % np.uint64(997)
    some = [(keys[i : i + size], np.zeros(0), 0) for i in range(0, len(keys), size)]
    known, counts = np.unique(keys, return_counts=True)
    for most in (1, 20, 997):
        kept = np.argsort(-counts, kind="stable")[:most]
        np.testing.assert_array_equal(frequent(some, most), known[np.sort(kept)])


def test_where_too_many_are_counted_the_rare_ones_are_forgotten(monkeypatch):
    monkeypatch.setattr(linear, "MOST_COUNTED", 200)
    rng = np.random.default_rng(2)
    often = np.arange(50)  # every third n-gram is one of these, all others are new
    stream = np.where(np.arange(30_000) % 3, np.arange(30_000) + 50, rng.choice(often, 30_000))
    some = [(part, np.zeros(0), 0) for part in np.split(stream.astype(np.uint64), 600)]
    sizes = []

    def counted(known, counts, keys):
        sizes.append(len(known) + len(keys))
        return added(known, counts, keys)

    added = linear._added
    monkeypatch.setattr(linear, "_added", counted)
    assert frequent(some, 50).tolist() == often.tolist()
    assert max(sizes) <= 300  # those known, and a quarter and a part more that wait
    assert len(frequent(some, 120)) == 120


def test_known_ngrams_stand_where_they_are_looked_up():
    hashes, rows = encoded([*TEXTS, "good zebra", "zebra"])
    keys, where = ngram_keys(hashes, rows, 2)
    known = frequent([(keys, where, 7)], 9)
    places, found = look_up(known, keys, where)
    for cuts in ([0, 7], [0, 2, 4, 5, 7], range(8)):
        some = [
            (*ngram_keys(hashes, rows.select(np.arange(begin, end)), 2), end - begin)
            for begin, end in pairwise(cuts)
        ]
        texts = standing(known, some)
        np.testing.assert_array_equal(texts.places, places)
        np.testing.assert_array_equal(texts.rows(), found)
        assert len(texts.starts) == 8
        assert texts.starts.dtype == texts.places.dtype == np.int32


@pytest.mark.parametrize("way", WAYS)
def test_the_fit_does_not_depend_on_how_much_is_weighed_at_once(way, monkeypatch):
    monkeypatch.setattr(linear, "WAYS", (way,))
    hashes, rows = encoded(TEXTS)
    texts = parts(*ngram_keys(hashes, rows, 2), len(rows))
    arguments = texts, LABELS, np.ones(len(LABELS), np.float32), 2, texts, LABELS
    at_once = fit(*arguments)
    monkeypatch.setattr(linear, "TEXTS_AT_ONCE", 2)
    monkeypatch.setattr(linear, "PLACES_AT_ONCE", 3)
    in_parts = fit(*arguments)
    assert at_once.keys() == in_parts.keys()
    for name, values in at_once.items():
        assert np.array_equal(in_parts[name], values), name


def test_several_labels_are_questions_of_their_own():
    keys, where = ngram_keys(*encoded(TEXTS), 2)
    other = np.array([1, 1, 0, 0, 1])
    truth = np.stack([1 - LABELS, LABELS, other], axis=1)

    def learn(columns):
        chosen = truth[:, columns]
        none = np.zeros((0, len(columns)), np.int64)
        weights = np.ones(chosen.shape)
        return fit(parts(keys, where, 5), chosen, weights, len(columns), nothing, none)

    together = learn([0, 1, 2])
    np.testing.assert_allclose(together["weight"][:, 0], -together["weight"][:, 1], atol=2e-3)
    for column in range(3):
        alone = learn([column])
        np.testing.assert_allclose(alone["weight"][:, 0], together["weight"][:, column], atol=5e-3)


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_those_that_were_fitted(monkeypatch, way):
    monkeypatch.setattr("seqtool.linear.USUAL", way._replace(strengths=(0.01,)))
    hashes, rows = encoded([*TEXTS, "good good film zebra"])
    keys, where = ngram_keys(hashes, rows, 2)
    train = where < 5
    arrays = fit(parts(keys[train], where[train], 5), LABELS, np.ones(5), 2, nothing, LABELS[:0])
    logits = score(arrays, keys, where, 6)
    assert logits[:5].argmax(axis=1).tolist() == LABELS.tolist()
    # Weights by hand: the sum over a text's n-grams, by its length where there is one.
    known = [arrays["keys"].tolist().index(key) for key in keys[where == 0].tolist()]
    total = arrays["weight"][known].sum(axis=0)
    if way.to_length:
        total = total / np.sqrt((arrays["rarity"][known] ** 2).sum())
    assert logits[0] == pytest.approx(total + arrays["bias"], rel=1e-5)
    alone = score(arrays, keys[where == 3], where[where == 3] - 3, 1)
    np.testing.assert_array_equal(alone[0], logits[3])


def test_held_out_texts_choose_the_way_and_its_penalty(monkeypatch):
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choice(words, 30)) for _ in range(200)]
    labels = np.array([sum(text.split().count(w) for w in words[:3]) > 2 for text in texts]) * 1
    keys, where = ngram_keys(*encoded(texts), 1)
    first = where < 150
    train, held = (keys[first], where[first], 150), (keys[~first], where[~first] - 150, 50)

    def learn(*ways):
        monkeypatch.setattr("seqtool.linear.WAYS", ways)
        arrays = fit(parts(*train), labels[:150], np.ones(150), 2, parts(*held), labels[150:])
        logits = score(arrays, *held)
        return arrays, nll(pool([logits], fit_powers([logits], labels[150:])), labels[150:])

    ends = []
    for way in WAYS:
        strengths = way.strengths
        losses = [learn(way._replace(strengths=strengths[: n + 1]))[1] for n in range(5)]
        assert all(one >= other for one, other in pairwise(losses))  # never the worse of two
        assert losses[-1] < losses[0]
        ends.append(learn(way))
    arrays, loss = learn(*WAYS)
    assert loss <= min(loss for _, loss in ends) + GAIN / 50
    chosen = next(arrays for arrays, reached in ends if reached == loss)
    np.testing.assert_array_equal(arrays["weight"], chosen["weight"])
    assert ("rarity" in arrays) == ("rarity" in chosen)
