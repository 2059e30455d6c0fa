"""The race of remedies: each changes what it says, blow-ups count, the seed decides the ranking."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, error_line

from seqtool.config import ModelConfig, TrainConfig
from seqtool.remedies import ProbePatient, Remedy, remedies, treat

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
    return treat(patient, remedy, MODEL, TRAIN, seconds=math.inf, **options)


def test_the_seed_decides_the_outcome() -> None:
    remedy = remedies(10)[-1]
    first, second = run_once(remedy), run_once(remedy)
    assert first.steps == second.steps == 30
    assert [loss for _, loss in first.curve] == [loss for _, loss in second.curve]
    assert first.horizon == second.horizon
    assert first.blow_ups == 0


def test_a_run_ends_when_it_is_good_enough() -> None:
    assert run_once(remedies(10)[0], good_enough=1e9).steps < 30


def test_a_truncated_gradient_reaches_no_farther_than_its_chunk() -> None:
    (cut,) = [remedy for remedy in remedies(10) if remedy.train.get("bptt") == 2]
    assert run_once(cut).horizon <= 1


def test_blow_ups_are_counted_and_survived() -> None:
    wild = Remedy("wild", {"nonlinearity": "relu"}, {"lr": 30.0, "optimizer": "sgd"})
    outcome = run_once(wild)
    assert outcome.blow_ups > 0
    assert outcome.steps == 30 or outcome.blow_ups >= 100


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


def test_cure_on_a_text_names_the_winners_command(
    run: Run, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = run("cure", text_file, *FAST, "--bptt", 8)
    assert code == 0
    assert "9/9 GRU: 12 steps" in err
    assert "  gradient\n" in out  # no column is cut
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
            outcome = treat(patient, remedy, model, effort, seconds=math.inf, good_enough=0.005)
            losses[remedy.name] = outcome.loss
    assert losses["nothing"] > 0.15
    assert losses["ReLU, identity"] < 0.01
    assert min(losses["LSTM"], losses["GRU"]) < 0.01
