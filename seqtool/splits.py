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
    order = np.argsort(keys, kind="stable")
    starts = _starts(keys[order])
    first, sizes = order[starts], np.diff(starts, append=len(keys))
    strata = _strata([labels[i] for i in first] if labels else [], len(first))
    held = np.zeros(len(first), dtype=bool)
    owed = 0.0  # what rounding has kept back in the classes before
    for members in _classes(np.lexsort((mixed(keys[first], seed), strata)), strata):
        wanted = fraction * float(sizes[members].sum()) + owed
        # The last one stays: a class must be met in training.
        owed = wanted - _take(members[:-1], sizes, wanted, held)
    apart = np.repeat(held, sizes)
    valid, train = np.sort(order[apart]), np.sort(order[~apart])
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
    drawn = data.select(_drawn(data.keys(), labels, share, seed).tolist())
    return drawn, f"{len(drawn):,} of {len(data):,} rows drawn, as many as one run learns from; "


def _key(text: str) -> int:
    squeezed = " ".join(text.split())
    if not squeezed.strip("\0 "):
        return int(_EMPTY)
    return blob_key(squeezed.encode("utf-8", "surrogateescape"))


def _drawn(keys: Keys, labels: Sequence[str | tuple[str, ...]], share: float, seed: int) -> Indices:
    """The rows of a share of each class, ascending: those that come last; one at least.

    Rows of one key are drawn together. There may be hundreds of millions, so it takes few arrays.
    """
    kept = np.zeros(len(keys), dtype=bool)
    strata = _strata(labels, len(keys))
    for members in _classes(np.argsort(strata, kind="stable"), strata):
        own = mixed(keys[members], seed)
        left = len(own) - max(1, round(share * len(own)))
        kept[members] = own >= np.partition(own, left)[left]
    return np.flatnonzero(kept)


def _starts(keys: Keys) -> Indices:
    """Where runs of equal keys begin."""
    starts = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=starts[1:])
    return np.flatnonzero(starts)


def _classes(rows: Indices, strata: npt.NDArray[np.int32]) -> list[Indices]:
    """Rows in the order of their classes, cut between these."""
    return np.split(rows, np.cumsum(np.bincount(strata))[:-1])


def _take(members: Indices, sizes: Indices, wanted: float, held: npt.NDArray[np.bool_]) -> int:
    """Hold out one after the other that fits with half of its rows; says how many rows those are.

    Args:
        members: Groups of rows.
        sizes: Rows of each group.
        wanted: Rows to hold out.
        held: Whether each group is held out, set here.
    """
    own = sizes[members]
    before = np.cumsum(own) - own
    misfits = np.flatnonzero(before + own / 2 > wanted)
    fitting = int(misfits[0]) if len(misfits) else len(own)
    held[members[:fitting]] = True
    taken = int(own[:fitting].sum())
    for member in members[fitting:]:  # smaller ones may still fit
        if taken + 0.5 > wanted:
            break
        if taken + sizes[member] / 2 <= wanted:
            held[member] = True
            taken += int(sizes[member])
    return taken


def _strata(labels: Sequence[str | tuple[str, ...]], rows: int) -> npt.NDArray[np.int32]:
    """For each row the class in which the fraction is kept, as a number."""
    if not labels:
        return np.zeros(rows, np.int32)
    known: dict[str | tuple[str, ...], int] = {}  # few beside the rows
    found = np.fromiter((known.setdefault(label, len(known)) for label in labels), np.int32, rows)
    sets = [(label,) if isinstance(label, str) else label for label in known]
    counts: Counter[str] = Counter()
    for some, count in zip(sets, np.bincount(found).tolist(), strict=True):
        counts.update(dict.fromkeys(some, count))
    rarest = [min(some, key=lambda label: (counts[label], label), default="") for some in sets]
    numbers = {label: number for number, label in enumerate(sorted(set(rarest)))}
    return np.array([numbers[label] for label in rarest], np.int32)[found]


def mixed(keys: Keys, seed: int) -> Keys:
    """Keys in an order of their own for each seed: the finaliser of splitmix64.

    Source: Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195, figure 16.
    """
    found = keys + np.uint64(0x9E3779B97F4A7C15 * (seed + 1) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        found ^= found >> np.uint64(shift)
        found *= np.uint64(factor)
    return found
