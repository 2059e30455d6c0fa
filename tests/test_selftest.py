"""What is promised holds on models of every task, and what does not hold is told."""

from pathlib import Path

import pytest
from conftest import Run, error_line
from examples import EXAMPLES

from seqtool import selftest


@pytest.mark.slow
@pytest.mark.parametrize("task", EXAMPLES)
def test_every_promise_holds(run: Run, tmp_path: Path, task: str) -> None:
    example = EXAMPLES[task]
    data, out = example.write(tmp_path / example.name), tmp_path / "m"
    assert run(*example.train(data, out, "-q"))[0] == 0
    code, shown, err = run("selftest", out, "-q")
    assert (code, err) == (0, ""), shown
    assert len(shown.splitlines()) == 6
    assert all(line.startswith("held\t") for line in shown.splitlines())


def test_a_broken_promise_is_told(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_interrupted", lambda place: True)
    monkeypatch.setattr(
        selftest, "_write", lambda model, *options: ["b" if "--threads" in options else "a"]
    )
    monkeypatch.setattr(selftest, "_broken_off", lambda model, place: "a")
    code, shown, _ = run("selftest", model, "-q")
    assert code == 1
    assert [line for line in shown.splitlines() if "held" not in line] == ["BROKEN\tthread count"]


def test_the_engine_is_compared_with_the_model(model: Path) -> None:
    assert selftest._engine_agrees(model)


def test_what_is_no_model_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("selftest", tmp_path / "none")
    assert code == 1
    assert "no model there" in error_line(err)
