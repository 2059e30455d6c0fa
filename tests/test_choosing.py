"""The compiled choice of a token against the one that decode makes with arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqtool.choosing import NOT_FINITE, Options, choose
from seqtool.compiled import compiled
from seqtool.config import DecodeConfig
from seqtool.decode import invert, probabilities

chosen = compiled(choose.py_func)  # type: ignore[attr-defined]


def ours(logits: np.ndarray, allowed: np.ndarray, uniform: float, config: DecodeConfig) -> int:
    size = len(logits)
    options = Options(config.temperature, config.top_k, config.top_p, config.min_p, config.greedy)
    # Not at the start of its array, as in a batch.
    flat, marks = np.append(np.zeros(3, np.float32), logits), np.append([True], allowed)
    scratch = np.empty(size), np.empty(size, np.int64)
    return int(chosen(flat, 3, marks, 1, uniform, options, *scratch))


def theirs(logits: np.ndarray, allowed: np.ndarray, uniform: float, config: DecodeConfig) -> int:
    masked = np.where(allowed, logits, -np.inf)[None]
    return int(invert(probabilities(masked, config), np.array([uniform]))[0])


configs = st.builds(
    DecodeConfig,
    temperature=st.sampled_from([1e-3, 0.5, 0.8, 1.0, 2.0, 1e6]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    greedy=st.booleans(),
)


@given(
    st.lists(st.sampled_from([-4.0, -1.5, 0.0, 0.25, 1.0, 1.5, 3.0]), min_size=1, max_size=11),
    st.data(),
    st.floats(0, 1, exclude_max=True),
    configs,
)
def test_it_chooses_as_decode_does(
    scores: list[float], data: st.DataObject, uniform: float, config: DecodeConfig
) -> None:
    logits = np.array(scores, np.float32)
    size = len(scores)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    allowed[data.draw(st.integers(0, len(scores) - 1))] = True
    # Sums in another order differ in the last bit: a number this close to a border may fall
    # to either side of it.
    near = {theirs(logits, allowed, u, config) for u in (uniform - 1e-12, uniform, uniform + 1e-12)}
    assert ours(logits, allowed, uniform, config) in near


@pytest.mark.parametrize("size", [65, 5000])
def test_large_vocabularies_are_ranked_alike(size: int) -> None:
    rng = np.random.default_rng(3)
    logits, allowed = rng.normal(size=size).astype(np.float32) * 3, rng.random(size) < 0.9
    for config in (
        DecodeConfig(top_k=7),
        DecodeConfig(top_p=0.9),
        DecodeConfig(top_k=40, top_p=0.8, min_p=0.01, temperature=1.3),
        DecodeConfig(),
    ):
        for uniform in rng.random(50):
            assert ours(logits, allowed, uniform, config) == theirs(
                logits, allowed, uniform, config
            )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("greedy", [False, True])
def test_what_is_not_finite_is_told(bad: float, greedy: bool) -> None:
    logits, config = np.array([0, bad, 1], np.float32), DecodeConfig(greedy=greedy)
    assert ours(logits, np.ones(3, bool), 0.5, config) == NOT_FINITE
    assert ours(logits, np.zeros(3, bool), 0.5, config) == NOT_FINITE
    assert ours(logits, np.array([True, False, False]), 0.5, config) == 0  # it is not looked at


def test_the_last_of_all_numbers_chooses_a_token() -> None:
    last = np.nextafter(1.0, 0.0)
    logits = np.array([0, 0, 0, -1e9], np.float32)
    assert ours(logits, np.ones(4, bool), last, DecodeConfig()) == 2
