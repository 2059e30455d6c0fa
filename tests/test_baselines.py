"""Baselines: costs that make sense."""

import lzma

import numpy as np
import pytest

from seqtool.baselines import XzCost, xz_cost


def test_xz_pays_little_for_what_it_has_read():
    rng = np.random.default_rng(7)
    train = rng.bytes(20_000)  # incompressible
    known, new = xz_cost(train, train[5_000:15_000]), xz_cost(train, rng.bytes(10_000))
    assert known.bits < 0.05 * new.bits
    assert 80_000 <= new.bits < 81_000
    assert new.test_bytes == 10_000


def test_xz_reads_far_back():
    rng = np.random.default_rng(8)
    repeated, filler = rng.bytes(3_000), rng.bytes(200_000)
    assert xz_cost(repeated + filler, repeated).bits < 0.2 * 8 * len(repeated)


def test_xz_without_training_text_is_its_plain_size():
    text = b"the cat sat on the mat and the rat sat on the cat\n" * 40
    packed = len(lzma.compress(text, check=lzma.CHECK_NONE)) - len(
        lzma.compress(b"", check=lzma.CHECK_NONE)
    )
    assert xz_cost(b"", text).bits == pytest.approx(8 * packed, abs=8 * 16)
    assert xz_cost(text, b"") == XzCost(0, 0)


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_xz_takes_pieces_and_keeps_the_neighbouring_ends(size):
    data = np.random.default_rng(9).integers(97, 105, size=1200).astype(np.uint8).tobytes()
    train, test = data[:900], data[900:]

    def pieces(whole):
        return (whole[i : i + size] for i in range(0, len(whole), size))

    cost = xz_cost(pieces(train), pieces(test), max_train=250, max_test=130)
    assert cost == xz_cost(train[-250:], test[:130])
    assert cost.test_bytes == 130
