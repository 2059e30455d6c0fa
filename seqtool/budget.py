"""A promised time as a number of updates: measured at first, corrected until the end.

While the learning rate is flat the number may follow the measured speed freely, for nothing done so
far depends on it. Once the rate falls, a correction bends the fall: it goes on from the rate
reached, straight to the floor at the new end. Bends are part of the config, so that a run is
repeated and resumed exactly; a run at a steady speed has none.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from seqtool.distributed import agree
from seqtool.optim import decay_start, fewest_steps
from seqtool.trainer import Diverged, Trainer

EVALUATIONS = 12  # looks at the validation text in a run with a budget, at most
EVALUATION_SHARE = 0.04  # of the budget, for all of them together
CLOSING_SECONDS = 0.6  # from the last save to the end of the process
SETTLE = 3  # first updates, slower than the rest, that no timing counts
TRIED = 16  # updates timed before it is known how many networks the time is enough for
# How far off the end must be before the fall is bent: a share of the time left, which is no better
# known, and of the budget, but of a long one no more than some seconds.
TOLERANCE, SLACK, SLACK_SECONDS = 0.04, 0.02, 5.0


@dataclass
class Budget:
    """A promise of how long the whole command takes, in seconds since ``started``."""

    seconds: float
    started: float  # time.monotonic() when the command began
    given: frozenset[str] = frozenset()  # settings of the rhythm that the user fixed
    most_steps: int | None = None  # more would not help: the run ends early

    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.started + self.seconds - time.monotonic()


class Pace:
    """Turns the time that is left into a number of steps, from all that has been timed."""

    def __init__(self, trainer: Trainer, budget: Budget, save_seconds: Callable[[], float]) -> None:
        """Stand before the first update.

        Args:
            trainer: Its config is changed as the speed becomes known.
            budget: The promise.
            save_seconds: Tells how long the last save will take.
        """
        self.trainer = trainer
        self.budget = budget
        self.save_seconds = save_seconds
        self.durations: deque[float] = deque(maxlen=100)
        self.skip = SETTLE
        self.timed = 0.0
        self.evaluation_seconds = 0.0  # of one, with its sample and its save
        self.sample_seconds = 0.0  # of one that --sample-every asked for
        self.reached = 0  # the furthest step; a rescue goes back behind it
        self.fixed = False

    def note_step(self, seconds: float) -> None:
        """Count one update's duration."""
        self.reached = max(self.reached, self.trainer.step)
        self.timed += seconds
        if self.skip >= 0:
            self.skip -= 1
            self.durations.clear()  # the slow ones count only until there is a better one
        self.durations.append(seconds)

    def left(self) -> float:
        """Seconds for updates and the looks between them: less the look and the save at the end.

        The last look has no full stretch of updates to share its cost with: on a busy machine, or
        with much held out, it alone carried a run seconds past its budget.
        """
        closing = self.evaluation_seconds + self.save_seconds() + CLOSING_SECONDS
        return self.budget.left() - closing

    @property
    def step_seconds(self) -> float:
        """Mean duration of the recent updates."""
        return max(1e-6, sum(self.durations) / max(1, len(self.durations)))

    @property
    def seconds_per_step(self) -> float:
        """What an update costs with its share of evaluations and samples."""
        config = self.trainer.config
        samples = self.sample_seconds / config.sample_every if config.sample_every else 0.0
        return self.step_seconds + self.evaluation_seconds / config.eval_every + samples

    def due(self) -> bool:
        """Whether to look at the clock now: once the first steps are timed, then at each report."""
        trainer = self.trainer
        if not self.fixed:
            wanted = min(2.0, 0.03 * self.budget.seconds)
            few = len(self.durations) < 5 and self.timed < 0.2 * self.budget.seconds
            return self.timed >= wanted and not few
        return trainer.step % trainer.config.report_every == 0

    def fix(self) -> bool:
        """Set or correct the run's number of steps.

        Returns:
            Whether that is news: at first, when the rate begins to fall, and at a bend.
        """
        trainer = self.trainer
        first = not self.fixed
        if first:
            self._set_rhythm()
        steps = trainer.step + max(1, int(self.left() / self.seconds_per_step))
        most = self.budget.most_steps
        if most is not None:  # the run was begun with so many: its fall may have begun as well
            steps = min(steps, most)
        if (first and most is None) or self.reached < decay_start(trainer.config):
            trainer.set_lengths(steps=max(steps, fewest_steps(self.reached, trainer.config)))
            return first or not self._open()
        return self._bend(steps) or first

    def _set_rhythm(self) -> None:
        """How often the run reports and evaluates."""
        trainer = self.trainer
        expected = max(1, int(self.left() / self.step_seconds))
        if self.budget.most_steps is not None:
            expected = min(expected, max(1, self.budget.most_steps - trainer.step))
        # A short run has better things to do than to look at itself.
        looks = min(EVALUATIONS, max(4, int(math.sqrt(self.budget.seconds))))
        batch_tokens = trainer.objective.tokens / max(1, trainer.step)
        tokens_per_second = batch_tokens / self.step_seconds
        # Scoring costs about a third of training: it has no backward pass.
        share = EVALUATION_SHARE * self.budget.seconds / looks
        rhythm = {
            "report_every": max(1, round(min(1.0 / self.step_seconds, expected / 20))),
            "eval_every": max(1, -(-(trainer.step + expected) // looks)),
            "eval_tokens": int(min(1_000_000, max(4_000, share * 3 * tokens_per_second))),
        }
        trainer.set_lengths(
            **{name: n for name, n in rhythm.items() if name not in self.budget.given}
        )
        self.evaluation_seconds = share
        self.fixed = True

    def _open(self) -> bool:
        """Whether the next report may still change the number of steps freely."""
        config = self.trainer.config
        upcoming = (self.trainer.step // config.report_every + 1) * config.report_every
        return upcoming < decay_start(config)

    def _bend(self, steps: int) -> bool:
        """Let the falling rate end after so many steps, if that makes a difference."""
        trainer, config = self.trainer, self.trainer.config
        off = abs(steps - config.steps) * self.seconds_per_step
        allowed = TOLERANCE * max(0.0, self.left())
        allowed += min(SLACK * self.budget.seconds, SLACK_SECONDS)
        # What is done a second time, after a rescue, keeps the rates of the first.
        again = trainer.step < self.reached
        if again or trainer.step >= config.steps or off <= allowed:
            return False
        bends = (*config.bends, (trainer.step, config.steps))
        trainer.set_lengths(steps=steps, bends=bends)
        return True


def time_run(trainer: Trainer) -> float:
    """Seconds that all updates of a run take, told from a few that leave its trainer of no use.

    Tokens are counted, not updates, because batches differ in their length.
    """
    began, before = time.monotonic(), 0
    for update in range(SETTLE + TRIED):
        if update == SETTLE:
            began, before = time.monotonic(), trainer.objective.tokens
        with suppress(Diverged):  # the run itself will go back; here only the time counts
            trainer.update()
    per_token = (time.monotonic() - began) / (trainer.objective.tokens - before)
    in_all = trainer.objective.tokens * trainer.config.steps / (SETTLE + TRIED)
    return agree(per_token * in_all)
