"""Choosing tokens from a model's distribution, for anything that offers ``step``.

Temperature, top-k, top-p, min-p, greedy, and a generation that can stop anywhere and go on later
bit for bit. Which model is driven is not known here; neither torch nor text comes in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from seqtool.config import DecodeConfig
from seqtool.errors import CheckpointError, ConfigError

# Of a recurrent stack: (h,) or (h, c), each (L, B, H); what other models add has B there as well.
State = tuple[np.ndarray, ...]
Veto = Callable[[], np.ndarray]  # the ids that one row must not emit now


class Steps(Protocol):
    """What a model offers to be decoded; nothing is kept between calls."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, V."""
        ...

    def step(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Read one token per row, ids (B,); gives the logits of the next, (B, V) float32."""
        ...


class Steppable(Steps, Protocol):
    """A model that can begin with nothing read."""

    def init_state(self, batch: int) -> State:
        """The state before the first token, for B rows."""
        ...


class Written(NamedTuple):
    """Tokens that a Writer has chosen and read.

    Attributes:
        ids: (B, n), n up to what was asked for; fewer if then the logits allowed no choice.
        logits: Of the next token, (B, V) float32.
        state_at: Gives the state when i of them had been read, i from 0 to n.
    """

    ids: np.ndarray
    logits: np.ndarray
    state_at: Callable[[int], State]


@runtime_checkable
class Writer(Steppable, Protocol):
    """A model that can choose by itself, as ``probabilities`` and ``sample`` do, many times."""

    def write(
        self,
        logits: np.ndarray,
        state: State,
        uniforms: np.ndarray,
        config: DecodeConfig,
        allowed: np.ndarray,
    ) -> Written:
        """Write a token in each row for each column of uniforms, (B, n) in [0, 1).

        Only ids that ``allowed`` (B or 1, V) marks are chosen.
        """
        ...


@runtime_checkable
class Reader(Steppable, Protocol):
    """A model that reads several tokens of one text faster than one by one."""

    def read(
        self, ids: np.ndarray, state: State, *, all_logits: bool = False
    ) -> tuple[np.ndarray, State]:
        """Read ids (T,); gives logits, (1, V) after the last or (T, V), and the state there."""
        ...


def check_finite(best: np.ndarray) -> None:
    """See that the best logits of some rows are numbers.

    Raises:
        CheckpointError: If one is nan or infinite.
    """
    if not np.isfinite(best).all():
        worst = best[~np.isfinite(best)][0]
        raise CheckpointError(
            f"the model's scores for the next token are not finite ({worst}), so its weights are "
            "damaged or its training diverged; train again, e.g. with a lower --lr"
        )


def probabilities(logits: np.ndarray, config: DecodeConfig) -> np.ndarray:
    """The distribution that the next token is drawn from.

    Temperature first, then top-k (Fan et al. 2018), top-p (Holtzman et al. 2020, section 3.1) and
    min-p (Nguyen et al. 2024), each applied to what the one before left. Of equally likely tokens
    the lower id counts as the likelier one, so that top-k keeps exactly k and greedy has one
    answer. A row's result does not depend on the other rows.

    Args:
        logits: (B, V); -inf marks a token that must not be chosen.
        config: Its temperature, top_k, top_p, min_p and greedy are used.

    Returns:
        (B, V) float64, each row sums to 1; with greedy a single 1.

    Raises:
        CheckpointError: If a row holds nan or +inf, or nothing finite.
    """
    scores = np.array(logits, dtype=np.float64, order="C")
    best = scores.max(axis=-1, keepdims=True)  # nan if any is nan
    check_finite(best)
    if config.greedy:
        one_hot = np.zeros_like(scores)
        one_hot[np.arange(len(scores)), scores.argmax(axis=-1)] = 1.0
        return one_hot
    with np.errstate(over="ignore"):  # a tiny temperature: -inf, and exp makes it 0
        weights = np.exp((scores - best) / config.temperature)  # the likeliest weighs exactly 1
    if 0 < config.top_k < weights.shape[-1] or config.top_p < 1:
        # Ranked by the scores: a huge temperature makes weights equal that were not.
        order = np.argsort(-scores, axis=-1, kind="stable")  # likeliest first, ties by id
        weights = _keep_likeliest(weights, order, top_k=config.top_k, top_p=config.top_p)
    if config.min_p > 0:
        weights[weights < config.min_p] = 0.0
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _keep_likeliest(
    weights: np.ndarray, order: np.ndarray, *, top_k: int, top_p: float
) -> np.ndarray:
    """Weights (B, V) with those outside the top k (0 = all) and the top-p nucleus set to 0.

    Each row of order (B, V) lists the ids from the likeliest to the least likely.
    """
    ranked = np.take_along_axis(weights, order, axis=-1)
    if top_k > 0:
        ranked[:, top_k:] = 0.0
    if top_p < 1:
        mass = np.cumsum(ranked, axis=-1)
        # A token stays if those before it hold less than p; the first always does.
        ranked[:, 1:][mass[:, :-1] >= top_p * mass[:, -1:]] = 0.0
    kept = np.empty_like(weights)
    np.put_along_axis(kept, order, ranked, axis=-1)
    return kept


def invert(probs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """The ids (B,) at which the cumulated probs (B, V) pass uniforms (B,), numbers in [0, 1)."""
    mass = np.cumsum(probs, axis=-1)
    total = mass[:, -1]
    # The product may round up to the whole mass, which no token passes.
    threshold = np.minimum(uniforms * total, np.nextafter(total, 0.0))
    return np.asarray(np.argmax(mass > threshold[:, None], axis=-1), dtype=np.int64)


def row_rngs(seed: int, num: int) -> list[np.random.Generator]:
    """One generator per row; row i's depends on the seed and i only, not on how many there are."""
    return [np.random.Generator(np.random.PCG64([seed, row])) for row in range(num)]


def restore_rngs(states: Sequence[Any], where: str) -> list[np.random.Generator]:
    """Generators that go on where ``Generation.rng_states`` was taken.

    Args:
        states: As ``rng_states`` gave them; a trip through JSON does no harm.
        where: Names their source in an error.

    Raises:
        CheckpointError: If one of them is not such a state.
    """
    rngs = []
    for row, state in enumerate(states):
        bits = np.random.PCG64(0)
        try:
            bits.state = state
        except (TypeError, ValueError, KeyError, OverflowError) as err:
            raise CheckpointError(
                f"{where}: the random generator of text {row + 1} is not readable ({err!r}); "
                "the file is damaged or was not written by --save-state"
            ) from err
        rngs.append(np.random.Generator(bits))
    return rngs


def select_rows(state: State, rows: Sequence[int] | np.ndarray) -> State:
    """The state of some rows, in that order; a row may be named more than once."""
    index = np.asarray(rows, dtype=np.int64)
    return tuple(np.take(part, index, axis=1) for part in state)


def warm_up(stepper: Steppable, prompt: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """Read the same tokens in every row.

    Args:
        stepper: The model.
        prompt: Ids (T,), at least one; without a text of its own that is the start id.
        state: For B rows, from ``init_state`` or an earlier stop.

    Returns:
        Logits of the token after the prompt, (B, V), and the state there.
    """
    assert len(prompt) > 0, "a prompt holds at least the start id"
    batch = state[0].shape[1]
    if batch == 1 and isinstance(stepper, Reader):
        return stepper.read(prompt, state)
    for token in prompt:
        logits, state = stepper.step(np.full(batch, token, dtype=np.int64), state)
    return logits, state


@dataclass(frozen=True)
class Passage:
    """What one call of ``Generation.write`` wrote, and where each row stood at each of its tokens.

    Attributes:
        ids: (B, n) int64.
        state_at: Gives the state of all rows when i of the tokens had been read, i from 0 to n.
        rng_states: Of each row's generator before the first token was drawn.
    """

    ids: np.ndarray
    state_at: Callable[[int], State]
    rng_states: list[dict[str, Any]]

    def place(self, row: int, count: int) -> tuple[State, dict[str, Any]]:
        """Where a row stood after ``count`` of its tokens, at least 1.

        Returns:
            The model's state, of this row alone, before the last of them was read; and that of the
            generator after it was drawn.
        """
        bits = np.random.PCG64(0)
        bits.state = self.rng_states[row]  # type: ignore[assignment]
        bits.advance(count)  # one step for each random number
        return select_rows(self.state_at(count - 1), [row]), dict(bits.state)


class Generation:
    """B texts in the making, and exactly where each of them stands.

    ``logits`` (B, V) are those of the next token, ``state`` is the model's after the last one, and
    ``rngs`` are the generators as they are now. These three are all there is: a Generation built
    from them (``rng_states``, ``restore_rngs``) goes on bit for bit. They change together when
    ``write`` returns, so a stop between two calls is always a clean one; for a stop within what one
    call wrote, see ``Passage.place``.
    """

    def __init__(
        self,
        stepper: Steps,
        config: DecodeConfig,
        *,
        logits: np.ndarray,
        state: State,
        rngs: list[np.random.Generator],
        banned_ids: Sequence[int] | np.ndarray = (),
        vetoes: Sequence[Veto] | None = None,
    ) -> None:
        """Start from what ``warm_up`` gave.

        Args:
            stepper: The model.
            config: How to choose; length, num, max_copy and seed are the caller's business.
            logits: Of the first token to write, (B, V), or (1, V) to start all rows alike.
            state: The model's state there, for as many rows as logits has.
            rngs: One per row, B of them, see ``row_rngs``.
            banned_ids: Ids that are never emitted, e.g. the unknown id.
            vetoes: One per row; called before each choice for the ids that this row must not emit
                now. Left out, nothing is vetoed.
        """
        assert len(logits) in (1, len(rngs)), "one generator per row"
        assert vetoes is None or len(vetoes) == len(rngs), "one veto per row"
        if len(logits) != len(rngs):
            rows = np.zeros(len(rngs), dtype=np.int64)
            logits, state = logits[rows], select_rows(state, rows)
        self.logits = logits
        self.state = state
        self.rngs = list(rngs)
        self._stepper = stepper
        self._config = config
        self._banned_ids = np.asarray(banned_ids, dtype=np.int64)
        self._vetoes = None if vetoes is None else list(vetoes)

    @property
    def rng_states(self) -> list[dict[str, Any]]:
        """The state of every row's generator, as plain numbers that JSON can hold."""
        return [dict(rng.bit_generator.state) for rng in self.rngs]

    def next(self) -> np.ndarray:
        """Write one token in every row; gives its ids, (B,) int64. See ``write``."""
        return self.write(1).ids[:, 0]

    def write(self, most: int) -> Passage:
        """Write up to ``most`` tokens in every row, at least one.

        A model that is a Writer gets as many as wanted done in one call, as long as there are no
        vetoes; others do one. The texts are the same either way.

        Returns:
            The tokens; never a banned or vetoed one. Filters such as top-k choose among the ids
            that are left after bans and vetoes.

        Raises:
            ConfigError: If nothing is left that a row may emit.
            CheckpointError: If the model's logits are not finite.
        """
        assert most >= 1, "nothing to write"
        before = self.rng_states
        try:
            if isinstance(self._stepper, Writer):
                written = self._write_by(self._stepper, 1 if self._vetoes else most)
            else:
                written = self._write_one()
        except BaseException:
            self._rewind(before, 0)
            raise
        count = written.ids.shape[1]
        if count < most and isinstance(self._stepper, Writer):
            self._rewind(before, count)
        self.logits, self.state = written.logits, written.state_at(count)
        return Passage(written.ids, written.state_at, before)

    def _rewind(self, before: list[dict[str, Any]], count: int) -> None:
        """Bring the generators to where they were after ``count`` more tokens than before."""
        for rng, state in zip(self.rngs, before, strict=True):
            rng.bit_generator.state = state
            rng.random(count)

    def _write_by(self, writer: Writer, most: int) -> Written:
        allowed = self._allowed()
        uniforms = np.stack([rng.random(most) for rng in self.rngs])
        written = writer.write(self.logits, self.state, uniforms, self._config, allowed)
        if written.ids.shape[1] == 0:  # say why
            probabilities(np.where(allowed, self.logits, -np.inf), self._config)
            raise AssertionError("a row of probabilities that the model could not draw from")
        return written

    def _write_one(self) -> Written:
        probs = probabilities(np.where(self._allowed(), self.logits, -np.inf), self._config)
        ids = invert(probs, np.array([rng.random() for rng in self.rngs]))
        before = self.state
        logits, after = self._stepper.step(ids, before)
        return Written(ids[:, None], logits, lambda step: after if step else before)

    def keep(self, rows: Sequence[int] | np.ndarray) -> None:
        """Go on with these rows only; their texts stay what they would have been."""
        index = np.asarray(rows, dtype=np.int64)
        self.logits = self.logits[index]
        self.state = select_rows(self.state, index)
        self.rngs = [self.rngs[row] for row in index]
        if self._vetoes is not None:
            self._vetoes = [self._vetoes[row] for row in index]

    def _allowed(self) -> np.ndarray:
        """Which ids may be emitted now, (B, V) or for all rows alike (1, V)."""
        rows = 1 if self._vetoes is None else len(self.rngs)
        allowed = np.ones((rows, self.logits.shape[1]), dtype=np.bool_)
        allowed[:, self._banned_ids] = False
        for row, veto in enumerate(self._vetoes or []):
            ids = veto()
            if len(ids) == 0:
                continue
            allowed[row, ids] = False
            if not (allowed[row] & ~np.isneginf(self.logits[row])).any():
                raise ConfigError(
                    f"--max-copy {self._config.max_copy}: whatever comes next, the text would "
                    "share a longer run of tokens with the training text; raise the limit"
                )
        return allowed
