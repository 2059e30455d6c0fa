"""The copy meter against searching the training text by brute force."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqtool.copies import START_ID, CopyMeter, Run

ids_of = st.lists(st.integers(0, 3), max_size=60)  # few ids, so that runs are long
# 31-bit ids make the index one or two tokens deep, so that nearly all matching is done beyond it.
ids_far_apart = st.lists(st.sampled_from([0, 1, 7, 2**31]), max_size=60)


def holds(corpus, run):
    """Whether run stands in corpus and can match at all."""
    if START_ID in run:
        return False
    return any(corpus[i : i + len(run)] == run for i in range(len(corpus) - len(run) + 1))


def longest_end(corpus, sample):
    """Length of the longest end of sample that corpus holds."""
    lengths = range(len(sample), 0, -1)
    return next((n for n in lengths if holds(corpus, sample[-n:])), 0)


def too_long(corpus, sample, limit):
    """Ids that would end a shared run of more than limit tokens."""
    if len(sample) < limit:
        return []
    run = sample[len(sample) - limit :]
    return [token for token in sorted(set(corpus)) if holds(corpus, [*run, token])]


def meter_of(corpus, dtype=np.uint32):
    return CopyMeter(np.array(corpus, dtype=dtype))


def check_against_brute_force(corpus, sample, limit, min_run):
    track = meter_of(corpus).start()
    longest = Run(0, 0)
    covered = set()
    for end in range(1, len(sample) + 1):
        expected = longest_end(corpus, sample[:end])
        assert track.push(sample[end - 1]) == expected
        assert track.tail == sample[end - expected : end]
        assert track.extensions_beyond(limit).tolist() == too_long(corpus, sample[:end], limit)
        if expected > longest.length:
            longest = Run(expected, end)
        if expected >= min_run:
            covered |= set(range(end - expected, end))
    assert track.longest == longest
    assert track.share(min_run) == (len(covered) / len(sample) if sample else 0.0)


@given(ids_of, ids_of, st.integers(1, 12), st.integers(1, 8))
@example([1, 2, 3], [1, 2, 3], 2, 2)
@example([], [1], 1, 1)
@example([1, 1, 1, 1], [1] * 9, 3, 2)
@example([2, 1, 1, 2], [1, 2, 2], 1, 1)  # a match must not run over either end of the text
@settings(deadline=None)
def test_track_equals_brute_force(corpus, sample, limit, min_run):
    check_against_brute_force(corpus, sample, limit, min_run)


@given(ids_far_apart, ids_far_apart, st.integers(1, 6))
@settings(deadline=None)
def test_track_equals_brute_force_beyond_the_depth_of_the_index(corpus, sample, limit):
    check_against_brute_force(corpus, sample, limit, 2)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_samples_stitched_from_the_training_text_equal_brute_force(data):
    """Long runs that break off and start again inside, as overfitted models write them."""
    corpus = data.draw(st.lists(st.integers(0, 200), min_size=20, max_size=80))
    starts = data.draw(st.lists(st.integers(0, 19), min_size=1, max_size=4))
    sample = [token for start in starts for token in corpus[start : start + 15]]
    check_against_brute_force(corpus, sample, 9, 6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_every_dtype_finds_a_planted_run(dtype):
    rng = np.random.default_rng(7)
    top = np.iinfo(dtype).max
    corpus = rng.integers(1, min(top, 5000), size=3000, endpoint=True).astype(dtype)
    corpus[[0, 1500]] = START_ID, top
    planted = corpus[1480:1523].tolist()
    track = CopyMeter(corpus).start()
    for token in [START_ID, *planted, START_ID, START_ID]:
        track.push(token)
    assert track.longest == Run(43, 44)
    assert track.share(43) == 43 / 46
    assert track.share(44) == 0.0


def test_a_run_never_passes_a_document_boundary():
    track = meter_of([0, 5, 6, 0, 7, 8]).start()
    assert [track.push(token) for token in [0, 5, 6, 0, 7, 8]] == [0, 1, 2, 0, 1, 2]
    assert track.extensions_beyond(2).tolist() == []
    track = meter_of([0, 5, 6, 0, 7, 8]).start()
    assert track.push(6) == 1
    assert track.extensions_beyond(1).tolist() == []  # only the boundary follows, and never counts


def test_ids_that_the_training_text_lacks_match_nothing():
    track = meter_of([1, 2, 3], np.uint8).start()
    assert [track.push(token) for token in [1, 2, 250, 70_000, 2, 3]] == [1, 2, 0, 0, 1, 2]


def test_vetoed_continuations_keep_every_run_within_the_limit():
    rng = np.random.default_rng(3)
    corpus = rng.integers(1, 5, size=400).astype(np.uint8)
    track = CopyMeter(corpus).start()
    wanted = iter(np.resize(corpus[100:], 600).tolist())  # tries to copy all the time
    for token in wanted:
        vetoed = set(track.extensions_beyond(6).tolist())
        allowed = [other for other in [token, 1, 2, 3, 4] if other not in vetoed]
        if not allowed:
            break
        track.push(allowed[0])
        assert track.longest.length <= 6
    assert track.longest.length == 6


def test_a_track_given_the_tail_goes_on_as_the_first_one():
    rng = np.random.default_rng(5)
    corpus = rng.integers(1, 4, size=500).astype(np.uint8)
    meter = CopyMeter(corpus)
    sample = rng.integers(1, 4, size=80).tolist()
    whole, second = meter.start(), meter.start()
    for token in sample[:40]:
        whole.push(token)
    for token in whole.tail:
        second.push(token)
    for token in sample[40:]:
        assert second.push(token) == whole.push(token)
        np.testing.assert_array_equal(second.extensions_beyond(4), whole.extensions_beyond(4))


def test_memory_mapped_ids_give_the_same_lengths(tmp_path):
    rng = np.random.default_rng(11)
    corpus = rng.integers(0, 9, size=700).astype(np.uint16)
    corpus.tofile(tmp_path / "ids.bin")
    mapped = CopyMeter(np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r"))
    in_memory = CopyMeter(corpus)
    tracks = mapped.start(), in_memory.start()
    for token in rng.integers(0, 9, size=200).tolist():
        assert tracks[0].push(token) == tracks[1].push(token)


def test_samples_of_one_meter_do_not_mix():
    meter = meter_of([1, 2, 3, 4])
    first, second = meter.start(), meter.start()
    assert [first.push(1), second.push(3), first.push(2), second.push(4)] == [1, 1, 2, 2]


def test_an_empty_sample_shares_nothing():
    track = meter_of([1, 2, 3]).start()
    assert track.longest == Run(0, 0)
    assert track.share(1) == 0.0
    assert track.tail == []
    assert track.extensions_beyond(1).tolist() == []
