"""Model directories that are damaged, or made to do harm: one clear line each, nothing else.

Whatever is wrong, a command ends with it, in little memory, runs nothing and touches no other file.
Most damage is sealed again as its maker would, so that checksums do not stop it.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import Run, Trained, error_line, within

from seqtool import checkpoint
from seqtool.checkpoint import (
    BEST,
    CONFIG,
    COUNTS,
    DICTIONARY,
    EVENTS,
    TEXT,
    TOKENIZER,
    load_events,
)
from seqtool.compiled import cache_directory
from seqtool.errors import SeqtoolError
from seqtool.tensorfile import pack

GOLDEN = Path(__file__).parent / "golden"
WITHIN = 600  # seconds for one command, which takes less than one where nothing else is computed
MEGABYTES = 1000  # that all of them together may add
LONGEST = 2200  # characters of an error

Harm = Callable[[random.Random, Path, Path], None]  # the directory, and one of another model

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), 0.5),
    *("", "x" * 5000, "\x1b[31mred\x1b]0;title\x07", "../../etc/passwd", "/dev/zero", "\ud800"),
    *("user/dataset", "utf-7", "rot13", "line\nline", "\u202egnp.exe", [], {}, [[]], [1, "a"]),
    *({"a": {"b": 1}}, [0.5] * 9, [-1, 1.5], ["a", "a"], [10**12] * 3),
]
TENSORS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda a: np.full_like(a, np.nan if a.dtype.kind == "f" else 255),
    lambda a: a.astype(np.float64),
    lambda a: a[:-1],
    lambda a: a.reshape(-1),
    lambda a: a[None],
    lambda a: np.zeros(0, a.dtype),
    lambda a: np.full_like(a, 3e38 if a.dtype.kind == "f" else 127),
    lambda a: a[::-1].copy(),
    lambda a: np.zeros_like(a, dtype=np.int64) - 1,
    lambda a: np.full(a.shape, 2**62, np.int64),
]


def seal_card(directory: Path, values: Any) -> None:
    """Write a card whose checksum is right."""
    values = {key: value for key, value in values.items() if key != "sha256"}
    text = json.dumps(values, sort_keys=True)
    values["sha256"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    (directory / CONFIG).write_text(json.dumps(values))


def card(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / CONFIG).read_text())
    return found


def some_file(rng: random.Random, directory: Path) -> Path:
    return directory / rng.choice(sorted(os.listdir(directory)))


def flip_bits(rng: random.Random, directory: Path, other: Path) -> None:
    path = some_file(rng, directory)
    blob = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 8, 100])):
        blob[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
    path.write_bytes(blob)


def cut(rng: random.Random, directory: Path, other: Path) -> None:
    path = some_file(rng, directory)
    os.truncate(path, rng.choice([0, 1, 7, 8, 9, rng.randrange(path.stat().st_size)]))


def lose(rng: random.Random, directory: Path, other: Path) -> None:
    some_file(rng, directory).unlink()


def swap(rng: random.Random, directory: Path, other: Path) -> None:
    name = rng.choice(sorted({*os.listdir(directory)} & {*os.listdir(other)}))
    shutil.copy(other / name, directory / name)


def swap_and_seal(rng: random.Random, directory: Path, other: Path) -> None:
    """Another model's tokenizer or tensors, as if they belonged there."""
    name = rng.choice([TOKENIZER, BEST, COUNTS, DICTIONARY])
    if not (other / name).exists():
        return
    if name == TOKENIZER:
        put_tokenizer(directory, (other / name).read_text(encoding="utf-8"))
    else:
        put_tensors(directory, name, safetensors.numpy.load_file(other / name))


def places(value: Any, found: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        yield (*found, key)
        if isinstance(item, dict | list):
            yield from places(item, (*found, key))


def edit(rng: random.Random, values: Any) -> None:
    """Change, remove or add something anywhere in a JSON document."""
    *way, last = rng.choice(list(places(values)))
    for key in way:
        values = values[key]
    match rng.randrange(6):
        case 0:
            del values[last]
        case 1 if isinstance(values, dict):
            values[rng.choice(["x", "__class__", "\x1b[2J", ""])] = rng.choice(HOSTILE)
        case _:
            values[last] = rng.choice(HOSTILE)


def edit_card(rng: random.Random, directory: Path, other: Path) -> None:
    values = card(directory)
    for _ in range(rng.choice([1, 1, 2])):
        edit(rng, values)
    seal_card(directory, values)


def put_tokenizer(directory: Path, text: str) -> None:
    (directory / TOKENIZER).write_text(text, encoding="utf-8", errors="surrogatepass")
    values = card(directory)
    values["seal"]["tokenizer_sha256"] = hashlib.sha256(
        (directory / TOKENIZER).read_bytes()
    ).hexdigest()
    seal_card(directory, values)


def edit_tokenizer(rng: random.Random, directory: Path, other: Path) -> None:
    values = json.loads((directory / TOKENIZER).read_text(encoding="utf-8"))
    edit(rng, values)
    put_tokenizer(directory, json.dumps(values))


def nest(rng: random.Random, directory: Path, other: Path) -> None:
    """JSON that no parser likes."""
    text = rng.choice(
        [
            "[" * 100_000,
            '{"a":' * 100_000 + "1" + "}" * 100_000,
            f'{{"format": {"9" * 5000}}}',
            '{"format": 1e999, "seqtool": "x"}',
            '{"format": 1, "seqtool": {}, "sha256": []}',
            "null",
            '"text"',
            "\ufeff{}",
            "{}" * 1000,
            "NaN",
            '{"format": 1, "format": 2, "seqtool": "0"}',
        ]
    )
    if rng.random() < 0.3:
        put_tokenizer(directory, text)
    else:
        (directory / rng.choice([CONFIG, EVENTS])).write_text(text, encoding="utf-8")


def put_tensors(directory: Path, name: str, arrays: dict[str, np.ndarray], **header: Any) -> None:
    header = {"name": name, "run": card(directory)["seal"]["run"]} | header
    (directory / name).write_bytes(b"".join(pack(arrays, header)))


def edit_tensors(rng: random.Random, directory: Path, other: Path) -> None:
    """Numbers, shapes and types that the model's code does not expect."""
    names = (BEST, BEST, COUNTS, TEXT, DICTIONARY)
    present = [name for name in names if (directory / name).exists()]
    name = rng.choice(present)
    arrays = safetensors.numpy.load_file(directory / name)
    key = rng.choice(sorted(arrays))
    match rng.randrange(8):
        case 0:
            del arrays[key]
        case 1:
            arrays["../x\x1b[31m"] = np.zeros(3, np.float32)
        case _:
            arrays[key] = rng.choice(TENSORS)(arrays[key])
    put_tensors(directory, name, arrays)


def edit_header(rng: random.Random, directory: Path, other: Path) -> None:
    """A safetensors file that says it is larger, deeper or stranger than it is."""
    path = directory / rng.choice([BEST, COUNTS])
    deep = b'{"__metadata__": ' + b'{"a": ' * 50_000
    made = [
        (2**63 - 1).to_bytes(8, "little") + b"{}",
        (10**8).to_bytes(8, "little") + b"{}",
        len(deep).to_bytes(8, "little") + deep,
        b"\x02" + bytes(7) + b"{}" + bytes(100),
        path.read_bytes() if path.exists() else b"",
    ]
    path.write_bytes(rng.choice(made))
    if rng.random() < 0.3:
        os.truncate(path, 10**13)  # a hole, which takes no room on the disk


def huge(rng: random.Random, directory: Path, other: Path) -> None:
    os.truncate(some_file(rng, directory), rng.choice([10**11, 10**13]))


def replace_kind(rng: random.Random, directory: Path, other: Path) -> None:
    """Something that is no file, or leads elsewhere."""
    path = some_file(rng, directory)
    path.unlink()
    target = rng.choice(
        [
            *("/dev/zero", "/dev/random", "/dev/tty", "/proc/self/mem", "/etc/passwd", "/"),
            *("fifo", "directory", path.name, "../outside/secret", str(other / path.name)),
        ]
    )
    if target == "fifo":
        os.mkfifo(path)
    elif target == "directory":
        path.mkdir()
    else:
        path.symlink_to(target)


HARMS: list[Harm] = [
    *(flip_bits, cut, lose, swap, swap_and_seal, edit_card, edit_card, edit_card),
    *(edit_tokenizer, nest, edit_tensors, edit_tensors, edit_header, huge, replace_kind),
]

# What commands may not do while they read a model; the hook stays, so it asks whether to look.
watching: list[Path] = []
seen: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not watching:
        return
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
        seen.append(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[0], str | bytes):
        path, writes = Path(os.fsdecode(arguments[0])), arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and not path.is_relative_to(watching[0]):
            seen.append(f"writes {path}")
    if event in ("os.remove", "os.rename", "os.truncate", "os.rmdir", "os.chmod"):
        seen.append(f"{event} {arguments}")


sys.addaudithook(watch)


@contextmanager
def watched() -> Iterator[None]:
    """See that nothing is run, nothing is fetched, and nothing but compiled code is written."""
    seen.clear()
    watching.append(cache_directory())
    try:
        with within(WITHIN):
            yield
    finally:
        watching.clear()
    assert seen == []


USES: dict[str, list[tuple[object, ...]]] = {
    "generate": [("generate", "M", "-l", 3), ("evaluate", "M", "D", "--json"), ("inspect", "M")],
    "classify": [("classify", "M", "lovely soup"), ("evaluate", "M", "D"), ("inspect", "M")],
    "tag": [("tag", "M", "the cat sat", "--json"), ("evaluate", "M", "D"), ("inspect", "M")],
    "translate": [
        ("translate", "M", "three o'clock", "--json", "--max-length", 20),
        ("evaluate", "M", "D", "--beam-size", 1),
        ("inspect", "M", "D"),
    ],
}
# Of each task another model, with whose files a damaged one may be mixed.
OTHERS = {task: GOLDEN / f"format-1-{task}" for task in ("classify", "tag", "translate")}
OTHERS["generate"] = GOLDEN / "format-1-lstm"


def use_damaged(run: Run, trained: Trained, place: Path, count: int, seed: int) -> None:
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret").write_text("untouched")
    models = {}
    for task in USES:
        model, data = trained(task)
        few = place / data.name  # the beginning of the data is enough
        few.write_text("".join(data.read_text("utf-8").splitlines(keepends=True)[:30]), "utf-8")
        models[task] = model, few
        for use in USES[task]:  # compile, and see that all is well before
            words = [{"M": model, "D": few}.get(str(word), word) for word in use]
            assert run(*words)[0] == 0
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        task = rng.choice(sorted(USES))
        model, data = models[task]
        name = rng.choice(sorted(USES))
        other = OTHERS[task] if name == task else models[name][0]
        damaged = place / "m"
        shutil.copytree(model, damaged)
        harm = rng.choice(HARMS)
        harm(rng, damaged, other)
        use = rng.choice(USES[task])
        words = [{"M": damaged, "D": data}.get(str(word), word) for word in use]
        with watched():
            code, _, err = run(*words)
        where = f"number {number}: {harm.__name__}, {' '.join(map(str, use))}: {err[:300]}"
        assert code in (0, 1, 2), where
        if code:
            refused += 1
            line = error_line("\n".join(err.splitlines()[-1:]) + "\n")
            assert len(line) < LONGEST, where
        assert all(c.isprintable() or c == "\n" for c in err), where
        assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("secret", "untouched")]
        shutil.rmtree(damaged)
    assert refused > count / 3
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    assert grown < MEGABYTES


def test_damaged_models_are_refused_in_one_line(run: Run, trained: Trained, tmp_path: Path) -> None:
    use_damaged(run, trained, tmp_path, count=100, seed=1)


@pytest.mark.slow
def test_two_thousand_damaged_models_are_refused_in_one_line(
    run: Run, trained: Trained, tmp_path: Path
) -> None:
    use_damaged(run, trained, tmp_path, count=2000, seed=2)


@pytest.mark.parametrize("target", ["file", "fifo"])
def test_resuming_writes_through_no_link(trained: Trained, tmp_path: Path, target: str) -> None:
    """The events are appended to, in place: a link there would lead out of the directory."""
    model, _ = trained("generate")
    out, secret = tmp_path / "m", tmp_path / "secret"
    shutil.copytree(model, out)
    secret.write_text("untouched")
    (out / EVENTS).unlink()
    if target == "file":
        (out / EVENTS).symlink_to(secret)
    else:
        os.mkfifo(out / EVENTS)
        assert load_events(out) == []
    model_dir = checkpoint.ModelDir.resume(out)
    with pytest.raises(SeqtoolError, match="cannot be written"):
        model_dir.append_events([{"step": 1}])
    assert secret.read_text() == "untouched"
