"""The ``inspect`` command: views for people and as JSON, one line for each thing that is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, error_line, train_tiny

from seqtool import checkpoint
from seqtool.checkpoint import Card, ModelDir, load
from seqtool.sheet import Sheet

VIEWS = ("health", "gates", "units", "memory", "surprisal")


@pytest.fixture(scope="session")
def gru_model(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "gru"
    return train_tiny(text_file, out, "--cell", "gru", "--layers", 2)


def values_of(run: Run, *argv: object) -> dict[str, Any]:
    code, out, err = run("inspect", *argv, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def rewritten(model: Path, out: Path, /, **changes: Any) -> Path:
    """A copy of a model with another card or other weights, and no events."""
    saved = load(model)
    weights = dict(saved.weights)
    weights |= changes.pop("weights", {})
    card = Card(**{**vars(saved.card), "seal": {}, **changes})
    ModelDir.create(out).begin(card, saved.tokenizer_json, weights)
    return out


def test_a_model_alone_is_described(run: Run, model: Path) -> None:
    code, out, err = run("inspect", model)
    assert code == 0
    assert err == ""
    for part in ("generate", "LSTM, 1 layer of 16 units", "train chars", "stack.weight_hh_l0"):
        assert part in out
    assert re.search(r"bptt +16 +flag", out)
    assert re.search(r"optimizer +adam +default", out)


def test_a_model_alone_as_json(run: Run, model: Path) -> None:
    found = values_of(run, model)
    saved = load(model)
    assert found["task"] == "generate"
    assert found["trained"] is True
    assert sum(found["parameters"].values()) == sum(w.size for w in saved.weights.values())
    assert found["origins"]["hidden_size"] == "flag"
    assert [step for step, _ in found["valid_curve"]] == [15, 30]
    assert found["broken"] == ""


def test_a_model_alone_loads_no_torch(model: Path) -> None:
    from test_imports import command, loaded

    assert "torch" not in loaded(command("inspect", model), "torch")


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_alone(run: Run, model: Path, text_file: Path, view: str) -> None:
    found = values_of(run, model, text_file, f"--{view}", "--length", 300)
    assert {*VIEWS} & found.keys() == {view}


def test_all_views_fit_a_narrow_terminal(
    run: Run, gru_model: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = run("inspect", gru_model, text_file, "--length", 200)
    assert code == 0
    assert "200 of" in err
    for head in ("Gradient through time", "Gates", "Hidden units", "Memory:", "Surprisal"):
        assert head in out
    assert max(map(len, out.splitlines())) <= 60
    assert "\x1b" not in out


def test_health_measures_what_the_window_asks_for(run: Run, model: Path, text_file: Path) -> None:
    found = values_of(run, model, text_file, "--health", "--window", 5)["health"]
    assert found["window"] == 5
    assert len(found["layers"][0]["gradient"]) == 6
    assert found["verdict"]["judgement"] in ("healthy", "vanishing", "exploding")


def test_gates_of_a_gru(run: Run, gru_model: Path, text_file: Path) -> None:
    layers = values_of(run, gru_model, text_file, "--gates", "--length", 100)["gates"]
    assert [layer["layer"] for layer in layers] == [0, 1]
    assert [gate["name"] for gate in layers[0]["gates"]][:2] == ["reset", "update"]
    assert len(layers[0]["memory"]) == 16


def test_surprisal_adds_up_to_the_score(run: Run, model: Path, text_file: Path) -> None:
    found = values_of(run, model, text_file, "--surprisal", "--length", 10_000)["surprisal"]
    code, out, _ = run("evaluate", model, text_file, "--json", "--no-baselines")
    assert code == 0
    scores = json.loads(out)["network"]  # what is inspected; counts have no units
    assert "".join(token["token"] for token in found) == text_file.read_text()
    mean = sum(token["bits"] for token in found) / len(found)
    assert mean == pytest.approx(scores["bits_per_char"], rel=1e-4)
    for token in found[:50]:
        chances = [chance for _, chance in token["expected"]]
        assert chances == sorted(chances, reverse=True)


def test_a_unit_marks_the_text(run: Run, gru_model: Path, text_file: Path) -> None:
    options = ("--unit", 3, "--layer", 1, "--length", 40)
    found = values_of(run, gru_model, text_file, *options)
    (unit,) = found["activations"]
    assert (unit["layer"], unit["unit"], len(unit["values"])) == (1, 3, 40)
    code, out, _ = run("inspect", gru_model, text_file, *options)
    assert code == 0
    assert "Unit 3 of layer 1" in out
    levels = np.array(unit["values"])
    blocks = "".join(c for line in out.splitlines()[3:] for c in line if c in "▁▂▃▄▅▆▇█")
    assert len(blocks) == 40
    assert blocks[int(levels.argmax())] == "█"
    assert blocks[int(levels.argmin())] == "▁"


def test_without_data_the_kept_text_is_read(run: Run, model: Path) -> None:
    code, _, err = run("inspect", model, "--gates")
    assert code == 0
    assert "the text" in err


def test_start_and_length_choose_the_window(run: Run, model: Path, text_file: Path) -> None:
    found = values_of(run, model, text_file, "--surprisal", "--start", 7, "--length", 4)
    text = text_file.read_text()
    assert [token["token"] for token in found["surprisal"]] == list(text[7:11])


def test_colour_only_repeats_the_blocks() -> None:
    plain, coloured = Sheet(width=50, colour=False), Sheet(width=50, colour=True)
    for sheet in (plain, coloured):
        sheet.shaded(list("ab\ncd"), [0, 0.5, 1, 0.2, 0.9], "low", "high")
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured._text.getvalue())
    assert without == plain._text.getvalue()
    assert "\x1b[" in coloured._text.getvalue()


def test_curves_leave_out_what_cannot_be_drawn(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sheet = Sheet(width=60, colour=False)
    sheet.curves([("a", [1, 2, 3], [1.0, float("nan"), 0.0])], x="x", y="y", log=True)
    sheet.curves([("a", [1], [float("inf")])], x="x", y="y")
    sheet.flush()
    out = capsysbinary.readouterr().out.decode()
    assert "nothing to draw" in out


def test_another_task_is_refused_in_one_line(run: Run, text_file: Path, tmp_path: Path) -> None:
    other, table = tmp_path / "other", tmp_path / "a.csv"
    table.write_text("text,label\n" + "".join(f"word{i} a,x\nword{i} b,y\n" for i in range(20)))
    code, _, err = run("train", table, "--steps", 2, "--hidden-size", 4, "-o", other, "-q")
    assert code == 0, err
    code, out, err = run("inspect", other, text_file, "--health")
    assert (code, out) == (2, "")
    assert "a model to classify" in error_line(err)
    assert run("inspect", other)[0] == 0


def test_a_diverged_model_says_since_when(
    run: Run, model: Path, text_file: Path, tmp_path: Path
) -> None:
    spoilt = load(model).weights["stack.weight_hh_l0"].copy()
    spoilt[:2] = np.nan
    broken = rewritten(model, tmp_path / "broken", weights={"stack.weight_hh_l0": spoilt})
    events = [
        {"event": "report", "step": 10, "loss": 2.0},
        {"event": "report", "step": 20, "loss": float("nan")},
    ]
    lines = "".join(map(checkpoint.event_line, events))
    (broken / "metrics.jsonl").write_text(lines)
    code, out, err = run("inspect", broken, text_file)
    assert (code, out) == (1, "")
    message = error_line(err)
    assert "32 of" in message
    assert "not finite from step 20 on" in message
    code, out, _ = run("inspect", broken)
    assert code == 0
    assert "BROKEN" in out


def test_a_model_that_never_trained_is_said_to_be_one(
    run: Run, model: Path, text_file: Path, tmp_path: Path
) -> None:
    fresh = rewritten(model, tmp_path / "fresh")
    code, out, err = run("inspect", fresh, text_file, "--gates", "-q")
    assert code == 0
    assert "Gates" in out
    assert err.count("\n") == 1
    assert "no update" in err
    assert "none: no update" in run("inspect", fresh)[1]


def test_unknown_characters(run: Run, model: Path) -> None:
    code, _, err = run("inspect", model, "-", "--gates", "-q", stdin="the cat Ω sat")
    assert code == 0
    assert err.count("\n") == 1
    assert "Ω" in err
    code, out, err = run(
        "inspect", model, "-", "--gates", "--on-unknown", "error", stdin="the cat Ω sat"
    )
    assert (code, out) == (2, "")
    assert "U+03A9" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--unit", 16), "--unit must be from 0 to 15, got 16"),
        (("--unit", 1, "--layer", 2), "--layer must be from 1 to 1, got 2"),
        (("--layer", 1), "--layer says where --unit N is"),
        (("--gates", "--start", 10**6), "--start must be below the length of the text"),
    ],
)
def test_bad_options(
    run: Run, model: Path, text_file: Path, options: tuple[object, ...], message: str
) -> None:
    code, out, err = run("inspect", model, text_file, *options, "-q")
    assert (code, out) == (2, "")
    assert message in error_line(err)


def test_a_text_of_one_character_has_what_it_can_have(run: Run, model: Path) -> None:
    code, out, err = run("inspect", model, "-", stdin="t")
    assert code == 0, err
    assert "health: needs 3 tokens" in out
    code, _, err = run("inspect", model, "-", "-q", stdin="")
    assert code == 1
    assert "empty" in error_line(err)
