"""Whether one model is better than another on the same data, or only seems so.

A classifier is right or wrong about each example; a language model is compared block by block of
the text, because its costs of neighbouring tokens hang together. The resampling is in resampling.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.errors import DataError
from seqtool.resampling import LEVEL, compare_ratios

Array = npt.NDArray[Any]

CHANCE = 0.05  # from this p on a difference may well be chance
BLOCK_BYTES = 512  # of a text: longer than what one word does to those after it
FEWEST_BLOCKS = 10


@dataclass(frozen=True)
class Comparison:
    """What a paired test found."""

    other: str  # the model that is compared with
    score: str  # its name
    mine: float
    theirs: float
    difference: float  # mine less theirs
    low: float  # of the interval that holds 95 % of the resampled differences
    high: float
    p: float  # how often chance alone makes such a difference, two-sided
    test: str

    def as_dict(self) -> dict[str, Any]:
        """Values fit for JSON."""
        return asdict(self)

    def sentence(self, model: str, *, higher_is_better: bool = True) -> str:
        """What it means, for people."""
        ahead = (self.difference > 0) == higher_is_better
        word = "level with" if self.difference == 0 else "better than" if ahead else "worse than"
        verdict = "more than chance" if self.p < CHANCE else "may well be chance"
        return (
            f"{model} is {word} {self.other}: {self.score} {self.mine:.4f} against "
            f"{self.theirs:.4f}, difference {self.difference:+.4f} ({LEVEL:.0%} interval "
            f"{self.low:+.4f} to {self.high:+.4f}), p = {self.p:.2g} ({self.test}): {verdict}"
        )


def compare_right(mine: Array, theirs: Array, *, other: str) -> Comparison:
    """Two models that are right or wrong on the same items, (N,) bool: McNemar's test."""
    found = compare_ratios(mine, theirs, np.ones(len(mine)))
    return Comparison(
        other=other,
        score="accuracy",
        mine=float(mine.mean()),
        theirs=float(theirs.mean()),
        difference=found.value,
        low=found.low,
        high=found.high,
        p=mcnemar(mine, theirs),
        test="McNemar",
    )


def mcnemar(mine: Array, theirs: Array) -> float:
    """Exact two-sided p that two models are right equally often, from where they differ.

    Source: McNemar 1947; the exact form is a sign test on the items that one of them gets right.

    Args:
        mine: Whether one model is right, (N,) bool.
        theirs: Whether the other is, (N,) bool.
    """
    only_mine, only_theirs = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    count, fewer = only_mine + only_theirs, min(only_mine, only_theirs)
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(fewer + 1)
    ]
    tail = sum(math.exp(log - count * math.log(2)) for log in logs)
    return min(1.0, 2 * tail)


class Blocks:
    """What the tokens of a text cost, added up over blocks of the text, whatever the tokens are."""

    def __init__(self, sizes: Array) -> None:
        """Begin a text; ``sizes``: bytes of each token of the vocabulary, (V,)."""
        self.sizes = sizes
        self.bytes = 0
        self._costs = np.zeros(0)

    def push(self, ids: Array, nll: Array) -> None:
        """Add tokens (T,) and their costs (T,)."""
        ends = self.bytes + np.cumsum(self.sizes[ids])
        blocks = (ends - self.sizes[ids]) // BLOCK_BYTES
        if len(ids) == 0:
            return
        if blocks[-1] >= len(self._costs):
            room = np.zeros(2 * (int(blocks[-1]) + 1))
            room[: len(self._costs)] = self._costs
            self._costs = room
        np.add.at(self._costs, blocks, nll)
        self.bytes = int(ends[-1])

    def costs(self, count: int) -> Array:
        """The costs of the first so many blocks, (N,); what is left over goes to the last."""
        found = np.zeros(count)
        found[: len(self._costs)] = self._costs[:count]
        found[-1] += self._costs[count:].sum()
        return found


def compare_costs(mine: Blocks, theirs: Blocks, characters: int, *, other: str) -> Comparison:
    """Two language models on the same text, in bits per character: bootstrap over its blocks.

    Raises:
        DataError: If the text has too few blocks to tell anything.
    """
    count = -(-mine.bytes // BLOCK_BYTES)
    if count < FEWEST_BLOCKS:
        raise DataError(
            f"--compare: only {mine.bytes} bytes to compare on, needed are "
            f"{FEWEST_BLOCKS * BLOCK_BYTES}; give more text"
        )
    sizes = np.full(count, float(BLOCK_BYTES))
    sizes[-1] = mine.bytes - (count - 1) * BLOCK_BYTES
    sizes *= characters / mine.bytes  # characters of a block
    bits, other_bits = (blocks.costs(count) / math.log(2) for blocks in (mine, theirs))
    found = compare_ratios(bits, other_bits, sizes)
    return Comparison(
        other=other,
        score="bits_per_char",
        mine=float(bits.sum() / characters),
        theirs=float(other_bits.sum() / characters),
        difference=found.value,
        low=found.low,
        high=found.high,
        p=found.p,
        test="paired bootstrap over blocks",
    )
