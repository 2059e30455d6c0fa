"""Beam search, of many sentences side by side, over anything that offers ``step``.

What a sentence becomes does not depend on those beside it. Which model is driven is not known
here; neither torch nor text comes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from seqtool.config import BeamConfig, DecodeConfig
from seqtool.decode import Generation, State, Steps, check_finite, select_rows

Array = npt.NDArray[Any]


class Ranking(NamedTuple):
    """The likeliest next tokens of B rows.

    Attributes:
        ids: (B, K) int64, the likeliest first, of equal ones the lower id.
        log_probs: Of these, (B, K) float64, among all V tokens; -inf where fewer are allowed.
        end: Of the end of the sentence, (B,) float64.
    """

    ids: Array
    log_probs: Array
    end: Array


@runtime_checkable
class Ranker(Steps, Protocol):
    """A model that ranks tokens itself, faster than ``rank`` does; the same to a rounding."""

    def ranked(
        self, ids: Array, state: State, *, count: int, end_id: int, banned_ids: Array
    ) -> tuple[Ranking, State]:
        """Read one token per row; gives the ``count`` likeliest that are not banned."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """One way to end a sentence.

    Attributes:
        ids: Its tokens without the end, (n,) int64.
        log_probs: Of each token and of the end, in nats, (n + 1,) float64.
        score: Their sum over (n + 1) to the power of the length penalty.
    """

    ids: Array
    log_probs: Array
    score: float


def log_softmax(logits: Array) -> Array:
    """The logarithms of the probabilities of logits (B, V), float64; none is above 0.

    Raises:
        CheckpointError: If a row holds nan or +inf, or nothing finite.
    """
    scores = np.array(logits, dtype=np.float64, order="C")
    best = scores.max(axis=-1, keepdims=True)
    check_finite(best)
    scores -= best
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def rank(logits: Array, *, count: int, end_id: int, banned_ids: Array) -> Ranking:
    """The ``count`` likeliest tokens of each row of logits (B, V) that are not banned."""
    log_probs = log_softmax(logits)
    end = log_probs[:, end_id].copy()
    log_probs[:, banned_ids] = -np.inf
    ids = np.argsort(-log_probs, axis=1, kind="stable")[:, :count]
    return Ranking(ids, np.take_along_axis(log_probs, ids, axis=1), end)


def normalised(total: Any, length: Any, alpha: float) -> Any:
    """The score of a hypothesis of ``length`` tokens, the end among them: total / length^alpha.

    alpha 0 prefers short sentences, 1 compares means (Cho et al. 2014, Jean et al. 2015). GNMT (Wu
    et al. 2016, eq. 14) divides by ((5 + length) / 6)^alpha, which treats sentences of up to some
    five tokens nearly alike; for the words of one letter and labels of a few that are also written
    here, that would be no normalisation at all.
    """
    return total / np.power(np.asarray(length, np.float64), alpha)


class _Finished(NamedTuple):
    score: float
    time: int  # step at which it ended
    slot: int  # its place in the beam then


class _Beams:
    """The beams of N sentences: K slots each, those that go on with the sum of their log-probs."""

    def __init__(self, max_lengths: Array, config: BeamConfig) -> None:
        self.config = config
        self.most = max_lengths
        shape = (len(max_lengths), config.beam_size)
        self.totals = np.full(shape, -np.inf)
        self.totals[:, 0] = 0.0
        self.rows = np.zeros(shape, np.int64)  # of the state, of slots that go on
        self.rows[:, 0] = np.arange(len(max_lengths))
        self.finished: list[list[_Finished]] = [[] for _ in max_lengths]
        # Of each step the slot that each slot came from, its token and the log-prob of that.
        self.history: list[tuple[Array, Array, Array]] = []

    def grow(self, ranking: Ranking, end_id: int) -> tuple[Array, Array]:
        """Lengthen all hypotheses by a token and keep the best.

        A hypothesis that has ended keeps its place: the beam goes on with as many fewer.

        Args:
            ranking: Of the rows in the order of sentences and slots.
            end_id: The token that ends a sentence.

        Returns:
            For each row to go on with, in that order: its row before, and its new token.
        """
        time, size = len(self.history) + 1, self.config.beam_size
        count = len(self.totals)
        alive = np.isfinite(self.totals)
        log_probs = np.full((count, size, size), -np.inf)
        ids = np.zeros((count, size, size), np.int64)
        wide = ranking.ids.shape[1]  # less than the beam if there are fewer tokens
        log_probs[alive, :wide], ids[alive, :wide] = ranking.log_probs, ranking.ids
        last = alive & (self.most <= time)[:, None]  # must end now
        log_probs[last], ids[last] = -np.inf, end_id
        log_probs[last, 0] = ranking.end[last[alive]]
        flat = (count, size * size)
        sums = (np.where(alive, self.totals, 0.0)[:, :, None] + log_probs).reshape(flat)
        order = np.argsort(-sums, axis=1, kind="stable")[:, :size]
        sums = np.take_along_axis(sums, order, axis=1)
        tokens = np.take_along_axis(ids.reshape(flat), order, axis=1)
        parents = order // size
        self.history.append(
            (parents, tokens, np.take_along_axis(log_probs.reshape(flat), order, axis=1))
        )
        room = size - np.array([len(ended) for ended in self.finished])
        taken = np.isfinite(sums) & (np.arange(size) < room[:, None])
        ends = taken & (tokens == end_id)
        scores = normalised(sums, time, self.config.length_penalty)
        for sentence, slot in np.argwhere(ends):
            found = _Finished(float(scores[sentence, slot]), time, int(slot))
            self.finished[sentence].append(found)
        self.totals = np.where(taken & ~ends, sums, -np.inf)
        self.totals[self._decided(time)] = -np.inf
        alive = np.isfinite(self.totals)
        before = np.take_along_axis(self.rows, parents, axis=1)[alive]
        self.rows[alive] = np.arange(alive.sum())
        return before, tokens[alive]

    def _decided(self, time: int) -> Array:
        """Of which sentences the n best are known: none that goes on can become better.

        The sum of a hypothesis only falls. So the best that it may still score is its sum now,
        at the length for which that counts most, the next or the longest (Huang, Zhao & Ma 2017
        for the argument; here it also holds under a length penalty, lengths being bounded).
        """
        alpha, wanted = self.config.length_penalty, self.config.n_best
        best = self.totals.max(axis=1)
        bound = np.maximum(
            normalised(best, time + 1, alpha),
            normalised(best, np.maximum(self.most, time + 1), alpha),
        )
        least = np.array(
            [
                sorted((found.score for found in ended), reverse=True)[wanted - 1]
                if len(ended) >= wanted
                else -np.inf
                for ended in self.finished
            ]
        )
        return np.asarray(bound <= least)

    def best(self, sentence: int) -> list[Hypothesis]:
        """The n best of a sentence, the best first; of equal ones that which ended first."""
        ended = sorted(self.finished[sentence], key=lambda found: -found.score)
        return [self._trace(sentence, found) for found in ended[: self.config.n_best]]

    def _trace(self, sentence: int, found: _Finished) -> Hypothesis:
        ids, log_probs, slot = [], [], found.slot
        for parents, tokens, logs in reversed(self.history[: found.time]):
            ids.append(tokens[sentence, slot])
            log_probs.append(logs[sentence, slot])
            slot = parents[sentence, slot]
        return Hypothesis(
            np.array(ids[:0:-1], np.int64), np.array(log_probs[::-1], np.float64), found.score
        )


def search(
    steps: Steps,
    state: State,
    config: BeamConfig,
    *,
    start_id: int,
    end_id: int,
    max_lengths: Sequence[int] | Array,
    banned_ids: Sequence[int] | Array = (),
) -> list[list[Hypothesis]]:
    """The best endings of N sentences that a beam finds.

    In each step the hypotheses that go on, at most K, are lengthened by every token and the best
    are kept; those that end stay in the beam and make it narrower, so that a beam of one is the
    greedy choice. A sentence is done when none of its hypotheses goes on or none could still become
    one of its n best; then it leaves the batch.

    Args:
        steps: The model; if it is a Ranker, its ranking is used.
        state: Before the first token, a row for each sentence.
        config: Beam, length penalty and how many are wanted.
        start_id: The token read first.
        end_id: The token that ends a sentence.
        max_lengths: Of each sentence the most tokens, the end among them, (N,), at least 1; there
            the end is forced.
        banned_ids: Never written; not ``end_id``.

    Returns:
        For each sentence up to n hypotheses, the best first.

    Raises:
        CheckpointError: If the model's logits are not finite.
    """
    banned = np.asarray(banned_ids, np.int64)
    assert end_id not in banned, "a sentence must be able to end"
    beams = _Beams(np.asarray(max_lengths, np.int64), config)
    ids = np.full(len(beams.most), start_id, np.int64)
    while len(ids):
        count = min(config.beam_size, steps.vocab_size)
        if isinstance(steps, Ranker):
            ranking, state = steps.ranked(ids, state, count=count, end_id=end_id, banned_ids=banned)
        else:
            logits, state = steps.step(ids, state)
            ranking = rank(logits, count=count, end_id=end_id, banned_ids=banned)
        rows, ids = beams.grow(ranking, end_id)
        if not np.array_equal(rows, np.arange(state[0].shape[1])):
            state = select_rows(state, rows)
    return [beams.best(sentence) for sentence in range(len(beams.most))]


def draw(
    steps: Steps,
    state: State,
    config: DecodeConfig,
    *,
    start_id: int,
    end_id: int,
    max_lengths: Sequence[int] | Array,
    rngs: list[np.random.Generator],
    length_penalty: float,
    banned_ids: Sequence[int] | Array = (),
) -> list[Hypothesis]:
    """One random ending of each of N sentences; see ``search`` for what the arguments share.

    Args:
        steps: The model.
        state: Before the first token, a row for each sentence.
        config: Temperature, top_k, top_p, min_p, greedy.
        start_id: The token read first.
        end_id: The token that ends a sentence.
        max_lengths: At the last of so many tokens the end is forced.
        rngs: One per sentence.
        length_penalty: For the score only.
        banned_ids: Never written.
    """
    most = np.asarray(max_lengths, np.int64)
    ids: list[list[int]] = [[] for _ in most]
    log_probs: list[list[float]] = [[] for _ in most]
    if not len(most):
        return []
    logits, state = steps.step(np.full(len(most), start_id, np.int64), state)
    generation = Generation(
        steps, config, logits=logits, state=state, rngs=rngs, banned_ids=banned_ids
    )
    going = np.arange(len(most))
    while len(going):
        now = log_softmax(generation.logits)
        chosen = generation.next()
        time = len(ids[going[0]]) + 1
        chosen = np.where(most[going] <= time, end_id, chosen)
        for row, (sentence, token) in enumerate(zip(going, chosen, strict=True)):
            ids[sentence].append(int(token))
            log_probs[sentence].append(float(now[row, token]))
        left = np.flatnonzero(chosen != end_id)
        generation.keep(left)
        going = going[left]
    return [
        Hypothesis(
            np.array(tokens[:-1], np.int64),
            np.array(logs),
            float(normalised(sum(logs), len(tokens), length_penalty)),
        )
        for tokens, logs in zip(ids, log_probs, strict=True)
    ]
