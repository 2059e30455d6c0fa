"""The mixture inside the compiled loops is the one of arrays."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from seqtool import team
from seqtool.backoff import NGram
from seqtool.config import Cell, DecodeConfig, ModelConfig
from seqtool.decode import Generation, row_rngs
from seqtool.engine import Engine, build_engine
from seqtool.mixture import Mixture, Partner
from seqtool.models import build_model, to_arrays

V, ORDER = 11, 4


def make(kind: Cell = "lstm", tables: int = 1) -> tuple[Engine, Mixture]:
    """An engine with an n-gram model mixed in, and the same of arrays around one without."""
    config = ModelConfig(
        cell=kind, hidden_size=8, embed_size=5, ngram_order=tables, ngram_buckets=29
    )
    torch.manual_seed(4)
    weights = to_arrays(build_model(config, V, unknown_id=1))
    text = np.random.default_rng(5).integers(2, 7, 400)
    partner = Partner(NGram(text, V, order=ORDER), np.array([0.2, 0.4, 0.6, 0.9], np.float32))
    engine = build_engine(config, V, weights, partner=partner)
    assert isinstance(engine, Engine)
    return engine, Mixture(build_engine(config, V, weights), *partner)


@pytest.mark.parametrize(("kind", "tables"), [("lstm", 1), ("lstm", 3), ("gru", 3), ("rnn", 1)])
def test_steps_are_those_of_arrays(kind, tables):
    engine, mixture = make(kind, tables)
    text = np.random.default_rng(6).integers(2, 9, (3, 20))  # also tokens that were not counted
    state, other = engine.init_state(3), mixture.init_state(3)
    for ids in text.T:
        logits, state = engine.step(ids, state)
        expected, other = mixture.step(ids, other)
        assert_allclose(logits, expected, atol=1e-5)
        assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-5)
        for mine, theirs in zip(state, other, strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 19])
@pytest.mark.parametrize("all_logits", [False, True])
def test_reading_at_once_is_reading_one_by_one(steps, all_logits):
    engine, _ = make(tables=3)
    text = np.random.default_rng(7).integers(2, 9, 25)
    state, found = engine.init_state(1), []
    for token in text:
        logits, state = engine.step(np.array([token]), state)
        found.append(logits[0])
    _, middle = engine.read(text[:-steps], engine.init_state(1))
    logits, after = engine.read(text[-steps:], middle, all_logits=all_logits)
    assert_array_equal(logits, found[-steps:] if all_logits else found[-1:])
    for mine, theirs in zip(after, state, strict=True):
        assert_array_equal(mine, theirs)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("num", [1, 3])
def test_passages_are_what_single_steps_write(num, greedy):
    engine, _ = make(tables=3)
    config = DecodeConfig(greedy=greedy)
    logits, state = engine.step(np.array([3]), engine.init_state(1))

    def start() -> Generation:
        return Generation(engine, config, logits=logits, state=state, rngs=row_rngs(1, num))

    at_once, one_by_one = start(), start()
    passage = at_once.write(40)
    single = np.concatenate([one_by_one.write(1).ids for _ in range(40)], axis=1)
    assert_array_equal(passage.ids, single)
    assert_array_equal(at_once.logits, one_by_one.logits)
    for mine, theirs in zip(at_once.state, one_by_one.state, strict=True):
        assert_array_equal(mine, theirs)


def test_all_cores_write_what_one_writes(monkeypatch):
    monkeypatch.setattr(team, "available_cores", lambda: 2)  # also where there is only one
    one, two = make(tables=3)[0], make(tables=3)[0]
    one._team.threads = 1
    uniforms = np.random.default_rng(8).random((1, 60))
    allowed = np.ones((1, V), bool)
    written = []
    for engine in (one, two):
        logits, state = engine.step(np.array([3]), engine.init_state(1))
        for _ in range(8):  # both numbers of threads have their turn
            written.append(engine.write(logits, state, uniforms, DecodeConfig(), allowed).ids)
    for ids in written:
        assert_array_equal(ids, written[0])
