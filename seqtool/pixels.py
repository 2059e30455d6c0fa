"""Images as sequences of numbers: what a step is, a row, a pixel or a block of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.config import Steps

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

COUNTED = 1 << 24  # pixels at once; numpy counts copies of eight times the size


def image_steps(pixels: Array, by: Steps, mean: float, deviation: float) -> Floats:
    """Images as sequences, of mean 0 and variance 1.

    Args:
        pixels: (N, H, W, C) uint8.
        by: What a step is: a row, from the top; a pixel, or a block of 2 x 2, line by line. The
            last blocks of an odd side repeat its edge.
        mean: Of the pixels that training read.
        deviation: Of the same.

    Returns:
        (N, T, D): H steps of W*C numbers, H*W of C, or a quarter of these of 4*C.
    """
    count, height, width, channels = pixels.shape
    if by == "block":
        pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        split = pixels.reshape(count, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        steps = split.transpose(0, 1, 3, 2, 4, 5).reshape(count, -1, 4 * channels)
    else:
        steps = pixels.reshape(count, height * width if by == "pixel" else height, -1)
    return (steps.astype(np.float32) - np.float32(mean)) / np.float32(deviation)


def step_width(shape: Sequence[int], by: Steps) -> int:
    """Numbers of one step of an image of some height, width and channels."""
    _, width, channels = shape
    return channels * {"row": width, "pixel": 1, "block": 4}[by]


def step_count(shape: Sequence[int], by: Steps) -> int:
    """Steps of an image of some height, width and channels."""
    height, width, _ = shape
    blocks = ((height + 1) // 2) * ((width + 1) // 2)
    return {"row": height, "pixel": height * width, "block": blocks}[by]


def step_names(shape: Sequence[int], by: Steps) -> list[str]:
    """What people call the steps of such an image: "row 3", or "pixel 3,5" of row and column."""
    height, width, _ = shape
    if by == "row":
        return [f"row {row}" for row in range(1, height + 1)]
    down, across = (height, width) if by == "pixel" else ((height + 1) // 2, (width + 1) // 2)
    return [f"{by} {row},{col}" for row in range(1, down + 1) for col in range(1, across + 1)]


def pixel_statistics(pixels: Array) -> tuple[float, float]:
    """Mean and standard deviation of all pixels; the latter is never 0."""
    parts = np.array_split(pixels, 1 + pixels.size // COUNTED)
    counted = [np.bincount(part.reshape(-1), minlength=256) for part in parts]
    counts = np.sum(counted, axis=0).astype(np.float64)
    values = np.arange(256.0)
    mean = float(counts @ values / counts.sum())
    variance = float(counts @ (values - mean) ** 2 / counts.sum())
    return mean, max(1.0, variance**0.5)
