"""The command line as a whole: help, usage errors, and what happens to its streams and signals."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, Run, error_line, start

from seqtool.plan import choose

COMMANDS = ("train", "generate", "evaluate")


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_every_command(run: Run, argv: list[str]) -> None:
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_for(run: Run, command: str) -> None:
    code, out, _ = run(command, "-h")
    assert code == 0
    assert f"Example: seqtool {command}" in out
    options = re.split(r"\n  (?=-)", out.split("Options:\n")[1])
    for option in options:
        assert re.search(r"  \w[\w'-].*\.", option, re.DOTALL), option
    assert "--seed" in out or command == "evaluate"


@pytest.mark.parametrize("given", [{}, {"optimizer": "sgd"}, {"steps": 30, "tied": True}])
def test_help_calls_chosen_what_the_plan_chooses(run: Run, given: dict[str, object]) -> None:
    seconds = None if "steps" in given else 60.0
    plan = choose(tokens=50_000, vocab_size=2000, seconds=seconds, gflops=50.0, given=given)
    shown = " ".join(run("train", "--help")[1].split())
    for name in plan.model | plan.train | {"warmup": 0, "report_every": 0, "eval_every": 0}:
        start = shown.index(f" --{name.replace('_', '-')} ")
        assert "[default: chosen]" in shown[start : shown.index("default:", start) + 20], name


def test_the_version_is_shown(run: Run) -> None:
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"seqtool \d+\.\d+.*\n", out)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["train"], "name DATA"),
        (["generate"], "model"),
        (["train", "x", "--nonsense"], "No such option: --nonsense"),
        (["train", "x", "--hiden-size", "3"], "--hidden-size"),
        (["train", "x", "y"], "y"),
        (["train", "x", "--hidden-size"], "--hidden-size"),
        (["train", "x", "-rnn_size", "128"], "use --hidden-size"),
        (["train", "x", "--steps", "many"], "--steps"),
        (["train", "x", "--cell", "lstmm"], "'rnn', 'lstm', 'gru'"),
        (
            ["train", "x", "--steps", "1", "--epochs", "1"],
            "--epochs and --steps exclude each other",
        ),
        (
            ["train", "x", "--valid", "y", "--valid-fraction", "0.2"],
            "--valid and --valid-fraction exclude each other (flag); give one of them",
        ),
        (["train", "x", "--epochs", "0"], "--epochs must be above 0, got 0"),
        (["train", "x", "--epochs", "nan"], "--epochs must be above 0, got nan"),
        (["train", "x", "--budget", "soon"], "--budget must be a time such as 90s"),
        (["train", "x", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["train", "x", "--rnn_size", "0"], "--hidden-size must be at least 1, got 0"),
        (["train", "x", "--num_layers", "0"], "--layers must be from 1 to 1000, got 0"),
        (["train", "x", "--embed-size", "-1"], "--embed-size must be at least 1, got -1"),
        (["train", "x", "--dropout", "1"], "--dropout must be at least 0 and below 1, got 1"),
        (["train", "x", "--ngram-order", "9"], "--ngram-order must be from 1"),
        (["train", "x", "--ngram-buckets", "1"], "--ngram-buckets must be at least 2"),
        (["train", "x", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["train", "x", "--seq_length", "0"], "--bptt must be at least 1"),
        (["train", "x", "--lr", "0"], "--lr must be above 0"),
        (["train", "x", "--lr", "inf"], "--lr must be above 0"),
        (["train", "x", "--lr-floor", "2"], "--lr-floor must be from 0 to 1"),
        (["train", "x", "--decay", "-1"], "--decay must be from 0 to 1"),
        (["train", "x", "--momentum", "1"], "--momentum must be"),
        (["train", "x", "--beta2", "1"], "--beta2 must be"),
        (["train", "x", "--clip-norm", "-1"], "--clip-norm must be"),
        (["train", "x", "--clip-value", "nan"], "--clip-value must be"),
        (["train", "x", "--restart", "2"], "--restart must be"),
        (["train", "x", "--valid-fraction", "0.9"], "--valid-fraction must be from 0 to 0.5"),
        (["train", "x", "--vocab-size", "10"], "--vocab-size must be at least 300"),
        (["train", "x", "--patience", "-1"], "--patience must be at least 0"),
        (["train", "x", "--seed", "-1"], "--seed must be at least 0"),
        (["train", "x", "--nonlinearity", "relu"], "needs --cell rnn"),
        (["train", "x", "--tied", "--hidden-size", "9", "--embed-size", "8"], "--tied needs"),
        (["train", "x", "--threads", "0"], "--threads"),
        (["train", "x", "--resume", "--force"], "give one"),
        (["train", "x", "--encoding", "utf-99", "-q"], "--encoding 'utf-99'"),
    ],
)
def test_a_usage_error_is_one_line(
    run: Run, argv: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert expected in error_line(err)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def bad_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths that the system refuses to look at, by the reason."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "file").write_text("mine")
    (folder / "loop").symlink_to("loop")
    return {
        "a file in the way": folder / "file" / "x",
        "links in a circle": folder / "loop" / "x",
        "too long": folder / ("x" * 300),
        "too long above": folder / ("x" * 300) / "x",
    }


@pytest.mark.parametrize(
    "line",
    [
        "generate BAD",
        "generate MODEL -l 3 --state BAD",
        "generate MODEL -l 3 --save-state BAD",
        "evaluate BAD TEXT",
        "evaluate MODEL BAD",
        "train BAD --steps 1",
        "train TEXT --steps 1 -o BAD",
        "train TEXT --resume -o BAD",
        "train TEXT --steps 1 --init-from BAD",
        "train TEXT --steps 1 --valid BAD",
        "train TEXT --config BAD",
    ],
)
@pytest.mark.parametrize(
    "kind", ["a file in the way", "links in a circle", "too long", "too long above"]
)
def test_a_path_that_the_system_refuses_is_one_line(
    run: Run,
    model: Path,
    text_file: Path,
    bad_paths: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"BAD": bad_paths[kind], "MODEL": model, "TEXT": text_file}
    words = [places.get(word, word) for word in line.split()]
    code, out, err = run(*words, *(() if "--config" in words else ("-q",)))
    assert code in (1, 2)
    assert out == ""
    assert str(bad_paths[kind]) in error_line(err)
    assert list(tmp_path.iterdir()) == []


def test_the_last_of_repeated_flags_counts(run: Run, model: Path) -> None:
    once = run("generate", model, "-l", 7)[1]
    assert run("generate", model, "-l", 90, "--length", 7)[1] == once


def test_commands_and_options_of_other_tools_work(run: Run, model: Path) -> None:
    new = ("generate", model, "-l", 12, "-p", "The", "-t", 0.5)
    run(*new)  # what has to be compiled, and is announced, is compiled now
    expected = run(*new)
    old = ("--max_new_tokens", 12, "--primetext", "The", "--temp", 0.5)
    assert run("sample", model, *old) == expected


@pytest.mark.parametrize("argv", [["generate", "-q"], ["--help"]])
def test_a_full_disk_is_one_line(model: Path, argv: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = start(*argv, *([model] if "generate" in argv else []), stdout=full)
        _, err = process.communicate()
    assert process.returncode == 1
    assert "No space left on device" in error_line(err.decode())


def test_a_closed_pipe_ends_it_silently(model: Path) -> None:
    process = start("generate", model, "-l", 10**6, "-n", 1, "--greedy", "-q")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(3)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


@pytest.mark.parametrize("closed", ["1", "2", "0"])
def test_closed_streams_do_no_harm(model: Path, closed: str) -> None:
    line = f'exec "$0" -m seqtool generate "$1" -l 5 -q {closed}>&-'
    done = subprocess.run(["sh", "-c", line, sys.executable, str(model)], capture_output=True)
    if closed == "1":
        assert done.returncode == 1
        assert "standard output is closed" in error_line(done.stderr.decode())
    else:
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout


def test_ctrl_c_ends_writing_without_a_word(model: Path) -> None:
    process = start("generate", model, "-l", 10**6, "--greedy", "-q")
    assert process.stdout is not None
    process.stdout.read(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, b"")


def test_ctrl_c_while_reading_leaves_nothing(tmp_path: Path) -> None:
    process = start("train", "-", "-o", tmp_path / "m", stdin=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == b"reading -\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, b"")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_saves_a_real_run(text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    process = start("train", text_file, *TINY, "--steps", 5000, "-o", out)
    assert process.stderr is not None
    while not process.stderr.readline().startswith(b"step "):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    last = err.decode().splitlines()[-1]
    assert re.match(rf"saved after step \d+; go on with: seqtool train .* -o {out} --resume", last)
    assert (out / "last.safetensors").exists()
