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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seqtool.agreement import agrees
from seqtool.checkpoint import event_line, load, task_of
from seqtool.console import Console
from seqtool.errors import SeqtoolError
from seqtool.judge import check_saved
from seqtool.output import cell, emit

Item = str | npt.NDArray[np.uint8]  # a line of text, or an image (H, W, C)

LINES = (
    *("The ferry was late again.", "A warm welcome, and lovely food!", "Never again", ""),
    *("One two three four five six seven.", "x", "Is it far to the harbour?"),
)
LONG = " ".join(LINES) * 8  # beside it every other line is padded most
LETTERS = 80  # tokens that a model writes
IMAGES = 7
# A model of each task that learns within a second.
SMALL = ("--hidden-size", "16", "--steps", "60", "--eval-every", "10", "--report-every", "10")
TINY: dict[str, tuple[str, ...]] = {
    "generate": ("--ngram-buckets", "64", "--batch-size", "4", "--bptt", "16"),
    "classify": ("--embed-size", "8", "--part-buckets", "64", "--batch-size", "8"),
    "tag": ("--embed-size", "8", "--part-buckets", "64", "--batch-size", "8"),
    "translate": ("--embed-size", "8", "--batch-size", "256"),
}


def selftest(model: Path | None, console: Console, *, as_json: bool = False) -> int:
    """Try every promise; gives 0 if all held, else 1.

    Args:
        model: To be tried; None trains a tiny one that writes.
        console: Where to say what is going on.
        as_json: Print one object instead of a line for each promise.

    Raises:
        SeqtoolError: If the model cannot be used at all.
    """
    # What is no model is told before anything is trained.
    task = "generate" if model is None else task_of(model)
    found: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(prefix="seqtool-") as name:
        place = Path(name)
        console.status("training, whole and interrupted")
        interrupted = _interrupted(task, place)
        for promise, held in _promises(model or place / "whole", task, place):
            console.status(f"trying {promise}")
            found[promise] = held()
    found["interrupted against whole"] = interrupted
    console.clear_status()
    kept = all(found.values())
    if as_json:
        emit(event_line({"task": task, "held": kept, "promises": found}))
    else:
        emit("".join(f"{'held' if held else 'BROKEN'}\t{name}\n" for name, held in found.items()))
    return 0 if kept else 1


def _promises(model: Path, task: str, place: Path) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What to try for the task of a model, by name."""
    copied = place / "copy"
    shutil.copytree(model, copied)
    if task == "generate":
        label = _label(model)
        once = _write(model, *label)
        yield "batch size", lambda: _write(model, *label, "--num", "3")[0] == once[0]
        yield "thread count", lambda: _write(model, *label, "--threads", "1") == once
        yield (
            "in one go or with a break",
            lambda: _broken_off(model, place, label, once[0]) == once[0].text,
        )
        yield "saved against loaded", lambda: _write(copied, *label) == once
        yield "engine against model", lambda: agrees(model, LINES)
        return
    ask = Questions(model, task, place)
    answers = ask(model, ask.items)
    yield "batch size", lambda: ask(model, ask.items, "--batch-size", "1") == answers
    if not ask.images:  # images are all of one size
        yield "padding", lambda: ask(model, [*ask.items, ask.longest])[: len(answers)] == answers
    yield "order", lambda: ask(model, ask.items[::-1])[::-1] == answers
    yield "thread count", lambda: ask(model, ask.items, "--threads", "1") == answers
    yield "saved against loaded", lambda: ask(copied, ask.items) == answers
    yield "engine against model", lambda: agrees(model, LINES)


def _run(*words: str | Path, lines: str = "") -> str:
    argv = [sys.executable, "-m", "seqtool", *map(str, words)]
    done = subprocess.run(argv, input=lines.encode(), capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no word"]
        raise SeqtoolError(f"{words[0]}: ended with {done.returncode}: {cell(said[0])}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _label(model: Path) -> tuple[str, ...]:
    """The option that a model needs which writes for a label."""
    classes: Any = load(model, "generate").card.source.get("classes", [])
    return ("--label", str(classes[0])) if isinstance(classes, list) and classes else ()


class Written(NamedTuple):
    """A text that a model wrote."""

    text: str
    tokens: int


def _write(model: Path, *options: str) -> list[Written]:
    """The texts that a model writes."""
    words: list[str | Path] = ["generate", model, "--length", str(LETTERS), "--json", "-q"]
    events = map(json.loads, _run(*words, *options).splitlines())
    return [Written(event["text"], event["tokens"]) for event in events]


def _broken_off(model: Path, place: Path, label: tuple[str, ...], whole: Written) -> str:
    """The same text, saved and gone on with half-way, wherever it ends."""
    state, half = place / "state", whole.tokens // 2
    if not half:  # it ended before there was anything to break
        return whole.text
    first = _write(model, *label, "--length", str(half), "--save-state", str(state))
    rest = _write(model, "--length", str(LETTERS - half), "--state", str(state))
    return first[0].text + rest[0].text


class Questions:
    """Items that a model answers line for line, and how they are put to it."""

    def __init__(self, model: Path, task: str, place: Path) -> None:
        """See what the model reads.

        Raises:
            SeqtoolError: If it cannot be used.
        """
        self._task, self._place = task, place
        saved = load(model, task)
        self.items: Sequence[Item] = LINES
        self.longest: Item = LONG
        self.images = task == "classify" and "image_shape" in saved.card.source
        if self.images:
            check_saved(saved, str(model))
            shape = saved.card.source["image_shape"]
            rng = np.random.default_rng(0)
            self.items = [*rng.integers(0, 256, (IMAGES, *shape), np.uint8)]
        elif "scanner" in saved.card.source:
            *self.items, self.longest = _draw_lines(place)

    def __call__(self, model: Path, items: Sequence[Item], *options: str) -> list[str]:
        """What a model says of each item; a tagger reads a sentence a line."""
        words: list[str | Path] = [self._task, model]
        lines = ""
        if self.images:
            path = self._place / "asked-idx4-ubyte"
            path.write_bytes(_idx(np.stack([np.asarray(item) for item in items])))
            words.append(path)
        else:
            words.append("-")
            lines = "".join(f"{item}\n" for item in items)
        return _run(*words, "--json", "-q", *options, lines=lines).splitlines()


def _draw_lines(place: Path) -> list[str]:
    """Pictures of noise, each wider than the one before, the last by far; gives their names."""
    from PIL import Image

    rng = np.random.default_rng(0)
    widths = [*range(24, 24 + IMAGES), 240]
    names = [str(place / f"{width}.png") for width in widths]
    for width, name in zip(widths, names, strict=True):
        Image.fromarray(rng.integers(0, 256, (20, width), np.uint8)).save(name)
    return names


def _idx(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Images (N, H, W, C) as an idx file, see images."""
    sides = pixels.shape if pixels.shape[3] > 1 else pixels.shape[:3]
    head = bytes([0, 0, 8, len(sides)]) + b"".join(side.to_bytes(4, "big") for side in sides)
    return head + pixels.tobytes()


def _interrupted(task: str, place: Path) -> bool:
    """Whether a training run that is killed and resumed ends as one that is not."""
    data, whole, killed = _write_data(task, place), place / "whole", place / "killed"
    words: tuple[str | Path, ...] = ("train", data, "--task", task, *SMALL, *TINY[task], "-q")
    argv = [sys.executable, "-m", "seqtool", *map(str, (*words, "-o", killed))]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not killed.exists():
        time.sleep(0.005)
    child.kill()
    child.wait()
    _run(*words, "-o", whole)
    _run(*words, "-o", killed, "--resume")
    one, other = load(whole).weights, load(killed).weights
    return all(np.array_equal(array, other[name]) for name, array in one.items())


def _write_data(task: str, place: Path) -> Path:
    """A little that a model of the task can learn from; gives the file."""
    texts = [line[i:].strip() for i in range(9) for line in LINES if len(line) > 12]
    rows = [(text, "long" if len(text) > 20 else "short") for text in texts]
    match task:
        case "generate":
            name, lines = "text.txt", texts * 9
        case "classify":
            name = "rows.jsonl"
            lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        case "tag":
            name = "words.conll"
            lines = ["".join(f"{word}\t{label}\n" for word in t.split()) for t, label in rows]
        case _:
            name = "pairs.jsonl"
            lines = [json.dumps({"source": text, "target": text.upper()}) for text in texts]
    (place / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place / name
