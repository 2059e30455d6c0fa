"""Attention against its equations, position by position."""

import math

import pytest
import torch
from torch.testing import assert_close

from seqtool.attention import Attention

B, T, S, M, H = 3, 4, 5, 6, 7
LENGTHS = torch.tensor([5, 1, 3])


@pytest.fixture
def batch():
    torch.manual_seed(2)
    return torch.randn(B, T, H), torch.randn(B, S, M), torch.randn(B, M)


@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_equals_the_equations(kind, batch):
    queries, memory, summary = batch
    attention = Attention(kind, M, H)
    contexts, weights = attention(queries, attention.read(memory, summary, LENGTHS))
    for b, length in enumerate(LENGTHS):
        for t in range(T):
            scores = []
            for j in range(length):
                key = attention.key.weight @ memory[b, j]
                if kind == "dot":
                    scores.append(queries[b, t] @ key / math.sqrt(H))
                else:
                    asked = attention.query.weight @ queries[b, t] + key + attention.key.bias
                    scores.append(attention.score @ torch.tanh(asked))
            looks = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            seen = sum(looks[j] * (attention.value.weight @ memory[b, j]) for j in range(length))
            assert_close(weights[b, t, :length], looks)
            assert_close(contexts[b, t], seen)


@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_padding_is_not_looked_at(kind, batch):
    queries, memory, summary = batch
    attention = Attention(kind, M, H)
    contexts, weights = attention(queries, attention.read(memory, summary, LENGTHS))
    outside = torch.arange(S) >= LENGTHS[:, None]
    assert weights.transpose(1, 2)[outside].eq(0).all()
    assert_close(weights.sum(dim=2), torch.ones(B, T))
    changed = memory.masked_fill(outside[:, :, None], 1e3)
    assert attention(queries, attention.read(changed, summary, LENGTHS))[0].equal(contexts)


def test_without_attention_the_summary_is_all_there_is(batch):
    queries, memory, summary = batch
    attention = Attention("none", M, H)
    contexts, weights = attention(queries, attention.read(memory, summary, LENGTHS))
    assert_close(contexts, (summary @ attention.value.weight.T)[:, None].expand(-1, T, -1))
    assert weights.shape == (B, T, 1)
    assert weights.eq(1).all()


@pytest.mark.parametrize("kind", ["dot", "additive", "none"])
def test_selected_sources_are_those_of_the_rows(kind, batch):
    queries, memory, summary = batch
    attention = Attention(kind, M, H)
    read = attention.read(memory, summary, LENGTHS)
    rows = torch.tensor([2, 0, 0, 1])
    contexts, _ = attention(queries[rows], read.select(rows))
    assert_close(contexts, attention(queries, read)[0][rows])
