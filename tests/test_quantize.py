"""Rounding weights, and laying them out for the compiled loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqtool.config import ModelConfig
from seqtool.quantize import build_network, padded, quantize
from seqtool.shapes import language_shapes

V = 11


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-20),
    )
)
def test_rounding_is_off_by_half_a_step_at_most(rows: np.ndarray) -> None:
    numbers, scales = quantize(rows)
    assert (numbers.dtype, scales.dtype) == (np.int8, np.float32)
    assert np.abs(numbers.astype(int)).max() <= 127
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(numbers * scales[:, None] - rows) <= 0.501 * step).all()


def test_a_rows_scale_is_its_own() -> None:
    rows = np.array([[1, -0.5], [1000, 3]], np.float32)
    numbers, _ = quantize(rows)
    assert numbers.tolist() == [[127, -64], [127, 0]]


def test_padding_adds_nothing() -> None:
    config = ModelConfig(cell="gru", hidden_size=20, embed_size=5, num_layers=2, ngram_order=3)
    weights = {
        name: np.ones(shape, np.float32) for name, shape in language_shapes(config, V).items()
    }
    network = build_network(config, V, weights, "float32")
    matrices = {n: w for n, w in weights.items() if "weight" in n and n[0] in "so"}
    assert network.matrices.weights.sum() == sum(w.size for w in matrices.values())
    biases = {n: w for n, w in weights.items() if "bias" in n}
    assert network.matrices.biases.sum() == sum(w.size for w in biases.values())
    assert network.units == padded(20) >= 20
    assert network.matrices.layout[:, 2].tolist() == [padded(5)] + 4 * [padded(20)]
    assert network.matrices.weights.ctypes.data % 64 == 0


def test_arrays_that_must_not_be_written_are_copied() -> None:
    config = ModelConfig(hidden_size=4, embed_size=5, ngram_order=1)
    weights = {
        name: np.ones(shape, np.float32) for name, shape in language_shapes(config, V).items()
    }
    weights["embedding.weight"].flags.writeable = False
    assert build_network(config, V, weights, "int8").embedding.flags.writeable
