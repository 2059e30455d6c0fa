"""N-gram tables agree with plain index arithmetic, with dense autograd, and with themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from seqtool.config import ModelConfig
from seqtool.hashing import BASE, PRIME, SPREAD, hash_rows
from seqtool.models import LanguageModel
from seqtool.ngrams import NgramTables

B, T, E, V, BUCKETS = 2, 7, 3, 11, 13


def make_tables(order: int, *, dropout: float = 0.0, logits: bool = True) -> NgramTables:
    torch.manual_seed(5)
    tables = NgramTables(order, BUCKETS, E, V if logits else 0, dropout=dropout).double()
    with torch.no_grad():
        tables.weight.normal_()
    return tables


def draw_ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(1, V, shape, generator=torch.Generator().manual_seed(seed))


def slow_rows(ids: Tensor, recent: Tensor, order: int) -> list[list[list[int]]]:
    """The row of every order for every token, in Python's integers."""
    rows: list[list[list[int]]] = []
    for text, before in zip(ids.tolist(), recent[0].tolist(), strict=True):
        past = before + text
        rows.append([])
        for place in range(len(before), len(past)):
            key = past[place]
            found: list[int] = []
            for back in range(1, order):
                key = (key * BASE + past[place - back] * SPREAD + back) % PRIME
                found.append((back - 1) * BUCKETS + key % BUCKETS)
            rows[-1].append(found)
    return rows


@pytest.mark.parametrize("order", [2, 3, 5])
def test_values_and_gradients_equal_plain_indexing(order):
    tables = make_tables(order)
    dense = tables.weight.detach().clone().requires_grad_()
    ids, recent = draw_ids(B, T), draw_ids(1, B, order - 1, seed=2)
    ids[1, 2:] = ids[1, 1]  # rows that are used again and again
    added_input, added_logits, _ = tables(ids, recent, drop=False)
    expected = dense[torch.tensor(slow_rows(ids, recent, order))].sum(2)  # (B, T, E + V)
    assert_close(torch.cat([added_input, added_logits], dim=-1), expected)
    pull = torch.randn(B, T, E + V, dtype=torch.float64)
    (torch.cat([added_input, added_logits], dim=-1) * pull).sum().backward()
    (expected * pull).sum().backward()
    gradient = tables.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    used = gradient._indices()[0]
    assert len(used) == len(torch.unique(used))  # what RowAdagrad relies on
    assert_close(gradient.to_dense(), dense.grad)


def test_gradients_equal_plain_indexing_with_dropout():
    tables = make_tables(4, dropout=0.4)
    dense = tables.weight.detach().clone().requires_grad_()
    ids, recent = draw_ids(B, T), draw_ids(1, B, 3, seed=2)
    torch.manual_seed(9)
    added, _, _ = tables(ids, recent, drop=True)
    torch.manual_seed(9)
    kept = (torch.rand(B * T, 3) >= 0.4).view(B, T, 3, 1)
    assert 0 < kept.sum() < kept.numel()
    rows = torch.tensor(slow_rows(ids, recent, 4))
    expected = (dense[rows][..., :E] * kept / 0.6).sum(2)
    assert_close(added, expected)
    added.square().sum().backward()
    expected.square().sum().backward()
    assert tables.weight.grad is not None
    assert_close(tables.weight.grad.to_dense(), dense.grad)


def test_gradients_add_up_over_two_uses():
    tables = make_tables(3)
    recent = torch.zeros(1, B, 2, dtype=torch.int64)
    first, second = draw_ids(B, T, seed=3), draw_ids(B, T, seed=4)
    total = tables(first, recent, drop=False)[0].sum() + tables(second, recent, drop=False)[0].sum()
    total.backward()
    assert tables.weight.grad is not None
    rows = torch.tensor(slow_rows(torch.cat([first, second]), recent.repeat(1, 2, 1), 3))
    counts = torch.bincount(rows.flatten(), minlength=2 * BUCKETS).double()
    assert_close(tables.weight.grad.to_dense()[:, :E], counts[:, None].expand(-1, E))


@pytest.mark.parametrize("cut", [1, 2, 3, 6])
def test_chunks_look_back_on_each_other(cut):
    tables = make_tables(4)
    ids, recent = draw_ids(B, T), torch.zeros(1, B, 3, dtype=torch.int64)
    *whole, last = tables(ids, recent, drop=False)
    *first, recent = tables(ids[:, :cut], recent, drop=False)
    *second, recent = tables(ids[:, cut:], recent, drop=False)
    assert torch.equal(recent, last)
    assert torch.equal(last[0], ids[:, -3:])
    for one, other, expected in zip(first, second, whole, strict=True):
        assert_close(torch.cat([one, other], dim=1), expected)


def test_a_text_begins_after_start_ids():
    config = ModelConfig(hidden_size=4, embed_size=E, ngram_order=4, ngram_buckets=BUCKETS)
    model = LanguageModel(config, V)
    recent = model.init_state(B)[-1]
    assert recent.dtype == torch.int64
    assert torch.equal(recent, torch.zeros(1, B, 3, dtype=torch.int64))  # the start id is 0
    tables = make_tables(4)
    ids = draw_ids(B, T)
    padded = torch.cat([torch.zeros(B, 3, dtype=torch.int64), ids], dim=1)
    fresh = tables(ids, recent, drop=False)[0]
    assert_close(fresh, tables(padded, recent, drop=False)[0][:, 3:])


def test_fresh_tables_add_nothing_and_learn():
    tables = NgramTables(3, BUCKETS, E, V)
    recent = torch.zeros(1, B, 2, dtype=torch.int64)
    added_input, added_logits, _ = tables(draw_ids(B, T), recent, drop=False)
    assert not added_input.any()
    assert not added_logits.any()
    added_logits.sum().backward()
    assert tables.weight.grad is not None
    assert tables.weight.grad._values().any()


def test_tables_for_the_input_alone_have_no_logits():
    tables = make_tables(3, logits=False)
    recent = torch.zeros(1, B, 2, dtype=torch.int64)
    added_input, added_logits, _ = tables(draw_ids(B, T), recent, drop=False)
    assert (added_input.shape, added_logits.shape) == ((B, T, E), (B, T, 0))
    added_input.sum().backward()
    assert tables.weight.grad is not None
    assert tables.weight.grad.shape == (2 * BUCKETS, E)


def test_dropout_is_unbiased():
    tables = make_tables(4, dropout=0.3)
    recent = torch.zeros(1, 1, 3, dtype=torch.int64)
    ids = draw_ids(1, T)
    mean = torch.stack([tables(ids, recent, drop=True)[0] for _ in range(3000)]).mean(0)
    expected = tables(ids, recent, drop=False)[0]
    # Three rows of about 1 each, their noise sqrt(.3 / .7) each: five deviations of the mean.
    assert_close(mean, expected, rtol=0.0, atol=5 * 3 * 0.65 / 3000**0.5)


def test_dropout_only_in_training_and_never_in_steps():
    config = ModelConfig(
        hidden_size=4, embed_size=E, ngram_order=4, ngram_buckets=BUCKETS, ngram_dropout=0.5
    )
    model = LanguageModel(config, V)
    with torch.no_grad():
        model.ngrams.weight.normal_()
    ids = draw_ids(B, T)
    assert not torch.equal(model(ids)[0], model(ids)[0])
    state = model.init_state(B)
    generator = torch.get_rng_state()
    one, other = model.step(ids[:, 0], state)[0], model.step(ids[:, 0], state)[0]
    assert torch.equal(one, other)
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])
    assert_close(model(ids)[0][:, 0], one)
    assert torch.equal(torch.get_rng_state(), generator)


@given(
    ids=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=8),
    order=st.integers(2, 8),
    buckets=st.integers(2, 2**20),
    seed=st.integers(0, 100),
)
def test_numpy_and_torch_agree_on_rows(ids, order, buckets, seed):
    now = np.array(ids, dtype=np.int64)
    rng = np.random.default_rng(seed)
    previous = [rng.integers(0, 2**31, len(ids)) for _ in range(order - 1)]
    arrays = hash_rows(now, previous, buckets)
    tensors = hash_rows(torch.tensor(now), [torch.tensor(p) for p in previous], buckets)
    for back, (one, other) in enumerate(zip(arrays, tensors, strict=True)):
        assert np.array_equal(one, other.numpy())
        assert back * buckets <= one.min() <= one.max() < (back + 1) * buckets


def test_rows_spread_over_the_buckets():
    """Pairs of 40 tokens share rows hardly more often than chance would have it."""
    left, right = np.divmod(np.arange(1600), 40)
    (rows,) = hash_rows(left, [right], 4096)
    expected = 4096 * (1 - (1 - 1 / 4096) ** 1600)  # different rows of 1600 random draws
    assert len(np.unique(rows)) > 0.9 * expected


def test_unknown_token_reads_rows_like_any_other():
    """Its embedding is zero for ever; its n-grams are rows that training never touched."""
    config = ModelConfig(hidden_size=4, embed_size=E, ngram_order=2, ngram_buckets=1009)
    model = LanguageModel(config, V, unknown_id=1)
    known = torch.tensor([[0, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    model(known)[0].square().sum().backward()
    assert model.ngrams is not None
    assert model.ngrams.weight.grad is not None
    touched = set(model.ngrams.weight.grad._indices()[0].tolist())
    recent = torch.zeros(1, 1, 1, dtype=torch.int64)
    (rows,) = hash_rows(torch.tensor([[1]]), [recent[0]], 1009)
    assert not touched & set(rows.flatten().tolist())
