"""Models saved by earlier versions still load and say what they said then.

For each format version and task: a small model, what was given to it and what it answered. To add
one: train it with that version, and record what the command here prints. A change of the format
raises ``checkpoint.FORMAT``, and the models here must go on to load.
"""

from pathlib import Path

import pytest
from conftest import Run

from seqtool.checkpoint import task_of

GOLDEN = Path(__file__).parent / "golden"
MODELS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
# How each task is asked; LINES stands for the file NAME.lines.
ASKED: dict[str, tuple[object, ...]] = {
    "generate": ("generate", "MODEL", "--greedy", "--length", 60),
    "classify": ("classify", "MODEL", "LINES", "--proba"),
    "tag": ("tag", "MODEL", "LINES"),
    "translate": ("translate", "MODEL", "LINES"),
}


def test_there_are_models() -> None:
    assert {task_of(GOLDEN / name) for name in MODELS} == ASKED.keys()


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_answers_what_it_answered(run: Run, name: str) -> None:
    files = {"MODEL": GOLDEN / name, "LINES": GOLDEN / f"{name}.lines"}
    words = [files.get(str(word), word) for word in ASKED[task_of(GOLDEN / name)]]
    expected = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    code, out, _ = run(*words)
    assert (code, out) == (0, expected)
