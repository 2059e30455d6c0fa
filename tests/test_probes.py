"""Probes: their answers can be known, only with memory, and the cut cuts."""

import math

import numpy as np
import pytest
import torch

from seqtool.config import ModelConfig, TrainConfig
from seqtool.probes import BASELINES, RECALL, SYMBOLS, Probe, ProbeModel, adding, copy_memory
from seqtool.trainer import Trainer

LENGTH = 12


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def test_adding_marks_one_number_in_each_half() -> None:
    task = adding(rng(), 50, LENGTH)
    numbers, marks = task.inputs.unbind(-1)
    assert task.inputs.shape == (50, LENGTH, 2)
    assert (marks[:, : LENGTH // 2].sum(1) == 1).all()
    assert (marks[:, LENGTH // 2 :].sum(1) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(1, keepdim=True), task.targets)


def test_the_baseline_of_adding_is_the_variance_of_the_sum() -> None:
    targets = adding(rng(), 20_000, LENGTH).targets
    assert float((targets - 1).square().mean()) == pytest.approx(BASELINES["adding"], rel=0.03)


def test_copy_shows_symbols_then_blanks_then_a_signal() -> None:
    task = copy_memory(rng(), 6, LENGTH)
    ids = task.inputs.argmax(-1)
    assert task.inputs.shape == (6, LENGTH + 2 * RECALL, SYMBOLS + 2)
    assert torch.equal(ids[:, :RECALL], task.targets)
    assert (ids[:, RECALL : RECALL + LENGTH - 1] == SYMBOLS).all()
    assert (ids[:, LENGTH + RECALL - 1] == SYMBOLS + 1).all()
    assert (ids[:, -RECALL:] == SYMBOLS).all()
    assert BASELINES["copy"] == pytest.approx(math.log(8))


@pytest.mark.parametrize("probe", ["adding", "copy"])
def test_truncation_changes_the_gradient_and_not_the_cost(probe: str) -> None:
    torch.manual_seed(0)
    model = ProbeModel(ModelConfig(cell="rnn", hidden_size=6), probe)  # type: ignore[arg-type]
    task = (adding if probe == "adding" else copy_memory)(rng(), 4, LENGTH)
    costs, gradients = [], []
    for truncate in (0, 3, task.inputs.shape[1], 1000):
        total = model.costs(task, truncate=truncate).sum()
        weight = model.stack.get_parameter("weight_hh_l0")
        gradients.append(torch.autograd.grad(total, weight)[0])
        costs.append(float(total.detach()))
    if probe == "adding":
        assert costs == pytest.approx([costs[0]] * 4, rel=1e-5)
    assert not torch.allclose(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])
    torch.testing.assert_close(gradients[0], gradients[3])


def make_probe(seed: int = 1) -> Probe:
    torch.manual_seed(seed)
    model = ProbeModel(ModelConfig(cell="gru", hidden_size=16), "adding")
    return Probe(model, length=6, batch_size=32, truncate=0, seed=seed)


def test_a_short_sum_is_learned() -> None:
    probe = make_probe()
    trainer = Trainer(
        probe, TrainConfig(steps=400, lr=1e-2, decay=0.3, average=0, warmup=5, weight_decay=0)
    )
    for _ in range(400):
        trainer.update()
    loss = trainer.evaluate().loss
    assert loss is not None
    assert loss < 0.1 * BASELINES["adding"]
    assert probe.tokens == 400 * 32 * 6


def test_a_restored_probe_goes_on_with_the_same_sequences() -> None:
    probe = make_probe()
    probe.loss()
    tensors, counters = probe.capture()
    expected = float(probe.loss().detach())
    probe.loss()
    probe.restore(tensors, counters)
    assert float(probe.loss().detach()) == expected
