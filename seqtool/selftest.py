"""The ``selftest`` command: what seqtool promises, tried on this machine and this model.

Commands run in processes of their own, as a user would start them, and their answers are compared
byte by byte: however many texts are answered side by side, beside how long a text, in what order,
with how many threads, from a copy of the model, after a run was killed.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqtool.checkpoint import load, task_of
from seqtool.console import Console
from seqtool.errors import SeqtoolError
from seqtool.output import cell, emit

LINES = (
    *("The ferry was late again.", "A warm welcome, and lovely food!", "Never again", ""),
    *("One two three four five six seven.", "x", "Is it far to the harbour?"),
)
LONG = " ".join(LINES) * 8  # beside it every other line is padded most
LETTERS = 80  # tokens that a model writes
TINY = ("--hidden-size", "16", "--ngram-buckets", "64", "--batch-size", "4", "--bptt", "16")
STEPS = ("--steps", "60", "--eval-every", "10", "--report-every", "10")


@dataclass(frozen=True)
class Result:
    """One promise, and whether it held."""

    name: str
    held: bool


def selftest(model: Path | None, console: Console) -> int:
    """Try every promise; gives 0 if all held, else 1.

    Args:
        model: To be tried; None trains a tiny one that writes.
        console: Where to say what is going on.

    Raises:
        SeqtoolError: If the model cannot be used at all.
    """
    if model is not None:
        task_of(model)  # what is no model is told before anything is trained
    with tempfile.TemporaryDirectory(prefix="seqtool-") as name:
        place = Path(name)
        console.status("training, whole and interrupted")
        interrupted = _interrupted(place)
        tried = model or place / "whole"
        results = []
        for promise, held in _promises(tried, place):
            console.status(f"trying {promise}")
            results.append(Result(promise, held()))
    results.append(Result("interrupted against whole", interrupted))
    console.clear_status()
    for result in results:
        emit(f"{'held' if result.held else 'BROKEN'}\t{result.name}\n")
    return 0 if all(result.held for result in results) else 1


def _promises(model: Path, place: Path) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What to try for the task of a model, by name."""
    copied = place / "copy"
    shutil.copytree(model, copied)
    if task_of(model) == "generate":
        once = _write(model)
        yield "batch size", lambda: _write(model, "--num", "3")[0] == once[0]
        yield "thread count", lambda: _write(model, "--threads", "1") == once
        yield "in one go or with a break", lambda: _broken_off(model, place) == once[0]
        yield "saved against loaded", lambda: _write(copied) == once
        yield "engine against model", lambda: _engine_agrees(model)
        return
    answers = _answer(model, LINES)
    turned = (*LINES[::-1],)
    yield "batch size", lambda: _answer(model, LINES, "--batch-size", "1") == answers
    yield "padding", lambda: _answer(model, (*LINES, LONG))[: len(answers)] == answers
    yield "order", lambda: _answer(model, turned)[::-1] == answers
    yield "thread count", lambda: _answer(model, LINES, "--threads", "1") == answers
    yield "saved against loaded", lambda: _answer(copied, LINES) == answers


def _run(*words: str | Path, lines: str = "") -> str:
    argv = [sys.executable, "-m", "seqtool", *map(str, words)]
    done = subprocess.run(argv, input=lines.encode(), capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no word"]
        raise SeqtoolError(f"{words[0]}: ended with {done.returncode}: {cell(said[0])}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _write(model: Path, *options: str) -> list[str]:
    """The texts that a model writes."""
    words: list[str | Path] = ["generate", model, "--length", str(LETTERS), "--json", "-q"]
    words += options
    return [json.loads(line)["text"] for line in _run(*words).splitlines()]


def _broken_off(model: Path, place: Path) -> str:
    """The same text, saved and gone on with half-way."""
    state = place / "state"
    half = ("--length", str(LETTERS // 2))
    first = _write(model, *half, "--save-state", str(state))
    return first[0] + _write(model, *half, "--state", str(state))[0]


def _answer(model: Path, lines: tuple[str, ...], *options: str) -> list[str]:
    """What a model says of each line; a tagger reads a sentence a line."""
    words: tuple[str | Path, ...] = (task_of(model), model, "-", "--json", "-q", *options)
    return _run(*words, lines="".join(line + "\n" for line in lines)).splitlines()


def _engine_agrees(model: Path) -> bool:
    """Whether the compiled engine predicts what PyTorch does, up to rounding, without the counts.

    Units drawn by chance have no compiled engine and never give the same twice.
    """
    from seqtool.engine import build_engine
    from seqtool.models import Stepper, build_model

    card, weights = load(model, "generate").card, load(model).weights
    if card.model.nonlinearity == "stochastic":
        return True
    engine = build_engine(card.model, card.vocab_size, weights)
    network = Stepper(build_model(card.model, card.vocab_size, unknown_id=None, weights=weights))
    ours, theirs = engine.init_state(2), network.init_state(2)
    for step in range(20):
        ids = np.array([step, 7 * step + 3]) % card.vocab_size
        logits, ours = engine.step(ids, ours)
        others, theirs = network.step(ids, theirs)
        # float32 sums in another order: 1e-4 of the largest is far above that.
        if np.abs(logits - others).max() > 1e-4 * max(1.0, np.abs(others).max()):
            return False
    return True


def _interrupted(place: Path) -> bool:
    """Whether a training run that is killed and resumed ends as one that is not."""
    data, whole, killed = place / "text.txt", place / "whole", place / "killed"
    data.write_text("\n".join(line[i:] for i in range(9) for line in LINES) * 9, encoding="utf-8")
    words: tuple[str | Path, ...] = ("train", data, *TINY, *STEPS, "-q", "-o")
    _run(*words, whole)
    argv = [sys.executable, "-m", "seqtool", *map(str, (*words, killed))]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not killed.exists():
        time.sleep(0.005)
    child.kill()
    child.wait()
    _run(*words, killed, "--resume")
    one, other = load(whole).weights, load(killed).weights
    return all(np.array_equal(array, other[name]) for name, array in one.items())
