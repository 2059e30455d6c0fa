"""Gates over a text: the values that the equations use, and what is said about them."""

import numpy as np
import pytest
import torch

from seqtool.cells import RecurrentStack
from seqtool.config import Cell, Nonlinearity
from seqtool.gates import LONGEST, describe, gate_values, memory, saturated
from seqtool.tape import Tape, Track

B, T, E, H = 2, 7, 3, 5


def track(cell: Cell, nonlinearity: Nonlinearity = "tanh", **biases: float) -> Track:
    """One layer over random input; keywords set the bias of gates by their index."""
    torch.manual_seed(2)
    stack = RecurrentStack(E, H, 1, cell=cell, nonlinearity=nonlinearity, dtype=torch.float64)
    with torch.no_grad():
        for gate, value in biases.items():
            index = int(gate.removeprefix("gate"))
            stack.get_parameter("bias_hh_l0")[index * H : (index + 1) * H] = value
    tape = Tape(stack)
    tape(torch.randn(B, T, E, dtype=torch.float64), stack.init_state(B))
    return tape.tracks[0]


def test_lstm_gates_make_the_state() -> None:
    found = track("lstm")
    gates = gate_values(found)
    assert list(gates) == ["input", "forget", "candidate", "output", "cell"]
    before = found.before()[1]
    cell = gates["forget"] * before + gates["input"] * gates["candidate"]
    torch.testing.assert_close(gates["cell"], cell)
    torch.testing.assert_close(found.stacked(0), gates["output"] * torch.tanh(cell))


def test_gru_gates_make_the_state() -> None:
    found = track("gru")
    gates = gate_values(found)
    before = found.before()[0]
    after = gates["update"] * before + (1 - gates["update"]) * gates["candidate"]
    torch.testing.assert_close(gates["state"], after)
    assert ((gates["reset"] > 0) & (gates["reset"] < 1)).all()


def test_memory_is_the_mean_life_of_what_is_kept() -> None:
    keep = torch.full((4, 2, 3), 0.5)
    keep[..., 1] = 0.9
    keep[:, 0, 2] = 0.25  # half of the time; the geometric mean of 1/4 and 1 is 1/2
    keep[:, 1, 2] = 1.0
    np.testing.assert_allclose(memory(keep), [2, 10, 2], rtol=1e-6)
    assert memory(torch.ones(2, 1, 1))[0] == LONGEST


def test_open_and_closed_gates_are_described() -> None:
    found = describe([track("lstm", gate0=-20.0, gate1=20.0)])
    stats = {gate.name: gate for gate in found.gates}
    assert found.name == "layer 1"
    assert stats["input"].low == 1
    assert stats["input"].histogram == (1.0, *[0.0] * 9)
    assert stats["forget"].high == 1
    assert stats["forget"].mean == pytest.approx(1)
    assert (stats["forget"].unit_high == 1).all()
    assert found.memory is not None
    assert (found.memory > 1000).all()
    assert sum(stats["cell"].histogram) == pytest.approx(1)


def test_a_simple_layer_has_its_state_and_no_memory_of_a_gate() -> None:
    found = describe([track("rnn")])
    assert [gate.name for gate in found.gates] == ["state"]
    assert found.gates[0].span == (-1, 1)
    assert found.memory is None
    assert found.dead is None


def test_relu_units_that_never_fire_are_dead() -> None:
    layer = track("rnn", "relu")
    with torch.no_grad():
        layer.weights.bias_hh[:2] = -50
    stack = RecurrentStack(E, H, 1, cell="rnn", nonlinearity="relu", dtype=torch.float64)
    stack.load_state_dict({f"{n}_l0": w for n, w in layer.weights._asdict().items()})
    tape = Tape(stack)
    tape(torch.randn(B, T, E, dtype=torch.float64) + 3, stack.init_state(B))
    dead = (tape.tracks[0].stacked() == 0).all(0).all(0)
    assert dead[:2].all()
    assert describe(tape.tracks[:1]).dead == float(dead.double().mean())
    assert saturated(tape.tracks[0]) == {}


@pytest.mark.parametrize(("cell", "bias", "expected"), [("rnn", 30.0, 1.0), ("rnn", 0.0, 0.0)])
def test_saturated_shares(cell: Cell, bias: float, expected: float) -> None:
    found = track(cell, gate0=bias)
    if bias == 0:
        for part in found.states:
            part[0].data.clamp_(-0.5, 0.5)
    assert saturated(found) == {"state": expected}
