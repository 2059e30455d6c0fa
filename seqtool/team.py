"""Several threads that make one call together, and how many of them pay."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

Job = Callable[[int, int], int]  # thread, threads -> result, the same for all

TRIALS = 3  # of each number of threads before one is preferred
AGAIN = 100  # calls after which the other is tried again, as often as at first


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@contextmanager
def own_core(thread: int, threads: int) -> Iterator[None]:
    """Keep this thread on a core that no other of the team has, if there is one for each.

    Linux often wakes all of them on one core. There they yield it to each other whenever they have
    to meet, so none looks starved and none is moved: two took longer than one alone.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) != threads:  # with cores to spare the system is not tempted
        yield
        return
    with suppress(OSError):  # a core can be taken from us at any time; it is only slower then
        os.sched_setaffinity(0, cores[thread : thread + 1])
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, cores)


def _on_its_core(job: Job, thread: int, threads: int) -> int:
    with own_core(thread, threads):
        return job(thread, threads)


class Team:
    """Runs jobs on one thread or on all, whichever has been faster for their like.

    Threads that wait for each other within a job should be ``meeting``: then each has a core of its
    own while it works.

    The job must give the same result however many threads share it. How fast they are together is
    found by trying: another program on one of the cores makes them slower than one thread alone.
    """

    def __init__(self, threads: int | None = None, *, meeting: bool = False) -> None:
        """Use at most so many threads; as many as there are cores if not given."""
        self._meeting = meeting
        self.threads = max(1, min(threads or available_cores(), available_cores()))
        self._pool = ThreadPoolExecutor(self.threads)  # starts no thread before it is needed
        self._times: dict[int, dict[int, list[float]]] = {}
        self._calls: dict[int, int] = {}  # by their like

    def run(self, job: Job, like: int, amount: int) -> int:
        """Have a job done.

        Args:
            job: Called once by each thread.
            like: Jobs with the same number are expected to take equally long per amount.
            amount: How much of it there is to do, at least 1.

        Returns:
            What the job returned.
        """
        threads = self._choose(like)
        began = time.perf_counter()
        result = self._run(job, threads)
        if self.threads > 1:
            times = self._times.setdefault(like, {}).setdefault(threads, [])
            times.append((time.perf_counter() - began) / amount)
            del times[:-TRIALS]
        return result

    def _run(self, job: Job, threads: int) -> int:
        if threads == 1:
            return job(0, 1)
        # Ctrl-C reaches the main thread only: one that waits here, while those that wait for each
        # other are sure to be complete.
        return self._pool.submit(self._lead, job, threads).result()

    def _lead(self, job: Job, threads: int) -> int:
        part = partial(_on_its_core, job) if self._meeting else job
        others = [self._pool.submit(part, thread, threads) for thread in range(1, threads)]
        result = part(0, threads)
        for other in others:
            other.result()
        return result

    def _choose(self, like: int) -> int:
        """How many threads to use: each number in turn at first, then the faster, mostly."""
        if self.threads == 1:
            return 1
        calls = self._calls[like] = self._calls.get(like, 0) + 1
        times = self._times.setdefault(like, {1: [], self.threads: []})
        fewest = min(times, key=lambda threads: len(times[threads]))
        if len(times[fewest]) < TRIALS:
            return fewest
        best = min(times, key=lambda threads: min(times[threads]))
        if calls % AGAIN:
            return best
        # Once would say little: a thread that has slept finds its part of the weights in no cache.
        other = next(threads for threads in times if threads != best)
        times[other].clear()
        return other
