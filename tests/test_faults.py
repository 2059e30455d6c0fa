"""What a training run survives: being killed, interrupted, put to sleep, short of room, not alone.

Runs are forked from a process that has loaded everything once, so that each takes a second, not
five.
"""

import ast
import fcntl
import multiprocessing
import os
import pty
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, Trained, error_line
from examples import EXAMPLES, Example

import seqtool
from seqtool.checkpoint import BEST, CONFIG, COUNTS, LAST, TOKENIZER, load, load_events, load_last
from seqtool.files import alone

KILLED = -signal.SIGKILL
FINAL = (BEST, TOKENIZER, COUNTS)
TIMED = {"seconds", "seconds_left", "tokens_per_s"}  # of an event

CHILDREN = multiprocessing.get_context("forkserver")
PRELOADED = ["seqtool.language"]
PRELOADED += [f"seqtool.train_{kind}" for kind in ("text", "classify", "tag", "translate")]
CHILDREN.set_forkserver_preload(PRELOADED)


def act(argv: list[str], log: Path, prepare: Callable[[], None] | None) -> None:
    """What a child does: a run of seqtool that saves its state at every report."""
    from seqtool import train
    from seqtool.cli import main

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    train.SAVE_SECONDS = 0.0
    if prepare is not None:
        prepare()
    main(argv)


class Child:
    """A run in a process of its own; ``log`` is what it says."""

    def __init__(
        self, argv: list[str], log: Path, prepare: Callable[[], None] | None = None
    ) -> None:
        self.log = log
        self.process = CHILDREN.Process(target=act, args=(argv, log, prepare))
        self.process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, minus the signal that ended it; None if it is not over by then."""
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the run does."""
        while not condition():
            assert self.wait(0.02) is None, self.log.read_text()


def run_child(
    argv: list[str],
    log: Path,
    kill_after: float | None = None,
    prepare: Callable[[], None] | None = None,
) -> int | None:
    """The exit code of a run that may be killed after so many seconds."""
    child = Child(argv, log, prepare)
    if child.wait(kill_after) is None:
        child.kill()
    return child.wait()


def assert_same_model(one: Path, other: Path) -> None:
    for name in FINAL:
        left, right = one / name, other / name
        assert left.exists() == right.exists(), name
        if left.exists():
            assert left.read_bytes() == right.read_bytes(), name
    tensors, counters = load_last(one)
    others, other_counters = load_last(other)
    assert counters == other_counters
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, others[name])
    events = [
        [{k: v for k, v in e.items() if k not in TIMED} for e in load_events(path)]
        for path in (one, other)
    ]
    assert events[0] == events[1]


def kill_again_and_again(example: Example, directory: Path, kills: int, seed: int) -> None:
    """Kill runs at random moments, resume each; all must end as the one that nobody killed."""
    rng = random.Random(seed)
    data, log = example.write(directory / example.name), directory / "log"
    whole, out = directory / "whole", directory / "killed"
    began = time.monotonic()
    assert run_child(example.train(data, whole), log) == 0, log.read_text()
    seconds = time.monotonic() - began
    done = saved = 0
    while done < kills:
        code = run_child(example.train(data, out, "--resume"), log, rng.uniform(0, seconds))
        assert code in (0, KILLED), log.read_text()
        done += code == KILLED
        saved += (out / LAST).exists()
        if not saved:
            seconds *= 1.2  # the machine may be slower than it was
        if code == 0:
            assert_same_model(out, whole)
            shutil.rmtree(out)
    assert saved or kills < 10, "no run got as far as saving anything"
    assert run_child(example.train(data, out, "--resume"), log) == 0, log.read_text()
    assert_same_model(out, whole)
    # Neither locks nor halves are left.
    assert {path.name for path in directory.iterdir()} == {example.name, "log", "whole", "killed"}
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    assert CONFIG in os.listdir(out)


@pytest.mark.parametrize("task", EXAMPLES)
def test_a_killed_run_goes_on_to_the_bit(task: str, tmp_path: Path) -> None:
    kill_again_and_again(EXAMPLES[task], tmp_path, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("task", EXAMPLES)
def test_a_run_killed_fifty_times_goes_on_to_the_bit(task: str, tmp_path: Path) -> None:
    kill_again_and_again(EXAMPLES[task], tmp_path, kills=50, seed=2)


# All tasks go the same way through most of this; so the others than the first take their time.
TASKS = [
    pytest.param(task, marks=() if task == "generate" else pytest.mark.slow) for task in EXAMPLES
]


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def example(task: str) -> Example:
    return EXAMPLES[task]


@pytest.fixture
def model(trained: Trained, task: str) -> Path:
    return trained(task)[0]


@pytest.fixture
def data(example: Example, tmp_path: Path) -> Path:
    return example.write(tmp_path / example.name)


ENDLESS = ("--steps", 10**6, "--eval-every", 10)


def test_a_closed_pipe_saves_the_run(example: Example, data: Path, tmp_path: Path) -> None:
    """SIGPIPE: ``seqtool train --json | head -n 1``."""
    out, pipe = tmp_path / "m", tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(example.train(data, out, *ENDLESS, "--json", "-q"), pipe)
    with open(pipe, "rb") as reader:
        assert reader.readline().startswith(b'{"event": ')
    assert child.wait(60) == 1
    assert load_last(out)[1]["now"]["step"] > 0


class Terminal:
    """A pseudo-terminal that a run takes for its own, as a session started on it does."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.name = os.ttyname(self.slave)
        self.resize(24, 80)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def attach(self) -> None:
        """In the child: lead a session whose terminal this is."""
        os.setsid()
        handle = os.open(self.name, os.O_RDWR)
        fcntl.ioctl(handle, termios.TIOCSCTTY, 0)
        for stream in (0, 1, 2):
            os.dup2(handle, stream)
        os.environ["TERM"] = "xterm"


def attached(name: str) -> Callable[[], None]:
    terminal = Terminal.__new__(Terminal)
    terminal.name = name
    return terminal.attach


def test_a_terminal_that_resizes_and_closes(
    example: Example, data: Path, task: str, tmp_path: Path
) -> None:
    """SIGWINCH redraws, SIGHUP saves and ends the run."""
    out, terminal = tmp_path / "m", Terminal()
    child = Child(
        example.train(data, out, *ENDLESS), tmp_path / "log", prepare=attached(terminal.name)
    )
    shown = os.read(terminal.master, 4096)
    for rows, columns in [(24, 20), (3, 200), (1, 1), (50, 120)] * 3:
        terminal.resize(rows, columns)
        shown += os.read(terminal.master, 1 << 16)
        time.sleep(0.02)
    child.until((out / LAST).exists)
    assert b"Traceback" not in shown
    os.close(terminal.master)
    os.close(terminal.slave)
    assert child.wait(60) == 128 + signal.SIGHUP
    assert load_last(out)[1]["now"]["step"] > 0
    assert load(out).card.task == task


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_full_disk_is_one_line_and_keeps_what_was_there(
    example: Example, data: Path, model: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "m", tmp_path / "log"
    shutil.copytree(model, out)
    code = run_child(example.train(data, out, "--force", "-q"), log, prepare=limit_files)
    assert code == 1
    said = error_line(log.read_text())
    assert said.startswith(f"{out}: cannot be written (File too large); what was there before")
    assert "make room" in said
    assert (out / BEST).read_bytes() == (model / BEST).read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted(["log", "m", example.name])


def become_nobody() -> None:
    os.setuid(65534)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_directory_that_may_not_be_written_is_one_line(example: Example, data: Path) -> None:
    log = Path("/tmp") / f"seqtool-test-{os.getpid()}"
    log.touch()
    log.chmod(0o666)
    try:
        code = run_child(example.train(data, Path("/usr/m"), "-q"), log, prepare=become_nobody)
        assert code == 1
        assert "no right to write in /usr" in error_line(log.read_text())
    finally:
        log.unlink()


def test_a_run_that_slept_is_the_run_that_did_not(
    example: Example, data: Path, model: Path, tmp_path: Path
) -> None:
    out, log, whole = tmp_path / "m", tmp_path / "log", tmp_path / "whole"
    assert run_child(example.train(data, whole, "-q"), log) == 0
    child = Child(example.train(data, out, "-q"), log)
    child.until(out.exists)
    child.send(signal.SIGSTOP)
    time.sleep(0.5)
    child.send(signal.SIGCONT)
    assert child.wait(60) == 0, log.read_text()
    assert_same_model(out, whole)


def jumping_clock() -> None:
    ticks = iter(range(10**9))
    time.time = lambda: (-1) ** next(ticks) * 1e9


def test_a_clock_that_jumps_changes_nothing(example: Example, data: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "m", tmp_path / "log"
    code = run_child(example.train(data, out, "-q"), log, prepare=jumping_clock)
    assert code == 0, log.read_text()
    events = load_events(out)
    assert all(0 <= event["seconds"] < 300 for event in events)
    assert events[-1]["reason"] == "done"


def test_no_module_asks_the_clock_that_jumps() -> None:
    for path in Path(seqtool.__file__).parent.glob("*.py"):
        calls = {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        }
        assert not calls & {"time.time", "datetime.now", "datetime.datetime.now"}, path


@pytest.mark.parametrize("home", [None, "/dev/null", "/nonexistent/home"])
def test_without_a_home_directory_code_is_compiled_but_not_kept(home: str | None) -> None:
    script = (
        "from seqtool.compiled import cache_directory, compiled\n"
        "assert compiled(lambda x: x + 1)(2) == 3\n"
    )
    keep = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    keep.pop("NUMBA_CACHE_DIR", None)
    environment = keep | ({} if home is None else {"HOME": home})
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_training_into_a_directory_is_refused(
    run: Run, example: Example, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "m"
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    with alone(tmp_path / "link" / "m", "-o"):
        code, _, err = run(*example.train(data, out))
        assert code == 2
        assert f"-o {out}: another process ({os.getpid()}) trains into it" in error_line(err)
        assert run(*example.train(data, out, "--show-config", "-q"))[0] == 0
    assert not (tmp_path / "runs").exists()  # nothing is left of it


def test_a_lock_left_by_a_crash_is_no_obstacle(
    run: Run, example: Example, data: Path, tmp_path: Path
) -> None:
    lock = tmp_path / ".m.lock"
    lock.write_text("1\n")
    assert run(*example.train(data, tmp_path / "m", "-q"))[0] == 0
    assert not lock.exists()


def test_a_lock_goes_to_one_of_many(tmp_path: Path) -> None:
    """Also when holders delete the file that others have just opened."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom seqtool.files import alone\n"
        "from seqtool.errors import ConfigError\n"
        "place, count = Path(sys.argv[1]), 0\n"
        "for _ in range(300):\n"
        "    try:\n"
        "        with alone(place, '-o'):\n"
        "            place.mkdir()\n"  # fails if another is inside
        "            place.rmdir()\n"
        "            count += 1\n"
        "    except ConfigError:\n"
        "        pass\n"
        "print(count)\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "m")]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(argv, stdout=pipe, stderr=pipe) for _ in range(3)]
    said = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    assert sum(int(out) for out, _ in said) > 0  # one of them may have come too late each time
    assert os.listdir(tmp_path) == []
