"""Files of numbers: those without a name, for more than fit into memory, and those that stay.

With one that stays a killed run can go on, and damage is seen: what it holds is noted elsewhere,
and only once it is safe on the disk: how many numbers of which types, and the CRC-32 of its bytes,
which goes on from block to block.
"""

import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from seqtool.errors import DataError

Array = npt.NDArray[Any]
Runs = list[list[Any]]  # numbers of one type that follow each other: its name, how many

BLOCK = 1 << 24  # numbers read at once
MEMORY_NUMBERS = 64_000_000  # more of them live in a temporary file


def joined(chunks: Iterable[Array], dtype: npt.DTypeLike) -> Array:
    """All numbers, (n,): in memory if they are few, else mapped from a file without a name.

    Raises:
        DataError: If the disk has no room for it.
    """
    few: list[Array] = []
    count, rest = 0, iter(chunks)
    for chunk in rest:
        few.append(chunk)
        count += len(chunk)
        if count > MEMORY_NUMBERS:
            break
    else:
        return np.concatenate(few) if few else np.zeros(0, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            for chunk in few:
                _append(file, chunk)
            few.clear()
            for chunk in rest:
                _append(file, chunk)
            file.flush()
            return np.memmap(file, dtype, mode="r")
    except OSError as err:
        raise DataError(
            f"{tempfile.gettempdir()}: no place for the token ids ({err.strerror}); "
            "set TMPDIR to a directory with more room"
        ) from err


def _append(file: IO[bytes], numbers: Array) -> None:
    file.write(np.ascontiguousarray(numbers).data)


def appending(path: Path, size: int) -> IO[bytes]:
    """A file to go on with after its first ``size`` bytes.

    Raises:
        DataError: If it has fewer.
    """
    file = open(path, "ab")  # noqa: SIM115
    if file.tell() < size:
        file.close()
        raise DataError(f"{path}: cut short; delete {path.parent} and start again")
    file.truncate(size)
    return file


def put(file: IO[bytes], ids: Array, part: dict[str, Any]) -> None:
    """Write ids and note in ``part`` how many there are now and the CRC-32 of all of them."""
    data = np.ascontiguousarray(ids).data
    file.write(data)
    part["ids"] += len(ids)
    part["crc"] = zlib.crc32(data, part["crc"])


def is_whole(path: Path, crc: int) -> bool:
    """Whether a file holds the bytes that were written."""
    found = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return found == crc


def mapped(path: Path, dtype: str) -> Array:
    """The numbers of a file, (n,), mapped into memory."""
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def extend(runs: Runs, numbers: Array) -> None:
    """Note numbers of a type behind those before them."""
    if not runs or runs[-1][0] != numbers.dtype.name:
        runs.append([numbers.dtype.name, 0])
    runs[-1][1] += len(numbers)


def num_bytes(runs: Runs) -> int:
    """What numbers of these types take."""
    return sum(np.dtype(kind).itemsize * count for kind, count in runs)


def blocks(file: IO[bytes], runs: Runs, skip: int) -> Iterator[Array]:
    """The numbers of a file in blocks, without the first ``skip``."""
    for kind, count in runs:
        passed = min(skip, count)
        skip -= passed
        file.seek(passed * np.dtype(kind).itemsize, 1)
        for first in range(passed, count, BLOCK):
            yield np.fromfile(file, kind, min(BLOCK, count - first))
