"""Products of packed matrices: NumPy's values, and the same bits whatever is computed together."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqtool.compiled import compiled
from seqtool.tiles import COLUMNS, DEEPEST, MOST_ROWS, pack, product

K = 37


@compiled
def multiply(a: Any, panels: Any, out: Any) -> None:
    (rows, width), k = out.shape, a.shape[1]
    product(a.ravel(), 0, k, rows, k, panels.ravel(), 0, width // COLUMNS, out.ravel(), 0, width)


@compiled
def pack_rows(a: Any, panels: Any) -> None:
    count, rows, columns = panels.shape
    pack(a.ravel(), 0, a.shape[1], rows, a.shape[1], panels.ravel(), rows * columns, count)


def packed(matrix: np.ndarray) -> np.ndarray:
    """(K, N) as (N / 16, K, 16)."""
    return np.ascontiguousarray(matrix.reshape(len(matrix), -1, COLUMNS).swapaxes(0, 1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_rows_and_panels(count: int) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(K, count * COLUMNS)).astype(np.float32)
    a = rng.normal(size=(2 * MOST_ROWS + 1, K)).astype(np.float32)
    start = rng.normal(size=(len(a), count * COLUMNS)).astype(np.float32)
    alone = start.copy()
    for row in range(len(a)):
        multiply(a[row : row + 1], packed(matrix), alone[row : row + 1])
    assert_allclose(alone, start + a @ matrix, rtol=1e-5, atol=1e-5)
    for rows in range(1, len(a) + 1):
        together = start[:rows].copy()
        multiply(a[:rows], packed(matrix), together)
        assert np.array_equal(together, alone[:rows])


def test_panels_do_not_depend_on_their_neighbours() -> None:
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(K, 3 * COLUMNS)).astype(np.float32)
    a = rng.normal(size=(5, K)).astype(np.float32)
    together = np.zeros((5, 3 * COLUMNS), np.float32)
    multiply(a, packed(matrix), together)
    for first in range(0, 3 * COLUMNS, COLUMNS):
        alone = np.zeros((5, COLUMNS), np.float32)
        multiply(a, packed(matrix[:, first : first + COLUMNS]), alone)
        assert np.array_equal(alone, together[:, first : first + COLUMNS])


def test_a_product_is_one_chain_however_deep() -> None:
    """What is too deep for a cache is cut; entries are added up in the order of K all the same."""
    rng, k = np.random.default_rng(3), 2 * DEEPEST + 5
    matrix = rng.normal(size=(k, 3 * COLUMNS)).astype(np.float32)
    a = rng.normal(size=(3, k)).astype(np.float32)
    found = np.zeros((3, 3 * COLUMNS), np.float32)
    multiply(a, packed(matrix), found)
    assert_allclose(found, a @ matrix, rtol=1e-4, atol=1e-3)
    in_pieces = np.zeros((3, 3 * COLUMNS), np.float32)
    for first in range(0, k, K):
        some = np.ascontiguousarray(a[:, first : first + K])
        multiply(some, packed(matrix[first : first + K]), in_pieces)
    assert np.array_equal(found, in_pieces)


@pytest.mark.parametrize("columns", [1, 15, 16, 40])
def test_columns_that_a_matrix_does_not_have_are_zeros(columns: int) -> None:
    matrix = np.random.default_rng(4).normal(size=(7, columns)).astype(np.float32)
    panels = np.full((-(-columns // COLUMNS), 7, COLUMNS), np.nan, np.float32)
    pack_rows(matrix, panels)
    missing = -columns % COLUMNS
    assert np.array_equal(panels, packed(np.pad(matrix, ((0, 0), (0, missing)))))
