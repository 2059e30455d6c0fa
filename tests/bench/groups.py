"""The groups of cases, and a run of one."""

import argparse
from collections.abc import Callable, Iterator

import torch

from seqtool.devices import set_up

from .generation import scoring_cases, writing_cases
from .learning import learning_rows
from .limits import machine_cases
from .measure import Case, Effort
from .results import RESULTS, Row, lines, store
from .scaling import scaling_cases
from .starting import starting_row
from .steps import training_cases, updating_cases

CASES: dict[str, Callable[[bool], Iterator[Case]]] = {
    "machine": machine_cases,
    "generate": writing_cases,
    "train": training_cases,
    "update": updating_cases,
    "score": scoring_cases,
    "scale": scaling_cases,
}
COMMANDS = ("start", "learn")  # whole commands, which no rounds are made of
EFFORTS = {"full": Effort(), "quick": Effort(3, 0.02), "smoke": Effort(2, 0.0)}


def measured(args: argparse.Namespace, group: str) -> Iterator[Row]:
    """The lines of a group's cases whose name holds ``args.only``."""
    effort = EFFORTS[size_of(args)]
    if group == "start":
        yield starting_row(effort.rounds, smoke=args.smoke)
    elif group == "learn":
        seconds = 2.0 if args.smoke else args.seconds
        yield from learning_rows(args.text, seconds, smoke=args.smoke)
    else:
        cases = CASES[group](args.smoke)
        yield from (case.measure(effort) for case in cases if args.only in case.name)


def size_of(args: argparse.Namespace) -> str:
    """Which of EFFORTS is asked for."""
    return "smoke" if args.smoke else "quick" if args.quick else "full"


def run(args: argparse.Namespace, group: str) -> None:
    """Measure a group, print each line as it is known, and keep it."""
    output = args.output or (RESULTS if size_of(args) == "full" else None)
    set_up("cpu", None)
    torch.manual_seed(1)
    for row in measured(args, group):
        print("\n".join(lines(row)), flush=True)
        if output:
            store(output, [row])
