"""A word-by-word dictionary learned from pairs: what translating without a network reaches.

Each word of a source is replaced by the one that it most likely stands for, in place, as IBM model
1 finds it. Where texts are single words, letters are.

Source: Brown et al. 1993, The Mathematics of Statistical Machine Translation, section 4.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from seqtool.config import Unit
from seqtool.errors import CheckpointError
from seqtool.lexicon import PATTERNS, SHORT_TEXT, Lexicon, Texts, mean_words
from seqtool.pairs import Pairs

Array = npt.NDArray[Any]

ROUNDS = 5  # of expectation and maximisation; more change little
MOST_MEETINGS = 2_000_000  # of a source word and a target word in one pair: about a second
LONGEST = 100  # words of a text that are looked at
SAMPLE = 2000  # pairs by which units are chosen
GAP = "\0"  # between entries as they are kept


@dataclass(frozen=True)
class Dictionary:
    """What each word, or letter, of a source most likely becomes."""

    entries: Mapping[str, str]
    source_unit: Unit
    target_unit: Unit

    def translate(self, text: str) -> str:
        """A text with every word replaced; words never seen and what is between them stay."""
        pattern = re.compile(PATTERNS[self.source_unit])
        if self.source_unit == self.target_unit:
            return pattern.sub(lambda word: self.entries.get(word[0], word[0]), text)
        found = [self.entries.get(word, word) for word in pattern.findall(text)]
        return (" " if self.target_unit == "word" else "").join(found)

    def arrays(self) -> dict[str, Array]:
        """What a model directory keeps."""
        parts = (self.source_unit, self.target_unit, *self.entries, *self.entries.values())
        blob = GAP.join(parts).encode("utf-8", "surrogatepass")
        return {"entries": np.frombuffer(blob, np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], where: str) -> Self:
        """Read what ``arrays`` gave; ``where`` names the model.

        Raises:
            CheckpointError: If it is something else.
        """
        units: dict[str, Unit] = {"word": "word", "char": "char"}
        try:
            text = arrays["entries"].tobytes().decode("utf-8", "surrogatepass")
            source, target, *words = text.split(GAP)
            half = len(words) // 2
            entries = dict(zip(words[:half], words[half:], strict=True))
            return cls(entries, units[source], units[target])
        except (KeyError, ValueError) as err:
            raise CheckpointError(
                f"{where}: its dictionary is damaged; copy the whole model directory again"
            ) from err


def learn_dictionary(pairs: Pairs) -> Dictionary:
    """Learn from pairs, or from as many of them, spread evenly, as a second allows."""
    step = max(1, len(pairs) // SAMPLE)
    sample = [pairs.texts[i] for i in range(0, len(pairs), step)]
    units: list[Unit] = [
        "word" if mean_words([texts[at] for texts in sample]) >= SHORT_TEXT else "char"
        for at in (0, 1)
    ]
    lexicons = [Lexicon(unit, [], lower=False, buckets=0) for unit in units]
    sizes = [
        np.minimum(lexicon.encode(texts[at] for texts in sample).lengths, LONGEST)
        for at, lexicon in enumerate(lexicons)
    ]
    met = int(sizes[0] @ sizes[1])
    step = max(1, -(-met * len(pairs) // (len(sample) * MOST_MEETINGS)))
    used = pairs.select(range(0, len(pairs), step))
    sides = [
        lexicon.encode(texts).cut(LONGEST)
        for lexicon, texts in zip(lexicons, (used.sources, used.targets), strict=True)
    ]
    names = [list(lexicon.table.rows) for lexicon in lexicons]
    best = most_likely(sides[0], sides[1], len(names[0]), len(names[1]))
    entries = {
        word: names[1][found]
        for word, found in zip(names[0], best.tolist(), strict=True)
        if found >= 0 and GAP not in (word, names[1][found])
    }
    return Dictionary(entries, units[0], units[1])


def most_likely(sources: Texts, targets: Texts, source_words: int, target_words: int) -> Array:
    """For each source word the target word that IBM model 1 finds likeliest, (source_words,).

    A target word may also come from nothing. -1 for words that only met empty texts.
    """
    # One word more, that stands in every source: nothing.
    lengths = sources.lengths + 1
    places = np.cumsum(lengths) - 1
    words = np.full(int(lengths.sum()), source_words, np.int64)
    kept = np.ones(len(words), np.bool_)
    kept[places] = False
    words[kept] = sources.words
    # Every meeting of a target word with a source word of its pair.
    per_target = np.repeat(lengths, targets.lengths)
    starts = np.repeat(places - lengths + 1, targets.lengths)
    target = np.repeat(np.arange(len(per_target)), per_target)
    ends = np.cumsum(per_target)
    source = words[np.arange(len(target)) - np.repeat(ends - per_target - starts, per_target)]
    codes = source * np.int64(target_words) + targets.words[target]
    pairs, met = np.unique(codes, return_inverse=True)
    chance = np.full(len(pairs), 1.0)
    for _ in range(ROUNDS):
        share = chance[met]
        share /= np.bincount(target, share, len(per_target))[target]
        counts = np.bincount(met, share, len(pairs))
        chance = counts / np.bincount(pairs // target_words, counts)[pairs // target_words]
    best = np.full(source_words + 1, -1, np.int64)
    order = np.argsort(chance, kind="stable")  # the last one written is the likeliest
    best[(pairs // target_words)[order]] = (pairs % target_words)[order]
    return best[:source_words]
