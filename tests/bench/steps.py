"""Training steps: forward and backward beside torch.nn and Keras, and whole updates."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.config import Cell, ModelConfig, TrainConfig
from seqtool.data import Corpus, TextStats
from seqtool.language import NextToken
from seqtool.models import LanguageModel, build_model
from seqtool.tokenizer import Tokenizer
from seqtool.trainer import Trainer

from .generation import VOCAB, make_model
from .limits import matrix_weights, sgemm, training_flops
from .measure import OURS, Case, Group, Side
from .peers import KERAS_GATES, TorchPeer, keras_training, missing, regated

CELLS: tuple[Cell, ...] = ("lstm", "gru", "rnn")
GRADIENT_TOLERANCE = 1e-4  # of the largest entry of a gradient


def gradients(model: LanguageModel | TorchPeer, ids: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Forward, loss and backward from the zero state, each side its own way; gradients by name."""
    for parameter in model.parameters():
        parameter.grad = None
    if isinstance(model, LanguageModel):
        loss, _ = model.loss(ids, targets, model.init_state(len(ids)))
    else:
        logits, _ = model(ids)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check(model: LanguageModel, peer: TorchPeer, ids: Tensor, targets: Tensor) -> None:
    """Both must find the same gradients.

    Raises:
        AssertionError: If they do not.
    """
    ours, theirs = (gradients(side, ids, targets) for side in (model, peer))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        limit = GRADIENT_TOLERANCE * float(expected.abs().max())
        torch.testing.assert_close(ours[name], expected, atol=limit, rtol=0, msg=name)


def check_keras(
    run: Callable[[], Any], cell: Cell, peer: TorchPeer, ids: Tensor, targets: Tensor
) -> None:
    """Keras must find torch's gradients of the lowest matrix, which all others are behind.

    Raises:
        AssertionError: If it does not.
    """
    _, found = run()  # the embedding's, then those of the lowest layer: W_ih first
    expected = gradients(peer, ids, targets)["stack.weight_ih_l0"].numpy()
    limit = GRADIENT_TOLERANCE * float(np.abs(expected).max())
    ordered = regated(expected, KERAS_GATES[cell])
    np.testing.assert_allclose(found[1].numpy().T, ordered, atol=limit, rtol=0)


def training(
    name: str,
    model: LanguageModel,
    batch: int,
    steps: int,
    *,
    group: Group = "train",
    facts: dict[str, Any] | None = None,
) -> Case:
    """Forward, loss and backward of one batch.

    Args:
        name: Of the case.
        model: What learns; the peers start from its weights.
        batch: Rows, B.
        steps: Time steps, T.
        group: Of the case.
        facts: Of the case.
    """
    rng = np.random.default_rng(1)
    ids, targets = rng.integers(0, model.vocab_size, (2, batch, steps))
    tensors = torch.from_numpy(ids), torch.from_numpy(targets)
    peer, tokens = TorchPeer(model), batch * steps
    check(model, peer, *tensors)
    sides = [
        Side(OURS, tokens, lambda: gradients(model, *tensors)),
        Side("torch.nn", tokens, lambda: gradients(peer, *tensors)),
    ]
    if group == "train" and not (missing("keras") or missing("tensorflow")):
        run = keras_training(model, ids, targets)
        check_keras(run, model.config.cell, peer, *tensors)
        sides.append(Side("keras", tokens, lambda: float(run()[0])))
    sides.append(sgemm(training_flops(model.config, model.vocab_size)))
    weights = matrix_weights(model.config, model.vocab_size)
    about = {"batch": batch, "length": steps, "weights": weights, **(facts or {})}
    return Case(name, group, "tokens/s", sides, about)


def training_cases(smoke: bool) -> Iterator[Case]:
    """The table's sizes."""
    # As small as the compiled loops are used for.
    shapes = ((64, 8, 16), (72, 8, 17)) if smoke else ((128, 50, 50), (512, 64, 64))
    for hidden, batch, steps in shapes:
        for cell in CELLS:
            name = f"train {cell} 2x{hidden}, {batch} x {steps}"
            model = make_model(cell=cell, hidden_size=hidden, num_layers=2)
            yield training(name, model, batch, steps)


def updating(cell: Cell, hidden: int, batch: int, steps: int, *, tables: bool) -> Case:
    """Whole updates: data, forward, backward, clipping, optimizer; ours with its weight average."""
    alphabet = "\n" + "".join(map(chr, range(32, 32 + VOCAB - 3)))  # two ids are special
    tokenizer = Tokenizer.train("char", lambda: iter([alphabet]), vocab_size=VOCAB)
    order = ModelConfig.ngram_order if tables else 1
    shape = ModelConfig(cell=cell, hidden_size=hidden, ngram_order=order)
    model = build_model(shape, tokenizer.vocab_size, unknown_id=tokenizer.unknown_id)
    count = batch * steps * 100
    ids = np.random.default_rng(1).integers(2, tokenizer.vocab_size, count + 1)
    n = len(ids)
    stats = TextStats(1, n, n, 1, {})
    corpus = Corpus("random", tokenizer, ids, ids[:0], n, 0, n, 0, "", None, stats, unknown={})
    config = TrainConfig(steps=10**6, batch_size=batch, bptt=steps, lr=1e-3)
    trainer = Trainer(NextToken(model, corpus, config), config)
    theirs = torch_update(TorchPeer(model), torch.from_numpy(ids[1:]).view(batch, -1), config)
    words = f"update {cell} 1x{hidden}, {batch} x {steps}" + ", n-gram tables" * tables
    tokens = batch * steps
    flops = training_flops(shape, tokenizer.vocab_size)
    sides = [Side(OURS, tokens, trainer.update), Side("torch.nn", tokens, theirs), sgemm(flops)]
    return Case(words, "update", "tokens/s", sides, {"batch": batch, "length": steps})


def torch_update(peer: TorchPeer, streams: Tensor, config: TrainConfig) -> Callable[[], None]:
    """An update as a careful user of torch.nn writes it, its fastest optimizer included.

    Args:
        peer: What learns.
        streams: Text, (B, n).
        config: Its bptt, lr and clip_norm are used.
    """
    adam = torch.optim.AdamW(peer.parameters(), lr=config.lr, fused=True)
    place, state, steps = 0, None, config.bptt

    def update() -> None:
        nonlocal place, state
        if place + steps >= streams.shape[1]:
            place, state = 0, None
        inputs, targets = streams[:, place:][:, :steps], streams[:, place + 1 :][:, :steps]
        logits, after = peer(inputs, state)
        state = tuple(s.detach() for s in after) if isinstance(after, tuple) else after.detach()
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
        adam.step()
        loss.item()
        place += steps

    return update


def updating_cases(smoke: bool) -> Iterator[Case]:
    """The default size, with and without the tables that only ours has."""
    for tables in (False, True):
        for cell in CELLS[:1] if tables else CELLS:
            sizes = (16, 4, 8) if smoke else (256, 32, 64)
            yield updating(cell, *sizes, tables=tables)
