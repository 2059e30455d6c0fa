"""What is promised holds on models of every task, and what does not hold is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, Trained, error_line
from examples import EXAMPLES

from seqtool import models, selftest
from seqtool.agreement import agrees
from seqtool.images import read_images

GOLDEN = Path(__file__).parent / "golden"
PROMISES = {
    "generate": {"in one go or with a break"},
    **{task: {"padding", "order"} for task in ("classify", "tag", "translate")},
}
ALL = {"batch size", "thread count", "saved against loaded", "engine against model"}


@pytest.mark.slow
@pytest.mark.parametrize("task", EXAMPLES)
def test_every_promise_holds(run: Run, trained: Trained, task: str) -> None:
    code, shown, err = run("selftest", trained(task)[0], "-q", "--json")
    assert (code, err) == (0, ""), shown
    found = json.loads(shown)
    assert found["task"] == task
    assert found["held"]
    expected = ALL | PROMISES[task] | {"interrupted against whole"}
    assert found["promises"] == dict.fromkeys(expected, True)


@pytest.mark.slow
def test_promises_hold_of_images_and_of_labels_written_for(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 6, 5, 1), np.uint8)
    (tmp_path / "x-idx3-ubyte").write_bytes(selftest._idx(pixels))
    (tmp_path / "x-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x3c" + bytes([0, 1]) * 30)
    data = EXAMPLES["classify"].write(tmp_path / "rows.csv")
    small = ("--hidden-size", 8, "--steps", 4, "-q", "-o")
    assert run("train", tmp_path / "x-idx3-ubyte", *small, tmp_path / "images")[0] == 0
    blocks = ("--by", "block", *small, tmp_path / "blocks")
    assert run("train", tmp_path / "x-idx3-ubyte", *blocks)[0] == 0
    writes = ("--task", "generate", "--label-column", "label")
    assert run("train", data, *writes, *small, tmp_path / "rows")[0] == 0
    for name in ("images", "blocks", "rows"):
        code, shown, _ = run("selftest", tmp_path / name, "-q")
        assert code == 0, shown
        assert all(line.startswith("held\t") for line in shown.splitlines())


@pytest.mark.parametrize("colours", [1, 3])
def test_images_are_asked_as_they_are(tmp_path: Path, colours: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, colours), np.uint8)
    path = tmp_path / "x-idx4-ubyte"
    path.write_bytes(selftest._idx(pixels))
    np.testing.assert_array_equal(read_images(str(path)).pixels, pixels)


def test_a_broken_promise_is_told(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_interrupted", lambda task, place: True)
    a, b = selftest.Written("a", 1), selftest.Written("b", 1)
    monkeypatch.setattr(
        selftest, "_write", lambda model, *options: [b if "--threads" in options else a]
    )
    monkeypatch.setattr(selftest, "_broken_off", lambda model, place, label, whole: "a")
    code, shown, _ = run("selftest", model, "-q")
    assert code == 1
    assert [line for line in shown.splitlines() if "held" not in line] == ["BROKEN\tthread count"]
    code, shown, _ = run("selftest", model, "-q", "--json")
    assert code == 1
    assert [name for name, held in json.loads(shown)["promises"].items() if not held] == [
        "thread count"
    ]


@pytest.mark.parametrize("text", ["", "a", "ab", "a text of nine", "x" * selftest.LETTERS])
def test_a_text_that_ends_is_broken_off_before_its_end(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Behind its end the model would begin another one."""
    place = 0

    def generate(*words: Any) -> str:
        nonlocal place
        start = place if "--state" in words else 0
        assert start < len(text) or not start
        length = words[::-1][words[::-1].index("--length") - 1]  # the last one counts
        place = min(len(text), start + int(length))
        return json.dumps({"text": text[start:place], "tokens": place - start}) + "\n"

    monkeypatch.setattr(selftest, "_run", generate)
    (whole,) = selftest._write(tmp_path)
    assert selftest._broken_off(tmp_path, tmp_path, (), whole) == text


@pytest.mark.parametrize(
    "golden", ["lstm", "gru", "rnn", "classify", "members", "tag", "translate"]
)
def test_the_loops_are_compared_with_the_model(
    golden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = GOLDEN / f"format-1-{golden}"
    assert agrees(path, selftest.LINES)
    sound = models.load_arrays

    def damaged(model, weights):
        sound(model, weights)
        for parameter in model.parameters():
            parameter.add_(0.01)

    for module in ("encdec", "classifier", "models"):  # models last: the others take it from there
        monkeypatch.setattr(f"seqtool.{module}.load_arrays", damaged)
    with torch.no_grad():
        assert not agrees(path, selftest.LINES)


def test_what_is_no_model_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("selftest", tmp_path / "none")
    assert code == 1
    assert "no model there" in error_line(err)
