"""A training run from its first update to its end, whatever is learned.

``fit`` is a generator of events, plain dicts that are at once the progress display, the lines of
metrics.jsonl and the output of ``train --json``. It knows neither who shows them nor where the data
came from. Inside: evaluation, rescue from divergence, and saving such that a resumed run is the run
that was never interrupted.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqtool.budget import Budget, Pace
from seqtool.checkpoint import Card, ModelDir
from seqtool.distributed import agree, world
from seqtool.errors import TrainingError
from seqtool.models import to_arrays
from seqtool.trainer import SPIKE, Diverged, Look, Snapshot, Trainer

Event = dict[str, Any]

SAVE_BYTES_PER_SECOND = 150e6  # guess before the first save is timed
RESCUES = 8  # halvings of the learning rate before a run gives up
SAVE_SECONDS = 60.0  # between two saves of the whole state, about: what a crash can cost


class Onlooker:
    """Takes part in saving and writes nothing: in place of a keeper in all processes but the first.

    What a keeper does beyond that overrides these methods; when to save is decided here for both,
    since all processes have to take the same turn.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self.saved_at = time.monotonic()
        self.last_save = 0.0  # how long it took

    @property
    def begun(self) -> bool:
        """Whether there is a directory: the first process knows."""
        return True

    def log(self, event: Event) -> Event:
        """The first process keeps the events."""
        return event

    def note_best(self, trainer: Trainer, found: Mapping[str, Any]) -> None:
        """The first process notes it."""

    def keep_best(self) -> str:
        """The first process says it."""
        return ""

    def save_last(self, trainer: Trainer, good: Snapshot) -> None:
        """Give the first process what only this one knows."""
        trainer.capture(copy=False)

    def is_due(self) -> bool:
        """Whether the last save is so long ago that a crash would cost too much."""
        return agree(time.monotonic() - self.saved_at > SAVE_SECONDS)

    def save(self, trainer: Trainer, good: Snapshot, *, at_once: bool) -> None:
        """After an evaluation: begin the directory at the first, then save now and then."""
        if at_once or self.is_due() or not agree(self.begun):
            self.save_last(trainer, good)

    def save_seconds(self, trainer: Trainer) -> float:
        """How long saving the best model and the whole state takes, measured or guessed."""
        floats = sum(p.numel() for p in trainer.model.parameters())
        # Weights, their average and two moments, and the model file: four bytes each.
        return self.last_save or 5 * 4 * floats / SAVE_BYTES_PER_SECOND


class Keeper(Onlooker):
    """Writes the model directory during a run: best weights, whole state, events."""

    def __init__(
        self,
        output: ModelDir,
        card: Card,
        tokenizer_json: str,
        parts: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        super().__init__(card)
        self.output = output
        self.parts = parts  # what is kept with the model and never changes, by file name
        self.tokenizer_json = tokenizer_json
        self.pending: list[Event] = []  # events from before the directory exists
        self.best: dict[str, np.ndarray] | None = None  # not yet written

    @property
    def begun(self) -> bool:
        """Whether there is a directory."""
        return self.output.begun

    def log(self, event: Event) -> Event:
        """Append an event to metrics.jsonl."""
        self.pending.append(event)
        if self.begun:
            self.output.append_events(self.pending)
            self.pending = []
        return event

    def note_best(self, trainer: Trainer, found: Mapping[str, Any]) -> None:
        """Take the averaged weights as the model that inference uses; ``save`` writes them.

        ``found`` is what the evaluation wants kept with them, JSON values.
        """
        with trainer.updater.averaged():
            self.best = to_arrays(trainer.model)
        best = {"step": trainer.step, **found}
        self.card = replace(self.card, extra=self.card.extra | {"best": best})

    def save_best(self, trainer: Trainer) -> None:
        """Write the best weights, if they are not written yet, and the card."""
        self.card = replace(self.card, train=trainer.config)
        if self.best is not None:
            self.output.save_best(self.best)
        self.output.save_card(self.card)
        self.best = None

    def _begin(self, trainer: Trainer, last: tuple[dict[str, np.ndarray], Event]) -> None:
        """Put the directory in place, such that a run killed at any later moment can go on."""
        if self.best is None:
            self.note_best(trainer, {})
        assert self.best is not None
        self.card = replace(self.card, train=trainer.config)
        self.output.begin(
            self.card, self.tokenizer_json, self.best, self.parts, last=last, events=self.pending
        )
        self.pending, self.best = [], None

    def keep_best(self) -> str:
        """At the end of a run that failed: write a better model not yet written; says what is kept.

        Without an evaluation there is none, and nothing is left in the way of another try.
        """
        if not self.begun:
            return "nothing was saved"
        if self.best is not None:
            self.output.save_best(self.best)
            self.output.save_card(self.card)
            self.best = None
        return "the best model so far is kept"

    def save_last(self, trainer: Trainer, good: Snapshot) -> None:
        """Write all that a resumed run needs, with the state a rescue would go back to."""
        began = time.monotonic()
        tensors, counters = trainer.capture(copy=False)
        stored = {f"now.{name}": tensor.numpy(force=True) for name, tensor in tensors.items()}
        if good.counters["step"] != trainer.step:
            stored |= {f"good.{name}": t.numpy(force=True) for name, t in good.tensors.items()}
        last = stored, {"now": counters, "good": good.counters}
        if self.begun:
            self.save_best(trainer)
            self.output.save_last(*last)
        else:
            self._begin(trainer, last)
        self.saved_at = time.monotonic()
        self.last_save = self.saved_at - began


def restore_last(
    trainer: Trainer, stored: dict[str, np.ndarray], counters: dict[str, Any]
) -> Snapshot:
    """Put a trainer where ``Keeper.save_last`` left one; gives the state a rescue goes back to."""
    tensors: dict[str, dict[str, Tensor]] = {"now": {}, "good": {}}
    for name, array in stored.items():
        which, _, rest = name.partition(".")
        tensors[which][rest] = torch.from_numpy(array)
    trainer.restore(tensors["now"], counters["now"])
    if tensors["good"]:
        return Snapshot(tensors["good"], counters["good"])
    return Snapshot(*trainer.capture())


def fit(
    trainer: Trainer,
    keeper: Onlooker,
    *,
    budget: Budget | None = None,
    good: Snapshot | None = None,
    write_sample: Callable[[], str] | None = None,
    interrupted: Callable[[], str | None] = lambda: None,
) -> Iterator[Event]:
    """Train until the last step, the end of patience, or an interruption.

    Args:
        trainer: The run, new or restored.
        keeper: Where models, states and events are written.
        budget: Turns time into ``config.steps``; None trains for the configured number.
        good: Where the first rescue goes back to; None for the present state.
        write_sample: Gives a text written by the present averaged weights.
        interrupted: Asked after each step; a reason ends the run, saved such that it can go on.

    Yields:
        Events: report, eval, sample, plan, rescue, end.

    Raises:
        TrainingError: If training diverged more often than lowering the learning rate could cure.
        SeqtoolError: If the model cannot be written.
    """
    pace = None
    if budget and not trainer.step and world().first:  # in a resumed run the length is settled
        pace = Pace(trainer, budget, lambda: keeper.save_seconds(trainer))
    started = time.monotonic() if budget is None else budget.started
    budget_given = budget.given if budget else frozenset()
    good = good or Snapshot(*trainer.capture())
    rate = RateMeter(trainer)

    def log(event: Event) -> Event:
        return keeper.log(event | {"seconds": round(time.monotonic() - started, 3)})

    while trainer.step < trainer.config.steps:
        began = time.monotonic()
        try:
            _, norm = trainer.update()
        except Diverged as why:
            yield log(_rescue(trainer, keeper, good, why))
            continue
        if pace:
            pace.note_step(time.monotonic() - began)
            if pace.due() and pace.fix():
                yield log(_plan_event(trainer, pace))
        # Whether nobody knows yet how far it is, and what is known.
        measuring, config = agree((pace is not None and not pace.fixed, trainer.config))
        trainer.follow(config)
        step = trainer.step
        last = step >= config.steps
        if (step % config.report_every == 0 or last) and not measuring:
            yield log(rate.report(norm))
        # Before the length is known, so is how often to look, unless somebody said it.
        looking = not measuring or "eval_every" in budget_given
        if (step % config.eval_every == 0 and looking) or last:
            began = time.monotonic()
            yield log(_evaluate(trainer, keeper))
            if write_sample and not config.sample_every:
                yield log({"event": "sample", "step": step, "text": write_sample()})
            good = _snapshot(trainer, good)
            keeper.save(trainer, good, at_once=last)
            rate.restart()
            if pace:
                pace.evaluation_seconds = time.monotonic() - began
            if config.patience and trainer.stale >= config.patience:
                break
        elif step % config.report_every == 0 and not measuring and keeper.is_due():
            keeper.save_last(trainer, good)
            rate.restart()
        if write_sample and config.sample_every and step % config.sample_every == 0:
            began = time.monotonic()
            yield log({"event": "sample", "step": step, "text": write_sample()})
            rate.restart()
            if pace:
                pace.sample_seconds = time.monotonic() - began
        reason = agree(interrupted())
        if reason and not last:
            if pace and not pace.fixed:
                pace.fix()
            keeper.save_last(trainer, good)
            yield log(_end(trainer, reason))
            return
    stopped_early = trainer.step < trainer.config.steps
    if stopped_early:
        keeper.save_last(trainer, good)
    yield log(_end(trainer, "early stop" if stopped_early else "done"))


class RateMeter:
    """Tokens per second and time left, without the time that evaluations take."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.seconds = 0.0
        self.steps = 0
        self.restart()

    def restart(self) -> None:
        """Begin a stretch of uninterrupted updates."""
        self.since = time.monotonic()
        self.step = self.trainer.step
        self.tokens = self.trainer.objective.tokens

    def report(self, norm: float) -> Event:
        """The event of one line of progress; the loss is the mean since the last one."""
        trainer, config = self.trainer, self.trainer.config
        now = time.monotonic()
        seconds, steps = now - self.since, max(1, trainer.step - self.step)
        tokens = max(0, trainer.objective.tokens - self.tokens)  # a rescue goes back
        self.seconds, self.steps = self.seconds + seconds, self.steps + steps
        self.restart()
        loss = trainer.loss_sum / max(1, trainer.loss_count)
        trainer.loss_sum, trainer.loss_count = 0.0, 0
        return {
            "event": "report",
            "step": trainer.step,
            "steps": config.steps,
            "epoch": round(trainer.objective.epoch, 4),
            "loss": loss,
            **trainer.objective.units(loss),
            "lr": trainer.updater.last_lr,
            "grad_norm": norm,
            "tokens_per_s": tokens / max(seconds, 1e-9),
            "seconds_left": (config.steps - trainer.step) * self.seconds / self.steps,
        }


def _plan_event(trainer: Trainer, pace: Pace) -> Event:
    return {
        "event": "plan",
        "step": trainer.step,
        "steps": trainer.config.steps,
        "reason": f"{pace.step_seconds * 1000:.1f} ms a step in a {pace.budget.seconds:g} s budget",
    }


def _snapshot(trainer: Trainer, good: Snapshot) -> Snapshot:
    """The present state, unless the loss has been creeping up since the last good one."""
    before = good.counters["loss_mean"]
    creeping = trainer.loss_mean > before + SPIKE / 2  # false for the nan of a first snapshot
    if creeping and trainer.excused <= good.counters["step"]:
        return good
    return Snapshot(*trainer.capture())


def _rescue(trainer: Trainer, keeper: Onlooker, good: Snapshot, why: Diverged) -> Event:
    """Go back to the last good state with half the learning rate.

    A jump that comes again at the same step and nearly as high, although the rate was halved, is
    the data's doing, such as another language: then the rate is restored and the jump let pass. (A
    state that explodes is another matter: it grows by a power of weights that the rate has moved,
    and not beyond a chunk, see language.)
    """
    failed, scale, excused = trainer.step, trainer.lr_scale, trainer.excused
    again = failed == trainer.jump_step and why.loss > 0.9 * trainer.jump_loss
    if not again and scale / 2 < 0.5**RESCUES:
        kept = keeper.keep_best()
        lr = trainer.config.lr * scale
        raise TrainingError(
            f"training diverged at step {failed} ({why}) even with the learning rate lowered to "
            f"{lr:.1e}; {kept}. Try --lr {lr / 4:.0e} or --clip-norm 0.25"
        )
    best = trainer.best, trainer.best_step, trainer.stale
    trainer.restore(good.tensors, good.counters)
    trainer.best, trainer.best_step, trainer.stale = best  # true of the model that is kept
    trainer.lr_scale = min(1.0, scale * 2) if again else scale / 2
    trainer.jump_step, trainer.jump_loss = failed, why.loss
    trainer.excused = failed if again else excused
    lr = trainer.config.lr * trainer.lr_scale
    action = f"learning rate halved to a peak of {lr:.2e}"
    if again:
        action = f"it is the data that change there; learning rate back to a peak of {lr:.2e}"
    return {
        "event": "rescue",
        "step": failed,
        "reason": str(why),
        "action": action,
        "back_to": trainer.step,
    }


def _evaluate(trainer: Trainer, keeper: Onlooker) -> Event:
    look: Look = trainer.evaluate()
    better = look.loss is None or look.loss < trainer.best
    if look.loss is None:
        keeper.note_best(trainer, look.card)
    elif better:
        trainer.best, trainer.best_step, trainer.stale = look.loss, trainer.step, 0
        keeper.note_best(trainer, look.card)
    else:
        trainer.stale += 1
    return {"event": "eval", "step": trainer.step, **look.scores, "best": better}


def _end(trainer: Trainer, reason: str) -> Event:
    return {
        "event": "end",
        "step": trainer.step,
        "steps": trainer.config.steps,
        "reason": reason,
        "best_val_loss": trainer.best if math.isfinite(trainer.best) else None,
        "best_step": trainer.best_step if math.isfinite(trainer.best) else None,
    }
