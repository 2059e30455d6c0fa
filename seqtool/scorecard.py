"""What ``evaluate`` does alike for classifiers and taggers: request, counts, scores of classes."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.checkpoint import Card
from seqtool.console import Console
from seqtool.errors import ConfigError, DataError
from seqtool.output import cell

Array = npt.NDArray[Any]

RESAMPLES = 1000  # of the bootstrap
LEVEL = 0.95  # of its interval


@dataclass(frozen=True)
class GradeRequest:
    """What the user asked ``evaluate`` for."""

    model: Path
    data: str
    held_out: bool
    baselines: bool
    encoding: str | None
    compare: Path | None  # another model, to be scored on the same examples
    json: bool
    token_column: str | None = None  # of tagged sentences; None is that of training
    label_column: str | None = None


def confusion_matrix(truth: Array, guess: Array, classes: int) -> Array:
    """How often each class, down, was taken for each, across: (C, C)."""
    return np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes)


def precision_recall_f1(confusion: Array) -> tuple[Array, Array, Array]:
    """Of every class, each (C,); 0 where nothing was guessed or there is nothing to find."""
    right = confusion.diagonal().astype(float)
    guessed, there = confusion.sum(axis=0), confusion.sum(axis=1)
    precision, recall = right / np.maximum(guessed, 1), right / np.maximum(there, 1)
    return precision, recall, 2 * right / np.maximum(guessed + there, 1)


def macro_f1(confusion: Array) -> float:
    """Mean F1 of the classes that occur or were guessed."""
    f1 = precision_recall_f1(confusion)[2]
    present = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    return float(f1[present].mean())


def per_class(confusion: Array, classes: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and count of every class by its name."""
    columns = [*precision_recall_f1(confusion), confusion.sum(axis=1)]
    names = ("precision", "recall", "f1", "count")
    return {
        label: {name: column[i].item() for name, column in zip(names, columns, strict=True)}
        for i, label in enumerate(classes)
    }


def is_at_hand(card: Card) -> bool:
    """Whether the data of training are where its card says, as files.

    A model from elsewhere may name anything: nothing is fetched, and no pipe is waited for.
    """
    name, valid = card.source["name"], card.source.get("valid")
    return all(os.path.isfile(path) or os.path.isdir(path) for path in (name, valid or name))


def held_part(request: GradeRequest, card: Card, read_split: Callable[..., Any]) -> Any:
    """The part of the training data that was held out, as a task's own function splits them."""
    if card.source["valid"]:
        raise ConfigError(
            f"--held-out: {request.model} held out {card.source['valid']}; score that instead"
        )
    split = read_split(request.data, None, card.data, card.train.seed)
    if split.train.sha256 != card.source["sha256"]:
        raise DataError(
            f"{request.data}: not the data that {request.model} was trained on, so no part of it "
            "was held out; leave --held-out out to score all of it"
        )
    if split.held_out is None:
        raise ConfigError(f"--held-out: {request.model} held nothing out")
    return split.held_out


def class_lines(title: str, table: dict[str, dict[str, float]]) -> list[str]:
    """Precision, recall, F1, count and, if there are any, thresholds as lines of a table."""
    width = first_width(table)
    more = ["threshold"] if all("threshold" in row for row in table.values()) else []
    columns = ["precision", "recall", "F1", "count", *more]
    lines = [f"{title:<{width}}" + "".join(f"{column:>10}" for column in columns)]
    for label, row in zip(map(cell, table), table.values(), strict=True):
        cells = [f"{row[key]:.4f}" for key in ("precision", "recall", "f1")]
        cells += [str(row["count"]), *(f"{row[key]:.4f}" for key in more)]
        lines.append(f"{label:<{width}}" + "".join(f"{number:>10}" for number in cells))
    return lines


def first_width(labels: Iterable[str]) -> int:
    """Characters of a column that begins with labels."""
    return max(20, *(len(cell(label)) + 2 for label in labels))


def warn_of_better(
    report: dict[str, Any], shown: Mapping[str, str], unit: str, console: Console
) -> None:
    """Say when a cheap method is right more often than the model.

    Args:
        report: With ``scores`` and ``baselines``.
        shown: What people call the methods.
        unit: What more is needed of to train on.
        console: Where it is said.
    """
    mine = report["scores"]
    for name, row in report["baselines"].items():
        if row["accuracy"] > mine["accuracy_high"]:
            console.warn(
                f"{shown[name]} is right more often ({row['accuracy']:.4f} against "
                f"{mine['accuracy']:.4f}); train longer, or on more {unit}"
            )
