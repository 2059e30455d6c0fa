"""The compiled products and activations against NumPy."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqtool.compiled import compiled
from seqtool.products import (
    MAX_EXPONENT,
    ROWS,
    Matrices,
    encode,
    exponential,
    multiply,
    sigmoid,
    tanh,
)
from seqtool.quantize import join
from seqtool.vectors import LANES, load, store

R, K, M = 96, 96, 7  # rows, width, vectors


@compiled
def activate(x: Any, exps: Any, sigmoids: Any, tanhs: Any) -> None:
    for i in range(0, len(x), LANES):
        v = load(x, i)
        store(exps, i, exponential(v))
        store(sigmoids, i, sigmoid(v))
        store(tanhs, i, tanh(v))


@compiled
def product(matrices: Any, first: Any, last: Any, x: Any, codes: Any, out: Any) -> None:
    count, width = x.shape
    factors = np.empty(count, np.float32)
    for m in range(count):
        factors[m] = encode(x.ravel(), m * width, width, codes.ravel(), m * width)
    multiply(matrices, 1, first, last, codes, factors, count, out, out.shape[1])


def multiplied(matrices: Matrices, x: np.ndarray, first: int = 0, last: int = R) -> np.ndarray:
    out = np.full((len(x), R), np.nan, np.float32)
    product(matrices, first, last, x, np.zeros(x.shape, matrices.code.dtype), out)
    return out


def make(precision: Any, seed: int = 1) -> tuple[np.ndarray, np.ndarray, Matrices]:
    """A matrix (R, K) and its bias, the second of two."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(R, K)).astype(np.float32)
    bias = rng.normal(size=R).astype(np.float32)
    before = np.ones((ROWS, 32), np.float32), np.ones(ROWS, np.float32)
    return weight, bias, join([before, (weight, bias)], precision)


def test_activations_are_those_of_numpy() -> None:
    x = np.linspace(-100, 100, 1 << 16, dtype=np.float32)
    exps, sigmoids, tanhs = np.empty((3, len(x)), np.float32)
    activate(x, exps, sigmoids, tanhs)
    exact = x.astype(np.float64)
    assert_allclose(exps, np.exp(np.clip(exact, -MAX_EXPONENT, MAX_EXPONENT)), rtol=2e-7)
    assert_allclose(sigmoids, 1 / (1 + np.exp(-exact)), atol=2e-7, rtol=0)
    assert_allclose(tanhs, np.tanh(exact), atol=3e-7, rtol=0)
    assert np.abs(tanhs).max() <= 1
    assert exps.dtype == np.float32


def test_what_is_not_a_number_stays_so() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0, 1, -1, 1e30, -1e30] * 2, np.float32)
    exps, sigmoids, tanhs = np.empty((3, len(x)), np.float32)
    activate(x, exps, sigmoids, tanhs)
    assert np.isnan([exps[::8], sigmoids[::8], tanhs[::8]]).all()
    assert_allclose(tanhs[1:8], np.tanh(x[1:8]), atol=3e-7)
    assert_allclose(sigmoids[1:4], [1, 0, 0.5], atol=2e-7)


def test_products_are_those_of_numpy() -> None:
    weight, bias, matrices = make("float32")
    x = np.random.default_rng(2).normal(size=(M, K)).astype(np.float32)
    assert_allclose(multiplied(matrices, x), x @ weight.T + bias, rtol=1e-5, atol=1e-5)


def test_int8_products_are_exact_sums_of_the_rounded_numbers() -> None:
    weight, bias, matrices = make("int8")
    scales = np.abs(weight).max(axis=1, keepdims=True) / 127
    rounded = np.rint(weight / scales) * scales
    x = np.random.default_rng(2).normal(size=(M, K)).astype(np.float32)
    # What is left is the rounding of the vectors to 16 bits.
    most = np.abs(x).max() * np.abs(rounded).sum(axis=1).max() / 32767
    assert_allclose(multiplied(matrices, x), x @ rounded.T + bias, atol=most, rtol=0)


@pytest.mark.parametrize("width", [32, 512, 4096])
def test_the_largest_int8_sums_do_not_overflow(width: int) -> None:
    weight, none = np.ones((ROWS, width), np.float32), np.zeros(ROWS, np.float32)
    matrices = join([(weight[:, :32], none), (weight, none)], "int8")
    x, out = np.full((1, width), -3, np.float32), np.empty((1, ROWS), np.float32)
    product(matrices, 0, ROWS, x, np.zeros(x.shape, np.int16), out)
    assert_allclose(out, -3 * width, rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_vectors_products_do_not_depend_on_the_others(precision: Any) -> None:
    _, _, matrices = make(precision)
    x = np.random.default_rng(2).normal(size=(M, K)).astype(np.float32)
    together = multiplied(matrices, x)
    for m in range(M):
        assert np.array_equal(multiplied(matrices, x[m : m + 1])[0], together[m])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_some_rows_are_those_of_all(precision: Any) -> None:
    _, _, matrices = make(precision)
    x = np.random.default_rng(2).normal(size=(M, K)).astype(np.float32)
    some = multiplied(matrices, x, 32, 64)
    assert np.array_equal(some[:, 32:64], multiplied(matrices, x)[:, 32:64])
    assert np.isnan(some[:, :32]).all()
    assert np.isnan(some[:, 64:]).all()


def test_a_vector_of_nothing_gives_the_bias() -> None:
    for precision in ("float32", "int8"):
        _, bias, matrices = make(precision)
        assert np.array_equal(multiplied(matrices, np.zeros((1, K), np.float32))[0], bias)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generic", "x86-64-v2", "haswell"])
@pytest.mark.parametrize(("precision", "count"), [("int8", 7), ("float32", 33)])
def test_a_plainer_processor_gives_the_same_sums(name: str, precision: str, count: int) -> None:
    """LLVM takes other instructions: for the same whole numbers, or for sums in the same order."""
    code = (
        "import numpy as np, sys; sys.path.insert(0, 'tests'); import test_products as t;"
        f"m = t.make('{precision}')[2]; x = np.random.default_rng(2).normal(size=({count}, 96));"
        "print(t.multiplied(m, x.astype(np.float32)).tobytes().hex())"
    )
    features = "+avx2,+fma" if name == "haswell" else ""
    found = []
    for extra in ({}, {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}):
        made = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"NUMBA_CACHE_DIR": os.devnull} | extra,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(np.frombuffer(bytes.fromhex(made.stdout), np.float32))
    here, there = found
    if precision == "int8":
        assert np.array_equal(here, there)
    assert_allclose(here, there, rtol=1e-5, atol=1e-5)
