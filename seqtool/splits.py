"""Which rows are held out: a share of each class, copies on one side, the same every time.

The choice depends on the texts and the seed alone. So it does not change when rows are reordered,
and hardly when some are added, and it is the same on every machine.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from seqtool.errors import DataError

Keys = npt.NDArray[np.uint64]  # (n,) equal for equal content, and with near certainty only then
Indices = npt.NDArray[np.int64]

# Characters learned from at most: what is made of them (words, n-grams, ids) takes some 20 bytes of
# memory for each.
MOST_CHARACTERS = 1 << 26
_MEASURED = 1000  # rows whose length is taken for that of all

_EMPTY = np.uint64(0)  # the key of a text with nothing in it


class Rows(Protocol):
    """Texts, or pairs of them, on disk or in memory."""

    @property
    def name(self) -> str: ...
    @property
    def texts(self) -> Sequence[str | tuple[str, ...]]: ...
    def __len__(self) -> int: ...
    def keys(self) -> Keys: ...
    def select(self, indices: Sequence[int]) -> Self: ...


RowsT = TypeVar("RowsT", bound=Rows)


def text_keys(texts: Iterable[str | tuple[str, ...]]) -> Keys:
    """A fingerprint for each text that overlooks differences in white space; 0 for an empty one.

    Two different texts get the same one with a chance of 3 in a million among ten million texts.
    """
    parts = (text if isinstance(text, str) else "\0".join(text) for text in texts)
    return np.fromiter(map(_key, parts), np.uint64)


def blob_key(blob: bytes) -> int:
    """The same for any bytes."""
    return int.from_bytes(blake2b(blob, digest_size=8).digest(), "little")


def hold_out(
    keys: Keys,
    labels: Sequence[str | tuple[str, ...]],
    fraction: float,
    seed: int,
    where: str,
) -> tuple[Indices, Indices]:
    """Cut rows into a part to train on and a part held out.

    Args:
        keys: What the rows hold, (n,); rows with equal keys stay together.
        labels: (n,) the fraction is kept within each; with several labels on a row, within the
            rarest of them; with none given, over all.
        fraction: Share of the rows to hold out, above 0 and below 1.
        seed: Another one gives another choice.
        where: The table's name, for messages.

    Returns:
        Indices of the rows to train on and of those held out, each ascending.

    Raises:
        DataError: If one part would be empty.
    """
    first, group = np.unique(keys, return_index=True, return_inverse=True)[1:]
    sizes = np.bincount(group)
    strata = _strata([labels[i] for i in first] if labels else [""] * len(first))
    order = np.lexsort((mixed(keys[first], seed), strata))
    held = np.zeros(len(first), dtype=bool)
    owed = 0.0  # what rounding has kept back in the classes before
    for members in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        wanted = fraction * float(sizes[members].sum()) + owed
        taken = 0
        for member in members[:-1]:  # the last one stays: a class must be met in training
            if taken + sizes[member] / 2 <= wanted:
                held[member] = True
                taken += int(sizes[member])
        owed = wanted - taken
    valid = np.flatnonzero(held[group])
    train = np.flatnonzero(~held[group])
    if not len(valid) or not len(train):
        raise DataError(
            f"{where}: {len(keys)} rows with {len(first)} different texts are too few to hold out "
            f"{fraction:g} of them; name a file with --valid, or add rows"
        )
    return train, valid


def fit_memory(
    data: RowsT, labels: Sequence[str | tuple[str, ...]], seed: int
) -> tuple[RowsT, str]:
    """The rows that a run learns from at most, and a note for people if these are not all.

    Args:
        data: Texts of any number.
        labels: As for ``hold_out``: the same share of each class is drawn, at random.
        seed: Another one draws others.
    """
    some = data.texts[:: max(1, len(data) // _MEASURED)]
    length = sum(len("".join(text)) for text in some) / max(1, len(some))
    share = MOST_CHARACTERS / max(1.0, length * len(data))
    if share >= 1:
        return data, ""
    kept, _ = hold_out(data.keys(), labels, 1 - share, seed, data.name)
    drawn = data.select(kept.tolist())
    return drawn, f"{len(drawn):,} of {len(data):,} rows drawn, as many as one run learns from; "


def _key(text: str) -> int:
    squeezed = " ".join(text.split())
    if not squeezed.strip("\0 "):
        return int(_EMPTY)
    return blob_key(squeezed.encode("utf-8", "surrogateescape"))


def _strata(labels: Sequence[str | tuple[str, ...]]) -> npt.NDArray[np.int64]:
    """For each row the class in which the fraction is kept, as a number."""
    sets = [(label,) if isinstance(label, str) else label for label in labels]
    counts = Counter(label for found in sets for label in found)
    rarest = [min(found, key=lambda label: (counts[label], label), default="") for found in sets]
    numbers = {label: number for number, label in enumerate(sorted(set(rarest)))}
    return np.array([numbers[label] for label in rarest], dtype=np.int64)


def mixed(keys: Keys, seed: int) -> Keys:
    """Keys in an order of their own for each seed: the finaliser of splitmix64.

    Source: Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195, figure 16.
    """
    mixed = keys + np.uint64(0x9E3779B97F4A7C15 * (seed + 1) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
