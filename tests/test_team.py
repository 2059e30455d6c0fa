"""Threads that make one call together."""

import os
import threading

import pytest

from seqtool import team
from seqtool.team import AGAIN, TRIALS, Team


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves, on a machine of two cores."""
    now = [0.0]
    monkeypatch.setattr(team.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(team, "available_cores", lambda: 2)
    return now


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_thread_does_its_part_once(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "available_cores", lambda: 4)
    barrier, seen, lock = threading.Barrier(threads), [], threading.Lock()

    def job(thread: int, number: int) -> int:
        barrier.wait()  # passed only if all are there
        with lock:
            seen.append((thread, number))
        return 7

    several = Team(threads)
    monkeypatch.setattr(several, "_choose", lambda like: threads)
    for _ in range(3):
        assert several.run(job, 0, 1) == 7
    assert sorted(seen) == sorted(3 * [(thread, threads) for thread in range(threads)])


@pytest.mark.parametrize("faster", [1, 2])
def test_the_faster_number_of_threads_is_preferred(faster: int, clock: list[float]) -> None:
    used: list[int] = []

    def job(thread: int, threads: int) -> int:
        if thread == 0:
            used.append(threads)
            clock[0] += 1.0 if threads == faster else 2.0
        return 0

    both = Team()
    for _ in range(AGAIN):
        both.run(job, 0, 1)
    assert used.count(3 - faster) in (TRIALS, TRIALS + 1)
    assert used[2 * TRIALS : -1] == [faster] * (AGAIN - 2 * TRIALS - 1)
    assert used[-1] == 3 - faster  # tried again, things may have changed
    for _ in range(AGAIN):
        both.run(job, 0, 1)
    assert used[AGAIN:] == [3 - faster] * (TRIALS - 1) + [faster] * (AGAIN - TRIALS) + [3 - faster]


def test_a_change_is_found_though_old_times_were_good(clock: list[float]) -> None:
    used: list[int] = []
    cost = {1: 2.0, 2: 1.0}

    def job(thread: int, threads: int) -> int:
        if thread == 0:
            used.append(threads)
            clock[0] += cost[threads]
        return 0

    both = Team()
    for _ in range(AGAIN // 2):
        both.run(job, 0, 1)
    cost |= {1: 2.0, 2: 5.0}  # another program has come
    for _ in range(AGAIN):
        both.run(job, 0, 1)
    assert used[AGAIN // 2 - 1] == 2
    assert used[-TRIALS:] == [1] * TRIALS
    cost |= {1: 2.0, 2: 1.0}  # and gone
    for _ in range(2 * AGAIN):
        both.run(job, 0, 1)
    assert used[-TRIALS:] == [2] * TRIALS


def test_each_kind_of_job_is_tried_again_on_its_own(clock: list[float]) -> None:
    used: dict[int, list[int]] = {0: [], 1: []}
    both = Team()
    for call in range(2 * AGAIN):
        like = call % 2

        def job(thread: int, threads: int, like: int = like) -> int:
            if thread == 0:
                used[like].append(threads)
                clock[0] += threads
            return 0

        both.run(job, like, 1)
    assert [tried[-1] for tried in used.values()] == [2, 2]


def test_more_threads_than_cores_are_not_used(clock: list[float]) -> None:
    assert Team(9).threads == 2
    assert Team(1).threads == 1
    assert Team().threads == 2


def test_one_thread_is_the_caller(clock: list[float]) -> None:
    found = []

    def job(thread: int, threads: int) -> int:
        found.append(threading.current_thread())
        return thread

    Team(1).run(job, 0, 1)
    assert found == [threading.current_thread()]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can't be chosen here")
def test_threads_together_have_a_core_each_and_are_free_afterwards() -> None:
    cores = os.sched_getaffinity(0)
    barrier, held = threading.Barrier(len(cores)), {}

    def job(thread: int, threads: int) -> int:
        held[thread] = os.sched_getaffinity(0)
        barrier.wait()
        return 0

    everyone = Team(meeting=True)
    for _ in range(2):
        everyone._run(job, len(cores))
        if len(cores) > 1:
            assert sorted(core for own in held.values() for core in own) == sorted(cores)
    barrier = threading.Barrier(len(cores))
    free = [
        everyone._pool.submit(lambda: (barrier.wait(), os.sched_getaffinity(0))[1]) for _ in cores
    ]
    assert [future.result() for future in free] == [cores] * len(cores)
    assert os.sched_getaffinity(0) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can't be chosen here")
def test_fewer_threads_than_cores_stay_where_the_system_puts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(team.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(team.os, "sched_setaffinity", lambda pid, cores: pytest.fail("moved"))
    assert Team(2, meeting=True)._run(lambda thread, threads: threads, 2) == 2
