"""The loss in chunks equals the loss at once: value, gradients, whatever the chunks."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from seqtool import dense, losses
from seqtool.losses import cross_entropy

N, H, V = 11, 3, 7


@pytest.fixture(autouse=True, params=[True, False])
def _small(monkeypatch, request) -> None:
    """Chunks of four rows, the last with or without one of padding, of a small vocabulary."""
    torch.manual_seed(5)
    monkeypatch.setattr(dense, "_can_have", lambda _: request.param)
    monkeypatch.setattr(losses, "LARGE_VOCABULARY", 0)
    monkeypatch.setattr(losses, "FEWEST_ROWS", 1)
    monkeypatch.setattr(losses, "SCORES", 4 * V)
    for module in (dense, losses):
        monkeypatch.setattr(module, "MULTIPLE", 2)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [1, 4, N])
def test_equals_the_loss_of_all_scores_at_once(count, smoothing):
    parts = draw(count, H), draw(V, H), draw(V)
    targets = torch.randint(V, (count,))
    loss = cross_entropy(*parts, targets, smoothing=smoothing)
    scores = functional.linear(*parts)
    expected = functional.cross_entropy(scores, targets, label_smoothing=smoothing)
    assert_close(loss, expected)
    for factor in (1, -0.3):
        ours = torch.autograd.grad(loss * factor, parts, retain_graph=True)
        assert_close(ours, torch.autograd.grad(expected * factor, parts, retain_graph=True))


def test_gradients_equal_finite_differences():
    targets = torch.randint(V, (N,))
    parts = draw(N, H), draw(V, H), draw(V)
    for smoothing in (0.0, 0.2):
        assert torch.autograd.gradcheck(
            lambda *parts, s=smoothing: cross_entropy(*parts, targets, smoothing=s), parts
        )


def test_without_gradients_it_makes_none():
    parts = draw(N, H), draw(V, H), draw(V)
    targets = torch.randint(V, (N,))
    with torch.no_grad():
        loss = cross_entropy(*parts, targets)
    assert not loss.requires_grad
    assert_close(loss, functional.cross_entropy(functional.linear(*parts), targets).detach())


def test_huge_scores_neither_overflow_nor_vanish():
    x = torch.tensor([[300.0], [-300.0]])
    weight, bias = torch.tensor([[1.0], [-1.0]]), torch.zeros(2)
    assert cross_entropy(x, weight, bias, torch.tensor([0, 1])) == 0
    assert cross_entropy(x, weight, bias, torch.tensor([1, 0])) == 600


def test_smoothing_of_a_small_vocabulary_is_the_same(monkeypatch):
    parts = draw(N, H), draw(V, H), draw(V)
    targets = torch.randint(V, (N,))
    chunked = cross_entropy(*parts, targets, smoothing=0.3)
    monkeypatch.setattr(losses, "LARGE_VOCABULARY", V + 1)
    assert_close(cross_entropy(*parts, targets, smoothing=0.3), chunked)


def test_scores_of_more_rows_than_a_chunk_are_never_held(monkeypatch):
    seen = []
    inner = losses.product

    def spy(*args):
        result = inner(*args)
        if len(args) == 3:  # with a bias: these are scores
            seen.append(tuple(result.shape))
        return result

    monkeypatch.setattr(losses, "product", spy)
    cross_entropy(draw(N, H), draw(V, H), draw(V), torch.randint(V, (N,)))
    last = 4 if dense._can_have(torch.zeros(1)) else 3  # with a row of padding, or without
    assert seen == [(4, V), (4, V), (last, V)]
