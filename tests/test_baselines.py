"""Baselines: probabilities that add up, counts that equal a slow reading, costs that make sense."""

import lzma
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtool.baselines import NGram, XzCost, xz_cost

START = np.array([0])


def next_probabilities(model, context):
    """The whole distribution after a context, token by token."""
    every = range(model.vocab_size)
    return np.exp([-model.nll(np.array([token]), np.array(context))[0] for token in every])


def slow_probability(text, context, token, order, vocab_size):
    """Interpolated Kneser-Ney written down as in the paper, with the fallback discounts."""
    probability = 1 / vocab_size
    for length in range(1, order + 1):
        grams = [tuple(text[i : i + length]) for i in range(len(text) - length + 1)]
        counts = Counter(grams)
        if length < order:
            pairs = {tuple(text[i : i + length + 1]) for i in range(len(text) - length)}
            preceded = Counter(pair[1:] for pair in pairs)
            counts = Counter({gram: max(1, preceded[gram]) for gram in counts})
        if len(context) < length - 1:
            break
        before = tuple(context[len(context) - length + 1 :])
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == before}
        total = sum(after.values())
        if total:
            discount = {0: 0, 1: 0.5, 2: 1, 3: 1.5}
            gain = after.get(token, 0) - discount[min(3, after.get(token, 0))]
            freed = sum(discount[min(3, count)] for count in after.values())
            probability = gain / total + freed / total * probability
    return probability


@pytest.fixture
def text():
    rng = np.random.default_rng(3)
    return np.concatenate([START, rng.choice(7, size=400, p=[0, 0.4, 0.3, 0.1, 0.1, 0.1, 0])])


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("context", [[0], [], [1, 2], [2, 1, 1, 2, 3, 1], [6, 6], [1, 6, 2]])
def test_probabilities_sum_to_one(text, order, context):
    probs = next_probabilities(NGram(text, 9, order=order), context)
    assert probs.min() > 0
    assert probs.sum() == pytest.approx(1, abs=1e-6)  # tables are float32


@settings(deadline=None)  # a busy machine is not a failure
@given(
    st.lists(st.integers(0, 4), max_size=40),
    st.lists(st.integers(0, 4), max_size=6),
    st.integers(1, 6),
)
def test_any_text_gives_a_distribution(tokens, context, order):
    probs = next_probabilities(NGram(np.array(tokens, np.uint8), 5, order=order), context)
    assert probs.min() > 0
    assert probs.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_equal_the_written_formula(order):
    # Too short a text to estimate discounts from: both sides use the fallback.
    tokens = [0, 1, 2, 1, 2, 3, 1, 2, 1, 1, 2, 3]
    model = NGram(np.array(tokens), 5, order=order)
    for context in ([0], [1], [1, 2], [4, 1, 2], [3, 1, 2], [2, 3], [1, 4]):
        expected = [slow_probability(tokens, context, token, order, 5) for token in range(5)]
        np.testing.assert_allclose(next_probabilities(model, context), expected, rtol=1e-6)


def test_discounts_follow_the_counts_of_counts():
    # As unigrams the tokens 1-8 occur once, 9-12 twice, 13-14 three times, 15 four times.
    text = np.repeat(np.arange(1, 16), [1] * 8 + [2] * 4 + [3] * 2 + [4])
    scale = 8 / (8 + 2 * 4)
    discounts = {1: 1 - 2 * scale * 4 / 8, 2: 2 - 3 * scale * 2 / 4, 3: 3 - 4 * scale * 1 / 2}
    freed = (8 * discounts[1] + 4 * discounts[2] + 3 * discounts[3]) / len(text)
    probs = next_probabilities(NGram(text, 16, order=1), [])
    for token, count in ((1, 1), (9, 2), (13, 3), (15, 4)):
        expected = (count - discounts[min(3, count)]) / len(text) + freed / 16
        assert probs[token] == pytest.approx(expected, rel=1e-6)


def test_pieces_equal_the_whole(text, monkeypatch):
    model = NGram(text, 9, order=4)
    held_out = np.random.default_rng(5).integers(1, 9, size=53)
    whole = model.nll(held_out, START)
    first, rest = held_out[:20], held_out[20:]
    later = model.nll(rest, np.concatenate([START, first]))
    np.testing.assert_array_equal(np.concatenate([model.nll(first, START), later]), whole)
    monkeypatch.setattr("seqtool.baselines.CHUNK", 7)
    np.testing.assert_array_equal(model.nll(held_out, START), whole)


def test_longer_contexts_predict_a_regular_text_better():
    text = np.tile([1, 2, 1, 3, 1, 4], 300)  # only the token before the last tells what follows a 1
    means = [NGram(text[:1500], 5, order=order).nll(text[1500:], START).mean() for order in (1, 3)]
    assert means[1] < 0.05 < 1 < means[0]


def test_only_the_end_of_a_long_text_is_learned(text):
    model = NGram(text, 9, order=3, max_tokens=100)
    assert model.train_tokens == 100
    held_out = text[:50]
    expected = NGram(text[-100:], 9, order=3).nll(held_out, START)
    np.testing.assert_array_equal(model.nll(held_out, START), expected)


def test_vocabularies_of_words_get_a_shorter_order(text):
    assert NGram(text, 9, order=6).order == 6
    model = NGram(text, 5000, order=6)
    assert model.order == 4
    assert model.nll(np.array([4999]), START)[0] > model.nll(np.array([1]), START)[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_id_types_do_not_matter(text, dtype):
    expected = NGram(text, 9).nll(text[:30], START)
    np.testing.assert_array_equal(NGram(text.astype(dtype), 9).nll(text[:30], START), expected)


def test_nothing_learned_is_the_uniform_distribution():
    nll = NGram(np.empty(0, np.uint8), 8).nll(np.array([3, 7]), START)
    np.testing.assert_allclose(nll, math.log(8))
    assert len(NGram(np.array([1, 2]), 8).nll(np.empty(0, np.int64), START)) == 0


@pytest.mark.parametrize(("ids", "order"), [([0, 9], 3), ([-1, 2], 3), ([0, 1], 0)])
def test_impossible_arguments_are_named(ids, order):
    with pytest.raises(ValueError, match="got"):
        NGram(np.array(ids), 9, order=order)


def test_ids_outside_the_vocabulary_cannot_be_scored(text):
    with pytest.raises(ValueError, match="from 0 to 8, got 0 to 9"):
        NGram(text, 9).nll(np.array([9]), START)


def test_xz_pays_little_for_what_it_has_read():
    rng = np.random.default_rng(7)
    train = rng.bytes(20_000)  # incompressible
    known, new = xz_cost(train, train[5_000:15_000]), xz_cost(train, rng.bytes(10_000))
    assert known.bits < 0.05 * new.bits
    assert 80_000 <= new.bits < 81_000
    assert new[1:] == (20_000, 10_000)


def test_xz_reads_far_back():
    rng = np.random.default_rng(8)
    repeated, filler = rng.bytes(3_000), rng.bytes(200_000)
    assert xz_cost(repeated + filler, repeated).bits < 0.2 * 8 * len(repeated)


def test_xz_without_training_text_is_its_plain_size():
    text = b"the cat sat on the mat and the rat sat on the cat\n" * 40
    packed = len(lzma.compress(text, check=lzma.CHECK_NONE)) - len(
        lzma.compress(b"", check=lzma.CHECK_NONE)
    )
    assert xz_cost(b"", text).bits == pytest.approx(8 * packed, abs=8 * 16)
    assert xz_cost(text, b"") == XzCost(0, len(text), 0)


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_xz_takes_pieces_and_keeps_the_neighbouring_ends(size):
    data = np.random.default_rng(9).integers(97, 105, size=1200).astype(np.uint8).tobytes()
    train, test = data[:900], data[900:]

    def pieces(whole):
        return (whole[i : i + size] for i in range(0, len(whole), size))

    cost = xz_cost(pieces(train), pieces(test), max_train=250, max_test=130)
    assert cost == xz_cost(train[-250:], test[:130])
    assert cost[1:] == (250, 130)
