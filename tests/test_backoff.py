"""N-gram models: probabilities that add up, and counts that equal a slow reading."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtool.backoff import NGram
from seqtool.errors import CheckpointError

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
    monkeypatch.setattr("seqtool.backoff.CHUNK", 7)
    np.testing.assert_array_equal(model.nll(held_out, START), whole)


def test_longer_contexts_predict_a_regular_text_better():
    text = np.tile([1, 2, 1, 3, 1, 4], 300)  # only the token before the last tells what follows a 1
    means = [NGram(text[:1500], 5, order=order).nll(text[1500:], START).mean() for order in (1, 3)]
    assert means[1] < 0.05 < 1 < means[0]


def test_only_the_end_of_a_long_text_is_learned(text):
    model = NGram(text, 9, order=3, max_tokens=100)
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
    with pytest.raises(ValueError, match="from 0 to 8, got 9 to 9"):
        NGram(text, 9).nll(np.array([9]), START)


@pytest.fixture
def model(text):
    return NGram(text, 9, order=4)


def test_distributions_agree_with_scores(text, model):
    contexts = np.tile(model.start(), (2, 1))
    rows = np.stack([text[:30], text[100:130]])
    scored = [model.score(row, model.start()) for row in rows]
    for place in range(30):
        probs, depths = model.distribution(contexts)
        for row in range(2):
            token = rows[row, place]
            assert probs[row, token] == pytest.approx(scored[row].probs[place], rel=1e-12)
            assert depths[row] == scored[row].depths[place]
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
        contexts = model.advance(contexts, rows[:, place])
    for row in range(2):
        np.testing.assert_array_equal(contexts[row], scored[row].contexts)
        np.testing.assert_array_equal(contexts[row], model.read(rows[row]))


def test_depth_is_the_longest_context_that_the_text_holds():
    model = NGram(np.array([0, 1, 2, 3, 1, 2, 4]), 6, order=4)
    assert model.score(np.array([1, 2, 3, 5, 1]), model.start()).depths.tolist() == [0, 1, 2, 3, 0]


def test_too_many_ngrams_end_the_order_early(text):
    full = NGram(text, 9, order=4)
    most = sum(len(level.codes) for level in full.levels[:3])
    cut = NGram(text, 9, order=4, max_grams=most)
    assert cut.order == 3
    held_out = text[:50]
    np.testing.assert_array_equal(
        cut.nll(held_out, START), NGram(text, 9, order=3).nll(held_out, START)
    )


@pytest.mark.parametrize("vocab_size", [9, 300, 70_000])
def test_arrays_hold_the_model(text, vocab_size):
    model = NGram(text, vocab_size, order=4)
    again = NGram.from_arrays(model.to_arrays(), "here")
    assert (again.order, again.vocab_size) == (model.order, vocab_size)
    held_out = text[::-1][:60]
    np.testing.assert_array_equal(again.nll(held_out, START), model.nll(held_out, START))


def test_an_empty_model_survives_a_file():
    model = NGram(np.empty(0, np.uint8), 8)
    np.testing.assert_allclose(
        NGram.from_arrays(model.to_arrays(), "x").distribution(model.start()[None])[0], 1 / 8
    )


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tokens.1", lambda values: values[:-1]),
        ("tokens.0", lambda values: values[::-1]),
        ("children.2", lambda values: values[1:]),
        ("gains.3", lambda values: values[:-1]),
        ("gains.0", lambda values: values * np.nan),
        ("backoffs.1", lambda values: values * 5),
        ("shape", lambda values: values[:0]),
        ("shape", lambda values: values - 1),
    ],
)
def test_damaged_arrays_are_refused(model, name, damage):
    arrays = model.to_arrays()
    arrays[name] = damage(arrays[name])
    with pytest.raises(CheckpointError, match="here: not the n-gram model"):
        NGram.from_arrays(arrays, "here")
    with pytest.raises(CheckpointError, match="here: not the n-gram model"):
        NGram.from_arrays({n: a for n, a in model.to_arrays().items() if n != name}, "here")
