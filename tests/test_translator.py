"""The torch-free translator agrees with the model it was saved from, in every batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from seqtool.beam import log_softmax, rank, search
from seqtool.config import BeamConfig, DecodeConfig, TranslatorConfig
from seqtool.decode import select_rows
from seqtool.encdec import EncoderDecoder
from seqtool.errors import CheckpointError
from seqtool.translator import BOUNDARY, Translator, weight_shapes

E, H, V_S, V = 5, 6, 13, 11

CELLS = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "tanh": {"cell": "rnn"},
    "relu": {"cell": "rnn", "nonlinearity": "relu"},
}
SHAPES = {
    "dot": {},
    "additive": {"attention": "additive", "tying": "none"},
    "none": {"attention": "none"},
    "two layers": {"num_layers": 2, "layer_norm": False},
    "fed": {"input_feeding": True, "num_layers": 2, "tying": "target"},
    "tied": {"tying": "all", "reverse_source": True},
}


def make(cell="lstm", shape="dot", seed=3, **options):
    """A model with weights that matter, and the translator made from its file."""
    sizes = {"embed_size": E, "hidden_size": H, "tying": "target"}
    config = TranslatorConfig(**(sizes | CELLS[cell] | SHAPES[shape]))
    torch.manual_seed(seed)
    source_size = V if config.tying == "all" else V_S
    model = EncoderDecoder(config, source_size, V, source_unknown=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if cell == "relu" else 0.4)
        model.source_embedding.weight[1] = 0
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    shapes = {name: value.shape for name, value in weights.items()}
    assert shapes == weight_shapes(config, source_size, V)
    return model, Translator(config, weights, **options)


def draw_sources(count, seed=0, longest=9):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, V, rng.integers(0, longest)) for _ in range(count)]


def torch_steps(model, source, targets):
    """Logits (T, V) and alignments (T, S) of one source, targets given."""
    turned = source[::-1] if model.config.reverse_source else source
    ids = torch.tensor([[*turned, BOUNDARY]])
    logits, looks = [], []
    with torch.no_grad():
        state, memory = model.encode(ids, torch.tensor([ids.shape[1]]))
        for token in targets:
            found, state, weights = model.step(torch.tensor([token]), state, memory)
            logits.append(found[0].numpy())
            looks.append(weights[0].numpy())
    return np.stack(logits), np.stack(looks)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_it_agrees_with_the_model(cell, shape):
    model, translator = make(cell, shape)
    sources = draw_sources(7)
    targets = np.random.default_rng(1).integers(0, V, (6, len(sources)))
    reading = translator.read(sources)
    state, found = reading.state, []
    for ids in targets:
        before = [part.copy() for part in state]
        logits, after = reading.step(ids, state)
        assert all(np.array_equal(a, b) for a, b in zip(before, state, strict=True))
        assert (logits.dtype, logits.shape) == (np.float32, (len(sources), V))
        state = after
        found.append(logits)
    for row, source in enumerate(sources):
        expected, _ = torch_steps(model, source, targets[:, row])
        mine = np.stack([logits[row] for logits in found])
        scale = max(1, np.abs(expected).max())
        assert_allclose(mine, expected, rtol=1e-5, atol=2e-5 * scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_alignments_are_the_models(shape):
    model, translator = make(shape=shape)
    sources = [np.array([4, 2, 9, 7, 3]), np.array([], np.int64), np.array([8, 6])]
    targets = [np.array([5, 5, 1]), np.array([2, 3, 4, 5, 6]), np.array([], np.int64)]
    found = translator.align(sources, targets)
    for source, target, weights in zip(sources, targets, found, strict=True):
        _, expected = torch_steps(model, source, [BOUNDARY, *target])
        if model.config.reverse_source:
            expected[:, : len(source)] = expected[:, : len(source)][:, ::-1].copy()
        assert weights.shape == (len(target) + 1, 1 if shape == "none" else len(source) + 1)
        assert_allclose(weights, expected, atol=2e-5)
        assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


def make_several(shape):
    """Three translators of one network each, and one of all three."""
    ones = [make(shape=shape, seed=seed) for seed in (3, 4, 5)]
    weights = {
        f"{number}.{name}": value.numpy()
        for number, (model, _) in enumerate(ones)
        for name, value in model.state_dict().items()
    }
    config = replace(ones[0][0].config, members=3)
    source_size = V if config.tying == "all" else V_S
    expected = {name: value.shape for name, value in weights.items()}
    assert expected == weight_shapes(config, source_size, V)
    return [translator for _, translator in ones], Translator(config, weights)


@pytest.mark.parametrize("shape", ["dot", "fed", "tied", "none"])
def test_several_networks_answer_by_the_mean_of_their_logits(shape):
    ones, several = make_several(shape)
    sources = draw_sources(9)
    readings, reading = [one.read(sources) for one in ones], several.read(sources)
    states, state, ids = [one.state for one in readings], reading.state, np.zeros(9, np.int64)
    for token in range(5):
        looks = [r.look(ids, own) for r, own in zip(readings, states, strict=True)]
        states = [after for _, after, _ in looks]
        before = state
        logits, state, weights = reading.look(ids, state)
        assert_allclose(logits, np.mean([said for said, _, _ in looks], axis=0), atol=1e-5)
        assert_allclose(weights, np.mean([where for _, _, where in looks], axis=0), atol=1e-6)
        banned = np.array([token + 1])
        found, _ = reading.ranked(ids, before, count=4, end_id=0, banned_ids=banned)
        expected = rank(logits, count=4, end_id=0, banned_ids=banned)
        assert np.array_equal(found.ids, expected.ids)
        assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
        assert_allclose(found.end, expected.end, atol=1e-5)
        ids = (3 * ids + token) % V
    whole = [found[0].ids.tolist() for found in several.translate(sources, BeamConfig(), [12] * 9)]
    for source, translation in zip(sources, whole, strict=True):
        alone = several.translate([source], BeamConfig(), [12])
        assert alone[0][0].ids.tolist() == translation
    assert len(several.align(sources, [np.array([1, 2])] * 9)) == 9


@pytest.mark.parametrize("shape", ["dot", "fed"])
def test_its_own_ranking_is_that_of_its_logits(shape):
    _, translator = make(shape=shape)
    reading = translator.read(draw_sources(40))
    ids, state = np.arange(40) % V, reading.state
    for banned in ([], [2, 5]):
        logits, _ = reading.step(ids, state)
        expected = rank(logits, count=4, end_id=0, banned_ids=np.array(banned, np.int64))
        found, after = reading.ranked(
            ids, state, count=4, end_id=0, banned_ids=np.array(banned, np.int64)
        )
        assert np.array_equal(found.ids, expected.ids)
        assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
        assert_allclose(found.end, expected.end, atol=1e-5)
        assert found.log_probs.max() <= 0
        state = after


def test_more_are_wanted_than_are_allowed():
    _, translator = make()
    reading = translator.read(draw_sources(2))
    banned = np.arange(1, V - 1)
    found, _ = reading.ranked(
        np.zeros(2, np.int64), reading.state, count=4, end_id=0, banned_ids=banned
    )
    assert {0, V - 1} == set(found.ids[0, :2])
    assert np.isneginf(found.log_probs[:, 2:]).all()


class Plain:
    """A reading that does not rank for itself."""

    def __init__(self, reading):
        self.step, self.vocab_size = reading.step, reading.vocab_size


@pytest.mark.parametrize("shape", SHAPES)
def test_the_beam_finds_the_same_with_either_ranking(shape):
    _, translator = make(shape=shape)
    sources, config = draw_sources(12, 5), BeamConfig(beam_size=4, n_best=2)
    found = translator.translate(sources, config, [15] * 12)
    reading = translator.read(sources)
    others = search(
        Plain(reading), reading.state, config, start_id=0, end_id=0, max_lengths=[15] * 12
    )
    for mine, theirs in zip(found, others, strict=True):
        assert [one.ids.tolist() for one in mine] == [one.ids.tolist() for one in theirs]
        assert [one.score for one in mine] == pytest.approx([one.score for one in theirs], abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=4)
@given(data=st.data())
def test_a_translation_is_the_same_to_the_bit_in_every_batch(shape, precision, data):
    seed = data.draw(st.integers(0, 99))
    sources = draw_sources(data.draw(st.integers(1, 30)), seed, longest=20)
    order = data.draw(st.permutations(range(len(sources))))
    cut = data.draw(st.integers(0, len(order)))
    config = BeamConfig(beam_size=data.draw(st.integers(1, 4)))
    _, one = make(shape=shape, precision=precision, threads=1)
    _, two = make(shape=shape, precision=precision, threads=2)
    whole = one.translate(sources, config, [12] * len(sources))
    for part in (order[:cut], order[cut:]):
        found = two.translate([sources[i] for i in part], config, [12] * len(part))
        for i, (hypothesis,) in zip(part, found, strict=True):
            assert hypothesis.ids.tolist() == whole[i][0].ids.tolist()
            assert hypothesis.log_probs.tolist() == whole[i][0].log_probs.tolist()
            assert hypothesis.score == whole[i][0].score


def test_samples_depend_on_the_source_alone():
    _, translator = make()
    sources = draw_sources(9, 2)
    options = DecodeConfig(temperature=1.0, seed=5), [10] * 9
    beam = BeamConfig(n_best=3)
    found = translator.sample(sources, *options, beam=beam)
    turned = translator.sample(sources[::-1], *options, beam=beam)[::-1]
    for mine, theirs in zip(found, turned, strict=True):
        assert [one.ids.tolist() for one in mine] == [one.ids.tolist() for one in theirs]
        assert [one.score for one in mine] == sorted((one.score for one in mine), reverse=True)
    assert len({tuple(one.ids) for several in found for one in several}) > 9


def test_int8_stays_near():
    _, exact = make(precision="float32")
    _, rounded = make(precision="int8")
    sources = draw_sources(6)
    logs = []
    for translator in (exact, rounded):
        reading = translator.read(sources)
        logits, _ = reading.step(np.zeros(6, np.int64), reading.state)
        logs.append(log_softmax(logits))
    assert not np.array_equal(*logs)
    assert_allclose(*logs, atol=0.15)


def test_damaged_weights_are_told():
    model, _ = make()
    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    weights["output.bias"][3] = np.nan
    translator = Translator(model.config, weights)
    with pytest.raises(CheckpointError, match="not finite"):
        translator.translate(draw_sources(2), BeamConfig(), [5, 5])


def test_rows_may_be_taken_from_a_state():
    _, translator = make(shape="fed")
    reading = translator.read(draw_sources(4))
    logits, _ = reading.step(np.array([1, 2, 3, 4]), reading.state)
    picked, _ = reading.step(np.array([3, 3, 1]), select_rows(reading.state, [2, 2, 0]))
    assert np.array_equal(picked, logits[[2, 2, 0]])


def test_nothing_to_translate():
    _, translator = make()
    assert translator.translate([], BeamConfig(), []) == []
