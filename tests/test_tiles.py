"""Products of packed matrices: NumPy's values, and the same bits whatever is computed together."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqtool.compiled import compiled
from seqtool.tiles import COLUMNS, MOST_ROWS, product

K = 37


@compiled
def multiply(a: Any, panels: Any, out: Any) -> None:
    rows, width = out.shape
    product(a.ravel(), 0, K, rows, K, panels.ravel(), 0, width // COLUMNS, out.ravel(), 0, width)


def packed(matrix: np.ndarray) -> np.ndarray:
    """(K, N) as (N / 16, K, 16)."""
    return np.ascontiguousarray(matrix.reshape(K, -1, COLUMNS).swapaxes(0, 1))


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
