"""What the train command does alike for every task."""

from pathlib import Path
from typing import get_args

import pytest
from conftest import Run, error_line

from seqtool.config import Task

SAMPLES = Path(__file__).parent.parent / "sample_data"
DATA = {
    "generate": SAMPLES / "harbour.txt",
    "classify": SAMPLES / "reviews.csv",
    "tag": SAMPLES / "tagged.conllu",
    "translate": SAMPLES / "pairs.tsv",
}


def test_every_task_is_tried_here() -> None:
    assert {*get_args(Task)} == DATA.keys()


@pytest.mark.parametrize(
    ("task", "option"),
    [
        ("generate", ("--label-smoothing", 0.1)),
        ("generate", ("--text-column", "a")),
        ("classify", ("--tied",)),
        ("tag", ("--label-smoothing", 0.1)),
        ("tag", ("--restart", 0.1)),
        ("classify", ("--crf",)),
        ("translate", ("--text-column", "a")),
        ("translate", ("--bptt", 9)),
        ("classify", ("--bptt", 9)),  # a setting of all training, but of no use here
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    run: Run, tmp_path: Path, task: str, option: tuple[object, ...]
) -> None:
    code, _, err = run("train", DATA[task], "-o", tmp_path / "m", "--task", task, *option)
    assert code == 2
    assert f"is not for --task {task}" in error_line(err)


@pytest.mark.parametrize("task", sorted(DATA))
def test_shown_settings_ask_for_the_same_run(run: Run, tmp_path: Path, task: str) -> None:
    asked = ("train", DATA[task], "--steps", 3, "--show-config", "-q", "-o", tmp_path / "m")
    code, shown, _ = run(*asked)
    assert code == 0
    settings = tmp_path / "settings.toml"
    settings.write_text(shown)
    code, again, err = run("train", DATA[task], "--config", settings, "--show-config", "-q")
    assert code == 0, err
    assert [line.split("#")[0] for line in sorted(again.splitlines())] == [
        line.split("#")[0] for line in sorted(shown.splitlines())
    ]
