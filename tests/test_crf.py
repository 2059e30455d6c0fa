"""The chain of labels against all sequences, counted one by one."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from seqtool.crf import Chain
from seqtool.viterbi import FORBIDDEN, Scores, best_labels, best_paths, marginals, neighbours

B, T, C = 3, 4, 3
LENGTHS = torch.tensor([4, 1, 3])


@pytest.fixture
def chain():
    """A chain and emissions of a batch, all drawn."""
    torch.manual_seed(3)
    chain = Chain(C).double()
    with torch.no_grad():
        for p in chain.parameters():
            p.normal_()
    return chain, torch.randn(B, T, C, dtype=torch.float64)


def sum_of_scores(chain, emissions, labels):
    """s(y) of one sentence, term by term."""
    total = chain.first[labels[0]] + chain.last[labels[-1]]
    total = total + sum(emissions[t, label] for t, label in enumerate(labels))
    return total + sum(chain.after[i, j] for i, j in itertools.pairwise(labels))


def all_scores(chain, emissions, length):
    """Every sequence of labels and its s(y)."""
    paths = [*itertools.product(range(C), repeat=length)]
    return paths, torch.stack([sum_of_scores(chain, emissions, path) for path in paths])


def scores_of(chain):
    return Scores(*(getattr(chain, name).detach().numpy() for name in Scores._fields))


def test_probabilities_are_those_of_all_sequences_counted_one_by_one(chain):
    model, emissions = chain
    for row, length in enumerate(LENGTHS.tolist()):
        paths, scores = all_scores(model, emissions[row], length)
        expected = -scores.log_softmax(0)
        for path, value in zip(paths, expected, strict=True):
            labels = torch.full((B, T), 2)
            labels[row, :length] = torch.tensor(path)
            assert_close(model(emissions, LENGTHS, labels)[row], value)


def test_gradients_are_those_of_finite_differences(chain):
    model, emissions = chain
    labels = torch.randint(C, (B, T))

    def loss(emissions, after, first, last):
        values = {"after": after, "first": first, "last": last}
        return torch.func.functional_call(model, values, (emissions, LENGTHS, labels))

    inputs = [emissions, model.after, model.first, model.last]
    assert torch.autograd.gradcheck(loss, [x.detach().requires_grad_() for x in inputs])


def test_scores_far_apart_give_finite_losses_and_gradients():
    chain = Chain(C)
    with torch.no_grad():
        chain.after[:] = torch.tensor([[0.0, -60, -60], [-60, 0, -60], [-60, -60, 0]])
    emissions = torch.tensor([[[500.0, 0, -500], [-500, 0, 500]]]).requires_grad_()
    loss = chain(emissions, torch.tensor([2]), torch.tensor([[0, 2]])).sum()
    loss.backward()
    assert_close(loss, torch.tensor(0.0))
    assert torch.isfinite(emissions.grad).all()
    assert torch.isfinite(chain.after.grad).all()


def test_the_best_path_is_the_best_of_all(chain):
    model, emissions = chain
    paths = best_paths(emissions.numpy(), LENGTHS.numpy(), scores_of(model))
    for row, length in enumerate(LENGTHS.tolist()):
        every, scores = all_scores(model, emissions[row], length)
        assert tuple(paths[row, :length]) == every[int(scores.argmax())]
        assert not paths[row, length:].any()


def test_marginals_add_up_the_sequences_that_hold_a_label(chain):
    model, emissions = chain
    found = marginals(emissions.numpy(), LENGTHS.numpy(), scores_of(model))
    for row, length in enumerate(LENGTHS.tolist()):
        every, scores = all_scores(model, emissions[row], length)
        p = scores.softmax(0).detach().numpy()
        for t, label in itertools.product(range(length), range(C)):
            expected = sum(p[i] for i, path in enumerate(every) if path[t] == label)
            assert found[row, t, label] == pytest.approx(expected)


def test_without_a_chain_each_label_is_chosen_alone(chain):
    _, emissions = chain
    assert neighbours(["a", "b", "c"], "", None) is None
    best = best_labels(emissions.numpy(), LENGTHS.numpy(), None)
    assert (best == emissions.argmax(2).numpy()).all()
    p = marginals(emissions.numpy(), LENGTHS.numpy(), None)
    assert_close(torch.from_numpy(p), emissions.softmax(2))


@pytest.mark.parametrize("weights", [None, "drawn"])
def test_what_a_scheme_forbids_is_never_emitted(weights):
    rng = np.random.default_rng(0)
    labels = ["B-x", "I-x", "B-y", "I-y", "O"]
    if weights:
        shapes = {"chain.after": (5, 5), "chain.first": (5,), "chain.last": (5,)}
        weights = {name: 5 * rng.normal(size=shape) for name, shape in shapes.items()}
    scores = neighbours(labels, "IOB2", weights)
    emissions = 10 * rng.normal(size=(200, 6, 5))
    for path in best_paths(emissions, np.full(200, 6), scores):
        before = "O"
        for label in (labels[i] for i in path):
            assert label[0] != "I" or before[1:] == label[1:], (before, label)
            before = label


def test_a_sentence_in_which_nothing_may_stand_is_answered_all_the_same():
    scores = neighbours(["I-x"], "IOB2", None)
    assert scores.first == [FORBIDDEN]
    assert best_paths(np.zeros((1, 2, 1)), np.array([2]), scores).tolist() == [[0, 0]]
