"""A layer without torch is torch's, and company changes no bit of it."""

import numpy as np
import pytest
import torch

from seqtool.config import ClassifierConfig
from seqtool.layers import Layer
from seqtool.team import Team

T, B, E, H = 7, 5, 3, 18
KINDS = {
    "lstm": ({"cell": "lstm"}, torch.nn.LSTM),
    "gru": ({"cell": "gru"}, torch.nn.GRU),
    "tanh": ({"cell": "rnn"}, torch.nn.RNN),
    "relu": ({"cell": "rnn", "nonlinearity": "relu"}, torch.nn.RNN),
}
LENGTHS = np.array([7, 1, 4, 7, 2])


def make(name, *, backward):
    shape, module = KINDS[name]
    torch.manual_seed(3)
    options = {"nonlinearity": "relu"} if name == "relu" else {}
    reference = module(E, H, bidirectional=True, **options)
    weights = {f"s.{n}": p.detach().numpy() for n, p in reference.named_parameters()}
    config = ClassifierConfig(hidden_size=H, **shape)
    layer = Layer(config, weights, "s", "l0_reverse" if backward else "l0", backward=backward)
    return reference, layer


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_states_are_those_of_torch(name, backward):
    reference, layer = make(name, backward=backward)
    x = np.random.default_rng(1).normal(size=(T, B, E)).astype(np.float32)
    found = layer.run(x, LENGTHS, Team(1))
    for row, length in enumerate(LENGTHS):
        output, final = reference(torch.from_numpy(x[:length, row]))
        mine = found[:length, row] if backward else found[1 : length + 1, row]
        half = slice(H, None) if backward else slice(H)
        np.testing.assert_allclose(mine, output[:, half].detach(), rtol=1e-5, atol=1e-6)
        h = (final[0] if name == "lstm" else final)[int(backward)].detach()
        last = found[0, row] if backward else found[-1, row]
        np.testing.assert_allclose(last, h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_company_padding_and_threads_change_no_bit(name):
    _, layer = make(name, backward=True)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(T, 40, E)).astype(np.float32)
    lengths = rng.integers(1, T + 1, 40)
    together = layer.run(x, lengths, Team(2))
    np.testing.assert_array_equal(layer.run(x, lengths, Team(1)), together)
    for row, length in enumerate(lengths):
        alone = layer.run(x[:length, row : row + 1], lengths[row : row + 1], Team(1))
        np.testing.assert_array_equal(alone[:, 0], together[: length + 1, row])


def test_units_drawn_by_chance_give_their_probabilities():
    torch.manual_seed(4)
    module = torch.nn.RNN(E, H)
    weights = {f"s.{n}": p.detach().numpy() for n, p in module.named_parameters()}
    config = ClassifierConfig(hidden_size=H, cell="rnn", nonlinearity="stochastic")
    x = torch.randn(1, 1, E)
    found = Layer(config, weights, "s", "l0").run(x.numpy(), np.array([1]), Team(1))
    p = module.weight_ih_l0 @ x[0, 0] + module.bias_ih_l0 + module.bias_hh_l0
    np.testing.assert_allclose(found[1, 0], p.sigmoid().detach(), rtol=1e-5, atol=1e-6)
