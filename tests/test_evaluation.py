"""Evaluation: fast, exact and adapting scores against a slow reading of the same text."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from seqtool.backoff import NGram
from seqtool.config import ModelConfig
from seqtool.evaluation import (
    DynamicScorer,
    Scorer,
    score_streams,
)
from seqtool.models import LanguageModel
from seqtool.units import bits_per_byte, bits_per_char, nats_to_bits, perplexity, scores

V = 11
SMALL = ModelConfig(hidden_size=5, embed_size=3, ngram_order=3, ngram_buckets=13)
KINDS = {
    "lstm": replace(SMALL, cell="lstm", num_layers=2, dropout=0.4),
    "gru": replace(SMALL, cell="gru", tied=True, embed_size=5),
    "rnn": replace(SMALL, cell="rnn", nonlinearity="sigmoid", ngram_order=1),
    "stochastic": replace(SMALL, cell="rnn", nonlinearity="stochastic"),
}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(Scorer, "block", 32)


def mean_score(*args, **kwargs):
    """The fast score, in nats per token."""
    return score_streams(*args, **kwargs).nll.mean()


def make_model(kind, noise=0.5):
    torch.manual_seed(1)
    model = LanguageModel(KINDS[kind], V, unknown_id=1)
    with torch.no_grad():  # stronger than a fresh model, so that the past matters
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=noise)
    return model


@pytest.fixture(params=["lstm", "gru", "rnn"])
def model(request):
    return make_model(request.param)


@pytest.fixture
def ids():
    return np.random.default_rng(2).integers(1, V, size=100).astype(np.uint8)


def slow_nll(model, ids):
    """One id at a time, by the equations."""
    state, last, nll = model.init_state(1), 0, []
    with torch.inference_mode():
        for token in ids.tolist():
            logits, state = model.step(torch.tensor([last]), state)
            nll.append(-float(logits.double().log_softmax(-1)[0, token]))
            last = token
    return np.array(nll)


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


# --- units


def test_units_of_a_hand_computed_text():
    # Four tokens of probability 1/8 spell six characters, one of them of two bytes.
    total = 4 * math.log(8)
    assert scores(total, num_tokens=4, num_chars=6, num_bytes=7) == {
        "nats_per_token": pytest.approx(math.log(8)),
        "perplexity": pytest.approx(8),
        "bits_per_char": pytest.approx(2),
        "bits_per_byte": pytest.approx(12 / 7),
    }
    assert nats_to_bits(math.log(2)) == pytest.approx(1)


@pytest.mark.parametrize("unit", [bits_per_char, bits_per_byte, perplexity])
def test_an_empty_text_has_no_score(unit):
    with pytest.raises(ValueError, match="a text of 0"):
        unit(0.0, 0)


def test_perplexity_beyond_a_float_is_infinite():
    assert perplexity(1e6, 2) == math.inf


# --- exact


def test_exact_score_equals_one_step_at_a_time(model, ids):
    # float32, two orders of the same sums
    np.testing.assert_allclose(Scorer(model, 0).push(ids), slow_nll(model, ids), atol=1e-5)


def test_probabilities_of_the_first_token_sum_to_one(model):
    nll = [Scorer(model, 0).push(np.array([token]))[0] for token in range(V)]
    assert np.exp(np.negative(nll)).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cuts", [[1], [31], [32], [33], [10, 11, 11, 70], [64, 99]])
def test_pushing_in_pieces_gives_the_same_bits(model, ids, cuts):
    scorer = Scorer(model, 0)
    pieces = [scorer.push(piece) for piece in np.split(ids, cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces), Scorer(model, 0).push(ids))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [0, 1, 32, 40, 99])
def test_going_on_from_a_position_gives_the_same_bits(kind, cut, ids):
    model = make_model(kind)
    first = Scorer(model, 0)
    head = first.push(ids[:cut])
    second = Scorer(model, 0, *first.position)
    assert second.last_id == first.last_id
    tail = second.push(ids[cut:])
    np.testing.assert_array_equal(np.concatenate([head, tail]), Scorer(model, 0).push(ids))


@pytest.mark.parametrize("cut", [0, 1, 32, 40])
def test_going_on_from_a_state_equals_one_pass(model, ids, cut):
    first = Scorer(model, 0)
    head = first.push(ids[:cut])
    assert first.last_id == (ids[cut - 1] if cut else 0)
    tail = Scorer(model, 0, first.state, first.last_id).push(ids[cut:])
    whole = Scorer(model, 0).push(ids)
    # Other block boundaries, so other roundings of float32.
    np.testing.assert_allclose(np.concatenate([head, tail]), whole, atol=1e-5)


def test_asking_for_the_state_changes_nothing(model, ids):
    scorer = Scorer(model, 0)
    head = scorer.push(ids[:40])
    before = scorer.state
    for part in before:
        part += 1
    for part in scorer.position.state:
        part += 1
    tail = scorer.push(ids[40:])
    np.testing.assert_array_equal(np.concatenate([head, tail]), Scorer(model, 0).push(ids))


def test_state_is_what_one_step_at_a_time_leaves(model, ids):
    scorer = Scorer(model, 0)
    scorer.push(ids[:40])
    state = model.init_state(1)
    with torch.inference_mode():
        for token in [0, *ids[:39].tolist()]:
            _, state = model.step(torch.tensor([token]), state)
    for ours, theirs in zip(scorer.state, state, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_nothing_to_score_is_nothing(model):
    assert Scorer(model, 0).push(np.empty(0, np.uint8)).shape == (0,)


@pytest.mark.parametrize("kind", ["lstm", "stochastic"])
@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_mode_weights_and_chance_alone(kind, training, ids):
    model = make_model(kind).train(training)
    before, chance = weights_of(model), torch.get_rng_state()
    exact = Scorer(model, 0).push(ids)
    fast = mean_score(model, ids)
    DynamicScorer(model, 0).push(ids[:50])
    assert model.training == training
    torch.testing.assert_close(weights_of(model), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), chance)
    model.eval()  # dropout was off all along
    np.testing.assert_array_equal(Scorer(model, 0).push(ids), exact)
    assert mean_score(model, ids) == fast


# --- fast


def test_one_piece_is_the_exact_score(model, ids):
    text = np.concatenate([[0], ids])
    exact = Scorer(model, 0).push(ids).mean()
    assert mean_score(model, text, batch=1) == pytest.approx(exact, abs=1e-6)
    # A warm-up longer than the text leaves one piece as well.
    assert mean_score(model, text, warm_up=1000) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(("batch", "warm_up"), [(2, 40), (3, 33), (32, 25)])
def test_pieces_side_by_side_are_nearly_exact(kind, batch, warm_up, ids):
    model = make_model(kind, noise=0.2)  # what lies 25 tokens back hardly matters to it
    text = np.concatenate([[0], ids])
    exact = Scorer(model, 0).push(ids).mean()
    fast = mean_score(model, text, batch=batch, warm_up=warm_up)
    assert fast == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize(("batch", "warm_up", "length"), [(3, 5, 31), (5, 4, 21), (4, 0, 9)])
def test_each_piece_is_warmed_up_on_the_tokens_before_it(model, ids, batch, warm_up, length):
    text = np.concatenate([[0], ids[:length]])
    size = -(-length // batch)
    total = 0.0
    for start in range(0, length, size):
        warm = max(0, start - warm_up)
        with torch.inference_mode():
            logits, _ = model.eval()(torch.tensor(text[warm:-1].astype(np.int64))[None])
        log_probs = logits[0].double().log_softmax(-1).numpy()
        for place in range(start, min(start + size, length)):
            total -= log_probs[place - warm, text[place + 1]]
    fast = mean_score(model, text, batch=batch, warm_up=warm_up)
    assert fast == pytest.approx(total / length, abs=1e-6)


def test_memory_bound_does_not_change_the_score(model, ids, monkeypatch):
    text = np.concatenate([[0], ids])
    expected = mean_score(model, text, batch=4, warm_up=20)
    monkeypatch.setattr("seqtool.evaluation.MAX_LOGITS", 7 * 4 * V)
    assert mean_score(model, text, batch=4, warm_up=20) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("limit", [1, 50, 99, 5000])
def test_limit_scores_pieces_spread_evenly_over_the_text(model, ids, limit):
    text = np.concatenate([[0], ids])
    nll = Scorer(model, 0).push(ids)
    pieces = max(1, min(3, min(limit, len(ids)) // 100))
    length = -(-min(limit, len(ids)) // pieces)
    stride = max(length, len(ids) // pieces)
    scored = [nll[b * stride : b * stride + length] for b in range(pieces)]
    fast = mean_score(model, text, batch=3, warm_up=100, limit=limit)
    assert fast == pytest.approx(np.concatenate(scored).mean(), abs=1e-4)


def test_limit_reads_more_than_the_beginning(model, ids):
    text = np.concatenate([[0], ids])
    changed = text.copy()
    changed[-len(ids) // 3 :] = changed[-len(ids) // 3 :][::-1]
    limited = [mean_score(model, t, batch=3, warm_up=10, limit=60) for t in (text, changed)]
    assert limited[0] != limited[1]


def test_boundaries_between_documents_are_read_but_not_scored(model, ids):
    text = np.concatenate([[0], ids[:40], [0], ids[40:90]])
    nll = Scorer(model, 0).push(text[1:])
    expected = np.delete(nll, 40).mean()
    assert mean_score(model, text, batch=1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("text", [[], [0], [0, 0]])
def test_no_token_to_score_is_an_error(model, text):
    with pytest.raises(ValueError, match="no token to score"):
        mean_score(model, np.array(text, np.uint8))


# --- dynamic


def test_a_segment_is_scored_before_it_is_learned_from(model, ids):
    static = Scorer(model, 0).push(ids)
    dynamic = DynamicScorer(model, 0, lr=0.05, segment=20).push(ids)
    np.testing.assert_allclose(dynamic[:20], static[:20], atol=1e-5)
    assert abs(dynamic[20:40] - static[20:40]).max() > 1e-3


def test_what_comes_later_cannot_change_a_score(model, ids):
    other = ids.copy()
    other[50:] = ids[50:][::-1]
    first, second = (DynamicScorer(model, 0, lr=0.05).push(text[:80]) for text in (ids, other))
    np.testing.assert_allclose(first[:50], second[:50], atol=1e-5)
    assert abs(first[50:] - second[50:]).max() > 1e-3


@pytest.mark.parametrize("cuts", [[1], [20, 40], [7, 19, 33, 41]])
def test_dynamic_score_does_not_depend_on_the_pieces(model, ids, cuts):
    scorer = DynamicScorer(model, 0, lr=0.02)
    pieces = [scorer.push(piece) for piece in np.split(ids, cuts)]
    whole = DynamicScorer(model, 0, lr=0.02).push(ids)
    # A part of a segment is scored without gradients, by another kernel.
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)


def test_no_step_is_the_static_score(model, ids):
    dynamic = DynamicScorer(model, 0, lr=0.0, decay=0.5).push(ids)
    np.testing.assert_allclose(dynamic, Scorer(model, 0).push(ids), atol=1e-5)


def test_two_steps_equal_the_published_rule(ids):
    model = make_model("rnn").double()
    lr, decay, segment = 0.03, 0.4, 10
    scorer = DynamicScorer(model, 0, lr=lr, decay=decay, segment=segment)
    nll = scorer.push(ids[: 3 * segment])
    adapted = copy.deepcopy(model)
    trained = weights_of(model)
    squares = {name: torch.zeros_like(weight) for name, weight in trained.items()}
    state, text = adapted.init_state(1), torch.tensor(np.concatenate([[0], ids]).astype(np.int64))
    for number in range(3):
        begin = number * segment
        logits, state = adapted(text[None, begin : begin + segment], state)
        state = tuple(part.detach() for part in state)
        losses = torch.nn.functional.cross_entropy(
            logits[0], text[begin + 1 : begin + segment + 1], reduction="none"
        )
        np.testing.assert_allclose(nll[begin : begin + segment], losses.detach().numpy())
        adapted.zero_grad()
        losses.mean().backward()
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                squares[name] += weight.grad**2
            roots = {name: (square / (number + 1)).sqrt() for name, square in squares.items()}
            mean = torch.cat([root.flatten() for root in roots.values()]).mean()
            for name, weight in adapted.named_parameters():
                back = decay * (roots[name] / mean).clamp(max=1 / decay)
                step = lr * weight.grad / (roots[name] + 1e-3)
                weight += back * (trained[name] - weight) - step


def test_adapting_helps_on_a_text_that_repeats(model):
    text = np.tile([3, 1, 4, 1, 5, 9, 2, 6], 40)
    dynamic = DynamicScorer(model, 0, lr=0.02).push(text)
    static = Scorer(model, 0).push(text)
    assert dynamic[-100:].mean() < 0.8 * static[-100:].mean()


def test_a_segment_needs_a_token(model):
    with pytest.raises(ValueError, match="segment must be at least 1, got 0"):
        DynamicScorer(model, 0, segment=0)


def test_model_and_baseline_score_the_same_tokens(model, ids):
    assert NGram(ids, V).nll(ids, np.array([0])).shape == Scorer(model, 0).push(ids).shape
