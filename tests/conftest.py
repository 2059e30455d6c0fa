"""What several test files share: the command line in-process, a small text and a small model."""

import io
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # test processes run side by side; threads would only wait
for _name in [name for name in os.environ if name.startswith("SEQTOOL_")]:
    del os.environ[_name]

settings.register_profile("seqtool", deadline=None)  # no test asserts a time
settings.load_profile("seqtool")

Result = tuple[int, str, str]  # exit code, standard output, standard error
Run = Callable[..., Result]
Trained = Callable[[str], tuple[Path, Path]]  # of a task a model and the data it learned from

# Enough to have a vocabulary, batches and n-gram tables; learned in half a second.
TINY = (
    *("--hidden-size", 16, "--ngram-buckets", 64),
    *("--batch-size", 4, "--bptt", 16, "--eval-every", 15),
)


def make_text(lines: int, seed: int) -> str:
    """Lines of simple words, some of them empty, that end with a line feed."""
    rng = random.Random(seed)
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "red",
        "hens",
        "while",
        "rain",
        "fell",
    ]
    found = []
    for _ in range(lines):
        line = " ".join(rng.choice(words) for _ in range(rng.randint(3, 9)))
        found.append(line.capitalize() + rng.choice(".!?") + rng.choice(["", "", "\n"]))
    return "\n".join(found) + "\n"


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the real entry point; gives (exit code, standard output, standard error)."""
    from seqtool.cli import main

    def run(*argv: object, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsysbinary.readouterr()  # what a fixture has written meanwhile
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in argv])
        out, err = capsysbinary.readouterr()
        assert isinstance(stop.value.code, int)
        decoded = (part.decode("utf-8", "surrogateescape") for part in (out, err))
        return (stop.value.code, *decoded)  # type: ignore[return-value]

    return run


@pytest.fixture(scope="session")
def text() -> str:
    """Some 6,000 characters."""
    return make_text(180, seed=7)


@pytest.fixture(scope="session")
def text_file(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text as a file; tests only read it."""
    path = tmp_path_factory.mktemp("data") / "small.txt"
    path.write_bytes(text.encode())
    return path


def train_tiny(data: Path, out: Path, *options: object) -> Path:
    """Train through the command line, outside of any test's capture."""
    from seqtool.cli import main

    argv = ["train", data, "-o", out, "-q", *TINY]
    argv += [] if "--epochs" in options else ["--steps", 30]
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in (*argv, *options)])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="session")
def model(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character model of the text; tests only read it."""
    return train_tiny(text_file, tmp_path_factory.mktemp("models") / "char")


@pytest.fixture(scope="session")
def byte_model(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes, on a text with many characters of several of them."""
    data = tmp_path_factory.mktemp("data") / "wide.txt"
    wide = str.maketrans("aeiostn", "äéïöß漢😀")
    data.write_bytes(text_file.read_text("utf-8").translate(wide).encode())
    out = tmp_path_factory.mktemp("models") / "byte"
    return train_tiny(data, out, "--tokenizer", "byte")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A small model of a task with its data, see examples; tests only read them."""
    from examples import EXAMPLES

    from seqtool.cli import main

    @cache
    def train(task: str) -> tuple[Path, Path]:
        example, place = EXAMPLES[task], tmp_path_factory.mktemp(task)
        data = example.write(place / example.name)
        with pytest.raises(SystemExit) as stop:
            main(example.train(data, place / "m", "-q"))
        assert stop.value.code == 0
        return place / "m", data

    return train


def command(*argv: object) -> list[str]:
    """What starts seqtool in a process of its own."""
    return [sys.executable, "-m", "seqtool", *map(str, argv)]


def start(*argv: object, **options: object) -> "subprocess.Popen[bytes]":
    """A process of seqtool with its output piped; the tests end it."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(*argv), env=environment, **(pipes | options))  # type: ignore[call-overload,no-any-return]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """What hangs inside is ended."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def error_line(err: str) -> str:
    """The only line of standard error, which is an error."""
    assert "Traceback" not in err
    assert err.startswith("seqtool: error: "), err
    assert err.count("\n") == 1, err
    return err.removeprefix("seqtool: error: ")


def check_each_learns_alone(together: Any, ones: list[Any], config: Any) -> None:
    """Networks side by side learn in six updates what each learns by itself from the same start.

    Args:
        together: The objective of all networks.
        ones: An objective for each of them.
        config: How they are trained.
    """
    import numpy as np
    import torch

    from seqtool.trainer import Trainer

    for one, network in zip(ones, together.networks, strict=True):
        one.networks[0].load_state_dict(network.state_dict())
    trainers = [Trainer(learner, config) for learner in (together, *ones)]
    for _ in range(6):
        (loss, _), *others = [trainer.update() for trainer in trainers]
        assert loss == pytest.approx(np.mean([other for other, _ in others]), rel=1e-5)
    for one, network in zip(ones, together.networks, strict=True):
        for mine, other in zip(network.parameters(), one.model.parameters(), strict=True):
            torch.testing.assert_close(mine, other)


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Inside, a training run is stopped after so many steps, as by Ctrl-C."""
    from seqtool import runs

    signals = runs._signals

    @contextmanager
    def counting(close: Callable[[], None]) -> Iterator[Callable[[], str | None]]:
        asked = itertools.count(1)
        with signals(close):
            yield lambda: "SIGINT" if next(asked) >= step else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_signals", counting)
        yield


@pytest.fixture(autouse=True)
def _plain_floats():
    """Commands flush denormals for speed; what runs next in this process wants all its numbers."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
