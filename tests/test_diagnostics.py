"""Gradients through time: equal to torch's own, and judged rightly on nets built to go wrong."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool import jacobians
from seqtool.cells import RecurrentStack, State
from seqtool.config import Cell, ModelConfig, Nonlinearity
from seqtool.diagnostics import (
    FEWEST,
    Flow,
    Judgement,
    LayerFlow,
    flow,
    judge,
    language_flow,
    weight_terms,
)
from seqtool.jacobians import bound, jacobian_norms, lag_grid, spectral_radii
from seqtool.models import LanguageModel
from seqtool.tape import Tape, gradients

B, T, E, H, L, V = 3, 6, 4, 5, 2, 11
KINDS: list[tuple[Cell, Nonlinearity]] = [
    ("rnn", "tanh"),
    ("rnn", "relu"),
    ("rnn", "sigmoid"),
    ("lstm", "tanh"),
    ("gru", "tanh"),
]
CELLS = {"tanh": nn.RNNCell, "relu": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


def make_stack(cell: Cell, nonlinearity: Nonlinearity, layers: int = L) -> RecurrentStack:
    torch.manual_seed(3)
    stack = RecurrentStack(E, H, layers, cell=cell, nonlinearity=nonlinearity, dtype=torch.float64)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.uniform_(-0.7, 0.7)
    return stack


def random_state(stack: RecurrentStack, batch: int = B) -> State:
    return tuple(torch.rand_like(part) for part in stack.init_state(batch))


def cost(output: Tensor) -> Tensor:
    """Some cost of the last output, one for each window, (B,)."""
    return (output[:, -1] * torch.linspace(-1, 2, H, dtype=torch.float64)).sum(-1).exp()


@pytest.mark.parametrize(("cell", "nonlinearity"), KINDS)
def test_the_tape_computes_what_the_stack_does(cell: Cell, nonlinearity: Nonlinearity) -> None:
    stack = make_stack(cell, nonlinearity)
    x, state = torch.randn(B, T, E, dtype=torch.float64), random_state(stack)
    stack.path = "plain"
    expected, ends = stack(x, state)
    output, found = Tape(stack)(x, state)
    torch.testing.assert_close(output, expected)
    for mine, theirs in zip(found, ends, strict=True):
        torch.testing.assert_close(mine, theirs)


def torch_gradients(stack: RecurrentStack, x: Tensor) -> list[Tensor]:
    """dC/ds_t by layer, (T, B, n), through torch's own cells: each state a node of the graph."""
    states: list[list[State]] = []
    sequence = list(x.unbind(1))
    for layer in range(stack.num_layers):
        size = E if layer == 0 else H
        name = stack.kind.removeprefix("rnn_")
        options = {"nonlinearity": name} if stack.cell == "rnn" else {}
        unit = CELLS[name](size, H, dtype=torch.float64, **options)
        weights = stack.weights(layer)._asdict()
        unit.load_state_dict({key: weight.detach() for key, weight in weights.items()})
        state: State = tuple(part[0] for part in stack.init_state(len(x)))
        states.append([])
        for t, x_t in enumerate(sequence):
            after = unit(x_t, state if stack.cell == "lstm" else state[0])
            parts = after if stack.cell == "lstm" else (after,)
            state = tuple(part.clone() for part in parts)  # c for the next step, not for h
            for part in state:
                part.retain_grad()
            states[-1].append(state)
            sequence[t] = state[0]
    cost(torch.stack(sequence, dim=1)).sum().backward()
    zero = torch.zeros(len(x), H, dtype=torch.float64)  # the last cell memory is never read
    return [
        torch.stack(
            [
                torch.cat([zero if part.grad is None else part.grad for part in state], dim=-1)
                for state in layer
            ]
        )
        for layer in states
    ]


@pytest.mark.parametrize(("cell", "nonlinearity"), [k for k in KINDS if k[1] != "sigmoid"])
def test_state_gradients_equal_autograds(cell: Cell, nonlinearity: Nonlinearity) -> None:
    stack = make_stack(cell, nonlinearity)
    x = torch.randn(B, T, E, dtype=torch.float64)
    tape = Tape(stack)
    output, _ = tape(x, stack.init_state(B))
    found = gradients(cost(output).sum(), tape.tracks)
    measured = flow((tape.tracks, cost(output)))
    for layer, expected in enumerate(torch_gradients(stack, x)):
        torch.testing.assert_close(found[layer][0], expected)
        norms = expected.norm(dim=-1).numpy()[::-1]  # (T, B)
        median = np.median(norms / norms[0], axis=1) * np.median(norms[0])
        np.testing.assert_allclose(measured.layers[layer].gradient, median, rtol=1e-12)


@pytest.mark.parametrize(("cell", "nonlinearity"), KINDS)
def test_weight_terms_add_up_to_the_gradient(cell: Cell, nonlinearity: Nonlinearity) -> None:
    stack = make_stack(cell, nonlinearity)
    tape = Tape(stack)
    output, _ = tape(torch.randn(1, T, E, dtype=torch.float64), random_state(stack, 1))
    total = cost(output).sum()
    found = gradients(total, tape.tracks)
    measured = flow((tape.tracks, cost(output)))
    for layer, track in enumerate(tape.tracks):
        terms = weight_terms(track, found[layer][1])
        (expected,) = torch.autograd.grad(total, track.weights.weight_hh, retain_graph=True)
        torch.testing.assert_close(terms.sum(0), expected)
        norms = torch.linalg.matrix_norm(terms).flip(0)
        np.testing.assert_allclose(
            measured.layers[layer].terms, norms.numpy(force=True), atol=1e-14
        )


def full_jacobian(stack: RecurrentStack, x: Tensor, state: State, lag: int) -> Tensor:
    """ds_T/ds_{T-lag} of a stack of one layer and one window, by torch over all steps at once."""
    stack.path = "plain"
    _, start = stack(x[:, : T - lag], state) if lag < T else (None, state)

    def run(flat: Tensor) -> Tensor:
        parts = tuple(part.view(1, 1, H) for part in flat.chunk(len(state)))
        _, end = stack(x[:, T - lag :], parts)
        return torch.cat([part.flatten() for part in end])

    flat = torch.cat([part.flatten() for part in start]).detach()
    found: Tensor = torch.autograd.functional.jacobian(run, flat)  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("cell", "nonlinearity"), KINDS)
def test_jacobian_norms(
    cell: Cell, nonlinearity: Nonlinearity, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(jacobians, "EXACT_SIZE", 0)
    stack = make_stack(cell, nonlinearity, layers=1)
    x, state = torch.randn(1, T, E, dtype=torch.float64), random_state(stack, 1)
    tape = Tape(stack)
    tape(x, state)
    lags = [1, 2, 4, T]
    expected = [torch.linalg.matrix_norm(full_jacobian(stack, x, state, k), 2) for k in lags]
    found = jacobian_norms(tape.tracks[0], lags)
    np.testing.assert_allclose(found, np.array([float(e) for e in expected]), rtol=1e-3)
    limit = bound(tape.tracks[0], lags)
    if cell == "rnn":
        assert limit is not None
        assert (found <= limit * 1.001).all()
    else:
        assert limit is None


def test_spectral_radius_of_each_gate() -> None:
    stack = RecurrentStack(E, 2, 1, cell="gru", dtype=torch.float64)
    blocks = [
        torch.diag(torch.tensor([-2.0, 1.0])),
        torch.eye(2),
        torch.tensor([[0, 3.0], [-3, 0]]),
    ]
    with torch.no_grad():
        stack.get_parameter("weight_hh_l0").copy_(torch.cat(blocks))
    tape = Tape(stack)
    tape(torch.zeros(1, 1, E, dtype=torch.float64), stack.init_state(1))
    radii = spectral_radii(tape.tracks[0], ("reset", "update", "candidate"))
    assert radii == pytest.approx({"reset": 2, "update": 1, "candidate": 3})


def test_lag_grid_is_dense_near_and_ends_at_the_window() -> None:
    assert lag_grid(1) == [1]
    assert lag_grid(10) == [1, 2, 3, 4, 6, 8, 10]


def rigged(radius: float, nonlinearity: Nonlinearity = "tanh", size: int = 24) -> LanguageModel:
    """A language model whose recurrent matrix stretches every direction by the same factor."""
    torch.manual_seed(1)
    config = ModelConfig(
        cell="rnn", nonlinearity=nonlinearity, hidden_size=size, embed_size=E, ngram_order=1
    )
    model = LanguageModel(config, V)
    with torch.no_grad():
        weight = model.stack.get_parameter("weight_hh_l0")
        if nonlinearity == "relu":
            weight.copy_(torch.eye(size))
            model.stack.get_parameter("bias_ih_l0").fill_(0.01)  # all units stay alive
        else:
            nn.init.orthogonal_(weight)
        weight.mul_(radius)
    return model


def random_ids(count: int = 400) -> np.ndarray:
    return np.random.default_rng(5).integers(1, V, count)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize(
    ("radius", "judgement", "flag"),
    [
        (0.5, "vanishing", "--cell lstm"),
        (1.0, "healthy", "--bptt"),
        (1.5, "exploding", "--clip-norm"),
    ],
)
def test_rigged_nets_get_the_right_verdict(
    radius: float, judgement: str, flag: str, nonlinearity: Nonlinearity
) -> None:
    found = language_flow(rigged(radius, nonlinearity), random_ids(), window=40)
    assert found.verdict.judgement == judgement, found.verdict
    assert flag in found.verdict.advice
    assert found.layers[0].spectral_radius["state"] == pytest.approx(radius, rel=1e-5)
    if judgement == "vanishing":
        assert found.layers[0].horizon <= 7
        assert found.layers[0].rate == pytest.approx(0.5, abs=0.06)


def test_windows_go_on_from_the_text_before_them() -> None:
    model = rigged(1.0)
    ids = random_ids(30)
    found = language_flow(model, ids, window=10, windows=1)
    chunk = torch.from_numpy(ids[:12])[None]
    tape = Tape(model.stack)
    logits, _ = model.through(chunk[:, :-1], model.init_state(1), tape)
    costs = functional.cross_entropy(logits[:, -1], chunk[:, -1], reduction="none")
    alone = flow((tape.tracks, costs))
    np.testing.assert_allclose(found.layers[0].gradient, alone.layers[0].gradient, rtol=1e-5)


def test_measuring_leaves_model_and_chance_as_they_were() -> None:
    config = ModelConfig(
        cell="rnn", nonlinearity="stochastic", hidden_size=6, embed_size=E, ngram_buckets=16
    )
    model = LanguageModel(config, V)
    before = torch.get_rng_state()
    first = language_flow(model, random_ids(), window=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    second = language_flow(model, random_ids(), window=8)
    np.testing.assert_array_equal(first.layers[0].gradient, second.layers[0].gradient)


def test_a_token_that_costs_little_weighs_as_much_as_any_other() -> None:
    model = rigged(0.5)
    chunk = torch.from_numpy(random_ids(3 * 22).reshape(3, 22))
    tape = Tape(model.stack)
    logits, _ = model.through(chunk[:, :-1], model.init_state(3), tape)
    costs = functional.cross_entropy(logits[:, -1], chunk[:, -1], reduction="none")
    plain = flow((tape.tracks, costs), jacobians=False).layers[0]
    cheap = flow((tape.tracks, costs * torch.tensor([1.0, 1e-6, 1e-6])), jacobians=False).layers[0]
    np.testing.assert_allclose(
        cheap.gradient / cheap.gradient[0], plain.gradient / plain.gradient[0], rtol=1e-5
    )
    assert cheap.horizon == plain.horizon


def measured_layer(horizon: int, spikes: float = 0.0, window: int = 64) -> LayerFlow:
    """A layer of an LSTM whose gradient falls to 1 % right after ``horizon`` tokens."""
    gradient = 0.01 ** (np.arange(window + 1) / (horizon + 0.5))
    return LayerFlow(
        name="layer 1",
        gradient=gradient,
        terms=gradient,
        lags=(window,),
        jacobian=None,
        bound=None,
        exact=True,
        horizon=horizon,
        rate=0.8,
        spikes=spikes,
        spectral_radius={},
        saturated={},
        dead=None,
    )


def judged(*layers: LayerFlow) -> list[Judgement]:
    """What one look after the other is judged, each with the verdict before it."""
    found: list[Judgement] = []
    for layer in layers:
        stood = found[-1] if found else None
        found.append(judge((layer,), 64, "lstm", stood=stood).judgement)
    return found


@pytest.mark.parametrize(
    ("horizons", "verdicts"),
    [
        ((23, 11, 11, 19, 23, 12, 23, 23, 22, 23), {"healthy"}),
        ((10, 9, 8, 11, 9), {"healthy"}),
        ((9, 10, 12, 11, 10, 9), {"vanishing"}),
    ],
)
def test_looks_that_differ_by_little_get_one_verdict(
    horizons: tuple[int, ...], verdicts: set[str]
) -> None:
    assert set(judged(*map(measured_layer, horizons))) == verdicts


def test_a_verdict_changes_when_the_network_does() -> None:
    assert judged(*map(measured_layer, (23, 6, 10, 13))) == [
        *("healthy", "vanishing", "vanishing", "healthy")
    ]
    spikes = [measured_layer(23, share / 32) for share in (2, 4, 5, 3, 2)]
    assert judged(*spikes) == ["healthy", "healthy", "exploding", "exploding", "healthy"]


def test_what_is_enough_for_a_running_text_is_not_for_a_sample_that_has_to_be_read_whole() -> None:
    layer = measured_layer(14)
    assert judge((layer,), 64, "lstm", cut=True).judgement == "healthy"
    assert judge((layer,), 64, "lstm", cut=False).judgement == "vanishing"


def test_units_that_are_all_dead_let_no_gradient_back() -> None:
    model = rigged(1.0, "relu")
    with torch.no_grad():
        model.stack.get_parameter("bias_ih_l0").fill_(-5.0)
    found = language_flow(model, random_ids(), window=40)
    assert (found.layers[0].dead, found.layers[0].horizon) == (1, 0)
    assert found.verdict.judgement == "vanishing"
    assert "100% of the ReLU units are dead" in found.verdict.advice


def test_other_places_of_a_text_give_the_same_verdict() -> None:
    model = rigged(0.7)
    found = [language_flow(model, random_ids(3000)[at:], window=40) for at in range(0, 60, 10)]
    horizons = [each.layers[0].horizon for each in found]
    assert len({each.verdict.judgement for each in found}) == 1
    assert max(horizons) - min(horizons) <= 2, horizons


def test_dead_units_are_counted_and_named() -> None:
    model = rigged(0.3, "relu")
    with torch.no_grad():
        model.stack.get_parameter("bias_ih_l0")[:18] = -5.0
    found = language_flow(model, random_ids(), window=40)
    assert found.layers[0].dead == 18 / 24
    assert "75% of the ReLU units are dead" in found.verdict.advice


@pytest.mark.parametrize(("count", "judgement"), [(FEWEST - 1, "unsure"), (FEWEST, "vanishing")])
def test_a_short_text_is_too_little_to_judge_by(count: int, judgement: str) -> None:
    found = language_flow(rigged(0.5), random_ids(count), window=40)
    assert found.verdict.judgement == judgement
    assert (f"{count} tokens" in found.verdict.evidence) == (judgement == "unsure")


def test_a_short_text_that_explodes_does_so_nonetheless() -> None:
    assert language_flow(rigged(1.5), random_ids(60), window=40).verdict.judgement == "exploding"


def test_a_stack_that_reads_both_ways_is_run_as_it_runs_itself() -> None:
    torch.manual_seed(4)
    stack = RecurrentStack(E, 5, 2, cell="lstm", bidirectional=True)
    x = torch.randn(2, 7, E)
    names = ["onward 1", "onward 2", "back 1", "back 2"]
    tape = Tape(stack, names)
    output, state = tape(x, stack.init_state(2))
    expected, final = stack(x)
    torch.testing.assert_close(output, expected)
    for part, other in zip(state, final, strict=True):
        torch.testing.assert_close(part, other)
    assert [track.name for track in tape.tracks] == names
    assert [track.back for track in tape.tracks] == [False, False, True, True]
    below, above = tape.tracks[1], tape.tracks[3]
    heard = torch.cat([below.stacked(), above.stacked().flip(0)], dim=-1)
    torch.testing.assert_close(heard.transpose(0, 1), output)


def test_weights_that_are_not_finite_explode() -> None:
    model = rigged(1.0)
    with torch.no_grad():
        model.stack.get_parameter("weight_hh_l0")[0, 0] = torch.inf
    found = language_flow(model, random_ids(), window=8, jacobians=False)
    assert found.verdict.judgement == "exploding"
    assert "not finite" in found.verdict.evidence


@pytest.mark.parametrize("count", [3, 4, 50])
def test_a_short_text_shortens_the_window(count: int) -> None:
    found: Flow = language_flow(rigged(1.0), random_ids(count), window=64)
    assert found.window == count - 2
    assert len(found.layers[0].gradient) == count - 1
    summary = found.summary()
    assert len(summary["lags"]) == len(summary["gradient"][0])


def test_a_text_of_two_tokens_has_no_gradient_through_time() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        language_flow(rigged(1.0), random_ids(2), window=8)
