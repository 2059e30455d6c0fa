"""What was seen inside a model on texts or pictures: every view that was asked for, as plain data.

Computed by looking, shown by views and report.
"""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from seqtool.neurons import Ranking

if TYPE_CHECKING:
    from seqtool.diagnostics import Flow
    from seqtool.gates import LayerGates
    from seqtool.horizon import Horizon, Surprise

View = Literal["health", "gates", "units", "memory", "surprisal", "belief", "attention"]
# What there is to see in a model of each task. Only a language model predicts the tokens that it
# reads: the others have no surprisal and no loss that would fall with more of the past.
VIEWS: dict[str, tuple[View, ...]] = {
    "generate": ("health", "gates", "units", "memory", "surprisal"),
    "classify": ("health", "gates", "units", "belief"),
    "tag": ("health", "gates", "units", "belief"),
    "translate": ("health", "gates", "units", "attention"),
}
WRONG = "! "  # before a true label that was missed
SHOWN_CLASSES = 6  # followed over a text: those that were believed in most


@dataclass(frozen=True)
class Belief:
    """How the judgement of one text or picture moves while it is read."""

    name: str  # its place in what was read
    pieces: list[str]  # the words, or "" for each step through a picture, (T,)
    probabilities: npt.NDArray[np.float64]  # of the classes after each, (T, C)
    label: str  # the true one, "" if it is not known
    pixels: npt.NDArray[np.uint8] | None = None  # of a picture, (H, W, channels)
    element: str = "word"  # what is read at each step, in one word

    @property
    def after_rows(self) -> npt.NDArray[np.float64]:
        """The probabilities once each row of a picture is read, (H, C)."""
        assert self.pixels is not None
        height = len(self.pixels)
        lines = (height + 1) // 2 if self.element == "block" else height  # of blocks, 2 x 2 each
        ends = (np.arange(height) * lines // height + 1) * (len(self.pieces) // lines)
        return self.probabilities[ends - 1]

    @property
    def top(self) -> list[int]:
        """The classes to follow, the one believed in at the end first."""
        last, most = self.probabilities[-1], self.probabilities.max(axis=0)
        final = int(last.argmax())
        others = sorted(range(len(most)), key=lambda c: -most[c])
        return [final, *(c for c in others if c != final)][:SHOWN_CLASSES]

    @property
    def line(self) -> list[str]:
        """The pieces, ended by a line feed."""
        return [*self.pieces[:-1], self.pieces[-1] + "\n"]

    def as_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Values fit for JSON."""
        best = int(self.probabilities[-1].argmax())
        steps = zip(self.pieces, self.probabilities.tolist(), strict=True)
        return {
            "name": self.name,
            "label": classes[best],
            "truth": self.label or None,
            "trace": [
                {"token": piece, "probabilities": dict(zip(classes, row, strict=True))}
                for piece, row in steps
            ],
        }


@dataclass(frozen=True)
class Labelled:
    """How the words of one sentence are labelled."""

    name: str  # its place in what was read
    tokens: list[str]  # (T,)
    labels: list[str]  # that are given, (T,)
    truth: list[str]  # (T,), or none if they are not known
    probabilities: npt.NDArray[np.float64]  # of all labels at each word, (T, C)

    @property
    def line(self) -> list[str]:
        """The words as they stand in a line."""
        return [*(token + " " for token in self.tokens[:-1]), self.tokens[-1] + "\n"]

    def is_wrong(self, word: int) -> bool:
        """Whether the true label is known and another one than was given."""
        return bool(self.truth) and self.truth[word] != self.labels[word]

    def given(self, word: int) -> list[str]:
        """The true label, after a mark if another one was given; none if it is not known."""
        return [f"{WRONG * self.is_wrong(word)}{self.truth[word]}"] if self.truth else []

    def as_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Values fit for JSON."""
        rows = zip(self.tokens, self.labels, self.probabilities.tolist(), strict=True)
        return {
            "name": self.name,
            "truth": self.truth or None,
            "trace": [
                {
                    "token": token,
                    "label": label,
                    "probabilities": dict(zip(classes, p, strict=True)),
                }
                for token, label, p in rows
            ],
        }


@dataclass(frozen=True)
class Attended:
    """Where a translator looked while it wrote a translation."""

    name: str  # of the source's place in what was read
    translation: str
    source: list[str]  # S tokens
    target: list[str]  # T tokens
    weights: npt.NDArray[np.float32]  # (T, S), what a row lacks of 1 went to the end of the source

    def as_dict(self) -> dict[str, Any]:
        """Values fit for JSON."""
        return asdict(self) | {"weights": self.weights.round(4).tolist()}


@dataclass(frozen=True)
class Findings:
    """What was seen; views not asked for are None."""

    pieces: list[str]  # the text of each token of the view, (n,)
    layers: tuple[str, ...] = ()  # names of the recurrent layers
    flow: "Flow | None" = None
    gates: "tuple[LayerGates, ...] | None" = None
    activations: tuple[np.ndarray, ...] | None = None  # of each layer after each token, (n, H)
    ranking: Ranking | None = None
    horizon: "Horizon | None" = None
    surprises: "list[Surprise] | None" = None
    beliefs: list[Belief] | None = None
    labelled: list[Labelled] | None = None
    classes: tuple[str, ...] = ()  # that beliefs are about
    attended: list[Attended] | None = None
    texts: tuple[list[str], ...] = ()  # of each layer what it reads, if that is not ``pieces``
    element: str = "token"  # what one step of time reads
    windowed: str = ""  # what part of the data single tokens are shown of; '' if of all
    notes: list[str] = field(default_factory=list)  # why a view is missing or limited

    def text_of(self, layer: int) -> list[str]:
        """What a layer has read, (n,)."""
        return self.texts[layer] if self.texts else self.pieces


def as_dict(found: Findings, spell: list[str]) -> dict[str, Any]:
    """Values fit for JSON, a key for each view.

    Args:
        found: What was seen.
        spell: The text of every token of the vocabulary, (V,).
    """
    values: dict[str, Any] = {
        "tokens": len(found.pieces),
        "notes": found.notes,
        "windowed": found.windowed,
    }
    if found.flow is not None:
        values["health"] = found.flow.as_dict()
    if found.gates is not None:
        values["gates"] = [_gates_dict(number, layer) for number, layer in enumerate(found.gates)]
    if found.ranking is not None:
        values["units"] = asdict(found.ranking)
    if found.horizon is not None:
        values["memory"] = _horizon_dict(found.horizon)
    if found.surprises is not None:
        values["surprisal"] = [
            {
                "token": spell[surprise.token],
                "bits": surprise.bits,
                "network_bits": surprise.network,
                "expected": [[spell[token], chance] for token, chance in surprise.alternatives],
            }
            for surprise in found.surprises
        ]
    if found.beliefs is not None:
        values["belief"] = [belief.as_dict(found.classes) for belief in found.beliefs]
    if found.labelled is not None:
        values["belief"] = [labelled.as_dict(found.classes) for labelled in found.labelled]
    if found.attended is not None:
        values["attention"] = [attended.as_dict() for attended in found.attended]
    return values


def _horizon_dict(horizon: "Horizon") -> dict[str, Any]:
    values = asdict(horizon) | {"ended": horizon.ended, "hint": horizon.hint}
    if horizon.mixed is not None:
        values["mixed"] = _horizon_dict(horizon.mixed)
    return values


def _gates_dict(number: int, layer: "LayerGates") -> dict[str, Any]:
    values = {"layer": number} | asdict(layer)
    values["memory"] = None if layer.memory is None else layer.memory.tolist()
    for gate in values["gates"]:
        gate["unit_low"], gate["unit_high"] = gate["unit_low"].tolist(), gate["unit_high"].tolist()
    return values
