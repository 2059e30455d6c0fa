"""Every row once an epoch, of like lengths, and an order that can be taken up again."""

import json

import numpy as np
import pytest

from seqtool.batches import Shuffled, by_length


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
