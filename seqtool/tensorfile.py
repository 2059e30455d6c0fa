"""Tensors in a safetensors file of which each byte is under a hash that the file holds itself."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

Arrays = dict[str, np.ndarray[Any, Any]]
Tensors = Mapping[str, np.ndarray[Any, Any]]

MOST_HEADER = 1 << 24  # bytes of JSON in such a file
_UNSEALED = "0" * 64  # stands where the hash goes while the hash is taken
# The hash inside the header: our one metadata string is JSON inside JSON.
_DIGEST = re.compile(rb'\{\\"sha256\\": \\"([0-9a-f]{64})\\"')


def sha256(*parts: str | bytes | bytearray | memoryview) -> str:
    """The hash of the parts one after the other, in hexadecimal; those of str are ASCII."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("ascii") if isinstance(part, str) else part)
    return digest.hexdigest()


def pack(tensors: Tensors, header: dict[str, Any]) -> list[bytes | memoryview]:
    """The pieces of a file whose hash covers each of its bytes but the hash itself.

    The library would build the file in memory, three times as large with the hash put in; here
    the tensors stay where they are. Length, JSON header and data are those of the format,
    https://github.com/huggingface/safetensors#format.

    Args:
        tensors: What it holds, by name.
        header: What else, by name: JSON values or NumPy numbers.
    """
    arrays = {
        name: np.asarray(tensor, tensor.dtype.newbyteorder("<"), order="C")
        for name, tensor in tensors.items()
    }
    text = json.dumps({"sha256": _UNSEALED} | header, default=np.generic.item)
    described: dict[str, Any] = {"__metadata__": {"seqtool": text}}
    pieces: list[bytes | memoryview] = []
    end = 0
    # The widest first, so that each begins at a multiple of its own width.
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        array = arrays[name]
        kind = "BOOL" if array.dtype == bool else f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        begin, end = end, end + array.nbytes
        described[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [begin, end]}
        pieces.append(array.reshape(-1).view(np.uint8).data)
    head = json.dumps(described, separators=(",", ":")).encode("ascii")
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    digest = sha256(head, *pieces).encode("ascii")
    return [head.replace(_UNSEALED.encode("ascii"), digest, 1), *pieces]


def unpack(blob: bytes) -> tuple[Arrays, dict[str, Any]]:
    """The tensors of a file, in the order of their names, and its header.

    Raises:
        ValueError: If it is not whole, or not of ``pack``.
    """
    end = 8 + int.from_bytes(blob[:8], "little")  # safetensors: length, JSON header, data
    place = _DIGEST.search(blob, 8, min(end, len(blob)))
    a, b = place.span(1) if place else (0, 0)
    sealed = end <= min(len(blob), MOST_HEADER) and (
        blob[a:b].decode("ascii") == sha256(memoryview(blob)[:a], _UNSEALED, memoryview(blob)[b:])
    )
    if not sealed:
        raise ValueError("damaged or cut short")
    try:
        header = dict[str, Any](json.loads(json.loads(blob[8:end])["__metadata__"]["seqtool"]))
        arrays = safetensors.numpy.load(blob)
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as err:
        raise ValueError("not one that seqtool wrote") from err
    return dict(sorted(arrays.items())), header  # they come in any order
