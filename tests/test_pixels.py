"""Images become sequences of the steps that were asked for."""

import numpy as np
import pytest

from seqtool.pixels import image_steps, step_count, step_names, step_width


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (2, 4, 6, 3), np.uint8)


def test_steps_are_rows_pixels_or_blocks(images):
    rows, pixels, blocks = (image_steps(images, by, 0, 1) for by in ("row", "pixel", "block"))
    assert [x.shape for x in (rows, pixels, blocks)] == [(2, 4, 18), (2, 24, 3), (2, 6, 12)]
    np.testing.assert_array_equal(rows[1, 2], images[1, 2].ravel())
    np.testing.assert_array_equal(pixels[1, 2 * 6 + 5], images[1, 2, 5])
    np.testing.assert_array_equal(blocks[1, 3 + 2], images[1, 2:4, 4:6].ravel())


@pytest.mark.parametrize("by", ["row", "pixel", "block"])
def test_a_step_is_as_wide_as_is_said_and_standardised(images, by):
    steps = image_steps(images, by, 100.0, 50.0)
    assert steps.shape[1:] == (step_count(images.shape[1:], by), step_width(images.shape[1:], by))
    np.testing.assert_allclose(
        np.sort(steps.ravel()), np.sort((images.ravel() - 100.0) / 50), rtol=1e-5
    )


def test_blocks_of_an_odd_side_repeat_the_edge(images):
    odd = image_steps(images[:, :3, :5], "block", 0, 1)
    assert odd.shape == (2, 6, 12)
    corner = images[0, 2, 4]
    np.testing.assert_array_equal(odd[0, -1].reshape(4, 3), [corner] * 4)


@pytest.mark.parametrize("by", ["row", "pixel", "block"])
def test_every_step_has_a_name(by):
    shape = (5, 3, 1)
    names = step_names(shape, by)
    assert len(names) == step_count(shape, by) == len(set(names))
    last = {"row": "row 5", "pixel": "pixel 5,3", "block": "block 3,2"}
    assert (names[0], names[-1]) == ("row 1" if by == "row" else f"{by} 1,1", last[by])
