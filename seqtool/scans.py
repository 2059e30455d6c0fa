"""Pictures of lines as sequences: every column of pixels, from the left, is a time step.

All are brought to one height, their widths in proportion, so a longer line is a longer sequence.
What they say is a text, so they are sources of a translator. Torch is not needed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from seqtool.config import from_dict
from seqtool.errors import CheckpointError, DataError
from seqtool.images import OR_SKIP, fit, read_image
from seqtool.lexicon import Texts
from seqtool.pixels import pixel_statistics

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.integer[Any]]

TALLEST = 32  # pixels: print is legible, and a line has no more steps than need be


@dataclass(frozen=True)
class Scanner:
    """How pictures become sequences of D = height * channels numbers a step."""

    height: int
    channels: int  # 1 or 3
    mean: float  # of the pixels of training
    deviation: float

    @classmethod
    def of(cls, source: dict[str, Any], where: str) -> Self | None:
        """That of a model, from what its card says of its source; None if it reads texts.

        Raises:
            ConfigError, CheckpointError: If it is damaged.
        """
        saved = source.get("scanner")
        if saved is None:
            return None
        if isinstance(saved, dict) and saved.keys() >= {part.name for part in fields(cls)}:
            made = from_dict(cls, saved, f"{where}: scanner")
            if made.height > 0 and made.channels in (1, 3) and made.deviation > 0:
                return made
        raise CheckpointError(
            f"{where}: scanner is {saved!r}, as training never leaves it; copy the whole model "
            "directory again"
        )

    @property
    def width(self) -> int:
        """D, the numbers of a step."""
        return self.height * self.channels

    def as_dict(self) -> dict[str, Any]:
        """What ``of`` reads."""
        return asdict(self)

    def columns(self, path: Path) -> Pixels:
        """The columns of a picture, (W, D).

        Raises:
            DataError: If it is none.
        """
        pixels = read_image(path)
        width = max(1, round(pixels.shape[1] * self.height / pixels.shape[0]))
        fitted = fit(pixels, (self.height, width), self.channels)
        return fitted.swapaxes(0, 1).reshape(width, -1)

    def frames(self, columns: Pixels) -> Floats:
        """Columns (..., D) as a network reads them: of mean 0 and variance 1 in training."""
        return (columns.astype(np.float32) - np.float32(self.mean)) / np.float32(self.deviation)


class Scans(NamedTuple):
    """Pictures that have been read.

    Attributes:
        columns: Of all pictures, (1 + P, D); row 0 is none.
        texts: Of each picture its columns, as rows of ``columns``.
    """

    columns: Pixels
    texts: Texts

    def frames(self, ids: Ids, scanner: Scanner) -> Floats:
        """Rows of columns (..., T) as a network reads them, (..., T, D); 0 for none."""
        found = scanner.frames(self.columns[ids])
        found[ids == 0] = 0
        return found


def beside(table: str, names: Iterable[str]) -> list[Path]:
    """Where images are that a table, or standard input, names: seen from the table's folder."""
    folder = Path(table).parent
    return [folder / name.strip() for name in names]


def survey(
    paths: Sequence[Path], where: Callable[[int], str], *, skip_bad: bool
) -> tuple[list[int], Counter[int], bool]:
    """Look at pictures: which can be read, how high they are, whether one has colours.

    Args:
        paths: The pictures.
        where: The place of the n-th in messages.
        skip_bad: Leave out those that cannot be read.

    Raises:
        DataError: If one cannot be read, or with ``skip_bad`` none can.
    """
    good, heights, coloured = list[int](), Counter[int](), False
    fault = ""
    for row, path in enumerate(paths):
        try:
            shape = read_image(path).shape
        except DataError as err:
            fault = fault or f"{where(row)}: {err}"
            if not skip_bad:
                raise DataError(f"{fault}{OR_SKIP}") from err
            continue
        good.append(row)
        heights[shape[0]] += 1
        coloured |= shape[2] == 3
    if not good:
        raise DataError(fault)
    return good, heights, coloured


def choose_height(heights: Counter[int]) -> int:
    """The commonest height, at most TALLEST; of two as common the larger one."""
    return min(TALLEST, max(heights, key=lambda height: (heights[height], height)))


def scan(paths: Sequence[Path], height: int, channels: int) -> Scans:
    """Read pictures, all of which are some."""
    scanner = Scanner(height, channels, 0.0, 1.0)
    found = [scanner.columns(path) for path in paths]
    offsets = np.concatenate([[0], np.cumsum([len(columns) for columns in found])])
    columns = np.concatenate([np.zeros((1, scanner.width), np.uint8), *found])
    return Scans(columns, Texts(np.arange(1, len(columns), dtype=np.int32), offsets))


def measure(scans: Scans, height: int, channels: int) -> Scanner:
    """How pictures of training are read, their mean and deviation with it."""
    return Scanner(height, channels, *pixel_statistics(scans.columns[1:]))
