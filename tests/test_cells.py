"""Cells agree with torch.nn, with finite differences, with hand loops and with themselves."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from seqtool.cells import (
    STEPS,
    RecurrentStack,
    State,
    detach,
    gru_step,
    lstm_step,
    reset,
    stochastic,
)
from seqtool.config import Nonlinearity

B, T, E, H, L = 2, 5, 3, 4, 3  # all different, so that a transposed axis fails

# (cell, nonlinearity): all six, and the four that torch.nn has too.
ALL = [*(("rnn", name) for name in get_args(Nonlinearity)), ("lstm", "tanh"), ("gru", "tanh")]
IN_TORCH = [("rnn", "tanh"), ("rnn", "relu"), ("lstm", "tanh"), ("gru", "tanh")]
DETERMINISTIC = [*IN_TORCH, ("rnn", "sigmoid")]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def make(kind: tuple[Any, Any], num_layers: int = L, **options: Any) -> RecurrentStack:
    """A float64 stack whose biases are not zero either."""
    options = {"dtype": torch.float64, **options}
    stack = RecurrentStack(E, H, num_layers, cell=kind[0], nonlinearity=kind[1], **options)
    for name, parameter in stack.named_parameters():
        if name.startswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return stack


def torch_twin(kind: tuple[Any, Any], stack: RecurrentStack) -> nn.RNNBase:
    """The layer of torch.nn with the same weights."""
    sizes = (E, H, stack.num_layers)
    options: dict[str, Any] = {
        "batch_first": True,
        "bidirectional": stack.bidirectional,
        "dtype": torch.float64,
    }
    if kind[0] == "rnn":
        twin = nn.RNN(*sizes, nonlinearity=kind[1], **options)
    else:
        twin = {"lstm": nn.LSTM, "gru": nn.GRU}[kind[0]](*sizes, **options)
    twin.load_state_dict(stack.state_dict())
    return twin


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def random_state(stack: RecurrentStack, batch: int = B) -> State:
    return tuple(draw(*part.shape) for part in stack.init_state(batch))


def scramble(output: Tensor, state: State) -> Tensor:
    """A scalar that depends on every entry of the result, each in its own way."""
    parts = [output.flatten(), *(part.flatten() for part in state)]
    numbers = torch.cat(parts)
    return (numbers * torch.linspace(-1, 2, len(numbers), dtype=numbers.dtype).cos()).sum()


@pytest.mark.parametrize("path", ["plain", "fused", "compiled"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, L])
@pytest.mark.parametrize("kind", IN_TORCH)
def test_equals_torch_in_values_states_and_every_gradient(kind, num_layers, bidirectional, path):
    ours = make(kind, num_layers, bidirectional=bidirectional)
    theirs = torch_twin(kind, ours)
    ours.path = path
    x, state = draw(B, T, E), random_state(ours)
    output, final = ours(x, state)
    expected, last = theirs(x, state if kind[0] == "lstm" else state[0])
    last = last if kind[0] == "lstm" else (last,)
    assert_close(output, expected)
    assert_close(final, last)

    leaves = [x, *state]
    gradients = torch.autograd.grad(scramble(output, final), [*leaves, *ours.parameters()])
    wanted = torch.autograd.grad(scramble(expected, last), [*leaves, *theirs.parameters()])
    assert len(gradients) == len(leaves) + 4 * num_layers * (1 + bidirectional)
    assert_close(gradients, wanted)


@pytest.mark.parametrize("kind", ALL)
def test_weights_are_named_and_shaped_as_in_torch(kind):
    twin = torch_twin(("rnn", "tanh") if kind[0] == "rnn" else kind, make(kind, bidirectional=True))
    ours = make(kind, bidirectional=True)
    ours.load_state_dict(twin.state_dict())  # strict
    assert [name for name, _ in ours.named_parameters()] == list(twin.state_dict())


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_gradients_equal_finite_differences(kind):
    step = STEPS[make(kind).kind]
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind[0]]
    state = [draw(B, H) for _ in range(2 if kind[0] == "lstm" else 1)]
    inputs = (draw(B, gates * H), draw(gates * H, H), draw(gates * H), *state)
    assert torch.autograd.gradcheck(
        lambda ux, weight, bias, *state: step(ux, state, weight, bias), inputs
    )


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_gradients_through_time_and_layers_equal_finite_differences(kind):
    stack = make(kind, 2, bidirectional=True)
    stack.path = "plain"
    names = [name for name, _ in stack.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        weights = dict(zip(names, values, strict=True))
        output, state = torch.func.functional_call(stack, weights, (x,))
        return scramble(output, state)

    # Fast mode tests the Jacobian along one random direction; the test above tests all of it.
    assert torch.autograd.gradcheck(run, (draw(B, 3, E), *stack.parameters()), fast_mode=True)


def test_sigmoid_layer_equals_a_loop_over_its_equation():
    stack = make(("rnn", "sigmoid"), 1)
    x = draw(B, T, E)
    output, (final,) = stack(x)
    u, w, b_u, b_w = (part.detach().numpy() for part in stack.weights(0))
    for row in range(B):
        s = np.zeros(H)
        for time in range(T):
            s = 1 / (1 + np.exp(-(u @ x[row, time].detach().numpy() + w @ s + b_u + b_w)))
            assert_close(output[row, time], torch.from_numpy(s))
        assert_close(final[0, row], torch.from_numpy(s))


def test_lstm_gates_do_what_their_names_say():
    zeros, c = torch.zeros(B, H), torch.randn(B, H)
    no_weight, no_bias = torch.zeros(4 * H, H), torch.zeros(4 * H)
    shut, full, half = torch.full((B, H), -50.0), torch.full((B, H), 50.0), zeros + 0.5

    def run(i: Tensor, f: Tensor, o: Tensor) -> State:
        return lstm_step(torch.cat([i, f, half, o], dim=1), (zeros, c), no_weight, no_bias)

    assert_close(run(shut, full, full), (c.tanh(), c))  # keep
    assert_close(run(full, shut, full)[1], half.tanh())  # overwrite
    assert_close(run(full, full, shut)[0], zeros)  # hide


def test_gru_gates_do_what_their_names_say():
    h, zeros = torch.randn(B, H), torch.zeros(B, H)
    weight, bias = torch.randn(3 * H, H), torch.randn(3 * H)
    weight[: 2 * H], bias[: 2 * H] = 0, 0  # the gates follow the input alone
    shut, full, half = zeros - 50, zeros + 50, zeros + 0.5

    def run(r: Tensor, z: Tensor) -> Tensor:
        return gru_step(torch.cat([r, z, half], dim=1), (h,), weight, bias)[0]

    assert_close(run(full, full), h)  # keep
    assert_close(run(shut, shut), half.tanh())  # forget all
    assert_close(run(full, shut), (half + h @ weight[2 * H :].T + bias[2 * H :]).tanh())


def test_stochastic_units_are_bits_with_the_probability_of_the_sigmoid():
    a = torch.linspace(-3, 3, 7, dtype=torch.float64).repeat(20_000, 1)
    bits = stochastic(a)
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    # Six standard errors of a mean of 20,000 bits.
    assert_close(bits.mean(0), a[0].sigmoid(), atol=6 * 0.5 / 20_000**0.5, rtol=0)


def test_stochastic_gradient_goes_straight_through_to_the_probability():
    a = draw(B, H)
    (gradient,) = torch.autograd.grad(scramble(stochastic(a), ()), a)
    (expected,) = torch.autograd.grad(scramble(a.sigmoid(), ()), a)
    assert_close(gradient, expected)


def test_stochastic_layer_repeats_with_the_seed_and_draws_also_in_eval_mode():
    stack = make(("rnn", "stochastic")).eval()
    x = draw(B, T, E)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(stack(x)[0])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("kind", ALL)
def test_the_path_follows_from_kind_and_shape(kind):
    small, large = (RecurrentStack(E, n, cell=kind[0], nonlinearity=kind[1]) for n in (63, 64))
    batch = torch.randn(16, 8, E)
    fallback = "fused" if kind in IN_TORCH else "plain"
    compiled = kind in DETERMINISTIC
    assert large.fastest(batch) == ("compiled" if compiled else fallback)
    assert large.fastest(batch.double()) == fallback
    assert large.fastest(batch.to("meta")) == fallback
    for stack, x in ((small, batch), (large, batch[:, :7])):  # too small to be worth it
        assert stack.fastest(x) == ("compiled" if compiled and kind not in IN_TORCH else fallback)
    assert large.fastest(batch, padded=True) == ("compiled" if compiled else "plain")


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_onednn_runs_lstms_of_few_sequences(kind, monkeypatch):
    few, many = torch.zeros(8, 16, E, device="cpu"), torch.zeros(9, 16, E)
    stack = RecurrentStack(E, 64, cell=kind[0], nonlinearity=kind[1])
    for has_it in (True, False):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda has_it=has_it: has_it)
        theirs = has_it and kind[0] == "lstm"
        assert stack.fastest(few) == ("fused" if theirs else "compiled")
        assert stack.fastest(few, padded=True) == stack.fastest(many) == "compiled"


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", IN_TORCH)
def test_all_paths_agree_in_float32_in_every_mode(kind, training, grad):
    stack = make(kind, dtype=torch.float32).train(training)
    x = torch.randn(B, T, E)
    results = []
    for path in ("plain", "fused", "compiled"):
        stack.path = path
        with torch.set_grad_enabled(grad):
            output, state = stack(x)
            result = [output, *state]
            if grad:
                result += torch.autograd.grad(scramble(output, state), list(stack.parameters()))
        results.append(result)
    for other in results[1:]:
        assert_close(results[0], other, atol=1e-5, rtol=1e-4)  # sums of some tens of terms


@pytest.mark.parametrize("path", ["plain", "fused"])
@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_two_chunks_with_carried_state_equal_one_pass(kind, path):
    stack = make(kind)
    stack.path = path if kind in IN_TORCH else "plain"
    x, start = draw(B, T, E), random_state(stack)
    whole, final = stack(x, start)
    first, state = stack(x[:, :2], start)
    second, state = stack(x[:, 2:], state)
    assert_close(torch.cat([first, second], dim=1), whole)
    assert_close(state, final)


@pytest.mark.parametrize("path", ["plain", "fused"])
@pytest.mark.parametrize("kind", IN_TORCH)
def test_no_gradient_crosses_the_cut(kind, path):
    stack = make(kind)
    stack.path = path
    earlier, later = draw(B, T, E), draw(B, T, E)
    _, state = stack(earlier)
    carried = scramble(*stack(later, state))
    cut = scramble(*stack(later, detach(state)))
    assert_close(carried, cut)
    assert torch.autograd.grad(carried, earlier)[0].abs().max() > 0
    assert torch.autograd.grad(cut, earlier, allow_unused=True) == (None,)


def test_reset_zeroes_only_the_streams_that_restart():
    stack = make(("lstm", "tanh"))
    x, state = draw(3, T, E), random_state(stack, 3)
    mixed, _ = stack(x, reset(state, torch.tensor([False, True, False])))
    fresh, _ = stack(x)
    carried, _ = stack(x, state)
    assert_close(mixed[1], fresh[1])
    assert_close(mixed[[0, 2]], carried[[0, 2]])


def test_reset_clears_a_state_that_is_not_finite():
    broken = (torch.full((L, B, H), torch.nan),)
    assert torch.equal(reset(broken, torch.ones(B, dtype=torch.bool))[0], torch.zeros(L, B, H))


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_stepping_equals_one_pass(kind):
    stack = make(kind)
    x, start = draw(B, T, E), random_state(stack)
    output, final = stack(x, start)
    state = start
    for time in range(T):
        top, state = stack.step(x[:, time], state)
        assert_close(top, output[:, time])
    assert_close(state, final)


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_a_sequence_is_not_affected_by_its_neighbours(kind):
    stack = make(kind)
    x = draw(3, T, E)
    together, _ = stack(x)
    alone, _ = stack(x[1:2])
    assert_close(together[1:2], alone)


@pytest.mark.parametrize("kind", ALL)
def test_recurrent_weights_start_orthogonal_in_each_gate(kind):
    stack = RecurrentStack(E, H, 2, cell=kind[0], nonlinearity=kind[1], bidirectional=True)
    for layer in range(2):
        for direction in range(2):
            for block in stack.weights(layer, direction).weight_hh.split(H):
                assert_close(block @ block.T, torch.eye(H))
                assert torch.equal(block, torch.eye(H)) == (kind == ("rnn", "relu"))


@pytest.mark.parametrize("kind", ALL)
def test_biases_start_at_zero_but_for_an_open_forget_gate(kind):
    stack = RecurrentStack(E, H, 2, cell=kind[0], nonlinearity=kind[1])
    for layer in range(2):
        *_, bias_ih, bias_hh = stack.weights(layer)
        total = (bias_ih + bias_hh).split(H)
        for gate, block in enumerate(total):
            assert torch.equal(block, torch.full((H,), float(kind[0] == "lstm" and gate == 1)))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_input_weights_start_with_the_variance_of_glorot(cell):
    fan_in, fan_out = 150, 250
    stack = RecurrentStack(fan_in, fan_out, cell=cell)
    for block in stack.weights(0).weight_ih.split(fan_out):
        assert block.abs().max() <= (6 / (fan_in + fan_out)) ** 0.5
        assert_close(block.var(), torch.tensor(2 / (fan_in + fan_out)), rtol=0.05, atol=0)


def test_identity_start_of_relu_does_not_blow_up():
    stack = RecurrentStack(16, 32, 2, cell="rnn", nonlinearity="relu")
    with torch.no_grad():
        output, (state,) = stack(torch.randn(B, 3000, 16))
    assert output.max() > 0  # it accumulates,
    assert state.abs().max() < 10  # in small steps, over the longest stretch without a restart


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [("rnn", "tanh"), ("lstm", "tanh"), ("gru", "tanh")])
def test_dropout_keeps_its_mask_through_time(kind, bidirectional):
    stack = make(kind, 1, dropout=0.4, bidirectional=bidirectional)
    x = draw(8, T, E)
    dropped, state = stack(x)
    kept, last = stack.eval()(x)
    ratio = dropped / kept
    assert_close(ratio, ratio[:, :1].expand_as(ratio))  # one mask for all time steps
    mask = ratio[:, 0]
    assert_close(mask, torch.where(mask > 0.5, 1 / 0.6, 0.0).to(mask))  # dropped or scaled up
    assert len(mask.unique(dim=0)) > 1  # sequences have their own
    assert_close(state, last)  # the memory itself is whole


def test_dropout_draws_afresh_for_each_call():
    stack = make(("gru", "tanh"), dropout=0.5)
    x = draw(B, T, E)
    assert not torch.equal(stack(x)[0], stack(x)[0])


@pytest.mark.parametrize("kind", IN_TORCH)
def test_dropout_sits_on_every_layer_and_is_the_same_on_both_paths(kind):
    stack = make(kind, dropout=0.3)
    x = draw(B, T, E)
    outputs, states = [], []
    for path in ("plain", "fused"):
        stack.path = path
        torch.manual_seed(3)
        output, state = stack(x)
        outputs.append(output)
        states.append(state[0])
    assert_close(*outputs)
    assert_close(*states)
    _, whole = stack.eval()(x)
    assert_close(states[0][0], whole[0][0])  # nothing is dropped below the first layer,
    for layer in range(1, L):  # every other reads a thinned one
        assert (states[0][layer] - whole[0][layer]).abs().max() > 1e-6


def test_dropout_is_off_in_eval_mode_and_in_steps():
    stack = make(("lstm", "tanh"), dropout=0.5)
    x = draw(B, T, E)
    top, _ = stack.step(x[:, 0], stack.init_state(B))
    output, _ = stack.eval()(x)
    assert_close(output, make_copy(stack, dropout=0.0)(x)[0])
    assert_close(top, output[:, 0])


def make_copy(stack: RecurrentStack, dropout: float) -> RecurrentStack:
    copy = make(("lstm", "tanh"), stack.num_layers, dropout=dropout)
    copy.load_state_dict(stack.state_dict())
    return copy
