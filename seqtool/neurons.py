"""Which hidden unit follows what in a text: found by ranks, proved on the half not looked at.

After Karpathy, Johnson & Fei-Fei 2015, arXiv:1506.02078, section 4.1, who found by eye units that
are on inside quotes, count brackets or measure the length of a line. Text and activations come in;
how they are shown is left to others.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FEWEST = 5  # times that a yes-or-no feature must be each in each half to be tried
FEWEST_TEXTS = 20  # the same for the label of a whole text: the best of hundreds of units by chance
# has an AUC of 0.75 over this many
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
    """What the units of a model follow in a text."""

    by_unit: list[Match]  # for each unit its feature, in the order of layers and units
    by_feature: list[Match]  # for each feature its unit, the clearest first


@dataclass(frozen=True)
class Sample:
    """What units did, and what they might have followed, at the same n places or in n texts."""

    activations: Sequence[np.ndarray]  # of each layer, (n, H)
    features: Mapping[str, Floats]  # by name, (n,): 0 or 1, or a count
    fewest: int = FEWEST  # times that a yes-or-no feature must be each in each half


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
    return Sample(means, features, FEWEST_TEXTS)


def named_labels(labels: Sequence[str]) -> dict[str, Floats]:
    """A feature for each label, from the labels of words, each (n,)."""
    given = np.array(labels)
    return {f"label {name}": (given == name).astype(np.float64) for name in sorted({*labels})}


def rank_units(samples: Sequence[Sample]) -> Ranking:
    """For every unit the feature it follows best, and for every feature the best unit.

    Unit, feature and sign are chosen on the first half of a sample, the strength is measured on the
    second: with hundreds of units some would fit any feature by chance.

    Args:
        samples: Of the same layers, each with features of its own.

    Returns:
        Nothing of either if no sample holds any feature in both halves.
    """
    names, binary = list[str](), list[bool]()
    chosen, proved = list[Floats](), list[Floats]()  # of each feature, (N,)
    for sample in samples:
        half = max((len(part) for part in sample.activations), default=0) // 2
        usable = {
            name: values
            for name, values in sample.features.items()
            if _varies(values[:half], sample.fewest) and _varies(values[half:], sample.fewest)
        }
        if not usable:
            continue
        first, second = (
            _ranks(np.concatenate([part[cut] for part in sample.activations], axis=1))
            for cut in (slice(0, half), slice(half, None))
        )
        names += usable
        binary += [_is_binary(values) for values in usable.values()]
        chosen += [_signed(first, values[:half]) for values in usable.values()]
        proved += [_signed(second, values[half:]) for values in usable.values()]
    if not names:
        return Ranking([], [])
    layers = samples[0].activations
    places = [(layer, u) for layer, part in enumerate(layers) for u in range(part.shape[1])]

    def match(feature: int, unit: int) -> Match:
        sign = 1 if chosen[feature][unit] >= 0 else -1
        excess = max(0.0, float(sign * proved[feature][unit]))
        strength = (1 + excess) / 2 if binary[feature] else excess
        measure = "AUC" if binary[feature] else "rho"
        return Match(*places[unit], names[feature], measure, strength, sign)

    sizes = np.abs(chosen)  # (F, N)
    by_unit = [match(int(best), unit) for unit, best in enumerate(sizes.argmax(axis=0))]
    by_feature = [match(f, int(best)) for f, best in enumerate(sizes.argmax(axis=1))]
    return Ranking(by_unit, sorted(by_feature, key=lambda found: -found.excess))


def _varies(values: Floats, fewest: int) -> bool:
    if _is_binary(values):
        return fewest <= int(values.sum()) <= len(values) - fewest
    return len(values) >= 2 * fewest and bool(values.min() < values.max())


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _ranks(values: np.ndarray) -> Floats:
    """The rank of each value in its column, (n, H), from 1; equal values share their mean rank."""
    ranks = np.empty(values.shape)
    for column in range(values.shape[1]):
        _, inverse, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks[:, column] = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _signed(ranks: Floats, feature: Floats) -> Floats:
    """How well each column follows a feature, from -1 to 1, (H,).

    Spearman's rank correlation over the largest that the feature's ties allow: brackets that are
    open at one place in twenty let even a perfect unit correlate by 0.4 only. Of a yes-or-no
    feature it is 2 AUC - 1, the AUC being the chance that the unit is higher where the feature is
    than where it is not (Mann and Whitney's U over the number of pairs).
    """
    order = _ranks(feature[:, None])[:, 0]
    order = order - order.mean()
    centred = ranks - ranks.mean(axis=0)
    return np.asarray(order @ centred / (order @ order))
