"""Every row once an epoch, of like lengths, and an order that can be taken up again."""

import json

import numpy as np
import pytest

from seqtool.batches import Shuffled, ShuffledPairs, by_length, by_tokens, padded
from seqtool.lexicon import Texts


@pytest.mark.parametrize(("count", "size"), [(1, 4), (7, 4), (1000, 8), (13, 1)])
def test_every_row_once_an_epoch_in_batches_of_even_size(count, size):
    lengths = np.random.default_rng(0).integers(1, 40, count)
    batches = Shuffled(lengths, size, seed=3)
    orders = []
    for _ in range(3):
        epoch = [batches.next()]
        while batches.left:
            epoch.append(batches.next())
        assert sorted(np.concatenate(epoch)) == list(range(count))
        assert max(map(len, epoch)) <= size
        orders.append(np.concatenate(epoch).tolist())
    assert batches.num_rows == 3 * count
    assert batches.num_tokens == 3 * lengths.sum()
    assert count < 10 or orders[0] != orders[1] != orders[2]


def test_sizes_within_a_pool_differ_by_one_at_most():
    sizes = {len(batch) for batch in by_length(np.ones(33, int), 8)}
    assert sizes == {6, 7}


def test_lengths_within_a_batch_are_alike():
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    batches = Shuffled(lengths, 8, seed=1)
    spread = [np.ptp(lengths[batches.next()]) for _ in range(50)]
    assert np.mean(spread) < 6


def test_taken_up_again_anywhere():
    lengths = np.random.default_rng(0).integers(1, 40, 30)
    one = Shuffled(lengths, 4, seed=3)
    for stop in range(20):
        other = Shuffled(lengths, 4, seed=3)
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        ahead = [other.next().tolist() for _ in range(12)]
        again = Shuffled(lengths, 4, seed=3)
        again.load_state_dict(one.state_dict())
        assert [again.next().tolist() for _ in range(12)] == ahead, stop
        assert one.next().tolist() == ahead[0]


@pytest.mark.parametrize(("count", "most"), [(1, 10), (300, 64), (300, 400), (50, 10_000), (40, 3)])
def test_batches_of_tokens_hold_every_row_once_and_no_more_than_fits(count, most):
    lengths = np.random.default_rng(0).integers(1, 30, count)
    batches = list(by_tokens(lengths, lengths[::-1], most))
    assert sorted(np.concatenate(batches)) == list(range(count))
    sizes = [len(rows) * lengths[rows].max() for rows in batches]
    assert all(size <= most or len(rows) == 1 for size, rows in zip(sizes, batches, strict=True))
    firsts = [lengths[rows].max() for rows in batches]
    assert firsts == sorted(firsts, reverse=True)


def test_no_batch_of_tokens_is_left_with_few_rows():
    sizes = [len(rows) for rows in by_tokens(np.full(101, 4), np.full(101, 4), 40)]
    assert sizes == [10] * 9 + [6, 5]


def test_of_equally_long_sequences_those_with_like_partners_are_together():
    others = np.array([3, 9, 3, 9])
    batches = list(by_tokens(np.full(4, 5), others, 10))
    assert [set(others[rows]) for rows in batches] == [{9}, {3}]


def test_pairs_are_counted_in_target_tokens_and_fit_on_both_sides():
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(1, 40, (2, 500))
    batches = ShuffledPairs(sources, targets, 200, seed=1)
    rows = [batches.next()]
    while batches.left:
        rows.append(batches.next())
    assert sorted(np.concatenate(rows)) == list(range(500))
    assert batches.num_tokens == targets.sum()
    for side in (sources, targets):
        assert max(len(part) * side[part].max() for part in rows) <= 200


def test_padding_is_behind_the_boundary():
    texts = Texts(np.array([5, 6, 7, 8], np.int32), np.array([0, 3, 3, 4]))
    ids, lengths = padded(texts, np.array([2, 0, 1]), boundary=1)
    assert ids.tolist() == [[8, 1, 1, 1], [5, 6, 7, 1], [1, 1, 1, 1]]
    assert lengths.tolist() == [2, 4, 1]
    turned, _ = padded(texts, np.array([2, 0, 1]), boundary=1, reverse=True)
    assert turned.tolist() == [[8, 1, 1, 1], [7, 6, 5, 1], [1, 1, 1, 1]]


def test_a_batch_of_nothing_but_empty_sequences_is_one_boundary_wide():
    texts = Texts(np.empty(0, np.int32), np.zeros(3, np.int64))
    assert padded(texts, np.arange(2), boundary=0)[0].tolist() == [[0], [0]]
