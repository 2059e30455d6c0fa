"""Draw shapes/: small grey pictures of four shapes, as if by an unsteady hand; needs Pillow.

    python sample_data/make_shapes.py

Each picture is 16 x 16 pixels: a circle, cross, square or triangle of any size, turned, shifted,
drawn with a pen that wavers and sometimes lifts, on paper that is not quite clean.
"""

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw

COUNT = 75  # of each shape
SIDE = 16
ZOOM = 8  # drawn larger, then scaled down, for soft edges
SEED = 4

Point = tuple[float, float]


def corners(count: int, turn: float) -> list[Point]:
    """Points on the unit circle, closed."""
    angles = [turn + 2 * math.pi * corner / count for corner in range(count + 1)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def strokes(shape: str, turn: float) -> list[list[Point]]:
    """The lines of a shape about the origin."""
    if shape == "circle":
        return [corners(24, turn)]
    if shape == "cross":
        ends = corners(4, turn)
        return [[ends[0], ends[2]], [ends[1], ends[3]]]
    return [corners(4 if shape == "square" else 3, turn)]


def walk(line: list[Point]) -> Iterator[Point]:
    """Points along a line, close to each other."""
    for (x0, y0), (x1, y1) in pairwise(line):
        steps = max(1, round(math.dist((x0, y0), (x1, y1)) * 12))
        for step in range(steps + 1):
            yield x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps


def draw(shape: str, rng: random.Random) -> Image.Image:
    """One picture, dark on light."""
    radius = rng.uniform(3.6, 6.4)
    # A square on its tip is still a square, but a little turn is the rule.
    turn = rng.gauss(0, 0.22) + {"square": math.pi / 4, "triangle": -math.pi / 2}.get(shape, 0)
    turn += rng.choice((0, math.pi / 4)) if shape == "cross" else 0
    middle = (SIDE / 2 + rng.uniform(-1.6, 1.6), SIDE / 2 + rng.uniform(-1.6, 1.6))
    stretch = rng.uniform(0.8, 1.2)
    canvas = Image.new("L", (SIDE * ZOOM, SIDE * ZOOM), rng.randint(200, 255))
    pen = ImageDraw.Draw(canvas)
    width = rng.uniform(0.5, 1.0) * ZOOM
    for line in strokes(shape, turn):
        drift, lifted = [0.0, 0.0], 0
        for x, y in walk(line):
            drift = [0.9 * side + rng.gauss(0, 0.16) for side in drift]
            lifted = lifted - 1 if lifted else rng.choice((0,) * 60 + (6,))
            if not lifted:
                a = (middle[0] + radius * stretch * x + drift[0]) * ZOOM
                b = (middle[1] + radius / stretch * y + drift[1]) * ZOOM
                pen.ellipse((a - width, b - width, a + width, b + width), fill=rng.randint(0, 90))
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    # Four bits of grey are plenty, and pack well.
    pixels = [
        min(255, max(0, value + round(rng.gauss(0, 14)))) // 16 * 17 for value in small.tobytes()
    ]
    return Image.frombytes("L", small.size, bytes(pixels))


def main() -> None:
    """Draw them all."""
    rng = random.Random(SEED)
    for shape in ("circle", "cross", "square", "triangle"):
        folder = Path(__file__).parent / "shapes" / shape
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, COUNT + 1):
            draw(shape, rng).save(folder / f"{number:02}.png", optimize=True)


if __name__ == "__main__":
    main()
