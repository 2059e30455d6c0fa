"""What a translator learns: every next token of a target, the right ones before it given.

Full teacher forcing (Williams & Zipser 1989): the decoder reads the reference, never what it said
itself. What it would say by itself is looked at on the pairs held out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqtool.batches import ShuffledPairs, by_tokens, padded, rows_within
from seqtool.beam import search
from seqtool.config import BeamConfig, TrainConfig
from seqtool.distributed import replicate
from seqtool.encdec import BOUNDARY, EncDecStepper, EncoderDecoder
from seqtool.ensemble import Ensemble, joined
from seqtool.lexicon import Texts
from seqtool.scans import Scanner, Scans
from seqtool.subwords import Splitter
from seqtool.trainer import Batched, Look, as_if_alone, side_by_side

Array = npt.NDArray[Any]
Rating = Callable[[Sequence[Array]], Mapping[str, float]]

RATED = 500  # pairs held out that are translated at each look
RATED_SIDE_BY_SIDE = 100
LOOKED = 4096  # tokens of a batch that is only looked at


@dataclass(frozen=True)
class Bitext:
    """Pairs as ids: row i of the targets belongs to row i of the sources."""

    sources: Texts  # or columns of pictures, as rows of ``scans``
    targets: Texts
    scans: Scans | None = None  # what sources are, if they are pictures
    scanner: Scanner | None = None  # how these are read

    def __len__(self) -> int:
        return len(self.sources)


class Teacher(Batched):
    """The objective of a translator: mean cross entropy of the target tokens.

    Several networks read the same batches side by side, each learning as if it were alone.
    """

    def __init__(
        self,
        networks: Sequence[EncoderDecoder],
        train: Bitext,
        held_out: Bitext | None,
        config: TrainConfig,
        *,
        rating: Rating | None = None,
        banned_ids: Sequence[int] = (),
        splitters: tuple[Splitter | None, Splitter | None] = (None, None),
    ) -> None:
        """Stand before the first batch.

        Args:
            networks: What learns, one at least.
            train: To learn from, at least one pair.
            held_out: To look at; their order should mean nothing.
            config: ``batch_size``, in tokens of the longer side, and ``seed``.
            rating: Scores of the greedy translations of the first pairs held out, by name.
            banned_ids: What a translation never holds.
            splitters: Draw how sources and targets are spelled in each epoch.
        """
        lengths = train.sources.lengths + 1, train.targets.lengths + 1  # with their boundaries
        batches = ShuffledPairs(*lengths, config.batch_size, config.seed)
        super().__init__(side_by_side(networks), batches)
        self.networks = networks
        self.train = train
        self.held_out = held_out
        self.rating = rating
        self.banned_ids = banned_ids
        self.splitters = splitters
        self.compute = replicate(self.model, self._losses)

    def counts(self, rows: Array) -> Array:
        """Target tokens of each pair as it is spelled this time, with its end, (B,)."""
        splitter = self.splitters[1]
        if splitter is None:
            return super().counts(rows)
        return splitter.draw(self.train.targets, rows, self.batches.epochs).lengths + 1

    def loss(self) -> Tensor:
        """Mean loss of the next batch, nats per token, with label smoothing."""
        rows, weight = self.next_rows()
        losses: Tensor = self.compute(*self._batch(*self._drawn(rows)))
        return as_if_alone(losses) * weight

    def _losses(self, *batch: Tensor) -> Tensor:
        """Mean loss of every network, (K,)."""
        return torch.stack([network.loss(*batch)[0] for network in self.networks])

    def evaluate(self, limit: int) -> Look:
        """How probable the targets held out are, and how good what is said without them."""
        if self.held_out is None:
            return Look(None, {"val_loss": None})
        count = rows_within(self.held_out.targets.lengths + 1, limit)
        loss = self._held_out_loss(self.held_out, count)
        scores: dict[str, float] = {"val_loss": loss}
        if self.rating is not None:
            scores |= self.rating(self.translate(min(count, RATED)))
        return Look(loss, scores, {name.replace("val", "valid"): x for name, x in scores.items()})

    @torch.inference_mode()
    def _held_out_loss(self, pairs: Bitext, count: int) -> float:
        """Mean over the tokens of the first pairs and over the networks, in nats.

        With label smoothing, as in training: a smoothed model is never sure, so by its plain
        likelihood one that is right more often, and says so, could seem worse.
        """
        self.model.eval()
        sources, targets = pairs.sources.lengths[:count] + 1, pairs.targets.lengths[:count] + 1
        total = 0.0
        for rows in by_tokens(np.maximum(sources, targets), targets, LOOKED):
            loss = self._losses(*self._batch(pairs, rows)).mean()
            total += float(loss) * int(targets[rows].sum())
        return total / int(targets.sum())

    def translate(self, count: int) -> list[Array]:
        """Greedy translations of the first pairs held out, (n,) ids each."""
        pairs, steppers = self.held_out, [*map(EncDecStepper, self.networks)]
        assert pairs is not None, "nothing is held out"
        steps = Ensemble(steppers)
        found: dict[int, Array] = {}
        order = np.argsort(pairs.targets.lengths[:count], kind="stable")
        for rows in np.array_split(order, -(-count // RATED_SIDE_BY_SIDE)):
            sources = self._sources(pairs, rows)
            best = search(
                steps,
                joined(stepper.encode(*sources) for stepper in steppers),
                BeamConfig(beam_size=1),
                start_id=BOUNDARY,
                end_id=BOUNDARY,
                # Longer ones are wrong in any case; a model that knows no end yet costs no more.
                max_lengths=2 * pairs.targets.lengths[rows] + 5,
                banned_ids=self.banned_ids,
            )
            found |= {row: ended[0].ids for row, ended in zip(rows, best, strict=True)}
        return [found[row] for row in range(count)]

    def _drawn(self, rows: Array) -> tuple[Bitext, Array]:
        """Pairs to learn from as they are spelled this time, and their rows."""
        if self.splitters == (None, None):
            return self.train, rows
        sides = [
            splitter.draw(texts, rows, self.batches.epochs) if splitter else texts.select(rows)
            for splitter, texts in zip(
                self.splitters, (self.train.sources, self.train.targets), strict=True
            )
        ]
        return replace(self.train, sources=sides[0], targets=sides[1]), np.arange(len(rows))

    def _sources(self, pairs: Bitext, rows: Array) -> tuple[Array, Array]:
        """Ids (B, S) or pictures (B, S, D), and their lengths."""
        reverse = self.networks[0].config.reverse_source
        ids, lengths = padded(pairs.sources, rows, boundary=BOUNDARY, reverse=reverse)
        if pairs.scans is None or pairs.scanner is None:
            return ids, lengths
        return pairs.scans.frames(ids, pairs.scanner), lengths

    def _batch(self, pairs: Bitext, rows: Array) -> list[Tensor]:
        """Sources, their lengths, targets, their lengths."""
        arrays = *self._sources(pairs, rows), *padded(pairs.targets, rows, boundary=BOUNDARY)
        return [torch.from_numpy(array).to(self.device) for array in arrays]
