"""The language model agrees with torch.nn, with itself step by step, and with its saved weights."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from seqtool.cells import detach, reset
from seqtool.config import ModelConfig
from seqtool.decode import select_rows
from seqtool.losses import LARGE_VOCABULARY
from seqtool.models import LanguageModel, Stepper, build_model, load_arrays, shapes, to_arrays

B, T, E, H, L, V = 2, 5, 3, 4, 3, 11  # all different, so that a transposed axis fails

SHAPES: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"},
    "relu": {"cell": "rnn", "nonlinearity": "relu"},
    "sigmoid": {"cell": "rnn", "nonlinearity": "sigmoid"},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "tied": {"cell": "lstm", "tied": True, "embed_size": H},
    "ngrams": {"cell": "lstm", "ngram_order": 3, "ngram_buckets": 13},
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def config(name: str = "lstm", **options: Any) -> ModelConfig:
    """A tiny model, of the recurrent layers alone unless ``name`` says otherwise."""
    sizes = {"hidden_size": H, "num_layers": L, "embed_size": E, "ngram_order": 1}
    return ModelConfig(**{**sizes, **SHAPES[name], **options})


def fill_ngrams(model: LanguageModel) -> None:
    """Draw the n-gram tables, which start at zero, so that they matter."""
    for name, parameter in model.named_parameters():
        if name.startswith("ngrams."):
            nn.init.normal_(parameter)


def draw_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, V, shape)


def test_equals_the_same_layers_of_torch():
    model = LanguageModel(config(), V).double()
    theirs = nn.LSTM(E, H, L, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(model.stack.state_dict())
    ids = draw_ids(B, T)
    logits, state = model(ids)
    output, last = theirs(model.embedding.weight[ids])
    assert_close(logits, output @ model.output.weight.T + model.output.bias)
    assert_close(state, last)


def test_tied_output_is_the_embedding():
    model = LanguageModel(config("tied"), V)
    ids = draw_ids(B, T)
    logits, _ = model(ids)
    output, _ = model.stack(model.embedding(ids))
    assert_close(logits, output @ model.embedding.weight.T + model.output.bias)
    assert "output.weight" not in shapes(model)
    assert set(model.state_dict()) == set(shapes(model))


@pytest.mark.parametrize("name", SHAPES)
def test_forward_step_and_stepper_agree(name):
    model = LanguageModel(config(name, dropout=0.5, ngram_dropout=0.5), V)
    fill_ngrams(model)
    ids = draw_ids(B, T)
    logits, final = model.eval()(ids)
    model.train()  # steps must not care,
    generator = torch.get_rng_state()
    stepper = Stepper(model)
    state, arrays = model.init_state(B), stepper.init_state(B)
    for time in range(T):
        one, state = model.step(ids[:, time], state)
        other, arrays = stepper.step(ids[:, time].numpy(), arrays)
        assert_close(one, logits[:, time])
        assert_close(torch.from_numpy(other), logits[:, time].detach())
    assert_close(state, final)
    assert_close(tuple(torch.from_numpy(part) for part in arrays), detach(final))
    assert torch.equal(torch.get_rng_state(), generator)  # nor draw numbers that training needs


@pytest.mark.parametrize("name", SHAPES)
def test_chunks_carry_on_and_restarts_begin_anew(name):
    model = LanguageModel(config(name), V).eval()
    fill_ngrams(model)
    ids = draw_ids(B, T)
    whole, _ = model(ids)
    _, state = model(ids[:, :2])
    carried, _ = model(ids[:, 2:], detach(state))
    assert_close(carried, whole[:, 2:])
    mixed, _ = model(ids[:, 2:], reset(state, torch.tensor([True, False])))
    fresh, _ = model(ids[:, 2:])
    assert_close(mixed, torch.stack([fresh[0], carried[1]]))


@pytest.mark.parametrize("tied", [False, True])
def test_unknown_token_means_nothing_and_learns_nothing(tied):
    model = LanguageModel(config("tied" if tied else "gru"), V, unknown_id=1)
    before = model.embedding.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ids = torch.arange(V).repeat(B, 1)  # the unknown one among them, as input and as target
    for _ in range(3):
        logits, _ = model(ids)
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), ids.roll(1, 1).flatten()).backward()
        optimizer.step()
    after = model.embedding.weight.detach()
    assert torch.equal(after[1], torch.zeros_like(after[1]))
    assert ((after - before).abs().sum(1) > 0).sum() == V - 1


def test_starting_weights_follow_the_seed():
    def fresh(seed: int) -> dict[str, np.ndarray]:
        torch.manual_seed(seed)
        return to_arrays(LanguageModel(config(), V))

    first, again, other = fresh(1), fresh(1), fresh(2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_stepper_takes_any_integer_and_gives_float32(dtype):
    model = LanguageModel(config(), V)
    stepper = Stepper(model)
    ids = np.array([3, 10], dtype=dtype)
    logits, state = stepper.step(ids, stepper.init_state(B))
    assert (logits.dtype, logits.shape) == (np.float32, (B, V))
    assert [part.shape for part in state] == [(L, B, H), (L, B, H)]
    assert_close(torch.from_numpy(logits), model(torch.tensor([[3], [10]]))[0][:, 0].detach())


def test_stepper_changes_neither_its_arguments_nor_the_model():
    model = LanguageModel(config(), V).train()
    weights = to_arrays(model)
    stepper = Stepper(model)
    _, state = stepper.step(np.array([1, 2]), stepper.init_state(B))
    for part in state:
        part.flags.writeable = False  # raises if written to
    saved = tuple(part.copy() for part in state)
    stepper.step(np.array([3, 4]), state)
    assert all(np.array_equal(part, old) for part, old in zip(state, saved, strict=True))
    assert model.training
    assert all(np.array_equal(value, weights[name]) for name, value in to_arrays(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_stepper_sees_later_updates_of_the_model():
    model = LanguageModel(config(), V)
    stepper = Stepper(model)
    before, _ = stepper.step(np.array([1]), stepper.init_state(1))
    with torch.no_grad():
        model.output.bias += 1
    after, _ = stepper.step(np.array([1]), stepper.init_state(1))
    np.testing.assert_allclose(after, before + 1, rtol=1e-6)


def test_selected_states_go_on_as_their_originals():
    stepper = Stepper(LanguageModel(config(), V))
    _, state = stepper.step(np.array([1, 2, 3]), stepper.init_state(3))
    index = np.array([2, 0, 2, 1])
    whole, _ = stepper.step(np.array([4, 5, 6]), state)
    chosen, _ = stepper.step(np.array([6, 4, 6, 5]), select_rows(state, index))
    np.testing.assert_allclose(chosen, whole[index], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SHAPES)
def test_saved_weights_give_bit_equal_logits(name):
    model = LanguageModel(config(name), V, unknown_id=1).eval()
    fill_ngrams(model)
    saved = to_arrays(model)
    assert {value.dtype for value in saved.values()} == {np.dtype(np.float32)}
    ids = draw_ids(B, T)
    expected, _ = model(ids)
    loaded = build_model(config(name), V, unknown_id=1, weights=saved).eval()
    assert torch.equal(loaded(ids)[0], expected)


def test_saved_weights_are_copies():
    model = LanguageModel(config(), V)
    saved = to_arrays(model)
    kept = saved["output.bias"].copy()
    with torch.no_grad():
        model.output.bias += 1
    assert np.array_equal(saved["output.bias"], kept)
    load_arrays(model, saved)
    saved["output.bias"] += 2
    assert np.array_equal(to_arrays(model)["output.bias"], kept)


def test_shapes_name_every_tensor_of_a_model_file():
    expected = {"embedding.weight": (V, E), "output.weight": (V, H), "output.bias": (V,)}
    for layer in range(L):
        expected[f"stack.weight_ih_l{layer}"] = (3 * H, E if layer == 0 else H)
        expected[f"stack.weight_hh_l{layer}"] = (3 * H, H)
        expected[f"stack.bias_ih_l{layer}"] = expected[f"stack.bias_hh_l{layer}"] = (3 * H,)
    assert shapes(LanguageModel(config("gru"), V)) == expected


def test_weights_of_another_shape_are_refused():
    weights = to_arrays(LanguageModel(config(), V + 1))
    with pytest.raises(AssertionError, match="do not fit"):
        build_model(config(), V, weights=weights)


# Without n-grams, whose gradients are sparse and would learn such a line without any memory.
@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"ngrams"}))
def test_learns_a_repeating_line(name):
    model = build_model(config(name, hidden_size=24, num_layers=1, embed_size=24), V)
    line = torch.tensor([0, 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])  # 1, 3 and 5 need memory
    ids = line.repeat(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        logits, _ = model(ids[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss < 0.3  # without memory 0.51 nats at best: what follows 1, 3 and 5 is a guess


@pytest.mark.parametrize(
    ("vocab_size", "options"),
    [
        (V, {}),
        (V, {"ngram_order": 1}),
        (LARGE_VOCABULARY, {"ngram_order": 3, "ngram_buckets": 8}),
        (LARGE_VOCABULARY, {"ngram_order": 1, "tied": True, "embed_size": 5, "hidden_size": 5}),
    ],
)
def test_loss_is_the_cross_entropy_of_the_logits_with_its_gradients(vocab_size, options):
    shape = ModelConfig(**{"hidden_size": 5, "embed_size": 4, **options})
    model = build_model(shape, vocab_size, unknown_id=2)
    fill_ngrams(model)
    ids, targets = torch.randint(vocab_size, (2, 3, 6))
    ids[0, 1] = 2
    state = model.init_state(3)
    logits, after = model(ids, state)
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss, final = model.loss(ids, targets, state)
    assert_close(loss, expected)
    assert_close(final, after)
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine.to_dense(), other.to_dense())
