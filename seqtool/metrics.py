"""How near translations come to right answers: BLEU, chrF, exact match, edit distance.

BLEU and chrF are sacrebleu's, with its signature, so that a number here is the number of a paper
that gives the same signature (Post 2018, arXiv:1804.08771).
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from seqtool.columns import are_symbols
from seqtool.resampling import RESAMPLES

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

References = Sequence[tuple[str, ...]]  # (n,) the right answers of each, at least one
Unit = Literal["word", "character", "sound"]

WORDS = 2.0  # between spaces, on average; texts with fewer are compared by characters
UNSPACED = 0.3  # of the letters: scripts that set no spaces between words
REPEATED = 3  # times in a row: a decoder that goes round in circles


@dataclass(frozen=True)
class Score:
    """A score of a whole corpus."""

    value: float  # 0 to 100
    signature: str  # sacrebleu's: how exactly it was computed
    low: float | None = None  # of the 95 % interval, if it was asked for
    high: float | None = None


def bleu(
    hypotheses: Sequence[str],
    references: References,
    *,
    lower: bool = False,
    resample: bool = False,
) -> Score:
    """BLEU of a corpus (Papineni et al. 2002), with an interval if ``resample``."""
    return _score(bleu_metric(references, lower=lower), hypotheses, references, resample=resample)


def chrf(
    hypotheses: Sequence[str],
    references: References,
    *,
    lower: bool = False,
    resample: bool = False,
) -> Score:
    """chrF2 of a corpus (Popovic 2015), with an interval if ``resample``."""
    return _score(chrf_metric(lower=lower), hypotheses, references, resample=resample)


def bleu_metric(references: References, *, lower: bool) -> "BLEU":
    """sacrebleu's BLEU, with the tokenizer that the script of the references needs."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(lowercase=lower, tokenize=choose_tokenizer(references))


def chrf_metric(*, lower: bool) -> "CHRF":
    """sacrebleu's chrF."""
    from sacrebleu.metrics.chrf import CHRF, CHRFScore

    class Floats(CHRF):
        """Scores as Python's floats.

        Resampling (sacrebleu 2.6.0) gives numpy's float32, but 0.0 where nothing matches, and their
        mean is a TypeError.
        """

        def _compute_score_from_stats(self, stats: list[int]) -> CHRFScore:
            found = super()._compute_score_from_stats(stats)
            found.score = float(found.score)
            return found

    return Floats(lowercase=lower)


def choose_tokenizer(references: References) -> str:
    """sacrebleu's name for how BLEU finds words: zh or char in scripts without spaces."""
    letters = Counter(c for answers in references for c in answers[0] if c.isalpha())
    names = {c: unicodedata.name(c, "").split(" ")[0] for c in letters}
    total = max(1, letters.total())
    han = sum(n for c, n in letters.items() if names[c] == "CJK")
    other = ("HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
    unspaced = sum(n for c, n in letters.items() if names[c] in other)
    if unspaced > UNSPACED / 3 * total:
        return "char"
    return "zh" if han > UNSPACED * total else "13a"


def columns(references: References) -> list[list[Any]]:
    """References as sacrebleu takes them: all first ones, all second ones; None where none is."""
    width = max(map(len, references))
    return [[row[at] if at < len(row) else None for row in references] for at in range(width)]


def _score(
    metric: Any, hypotheses: Sequence[str], references: References, *, resample: bool
) -> Score:
    found = metric.corpus_score(
        list(hypotheses), columns(references), n_bootstrap=RESAMPLES if resample else 1
    )
    signature = str(metric.get_signature())
    if not resample:
        return Score(found.score, signature)
    said = json.loads(found.format(width=10, signature=signature, is_json=True))
    mean, half = said.get("confidence_mean", found.score), said.get("confidence_var", 0.0)
    return Score(found.score, signature, mean - half, mean + half)


def exact(hypotheses: Sequence[str], references: References) -> npt.NDArray[np.bool_]:
    """Which equal one of their right answers but for white space, (n,)."""
    pairs = zip(hypotheses, references, strict=True)
    right = (h.split() in [answer.split() for answer in answers] for h, answers in pairs)
    return np.fromiter(right, np.bool_)


def edits(
    hypotheses: Sequence[str], references: References, unit: Unit
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Edits to the nearest right answer, and its length, in units; each (n,).

    The sum of the first by the sum of the second is the error rate: of phonemes, if the answers are
    sounds with spaces between them.
    """
    split = splitter(unit)
    found = np.zeros((len(references), 2), np.int64)
    for row, (hypothesis, answers) in enumerate(zip(hypotheses, references, strict=True)):
        mine = split(hypothesis)
        sized = [(edit_distance(mine, split(answer)), len(split(answer))) for answer in answers]
        found[row] = min(sized, key=lambda pair: pair[0] / max(1, pair[1]))
    return found[:, 0], found[:, 1]


def choose_unit(references: References, sources: Sequence[str] = ()) -> Unit:
    """What edits are counted in: what stands between spaces, or characters if that is one thing.

    If ``sources`` are given, single words, and short symbols are the answers, these are sounds.
    """
    single = sum(len(source.split()) for source in sources) < WORDS * len(sources)
    if single and are_symbols([first for first, *_ in references]):
        return "sound"
    words = sum(len(answers[0].split()) for answers in references)
    return "word" if words >= WORDS * len(references) else "character"


def splitter(unit: Unit) -> Callable[[str], list[str]]:
    """How a text is cut into units; spaces stand between words and between sounds."""
    return list if unit == "character" else str.split


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements that turn one into the other.

    A column of the usual table is two bit vectors, here whole numbers of any length.
    Source: Myers 1999, doi:10.1145/316542.316550, in the form of Hyyroe 2003.
    """
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for place, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << place
    everywhere, last = (1 << len(first)) - 1, 1 << len(first) - 1
    up, down, distance = everywhere, 0, len(first)  # where a column goes up or down by one
    for item in second:
        equal = places.get(item, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right, left = down | ~(diagonal | up) & everywhere, up & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & everywhere, left << 1 & everywhere
        up, down = left | ~(diagonal | right) & everywhere, right & diagonal
    return distance


def repeats(text: str) -> bool:
    """Whether one to four words stand several times in a row, as no writer would put them."""
    words = text.split()
    for size in range(1, 5):
        run = 0
        for at in range(size, len(words)):
            run = run + 1 if words[at] == words[at - size] else 0
            if run >= size * (REPEATED - 1):
                return True
    return False
