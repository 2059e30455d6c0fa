"""Labelled texts or images, checked and split into what is learned from and what is held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.audit import Finding, audit, compare
from seqtool.checkpoint import Card
from seqtool.config import LabelConfig
from seqtool.errors import ConfigError, DataError
from seqtool.images import Images, is_images, read_images
from seqtool.labels import SHOWN_CLASSES, listed
from seqtool.splits import fit_memory, hold_out
from seqtool.tables import Table, read_table

Array = npt.NDArray[Any]
Data = Table | Images

BETWEEN = " \u2016 "  # the texts of a pair, read as one


@dataclass(frozen=True)
class Split:
    """Labelled data, to train on and held out."""

    train: Data
    held_out: Data | None
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]  # what is odd about them, for people
    note: str  # how they were split, for people

    def labels(self, data: Data) -> npt.NDArray[np.int64]:
        """As ``numbered``."""
        return numbered(data, self.classes)


def numbered(data: Data, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """The labels of some data as numbers.

    Returns:
        Those of the classes, (n,); where a row may have several, 1 for each that it has, (n, C).

    Raises:
        DataError: For a label that is not among the classes, or where one is needed for none.
    """
    number = {label: i for i, label in enumerate(classes)}
    sets = [(label,) if isinstance(label, str) else label for label in data.labels]
    for row, labels in enumerate(sets):
        for label in labels:
            if label not in number:
                shown = f"label {label!r}" if label else "no label"
                raise DataError(
                    f"{data.name}:{data.place(row)}: {shown}, but the model knows "
                    f"{listed(classes)}; correct it or leave the row out"
                )
    if not data.multi_label:
        return np.array([number[label] for (label,) in sets], np.int64)
    found = np.zeros((len(sets), len(classes)), np.int64)
    for row, labels in enumerate(sets):
        found[row, [number[label] for label in labels]] = 1
    return found


def class_counts(labels: Array, classes: int) -> Array:
    """Rows that have each class, (C,), from labels as numbers."""
    if labels.ndim == 2:
        return np.asarray(labels.sum(axis=0))
    return np.bincount(labels, minlength=classes)


def strings(table: Table) -> Sequence[str]:
    """The texts of a table; those of a pair are joined."""
    if table.texts and not isinstance(table.texts[0], str):
        return [BETWEEN.join(texts) for texts in table.texts]
    return table.texts  # type: ignore[return-value]


def class_weights(wanted: str, classes: Sequence[str], counts: Array) -> Array:
    """How much a text of each class counts, (C,): "" all alike, "balanced", or "spam=5,ham=1".

    Raises:
        ConfigError: If a class is unknown or a weight is no positive number.
    """
    weights = np.ones(len(classes))
    if wanted == "balanced":
        return np.asarray(counts.sum() / (len(classes) * np.maximum(counts, 1)))
    for part in filter(None, wanted.split(",")):
        name, _, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in classes or not 0 < value < float("inf"):
            raise ConfigError(
                f"--class-weights must be balanced or NAME=NUMBER,... with names among "
                f"{listed(classes)}, got {part!r}"
            )
        weights[classes.index(name)] = value
    return weights


def read_data(source: str, config: LabelConfig, like: Data | None = None) -> Data:
    """Read labelled texts or images.

    Args:
        source: What the user named.
        config: Its columns, encoding and image size, as far as they are given.
        like: Other data, whose columns, or size and colours, these shall have too.

    Raises:
        DataError: If they cannot be read, or have no labels.
    """
    if is_images(source):
        if config.multi_label:
            raise ConfigError("--multi-label is for texts; an image has the label of its folder")
        size, colour = image_size(config.image_size), None
        if isinstance(like, Images):
            size, colour = like.pixels.shape[1:3], like.pixels.shape[3] == 3
        images = read_images(source, size=size, colour=colour, skip_bad=config.skip_bad)
        if not len(images.labels):
            raise DataError(f"{source}: no labels; needed is one folder of images for each label")
        return images
    columns = tuple(filter(None, config.text_column.split(",")))
    label = config.label_column or None
    if isinstance(like, Table):
        columns, label = columns or like.columns.texts, label or like.columns.label
    return read_table(
        source,
        text_columns=columns,
        label_column=label,
        multi_label=config.multi_label,
        encoding=config.encoding,
        binary_ok=config.tokenizer == "byte",
    )


def read_like(source: str, card: Card, encoding: str) -> Data:
    """Read labelled data for a classifier, in the columns or the size that training used.

    Raises:
        ConfigError: If they are images and the model reads texts.
        DataError: If they cannot be read, or have no labels.
    """
    if is_images(source):
        height, width, channels = card.source.get("image_shape", (None, None, 1))
        if height is None:
            raise ConfigError(f"{source}: holds images, but the model reads texts")
        return read_images(source, size=(height, width), colour=channels == 3)

    def read(columns: tuple[str, ...], label: str | None) -> Data:
        return read_table(
            source,
            text_columns=columns,
            label_column=label,
            multi_label=card.data.multi_label,
            encoding=encoding,
            binary_ok=card.data.tokenizer == "byte",
        )

    try:
        return read(tuple(card.source.get("text_columns", ())), card.source.get("label_column"))
    except DataError:
        # Another file may name its columns otherwise; if guessing fails too, that is the error.
        return read((), None)


def image_size(wanted: str) -> tuple[int, int] | None:
    """Height and width in "28x28"; none in "".

    Raises:
        ConfigError: If it is something else.
    """
    height, _, width = wanted.partition("x")
    if not wanted:
        return None
    if not (height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--image-size must be HEIGHTxWIDTH such as 28x28, got {wanted!r}")
    return int(height), int(width)


def read_split(source: str, valid: str | None, config: LabelConfig, seed: int) -> Split:
    """Read the data, check them, and hold some out.

    Raises:
        DataError: If they cannot be read, labels are missing, or there is but one class.
    """
    data = read_data(source, config)
    found = audit(data)
    found.refuse()
    classes, data, drawn = data.classes, *_fit(data, seed)
    if valid is not None:
        held_out, _ = _fit(read_data(valid, config, data), seed)
        checked = audit(held_out)
        findings = (*found.findings, *checked.findings, *compare(data, held_out))
        for finding in findings:
            # One class is enough to be measured on.
            if finding.fatal and finding.problem != "one-class":
                raise DataError(finding.message)
        held_out = held_out.select(shuffled(len(held_out), seed).tolist())
        return Split(data, held_out, classes, findings, f"{drawn}{held_out.name} held out")
    if config.valid_fraction == 0:
        return Split(data, None, classes, found.findings, f"{drawn}nothing held out")
    kept, held = hold_out(data.keys(), data.labels, config.valid_fraction, seed, data.name)
    note = f"{drawn}{config.valid_fraction:.0%} of each class held out"
    # In random order: an evaluation may look at the first ones only.
    apart = data.select(held[shuffled(len(held), seed)].tolist())
    return Split(data.select(kept.tolist()), apart, classes, found.findings, note)


def _fit(data: Data, seed: int) -> tuple[Data, str]:
    """As ``fit_memory``; images are in memory anyway."""
    return (data, "") if isinstance(data, Images) else fit_memory(data, data.labels, seed)


def shares(counts: Mapping[str, int], total: int) -> str:
    """The classes with their shares of a total, the largest first."""
    shown = [f"{label} {n / total:.1%}" for label, n in [*counts.items()][:SHOWN_CLASSES]]
    more = f" and {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
    return f"{len(counts)}: {', '.join(shown)}{more}"


def shuffled(count: int, seed: int) -> Array:
    """The numbers below a count in random order."""
    return np.random.default_rng(seed).permutation(count)
