"""From the start of a command to its first character: what waiting is made of for short texts."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .measure import OURS, machine_name, spread, versions

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_data"


def first_character(command: Sequence[str]) -> float:
    """Seconds from the start of a command to the first byte that it writes.

    Raises:
        RuntimeError: If it fails or writes nothing.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
        said = process.stderr.read().decode()
    if process.returncode or not first:
        raise RuntimeError(f"{' '.join(command)}: {said}")
    return seconds


def make_saved_model(directory: Path, hidden: int) -> None:
    """A model of two layers that has hardly learned anything: its speed is that of a good one."""
    options = ["--steps", "2", "--hidden-size", str(hidden), "--layers", "2", "-o", str(directory)]
    command = [sys.executable, "-m", "seqtool", "train", str(SAMPLES), "--quiet", *options]
    subprocess.run(command, check=True, capture_output=True)


def starting_row(rounds: int, *, smoke: bool) -> dict[str, Any]:
    """``seqtool generate`` beside loading torch, which a peer's script does before anything else.

    In starts per second, so that more is better as everywhere; ``seconds`` has the times.
    """
    hidden = 16 if smoke else 512
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        make_saved_model(model, hidden)
        write = [sys.executable, "-m", "seqtool", "generate", str(model), "--length", "1"]
        load = [sys.executable, "-c", "import torch; print(torch.__version__)"]
        bare = [sys.executable, "-c", "print('x')"]
        sides = {OURS: write, "import torch": load, "limit: python": bare}
        for command in sides.values():  # files in the cache, machine code compiled
            first_character(command)
        times = np.array([[first_character(c) for c in sides.values()] for _ in range(rounds)])
    columns = dict(zip(sides, times.T, strict=True))
    return {
        "case": f"generate lstm 2x{hidden}, start to first character",
        "group": "start",
        "unit": "starts/s",
        "rounds": rounds,
        "rates": {name: spread(1 / seconds) for name, seconds in columns.items()},
        "ratios": {name: spread(columns[name] / columns[OURS]) for name in list(columns)[1:]},
        "seconds": {name: spread(seconds) for name, seconds in columns.items()},
        "machine": machine_name(),
        "versions": versions(),
    }
