"""The torch-free engine agrees with the model it was saved from."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from seqtool import team
from seqtool.config import DecodeConfig, ModelConfig, Precision
from seqtool.decode import Generation, row_rngs, select_rows
from seqtool.engine import FEWEST_TEXTS, Engine, build_engine
from seqtool.errors import ConfigError
from seqtool.models import LanguageModel, Stepper, build_model, shapes, to_arrays
from seqtool.numpy_engine import NumpyEngine, bernoulli, sigmoid
from seqtool.shapes import language_shapes

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
PRECISIONS = ["float32", "int8"]
SMOOTH = [kind for kind in KINDS if kind != "stochastic"]


def make(
    kind: str,
    shape: str = "one layer",
    vocab_size: int = V,
    *,
    precision: Precision = "float32",
    threads: int | None = None,
    **sizes: int,
) -> tuple[LanguageModel, Any]:
    """A model with weights that matter, and the engine made from its file."""
    size = sizes.get("hidden_size", H)
    tied = {"embed_size": size} if "tied" in SHAPES[shape] else {}
    base = {"hidden_size": size, "embed_size": E, "ngram_order": 1, "ngram_buckets": 29}
    config = ModelConfig(**{**base, **KINDS[kind], **SHAPES[shape], **tied})
    torch.manual_seed(4)
    model = build_model(config, vocab_size, unknown_id=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # a ReLU layer blows up when it is disturbed more
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if kind == "relu" else 0.4)
        model.embedding.weight[1] = 0  # the unknown token's, for ever
    weights = to_arrays(model)
    return model, build_engine(config, vocab_size, weights, precision=precision, threads=threads)


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SMOOTH)
def test_the_numpy_engine_agrees(kind, shape):
    model, engine = make(kind, shape)
    plain = NumpyEngine(model.config, V, to_arrays(model))
    state, other = engine.init_state(B), plain.init_state(B)
    for ids in draw_ids(8):
        logits, state = engine.step(ids, state)
        expected, other = plain.step(ids, other)
        assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


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


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", ["one layer", "all"])
@pytest.mark.parametrize("kind", SMOOTH)
def test_rows_do_not_depend_on_the_batch_beside_them(kind, shape, precision):
    _, engine = make(kind, shape, precision=precision)
    together, alone = engine.init_state(B), [engine.init_state(1) for _ in range(B)]
    for ids in draw_ids(8):
        logits, together = engine.step(ids, together)
        for row in range(B):
            one, alone[row] = engine.step(ids[row : row + 1], alone[row])
            assert np.array_equal(logits[row], one[0])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", ["one layer", "two layers", "all"])
@pytest.mark.parametrize("kind", SMOOTH)
def test_reading_at_once_equals_single_steps(kind, shape, precision):
    _, engine = make(kind, shape, precision=precision)
    state, steps = engine.init_state(1), []
    ids = draw_ids(300, batch=1)[:, 0]  # more than are read at once
    for token in ids:
        logits, state = engine.step(np.array([token]), state)
        steps.append(logits[0])
    all_logits, after = engine.read(ids, engine.init_state(1), all_logits=True)
    last, same = engine.read(ids, engine.init_state(1))
    assert np.array_equal(all_logits, steps)
    assert np.array_equal(last[0], steps[-1])
    for parts in zip(state, after, same, strict=True):
        assert np.array_equal(parts[0], parts[1])
        assert np.array_equal(parts[0], parts[2])


@pytest.mark.parametrize("batch", [1, 3, 3 * FEWEST_TEXTS + 2])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", SMOOTH)
def test_threads_do_not_change_a_bit(kind, precision, batch, monkeypatch):
    monkeypatch.setattr(team, "available_cores", lambda: 3)
    written = []
    for threads in (1, 2, 3):
        _, engine = make(kind, "all", precision=precision, hidden_size=24, threads=threads)
        monkeypatch.setattr(engine._team, "_choose", lambda like, threads=threads: threads)
        logits, state = engine.read(draw_ids(5, batch=1)[:, 0], engine.init_state(1))
        rows = np.zeros(batch, np.int64)
        logits, state = logits[rows], select_rows(state, rows)
        uniforms = np.random.default_rng(1).random((batch, 6))
        allowed = np.ones((1, V), np.bool_)
        found = engine.write(logits, state, uniforms, DecodeConfig(), allowed)
        written.append([found.ids, found.logits, *found.state_at(3), *found.state_at(6)])
    for other in written[1:]:
        for one, two in zip(written[0], other, strict=True):
            assert np.array_equal(one, two)


@pytest.mark.parametrize("shape", ["one layer", "all"])
@pytest.mark.parametrize("kind", SMOOTH)
def test_int8_differs_little(kind, shape):
    _, exact = make(kind, shape)
    _, rounded = make(kind, shape, precision="int8")
    ids = draw_ids(200, batch=1)[:, 0]
    expected, _ = exact.read(ids, exact.init_state(1), all_logits=True)
    found, _ = rounded.read(ids, rounded.init_state(1), all_logits=True)
    assert 0 < np.abs(found - expected).mean() < 0.02 * np.abs(expected).max()
    assert rounded.nbytes == exact.nbytes / 4


@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize(
    "config",
    [
        DecodeConfig(),
        DecodeConfig(greedy=True),
        DecodeConfig(temperature=1.3, top_k=5),
        DecodeConfig(top_p=0.7, min_p=0.02),
    ],
)
@pytest.mark.parametrize("shape", ["two layers", "all"])
def test_a_passage_is_what_single_tokens_would_be(shape, config, batch):
    """The compiled loop against the model of torch, the choice made by decode."""
    model, engine = make("lstm", shape)
    texts, states = [], []
    for stepper, most in ((engine, 40), (engine, 7), (engine, 1), (Stepper(model), 1)):
        logits, state = stepper.step(np.zeros(1, np.int64), stepper.init_state(1))
        generation = Generation(
            stepper,
            config,
            logits=logits,
            state=state,
            rngs=row_rngs(3, batch),
            banned_ids=[1, 4],
        )
        ids = [generation.write(min(most, 40 - done)).ids for done in range(0, 40, most)]
        texts.append(np.concatenate(ids, axis=1))
        states.append((generation.logits, *generation.state, generation.rng_states))
    for text, (*state, rngs) in zip(texts[1:], states[1:], strict=True):
        assert np.array_equal(text, texts[0])
        assert rngs == states[0][-1]
        for mine, theirs in zip(states[0], state, strict=False):
            assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    assert not np.isin(texts[0], [1, 4]).any()


def test_a_stop_within_a_passage_goes_on_exactly():
    _, engine = make("gru", "all")
    logits, state = engine.step(np.zeros(1, np.int64), engine.init_state(1))

    def begin(logits, state, rngs):
        return Generation(engine, DecodeConfig(), logits=logits, state=state, rngs=rngs)

    whole = begin(logits, state, row_rngs(3, B)).write(20)
    before, rng = whole.place(2, 8)
    logits, state = engine.step(whole.ids[2:3, 7], before)
    bits = np.random.PCG64(0)
    bits.state = rng
    rest = begin(logits, state, [np.random.Generator(bits)]).write(12)
    assert np.array_equal(rest.ids[0], whole.ids[2, 8:])


def test_writing_ends_where_the_logits_allow_no_choice():
    """The weights of one token are damaged: all is well until it is read."""
    model, _ = make("tanh")
    weights = to_arrays(model)
    weights["embedding.weight"][5] = np.nan
    engine = Engine(model.config, V, weights)
    logits, state = engine.step(np.zeros(1, np.int64), engine.init_state(1))
    uniforms, allowed = np.random.default_rng(1).random((1, 500)), np.ones((1, V), np.bool_)
    found = engine.write(logits, state, uniforms, DecodeConfig(temperature=3), allowed)
    assert 0 < found.ids.shape[1] < 500
    assert found.ids[0].tolist().index(5) == found.ids.shape[1] - 1
    assert np.isnan(found.logits).all()


@pytest.mark.parametrize("most", [500, 1])
def test_shares_of_a_batch_end_together(most, monkeypatch):
    """Where one of the texts comes to a damaged token, whichever thread writes it."""
    monkeypatch.setattr(team, "available_cores", lambda: 2)
    model, _ = make("lstm")
    weights = to_arrays(model)
    weights["embedding.weight"][5] = np.nan
    found, rows = [], np.zeros(2 * FEWEST_TEXTS, np.int64)
    for threads in (1, 2):
        engine = Engine(model.config, V, weights, threads=threads)
        monkeypatch.setattr(engine._team, "_choose", lambda like, threads=threads: threads)
        logits, state = engine.step(np.zeros(1, np.int64), engine.init_state(1))
        if most == 1:  # no choice at all in the last row
            logits = np.concatenate([logits[rows[1:]], np.full((1, V), np.nan, np.float32)])
        else:
            logits = logits[rows]
        uniforms, allowed = (
            np.random.default_rng(1).random((len(rows), most)),
            np.ones((1, V), bool),
        )
        written = engine.write(logits, select_rows(state, rows), uniforms, DecodeConfig(), allowed)
        count = written.ids.shape[1]
        assert (count == 0) == (most == 1)
        assert count < most
        found.append([written.ids, written.logits, *written.state_at(count)])
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one, two, equal_nan=True)


def test_stochastic_units_are_numpys():
    _, engine = make("stochastic")
    assert isinstance(engine, NumpyEngine)
    with pytest.raises(ConfigError, match="--precision int8"):
        make("stochastic", precision="int8")


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
    assert language_shapes(model.config, vocab_size) == shapes(model)


@pytest.mark.parametrize("module", ["engine", "writing", "scoring", "decode", "hashing"])
def test_writing_does_not_load_torch(module):
    heavy = "{'torch', 'numba'}"
    code = f"import sys, seqtool.{module}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
