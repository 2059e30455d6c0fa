"""The compiled loops equal the equations of cells: values, states, every gradient, every shape."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from seqtool import kernels
from seqtool.cells import STEPS, RecurrentStack, State, Weights, run_plain
from seqtool.kernels import KINDS, run_layer

# B, T, E, H: several panels of sixteen with and without a rest, more rows than one tile and one
# block have, a single row, a single step, more rows and steps than a chunk has rows.
SHAPES = [(2, 5, 3, 4), (7, 4, 20, 33), (37, 3, 16, 16), (1, 6, 5, 20), (5, 1, 17, 64)]
SHAPES += [(7, 37, 20, 33)]
LENGTHS = [4, 1, 3, 2, 4, 4, 0]  # of seven rows; 0: a row that only fills the batch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def make(
    kind: str, shape: Sequence[int], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, State, Weights]:
    """Input, state and weights of one layer, all random."""
    rows, steps, inputs, size = shape
    cell, _, nonlinearity = kind.partition("_")
    shape_of_cell: dict[str, Any] = {"cell": cell, "nonlinearity": nonlinearity or "tanh"}
    stack = RecurrentStack(inputs, size, dtype=dtype, **shape_of_cell)
    for parameter in stack.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    state = tuple(draw(rows, size, dtype=dtype) for _ in stack.init_state(1))
    return draw(rows, steps, inputs, dtype=dtype), state, stack.weights(0)


def results(run: Any, x: Tensor, state: State, weights: Weights) -> list[Tensor]:
    """Output, final state, and the gradients of a scalar that depends on all of it."""
    output, final = run()
    numbers = torch.cat([output.flatten(), *(part.flatten() for part in final)])
    scale = torch.linspace(-1, 2, len(numbers), dtype=numbers.dtype).cos()
    gradients = torch.autograd.grad((numbers * scale).sum(), [x, *state, *weights])
    return [output, *final, *gradients]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equations_in_values_and_every_gradient(kind, shape, backward):
    parts = make(kind, shape)
    ours = results(lambda: run_layer(kind, *parts, backward=backward), *parts)
    plain = results(lambda: run_plain(STEPS[kind], *parts, backward=backward), *parts)
    assert_close(ours, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equations_in_float32(kind):
    parts = make(kind, (9, 8, 40, 48), torch.float32)
    ours = results(lambda: run_layer(kind, *parts), *parts)
    plain = results(lambda: run_plain(STEPS[kind], *parts), *parts)
    assert_close(ours, plain, atol=2e-5, rtol=1e-4)  # 72 terms, eight steps deep


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind):
    x, state, weights = make(kind, (3, 4, 2, 3))

    def run(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        output, final = run_layer(kind, x, others[4:], others[:4])
        return output, *final

    assert torch.autograd.gradcheck(run, (x, *weights, *state))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_rows_equal_rows_alone(kind, backward):
    x, state, weights = make(kind, (7, 4, 5, 20))
    lengths = torch.tensor(LENGTHS)
    parts = x, state, weights
    padded = results(lambda: run_layer(kind, *parts, backward=backward, lengths=lengths), *parts)
    plain = results(
        lambda: run_plain(STEPS[kind], *parts, backward=backward, lengths=lengths), *parts
    )
    assert_close(padded, plain)
    for row, length in enumerate(LENGTHS):
        final = tuple(part[row : row + 1] for part in state)
        output = x.new_zeros(1, 0, 20)
        if length:
            alone = x[row : row + 1, :length]
            output, final = run_layer(kind, alone, final, weights, backward=backward)
        assert_close(padded[0][row : row + 1, :length], output)
        assert not padded[0][row, length:].any()
        for whole, part in zip(padded[1:], final, strict=False):
            assert_close(whole[row : row + 1], part)
    assert not padded[len(state) + 1][6].any()  # no gradient for the input of the filler


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(kind):
    x, state, weights = make(kind, (23, 7, 8, 40), torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(lambda: run_layer(kind, x, state, weights), x, state, weights))
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
        alone, _ = run_layer(kind, x[17:18], tuple(part[17:18] for part in state), weights)
        assert torch.equal(alone, found[0][0][17:18])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_one_panel_are_summed_alike(kind, monkeypatch):
    """Of a GRU some then meet the input only and some the state only."""
    parts = make(kind, (4, 40, 18, 20))
    expected = results(lambda: run_layer(kind, *parts), *parts)
    monkeypatch.setattr(kernels, "GROUP", 1)
    found = results(lambda: run_layer(kind, *parts), *parts)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_before_it_is_written(kind, backward):
    """torch fills new memory with nan in this mode."""
    parts = make(kind, (7, 4, 5, 20))
    lengths = torch.tensor(LENGTHS)

    def run() -> list[Tensor]:
        return results(lambda: run_layer(kind, *parts, backward=backward, lengths=lengths), *parts)

    expected = run()
    torch.use_deterministic_algorithms(True)
    try:
        found = run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_runs_on_threads_of_its_own_where_openmp_cannot_be_asked(monkeypatch):
    parts = make("gru", (9, 4, 6, 24), torch.float32)
    expected = results(lambda: run_layer("gru", *parts), *parts)
    monkeypatch.setattr(kernels, "_openmp", lambda: None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = results(lambda: run_layer("gru", *parts), *parts)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_nan_and_infinity_do_not_disappear():
    for bad in (float("nan"), float("inf")):
        for kind in KINDS:
            x, state, weights = make(kind, (2, 3, 4, 5), torch.float32)
            with torch.no_grad():
                x[1, 1] = bad
            output, final = run_layer(kind, x, state, weights)
            assert output[0].isfinite().all()
            if bad != bad or kind == "rnn_relu":
                assert not output[1, 1:].isfinite().any()
                assert not final[0][1].isfinite().any()


def test_tanh_and_sigmoid_in_float32_are_within_3e_7_everywhere():
    # A simple layer with the identity for weights shows its activation.
    x = torch.linspace(-20, 20, 400_001)[None, :, None]
    one, nothing = torch.ones(1, 1), torch.zeros(1)
    weights = (one, 0 * one, nothing, nothing)
    for kind, exact in (("rnn_tanh", torch.tanh), ("rnn_sigmoid", torch.sigmoid)):
        output, _ = run_layer(kind, x, (torch.zeros(1, 1),), weights)
        assert (output - exact(x.double())).abs().max() < 3e-7


def test_only_what_needs_a_gradient_gets_one():
    x, state, weights = make("lstm", (2, 3, 4, 5))
    output, _ = run_layer("lstm", x.detach(), tuple(part.detach() for part in state), weights)
    output.sum().backward()
    assert all(weight.grad is not None for weight in weights)
    with torch.no_grad():
        assert not run_layer("lstm", x, state, weights)[0].requires_grad


@pytest.mark.parametrize("padded", [False, True])
def test_preparing_leaves_no_trace(padded):
    stack, said = RecurrentStack(5, 64, cell="gru", dropout=0.5), []
    assert stack.fastest(torch.zeros(2, 64, 5)) == "compiled"
    stack.train()
    before = torch.get_rng_state()
    stack.prepare(2, 64, lambda: said.append("compiling"), padded=padded)
    assert torch.equal(torch.get_rng_state(), before)
    assert stack.training
    assert all(parameter.grad is None for parameter in stack.parameters())
    said.clear()
    stack.prepare(2, 64, lambda: said.append("compiling"), padded=padded)
    assert said == []  # it was there


def test_a_second_pass_back_gives_the_same():
    x, state, weights = make("gru", (2, 3, 4, 5))
    output, _ = run_layer("gru", x, state, weights)
    once = torch.autograd.grad(output.sum(), [x, *state, *weights], retain_graph=True)
    again = torch.autograd.grad(output.sum(), [x, *state, *weights])
    assert_close(once, again, atol=0, rtol=0)


def test_code_is_found_again_and_not_missed_where_it_cannot_be_kept(tmp_path):
    script = """
import numpy as np
from numba.core import event
from seqtool import loops
made = []
class Listener(event.Listener):
    def on_start(self, event): made.append(event)
    def on_end(self, event): pass
with event.install_listener("numba:compile", Listener()):
    assert loops.loop("weights", "rnn_relu", np.float32)
print(len(made))
"""
    kept = tmp_path / "kept"
    blocked = tmp_path / "file"
    blocked.write_text("")
    counts = []
    for place in (kept, kept, blocked):
        environment = {"NUMBA_CACHE_DIR": str(place), "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout))
    assert counts[0] > 0
    assert counts[1] == 0
    assert counts[2] == counts[0]
    assert np.array(list(kept.rglob("*.nbc"))).size
