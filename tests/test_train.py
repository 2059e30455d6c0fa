"""Training: a resumed run is the unbroken run, budgets become steps, divergence is survived."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from seqtool import language
from seqtool.budget import SLACK, Budget
from seqtool.cells import detach, reset
from seqtool.checkpoint import Card, ModelDir, load, load_last
from seqtool.config import DataConfig, ModelConfig, TrainConfig
from seqtool.data import Corpus, load_corpus
from seqtool.diagnostics import Flow
from seqtool.errors import TrainingError
from seqtool.language import NextToken
from seqtool.models import Stepper, build_model, shapes
from seqtool.optim import decay_start, learning_rate
from seqtool.shapes import check_weights
from seqtool.train import RESCUES, Event, Keeper, fit, restore_last
from seqtool.trainer import Look, Snapshot, Trainer

TIMING = {"seconds", "tokens_per_s", "seconds_left"}
DATA = DataConfig()
SMALL = ModelConfig(hidden_size=8, embed_size=4, ngram_order=3, ngram_buckets=31)
SHORT = TrainConfig(
    steps=40, batch_size=3, bptt=6, lr=0.01, warmup=3, report_every=4, eval_every=10, eval_tokens=90
)
MODELS = {
    "lstm": replace(SMALL, dropout=0.3, ngram_dropout=0.3),
    "gru": replace(SMALL, cell="gru", num_layers=2, ngram_order=1),
    "rnn": replace(SMALL, cell="rnn", dropout=0.2),
    "stochastic": replace(SMALL, cell="rnn", nonlinearity="stochastic"),
}


def make_corpus(tmp_path: Path, text: str, **options: Any) -> Corpus:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return load_corpus(str(path), replace(DATA, **options))


def some_text(lines: int = 60) -> str:
    rng = np.random.default_rng(1)
    words = ["tar", "rat", "art", "see", "ear", "tea", "sea", "at"]
    return "".join(" ".join(rng.choice(words, 4)) + ".\n" for _ in range(lines))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path, some_text())


class Poked(Trainer):
    """Its weights break at given steps, as long as the learning rate is above a bound."""

    poke_at: Callable[[int], bool] = staticmethod(lambda step: False)
    bound = 0.9

    def update(self) -> tuple[float, float]:
        if self.poke_at(self.step) and self.lr_scale > self.bound:
            with torch.no_grad():
                dict(self.model.named_parameters())["output.bias"][0] = math.inf
        return super().update()


@dataclass
class Run:
    """One run and the directory it writes."""

    trainer: Trainer
    keeper: Keeper
    good: Snapshot | None = None

    def events(self, **options: Any) -> list[Event]:
        return list(fit(self.trainer, self.keeper, good=self.good, **options))


def start(
    corpus: Corpus,
    path: Path,
    model: ModelConfig = SMALL,
    config: TrainConfig = SHORT,
    kind: type[Trainer] = Trainer,
) -> Run:
    torch.manual_seed(config.seed)
    size = corpus.tokenizer.vocab_size
    card = Card("generate", model, DATA, config, size, {})
    net = build_model(model, size, unknown_id=corpus.tokenizer.unknown_id)
    keeper = Keeper(ModelDir.create(path), card, corpus.tokenizer.to_json())
    return Run(kind(NextToken(net, corpus, config), config), keeper)


def resume(corpus: Corpus, path: Path, kind: type[Trainer] = Trainer) -> Run:
    """As a new process would: nothing but the directory is known."""
    torch.manual_seed(12345)
    saved = load(path)
    net = build_model(saved.card.model, saved.card.vocab_size, unknown_id=1)
    check_weights(saved.weights, shapes(net), "here")
    trainer = kind(NextToken(net, corpus, saved.card.train), saved.card.train)
    good = restore_last(trainer, *load_last(path))
    return Run(trainer, Keeper(ModelDir.resume(path), saved.card, saved.tokenizer_json), good)


def sampler(run: Run) -> Callable[[], str]:
    """A sample that draws from torch's generator where units are stochastic."""

    def write() -> str:
        stepper = Stepper(run.trainer.objective.model)  # type: ignore[arg-type]
        with run.trainer.updater.averaged():
            logits, _ = stepper.step(np.array([2]), stepper.init_state(1))
        return str(logits.argmax())

    return write


def look(loss: float) -> Look:
    """An evaluation that finds this loss."""
    return Look(loss, {"val_loss": loss}, {"valid_nats_per_token": loss})


def timeless(events: list[Event]) -> list[Event]:
    return [{k: v for k, v in event.items() if k not in TIMING} for event in events]


def metrics(path: Path) -> list[Event]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return timeless([json.loads(line) for line in lines])


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(np.asarray(one[name]), np.asarray(other[name])), name


def run_in_pieces(
    corpus: Corpus, path: Path, stops: list[int], **options: Any
) -> tuple[Trainer, list[Event]]:
    """A run that is interrupted after each of ``stops`` and resumed from its directory alone."""
    kind = options.get("kind", Trainer)
    run, events = start(corpus, path, **options), []
    for stop in [*stops, -1]:

        def interrupted(run: Run = run, stop: int = stop) -> str | None:
            return "SIGINT" if run.trainer.step == stop else None

        events += run.events(interrupted=interrupted, write_sample=sampler(run))
        if stop >= 0:
            assert events.pop()["reason"] == "SIGINT"
            run = resume(corpus, path, kind)
            assert run.trainer.step == stop
    return run.trainer, events


def assert_pieces_equal_the_whole(
    corpus: Corpus, tmp_path: Path, stops: list[int], **options: Any
) -> list[Event]:
    whole = start(corpus, tmp_path / "whole", **options)
    events = whole.events(write_sample=sampler(whole))
    trainer, others = run_in_pieces(corpus, tmp_path / "pieces", stops, **options)
    assert_same(weights(trainer), weights(whole.trainer))
    assert timeless(others) == timeless(events)
    assert metrics(tmp_path / "pieces") == metrics(tmp_path / "whole")
    one, other = load(tmp_path / "pieces"), load(tmp_path / "whole")
    assert_same(one.weights, other.weights)
    assert one.card == other.card
    ours, theirs = load_last(tmp_path / "pieces"), load_last(tmp_path / "whole")
    assert_same(ours[0], theirs[0])
    assert ours[1] == theirs[1] or json.dumps(ours[1]) == json.dumps(theirs[1])  # nan
    return events


@pytest.mark.parametrize("name", MODELS)
def test_captured_trainer_goes_on_bit_for_bit(name, corpus, tmp_path):
    run = start(corpus, tmp_path / "m", MODELS[name], replace(SHORT, restart=0.3))
    for _ in range(7):
        run.trainer.update()
    captured = run.trainer.capture()
    kept = copy.deepcopy(captured)
    losses = [run.trainer.update() for _ in range(6)]
    after = run.trainer.capture()
    assert_same(captured[0], kept[0])  # a copy, not a view
    other = start(corpus, tmp_path / "m", MODELS[name], replace(SHORT, restart=0.3)).trainer
    other.update()
    for trainer in (run.trainer, other):
        trainer.restore(captured[0], json.loads(json.dumps(captured[1])))
        assert [trainer.update() for _ in range(6)] == losses
        again = trainer.capture()
        assert_same(again[0], after[0])
        assert json.dumps(again[1]) == json.dumps(after[1])


@pytest.mark.parametrize("name", MODELS)
def test_interrupted_run_equals_the_unbroken_one(name, corpus, tmp_path):
    """Before the first evaluation, between reports, right after an evaluation, in the decay."""
    config = replace(SHORT, restart=0.3)
    assert decay_start(config) == 20
    stops = [3, 6, 10, 11, 27, 39]
    assert_pieces_equal_the_whole(corpus, tmp_path, stops, model=MODELS[name], config=config)


@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd"])
def test_interrupted_run_equals_the_unbroken_one_with_any_optimizer(optimizer, corpus, tmp_path):
    config = replace(SHORT, optimizer=optimizer, steps=30, average=0, sample_every=7)
    assert_pieces_equal_the_whole(corpus, tmp_path, [1, 14, 25], config=config)


@pytest.mark.parametrize("stops", [[20], [23], [9, 21, 38]])
def test_rescue_after_a_resume_equals_that_of_the_unbroken_run(stops, corpus, tmp_path):
    class Breaking(Poked):
        poke_at = staticmethod(lambda step: step == 23)

    events = assert_pieces_equal_the_whole(
        corpus, tmp_path, stops, kind=Breaking, model=MODELS["stochastic"]
    )
    rescue = next(event for event in events if event["event"] == "rescue")
    assert (rescue["step"], rescue["back_to"]) == (23, 20)
    assert "not finite" in rescue["reason"]
    later = [e for e in events[events.index(rescue) :] if e["event"] == "report"]
    assert later[0]["lr"] == pytest.approx(0.5 * 0.01 * 16 / 19)  # of step 23, halved
    assert events[-1]["reason"] == "done"


def test_rescue_keeps_what_is_known_of_the_best_model(corpus, tmp_path):
    class Breaking(Poked):
        poke_at = staticmethod(lambda step: step == 12)

    run = start(corpus, tmp_path / "m", kind=Breaking)
    best = []
    for event in fit(run.trainer, run.keeper):
        if event["event"] == "rescue":
            assert (run.trainer.best, run.trainer.best_step) == (best[-1], 10)
        if event["event"] == "eval":
            best.append(event["val_loss"])
    assert len(best) == 4  # step 10 is not evaluated twice
    assert run.trainer.best == min(best)


def test_run_that_always_breaks_gives_up_and_keeps_its_best_model(corpus, tmp_path):
    class Breaking(Poked):
        poke_at = staticmethod(lambda step: step >= 12)
        bound = 0.0

    run, events = start(corpus, tmp_path / "m", kind=Breaking), []
    with pytest.raises(TrainingError, match="best model so far is kept") as error:
        events += fit(run.trainer, run.keeper)
    assert f"lowered to {0.01 / 2**RESCUES:.1e}" in str(error.value)
    assert "\n" not in str(error.value)
    saved = load(tmp_path / "m")
    assert saved.card.extra["best"]["step"] == 10
    assert all(np.isfinite(value).all() for value in saved.weights.values())
    assert sum(e["event"] == "rescue" for e in metrics(tmp_path / "m")) == RESCUES


def test_better_model_not_yet_written_is_written_when_a_run_gives_up(corpus, tmp_path):
    class Breaking(Poked):
        poke_at = staticmethod(lambda step: step >= 32)
        bound = 0.0

    run = start(corpus, tmp_path / "m", kind=Breaking)
    with pytest.raises(TrainingError):
        run.events()
    assert run.trainer.best_step > 10  # the first is written at once, later ones now and then
    assert load(tmp_path / "m").card.extra["best"]["step"] == run.trainer.best_step


def test_run_that_breaks_before_its_first_evaluation_leaves_nothing_behind(corpus, tmp_path):
    class Breaking(Poked):
        poke_at = staticmethod(lambda step: step >= 2)
        bound = 0.0

    run = start(corpus, tmp_path / "m", kind=Breaking)
    with pytest.raises(TrainingError, match="nothing was saved"):
        run.events()
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["lstm", "rnn"])
@pytest.mark.parametrize("lr", [0.4, 1e4])
def test_absurd_learning_rate_still_ends_with_a_usable_model_or_an_error(
    name, lr, corpus, tmp_path
):
    config = replace(SHORT, steps=100, lr=lr, eval_every=25)
    run = start(corpus, tmp_path / "m", MODELS[name], config)
    try:
        events = run.events()
    except TrainingError:
        assert lr > 1
        return
    if lr < 1:
        assert events[-1]["best_val_loss"] < math.log(corpus.tokenizer.vocab_size)
    saved = load(tmp_path / "m")
    assert all(np.isfinite(value).all() for value in saved.weights.values())


def test_state_of_relu_units_does_not_grow_from_chunk_to_chunk(corpus, tmp_path):
    model = replace(SMALL, cell="rnn", nonlinearity="relu", hidden_size=64)
    config = replace(SHORT, steps=150, lr=0.01, eval_every=150, bptt=32, restart=0.0)
    run = start(corpus, tmp_path / "m", model, config)
    events = run.events()
    assert [event for event in events if event["event"] == "rescue"] == []
    assert events[-1]["best_val_loss"] < math.log(corpus.tokenizer.vocab_size)
    objective = run.trainer.objective
    assert isinstance(objective, NextToken)
    assert objective.state[0].square().mean().sqrt() < 10


def test_relu_units_begin_each_chunk_from_zero_but_keep_recent_tokens(corpus, tmp_path):
    run = start(corpus, tmp_path / "m", replace(SMALL, cell="rnn", nonlinearity="relu"))
    objective = run.trainer.objective
    assert isinstance(objective, NextToken)
    for _ in range(2):
        run.trainer.update()
    layers, recent = objective.state
    assert layers.abs().max() > 0
    restart = torch.zeros(recent.shape[1], dtype=torch.bool)
    restart[0] = True
    began = objective._start(restart)
    assert not began[0].any()
    assert not began[1][:, 0].any()
    assert torch.equal(began[1][:, 1:], recent[:, 1:])


def test_jump_that_the_text_makes_is_not_taken_for_divergence(tmp_path):
    letters = np.random.default_rng(1).choice(list("cdefghijklmnop"), 300)
    corpus = make_corpus(tmp_path, "ab" * 500 + "".join(letters), valid_fraction=0.0)
    config = replace(SHORT, steps=250, batch_size=1, bptt=8, lr=0.02, eval_every=40, restart=0.0)
    run = start(corpus, tmp_path / "m", replace(SMALL, ngram_order=1), config)
    events = run.events()
    actions = [event["action"] for event in events if event["event"] == "rescue"]
    assert actions  # or this text is no test
    assert len(actions) % 2 == 0
    assert all("halved" in action for action in actions[::2])
    assert all("data" in action for action in actions[1::2])
    assert run.trainer.lr_scale == 1.0
    assert events[-1]["reason"] == "done"


def test_runs_end_when_nothing_gets_better(corpus, tmp_path):
    config = replace(SHORT, steps=400, lr=1e-9, table_lr=1e-9, patience=3, average=0)
    run = start(corpus, tmp_path / "m", config=config)
    run.trainer.evaluate = lambda: look(1.0 if run.trainer.step < 20 else 2.0)
    events = run.events()
    assert events[-1] == events[-1] | {"reason": "early stop", "step": 40, "best_step": 10}
    again = resume(corpus, tmp_path / "m")  # and can be taken up again
    assert (again.trainer.step, again.trainer.stale) == (40, 3)


def test_zero_patience_never_stops(corpus, tmp_path):
    run = start(corpus, tmp_path / "m", config=replace(SHORT, eval_every=2, patience=0))
    run.trainer.evaluate = lambda: look(1.0)
    assert run.events()[-1]["reason"] == "done"


def test_without_held_out_text_the_last_model_is_kept(tmp_path):
    corpus = make_corpus(tmp_path, some_text(), valid_fraction=0.0)
    run = start(corpus, tmp_path / "m")
    events = run.events()
    evals = [event for event in events if event["event"] == "eval"]
    assert [e["val_loss"] for e in evals] == [None] * 4
    assert all(e["best"] for e in evals)
    assert events[-1]["best_val_loss"] is None
    saved = load(tmp_path / "m")
    assert saved.card.extra["best"] == {"step": 40}
    with run.trainer.updater.averaged():
        assert_same(saved.weights, weights(run.trainer))


def test_best_model_is_the_one_with_the_lowest_validation_loss(corpus, tmp_path):
    run = start(corpus, tmp_path / "m", config=replace(SHORT, patience=0))
    planned = iter([3.0, 1.0, 2.0, 1.5])
    run.trainer.evaluate = lambda: look(next(planned))
    kept = {}
    for event in fit(run.trainer, run.keeper):
        if event["event"] == "eval" and event["best"]:
            with run.trainer.updater.averaged():
                kept = weights(run.trainer)
    assert run.trainer.best_step == 20
    saved = load(tmp_path / "m")
    assert_same(saved.weights, kept)
    assert saved.card.extra["best"] == {"step": 20, "valid_nats_per_token": 1.0}


def test_events_have_their_keys(corpus, tmp_path):
    run = start(corpus, tmp_path / "m")
    events = run.events(write_sample=lambda: "written")
    keys = {event["event"]: set(event) - {"event", "step", "seconds"} for event in events}
    assert keys == {
        "report": {
            *("steps", "epoch", "loss", "bits_per_char", "lr", "grad_norm"),
            *("tokens_per_s", "seconds_left"),
        },
        "eval": {"val_loss", "val_bits_per_char", "best"},
        "sample": {"text"},
        "end": {"steps", "reason", "best_val_loss", "best_step"},
    }
    kinds = [event["event"] for event in events]
    assert [kinds.count(kind) for kind in ("report", "eval", "sample", "end")] == [10, 4, 4, 1]
    assert metrics(tmp_path / "m") == timeless(events)
    reports = [event for event in events if event["event"] == "report"]
    assert reports[-1]["lr"] == 0.0
    assert [event["step"] for event in reports] == list(range(4, 41, 4))
    per_char = len(corpus.train) / corpus.train_chars / math.log(2)
    assert reports[0]["bits_per_char"] == pytest.approx(reports[0]["loss"] * per_char)


def test_reported_loss_is_the_mean_since_the_last_report(corpus, tmp_path):
    run = start(corpus, tmp_path / "m")
    losses = []
    update = run.trainer.update

    def noted() -> tuple[float, float]:
        result = update()
        losses.append(result[0])
        return result

    run.trainer.update = noted
    reports = [event["loss"] for event in run.events() if event["event"] == "report"]
    assert reports == pytest.approx(np.mean(np.reshape(losses, (10, 4)), axis=1))


def test_no_gradient_crosses_the_chunk_boundary(corpus, tmp_path):
    """The gradient of a chunk is that of the chunk alone, its first state a constant."""
    config = replace(SHORT, restart=0.5, clip_norm=0.0, batch_size=4)
    trainer = start(corpus, tmp_path / "m", config=config).trainer
    for _ in range(5):
        trainer.update()
    state = trainer.objective.state
    streams = copy.deepcopy(trainer.objective.streams)
    model = copy.deepcopy(trainer.model)
    trainer.model.ngrams.dropout = model.ngrams.dropout = 0.0
    trainer.update()
    batch = streams.next()
    constants = tuple(torch.tensor(part.numpy(force=True)) for part in state)
    logits, _ = model(
        torch.from_numpy(batch.inputs), reset(constants, torch.from_numpy(batch.restart))
    )
    loss = functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
    model.zero_grad()
    loss.backward()
    for mine, alone in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert mine.grad is not None
        assert alone.grad is not None
        assert_close(mine.grad.to_dense(), alone.grad.to_dense())
    assert all(torch.equal(a, b) for a, b in zip(detach(state), constants, strict=True))


def test_learns_a_line_by_heart(tmp_path):
    corpus = make_corpus(tmp_path, "one two three four five six seven\n" * 40)
    config = replace(SHORT, steps=120, bptt=24, lr=0.02, warmup=5, eval_every=40, eval_tokens=400)
    events = start(corpus, tmp_path / "m", replace(SMALL, hidden_size=16), config).events()
    losses = [event["loss"] for event in events if event["event"] == "report"]
    assert losses[0] > 2.0
    assert losses[-1] < 0.5
    assert events[-1]["best_val_loss"] < 0.5


class Clock:
    """Time that passes only in updates (and, once, in evaluations)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
        self.now = 100.0
        self.step_seconds: Callable[[int], float] = lambda step: 0.01
        self.evaluation_seconds = 0.0
        for module in ("train", "budget"):
            clock = SimpleNamespace(monotonic=lambda: self.now)
            monkeypatch.setattr(f"seqtool.{module}.time", clock)
        update, evaluate = run.trainer.update, run.trainer.evaluate

        def timed_update() -> tuple[float, float]:
            self.now += self.step_seconds(run.trainer.step)
            return update()

        def timed_evaluation() -> Look:
            self.now += self.evaluation_seconds
            return evaluate()

        monkeypatch.setattr(run.trainer, "update", timed_update)
        monkeypatch.setattr(run.trainer, "evaluate", timed_evaluation)
        run.keeper.saved_at = self.now


UNKNOWN = replace(SHORT, steps=10**9, patience=0, eval_every=100, report_every=10)


def run_within(
    corpus: Corpus,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seconds: float,
    step_seconds: Callable[[int], float],
    evaluation_seconds: float = 0.0,
    sample_seconds: float = 0.0,
    interrupted: Callable[[Run], str | None] = lambda run: None,
    config: TrainConfig = UNKNOWN,
    kind: type[Trainer] = Trainer,
) -> tuple[Run, list[Event], float]:
    """A run with a budget; gives its events and the seconds it took."""
    run = start(corpus, path, config=config, kind=kind)

    def write_sample() -> str:
        clock.now += sample_seconds
        return "written"

    clock = Clock(monkeypatch, run)
    clock.step_seconds, clock.evaluation_seconds = step_seconds, evaluation_seconds
    budget = Budget(seconds, started=clock.now)
    events = run.events(
        budget=budget, interrupted=lambda: interrupted(run), write_sample=write_sample
    )
    return run, events, clock.now - budget.started


@pytest.mark.parametrize(
    ("seconds", "per_step", "per_evaluation"),
    [(6.0, 0.04, 0.0), (20.0, 0.2, 0.2), (8.0, 1.0, 0.0)],
)
def test_budget_becomes_steps(seconds, per_step, per_evaluation, corpus, tmp_path, monkeypatch):
    run, events, spent = run_within(
        corpus,
        tmp_path / "m",
        monkeypatch,
        seconds=seconds,
        step_seconds=lambda step: per_step * (5 if step == 0 else 1),
        evaluation_seconds=per_evaluation,
    )
    assert events[-1]["reason"] == "done"
    assert events[-1]["step"] == run.trainer.config.steps
    assert 0.8 * seconds - 1.0 < spent < 1.03 * seconds
    plans = [event for event in events if event["event"] == "plan"]
    assert set(plans[0]) == {"event", "step", "steps", "reason", "seconds"}
    assert plans[-1]["steps"] == run.trainer.config.steps  # what a repetition would need
    assert load(tmp_path / "m").card.train == run.trainer.config


@pytest.mark.parametrize("per_evaluation", [3.0, 8.0])
def test_budget_has_room_for_its_last_look(per_evaluation, corpus, tmp_path, monkeypatch):
    _, events, spent = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=60.0, step_seconds=lambda step: 0.2,
        evaluation_seconds=per_evaluation,
    )  # fmt: skip
    assert events[-1]["reason"] == "done"
    assert 60.0 - per_evaluation - 1.0 < spent < 60.0 * (1 + SLACK) + 0.5


def test_budget_follows_steps_that_slow_down(corpus, tmp_path, monkeypatch):
    run, events, spent = run_within(
        corpus,
        tmp_path / "m",
        monkeypatch,
        seconds=10.0,
        step_seconds=lambda step: 0.03 if step < 40 else 0.07,
    )
    assert (
        spent < 11.5
    )  # the promise; a slow-down shows in the mean of the last 100 only bit by bit
    first = next(event for event in events if event["event"] == "plan")
    assert run.trainer.config.steps < 0.7 * first["steps"]


def test_new_length_never_contradicts_what_was_done(corpus, tmp_path, monkeypatch):
    run, events, _ = run_within(
        corpus,
        tmp_path / "m",
        monkeypatch,
        seconds=4.0,
        step_seconds=lambda step: 0.02 if step < 60 else 1.0,
    )
    steps = run.trainer.config.steps
    rates = {e["step"]: e["lr"] for e in events if e["event"] == "report"}
    flat = [step for step, lr in rates.items() if lr == SHORT.lr]
    assert max(flat) >= 60  # was done at the peak rate
    assert steps == max(rates) > max(flat)
    assert min(e["lr"] for e in events if e["event"] == "report") == 0.0  # yet ends on the floor


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_interrupt_before_the_length_is_known_settles_it(stop, corpus, tmp_path, monkeypatch):
    run, events, _ = run_within(
        corpus,
        tmp_path / "m",
        monkeypatch,
        seconds=5.0,
        step_seconds=lambda step: 0.01,
        interrupted=lambda run: "SIGTERM" if run.trainer.step == stop else None,
    )
    assert events[-1]["reason"] == "SIGTERM"
    assert 200 < run.trainer.config.steps < 600
    again = resume(corpus, tmp_path / "m")
    assert (again.trainer.step, again.trainer.config) == (stop, run.trainer.config)


def test_budget_run_equals_the_run_told_its_length(corpus, tmp_path, monkeypatch):
    run, _, _ = run_within(
        corpus,
        tmp_path / "budget",
        monkeypatch,
        seconds=4.0,
        step_seconds=lambda step: 0.03 if step < 30 else 0.04,
    )
    told = start(corpus, tmp_path / "told", config=run.trainer.config)
    told.events()
    assert_same(weights(told.trainer), weights(run.trainer))
    assert_same(told.trainer.updater.tensors(), run.trainer.updater.tensors())
    one, other = load(tmp_path / "budget"), load(tmp_path / "told")
    assert_same(one.weights, other.weights)


def slow_from(step: int, before: float, after: float) -> Callable[[int], float]:
    return lambda at: before if at < step else after


@pytest.mark.parametrize(("before", "after"), [(0.02, 0.05), (0.02, 0.2), (0.05, 0.02)])
@pytest.mark.parametrize("change", [240, 300, 370])
def test_budget_holds_when_the_speed_changes_during_the_fall(
    before, after, change, corpus, tmp_path, monkeypatch
):
    change = round(change * 0.02 / before)  # steps in the second half, falling part of the run
    run, events, spent = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=9.0,
        step_seconds=slow_from(change, before, after),
    )  # fmt: skip
    assert 0.85 * 9.0 < spent < 1.15 * 9.0
    config = run.trainer.config
    assert decay_start(config) <= change
    assert all(at >= decay_start(config) for at, _ in config.bends)
    assert events[-1]["step"] == config.steps
    plans = [event for event in events if event["event"] == "plan"]
    assert plans[-1]["steps"] == config.steps
    rates = [learning_rate(step, config) for step in range(config.steps)]
    assert rates[-1] == 0.0
    falls = -np.diff(rates[decay_start(config) :])
    assert (falls >= 0).all()
    # Without a jump: from each bend straight to the end, however near that is.
    assert falls[:-1].max() < config.lr / 2
    assert [e["lr"] for e in events if e["event"] == "report"] == [
        rates[e["step"] - 1] for e in events if e["event"] == "report"
    ]


@pytest.mark.parametrize("asleep", [2, 100, 300])
def test_budget_ends_when_the_machine_has_slept_through_it(asleep, corpus, tmp_path, monkeypatch):
    run, events, _ = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=9.0,
        step_seconds=lambda step: 3600.0 if step == asleep else 0.02,
    )  # fmt: skip
    assert events[-1]["reason"] == "done"
    assert events[-1]["step"] == run.trainer.config.steps
    assert load(tmp_path / "m").card.train == run.trainer.config
    # Not at once: the rate has to fall, or all that was learned would be rough.
    assert asleep < run.trainer.step <= 2 * asleep + 20


def test_run_at_a_steady_speed_is_never_bent(corpus, tmp_path, monkeypatch):
    run, _, spent = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=9.0, step_seconds=lambda step: 0.02
    )
    assert run.trainer.config.bends == ()
    assert 0.85 * 9.0 < spent < 1.02 * 9.0


def test_a_long_budget_ends_within_seconds(corpus, tmp_path, monkeypatch):
    run, _, spent = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=900.0, step_seconds=slow_from(700, 1.0, 1.1)
    )
    assert 890 < spent < 907
    assert 1 <= len(run.trainer.config.bends) <= 6


def test_samples_of_their_own_rhythm_are_counted(corpus, tmp_path, monkeypatch):
    run, events, spent = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=20.0, step_seconds=lambda step: 0.05,
        sample_seconds=0.6, config=replace(UNKNOWN, sample_every=20),
    )  # fmt: skip
    assert sum(event["event"] == "sample" for event in events) >= 10
    assert 0.9 * 20 < spent < 1.05 * 20
    assert len(run.trainer.config.bends) <= 1


def test_budget_holds_with_rescues_during_the_fall(corpus, tmp_path, monkeypatch):
    class Breaking(Poked):
        poke_at = staticmethod(lambda step: step in (300, 330))

    _, events, spent = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=9.0, step_seconds=lambda step: 0.02,
        kind=Breaking,
    )  # fmt: skip
    assert sum(event["event"] == "rescue" for event in events) >= 1
    assert events[-1]["reason"] == "done"
    assert spent < 1.1 * 9.0


def test_bent_run_equals_the_run_told_its_bends(corpus, tmp_path, monkeypatch):
    run, _, _ = run_within(
        corpus, tmp_path / "bent", monkeypatch, seconds=9.0,
        step_seconds=slow_from(280, 0.02, 0.05),
    )  # fmt: skip
    assert run.trainer.config.bends
    told = start(corpus, tmp_path / "told", config=load(tmp_path / "bent").card.train)
    told.events()
    assert_same(weights(told.trainer), weights(run.trainer))
    assert_same(told.trainer.updater.tensors(), run.trainer.updater.tensors())


def test_bent_run_can_be_resumed_to_the_bit(corpus, tmp_path, monkeypatch):
    def bent(path: Path, stop: int) -> Run:
        return run_within(
            corpus, path, monkeypatch, seconds=9.0, step_seconds=slow_from(280, 0.02, 0.05),
            interrupted=lambda run: "SIGINT" if run.trainer.step == stop else None,
        )[0]  # fmt: skip

    stop = bent(tmp_path / "whole", -1).trainer.config.bends[0][0] + 7
    assert bent(tmp_path / "m", stop).trainer.config.bends
    again = resume(corpus, tmp_path / "m")
    again.events()
    told = start(corpus, tmp_path / "told", config=again.trainer.config)
    told.events()
    assert_same(weights(told.trainer), weights(again.trainer))


def test_nothing_is_evaluated_before_the_length_is_known(corpus, tmp_path, monkeypatch):
    _, events, _ = run_within(
        corpus, tmp_path / "m", monkeypatch, seconds=20.0, step_seconds=lambda step: 0.004
    )
    kinds = [event["event"] for event in events]
    assert events[kinds.index("plan")]["step"] > UNKNOWN.eval_every
    assert kinds.index("plan") < kinds.index("eval")


def test_a_resumed_run_judges_the_gradient_by_the_verdict_so_far(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "FLOW_EVERY", 0)
    monkeypatch.setattr(language, "FLOW_SHARE", math.inf)
    events = start(corpus, tmp_path / "run").events()
    looks = [event["gradient"]["verdict"] for event in events if "gradient" in event]
    assert len(looks) == 4
    objective = resume(corpus, tmp_path / "run").trainer.objective
    assert isinstance(objective, NextToken)
    assert objective.judged == looks[-1]
    stood = list[str | None]()
    measure = language.language_flow

    def watched(*args: Any, **options: Any) -> Flow:
        stood.append(options["stood"])
        return measure(*args, **options)

    monkeypatch.setattr(language, "language_flow", watched)
    objective.evaluate(90)
    assert stood == [looks[-1]]


def test_a_dear_look_at_the_gradient_waits(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "FLOW_EVERY", 0)
    objective = start(corpus, tmp_path / "run").trainer.objective
    assert isinstance(objective, NextToken)
    clock = [objective.flow_ended]
    monkeypatch.setattr(language, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    measure = language.language_flow

    def slow(*args: Any, **options: Any) -> Flow:
        clock[0] += 3.0
        return measure(*args, **options)

    monkeypatch.setattr(language, "language_flow", slow)
    looks = []
    for seconds in (1.0, 99.0, 2.0, 99.0):  # 3 of 99 seconds are more than 3 %, of 101 less
        clock[0] += seconds
        looks.append("gradient" in objective.evaluate(90).scores)
    assert looks == [True, False, True, False]
