"""Cases and how they are timed: all sides in turns, medians and quartiles, one JSON object each.

A side is a way to do the work (ours, a peer's) or a limit of the machine in the same unit: how
often a second the machine could do this work if it did nothing but read the weights, or nothing
but multiply. A ratio is that of two sides in the same round, so that whatever slows the machine for
a while slows both.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from seqtool.team import available_cores

Group = Literal["machine", "generate", "train", "update", "score", "start", "scale", "learn"]
LIBRARIES = ("seqtool", "torch", "numpy", "numba", "onnxruntime", "keras")
OURS = "seqtool"
PAUSE = 0.01  # seconds before a turn, in which threads of the side before fall asleep


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int = 9
    turn: float = 0.05  # seconds that a side's turn takes at least


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes:
        name: ``seqtool``, a peer, or ``limit: ...`` for what the machine allows.
        amount: Of the case's unit that one call of ``action`` does.
        action: The work.
        threads: torch's number of threads meanwhile; all cores if not given.
    """

    name: str
    amount: float
    action: Callable[[], object]
    threads: int | None = None


@dataclass(frozen=True)
class Case:
    """Work to be timed; the first side is the one that the others are compared with.

    Attributes:
        name: Names the line in the results.
        group: What can be asked for on the command line.
        unit: Of the rates, per second.
        sides: Made when the case is, so that they compute from the same weights.
        facts: What else the line shall say: sizes, and where the case lies in a sweep.
    """

    name: str
    group: Group
    unit: str
    sides: Sequence[Side]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def measure(self, effort: Effort) -> dict[str, Any]:
        """Time all sides, each in turn being the first; gives the case's line of the results."""
        repeats = [_repeats(side, effort.turn) for side in self.sides]
        rates = np.empty((effort.rounds, len(self.sides)))
        for turn in range(effort.rounds):
            for place in np.roll(np.arange(len(self.sides)), turn).tolist():
                rates[turn, place] = _rate(self.sides[place], repeats[place])
        columns = {side.name: rates[:, place] for place, side in enumerate(self.sides)}
        ours = rates[:, 0]
        return {
            "case": self.name,
            "group": self.group,
            "unit": self.unit,
            "rounds": effort.rounds,
            **self.facts,
            "rates": {name: spread(values) for name, values in columns.items()},
            "ratios": {name: spread(ours / columns[name]) for name in list(columns)[1:]},
            "machine": machine_name(),
            "versions": versions(),
        }


def _rate(side: Side, repeats: int) -> float:
    torch.set_num_threads(side.threads or available_cores())
    time.sleep(PAUSE)
    began = time.perf_counter()
    for _ in range(repeats):
        side.action()
    return repeats * side.amount / (time.perf_counter() - began)


def _repeats(side: Side, turn: float) -> int:
    """Warm a side up, and find how many calls fill its turn."""
    _rate(side, 1)
    seconds = side.amount / _rate(side, 1)
    if seconds < turn / 10:  # a thread count or a clock frequency may still be settling
        seconds = side.amount / _rate(side, max(1, round(turn / 2 / seconds)))
    return max(1, round(turn / seconds))


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles, to five digits."""
    marks = np.percentile(values, [25, 50, 75])
    return {n: float(f"{v:.5g}") for n, v in zip(("q1", "median", "q3"), marks, strict=True)}


def machine_name() -> str:
    """The processor, what torch makes of it and how many cores this process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model}, {available_cores()} cores, {capability}"


def versions() -> dict[str, str]:
    """Of what is installed of the libraries that are compared, and of Python."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
