"""What the machine allows: bytes read and numbers multiplied in a second, as sides of a case."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from torch.nn import functional

from seqtool.config import ModelConfig
from seqtool.shapes import language_shapes
from seqtool.team import Team

from .measure import Case, Side

PRODUCT = 1024  # rows and columns of the matrices whose product is the arithmetic peak
TRIALS = 8
MEBIBYTE = 2**20
CALL = 512 * MEBIBYTE  # bytes read in a call, which must outweigh the start of threads
READS = {"memory": 256 * MEBIBYTE, "shared cache": 12 * MEBIBYTE, "own caches": MEBIBYTE // 2}


def matrix_weights(config: ModelConfig, vocab_size: int) -> int:
    """Numbers in the matrices that every token is multiplied with."""
    shapes = language_shapes(config, vocab_size)
    names = [n for n in shapes if n.startswith("stack.weight_") or n == "output.weight"]
    return sum(int(np.prod(shapes[name])) for name in names)


def training_flops(config: ModelConfig, vocab_size: int) -> float:
    """Of a token forward and backward: three products with each weight, two operations each."""
    return 6.0 * matrix_weights(config, vocab_size)


def sgemm(flops: float, name: str = "limit: sgemm", amount: float = 1.0) -> Side:
    """Work of so many operations, done as one product of large matrices, in the faster library.

    Those that torch has: its BLAS (MKL is slow on other makers' processors) and oneDNN.

    Args:
        flops: Floating-point operations that the work takes.
        name: Of the side.
        amount: Of the case's unit that the work counts.
    """
    a, b, c = torch.rand(3, PRODUCT, PRODUCT).unbind()
    done = 2.0 * PRODUCT**3 / flops * amount
    ways: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=c)]
    if torch.backends.mkldnn.is_available():
        packed = a.to_mkldnn()
        ways.append(lambda: functional.linear(packed, b))
    return Side(name, done, ways[_fastest(ways)])


def _fastest(ways: Sequence[Callable[[], object]]) -> int:
    """Which of several ways took the least time, each at its best of a few in turns."""
    times = np.empty((TRIALS, len(ways)))
    for trial in range(TRIALS):
        for place, way in enumerate(ways):
            began = time.perf_counter()
            way()
            times[trial, place] = time.perf_counter() - began
    return int(times.min(axis=0).argmin())


@cache
def _reader() -> Callable[..., float]:
    """Compiled when it is first needed: adds up numbers as fast as they come."""

    def total(values: Any, times: int) -> Any:
        result = np.float32(0)
        for turn in range(times):
            part = np.float32(0)
            for place in range(len(values)):
                part += values[place]
            result += part * np.float32(turn)
        return result

    made: Callable[..., float] = numba.njit(nogil=True, fastmath=True)(total)
    return made


def reading(nbytes: int, name: str = "limit: bandwidth", amount: float = 1.0) -> Side:
    """Work that reads so many bytes, all cores together, again and again.

    What the caches can hold stays there, as the weights of a network do between two steps.

    Args:
        nbytes: Bytes that the work reads, each once.
        name: Of the side.
        amount: Of the case's unit that the work counts.
    """
    values, read, team = np.ones(nbytes // 4, np.float32), _reader(), Team()
    times = max(1, CALL // nbytes)

    def job(thread: int, threads: int) -> int:
        return int(read(np.array_split(values, threads)[thread], times))

    return Side(name, times * amount, lambda: team.run(job, 1, 1))


def machine_cases(smoke: bool) -> Iterator[Case]:
    """The limits themselves."""
    yield Case("sgemm", "machine", "GFLOP/s", [sgemm(1e9)], {"size": PRODUCT})
    for place, nbytes in READS.items():
        nbytes = nbytes // 64 if smoke else nbytes
        side = reading(nbytes, amount=nbytes / 1e9)
        yield Case(f"read {place}", "machine", "GB/s", [side], {"bytes": nbytes})
