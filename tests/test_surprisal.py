"""Scores by the engine against those of torch."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from seqtool.config import Cell, ModelConfig
from seqtool.engine import Engine
from seqtool.evaluation import Scorer
from seqtool.models import LanguageModel, build_model, to_arrays
from seqtool.surprisal import Surprisal, negative_log_likelihood

V = 11
IDS = np.random.default_rng(5).integers(0, V, 700)


def make(cell: Cell) -> tuple[LanguageModel, Engine]:
    torch.manual_seed(2)
    config = ModelConfig(cell=cell, hidden_size=8, embed_size=5, ngram_order=3, ngram_buckets=29)
    model = build_model(config, V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model, Engine(config, V, to_arrays(model))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_scores_are_those_of_torch(cell: Cell) -> None:
    model, engine = make(cell)
    assert_allclose(Surprisal(engine, 0).push(IDS), Scorer(model, 0).push(IDS), atol=2e-5)


@pytest.mark.parametrize("cuts", [[1], [256], [255, 257], [3, 300, 300, 301]])
def test_pushes_of_any_size_score_alike(cuts: list[int]) -> None:
    _, engine = make("lstm")
    whole, parts = Surprisal(engine, 0).push(IDS), Surprisal(engine, 0)
    assert np.array_equal(np.concatenate([parts.push(p) for p in np.split(IDS, cuts)]), whole)


def test_a_position_goes_on_to_the_bit() -> None:
    model, engine = make("gru")
    whole, first = Surprisal(engine, 0), Surprisal(engine, 0)
    expected = whole.push(IDS)
    first.push(IDS[:300])
    assert np.array_equal(Surprisal(engine, 0, first.position).push(IDS[300:]), expected[300:])
    # One that torch left, in the middle of a block.
    other = Scorer(model, 0)
    other.push(IDS[:300])
    found = Surprisal(engine, 0, other.position).push(IDS[300:])
    assert_allclose(found, expected[300:], atol=2e-5)


def test_unlikely_tokens_cost_what_they_should() -> None:
    logits = np.array([[0, -200, 5], [1e4, 0, 0]], np.float32)
    found = negative_log_likelihood(logits, np.array([1, 0]))
    assert_allclose(found, [205 + np.log1p(np.exp(-5)), 0], rtol=1e-7)
