"""Which hidden unit follows what in a text: found by ranks, proved on the half not looked at.

After Karpathy, Johnson & Fei-Fei 2015, arXiv:1506.02078, section 4.1, who found by eye units that
are on inside quotes, count brackets or measure the length of a line. Text and activations come in;
how they are shown is left to others, and how sure a correlation is to dependence.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from seqtool.dependence import Agreement, agree, discoveries, joined, spells, tail

Floats = npt.NDArray[np.float64]

FEWEST = 5  # times that a feature must begin in each half to be tried
FAINT = 0.1  # of Match.excess below which a unit does not follow a feature, however sure that is:
# one that hardly ever moves may do so only where the feature is
CLEAR = 0.5  # of Match.excess from which a unit follows a feature clearly: an AUC of 0.75
OPENING, CLOSING = "([{", ")]}"
PAIRED_QUOTES = {"“": "”", "«": "»", "„": "“"}
# Of single quotes only pairs in one line, around no letter on the outside: others are apostrophes.
SINGLE_QUOTED = re.compile(r"(?<![\w'])'(?!\s)[^'\n]*'(?![\w'])")
VOWELS = frozenset("aeiouyAEIOUYäöüÄÖÜáéíóúàèìòùâêîôû")


@dataclass(frozen=True)
class Match:
    """A unit and the feature of the text that it follows best."""

    layer: int
    unit: int
    feature: str
    measure: str  # "AUC" for a feature that is or is not, "rho" for one that counts, see _signed
    strength: float  # AUC from 0.5 to 1, |rho| from 0 to 1, on the half not chosen by
    sign: int  # +1: the unit is high where the feature is; -1: it is low there

    @property
    def excess(self) -> float:
        """Strength from 0, chance, to 1, perfect, whichever the measure."""
        return 2 * self.strength - 1 if self.measure == "AUC" else self.strength

    @property
    def clear(self) -> bool:
        """Whether the unit follows the feature so well that one sees it in the text."""
        return self.excess >= CLEAR

    @property
    def grade(self) -> str:
        """Measure and strength."""
        return f"{self.measure} {self.strength:.2f}"

    @property
    def there(self) -> str:
        """What the unit is where the feature is."""
        return "high" if self.sign > 0 else "low"


def features(pieces: Sequence[str]) -> dict[str, Floats]:
    """What a unit might follow, after each token of a text.

    Args:
        pieces: The text of each token; a token's features are those of its last character.

    Returns:
        By name, each (n,): 0 or 1, or a count.
    """
    text = "".join(pieces)
    lasts = np.cumsum([len(piece) for piece in pieces]) - 1
    found: dict[str, Floats] = {}
    for name, follow in FEATURES.items():
        values = np.fromiter(follow(text), dtype=np.float64, count=len(text))
        found[name] = values[np.maximum(lasts, 0)] if len(text) else np.zeros(len(pieces))
    return found


def _each(test: Callable[[str], bool]) -> Callable[[str], Iterator[float]]:
    return lambda text: (float(test(character)) for character in text)


def _since(begins: Callable[[str], bool]) -> Callable[[str], Iterator[float]]:
    """Characters since the last one that ``begins`` accepts."""

    def follow(text: str) -> Iterator[float]:
        count = 0
        for character in text:
            count = 0 if begins(character) else count + 1
            yield count

    return follow


def _in_quotes(text: str) -> Iterator[float]:
    """Inside quotes; a blank line ends what was never closed."""
    single = np.zeros(len(text), bool)
    for found in SINGLE_QUOTED.finditer(text):
        single[found.start() : found.end() - 1] = True
    closing, before = "", ""
    for character, inside in zip(text, single, strict=True):
        if closing and (character == closing or (character == before == "\n")):
            closing = ""
        elif not closing and character == '"':
            closing = '"'
        elif not closing:
            closing = PAIRED_QUOTES.get(character, "")
        before = character
        yield float(closing != "" or inside)


def _depth(text: str) -> Iterator[float]:
    """Brackets open; a blank line closes all."""
    depth, before = 0, ""
    for character in text:
        if character in OPENING:
            depth += 1
        elif character in CLOSING or (character == before == "\n"):
            depth = max(0, depth - 1) if character in CLOSING else 0
        before = character
        yield depth


FEATURES: dict[str, Callable[[str], Iterator[float]]] = {
    "inside quotes": _in_quotes,
    "bracket depth": _depth,
    "position in line": _since(lambda c: c == "\n"),
    "position in word": _since(lambda c: not (c.isalnum() or c in "'\u2019_")),
    "position in sentence": _since(lambda c: c in ".!?\n"),
    "upper case": _each(str.isupper),
    "digit": _each(str.isdigit),
    "vowel": _each(lambda c: c in VOWELS),
    "space": _each(lambda c: c == " "),
    "end of line": _each(lambda c: c == "\n"),
    "punctuation": _each(lambda c: not (c.isalnum() or c.isspace())),
}


@dataclass(frozen=True)
class Ranking:
    """What the units of a model follow in a text, as far as its second half confirms it."""

    by_unit: list[Match]  # for each unit its feature, in the order of layers and units
    by_feature: list[Match]  # for each feature its unit, the clearest first
    idle: list[tuple[int, int]] = field(default_factory=list)  # layer and unit that follow nothing
    unfollowed: list[str] = field(default_factory=list)  # features that no unit follows
    rare: list[str] = field(default_factory=list)  # features that the text has too seldom to tell

    @property
    def limits(self) -> list[str]:
        """What was not found, in sentences."""
        if self.rare and not (self.by_feature or self.unfollowed):
            return ["the text is too short to tell what units follow"]
        vague = [f"{match.feature} ({match.grade})" for match in self.by_feature if not match.clear]
        seldom = f"fewer than {FEWEST} times in one half of the text, so it cannot be told"
        lists = {
            "no unit clearly follows, with the best in brackets": vague,
            "no unit is found to follow": self.unfollowed,
            seldom: self.rare,
        }
        found = [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]
        if self.idle:
            total = len(self.by_unit) + len(self.idle)
            found.append(f"none found for {len(self.idle)} of {total} units")
        return found

    def beside(self, other: "Ranking", below: int) -> "Ranking":
        """Together with what the layers above the ``below`` first ones follow."""
        return Ranking(
            [*self.by_unit, *(_raised(match, below) for match in other.by_unit)],
            _clearest([*self.by_feature, *(_raised(match, below) for match in other.by_feature)]),
            [*self.idle, *((layer + below, unit) for layer, unit in other.idle)],
            [*self.unfollowed, *other.unfollowed],
            [*self.rare, *other.rare],
        )


def _raised(match: Match, below: int) -> Match:
    return replace(match, layer=match.layer + below)


def _clearest(matches: list[Match]) -> list[Match]:
    return sorted(matches, key=lambda match: -match.excess)


@dataclass(frozen=True)
class Sample:
    """What units did, and what they might have followed, at the same n places or in n texts."""

    activations: Sequence[np.ndarray]  # of each layer, (n, H)
    features: Mapping[str, Floats]  # by name, (n,): 0 or 1, or a count
    apart: bool = False  # whether the places are texts of their own, in no order


def labelled(
    means: Sequence[np.ndarray], labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> Sample:
    """Whole texts as places: does the mean of a unit over a text tell the text's label?

    Radford, Jozefowicz & Sutskever 2017, arXiv:1704.01444, found such a unit for sentiment.

    Args:
        means: Of each layer, the mean of its units over each of N texts, (N, H).
        labels: Of the texts, (N,).
        classes: Names of the labels; of two, one says all about the other.
    """
    which = [1] if len(classes) == 2 else range(len(classes))
    features = {f"label {classes[c]}": (labels == c).astype(np.float64) for c in which}
    return Sample(means, features, apart=True)


def named_labels(labels: Sequence[str]) -> dict[str, Floats]:
    """A feature for each label, from the labels of words, each (n,)."""
    given = np.array(labels)
    return {f"label {name}": (given == name).astype(np.float64) for name in sorted({*labels})}


def rank_units(samples: Sequence[Sample]) -> Ranking:
    """For every unit the feature it follows best, and for every feature the best unit.

    Unit, feature and sign are chosen on the first half of a sample, by the least strength that is
    likely there: with hundreds of units some would fit any feature by chance. The second half
    measures the strength and must confirm it. What it does not confirm, or finds faint, is not
    told.

    Args:
        samples: Of the same layers, each with features of its own.
    """
    layers = samples[0].activations
    places = [(layer, u) for layer, part in enumerate(layers) for u in range(part.shape[1])]
    names, binary, rare = list[str](), list[bool](), list[str]()
    tried: list[tuple[Agreement, Agreement]] = []
    for sample in samples:
        usable, seldom = _sift(sample)
        rare += seldom
        if usable:
            names += usable
            binary += [_is_binary(values) for values in usable.values()]
            tried.append(_in_halves(sample, list(usable.values())))
    if not names:
        return Ranking([], [], places, [], rare)
    chosen, proved = (joined(side) for side in zip(*tried, strict=True))
    signs = np.sign(chosen.excess)

    def match(feature: int, unit: int) -> Match:
        sign = int(signs[feature, unit])
        excess = sign * float(proved.excess[feature, unit])
        measure, strength = ("AUC", (1 + excess) / 2) if binary[feature] else ("rho", excess)
        return Match(*places[unit], names[feature], measure, strength, sign)

    def confirmed(pairs: list[tuple[int, int]]) -> list[Match]:
        likely = [pair for pair in pairs if chosen.floors[pair] > 0]
        chances = np.array([tail(float(signs[pair] * proved.scores[pair])) for pair in likely])
        believed = zip(likely, discoveries(chances), strict=True)
        matches = (match(*pair) for pair, real in believed if real)
        return [found for found in matches if found.excess >= FAINT]

    floors = chosen.floors
    by_unit = confirmed([(int(f), unit) for unit, f in enumerate(floors.argmax(axis=0))])
    by_feature = confirmed([(feature, int(u)) for feature, u in enumerate(floors.argmax(axis=1))])
    busy = {(match.layer, match.unit) for match in by_unit}
    followed = {match.feature for match in by_feature}
    return Ranking(
        by_unit,
        _clearest(by_feature),
        [place for place in places if place not in busy],
        [name for name in names if name not in followed],
        rare,
    )


def _sift(sample: Sample) -> tuple[dict[str, Floats], list[str]]:
    """The features that begin often enough in both halves, and the names of the others."""
    usable: dict[str, Floats] = {}
    for name, values in sample.features.items():
        middle = len(values) // 2
        if all(spells(part, sample.apart) >= FEWEST for part in (values[:middle], values[middle:])):
            usable[name] = values
    return usable, [name for name in sample.features if name not in usable]


def _in_halves(sample: Sample, features: Sequence[Floats]) -> tuple[Agreement, Agreement]:
    middle = len(features[0]) // 2
    first, second = (
        agree(
            np.concatenate([part[cut] for part in sample.activations], axis=1),
            [values[cut] for values in features],
            sample.apart,
        )
        for cut in (slice(0, middle), slice(middle, None))
    )
    return first, second


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0, 1)).all())
