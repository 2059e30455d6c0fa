"""Words cut anew in every epoch: tokens of BPE are split where they were once merged.

With one segmentation a network meets the pieces of frequent words only inside these, and a word's
spelling tells it nothing about others. Random segmentations are the remedy (Kudo 2018,
arXiv:1804.10959; BPE dropout: Provilkov et al. 2020, arXiv:1910.13267). Here they are refinements
of the right one, as in StochasTok (Sims et al. 2025, arXiv:2506.01687): each token becomes, by
chance, the two that it was merged from, and so do these. Nothing but ids is needed for that, and
what is drawn depends on the seed, the epoch and the place alone, so that a resumed run and the
processes of a distributed one see the same tokens.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.lexicon import Texts
from seqtool.splits import mixed

Array = npt.NDArray[Any]


class Splitter:
    """Draws segmentations of texts."""

    def __init__(self, merged: Array, rate: float, seed: int) -> None:
        """Stand ready.

        Args:
            merged: The two ids that each was merged from, (V, 2); 0 for those that are whole.
            rate: Chance that a token is split, and again that each of its parts is.
            seed: Of what is drawn.
        """
        self.merged = merged
        self.rate = rate
        self.seed = seed

    def draw(self, texts: Texts, rows: Array, epoch: int) -> Texts:
        """Some rows as they are read in an epoch.

        Args:
            texts: As the vocabulary spells them.
            rows: Which, (B,).
            epoch: Counted from 0, or any other number of a draw.
        """
        chosen = texts.select(rows)
        ids, lengths = chosen.words, chosen.lengths
        row = np.repeat(np.arange(len(rows)), lengths)
        # A key for each token: where it stands among all of the texts, and then which part it is.
        place = np.arange(len(ids)) + np.repeat(texts.offsets[rows] - chosen.offsets[:-1], lengths)
        keys = mixed(mixed(place.astype(np.uint64), self.seed), epoch)
        fresh = np.ones(len(ids), bool)
        while True:
            # The upper 53 bits as a number from 0 to 1.
            chance = (mixed(keys, 1) >> np.uint64(11)) * 2.0**-53
            split = fresh & (self.merged[ids, 0] > 0) & (chance < self.rate)
            if not split.any():
                break
            at = np.repeat(np.arange(len(ids)), 1 + split)
            second = np.append(False, at[1:] == at[:-1])
            fresh = split[at]
            ids = np.where(fresh, self.merged[ids[at], second.astype(np.int64)], ids[at])
            keys, row = mixed(keys[at] + second, 2), row[at]
        counts = np.bincount(row, minlength=len(rows))
        return Texts(ids.astype(np.int32), np.concatenate([[0], np.cumsum(counts)]))
