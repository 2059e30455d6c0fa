"""Several processes are one: same losses, same files, a run that any number can go on with."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, Run, Trained, error_line

from seqtool import distributed
from seqtool.checkpoint import load_last
from seqtool.distributed import World, divide, share, world
from seqtool.errors import ConfigError, DataError

SAMPLES = Path(__file__).parent.parent / "sample_data"
# Nothing is left to chance that every process takes for itself.
SAME = ("--dropout", 0, "--hidden-size", 24, "--steps", 9, "--eval-every", 4, "--report-every", 1)
RUNS = {
    "generate": ("harbour.txt", "--ngram-dropout", 0, "--ngram-buckets", 64, "--bptt", 16),
    "classify": ("reviews.csv", "--embed-dropout", 0, "--word-dropout", 0, "--members", 2),
    "tag": ("tagged.conllu", "--embed-dropout", 0, "--word-dropout", 0),
    "translate": ("pairs.tsv", "--source-word-dropout", 0, "--batch-size", 90),
    "rows": (
        *("reviews.csv", "--task", "generate", "--label-column", "sentiment"),
        *("--ngram-dropout", 0, "--ngram-buckets", 64, "--bptt", 64),
    ),
}


def train(processes: int, out: Path, task: str, *more: object) -> list[dict[str, object]]:
    """Train with torchrun; gives the events that standard output had."""
    name, *options = RUNS[task]
    argv: list[object] = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        processes,
    ]
    argv += ["-m", "seqtool", "train", SAMPLES / str(name), "-o", out, "--json"]
    argv += [*SAME, "--batch-size", 7, "--threads", 1, *options, *more]
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,  # processes that wait for each other would wait for ever
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Model\n") == 1  # the others are silent
    return [json.loads(line) for line in done.stdout.splitlines()]


def losses(events: list[dict[str, object]]) -> list[object]:
    """All losses of a run, in the order of its events."""
    names = ("loss", "val_loss", "grad_norm")
    return [event[name] for event in events for name in names if name in event]


def check_same(tmp_path: Path, task: str, processes: int) -> None:
    alone = train(1, tmp_path / "one", task)
    together = train(processes, tmp_path / "all", task)
    # Sums in another order: float32 has 7 digits, and errors grow over the steps.
    assert losses(together) == pytest.approx(losses(alone), rel=2e-5)
    assert [event["event"] for event in together] == [event["event"] for event in alone]


@pytest.mark.parametrize(("task", "processes"), [("generate", 2), ("classify", 3)])
def test_more_processes_learn_the_same(tmp_path: Path, task: str, processes: int) -> None:
    check_same(tmp_path, task, processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "processes"),
    [
        *(("generate", 3), ("classify", 2), ("tag", 2), ("tag", 3)),
        *(("translate", 2), ("translate", 3), ("rows", 2), ("rows", 3)),
    ],
)
def test_each_task_learns_the_same(tmp_path: Path, task: str, processes: int) -> None:
    check_same(tmp_path, task, processes)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["generate", "rows"])
def test_the_state_of_all_streams_is_saved(tmp_path: Path, task: str) -> None:
    whole, parts = tmp_path / "one", tmp_path / "all"
    train(1, whole, task)
    train(3, parts, task)
    for one, several in zip(load_last(whole), load_last(parts), strict=True):
        assert one.keys() == several.keys()
    expected, found = load_last(whole)[0], load_last(parts)[0]
    states = [name for name in expected if ".state." in name]
    assert states
    for name in states:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert world() == World(0, 1, 0)
    monkeypatch.setenv("RANK", "1")  # as other tools set it
    assert world() == World(0, 1, 0)


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2"), ("-1", "2")])
def test_a_world_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": size}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=rf"RANK={rank}"):
        world()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_shares_make_the_whole_and_its_mean(
    monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> None:
    rng = np.random.default_rng(size)
    rows, sizes = rng.permutation(count), rng.integers(1, 9, count)
    values = rng.normal(size=count)
    parts, total = [], 0.0
    for rank in range(size):
        monkeypatch.setattr(distributed, "world", lambda rank=rank: World(rank, size))
        parts.append(rows[share(count)])
        mine, weight = divide(rows, sizes)
        assert len(mine)  # torch waits for a gradient from everyone
        places = [[*rows].index(row) for row in mine]
        total += weight * np.average(values[places], weights=sizes[places]) / size
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert total == pytest.approx(np.average(values, weights=sizes))


def test_only_the_others_draw_from_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    drawn = []
    for rank in (0, 1, 2, 1):
        torch.manual_seed(5)
        monkeypatch.setattr(distributed, "world", lambda rank=rank: World(rank, 3))
        distributed.vary_chance(7, step=4)
        drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], expected)
    assert torch.equal(drawn[1], drawn[3])
    assert len({tuple(draw.tolist()) for draw in drawn}) == 3


def test_a_restarted_process_goes_on_by_itself(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, small = SAMPLES / "verses.txt", ("--hidden-size", 16, "--ngram-buckets", 64)
    argv = ("train", data, "-o", tmp_path / "m", "--steps", 4, "-q", *small)
    assert run(*argv)[0] == 0
    assert "holds a model" in error_line(run(*argv)[2])
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("RANK", "0")
    before = (tmp_path / "m" / "config.json").read_bytes()
    assert run(*argv, "--force")[0] == 0  # there was nothing left to do
    assert (tmp_path / "m" / "config.json").read_bytes() == before


def test_every_process_needs_a_stream(run: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("seqtool.language.world", lambda: World(0, 3))
    monkeypatch.setattr("seqtool.language.share", lambda count: slice(0, 0))
    data = SAMPLES / "verses.txt"
    code, _, err = run("train", data, "-o", tmp_path / "m", "-b", 2, "--steps", 1, "-q")
    assert code == 2
    assert "--batch-size 2: at least one stream for each of 3 processes" in error_line(err)


# What each command is asked under torchrun; M is a model of the task, D the data it learned from.
SHARED: dict[str, list[tuple[object, ...]]] = {
    "classify": [
        ("classify", "M", "LINES", "-b", 3),
        ("classify", "M", "D", "-b", 7, "--json"),
        ("evaluate", "M", "D", "--json", "--no-baselines", "--compare", "M"),
    ],
    "tag": [
        ("tag", "M", "LINES", "-b", 3),
        ("tag", "M", "D", "-b", 5),
        ("evaluate", "M", "D", "--json", "--no-baselines"),
    ],
    "translate": [
        ("translate", "M", "LINES", "-b", 1, "-k", 2),
        ("translate", "M", "LINES", "-b", 1, "-k", 2, "--attention"),
        ("translate", "M", "D", "-b", 2, "-k", 1),
        ("evaluate", "M", "D", "--json", "--beam-size", 1, "--no-baselines", "--compare", "M"),
    ],
    "generate": [("evaluate", "M", "LINES", "--json", "--no-baselines")],
}
ASKED = [(task, number) for task, commands in SHARED.items() for number in range(len(commands))]


@pytest.fixture
def words(trained: Trained, tmp_path: Path) -> Callable[[str, int], list[object]]:
    """A command of SHARED with its files."""

    def find(task: str, number: int) -> list[object]:
        lines = tmp_path / "lines.txt"
        # More than one line in a row is longer than a model of so few sentences takes at once.
        some = [f"Good bread number {n}{', and so on' * (n % 5)}.\n\n" for n in range(11)]
        lines.write_text("".join(some), "utf-8")
        model, data = trained(task)
        files: dict[object, object] = {"M": model, "D": data, "LINES": lines}
        return [files.get(word, word) for word in SHARED[task][number]]

    return find


def in_turn(run: Run, monkeypatch: pytest.MonkeyPatch, size: int, *argv: object) -> list[Result]:
    """Results of all processes, the first one first, as they would be under torchrun.

    They run in this process, the last one first; what each sends is kept for the first.
    """
    sent: dict[int, list[bytes]] = {}
    found = []
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", str(size))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend: None)
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda values, src: None)
    for rank in reversed(range(size)):
        monkeypatch.setenv("RANK", str(rank))
        rounds: list[bytes] = []
        sent[rank] = rounds

        def gather(mine: object, all_of_them: list[object] | None, rounds: list[bytes] = rounds):
            rounds.append(pickle.dumps(mine))
            if all_of_them is not None:
                both = (sent[other][len(rounds) - 1] for other in range(size))
                all_of_them[:] = map(pickle.loads, both)

        monkeypatch.setattr("torch.distributed.gather_object", gather)
        found.append(run(*argv))
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name)
    assert len({len(rounds) for rounds in sent.values()}) == 1  # nobody waits for ever
    return found[::-1]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("task", "number"), ASKED)
def test_several_processes_say_what_one_says(
    run: Run,
    words: Callable[[str, int], list[object]],
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    number: int,
    size: int,
) -> None:
    argv = words(task, number)
    alone = run(*argv)
    assert alone[0] == 0
    assert len(alone[1]) > 30
    first, *others = in_turn(run, monkeypatch, size, *argv)
    assert first[:2] == alone[:2]
    assert others == [(0, "", "")] * (size - 1)
    if task != "generate":
        assert first[2] == alone[2]  # also what is remarked: lines that were cut, by number


@pytest.mark.parametrize("command", ["generate", "inspect", "selftest"])
def test_what_cannot_be_shared_is_done_by_the_first_process_alone(
    run: Run, trained: Trained, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    argv = (command, "--help") if command == "selftest" else (command, trained("generate")[0])
    alone = run(*argv)
    for rank in (0, 1):
        for name, value in zip(distributed.NAMES, (rank, 2, "localhost", 1), strict=True):
            monkeypatch.setenv(name, str(value))
        assert run(*argv)[:2] == (alone[:2] if rank == 0 else (0, ""))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("task", SHARED)
def test_torchrun_says_what_one_process_says(
    run: Run, words: Callable[[str, int], list[object]], task: str, size: int
) -> None:
    for number in range(len(SHARED[task])):
        argv = words(task, number)
        assert torchrun(size, *argv)[:2] == run(*argv)[:2]


def torchrun(size: int, *argv: object) -> Result:
    """What processes that torchrun starts say."""
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", size, "-m")
    done = subprocess.run(
        [sys.executable, *map(str, (*start, "seqtool", *argv))],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_line_that_cannot_be_answered_ends_all(tmp_path: Path) -> None:
    """The second process finds the fault; the first one tells it, after the lines before."""
    lines = tmp_path / "new.txt"
    lines.write_text("abc\n" * 4 + "ab\u0416\n" + "abc\n" * 8, "utf-8")
    model = Path(__file__).parent / "golden" / "format-1-translate"
    argv = ("translate", model, lines, "-b", 1, "--on-unknown", "error")
    code, out, err = torchrun(2, *argv)
    said = [line for line in err.splitlines() if line.startswith("seqtool: error: ")]
    assert code == 1
    assert len(said) == 1
    assert "line 5" in said[0]
    assert out.count("\n") == 4


@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_standard_input_is_for_one_process(
    run: Run, trained: Trained, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("seqtool.text.world", lambda: World(0, 2))
    code, _, err = run(command, trained("classify")[0], "-", "-q", stdin="Nice.\n")
    assert code == 2
    assert "standard input cannot be read by 2 processes; name a file" in error_line(err)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (7, 2), (10, 5), (11, 5)])
def test_portions_are_the_whole_and_as_many_for_each(
    monkeypatch: pytest.MonkeyPatch, size: int, count: int, most: int
) -> None:
    monkeypatch.setattr(distributed, "world", lambda: World(0, size))
    parts = distributed.portions(count, most)
    assert [row for part in parts for row in range(count)[part]] == [*range(count)]
    assert all(0 < part.stop - part.start <= most for part in parts)
    assert len(parts) % size == 0 or len(parts) == count


@pytest.mark.parametrize("reading", [True, False])
@pytest.mark.parametrize("broken", [None, 4])
def test_work_is_in_order_up_to_a_fault(
    monkeypatch: pytest.MonkeyPatch, broken: int | None, reading: bool
) -> None:
    """All processes in turn, in one: what each would send is kept for the first."""

    def fail(number: int) -> None:
        if number == broken:
            raise DataError("row 5 is broken")

    def parts():
        for number in range(8):
            if reading:
                fail(number)
            yield number

    def work(number: int) -> int:
        if not reading:
            fail(number)
        return number * number

    sent: dict[int, list[list[int]]] = {}
    for rank in (2, 1, 0):
        rounds: list[list[int]] = []
        sent[rank] = rounds

        def gather(mine, found, rounds=rounds):
            rounds.append(mine)
            if found is not None:
                found[:] = [sent[other][len(rounds) - 1] for other in (0, 1, 2)]

        def agree(ended, rounds=rounds):  # parts 3, 4 and 5 are the second round
            return ended or (broken is not None and len(rounds) == 2)

        monkeypatch.setattr("torch.distributed.gather_object", gather)
        monkeypatch.setattr(distributed, "agree", agree)
        results: list[int] = []
        fault = None
        try:
            for result in distributed._in_rounds(parts(), work, World(rank, 3)):
                results.append(result)
        except DataError as err:
            fault = err
        assert (fault is not None) == (broken is not None and (reading or rank == 0))
        count = 8 if broken is None else broken
        assert results == ([n * n for n in range(count)] if rank == 0 else [])
