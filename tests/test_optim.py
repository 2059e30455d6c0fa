"""Updates agree with hand computations, with torch's optimizers, and with their saved selves."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from seqtool.config import ModelConfig, TrainConfig
from seqtool.models import LanguageModel
from seqtool.optim import (
    AVERAGE_EVERY,
    RowAdagrad,
    Updater,
    clip,
    decay_start,
    fewest_steps,
    learning_rate,
)

V, B, T = 11, 3, 5
OPTIMIZERS = ["adam", "rmsprop", "sgd"]


def make_model(**options: Any) -> LanguageModel:
    torch.manual_seed(3)
    sizes = {"hidden_size": 6, "embed_size": 4, "ngram_order": 3, "ngram_buckets": 13}
    return LanguageModel(ModelConfig(**{**sizes, "ngram_dropout": 0.0, **options}), V)


def backward(model: LanguageModel, seed: int) -> None:
    """Fresh gradients, sparse ones for the tables."""
    ids = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))
    for parameter in model.parameters():
        parameter.grad = None
    logits, _ = model(ids)
    nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(1).flatten()).backward()


def rows_of(used: list[int], values: torch.Tensor, rows: int) -> torch.Tensor:
    """A sparse gradient as the n-gram tables make them."""
    shape = (rows, values.shape[1])
    sparse = torch.sparse_coo_tensor(torch.tensor([used]), values, shape, check_invariants=True)
    return sparse.coalesce()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_learning_rate_rises_stays_and_falls_to_its_floor():
    config = TrainConfig(steps=20, lr=2.0, warmup=3, decay=0.5, lr_floor=0.1)
    rates = [learning_rate(step, config) for step in range(20)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4:11] == [2.0] * 7  # the fall begins from the peak at step 10
    assert rates[10:] == pytest.approx([2.0 * (1 - 0.9 * k / 9) for k in range(10)])
    assert rates[19] == pytest.approx(0.2)


@given(steps=st.integers(2, 3000), decay=st.floats(0.05, 1), floor=st.floats(0, 1))
def test_last_step_has_the_floor(steps, decay, floor):
    config = TrainConfig(steps=steps, warmup=0, decay=decay, lr_floor=floor, lr=0.5)
    if decay_start(config) < steps:  # a decay shorter than one step is none
        assert learning_rate(steps - 1, config) == pytest.approx(0.5 * floor)
    rates = [learning_rate(step, config) for step in range(steps)]
    assert rates == sorted(rates, reverse=True)
    assert 0 <= min(rates) <= max(rates) <= 0.5


@given(
    step=st.integers(0, 2000),
    decay=st.floats(0, 0.99),
    longer=st.integers(0, 1000),
    warmup=st.integers(0, 100),
)
@settings(deadline=None)
def test_length_may_change_while_the_schedule_is_flat(step, decay, longer, warmup):
    unknown = TrainConfig(steps=10**9, decay=decay, warmup=warmup)
    told = replace(unknown, steps=fewest_steps(step, unknown) + longer)
    for earlier in {0, step // 2, max(0, step - 1)}:
        assert learning_rate(earlier, told) == learning_rate(earlier, unknown)
    assert told.steps > step


def test_fewest_steps_are_hardly_more_than_needed():
    config = TrainConfig(steps=10**9, decay=0.5)
    for step in range(4, 50):
        fewest = fewest_steps(step, config)
        too_few = replace(config, steps=fewest - 5)
        assert learning_rate(step - 1, too_few) < config.lr


def parameters_with(*gradients: list[float]) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"clip_norm": 6.5}, [[1.5, -2.0], [6.0]]),  # norm 13, halved
        ({"clip_norm": 0.0}, [[3.0, -4.0], [12.0]]),
        ({"clip_norm": 13.5}, [[3.0, -4.0], [12.0]]),
        ({"clip_norm": 0.0, "clip_value": 3.5}, [[3.0, -3.5], [3.5]]),
        ({"clip_norm": 2.5, "clip_value": 4.0}, None),  # by value first, then by norm
    ],
)
def test_clip_by_hand(options, expected):
    parameters = parameters_with([3.0, -4.0], [12.0])
    assert clip(parameters, TrainConfig(**options)) == pytest.approx(13.0)
    if expected is None:
        scale = 2.5 / math.sqrt(3**2 + 4**2 + 4**2)
        expected = [[3 * scale, -4 * scale], [4 * scale]]
    for parameter, values in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        assert_close(parameter.grad, torch.tensor(values))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clip_reports_what_is_not_finite(bad):
    parameters = parameters_with([1.0, bad], [2.0])
    assert not math.isfinite(clip(parameters, TrainConfig()))
    assert not math.isfinite(clip(parameters_with([bad]), TrainConfig(clip_value=1.0)))


def test_clip_counts_sparse_gradients_and_skips_missing_ones():
    table, unused = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(2))
    table.grad = rows_of([1, 3], torch.tensor([[3.0, 0.0], [0.0, 4.0]]), 4)
    assert clip([table, unused], TrainConfig(clip_norm=1.0)) == pytest.approx(5.0)
    assert_close(table.grad.to_dense()[[1, 3]], torch.tensor([[0.6, 0.0], [0.0, 0.8]]))


def sparse_gradients(steps: int, rows: int, all_rows: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    gradients = []
    for _ in range(steps):
        used = torch.randperm(rows, generator=generator)[: rows if all_rows else rows // 2]
        values = torch.randn(len(used), 3, generator=generator, dtype=torch.float64)
        gradients.append(rows_of(used.tolist(), values, rows))
    return gradients


@pytest.mark.parametrize("all_rows", [False, True])
def test_row_adagrad_equals_the_adagrad_of_torch(all_rows):
    start = torch.randn(8, 3, dtype=torch.float64)
    mine, dense = (nn.Parameter(start.clone()) for _ in range(2))
    ours = RowAdagrad([mine], 0.1, initial=0.3)
    adagrad = torch.optim.Adagrad([dense], 0.1, initial_accumulator_value=0.3, eps=0.0)
    for step, gradient in enumerate(sparse_gradients(12, 8, all_rows)):
        mine.grad, dense.grad = gradient, gradient.to_dense()
        for optimizer in (ours, adagrad):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)  # as the schedule does
            optimizer.step()
    assert_close(mine, dense, rtol=1e-12, atol=1e-12)


def test_row_adagrad_leaves_other_rows_alone():
    table = nn.Parameter(torch.ones(5, 2))
    table.grad = rows_of([0, 3], torch.ones(2, 2), 5)
    optimizer = RowAdagrad([table], 0.1, initial=3.0)
    optimizer.step()
    assert torch.equal(table[[1, 2, 4]], torch.ones(3, 2))
    assert_close(table[[0, 3]].detach(), torch.full((2, 2), 0.95))  # 0.1 / sqrt(3 + 1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_shrinks_matrices_only(optimizer):
    model = make_model()
    config = TrainConfig(
        optimizer=optimizer, weight_decay=0.25, lr=0.1, warmup=0, steps=100, momentum=0.9
    )
    updater = Updater(model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(1, 2)
    before = weights(model)
    for name, parameter in model.named_parameters():
        if name != "ngrams.weight":
            parameter.grad = torch.zeros_like(parameter)
    for step in range(2):
        updater.update(step)
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name != "ngrams.weight"
        expected = before[name] * (1 - 0.1 * 0.25) ** 2 if decays else before[name]
        assert_close(parameter.detach(), expected)


def test_weight_decay_is_decoupled_from_the_gradient():
    """The step on the gradient is the same with and without decay."""
    for optimizer in OPTIMIZERS:
        plain, decayed = make_model(), make_model()
        config = TrainConfig(optimizer=optimizer, lr=0.05, warmup=0, weight_decay=0.0)
        start = weights(plain)
        for model, decay in ((plain, 0.0), (decayed, 0.5)):
            updater = Updater(model, replace(config, weight_decay=decay))
            backward(model, 1)
            updater.update(0)
        for name, moved in weights(plain).items():
            decays = moved.ndim > 1 and name != "ngrams.weight"
            shrunk = start[name] * (0.05 * 0.5 if decays else 0.0)
            assert_close(weights(decayed)[name], moved - shrunk)


def test_tables_have_their_own_rate_whatever_the_optimizer():
    for optimizer in OPTIMIZERS:
        model = make_model()
        config = TrainConfig(optimizer=optimizer, lr=0.5, table_lr=0.25, warmup=0, lr_floor=1.0)
        updater = Updater(model, config)
        backward(model, 1)
        assert model.ngrams is not None
        used = model.ngrams.weight.grad.to_dense() != 0
        updater.update(0, lr_scale=0.5)
        moved = model.ngrams.weight.detach()[used].abs()
        # A first step of Adam is lr * sign(gradient) but for eps beside small gradients.
        assert_close(moved.max(), torch.tensor(0.125), rtol=1e-3, atol=0.0)
        assert updater.last_lr == 0.25


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_average_follows_a_hand_loop(decay):
    model = make_model()
    config = TrainConfig(steps=150, lr=0.01, warmup=5, average=40, decay=decay)
    updater = Updater(model, config)
    expected = weights(model)
    for step in range(150):
        backward(model, step % 7)
        updater.update(step)
        if (step + 1) % AVERAGE_EVERY == 0 or step == 149:
            relative = learning_rate(step, config) / config.lr
            horizon = min(40 * relative, step / 10) / AVERAGE_EVERY
            for name, value in weights(model).items():
                expected[name] += (value - expected[name]) / (1 + horizon)
    with updater.averaged():
        assert_close(weights(model), expected)
        if decay:  # the schedule ends at zero
            averages = weights(model)
    if decay:
        assert_close(averages, weights(model))


def test_averages_are_swapped_in_and_out_again():
    model = make_model()
    updater = Updater(model, TrainConfig(lr=0.05, warmup=0))
    for step in range(12):
        backward(model, step)
        updater.update(step)
    live = weights(model)
    with updater.averaged():
        average = weights(model)
        assert not torch.equal(average["output.weight"], live["output.weight"])
    assert all(torch.equal(value, live[name]) for name, value in weights(model).items())
    with pytest.raises(KeyError), updater.averaged():
        raise KeyError
    assert all(torch.equal(value, live[name]) for name, value in weights(model).items())
    with updater.averaged():
        assert all(torch.equal(value, average[name]) for name, value in weights(model).items())


def test_without_averages_the_weights_are_the_model():
    model = make_model()
    updater = Updater(model, TrainConfig(average=0))
    backward(model, 1)
    updater.update(0)
    before = weights(model)
    with updater.averaged():
        assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert not any(name.startswith("average.") for name in updater.tensors())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_saved_optimizer_goes_on_bit_for_bit(optimizer, momentum):
    config = TrainConfig(optimizer=optimizer, momentum=momentum, lr=0.02, warmup=2, steps=40)
    first, second = make_model(), make_model()
    one = Updater(first, config)
    for step in range(10):
        backward(first, step)
        one.update(step)
    other = Updater(second, config)
    backward(second, 77)
    other.update(0)  # has a state of its own, to be forgotten
    second.load_state_dict(first.state_dict())
    other.load_tensors({name: value.clone() for name, value in one.tensors().items()})
    for step in range(10, 20):
        for model, updater in ((first, one), (second, other)):
            backward(model, step)
            updater.update(step)
    saved, again = one.tensors(), other.tensors()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert all(torch.equal(value, weights(first)[name]) for name, value in weights(second).items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradient_that_is_not_finite_changes_nothing(optimizer):
    model = make_model()
    updater = Updater(model, TrainConfig(optimizer=optimizer, warmup=0))
    for step in range(8):
        backward(model, step)
        updater.update(step)
    before, state = weights(model), {n: t.clone() for n, t in updater.tensors().items()}
    backward(model, 9)
    assert model.output.bias.grad is not None
    model.output.bias.grad[0] = math.nan
    assert math.isnan(updater.update(8))
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert all(torch.equal(value, state[name]) for name, value in updater.tensors().items())
