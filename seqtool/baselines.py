"""What the xz compressor reaches on the same split: the simplest method with a memory.

A trained network that does not beat it has learned nothing worth its training time. The standard
library only; text and files are the caller's business.
"""

import lzma
from collections.abc import Iterable
from typing import NamedTuple

Data = bytes | bytearray | memoryview | Iterable[bytes]  # whole, or in pieces

XZ_TRAIN_BYTES = 4 << 20  # xz takes about a second per MB and reads the training text twice
XZ_TEST_BYTES = 1 << 20


class XzCost(NamedTuple):
    """What a held-out text costs xz.

    Attributes:
        bits: Size of the test text for a compressor that has just read the training text.
        test_bytes: How much of the test text was measured, from its start; divide by this.
    """

    bits: int
    test_bytes: int


def xz_cost(
    train: Data,
    test: Data,
    *,
    max_train: int = XZ_TRAIN_BYTES,
    max_test: int = XZ_TEST_BYTES,
) -> XzCost:
    """Cost of a text for xz when it knows the training text: size(train + test) - size(train).

    The dictionary covers both. Of a large training text only the last ``max_train`` bytes are used,
    of a large test text only the first ``max_test``, so that the two stay neighbours and the call
    takes seconds; the result says how many were.

    Args:
        train: Training text as bytes, or in pieces; may be empty.
        test: Held-out text as bytes, or in pieces.
        max_train: Most bytes of ``train`` to use.
        max_test: Most bytes of ``test`` to measure.
    """
    known = _last_bytes(train, max_train)
    text = _first_bytes(test, max_test)
    bits = 8 * (_xz_size(known + text) - _xz_size(known))
    return XzCost(max(0, bits), len(text))


def _last_bytes(data: Data, limit: int) -> bytes:
    kept = bytearray()
    for piece in _pieces(data):
        kept += piece
        if len(kept) > 2 * limit:  # cut now and then, so that memory stays bounded
            del kept[: len(kept) - limit]
    return bytes(kept[max(0, len(kept) - limit) :])


def _first_bytes(data: Data, limit: int) -> bytes:
    kept = bytearray()
    for piece in _pieces(data):
        kept += piece[: limit - len(kept)]
        if len(kept) == limit:
            break
    return bytes(kept)


def _pieces(data: Data) -> Iterable[bytes]:
    return [bytes(data)] if isinstance(data, bytes | bytearray | memoryview) else data


def _xz_size(data: bytes) -> int:
    # Preset 9 differs from 6 only in its dictionary, set here; memory is about 11 times the data.
    dictionary = max(len(data), 4096)  # the least that LZMA2 takes
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary}]
    packed = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters)
    return len(packed)
