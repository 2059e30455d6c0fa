"""A model says how it was made, and making it once more gives the same bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, error_line
from examples import EXAMPLES, Example

import seqtool
from seqtool.checkpoint import LAST, ModelDir, load
from seqtool.receipts import COMPUTING, difference, versions


def write_images(path: Path) -> Path:
    """Two kinds of small pictures and their labels, as idx files."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 3), np.uint8)
    pixels[::2] //= 4
    path.write_bytes(b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes())
    labels = bytes([0, 1]) * 20
    path.with_name("x-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x28" + labels)
    return path


SHORT = ("--hidden-size", 8, "--steps", 8)
RUNS = EXAMPLES | {
    "labels": Example(
        "reviews.csv",
        EXAMPLES["classify"].write,
        (*SHORT, "--task", "generate", "--label-column", "label"),
    ),
    "images": Example("x-idx3-ubyte", write_images, SHORT),
}


@pytest.fixture(params=RUNS)
def made(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """Data and the model that was trained on them."""
    example = RUNS[request.param]
    data, out = example.write(tmp_path / example.name), tmp_path / "m"
    assert run(*example.train(data, out, "-q"))[0] == 0
    return data, out


def test_a_model_is_reproduced_to_the_bit_or_the_first_difference_is_named(
    run: Run, made: tuple[Path, Path], tmp_path: Path
) -> None:
    data, model = made
    code, out, err = run("train", "--reproduce", model, "-q")
    assert (code, err) == (0, "")
    assert out.startswith(f"{model}: reproduced, all weights equal to the bit (sha256 ")
    assert {path.name for path in tmp_path.iterdir()} - {"x-idx1-ubyte"} == {data.name, "m"}
    saved = load(model)
    changed = {name: array.copy() for name, array in saved.weights.items()}
    last = list(changed)[-1]
    changed[last].flat[0] += 1e-3
    ModelDir.resume(model).save_best(changed)
    again = tmp_path / "again"
    code, out, _ = run("train", "--reproduce", model, "-q", "--json", "-o", again)
    assert code == 1
    event = json.loads(out.splitlines()[-1])
    assert (event["event"], event["equal"]) == ("reproduced", False)
    assert event["difference"].startswith(f"{last}: 1 of {changed[last].size} numbers, by 0.001")
    assert difference(saved, load(again)) == ""


def test_the_receipt_is_whole(made: tuple[Path, Path]) -> None:
    data, model = made
    card = load(model).card
    kept = card.extra["receipt"]
    assert kept["data"] == str(data)
    assert kept["versions"] == versions()
    assert kept["versions"].keys() == {"seqtool", "python", *COMPUTING}
    assert kept["versions"]["seqtool"] == seqtool.__version__
    assert kept["command"][0] == "seqtool"
    assert len(card.source["sha256"]) == 64
    assert card.train.seed == 1


def test_what_cannot_be_reproduced_is_one_line(
    run: Run, text_file: Path, model: Path, tmp_path: Path
) -> None:
    def refused(*options: object) -> str:
        code, _, err = run("train", *options, "-q")
        assert code in (1, 2)
        return error_line(err)

    assert "leave the others out" in refused("--reproduce", model, "--lr", 0.1)
    assert "leave --resume" in refused("--reproduce", model, "--resume")
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text("utf-8") + "More.\n", "utf-8")
    assert f"not the data that {model} was trained on" in refused(other, "--reproduce", model)
    old = tmp_path / "old"
    shutil.copytree(model, old)
    card = load(old).card
    del card.extra["receipt"]
    ModelDir.resume(old).save_card(card)
    assert "older seqtool" in refused("--reproduce", old)
    assert "no model there" in refused("--reproduce", tmp_path / "none")


def test_other_versions_are_told(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "m"
    shutil.copytree(model, copied)
    (copied / LAST).unlink()  # as in a model that was shared
    kept = versions() | {"torch": "1.0"}
    monkeypatch.setattr("seqtool.reproducing.versions", lambda: kept)
    code, _, err = run("train", "--reproduce", copied, "-q")
    assert code == 0
    assert f"made with torch {versions()['torch']}, this is 1.0" in err
