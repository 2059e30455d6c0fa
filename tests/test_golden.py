"""Models saved by earlier versions still load and write the text that they wrote then.

To add a format version: train the same small models with it and record what --greedy writes.
"""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
MODELS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def test_there_are_models():
    assert MODELS


@pytest.mark.parametrize("name", MODELS)
def test_old_model_writes_what_it_wrote(run, name):
    expected = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    code, out, _ = run("generate", GOLDEN / name, "--greedy", "--length", 60)
    assert (code, out) == (0, expected)
