"""What more processes bring: measured for one and two, simulated for more.

``python -m tests.bench.workers`` trains an LSTM of 2 x 512 with one process and with two, one
thread each, and prints how much of their speed 8, 64 and 512 machines of that kind would keep;
``--seconds 0.3`` prints the same for a step of that length, without measuring.

A step of W workers takes as long as its slowest worker computes, and then what is left of the
exchange when the backward pass, behind which DistributedDataParallel hides it, is over:

    compute  = max over workers of t (1 + noise)
    exchange = 2 (W - 1) / W * bytes / bandwidth + 2 (W - 1) * latency      (ring all-reduce)
    step     = compute + max(0, exchange - share of the backward pass * compute)

The ring is that of Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002. With k batches added up
before the weights move (gradient accumulation), compute counts k times and the exchange once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .starting import SAMPLES

STREAMS = 512  # of the batch that is the same for any number of workers
NOISE = 0.05  # of a step that is not measured, and the weights of the model that would be
WEIGHTS = 3_325_382
BACKWARD = 2 / 3  # of a step's products are those of the backward pass
DRAWS = 4000  # steps simulated
NETWORKS = {  # bytes and seconds: bandwidth of one link, latency of one message
    "1 Gbit/s": (117e6, 50e-6),
    "10 Gbit/s": (1.17e9, 30e-6),
    "100 Gbit/s": (11.7e9, 5e-6),
}
WORKERS = (2, 8, 64, 512)
SHAPE = ("--hidden-size", "512", "--layers", "2", "--ngram-order", "1", "--backoff-order", "0")


@dataclass(frozen=True)
class Measured:
    """A training run's speed.

    Attributes:
        tokens_per_s: Of all processes together, the median over reports.
        step_seconds: Mean of an update.
        noise: Standard deviation of an update's duration over its mean.
        weights: Numbers in the model, 4 bytes of gradient each.
    """

    tokens_per_s: float
    step_seconds: float
    noise: float
    weights: int


def measure(processes: int, batch: int, steps: int) -> Measured:
    """Train for some steps and take the speed from the events.

    Args:
        processes: Of one thread each.
        batch: Streams of 64 tokens for each of them.
        steps: Updates; the first quarter is not counted.
    """
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "model"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        train = ["-m", "seqtool", "train", str(SAMPLES), "-o", str(out), *SHAPE, "--json", "-q"]
        train += ["--batch-size", str(batch * processes), "--bptt", "64", "--threads", "1"]
        train += ["--steps", str(steps), "--eval-every", str(steps), "--report-every", "1"]
        command = [sys.executable, *launch, *train]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        head = (out / "model.safetensors").read_bytes()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    reports = [event for event in events if event["event"] == "report"][steps // 4 :]
    rates = np.array([event["tokens_per_s"] for event in reports])
    seconds = batch * processes * 64 / rates
    header = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    weights = sum(int(np.prod(shape)) for shape in shapes)
    noise = float(seconds.std() / seconds.mean())
    return Measured(float(np.median(rates)), float(seconds.mean()), noise, weights)


def exchange_seconds(workers: int, size: float, bandwidth: float, latency: float) -> float:
    """A ring all-reduce of ``size`` bytes."""
    around = 2 * (workers - 1)
    return around / workers * size / bandwidth + around * latency


def efficiency(
    workers: int,
    one: Measured,
    network: tuple[float, float],
    *,
    accumulated: int = 1,
    seed: int = 1,
) -> float:
    """Tokens per second of W workers over W times those of one, by simulated steps.

    Args:
        workers: W, a machine each.
        one: The speed of a worker alone.
        network: Bandwidth in bytes per second and latency in seconds.
        accumulated: Batches added up before an exchange.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    noise = np.abs(rng.normal(1.0, one.noise, (DRAWS, accumulated, workers)))
    compute = one.step_seconds * noise.sum(axis=1).max(axis=1)
    # The exchange hides behind the last backward pass only.
    hidden = BACKWARD * compute / accumulated
    exchange = exchange_seconds(workers, 4.0 * one.weights, *network)
    step = compute + np.maximum(0.0, exchange - hidden)
    return accumulated * one.step_seconds / float(step.mean())


def table(one: Measured, batch: int) -> Iterator[str]:
    """How much of W times one worker's speed is left, as lines of Markdown.

    Args:
        one: The speed of a worker alone.
        batch: Its streams.
    """
    kinds = [f"{name}: {kind}" for name in NETWORKS for kind in ("1", "8", "shared")]
    yield "| workers | " + " | ".join(kinds) + " |"
    yield "|---|" + "---|" * len(kinds)
    for workers in WORKERS:
        part = replace(one, step_seconds=one.step_seconds * STREAMS / workers / batch)
        cells = [
            f"{share:.0%}"
            for network in NETWORKS.values()
            for share in (
                efficiency(workers, one, network),
                efficiency(workers, one, network, accumulated=8),
                efficiency(workers, part, network),
            )
        ]
        yield f"| {workers} | {' | '.join(cells)} |"


def compare(batch: int, rounds: int, steps: int) -> Measured:
    """Measure one process and two in turns, and say how they compare; gives the one."""
    runs = [(measure(1, batch, steps), measure(2, batch, steps)) for _ in range(rounds)]
    ratios = sorted(two.tokens_per_s / one.tokens_per_s for one, two in runs)
    one = sorted((run[0] for run in runs), key=lambda run: run.tokens_per_s)[rounds // 2]
    print(
        f"one process {one.tokens_per_s:,.0f} tokens/s, a step of {batch} x 64 tokens takes "
        f"{one.step_seconds:.3f} s ({one.noise:.0%} noise), {one.weights:,} weights"
    )
    print("two processes:", ", ".join(f"{ratio:.2f}" for ratio in ratios), "times as many")
    return one


def main(argv: list[str] | None = None) -> None:
    """Measure, simulate, print a table fit for the README."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.workers", description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="streams of each worker")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns")
    parser.add_argument("--steps", type=int, default=40, help="updates of each run")
    parser.add_argument("--seconds", type=float, help="of a step, not to be measured")
    given = parser.parse_args(argv)
    if given.seconds is None:
        one = compare(given.batch, given.rounds, given.steps)
    else:
        one = Measured(given.batch * 64 / given.seconds, given.seconds, NOISE, WEIGHTS)
    print("\n".join(table(one, given.batch)))


if __name__ == "__main__":
    main()
