"""Machine code: kept where that is possible, for the exact sources, and announced when made."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import seqtool
from seqtool.compiled import SOURCES, arithmetic, cache_directory, unaliased

PACKAGE = Path(seqtool.__file__).parent
# A few lines compile in a second.
PROGRAM = """
from seqtool import compiled

@compiled.compiled
def double(x):
    return 2 * x

said = []
with compiled.announced(lambda: said.append("now")):
    assert double(3) == 6
print(*said)
"""


def run(script: Path, **extra: str) -> str:
    env = os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | extra
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_code_is_made_once(script: Path, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    assert run(script, NUMBA_CACHE_DIR=str(place)) == "now"
    assert run(script, NUMBA_CACHE_DIR=str(place)) == ""
    assert {path.parent for path in place.rglob("*.nbc")} == {place / "seqtool"}
    assert not list(tmp_path.glob("__pycache__/*.nb*"))


def test_without_a_place_to_keep_it_code_is_made_each_time(script: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert run(script, NUMBA_CACHE_DIR=str(tmp_path / "file")) == "now"


def test_changed_sources_make_new_code(script: Path, tmp_path: Path) -> None:
    place = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    run(script, **place)
    other = "compiled._fingerprint = lambda: 'of other sources'\n@compiled.compiled"
    script.write_text(PROGRAM.replace("@compiled.compiled", other))
    assert run(script, **place) == "now"


@pytest.mark.parametrize(("kind", "compares"), [(arithmetic, True), (unaliased, False)])
def test_arrays_that_do_not_overlap_are_not_compared(kind: Any, compares: bool) -> None:
    """Where they begin and end is compared before vector code runs, unless they are said to."""

    def add(a: Any, b: Any, total: Any) -> None:
        for j in range(len(total)):
            total[j] = a[j] + b[j]

    part = kind(add)

    @numba.njit
    def whole(a: Any, b: Any, total: Any) -> None:
        part(a, b, total)

    a, total = np.arange(41, dtype=np.float32), np.zeros(41, np.float32)
    whole(a, a, total)
    np.testing.assert_array_equal(total, 2 * a)
    assert ("memcheck" in whole.inspect_llvm(whole.signatures[0])) == compares


def test_the_directory_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "seqtool"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert cache_directory() == tmp_path / "numba" / "seqtool"


def test_all_sources_of_compiled_code_are_named() -> None:
    """All modules that compile functions, and all of ours that these import."""
    users = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if "from seqtool.compiled import" in path.read_text(encoding="utf-8")
        and "import announced" not in path.read_text(encoding="utf-8")
    }
    for user in sorted(users):
        tree = ast.parse((PACKAGE / f"{user}.py").read_text(encoding="utf-8"))
        names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
        users |= {name.split(".")[1] for name in names if name.startswith("seqtool.")}
    assert users == set(SOURCES)


def test_numba_that_may_not_compile_is_named() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "seqtool",
            "generate",
            Path(__file__).parent / "golden/format-1-lstm",
        ],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("seqtool: error: NUMBA_DISABLE_JIT is set")
    assert done.stderr.count("\n") == 1
