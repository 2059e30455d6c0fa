"""Speed beside the peers and the machine's limits: ``python -m tests.bench [GROUP ...]``.

Prints each case as it is measured and keeps it in a file of JSON lines. Libraries that are not
installed are left out with a line that says so.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from seqtool.devices import set_up

from .generation import scoring_cases, writing_cases
from .learning import learning_rows
from .limits import machine_cases
from .measure import Case, Effort, machine_name, versions
from .peers import missing
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
NOTES = """\
Medians (quartiles). The sides take turns in one run; a ratio is of two sides in the same round.
Left out: start-up, loading, compiling, making models, a first turn to warm up.
generate: all draw each token at temperature 0.8; the peers' state stays in their memory.
train: forward, loss and backward of one batch from the zero state; no optimizer, no data.
update: everything but evaluating and saving.
score: ours reads tokens before each fast stream that do not count.
start: nothing is left out but what the system keeps of files, and compiling, once for a user.
learn: of ours nothing, a second command plans for 8 seconds; of the transformer start-up, reading
the text and evaluating.
Limits: sgemm is a 1024^3 float32 product on all cores by MKL or oneDNN, whichever is faster here;
bandwidth is reading as many bytes as the weights have, again and again, on all cores, so from the
cache that can hold them."""


def measured(groups: list[str], only: str, effort: Effort, *, smoke: bool) -> Iterator[Row]:
    """The lines of all cases of some groups whose name holds ``only``."""
    for group in groups:
        for case in CASES[group](smoke):
            if only in case.name:
                yield case.measure(effort)


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    known = [*CASES, *COMMANDS]
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(known)}; all")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose name holds them")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--text", type=Path, help="learn: from this text; default: sample_data")
    parser.add_argument("--seconds", type=float, default=60, help="learn: of training, each side")
    parser.add_argument("-o", "--output", type=Path, help="results file; default: the committed")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.groups) - set(known)):
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(known)}")
    size = "smoke" if args.smoke else "quick" if args.quick else "full"
    output = args.output or (RESULTS if size == "full" else None)
    set_up("cpu", None)
    torch.manual_seed(1)
    print(machine_name(), ", ".join(f"{name} {found}" for name, found in versions().items()))
    for library in ("onnx", "onnxruntime", "keras", "tensorflow"):
        if said := missing(library):
            print(said)
    groups = args.groups or known
    rows = measured([g for g in groups if g in CASES], args.only, EFFORTS[size], smoke=args.smoke)
    for row in rows:
        show(row, output)
    if "start" in groups and args.only in "start":
        show(starting_row(EFFORTS[size].rounds, smoke=args.smoke), output)
    if "learn" in groups and args.only in "learn":
        for row in learning_rows(args.text, 2.0 if args.smoke else args.seconds, smoke=args.smoke):
            show(row, output)
    print(NOTES)


def show(row: Row, output: Path | None) -> None:
    """Print a line of the results as it is known, and keep it."""
    print("\n".join(lines(row)), flush=True)
    if output:
        store(output, [row])


if __name__ == "__main__":
    main()
