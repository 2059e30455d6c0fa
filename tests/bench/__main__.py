"""Speed beside the peers and the machine's limits: ``python -m tests.bench [GROUP ...]``.

Prints each case as it is measured and keeps it in a file of JSON lines. Libraries that are not
installed are left out with a line that says so.
"""

import argparse
import multiprocessing
import sys
from pathlib import Path

from .groups import CASES, COMMANDS, run
from .measure import machine_name, versions
from .peers import missing

NOTES = """\
Medians (quartiles). The sides take turns in one run; a ratio is of two sides in the same round.
Left out: start-up, loading, compiling, making models, a first turn to warm up.
generate: all draw each token at temperature 0.8; the peers' state stays in their memory.
train: forward, loss and backward of one batch from the zero state; no optimizer, no data.
update: everything but evaluating and saving.
score: exact is what evaluate runs, without PyTorch; fast what training looks with, which reads
tokens before each stream that do not count.
start: nothing is left out but what the system keeps of files, and compiling, once for a user.
learn: of ours nothing, a second command plans for 8 seconds; of the transformer start-up, reading
the text and evaluating.
Limits: sgemm is a 1024^3 float32 product on all cores by MKL or oneDNN, whichever is faster here;
bandwidth is reading as many bytes as the weights have, again and again, on all cores, so from the
cache that can hold them."""


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    known = [*CASES, *COMMANDS]
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(known)}; all")
    parser.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help="cases whose name holds them; not of start, learn",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--text", type=Path, help="learn: from this text; default: sample_data")
    parser.add_argument("--seconds", type=float, default=60, help="learn: of training, each side")
    parser.add_argument("-o", "--output", type=Path, help="results file; default: the committed")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.groups) - set(known)):
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(known)}")
    print(machine_name(), ", ".join(f"{name} {found}" for name, found in versions().items()))
    for library in ("onnx", "onnxruntime", "keras", "tensorflow"):
        if said := missing(library):
            print(said)
    sys.stdout.flush()
    failed = []
    for group in args.groups or known:
        # A process each: TensorFlow, and Triton, which PyTorch loads for its optimizers, both bring
        # an LLVM, and the second one to start may crash.
        process = multiprocessing.get_context("spawn").Process(target=run, args=(args, group))
        process.start()
        process.join()
        if process.exitcode:
            failed.append(f"{group} ended with {process.exitcode}")
    print(NOTES)
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
