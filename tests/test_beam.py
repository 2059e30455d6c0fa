"""Beam search: against all sentences there are, against a loop over one, and in random batches."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtool.beam import Hypothesis, draw, log_softmax, normalised, rank, search
from seqtool.config import BeamConfig, DecodeConfig
from seqtool.decode import select_rows
from seqtool.errors import CheckpointError, ConfigError

START = END = 0
V, H = 5, 4


class Toy:
    """A tiny conditional language model; its rows do not touch each other, not even in rounding."""

    def __init__(self, seed=0, vocab_size=V, scale=2.0):
        rng = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self.embedding = rng.normal(size=(vocab_size, H)).astype(np.float32)
        self.weight = rng.normal(size=(H, H)).astype(np.float32)
        self.head = scale * rng.normal(size=(vocab_size, H)).astype(np.float32)
        self.rows = []  # of each step

    def begin(self, sources):
        """The state of a row for each source, a number."""
        h = np.tanh(
            np.outer(np.asarray(sources, np.float32), np.arange(1, H + 1, dtype=np.float32))
        )
        return h[None], np.asarray(sources, np.int64)[None, :, None]

    def step(self, ids, state):
        h, source = state
        self.rows.append(len(ids))
        assert h.shape[1] == source.shape[1] == len(ids)
        recurrent = (h[0][:, None, :] * self.weight).sum(-1)
        new = np.tanh(self.embedding[ids] + recurrent + 0.1 * source[0] * self.embedding[0])
        new = new.astype(np.float32)
        return (new[:, None, :] * self.head).sum(-1), (new[None], source)


class RankedToy(Toy):
    """The same, which ranks for itself."""

    def ranked(self, ids, state, *, count, end_id, banned_ids):
        logits, state = self.step(ids, state)
        return rank(logits, count=count, end_id=end_id, banned_ids=banned_ids), state


def find(toy, sources, most, config=None, *, banned=()):
    lengths = [most] * len(sources) if isinstance(most, int) else most
    return search(
        toy,
        toy.begin(sources),
        config or BeamConfig(),
        start_id=START,
        end_id=END,
        max_lengths=lengths,
        banned_ids=banned,
    )


def log_probs_of(toy, source, ids):
    """What the model says of each token of a sentence and of its end."""
    state, found, before = toy.begin([source]), [], START
    for token in [*ids, END]:
        logits, state = toy.step(np.array([before]), state)
        found.append(log_softmax(logits)[0, token])
        before = token
    return found


def every_sentence(most, vocab_size=V):
    for length in range(most):
        yield from itertools.product(range(1, vocab_size), repeat=length)


def slow_search(toy, source, most, config, banned=()):
    """One sentence, by the definition, with lists; runs until nothing goes on."""
    going, ended = [(0.0, (), toy.begin([source]))], []
    for time in range(1, most + 1):
        longer = []
        for total, ids, state in going:
            logits, state = toy.step(np.array([ids[-1] if ids else START]), state)
            logs = log_softmax(logits)[0]
            allowed = [END] if time == most else [v for v in range(V) if v not in banned]
            allowed.sort(key=lambda v: (-logs[v], v))
            longer += [(total + logs[v], (*ids, v), state) for v in allowed]
        longer.sort(key=lambda found: -found[0])
        longer = longer[: config.beam_size - len(ended)]
        ended += [found for found in longer if found[1][-1] == END]
        going = [found for found in longer if found[1][-1] != END]
    scored = [(total / len(ids) ** config.length_penalty, ids[:-1]) for total, ids, _ in ended]
    return sorted(scored, key=lambda found: -found[0])[: config.n_best]


def same(one: Hypothesis, other: Hypothesis) -> bool:
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.log_probs, other.log_probs)
        and one.score == other.score
    )


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_sentences(seed, alpha):
    toy, most = Toy(seed), 4
    config = BeamConfig(beam_size=V**most, length_penalty=alpha, n_best=3)
    for source, found in zip([1, 2], find(toy, [1, 2], most, config), strict=True):
        scores = {
            ids: sum(log_probs_of(toy, source, ids)) / (len(ids) + 1) ** alpha
            for ids in every_sentence(most)
        }
        best = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
        assert [tuple(one.ids) for one in found] == best
        assert [one.score for one in found] == pytest.approx([scores[ids] for ids in best])


@pytest.mark.parametrize("ranked", [False, True])
@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    sources=st.lists(st.integers(-3, 3), min_size=1, max_size=6),
    most=st.integers(1, 9),
    size=st.integers(1, 7),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    banned=st.sampled_from([(), (3,), (1, 4)]),
    data=st.data(),
)
def test_it_equals_a_loop_over_one_sentence(ranked, seed, sources, most, size, alpha, banned, data):
    best = data.draw(st.integers(1, size))
    config = BeamConfig(beam_size=size, length_penalty=alpha, n_best=best)
    toy = RankedToy(seed) if ranked else Toy(seed)
    for source, found in zip(sources, find(toy, sources, most, config, banned=banned), strict=True):
        expected = slow_search(toy, source, most, config, banned)
        assert [tuple(one.ids) for one in found] == [ids for _, ids in expected]
        assert [one.score for one in found] == [score for score, _ in expected]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    sources=st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 9)), min_size=1, max_size=9),
    size=st.integers(1, 6),
    data=st.data(),
)
def test_a_translation_does_not_depend_on_its_batch(seed, sources, size, data):
    order = data.draw(st.permutations(sources))
    cut = data.draw(st.integers(0, len(order)))
    config, toy = BeamConfig(beam_size=size), Toy(seed)
    alone = {pair: find(toy, [pair[0]], [pair[1]], config)[0] for pair in sources}
    for batch in (order[:cut], order[cut:], order):
        found = find(toy, [source for source, _ in batch], [most for _, most in batch], config)
        for pair, hypotheses in zip(batch, found, strict=True):
            assert len(hypotheses) == len(alone[pair]) == 1
            assert same(hypotheses[0], alone[pair][0])


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed):
    toy = Toy(seed)
    for source in range(4):
        state, before, greedy = toy.begin([source]), START, []
        for _ in range(11):
            logits, state = toy.step(np.array([before]), state)
            before = int(logits[0].argmax())
            if before == END:
                break
            greedy.append(before)
        assert find(toy, [source], 12, BeamConfig(beam_size=1))[0][0].ids.tolist() == greedy


@pytest.mark.parametrize("size", [1, 4])
def test_scores_are_those_of_the_sentence_read_again(size):
    toy, alpha = Toy(3), 0.7
    config = BeamConfig(beam_size=size, length_penalty=alpha, n_best=size)
    for source, found in enumerate(find(toy, [0, 1, 2], 6, config)):
        assert [one.score for one in found] == sorted((f.score for f in found), reverse=True)
        assert len({tuple(one.ids) for one in found}) == len(found)
        for one in found:
            assert one.log_probs == pytest.approx(log_probs_of(toy, source, one.ids))
            assert END not in one.ids
            assert len(one.log_probs) == len(one.ids) + 1
            assert one.score == pytest.approx(sum(one.log_probs) / len(one.log_probs) ** alpha)


def test_finished_sentences_leave_the_batch():
    toy = Toy(1)
    find(toy, [1] * 6, [2, 2, 2, 2, 2, 9], BeamConfig(beam_size=3, length_penalty=3.0))
    assert toy.rows[0] == 6
    assert toy.rows[1] <= 18
    assert max(toy.rows[2:]) <= 3


def test_banned_tokens_are_never_written():
    for seed in range(6):
        found = find(Toy(seed), [1, 2], 8, BeamConfig(n_best=5), banned=[2, 4])
        assert all({2, 4}.isdisjoint(one.ids) for hypotheses in found for one in hypotheses)


def test_the_longest_sentence_still_ends():
    toy = Toy(0)
    toy.head[END] = 0
    toy.head[1] = 9 * np.sign(toy.head[1])
    for most in (1, 2, 5):
        (found,) = find(toy, [1], most, BeamConfig(beam_size=2, n_best=2))
        assert found
        assert all(len(one.log_probs) <= most for one in found)


def test_no_sentences():
    assert find(Toy(), [], []) == []


def test_logits_that_are_not_finite_are_an_error():
    toy = Toy()
    toy.head[2] = np.nan
    with pytest.raises(CheckpointError, match="not finite"):
        find(toy, [1], 3)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"beam_size": 0}, "--beam-size"),
        ({"n_best": 6}, "--n-best"),
        ({"n_best": 0}, "--n-best"),
        ({"length_penalty": -0.5}, "--length-penalty"),
        ({"length_penalty": math.nan}, "--length-penalty"),
        ({"max_length": -1}, "--max-length"),
    ],
)
def test_impossible_options_name_their_flag(options, flag):
    with pytest.raises(ConfigError, match=flag):
        BeamConfig(**options)


def test_length_counts_less_with_a_smaller_penalty():
    assert normalised(-6.0, 3, 1.0) == -2.0
    assert normalised(-6.0, 3, 0.0) == -6.0


def sample(toy, sources, most, seeds, **options):
    return draw(
        toy,
        toy.begin(sources),
        DecodeConfig(**options),
        start_id=START,
        end_id=END,
        max_lengths=[most] * len(sources),
        rngs=[np.random.default_rng(seed) for seed in seeds],
        length_penalty=1.0,
    )


def test_greedy_samples_equal_a_beam_of_one():
    toy, sources = Toy(2), [0, 1, 2, 3]
    drawn = sample(toy, sources, 9, sources, greedy=True)
    found = find(toy, sources, 9, BeamConfig(beam_size=1))
    for one, (other,) in zip(drawn, found, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.log_probs == pytest.approx(other.log_probs)
        assert one.score == pytest.approx(other.score)


def test_a_sample_does_not_depend_on_its_batch():
    toy, sources = Toy(5, scale=1.0), [1, 3, 2, 1, 0]
    together = sample(toy, sources, 12, range(5), temperature=1.0)
    for row, source in enumerate(sources):
        (alone,) = sample(toy, [source], 12, [row], temperature=1.0)
        assert same(alone, together[row])
    assert len({tuple(one.ids) for one in together}) > 1


def test_samples_are_as_frequent_as_they_are_likely():
    toy, count = Toy(4, scale=1.0), 4000
    state = select_rows(toy.begin([1]), np.zeros(count, np.int64))
    found = draw(
        toy, state, DecodeConfig(temperature=1.0), start_id=START, end_id=END,
        max_lengths=[3] * count, rngs=[np.random.default_rng([9, i]) for i in range(count)],
        length_penalty=0.0,
    )  # fmt: skip
    first = np.bincount([one.ids[0] if len(one.ids) else END for one in found], minlength=V) / count
    p = np.exp(log_softmax(toy.step(np.array([START]), toy.begin([1]))[0])[0])
    assert np.abs(first - p).max() < 4 * np.sqrt(0.25 / count)
    assert all(len(one.log_probs) <= 3 for one in found)
