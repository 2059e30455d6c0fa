"""The memory horizon of predictors whose memory is known, and surprisal by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from seqtool.backoff import NGram
from seqtool.config import ModelConfig
from seqtool.horizon import memory_horizon, surprises
from seqtool.mixture import Mixture, Partner
from seqtool.models import LanguageModel

V = 4
LENGTHS = (1, 2, 3, 4, 6, 8)


def markov_table(order: int, symbols: int = V) -> np.ndarray:
    """P(next | the last ``order`` symbols), (symbols ** order, symbols)."""
    rng = np.random.default_rng(order)
    table: np.ndarray = rng.dirichlet(np.full(symbols, 0.2), size=symbols**order)
    return table


def markov_text(order: int, count: int) -> np.ndarray:
    table = markov_table(order)
    rng = np.random.default_rng(9)
    ids = list(rng.integers(0, V, order))
    while len(ids) < count:
        context = 0
        for token in ids[-order:]:
            context = context * V + token
        ids.append(int(rng.choice(V, p=table[context])))
    return np.array(ids)


class Ideal(LanguageModel):
    """Predicts a Markov source from what it is shown, averaging over what it is not."""

    def __init__(self, order: int) -> None:
        super().__init__(ModelConfig(hidden_size=1, embed_size=1, ngram_order=1), V)
        self.order = order
        self.table = torch.tensor(markov_table(order)).view(*[V] * order, V)

    def forward(self, ids: Tensor, state: object = None) -> tuple[Tensor, tuple[Tensor, ...]]:  # type: ignore[override]
        seen = ids[:, -self.order :]
        rows = []
        for row in seen.tolist():
            table = self.table
            hidden = self.order - len(row)
            table = table.mean(dim=tuple(range(hidden))) if hidden else table
            rows.append(table[tuple(row)].log())
        return torch.stack(rows)[:, None], ()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_order_k_source_has_its_knee_at_k(order: int) -> None:
    found = memory_horizon(Ideal(order), markov_text(order, 3000), LENGTHS, places=600)
    assert found.knee == order
    assert found.ended
    assert f"past {order} token{'s' if order > 1 else ''} the loss" in found.hint
    assert found.losses[-1] == pytest.approx(found.losses[LENGTHS.index(order)])


def test_a_loss_that_still_falls_asks_for_more() -> None:
    found = memory_horizon(Ideal(3), markov_text(3, 2000), (1, 2, 3), places=400)
    assert not found.ended
    assert "--bptt 6" in found.hint


def test_a_past_that_misleads_is_said_to() -> None:
    model = Ideal(2)
    # What follows two tokens is not what was learned, what follows one still is.
    model.table = model.table.mean(0) * 0.5 + model.table.roll(1, 0) * 0.5
    found = memory_horizon(model, markov_text(1, 3000), (1, 2), places=400)
    assert found.losses[1] > found.losses[0] + 0.1
    assert "more past than 1 token misleads" in found.hint


def test_the_last_length_sees_what_scoring_the_window_sees() -> None:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(hidden_size=5, embed_size=3, ngram_buckets=32), 7).eval()
    ids = np.random.default_rng(0).integers(1, 7, 40)
    found = memory_horizon(model, ids, (2, 5), places=1)
    logits, _ = model(torch.from_numpy(ids[:5])[None])  # the one place is the first that fits
    expected = -torch.log_softmax(logits[0, -1], dim=-1)[ids[5]]
    assert found.losses[1] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert found.places == 1


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        memory_horizon(Ideal(1), np.array([1, 2, 3]), (1, 3))


def test_surprisal_and_alternatives() -> None:
    chances = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    found = surprises(chances.log() + 3, np.array([1, 0]), top=2)
    assert [surprise.token for surprise in found] == [1, 0]
    assert found[0].bits == pytest.approx(2)
    assert found[1].bits == pytest.approx(-math.log2(0.1))
    assert [token for token, _ in found[0].alternatives] == [0, 1]
    assert found[1].alternatives[0][1] == pytest.approx(0.4)


def mixed_model() -> tuple[LanguageModel, Partner]:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(hidden_size=5, embed_size=3, ngram_order=1), 7).eval()
    text = np.random.default_rng(0).integers(1, 7, 300)
    ngram = NGram(text, 7, order=4)
    return model, Partner(ngram, np.linspace(0.2, 0.6, ngram.order).astype(np.float32))


class Stepping:
    """A language model behind the numpy contract, slowly."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.vocab_size = model.vocab_size

    def init_state(self, batch: int) -> tuple[np.ndarray, ...]:
        return tuple(part.numpy() for part in self.model.init_state(batch))

    @torch.no_grad()
    def step(
        self, ids: np.ndarray, state: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        logits, after = self.model.step(torch.from_numpy(ids), tuple(map(torch.from_numpy, state)))
        return logits.numpy(), tuple(part.numpy() for part in after)


def mixed_nll(model: LanguageModel, partner: Partner, ids: np.ndarray) -> list[float]:
    """What the mixture that writes pays for each token but the first, in nats."""
    mixture = Mixture(Stepping(model), *partner)
    state, costs = mixture.init_state(1), []
    for token, target in pairwise(ids):
        logs, state = mixture.step(np.array([token]), state)
        costs.append(-float(logs[0, target]))
    return costs


def test_surprisal_of_a_mixture_is_that_of_the_model_that_writes() -> None:
    model, partner = mixed_model()
    ids = np.random.default_rng(1).integers(1, 7, 30)
    with torch.no_grad():
        network = model(torch.from_numpy(ids[None, :-1]))[0][0]
    none = np.empty(0, np.int64)
    mixed = partner.mix_text(network.numpy(), ids[:-1], none)
    found = surprises(torch.from_numpy(mixed).log(), ids[1:], network=network)
    expected = np.array(mixed_nll(model, partner, ids)) / math.log(2)
    np.testing.assert_allclose([s.bits for s in found], expected, rtol=1e-5)
    later = partner.mix_text(network[9:].numpy(), ids[9:-1], ids[:9])
    np.testing.assert_allclose(later, mixed[9:], rtol=1e-12)
    alone = -torch.log_softmax(network, dim=-1)[np.arange(29), ids[1:]] / math.log(2)
    assert [s.network for s in found] == pytest.approx(alone.tolist(), rel=1e-5)


def test_memory_of_a_mixture_sees_no_more_than_it_is_shown() -> None:
    model, partner = mixed_model()
    ids = np.random.default_rng(2).integers(1, 7, 60)
    found = memory_horizon(model, ids, (1, 3, 8), places=5, partner=partner)
    assert found.mixed is not None
    assert found.mixed.lengths == found.lengths
    targets = np.unique(np.linspace(8, 59, 5).astype(int))
    for length, loss in zip(found.lengths, found.mixed.losses, strict=True):
        costs = [mixed_nll(model, partner, ids[t - length : t + 1])[-1] for t in targets]
        assert loss == pytest.approx(np.mean(costs), rel=1e-5)
    assert memory_horizon(model, ids, (1, 3, 8), places=5).mixed is None
