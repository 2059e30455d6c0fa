"""Tensors in a file: as the library writes and reads them, and no byte changes unseen."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from seqtool.tensorfile import pack, unpack


def test_what_is_written_is_what_the_library_writes():
    """To the byte, but for the order of what is equally wide; the hash stands for 64 zeros."""
    rng = np.random.default_rng(5)
    kinds = (np.bool_, np.uint8, np.int16, np.float16, np.uint32, np.float32, np.int64, np.float64)
    tensors = {f"{i}": rng.integers(0, 2, (2, i)).astype(kind) for i, kind in enumerate(kinds)}
    tensors |= {"scalar": np.array(3.5, np.float32), "turned": np.arange(6, dtype=">i4")[::-2]}
    head, *data = pack(tensors, {"name": "x"})
    whole = b"".join([head, *data])
    native = {name: array.astype(array.dtype.newbyteorder("<")) for name, array in tensors.items()}
    found = safetensors.numpy.load(whole)
    assert {name: array.dtype for name, array in found.items()} == {
        name: array.dtype for name, array in native.items()
    }
    for arrays in (found, unpack(whole)[0]):
        np.testing.assert_equal(arrays, native)
    (text,) = json.loads(bytes(head[8:]))["__metadata__"].values()
    digest = json.loads(text)["sha256"].encode()
    assert hashlib.sha256(whole.replace(digest, b"0" * 64)).hexdigest() == digest.decode()
    alone = {"3": tensors["3"], "5": tensors["5"], "7": tensors["7"]}
    ours = b"".join(pack(alone, {}))
    (text,) = json.loads(ours[8 : 8 + int.from_bytes(ours[:8], "little")])["__metadata__"].values()
    assert ours == safetensors.numpy.save(alone, {"seqtool": text})


def test_what_was_packed_comes_back_in_the_order_of_names():
    tensors = {"b": np.arange(3), "a": np.ones((2, 0), np.float32), "c": np.array(True)}
    header = {"name": "x", "numbers": [0.1, float("inf")], "count": np.int64(7)}
    found, said = unpack(b"".join(pack(tensors, header)))
    assert [*found] == ["a", "b", "c"]
    np.testing.assert_equal(found, tensors)
    assert len(said.pop("sha256")) == 64
    assert said == header


def test_every_changed_byte_is_seen():
    blob = b"".join(pack({"a": np.arange(5, dtype=np.uint8)}, {"name": "x"}))
    for place in range(len(blob)):
        flipped = bytearray(blob)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="damaged or cut short"):
            unpack(bytes(flipped))
    for end in range(len(blob)):
        with pytest.raises(ValueError, match="damaged or cut short"):
            unpack(blob[:end])


@pytest.mark.parametrize("text", ["[{}]", '{{"seqtool": [{}]}}', "7 {}"])
def test_another_makers_file_is_refused_though_its_hash_is_right(text):
    head = text.format('{\\"sha256\\": \\"' + "0" * 64 + '\\"}').encode()
    blob = len(head).to_bytes(8, "little") + head
    blob = blob.replace(b"0" * 64, hashlib.sha256(blob).hexdigest().encode())
    with pytest.raises(ValueError, match="not one that seqtool wrote"):
        unpack(blob)
