"""What is wrong with labelled data, told before anything is trained on it, with row numbers.

Some things make training impossible or pointless (``refuse`` raises); others are only told.
"""

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from seqtool.errors import DataError
from seqtool.splits import Keys

Label = str | tuple[str, ...]
Problem = Literal[
    "missing-label",
    "one-class",
    "unseen-label",
    "empty-text",
    "duplicate",
    "conflict",
    "leak",
    "rare-class",
    "misplaced-label",
    "empty-side",
    "copied",
    "length-ratio",
    "wrong-encoding",
    "long",
]
FATAL: tuple[Problem, ...] = ("missing-label", "one-class", "unseen-label")
SHOWN = 5  # rows named for each problem
AT_ONCE = 1 << 20  # keys looked up together
RARE = 5  # a class with fewer rows is hardly learned and cannot be measured


class Placed(Protocol):
    """Rows that messages can name."""

    @property
    def name(self) -> str: ...
    def place(self, index: int) -> str: ...


class Labelled(Placed, Protocol):
    """What a table, a set of images and a treebank have in common."""

    @property
    def labels(self) -> Sequence[Label]: ...
    @property
    def multi_label(self) -> bool: ...
    def __len__(self) -> int: ...
    def keys(self) -> Keys: ...


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one source."""

    problem: Problem
    message: str  # one line: how many rows, which, and what to do
    count: int  # rows
    places: tuple[str, ...]  # of the first few: row numbers, or file names

    @property
    def fatal(self) -> bool:
        """Whether training makes no sense with it."""
        return self.problem in FATAL


@dataclass(frozen=True)
class Lengths:
    """How long texts are, in any unit."""

    shortest: int
    median: float
    mean: float
    most: float  # 95 of 100 are not longer
    longest: int


@dataclass(frozen=True)
class Audit:
    """What is in labelled data, and what is wrong with it."""

    rows: int
    classes: dict[str, int]  # rows of each label, most first
    findings: tuple[Finding, ...]

    @property
    def majority(self) -> float:
        """Share of the rows that the largest class has: the accuracy of always saying it."""
        return max(self.classes.values(), default=0) / self.rows

    def refuse(self) -> None:
        """Stop at what makes training impossible.

        Raises:
            DataError: With the first such finding.
        """
        for finding in self.findings:
            if finding.fatal:
                raise DataError(finding.message)


def audit(data: Labelled) -> Audit:
    """Look for problems within one source."""
    keys = data.keys()
    counts = count_classes(data.labels)
    findings = [
        _missing_labels(data),
        _one_class(data, counts),
        _empty_texts(data, keys),
        *_copies(data, keys),
        _rare_classes(data, counts),
    ]
    return Audit(len(data), counts, tuple(found for found in findings if found))


def compare(train: Labelled, held_out: Labelled) -> tuple[Finding, ...]:
    """Look for problems between two sources: labels of only one, texts of both."""
    found = [_unseen_labels(train, held_out), _leaks(train, held_out)]
    return tuple(finding for finding in found if finding)


def count_classes(labels: Iterable[Label]) -> dict[str, int]:
    """Rows of each label, most first, then by the alphabet; missing ones are left out."""
    counts: Counter[str] = Counter()
    for label, count in Counter(labels).items():
        for one in [label] if isinstance(label, str) else label:
            counts[one] += count
    counts.pop("", None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def measure_lengths(sizes: Iterable[int]) -> Lengths:
    """Sum up the sizes of texts, at least one, for example in words or in characters."""
    found: npt.NDArray[np.int64] = np.fromiter(sizes, np.int64)
    return Lengths(
        shortest=int(found.min()),
        median=float(np.median(found)),
        mean=float(found.mean()),
        most=float(np.percentile(found, 95)),
        longest=int(found.max()),
    )


def unseen_rate(train: Iterable[Iterable[str]], held_out: Iterable[Iterable[str]]) -> float:
    """Share of the tokens of texts held out that never occur in those to train on; 0 if none."""
    known = {token for text in train for token in text}
    tokens = unseen = 0
    for text in held_out:
        for token in text:
            tokens += 1
            unseen += token not in known
    return unseen / max(1, tokens)


def make_finding(problem: Problem, data: Placed, rows: Sequence[int], message: str) -> Finding:
    """A finding about some rows, which the message names."""
    places = tuple(data.place(row) for row in rows[:SHOWN])
    return Finding(problem, f"{data.name}: {message}", len(rows), places)


def _listed(data: Placed, rows: Sequence[int]) -> str:
    """The first few of some rows and how many more there are."""
    listed = ", ".join(data.place(row) for row in rows[:SHOWN])
    return listed + (f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else "")


def _missing_labels(data: Labelled) -> Finding | None:
    rows = [] if data.multi_label else [i for i, label in enumerate(data.labels) if not label]
    if not rows:
        return None
    message = f"no label in {name_rows(data, rows)}; fill the label in or delete the row"
    return make_finding("missing-label", data, rows, message)


def _one_class(data: Labelled, counts: dict[str, int]) -> Finding | None:
    if len(counts) > 1 or not data.labels:
        return None
    if data.multi_label and counts and next(iter(counts.values())) < len(data):
        return None  # with the label or without it: that is two
    label = next(iter(counts), "")
    what = f'every row has the label "{label}"' if label else "no row has a label"
    return Finding(
        "one-class",
        f"{data.name}: {what}, but at least two are needed to learn to tell them apart; "
        "see whether the label column is the right one",
        len(data),
        (),
    )


def _empty_texts(data: Labelled, keys: Keys) -> Finding | None:
    rows = [int(row) for row in np.flatnonzero(keys == 0)]
    if not rows:
        return None
    return make_finding("empty-text", data, rows, f"nothing to read in {name_rows(data, rows)}")


def find_copies(keys: Keys, labels: Sequence[Label]) -> tuple[list[int], list[int]]:
    """The rows that repeat an earlier one, and all rows of a text with different labels.

    Args:
        keys: Of the rows' texts, (n,).
        labels: Of the rows, (n,); none if nothing is known of them.
    """
    rows = _repeated(keys)
    order = rows[np.argsort(keys[rows], kind="stable")]
    same = np.zeros(len(order), dtype=bool)  # as the one before it in this order
    np.equal(keys[order[1:]], keys[order[:-1]], out=same[1:])
    again = np.flatnonzero(same)
    others = []
    if labels:
        others = [at for at in again.tolist() if labels[order[at]] != labels[order[at - 1]]]
    group = np.cumsum(~same)
    conflicts = order[np.isin(group, group[others])]
    return np.sort(order[again]).tolist(), np.sort(conflicts).tolist()


def _repeated(keys: Keys) -> npt.NDArray[np.int64]:
    """The rows whose key another one has too, but for 0, in little memory if these are few."""
    ordered = np.sort(keys)
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    several = several[several != 0]
    if not len(several):
        return np.zeros(0, np.int64)
    found = [
        first + np.flatnonzero(np.isin(keys[first : first + AT_ONCE], several))
        for first in range(0, len(keys), AT_ONCE)
    ]
    return np.concatenate(found)


def _copies(data: Labelled, keys: Keys) -> list[Finding | None]:
    """Texts that come back, with the same label and with another one."""
    copies, conflicts = find_copies(keys, data.labels)
    found: list[Finding | None] = []
    if conflicts:
        labels = ", ".join(", ".join(_parts(data.labels[row])) for row in conflicts[:SHOWN])
        message = (
            f"the same text with different labels in {name_rows(data, conflicts)} "
            f"(labels {labels}); decide which is right"
        )
        found.append(make_finding("conflict", data, conflicts, message))
    if copies:
        message = f"the text of an earlier row in {name_rows(data, copies)}"
        found.append(make_finding("duplicate", data, copies, message))
    return found


def _rare_classes(data: Labelled, counts: dict[str, int]) -> Finding | None:
    rare = [label for label, count in counts.items() if count < RARE]
    if not rare or len(counts) < 2:
        return None
    wanted = set(rare)
    rows = [i for i, label in enumerate(data.labels) if wanted.intersection(_parts(label))]
    names = ", ".join(rare[:SHOWN]) + (" ..." if len(rare) > SHOWN else "")
    what = "class has" if len(rare) == 1 else "classes have"
    message = f"{len(rare)} {what} fewer than {RARE} rows ({names}): {_listed(data, rows)}"
    return make_finding("rare-class", data, rows, message)


def _unseen_labels(train: Labelled, held_out: Labelled) -> Finding | None:
    known = set(count_classes(train.labels))
    rows: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(held_out.labels):
        for one in _parts(label):
            if one and one not in known:
                rows[one].append(row)
    if not rows:
        return None
    label = min(rows, key=lambda label: rows[label][0])
    folded = {other.casefold().strip(): other for other in sorted(known)}
    close = difflib.get_close_matches(label.casefold().strip(), folded, n=1)
    listed = ", ".join(sorted(known)[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
    advice = f'did you mean "{folded[close[0]]}"?' if close else "add examples of it, or remove it"
    others = f", and so do {len(rows) - 1} other labels" if len(rows) > 1 else ""
    message = (
        f'label "{label}" in {name_rows(held_out, rows[label])} never occurs in {train.name}, '
        f"which has {listed}{others}; {advice}"
    )
    return make_finding("unseen-label", held_out, rows[label], message)


def find_leaks(train: Keys, held_out: Keys) -> list[int]:
    """The rows held out whose text is also trained on, by the keys of both."""
    both = np.isin(held_out, train) & (held_out != 0)
    return [int(row) for row in np.flatnonzero(both)]


def _leaks(train: Labelled, held_out: Labelled) -> Finding | None:
    rows = find_leaks(train.keys(), held_out.keys())
    if not rows:
        return None
    message = f"a text that also stands in {train.name} in {name_rows(held_out, rows)}"
    return make_finding("leak", held_out, rows, message)


def name_rows(data: Placed, rows: Sequence[int], noun: str = "row", at: str = "") -> str:
    """How many rows, and the first few of them."""
    count = f"1 {noun}" if len(rows) == 1 else f"{len(rows):,} {noun}s"
    return f"{count} ({at}{_listed(data, rows)})"


def _parts(label: Label) -> tuple[str, ...]:
    return (label,) if isinstance(label, str) else label
