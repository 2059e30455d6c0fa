"""The README's commands run as they stand there, on sample_data, and it speaks of what exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
QUICK_CURE = "--steps 5 --hidden-size 8 --batch-size 4"
QUICK = "--steps 30 --hidden-size 16 --ngram-buckets 64"
QUICK_LABELS = "--steps 5 --hidden-size 16"


def run_blocks(directory: Path, quick: bool) -> None:
    (directory / "sample_data").symlink_to(ROOT / "sample_data")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in BLOCKS:
        if quick:
            block = block.replace("cure sample_data --budget 2m", f"cure sample_data {QUICK_CURE}")
            block = block.replace("--budget 2m", QUICK).replace("--budget 1m", QUICK_LABELS)
        for command in block.strip().splitlines():
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=directory,
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert done.stdout, command


def test_commands_run(tmp_path):
    run_blocks(tmp_path, quick=True)


@pytest.mark.slow
def test_commands_run_at_full_length(tmp_path):
    run_blocks(tmp_path, quick=False)


def test_every_option_exists():
    known = set()
    for command in (
        "train",
        "generate",
        "classify",
        "tag",
        "translate",
        "evaluate",
        "inspect",
        "cure",
        "selftest",
    ):
        text = subprocess.run(
            [sys.executable, "-m", "seqtool", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        known |= set(re.findall(r"--[a-z][a-z-]+", text))
    aliases = {"--rnn_size", "--nhid", "--seq_length", "--learning_rate"}  # spelt as elsewhere
    # torchrun's, and one of a benchmark
    others = {"--nproc-per-node", "--max-restarts", "--seconds"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", README)) - aliases - others
    assert named <= known


def test_every_module_is_listed():
    modules = {path.stem for path in (ROOT / "seqtool").glob("*.py")} - {"__init__", "__main__"}
    listed = set(re.findall(r"`([a-z_]+)`", README.split("| module | holds |")[1]))
    assert modules <= listed
