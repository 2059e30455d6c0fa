"""Choosing tokens: the distribution, drawing from it, and texts that stop and go on."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqtool.config import DecodeConfig
from seqtool.copies import CopyMeter
from seqtool.decode import (
    Generation,
    invert,
    probabilities,
    restore_rngs,
    row_rngs,
    select_rows,
    warm_up,
)
from seqtool.errors import CheckpointError, ConfigError

V, H, L = 11, 4, 2  # vocabulary, hidden units, layers


class Toy:
    """A small recurrent net whose rows do not touch each other, not even in rounding."""

    vocab_size = V

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.embedding = rng.normal(size=(V, H)).astype(np.float32)
        self.weight_hh = rng.normal(size=(L, H, H)).astype(np.float32)
        self.head = 2 * rng.normal(size=(V, H)).astype(np.float32)
        self.steps = 0

    def init_state(self, batch):
        return np.zeros((L, batch, H), np.float32), np.zeros((L, batch, H), np.float32)

    def step(self, ids, state):
        assert ids.shape == (state[0].shape[1],)
        self.steps += 1
        x = self.embedding[ids]  # (B, H)
        hidden = np.empty_like(state[0])
        for layer in range(L):
            recurrent = (state[0][layer][:, None, :] * self.weight_hh[layer]).sum(-1)
            x = hidden[layer] = np.tanh(x + recurrent)
        logits = (x[:, None, :] * self.head).sum(-1)
        return logits, (hidden, state[1] + 1)


def start(stepper, num=3, *, config=None, prompt=(0, 5), **options):
    """A Generation of num texts after a prompt, and the config it runs with."""
    config = config or DecodeConfig(num=num, seed=4)
    logits, state = warm_up(stepper, np.array(prompt), stepper.init_state(1))
    rngs = row_rngs(config.seed, num)
    return Generation(stepper, config, logits=logits, state=state, rngs=rngs, **options)


def write(generation, length):
    """The next ids of every row, (B, length)."""
    return np.stack([generation.next() for _ in range(length)], axis=1)


def slow_probabilities(logits, config):
    """One row, by the definitions, with Python lists."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if config.greedy:
        return [float(i == order[0]) for i in range(len(logits))]
    weight = {i: np.exp((logits[i] - max(logits)) / config.temperature) for i in order}
    kept = order[: config.top_k or None]
    total, before, nucleus = sum(weight[i] for i in kept), 0.0, []
    for i in kept:
        if config.top_p == 1 or before < config.top_p * total:
            nucleus.append(i)
        before += weight[i]
    kept = [i for i in nucleus if weight[i] >= config.min_p * weight[order[0]]]
    total = sum(weight[i] for i in kept)
    return [weight[i] / total if i in kept else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 3.0, "top_k": 4},
        {"top_k": 1},
        {"top_k": 99},
        {"top_p": 0.7},
        {"top_p": 1e-9},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"top_k": 5, "top_p": 0.8, "min_p": 0.1},
        {"greedy": True},
    ],
)
def test_probabilities_equal_the_definitions_row_by_row(options):
    logits = np.random.default_rng(2).normal(size=(6, V)).astype(np.float32)
    logits[3] = np.round(logits[3])  # ties
    logits[4, [0, 7]] = -np.inf
    config = DecodeConfig(**options)
    probs = probabilities(logits, config)
    expected = [slow_probabilities(row, config) for row in logits.astype(float).tolist()]
    np.testing.assert_allclose(probs, expected, rtol=1e-12, atol=1e-300)
    assert ((probs == 0) == (np.array(expected) == 0)).all()


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3}])
def test_a_row_gives_the_same_bits_alone_and_among_others(options):
    logits = np.random.default_rng(8).normal(size=(5, 1037)).astype(np.float32)
    config = DecodeConfig(**options)
    together = probabilities(logits, config)
    for row in range(5):
        np.testing.assert_array_equal(
            probabilities(logits[row : row + 1], config)[0], together[row]
        )


def test_ties_go_to_the_lower_ids():
    logits = np.zeros((1, 6), dtype=np.float32)
    expected = [0.5, 0.5, 0, 0, 0, 0]
    assert probabilities(logits, DecodeConfig(top_k=2))[0].tolist() == expected
    assert probabilities(logits, DecodeConfig(top_p=2 / 6))[0].tolist() == expected
    assert probabilities(logits, DecodeConfig(greedy=True))[0].tolist() == [1, 0, 0, 0, 0, 0]


@given(
    hnp.arrays(np.float32, (2, 7), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.floats(1e-300, 1e300),
    st.integers(0, 9),
    st.floats(1e-12, 1.0),
    st.floats(0.0, 1.0),
)
def test_probabilities_sum_to_one_for_any_finite_logits(logits, temperature, top_k, top_p, min_p):
    config = DecodeConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    before = logits.copy()
    probs = probabilities(logits, config)
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, rtol=1e-12)
    assert (probs >= 0).all()
    assert (probs[[0, 1], logits.argmax(axis=-1)] > 0).all()
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(value):
    logits = np.zeros((2, V), dtype=np.float32)
    logits[1, 3] = value
    with pytest.raises(CheckpointError, match="not finite"):
        probabilities(logits, DecodeConfig())


def test_inverting_uniform_numbers_gives_each_id_as_often_as_its_probability_says():
    probs = np.array([[0.0, 0.5, 0.0, 0.2, 0.3, 0.0]])
    ids = invert(np.repeat(probs, 20_000, axis=0), np.random.default_rng(1).random(20_000))
    share = np.bincount(ids, minlength=6) / len(ids)
    assert (share[[0, 2, 5]] == 0).all()
    # five standard errors of a share of a half
    np.testing.assert_allclose(share, probs[0], atol=5 * 0.5 / np.sqrt(len(ids)))


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 1), (np.nextafter(1.0, 0.0), 3)])
@pytest.mark.parametrize("total", [1.0, 1.0 + 2**-52, 5e-324])
def test_inverting_never_leaves_the_possible_ids(uniform, expected, total):
    half = total / 2 or total
    probs = np.array([[0.0, half, 0.0, total - half or total, 0.0]])
    assert invert(probs, np.array([uniform])).tolist() == [expected]


def test_warm_up_in_two_parts_equals_one():
    toy = Toy()
    prompt = np.array([0, 3, 9, 2, 2], dtype=np.uint8)
    whole, whole_state = warm_up(toy, prompt, toy.init_state(1))
    _, state = warm_up(toy, prompt[:2], toy.init_state(1))
    parts, state = warm_up(toy, prompt[2:], state)
    assert whole.shape == (1, V)
    np.testing.assert_array_equal(parts, whole)
    for part, other in zip(state, whole_state, strict=True):
        np.testing.assert_array_equal(part, other)


def test_generation_equals_a_hand_written_loop():
    toy = Toy()
    config = DecodeConfig(temperature=1.3, top_k=6, seed=9)
    ids = write(start(toy, 1, config=config), 12)
    logits, state = warm_up(toy, np.array([0, 5]), toy.init_state(1))
    rng = np.random.default_rng([9, 0])
    expected = []
    for _ in range(12):
        expected.append(invert(probabilities(logits, config), rng.random(1))[0])
        logits, state = toy.step(np.array([expected[-1]]), state)
    assert ids.tolist() == [expected]


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"greedy": True}])
def test_a_text_does_not_depend_on_how_many_are_written(options):
    config = DecodeConfig(temperature=1.5, **options)
    many = write(start(Toy(), 7, config=config), 20)
    alone = write(start(Toy(), 1, config=config), 20)
    np.testing.assert_array_equal(many[:1], alone)
    assert (len(np.unique(many, axis=0)) == 1) == config.greedy


def test_rows_that_are_kept_go_on_as_if_nothing_happened():
    meter = CopyMeter(np.arange(V, dtype=np.uint8))

    def vetoes():
        tracks = [meter.start() for _ in range(5)]
        for row, track in enumerate(tracks):
            track.push(row + 1)  # so that row r must not write r + 2
        return [partial(track.extensions_beyond, 1) for track in tracks]

    whole = write(start(Toy(), 5, vetoes=vetoes()), 25)
    generation = start(Toy(), 5, vetoes=vetoes())
    first = write(generation, 10)
    generation.keep([0, 2, 4])
    second = write(generation, 5)
    generation.keep([2, 0])  # what were rows 4 and 0
    third = write(generation, 10)
    np.testing.assert_array_equal(first, whole[:, :10])
    np.testing.assert_array_equal(second, whole[[0, 2, 4], 10:15])
    np.testing.assert_array_equal(third, whole[[4, 0], 15:])


def test_a_generation_rebuilt_from_its_saved_fields_goes_on_bit_for_bit():
    whole = start(Toy(), 3)
    expected = write(whole, 30)
    first = start(Toy(), 3)
    ids = write(first, 13)
    saved = json.loads(json.dumps(first.rng_states))
    logits, state = first.logits.copy(), tuple(part.copy() for part in first.state)
    write(first, 4)  # going on must not reach into what was saved
    rngs = restore_rngs(saved, "state.st")
    config = DecodeConfig(num=3, seed=4)
    second = Generation(Toy(), config, logits=logits, state=state, rngs=rngs)
    np.testing.assert_array_equal(np.hstack([ids, write(second, 17)]), expected)
    np.testing.assert_array_equal(second.logits, whole.logits)
    assert second.rng_states == whole.rng_states
    for part, other in zip(second.state, whole.state, strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"bit_generator": "MT19937"},
        {"bit_generator": "PCG64", "state": {"state": "x", "inc": 1}},
        {
            "bit_generator": "PCG64",
            "state": {"state": -1, "inc": 1},
            "has_uint32": 0,
            "uinteger": 0,
        },
    ],
)
def test_a_damaged_generator_state_is_an_error(state):
    with pytest.raises(CheckpointError, match=r"state\.st: the random generator of text 1"):
        restore_rngs([state], "state.st")


@pytest.mark.parametrize("options", [{}, {"greedy": True}, {"top_k": 1}, {"min_p": 1.0}])
def test_banned_and_vetoed_ids_are_never_written(options):
    config = DecodeConfig(temperature=50.0, **options)  # nearly uniform: all would come up
    toy = Toy()
    logits, _ = warm_up(toy, np.array([0, 5]), toy.init_state(1))
    favourite = int(logits.argmax())
    calls = []

    def veto_even():
        calls.append(1)
        return np.arange(0, V, 2)

    vetoes = [veto_even, lambda: np.empty(0, dtype=np.int64)]
    generation = start(toy, 2, config=config, banned_ids=[favourite, 3], vetoes=vetoes)
    first, before = generation.logits, generation.logits.copy()
    ids = write(generation, 60)
    np.testing.assert_array_equal(first, before)  # a caller may have kept them to save
    assert not {favourite, 3} & set(ids.ravel().tolist())
    assert (ids[0] % 2 == 1).all()
    assert config.greedy or (ids[1] % 2 == 0).any()
    assert len(calls) == 60


def test_the_likeliest_id_that_is_left_is_taken_when_greedy_is_vetoed():
    toy = Toy()
    config = DecodeConfig(greedy=True)
    logits, _ = warm_up(toy, np.array([0, 5]), toy.init_state(1))
    ranking = np.argsort(-logits[0])
    generation = start(toy, 1, config=config, vetoes=[lambda: ranking[:4]])
    assert generation.next().tolist() == [ranking[4]]


def test_a_row_with_nothing_left_to_write_is_an_error():
    config = DecodeConfig(max_copy=2)
    generation = start(Toy(), 1, config=config, banned_ids=[0], vetoes=[lambda: np.arange(1, V)])
    with pytest.raises(ConfigError, match="--max-copy 2"):
        generation.next()


@pytest.mark.parametrize("greedy", [False, True])
def test_a_copy_meter_as_veto_keeps_copies_within_the_limit(greedy):
    config = DecodeConfig(temperature=0.5, greedy=greedy, seed=2)
    corpus = write(start(Toy(), 1, config=config), 400)[0].astype(np.uint8)  # it knows it by heart
    meter = CopyMeter(corpus)

    def longest(limit):
        tracks = [meter.start() for _ in range(2)]
        vetoes = [partial(track.extensions_beyond, limit) for track in tracks]
        generation = start(Toy(), 2, config=config, banned_ids=[0], vetoes=vetoes)
        for _ in range(150):
            for track, token in zip(tracks, generation.next(), strict=True):
                track.push(token)
        return max(track.longest.length for track in tracks)

    assert longest(5) <= 5 < longest(1000)


def test_selected_rows_may_repeat():
    state = (np.arange(24.0).reshape(2, 3, 4), -np.arange(6.0).reshape(1, 3, 2))
    chosen = select_rows(state, [2, 0, 2, 2])
    assert [part.shape for part in chosen] == [(2, 4, 4), (1, 4, 2)]
    for part, original in zip(chosen, state, strict=True):
        for new, old in enumerate([2, 0, 2, 2]):
            np.testing.assert_array_equal(part[:, new], original[:, old])
        assert part.flags.c_contiguous
