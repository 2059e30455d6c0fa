"""A small run of each task: what the tests of trust hold for every one of them.

A new task joins them with a line in EXAMPLES.
"""

import csv
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import TINY, make_text

SAMPLES = Path(__file__).parent.parent / "sample_data"
GOOD = ["lovely", "fine", "great", "warm", "bright"]
BAD = ["awful", "dull", "grim", "cold", "stale"]


def make_rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences with a word that tells, and a label."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        label = rng.choice(["good", "bad"])
        words = [rng.choice(["the", "a", "soup", "room", "was", "and", "tea"]) for _ in range(7)]
        words[rng.randrange(7)] = rng.choice(GOOD if label == "good" else BAD)
        rows.append((" ".join(words) + ".", label))
    return rows


def write_csv(
    path: Path, rows: Iterable[Sequence[str]], names: Sequence[str] = ("text", "label")
) -> Path:
    """A table as a file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def write_text(path: Path) -> Path:
    """A text as a file."""
    path.write_text(make_text(180, seed=7), encoding="utf-8")
    return path


def copied(name: str) -> Callable[[Path], Path]:
    """Puts a file of sample_data there."""
    return lambda path: Path(shutil.copy(SAMPLES / name, path))


@dataclass(frozen=True)
class Example:
    """Data and options with which a task learns something within a second."""

    name: str  # of the file
    write: Callable[[Path], Path]  # puts the data there
    options: tuple[object, ...]  # of train

    def train(self, data: Path, out: Path, *more: object) -> list[str]:
        """The arguments of a run of ``seqtool``."""
        return [str(word) for word in ("train", data, "-o", out, *self.options, *more)]


LABELS = ("--hidden-size", 8, "--embed-size", 8, "--part-buckets", 64, "--batch-size", 8)
RHYTHM = ("--report-every", 2)  # at each of which the state may be saved
EXAMPLES = {
    "generate": Example("text.txt", write_text, (*TINY, *RHYTHM, "--steps", 60)),
    "classify": Example(
        "reviews.csv",
        lambda path: write_csv(path, make_rows(160, 1)),
        (*LABELS, *RHYTHM, "--steps", 60, "--members", 2),
    ),
    "tag": Example("tagged.conllu", copied("tagged.conllu"), (*LABELS, *RHYTHM, "--steps", 60)),
    "translate": Example(
        "pairs.tsv",
        copied("pairs.tsv"),
        ("--hidden-size", 8, "--embed-size", 8, "--batch-size", 64, *RHYTHM, "--steps", 16),
    ),
}
