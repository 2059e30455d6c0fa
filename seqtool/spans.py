"""Labels that mark spans: their schemes, what may follow what, and the spans themselves.

A label such as ``B-NP`` has a mark (here B, where a span begins) and a type. Schemes: IOB2 (every
span begins with B), IOB1 (only one right behind another of its type does), and IOBES, also spelt
BILOU, where E or L ends a span and S or U is one of a single token.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Scheme = Literal["", "IOB1", "IOB2", "IOBES"]  # "": the labels mark no spans
Allowed = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]

OUTSIDE = "O"
_MARKS = {"B": "B", "I": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
_ENDS = {"E", "S"}  # marks after which a span is over


class Span(NamedTuple):
    """Neighbouring tokens that make one thing."""

    kind: str
    start: int  # its first token
    end: int  # behind its last one


class Marked(NamedTuple):
    """A label taken apart."""

    mark: str  # B, I, E, S or O
    kind: str  # "" for O


def take_apart(label: str) -> Marked:
    """The mark and the type of a label; one that marks no span stands outside all of them."""
    mark, dash, kind = label.partition("-")
    if mark in _MARKS and (dash or label == mark):
        return Marked(_MARKS[mark], kind)
    return Marked(OUTSIDE, "")


def find_scheme(sequences: Iterable[Sequence[str]]) -> Scheme:
    """How the labels of some sentences mark spans, or that they do not.

    They do if each is O or has a mark and a type, and O, I or E is among them: labels such as B-1
    and S-2 alone may mean anything.
    """
    marks: set[str] = set()
    bare = 0  # spans that begin with I
    begun = 0  # and with B, where I would have been possible
    known: dict[str, Marked] = {}
    for labels in sequences:
        before = Marked(OUTSIDE, "")
        for label in labels:
            if label not in known:
                head, dash, kind = label.partition("-")
                if label != OUTSIDE and not (head in _MARKS and dash and kind):
                    return ""
                known[label] = take_apart(label)
            now = known[label]
            marks.add(now.mark)
            if before.mark == OUTSIDE:
                bare += now.mark == "I"
                begun += now.mark == "B"
            before = now
    if marks == {OUTSIDE} or not marks & {OUTSIDE, "I", "E"}:
        return ""
    if marks & _ENDS:
        return "IOBES"
    return "IOB1" if bare > begun else "IOB2"


def begins(before: Marked, now: Marked) -> bool:
    """Whether a span begins at a token, given the label before it.

    As the CoNLL-2000 shared task's ``conlleval`` sees it: whatever a span should begin with, a
    change of type or a token behind one outside begins one too.
    """
    if now.mark == OUTSIDE:
        return False
    return now.mark in ("B", "S") or before.mark in (OUTSIDE, *_ENDS) or before.kind != now.kind


def find_spans(labels: Sequence[str]) -> list[Span]:
    """The spans of one sentence, in order, as ``conlleval`` counts them."""
    found: list[Span] = []
    before, start = Marked(OUTSIDE, ""), 0
    for place, now in enumerate([*map(take_apart, labels), Marked(OUTSIDE, "")]):
        if before.mark != OUTSIDE and (now.mark == OUTSIDE or begins(before, now)):
            found.append(Span(before.kind, start, place))
        if begins(before, now):
            start = place
        before = now
    return found


def allowed(labels: Sequence[str], scheme: Scheme) -> tuple[Allowed, Allowed, Allowed]:
    """Which labels a scheme lets stand where.

    Args:
        labels: C labels.
        scheme: With "" everything may follow everything.

    Returns:
        Whether label j may follow label i, (C, C); begin a sentence, (C,); and end one, (C,).
    """
    parts = [take_apart(label) for label in labels]
    outside = Marked(OUTSIDE, "")
    after = [[_follows(i, j, scheme) for j in parts] for i in parts]
    first = [_follows(outside, j, scheme) for j in parts]
    last = [_follows(i, outside, scheme) for i in parts]
    return np.array(after, bool), np.array(first, bool), np.array(last, bool)


def misplaced(labels: Sequence[str], scheme: Scheme) -> list[int]:
    """The tokens of a sentence whose label a scheme does not let follow the one before."""
    before, found = Marked(OUTSIDE, ""), []
    for place, now in enumerate(map(take_apart, labels)):
        if not _follows(before, now, scheme):
            found.append(place)
        before = now
    return found


class Found(NamedTuple):
    """How many spans there are, were guessed, and were guessed right: type, begin and end."""

    there: int
    guessed: int
    right: int

    @property
    def precision(self) -> float:
        """Share of the guessed spans that are right."""
        return self.right / max(1, self.guessed)

    @property
    def recall(self) -> float:
        """Share of the spans that were guessed."""
        return self.right / max(1, self.there)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.right / max(1, self.there + self.guessed)


class SpanCounts:
    """Counts the spans of sentences, type by type."""

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names of the C labels."""
        self.names = names
        self.there: Counter[str] = Counter()
        self.guessed: Counter[str] = Counter()
        self.right: Counter[str] = Counter()

    def add(self, truth: Array, guess: Array, lengths: Array) -> None:
        """Count those of a batch of sentences: numbers of labels, twice (B, T), and lengths."""
        for row, other, length in zip(truth, guess, lengths, strict=True):
            spans = find_spans([self.names[label] for label in row[:length]])
            found = find_spans([self.names[label] for label in other[:length]])
            self.there.update(span.kind for span in spans)
            self.guessed.update(span.kind for span in found)
            self.right.update(span.kind for span in {*spans} & {*found})

    def by_kind(self) -> dict[str, Found]:
        """The counts of each type, in the order of the alphabet."""
        kinds = sorted(self.there.keys() | self.guessed.keys())
        return {k: Found(self.there[k], self.guessed[k], self.right[k]) for k in kinds}

    def total(self) -> Found:
        """The counts of all types together."""
        return Found(self.there.total(), self.guessed.total(), self.right.total())


def _follows(before: Marked, now: Marked, scheme: Scheme) -> bool:
    if scheme == "":
        return True
    goes_on = before.mark != OUTSIDE and before.kind == now.kind and before.mark not in _ENDS
    if scheme == "IOBES":
        is_open = before.mark in ("B", "I")  # must be closed by I or E of its type
        return now.mark in ("I", "E") and goes_on if is_open else now.mark in (OUTSIDE, "B", "S")
    if now.mark == "B":  # in IOB1 only where an I would go on with the span before
        return scheme == "IOB2" or goes_on
    return now.mark == OUTSIDE or scheme == "IOB1" or goes_on
