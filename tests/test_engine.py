"""The torch-free engine agrees with the model it was saved from."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from seqtool.config import ModelConfig
from seqtool.decode import select_rows
from seqtool.engine import Engine, build_engine, weight_shapes
from seqtool.models import LanguageModel, Stepper, build_model, shapes, to_arrays
from seqtool.numpy_engine import bernoulli, sigmoid

B, E, H, V = 3, 5, 8, 11
LARGE = 600  # more tokens than get n-gram tables of logits

KINDS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "tanh": {"cell": "rnn"},
    "relu": {"cell": "rnn", "nonlinearity": "relu"},
    "sigmoid": {"cell": "rnn", "nonlinearity": "sigmoid"},
    "stochastic": {"cell": "rnn", "nonlinearity": "stochastic"},
}
SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "tied": {"tied": True, "embed_size": H},
    "ngrams": {"ngram_order": 4},
    "all": {"num_layers": 2, "tied": True, "embed_size": H, "ngram_order": 3},
}
SMOOTH = [kind for kind in KINDS if kind != "stochastic"]


def make(kind: str, shape: str = "one layer", vocab_size: int = V) -> tuple[LanguageModel, Engine]:
    """A model with weights that matter, and the engine made from its file."""
    sizes = {"hidden_size": H, "embed_size": E, "ngram_order": 1, "ngram_buckets": 29}
    config = ModelConfig(**{**sizes, **KINDS[kind], **SHAPES[shape]})
    torch.manual_seed(4)
    model = build_model(config, vocab_size, unknown_id=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # a ReLU layer blows up when it is disturbed more
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if kind == "relu" else 0.4)
        model.embedding.weight[1] = 0  # the unknown token's, for ever
    return model, build_engine(config, vocab_size, to_arrays(model))


def draw_ids(steps: int, batch: int = B, vocab_size: int = V) -> np.ndarray:
    return np.random.default_rng(2).integers(0, vocab_size, (steps, batch))


@pytest.mark.parametrize("vocab_size", [V, LARGE])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SMOOTH)
def test_logits_and_states_equal_those_of_the_model(kind, shape, vocab_size):
    model, engine = make(kind, shape, vocab_size)
    stepper = Stepper(model)
    state, other = engine.init_state(B), stepper.init_state(B)
    for ids in draw_ids(8, vocab_size=vocab_size):
        before = tuple(part.copy() for part in state)
        logits, after = engine.step(ids, state)
        assert all(np.array_equal(a, b) for a, b in zip(state, before, strict=True))
        expected, other = stepper.step(ids, other)
        state = after
        assert (logits.dtype, logits.shape) == (np.float32, (B, vocab_size))
        # Float32 sums in another order; what ReLU layers add up grows, hence relative.
        assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
        for mine, theirs in zip(state, other, strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("shape", ["two layers", "ngrams", "all"])
@pytest.mark.parametrize("kind", SMOOTH)
def test_greedy_texts_are_the_same(kind, shape):
    model, engine = make(kind, shape)
    texts = []
    for stepper in (engine, Stepper(model)):
        ids, state, text = np.zeros(1, np.int64), stepper.init_state(1), []
        for step in range(300):
            logits, state = stepper.step(ids, state)
            if step % 7 == 0:  # or most untrained models repeat one token for ever
                logits = logits + 4 * np.cos(np.arange(V) + step, dtype=np.float32)
            ids = logits.argmax(axis=1)
            text.append(int(ids[0]))
        texts.append(text)
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 2


@pytest.mark.parametrize("kind", SMOOTH)
def test_states_are_interchangeable(kind):
    model, engine = make(kind, "all")
    stepper = Stepper(model)
    mine, theirs = engine.init_state(B), stepper.init_state(B)
    for ids in draw_ids(4):
        _, mine = engine.step(ids, mine)
        _, theirs = stepper.step(ids, theirs)
    ids = draw_ids(5)[4]
    tolerance = {"rtol": 1e-5, "atol": 1e-4 if kind == "relu" else 1e-5}
    assert_allclose(engine.step(ids, theirs)[0], stepper.step(ids, mine)[0], **tolerance)
    rows = np.array([2, 0])
    chosen, _ = engine.step(ids[rows], select_rows(mine, rows))
    assert_allclose(chosen, engine.step(ids, mine)[0][rows], **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_state_is_that_of_the_model(kind):
    model, engine = make(kind, "all")
    pairs = zip(engine.init_state(B), Stepper(model).init_state(B), strict=True)
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("shape", ["one layer", "all"])
@pytest.mark.parametrize("kind", SMOOTH)
def test_rows_hardly_depend_on_the_batch_beside_them(kind, shape):
    """Not to the bit: BLAS adds in another order for one row than for several."""
    _, engine = make(kind, shape)
    together, alone = engine.init_state(B), [engine.init_state(1) for _ in range(B)]
    for ids in draw_ids(8):
        logits, together = engine.step(ids, together)
        for row in range(B):
            one, alone[row] = engine.step(ids[row : row + 1], alone[row])
            scale = max(1, np.abs(one).max())
            assert_allclose(logits[row], one[0], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_of_any_integer_type(dtype):
    _, engine = make("lstm", "all")
    ids = np.array([3, 10, 0])
    expected, _ = engine.step(ids, engine.init_state(B))
    logits, _ = engine.step(ids.astype(dtype), engine.init_state(B))
    assert np.array_equal(logits, expected)


def test_ngram_rows_follow_the_text():
    """Only the tables speak: the logits are those of a model that sees the last tokens alone."""
    model, engine = make("gru", "ngrams")
    weights = to_arrays(model)
    silent = {n: w if n == "ngrams.weight" else w * 0 for n, w in weights.items()}
    engine = Engine(model.config, V, silent)
    one, other = engine.init_state(1), engine.init_state(1)
    for ids in ([5], [4], [3], [2]):
        first, one = engine.step(np.array(ids), one)
    for ids in ([9], [4], [3], [2]):  # of order 4: the last four tokens
        second, other = engine.step(np.array(ids), other)
    assert not np.array_equal(first, second)
    for ids in ([7], [6], [8], [2]):
        first, one = engine.step(np.array(ids), one)
        second, other = engine.step(np.array(ids), other)
    assert np.array_equal(first, second)


def test_saturated_units_make_no_warnings():
    wide = np.array([[-1e4, -100.0, 0.0, 100.0, 1e4]], dtype=np.float32)
    assert_allclose(sigmoid(wide), [[0, 0, 0.5, 1, 1]], atol=1e-7)
    assert sigmoid(wide).dtype == np.float32


def test_stochastic_units_follow_their_probability_and_their_arguments():
    a = np.random.default_rng(1).normal(size=(1, 400)).astype(np.float32).repeat(200, axis=0)
    a += 1e-5 * np.arange(200, dtype=np.float32)[:, None]  # each row another seed
    drawn = bernoulli(a)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert drawn.dtype == np.float32
    assert_allclose(drawn.mean(0), sigmoid(a).mean(0), atol=5 * 0.5 / 200**0.5)
    assert np.array_equal(drawn, bernoulli(a))
    assert np.array_equal(drawn[7:8], bernoulli(a[7:8]))  # whatever stands beside


@pytest.mark.parametrize("shape", SHAPES)
def test_stochastic_steps_are_repeatable_and_match_the_model_given_the_units(shape):
    model, engine = make("stochastic", shape)
    state = engine.init_state(B)
    for ids in draw_ids(3):
        logits, after = engine.step(ids, state)
        again, _ = engine.step(ids, state)
        assert np.array_equal(logits, again)
        state = after
    output = model.embedding if model.config.tied else model.output
    expected = state[0][-1] @ output.weight.detach().numpy().T + model.output.bias.detach().numpy()
    if shape not in ("ngrams", "all"):
        assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocab_size", [V, LARGE])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_weight_shapes_are_those_of_the_model(kind, shape, vocab_size):
    model, _ = make(kind, shape, vocab_size)
    assert weight_shapes(model.config, vocab_size) == shapes(model)


@pytest.mark.parametrize("module", ["engine", "writing", "decode", "hashing"])
def test_writing_does_not_load_torch(module):
    code = f"import sys, seqtool.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
