"""Names of classes: how they are told, found and, where a text begins with one, numbered."""

import difflib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqtool.errors import ConfigError

SHOWN_CLASSES = 12  # of many


def listed(names: Sequence[str]) -> str:
    """Names, of many the first ones."""
    more = len(names) - SHOWN_CLASSES
    return ", ".join(names[:SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")


def label_ids(vocab_size: int, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """The ids of the labels, (C,), behind those of a tokenizer: no text can hold one."""
    return np.arange(len(classes)) + vocab_size


def find_label(label: str, classes: Sequence[str], where: str) -> int:
    """The number of a label.

    Raises:
        ConfigError: If there is none of this name; it names the nearest.
    """
    if label in classes:
        return list(classes).index(label)
    folded = {name.casefold(): name for name in classes}
    near = difflib.get_close_matches(label.casefold(), folded, 1)
    advice = f"did you mean {folded[near[0]]!r}? " if near else ""
    raise ConfigError(f"--label {label!r}: {advice}{where} writes for {listed(classes)}")
