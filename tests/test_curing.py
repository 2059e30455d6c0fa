"""The race of remedies: each changes what it says, blow-ups count, the seed decides the ranking."""

import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, error_line

from seqtool.config import ModelConfig, TrainConfig
from seqtool.remedies import (
    LOOKS,
    RESERVE,
    Cost,
    ProbePatient,
    Remedy,
    allot,
    measure,
    remedies,
    treat,
)

MODEL = ModelConfig(cell="rnn", hidden_size=16, ngram_order=1)
TRAIN = TrainConfig(steps=30, batch_size=8, bptt=10, decay=0.0, warmup=2, average=0, seed=3)
FAST = ("--steps", 12, "--hidden-size", 6, "--batch-size", 4)


def test_every_remedy_of_the_theory_is_tried() -> None:
    names = [remedy.name for remedy in remedies(64)]
    assert names == [
        "nothing",
        "clip by norm",
        "clip by value",
        "BPTT 16",
        "BPTT 4",
        "RMSprop",
        "ReLU, identity",
        "LSTM",
        "GRU",
    ]


def test_all_have_as_many_recurrent_weights() -> None:
    model = ModelConfig(cell="rnn", hidden_size=128, ngram_order=1)
    sizes = {r.name: r.configs(model, TRAIN)[0].hidden_size for r in remedies(64)}
    assert sizes["nothing"] == 128
    assert 4 * sizes["LSTM"] ** 2 == pytest.approx(128**2, rel=0.03)
    assert 3 * sizes["GRU"] ** 2 == pytest.approx(128**2, rel=0.03)


def test_nothing_has_no_clipping_and_the_others_change_what_they_say() -> None:
    train = {r.name: r.configs(MODEL, TRAIN)[1] for r in remedies(64)}
    assert (train["nothing"].clip_norm, train["nothing"].clip_value) == (0, 0)
    assert train["clip by norm"].clip_norm == 1
    assert train["clip by value"].clip_value > 0
    assert train["BPTT 4"].bptt == 4
    assert train["RMSprop"].optimizer == "rmsprop"


def run_once(remedy: Remedy, **options: Any) -> Any:
    patient = ProbePatient("adding", 10, seed=3)
    return treat(patient, remedy, MODEL, TRAIN, **options)


def test_the_seed_decides_the_outcome() -> None:
    remedy = remedies(10)[-1]
    first, second = run_once(remedy), run_once(remedy)
    assert first.steps == second.steps == 30
    assert [p._replace(seconds=0) for p in first.curve] == [
        p._replace(seconds=0) for p in second.curve
    ]
    assert first.curve[-1].blow_ups == 0


def test_a_run_is_looked_at_twelve_times_on_its_way() -> None:
    curve = run_once(remedies(10)[0]).curve
    assert len(curve) == LOOKS
    assert [point.share for point in curve] == sorted({point.share for point in curve})
    assert curve[-1].share == 1
    assert all(0 <= point.horizon < 10 for point in curve)


def test_the_time_of_an_update_decides_how_many_there_are() -> None:
    costs = [Cost(update=0.01, look=0.1), Cost(update=0.03, look=0.1), Cost(update=9.0, look=0.1)]
    fast, slow, hopeless = allot(costs, 60)
    run = (1 - RESERVE) * 20
    assert fast == pytest.approx((run - 0.1 * LOOKS) / 0.01, abs=1)
    assert slow == pytest.approx(fast / 3, abs=1)
    assert hopeless == LOOKS  # it is looked at nonetheless


def test_what_is_measured_is_the_time_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of the clock is taken for a second of work; what passes besides does not count."""
    clock = itertools.count()
    monkeypatch.setattr(time, "process_time", lambda: float(next(clock)))
    cost = measure(ProbePatient("adding", 10, seed=3), remedies(10)[0], MODEL, TRAIN)
    # Two updates: before the first, when both were seen to be enough, after them.
    assert cost == Cost(update=2 / 2, look=1)


def test_a_run_ends_when_it_is_good_enough() -> None:
    assert run_once(remedies(10)[0], good_enough=1e9).steps < 30


def test_a_truncated_gradient_reaches_no_farther_than_its_chunk() -> None:
    (cut,) = [remedy for remedy in remedies(10) if remedy.train.get("bptt") == 2]
    outcome = run_once(cut)
    assert outcome.curve[-1].horizon == 1
    assert outcome.cut
    assert not run_once(remedies(10)[0]).cut


def test_blow_ups_are_counted_and_survived() -> None:
    wild = Remedy("wild", {"nonlinearity": "relu"}, {"lr": 30.0, "optimizer": "sgd"})
    outcome = run_once(wild)
    blow_ups = [point.blow_ups for point in outcome.curve]
    assert blow_ups == sorted(blow_ups)
    assert blow_ups[-1] > 0
    assert outcome.steps == 30 or blow_ups[-1] >= 100


def test_cure_on_a_probe(run: Run) -> None:
    code, out, err = run("cure", "--length", 8, *FAST, "--json", "-q")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["probe"] == "adding"
    assert report["baseline"] == pytest.approx(1 / 6)
    losses = [outcome["loss"] for outcome in report["ranking"]]
    assert losses == sorted(losses)
    assert len(losses) == len(remedies(8))
    code, again, _ = run("cure", "--length", 8, *FAST, "--json", "-q")
    same = [outcome["remedy"] for outcome in json.loads(again)["ranking"]]
    assert same == [outcome["remedy"] for outcome in report["ranking"]]
    for outcome in report["ranking"]:
        assert len(outcome["looks"]) == outcome["steps"] == outcome["allotted"] == 12
        assert outcome["looks"][-1]["blow_ups"] == outcome["blow_ups"]


def test_a_budget_becomes_updates_that_can_be_asked_for_again(run: Run) -> None:
    small = ("--length", 4, *FAST[2:], "--json", "-q")
    code, out, err = run("cure", "--budget", "1s", *small)
    assert code == 0
    assert "the ranking says little" in err
    first = json.loads(out)
    option, numbers = first["again"].split()
    assert option == "--steps"
    assert len(numbers.split(",")) == len(remedies(4))
    code, out, err = run("cure", option, numbers, *small)
    assert (code, err) == (0, "")
    second = json.loads(out)

    def told(outcome: dict[str, Any]) -> tuple[Any, ...]:
        return outcome["remedy"], outcome["loss"], outcome["allotted"], outcome["horizon"]

    assert [*map(told, first["ranking"])] == [*map(told, second["ranking"])]


def test_loss_horizon_and_blow_ups_are_drawn(run: Run) -> None:
    code, out, _ = run("cure", "--length", 8, *FAST, "-q")
    assert code == 0
    assert out.count("% of the updates") in (2, 3)  # blow-ups only where there were any
    assert "horizon in steps back" in out
    assert ("blow-ups so far" in out) != ("no remedy had a blow-up" in out)


def test_cure_on_a_text_names_the_winners_command(
    run: Run, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = run("cure", text_file, *FAST, "--bptt", 8)
    assert code == 0
    assert "9/9 GRU: 12 updates" in err
    assert " gradient\n" in out  # no column is cut
    joined = "".join(out.split())  # at 60 columns a long path may be broken anywhere
    assert f"seqtooltrain{text_file}--cell" in joined
    path = set(text_file.parts)  # which no line can break
    rest = [line for line in out.splitlines() if not any(part in line for part in path - {"/"})]
    assert max(map(len, rest)) <= 60


def test_the_winners_command_is_one_that_train_takes(
    run: Run, text_file: Path, tmp_path: Path
) -> None:
    code, out, _ = run("cure", text_file, *FAST, "--bptt", 8, "--json", "-q")
    assert code == 0
    words = json.loads(out)["command"].split()
    code, _, err = run(*words[1:], "--steps", 2, "-o", tmp_path / "m", "-q")
    assert code == 0, err


@pytest.mark.parametrize(("options", "threads"), [((), 1), (("--threads", 2), 2)])
def test_small_networks_are_raced_on_one_thread(
    run: Run, options: tuple[object, ...], threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        code, _, err = run("cure", "--length", 4, *FAST, *options, "-q")
        assert (code, torch.get_num_threads()) == (0, threads), err
    finally:
        torch.set_num_threads(before)


def test_copy_memory_at_any_length(run: Run) -> None:
    code, out, _ = run("cure", "--probe", "copy", "--length", 3, *FAST, "--json", "-q")
    assert code == 0
    assert json.loads(out)["baseline"] == pytest.approx(math.log(8))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("missing.txt",), "missing.txt"),
        (("--steps", 3, "--budget", "1m"), "exclude each other"),
        (("--steps", "0"), "--steps must be a number of updates"),
        (("--steps", "many"), "--steps must be a number of updates"),
        (("--steps", "3,4"), "one for each of nothing, clip by norm"),
        (("--length", 1), "--length"),
        (("--budget", "soon"), "--budget must be a time"),
    ],
)
def test_bad_input(run: Run, argv: tuple[object, ...], message: str) -> None:
    code, out, err = run("cure", *argv, "-q")
    assert code in (1, 2)
    assert out == ""
    assert message in error_line(err)


@pytest.mark.slow
def test_two_hundred_steps_need_a_cure() -> None:
    """The claim of the README, with a bound on the updates in place of the minutes."""
    train = TrainConfig(
        steps=12_000, batch_size=16, bptt=200, decay=0.0, warmup=10, average=0, weight_decay=0.0
    )
    model = ModelConfig(cell="rnn", hidden_size=64, ngram_order=1)
    patient = ProbePatient("adding", 200, seed=1)
    torch.set_num_threads(2)
    losses = {}
    for remedy in remedies(200):
        if remedy.name in ("nothing", "ReLU, identity", "LSTM", "GRU"):
            effort = TrainConfig(**{**vars(train), "steps": 3000}) if not remedy.model else train
            outcome = treat(patient, remedy, model, effort, good_enough=0.005)
            losses[remedy.name] = outcome.loss
    assert losses["nothing"] > 0.15
    assert losses["ReLU, identity"] < 0.01
    assert min(losses["LSTM"], losses["GRU"]) < 0.01
