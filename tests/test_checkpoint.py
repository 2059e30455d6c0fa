"""The model directory: what is saved comes back, and nothing that goes wrong loses a model."""

import builtins
import errno
import hashlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtool import __version__
from seqtool.checkpoint import (
    BEST,
    CONFIG,
    COUNTS,
    DICTIONARY,
    EVENTS,
    FORMAT,
    LAST,
    TEXT,
    TOKENIZER,
    Card,
    ModelDir,
    Saved,
    _load_part,
    event_line,
    load,
    load_counts,
    load_last,
    load_text,
)
from seqtool.config import DataConfig, ModelConfig, TrainConfig
from seqtool.errors import CheckpointError, ConfigError, SeqtoolError
from seqtool.shapes import check_weights

ALL = {CONFIG, TOKENIZER, BEST, LAST, TEXT, COUNTS, DICTIONARY, EVENTS}
OLD, NEW, THIRD = 3, 4, 5  # hidden sizes, and so the models that tests tell apart


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def card_of(size: int) -> Card:
    return Card(
        task="generate",
        model=ModelConfig(hidden_size=size, embed_size=2),
        data=DataConfig(),
        train=TrainConfig(steps=size),
        vocab_size=11,
        source={"name": "corpus.txt", "sha256": "ab" * 32, "documents": 1},
    )


def tokenizer_of(size: int) -> str:
    return f'{{"model": "é☃ {size}"}}'


def weights_of(size: int) -> dict[str, np.ndarray]:
    values = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    return {"head.weight": values.T, "head.bias": values[0] + 0.5}


def make(
    path: Path,
    size: int = OLD,
    *,
    force: bool = False,
    parts: dict[str, dict[str, np.ndarray]] | None = None,
) -> ModelDir:
    model_dir = ModelDir.create(path, force=force)
    model_dir.begin(card_of(size), tokenizer_of(size), weights_of(size), parts)
    return model_dir


def parts_of(size: int) -> dict[str, dict[str, np.ndarray]]:
    return {
        TEXT: {"ids": np.arange(size, dtype=np.uint8)},
        COUNTS: {"gains": np.ones(size)},
        DICTIONARY: {"words": np.arange(size)},
    }


def make_full(path: Path, size: int = OLD) -> ModelDir:
    """A directory with all its files."""
    model_dir = make(path, size, parts=parts_of(size))
    model_dir.append_events([{"step": 1}, {"step": 2}])
    model_dir.save_last({"a.b": np.arange(size)}, {"step": 2})
    return model_dir


def same_arrays(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name])
        for name in left
    )


def assert_holds(path: Path, size: int) -> Saved:
    saved = load(path)
    assert saved.card == card_of(size)
    assert saved.tokenizer_json == tokenizer_of(size)
    assert same_arrays(saved.weights, weights_of(size))
    return saved


def edit_config(path: Path, *, sealed: bool = True, **changes: Any) -> None:
    """Change entries of config.json, with a checksum that fits, as another version would."""
    values = json.loads((path / CONFIG).read_text("ascii")) | changes
    del values["sha256"]
    if sealed:
        values["sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (path / CONFIG).write_text(json.dumps(values), "ascii")


# --- what is saved comes back -----------------------------------------------------------------


def test_a_new_model_is_whole_from_the_start(tmp_path):
    model_dir = ModelDir.create(tmp_path / "deep" / "m")
    assert not model_dir.begun
    assert list(tmp_path.iterdir()) == []  # create() touches nothing
    model_dir.begin(card_of(OLD), tokenizer_of(OLD), weights_of(OLD))
    assert model_dir.begun
    assert_holds(tmp_path / "deep" / "m", OLD)
    assert os.listdir(tmp_path / "deep") == ["m"]
    assert sorted(os.listdir(model_dir.path)) == [CONFIG, BEST, TOKENIZER]


def test_best_card_and_last_come_back(tmp_path):
    model_dir = make(tmp_path / "m")
    better = {name: array + 1 for name, array in weights_of(OLD).items()}
    model_dir.save_best(better)
    model_dir.save_card(replace(card_of(OLD), extra={"valid": 1.5, "never": math.inf}))
    tensors = {
        "scalar": np.array(2.5),
        "rng": np.arange(5, dtype=np.uint8),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "flags": np.array([True, False]),
    }
    counters = {"best": math.inf, "rng": 2**127 - 1, "loss": 0.1 + 0.2, "name": "é\udc80"}
    model_dir.save_last(tensors, counters)
    saved = load(tmp_path / "m")
    assert same_arrays(saved.weights, better)
    assert saved.card.extra == {"valid": 1.5, "never": None}
    found, back = load_last(tmp_path / "m")
    assert same_arrays(found, tensors)
    assert back == counters


def test_parts_come_back_if_they_were_kept(tmp_path):
    make(tmp_path / "bare")
    assert load_text(tmp_path / "bare") is None
    with pytest.raises(CheckpointError, match=r"no counts\.safetensors, which config\.json asks"):
        load_counts(tmp_path / "bare")
    ids, counts = np.array([0, 10, 7], dtype=np.uint16), {"a": np.eye(2), "b": np.arange(3)}
    make(tmp_path / "m", parts={TEXT: {"ids": ids}, COUNTS: counts})
    assert same_arrays({"ids": load_text(tmp_path / "m")}, {"ids": ids})
    assert same_arrays(load_counts(tmp_path / "m"), counts)


@pytest.mark.parametrize("ids", [np.array([11], np.uint8), np.zeros(3), np.zeros((1, 1), np.uint8)])
def test_a_text_that_the_model_cannot_have_read_is_refused(tmp_path, ids):
    make(tmp_path / "m", parts={TEXT: {"ids": ids}})
    with pytest.raises(CheckpointError, match="not ids below 11"):
        load_text(tmp_path / "m")


def test_counters_may_be_nan(tmp_path):
    make(tmp_path / "m").save_last({}, {"loss": math.nan})
    assert math.isnan(load_last(tmp_path / "m")[1]["loss"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_card_survives_json(extra):
    card = replace(card_of(OLD), extra=extra)
    text = card.to_json()
    assert text.isascii()
    assert Card.from_json(text, "x") == card
    assert Card.from_json(json.dumps(json.loads(text)), "x") == card  # layout does not matter


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vocab_size": "11"}, "vocab_size must be a whole number, got '11'"),
        ({"source": None}, "source must be a dict, got None"),
        ({"model": {"hidden_size": "512"}}, "hidden_size must be a whole number, got '512'"),
        ({"model": {"hidden_size": 1e9}}, "hidden_size must be a whole number"),
        ({"train": []}, "train must hold settings by name, got []"),
    ],
)
def test_a_card_of_other_types_is_refused(tmp_path, changes, expected):
    make(tmp_path / "m")
    edit_config(tmp_path / "m", **changes)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "m")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_are_plain_safetensors(tmp_path):
    make(tmp_path / "m")
    assert same_arrays(safetensors.numpy.load_file(tmp_path / "m" / BEST), weights_of(OLD))


def test_the_same_run_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        model_dir = make_full(tmp_path / name)
        model_dir.save_best(dict(reversed(weights_of(OLD).items())))
    for file in ALL:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_importing_does_not_load_torch():
    code = "import sys, seqtool.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- events -----------------------------------------------------------------------------------


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / EVENTS).read_text("ascii").splitlines()]


def test_event_line_is_strict_json():
    line = event_line({"loss": math.nan, "norms": (math.inf, np.float32(0.5)), "sample": "a\n☃"})
    assert line.count("\n") == 1
    no_constants = json.loads(line, parse_constant=pytest.fail)
    assert no_constants == {"loss": None, "norms": [None, 0.5], "sample": "a\n☃"}


def test_a_resumed_run_has_the_same_events(tmp_path):
    model_dir = make_full(tmp_path / "m")
    model_dir.append_events([{"step": 3}])  # after the last save, so lost when killed
    resumed = ModelDir.resume(tmp_path / "m")
    assert resumed.begun
    assert resumed.card == card_of(OLD)
    assert len(events_of(tmp_path / "m")) == 3  # resume() alone cuts nothing
    resumed.append_events([{"step": 3}])
    resumed.append_events([{"step": 4}])
    assert [event["step"] for event in events_of(tmp_path / "m")] == [1, 2, 3, 4]
    resumed.save_last({}, {})
    ModelDir.resume(tmp_path / "m").append_events([{"step": 5}])
    assert [event["step"] for event in events_of(tmp_path / "m")] == [1, 2, 3, 4, 5]


def test_saving_first_also_cuts_the_events(tmp_path):
    make_full(tmp_path / "m").append_events([{"step": 3}])
    ModelDir.resume(tmp_path / "m").save_last({}, {})
    assert [event["step"] for event in events_of(tmp_path / "m")] == [1, 2]


@pytest.mark.parametrize("left", [None, 5])
def test_lost_events_do_not_stop_a_resume(tmp_path, left):
    make_full(tmp_path / "m")
    events = tmp_path / "m" / EVENTS
    if left is None:
        events.unlink()
    else:
        os.truncate(events, left)
    ModelDir.resume(tmp_path / "m").append_events([{"step": 3}])
    assert events.read_bytes().endswith(b'{"step": 3}\n')
    assert b"\0" not in events.read_bytes()


# --- strict reading ---------------------------------------------------------------------------


def refusal(act: Callable[[], object]) -> str | None:
    """What a user would read if this is refused."""
    try:
        act()
    except SeqtoolError as err:
        return str(err)
    return None


def load_all(path: Path) -> str:
    """All that can be read, as text."""
    saved = load(path)
    rest = (load_last(path), load_text(path), load_counts(path))
    return repr((saved.card, saved.tokenizer_json, saved.weights, *rest))


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, BEST, LAST, TEXT])
def test_every_flipped_bit_and_cut_is_noticed(tmp_path, name):
    path = tmp_path / "m"
    make_full(path)
    whole, expected = (path / name).read_bytes(), load_all(path)
    damaged = [whole[:end] for end in range(0, len(whole), 17)] + [whole + b"\0"]
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for blob in damaged:
        (path / name).write_bytes(blob)
        said = refusal(lambda: load_all(path))
        if said is None:  # only white space of config.json may change
            assert name == CONFIG
            assert load_all(path) == expected
            assert blob.split() == whole.split()
        else:
            assert f"{path}/{name}" in said
            assert "\n" not in said


@pytest.mark.parametrize(("version", "needle"), [(FORMAT + 1, "upgrade"), (0, "needed 1")])
@pytest.mark.parametrize("sealed", [True, False])
def test_another_format_is_named(tmp_path, version, needle, sealed):
    make(tmp_path / "m")
    edit_config(tmp_path / "m", sealed=sealed, format=version, seqtool="9.8", surprise=[1])
    with pytest.raises(CheckpointError, match=rf"config.json: format {version}.*'9.8'.*") as err:
        load(tmp_path / "m")
    assert needle in str(err.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"model": {"hidden_size": 3, "wings": 2}},
        {"model": {"hidden_size": "big"}},
        {"model": {"hidden_size": -1}},
        {"train": None},
    ],
)
def test_settings_of_another_version_are_named(tmp_path, changes):
    make(tmp_path / "m")
    edit_config(tmp_path / "m", seqtool="9.8", **changes)
    told = r"config.json: .*written by seqtool '9.8', this is "
    with pytest.raises(CheckpointError, match=told):
        load(tmp_path / "m")
    edit_config(tmp_path / "m", seqtool=__version__, **changes)
    told = rf"config.json: .*written by another state of seqtool {__version__}: use that one$"
    with pytest.raises(CheckpointError, match=told):
        load(tmp_path / "m")


def test_a_hand_edited_card_is_refused(tmp_path):
    make(tmp_path / "m")
    text = (tmp_path / "m" / CONFIG).read_text("ascii")
    (tmp_path / "m" / CONFIG).write_text(text.replace('"lr": 0.004', '"lr": 0.005'), "ascii")
    with pytest.raises(CheckpointError, match="changed by hand"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, BEST, LAST])
def test_a_missing_piece_is_named_with_what_was_found(tmp_path, name):
    make_full(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    with pytest.raises(CheckpointError, match=rf"m: no {name} \(found .*{EVENTS}.*\); ") as err:
        load_all(tmp_path / "m")
    assert ("--force" in str(err.value)) == (name == LAST)


def test_files_of_two_runs_do_not_mix(tmp_path):
    make_full(tmp_path / "a", OLD)
    make_full(tmp_path / "b", NEW)
    for name in (TOKENIZER, BEST, LAST, TEXT):
        shutil.copytree(tmp_path / "a", tmp_path / "mixed")
        shutil.copy(tmp_path / "b" / name, tmp_path / "mixed" / name)
        with pytest.raises(CheckpointError, match=name):
            load_all(tmp_path / "mixed")
        shutil.rmtree(tmp_path / "mixed")
    shutil.copy(tmp_path / "a" / LAST, tmp_path / "a" / BEST)
    with pytest.raises(CheckpointError, match=BEST):
        load(tmp_path / "a")


def test_what_is_no_model_is_named(tmp_path):
    make(tmp_path / "cat")
    (tmp_path / "dog").mkdir()
    with pytest.raises(CheckpointError, match=r"no model there \(models in .*: cat\)"):
        load(tmp_path / "cow")
    with pytest.raises(CheckpointError, match=r"no model there"):
        load(tmp_path / "cat" / BEST)
    with pytest.raises(CheckpointError, match=r"dog: no config.json \(found nothing\)"):
        load(tmp_path / "dog")
    (tmp_path / "dog" / CONFIG).write_text('{"model_type": "gpt2", "format": 1}')
    with pytest.raises(CheckpointError, match="not from seqtool"):
        load(tmp_path / "dog")


def test_weights_are_checked_against_the_model():
    expected = {"a": (2, 3), "b": (4,), "c": (5,)}
    good = {name: np.zeros(shape, np.float32) for name, shape in expected.items()}
    check_weights(good, expected, "m")
    for other, said in ((np.zeros(4), "is of float64"), (good["b"] + np.inf, "is not finite")):
        with pytest.raises(CheckpointError, match=f"b {said}"):
            check_weights(good | {"b": other}, expected, "m")
    bad = {"a": np.zeros((3, 2)), "b": np.zeros(4), "d": np.zeros(1)}
    with pytest.raises(CheckpointError, match=r"^m: .*config.json") as err:
        check_weights(bad, expected, "m")
    for part in ("a has shape (3, 2), needed (2, 3)", "c has shape none", "d has shape (1,)"):
        assert part in str(err.value)


# --- where a model may be put -----------------------------------------------------------------


def listing(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_model_is_not_replaced_without_force(tmp_path):
    make(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"--resume.*--force"):
        make(tmp_path / "m", NEW)
    assert_holds(tmp_path / "m", OLD)


@pytest.mark.parametrize("damage", ["none", "newer", "half", ".DS_Store"])
def test_force_replaces_a_model(tmp_path, damage):
    make_full(tmp_path / "m")
    if damage == "newer":
        edit_config(tmp_path / "m", format=FORMAT + 1)
    if damage == "half":
        (tmp_path / "m" / BEST).unlink()
    if damage == ".DS_Store":
        (tmp_path / "m" / damage).touch()
    model_dir = make(tmp_path / "m", NEW, force=True)
    assert_holds(tmp_path / "m", NEW)
    assert os.listdir(tmp_path) == ["m"]
    assert sorted(os.listdir(tmp_path / "m")) == [CONFIG, BEST, TOKENIZER]
    model_dir.append_events([{"step": 1}])


def foreign_directory(path: Path, kind: str) -> None:
    """A directory that is not wholly a seqtool model."""
    path.mkdir()
    if kind == "photos":
        (path / "cat.jpg").write_bytes(b"cat")
    elif kind == "other tool":
        for name in (CONFIG, TOKENIZER, BEST):
            (path / name).write_text('{"model_type": "gpt2"}')
    elif kind == "damaged card":
        (path / CONFIG).write_text('{"format": 1, "seqto')
    else:
        path.rmdir()
        make(path)
        if kind == "model and notes":
            (path / "notes.txt").write_text("mine")
        elif kind == "model and folder":
            (path / LAST).mkdir()
            (path / LAST / "notes.txt").write_text("mine")


FOREIGN = ["photos", "other tool", "damaged card", "model and notes", "model and folder"]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_directory_is_never_replaced(tmp_path, kind, force):
    foreign_directory(tmp_path / "m", kind)
    before = listing(tmp_path)
    with pytest.raises(ConfigError, match=r"found .*choose another -o"):
        ModelDir.create(tmp_path / "m", force=force)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("kind", ["photos", "model and notes"])
def test_begin_looks_again(tmp_path, kind):
    model_dir = ModelDir.create(tmp_path / "m", force=True)
    foreign_directory(tmp_path / "m", kind)
    before = listing(tmp_path)
    with pytest.raises(ConfigError):
        model_dir.begin(card_of(NEW), tokenizer_of(NEW), weights_of(NEW))
    assert listing(tmp_path) == before
    assert not model_dir.begun


def test_files_in_the_way_are_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "m"):
        with pytest.raises(ConfigError, match="file is in the way"):
            ModelDir.create(path, force=True)


def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"-o \.: .*-o model"):
        ModelDir.create(Path("."))
    make(Path("model"))
    assert_holds(Path("model"), OLD)


def test_no_right_to_write_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(SeqtoolError, match="no right to write"):
        ModelDir.create(tmp_path / "a" / "m")


def test_an_empty_directory_and_a_link_may_be_used(tmp_path):
    (tmp_path / "disk" / "m").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "m")
    make(tmp_path / "link", OLD)
    make(tmp_path / "link", NEW, force=True)
    assert_holds(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["m"]


def test_a_replaced_run_does_not_save_into_the_new_one(tmp_path):
    old = make_full(tmp_path / "m")
    make(tmp_path / "m", NEW, force=True)
    for save in (
        lambda: old.save_best(weights_of(OLD)),
        lambda: old.save_last({}, {}),
        lambda: old.save_card(card_of(OLD)),
        lambda: old.append_events([{}]),
    ):
        with pytest.raises(CheckpointError, match="another run"):
            save()
    assert_holds(tmp_path / "m", NEW)
    assert not (tmp_path / "m" / EVENTS).exists()


# --- crashes, full disks, readers at any moment -----------------------------------------------


class Crash(BaseException):
    """The process dies here: whatever it tries afterwards, also cleaning up, does not happen."""


class Disk:
    """Counts operations that change the disk, can fail at one, and lets a reader look at each.

    A write that fails has put half of its bytes down. Syncing is recorded, not done: a name may
    only be given to what has been synced, or a power failure would leave it without its content.
    """

    def __init__(self, monkeypatch, *, failing: int = 0, error: BaseException | None = None):
        self.failing, self.error = failing, error
        self.count = 0
        self.dead = self.watched = False
        self.watch: Callable[[], None] = lambda: None
        self.unsynced: set[int] = set()
        self.open = open
        for name in ("replace", "rename", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name), name))
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(builtins, "open", self.open_counted)

    def tick(self, half: Callable[[], object] = lambda: None) -> None:
        if self.dead:
            raise Crash
        if self.watched:
            return
        self.watched = True
        self.watch()
        self.watched = False
        self.count += 1
        if self.count == self.failing and self.error:
            half()
            self.dead = isinstance(self.error, Crash)
            raise self.error

    def counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def operation(path: Any, *args: Any, **kwargs: Any) -> Any:
            self.tick()
            if name in ("replace", "rename"):
                inside = [path, *(Path(path).iterdir() if Path(path).is_dir() else [])]
                if Path(args[0]).name == LAST:  # it counts the events
                    inside.append(Path(args[0]).with_name(EVENTS))
                assert not self.unsynced & {os.stat(file).st_ino for file in inside}
            return real(path, *args, **kwargs)

        return operation

    def fsync(self, handle: int) -> None:
        self.tick()
        self.unsynced.discard(os.fstat(handle).st_ino)

    def open_counted(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self.watched or not set(mode) & set("wa+x"):
            return self.open(path, mode, *args, **kwargs)
        self.tick()
        file = self.open(path, mode, buffering=0)
        return Slow(self, file)


class Slow:
    """A file whose every write is an operation of a ``Disk``."""

    def __init__(self, disk: Disk, file: Any):
        self.disk, self.file = disk, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Slow":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, blob: Any) -> int:
        half = memoryview(blob)[: len(blob) // 2]
        self.disk.tick(lambda: self.file.write(half))
        self.disk.unsynced.add(os.fstat(self.file.fileno()).st_ino)
        return int(self.file.write(blob))

    def truncate(self, size: int) -> int:
        self.disk.tick()
        return int(self.file.truncate(size))


# Each: what to prepare, what to do while things go wrong, the model before and after it.
def begin_new(path: Path) -> Callable[[], object]:
    return lambda: make(path, NEW)


def begin_in_empty(path: Path) -> Callable[[], object]:
    path.mkdir()
    return lambda: make(path, NEW)


def begin_over_model(path: Path) -> Callable[[], object]:
    make_full(path)
    return lambda: make(path, NEW, force=True)


def begin_with_parts(path: Path) -> Callable[[], object]:
    make_full(path)
    return lambda: make(path, NEW, force=True, parts=parts_of(NEW))


def save_everything(path: Path) -> Callable[[], object]:
    model_dir = make_full(path)

    def save() -> None:
        model_dir.append_events([{"step": 3}])
        model_dir.save_best(weights_of(OLD))
        model_dir.save_card(card_of(OLD))
        model_dir.save_last({"a.b": np.arange(OLD)}, {"step": 3})

    return save


def resume_and_save(path: Path) -> Callable[[], object]:
    make_full(path).append_events([{"step": 3, "tail": "x" * 99}])
    (path / f".{BEST}.tmp-1").touch()  # a crash left them
    shutil.copytree(path, path.with_name(f".{path.name}.old-1"))
    (path.with_name(f".{path.name}.tmp-1")).mkdir()

    def resume() -> None:
        model_dir = ModelDir.resume(path)
        model_dir.append_events([{"step": 3}])
        model_dir.save_last({"a.b": np.arange(OLD)}, {"step": 3})

    return resume


Scenario = Callable[[Path], Callable[[], object]]
SCENARIOS: dict[Scenario, tuple[int | None, int]] = {
    begin_new: (None, NEW),
    begin_in_empty: (None, NEW),
    begin_over_model: (OLD, NEW),
    begin_with_parts: (OLD, NEW),
    save_everything: (OLD, OLD),
    resume_and_save: (OLD, OLD),
}


def assert_old_or_new(path: Path, old: int | None, new: int) -> None:
    """What a reader may see: a whole model with whole events, or (if none was there) none."""
    if old is None and (said := refusal(lambda: load(path))):
        assert "no model there" in said or "no config.json (found nothing)" in said
        return
    size = load(path).card.train.steps
    assert size in (old, new)
    assert_holds(path, size)
    for name in (COUNTS, DICTIONARY):  # those of this model, or none
        found = _load_part(path, name)
        assert found is None or same_arrays(found, parts_of(size)[name])
    if size == OLD:
        tensors, counters = load_last(path)
        assert same_arrays(tensors, {"a.b": np.arange(OLD)})
        assert counters["step"] in (2, 3)
        ids = load_text(path)
        assert ids is not None
        assert np.array_equal(ids, np.arange(OLD))


@contextmanager
def going_wrong(failing: int, error: BaseException | None):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Disk(monkeypatch, failing=failing, error=error)


def operations(scenario: Scenario, path: Path) -> int:
    """How many operations there are; a reader looks before each of them."""
    act = scenario(path)
    with going_wrong(0, None) as disk:
        disk.watch = lambda: assert_old_or_new(path, *SCENARIOS[scenario])
        act()
    return disk.count


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_any_operation_loses_nothing(tmp_path, scenario):
    old, new = SCENARIOS[scenario]
    count = operations(scenario, tmp_path / "m")
    assert count > 10
    for failing in range(1, count + 1):
        path = tmp_path / str(failing) / "m"
        path.parent.mkdir()
        act = scenario(path)
        with going_wrong(failing, Crash()), pytest.raises(Crash):
            act()
        assert_old_or_new(path, old, new)
        for aside in path.parent.glob(".m.*"):
            if (aside / CONFIG).exists() and scenario is begin_over_model and ".old-" in aside.name:
                assert_holds(aside, OLD)  # never half of one, which a later look might take up
        if old == new:
            resumed = ModelDir.resume(path)
            step = load_last(path)[1]["step"]
            resumed.append_events([{"step": step + 1}])
            assert [event["step"] for event in events_of(path)] == list(range(1, step + 2))
            assert_holds(path, OLD)
            assert set(os.listdir(path)) == ALL
        make(path, THIRD, force=True)
        assert_holds(path, THIRD)
        assert os.listdir(path.parent) == ["m"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_refusal_at_any_operation_is_one_line_and_loses_nothing(tmp_path, scenario, code):
    old, new = SCENARIOS[scenario]
    for failing in range(1, operations(scenario, tmp_path / "m") + 1):
        path = tmp_path / str(failing) / "m"
        path.parent.mkdir()
        act = scenario(path)
        with going_wrong(failing, OSError(code, os.strerror(code))) as disk:
            said = refusal(act)
        assert disk.count >= failing
        assert_old_or_new(path, old, new)
        if said:
            assert said.startswith(f"{path}: cannot be written ({os.strerror(code)}); ")
        if said and old != new:
            assert path.exists() == (scenario is not begin_new)
            assert old is None or assert_holds(path, old)
        if (path / EVENTS).exists():
            assert len(events_of(path)) in (2, 3)  # and no half line
        make(path, THIRD, force=True)
        assert os.listdir(path.parent) == ["m"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.EACCES, "allow writing"), (errno.EROFS, "allow writing"), (errno.EIO, "look at the")],
)
def test_the_advice_fits_the_refusal(tmp_path, monkeypatch, code, advice):
    model_dir = make(tmp_path / "m")
    with going_wrong(1, OSError(code, os.strerror(code))):
        said = refusal(lambda: model_dir.save_best(weights_of(OLD)))
    assert said is not None
    assert os.strerror(code) in said
    assert advice in said
    assert "the model there is still whole" in said


def test_a_full_disk_leaves_no_temporary_files(tmp_path):
    model_dir = make_full(tmp_path / "m")
    before = listing(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"w": np.zeros(300_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # the system refuses for real
    try:
        for save in (
            lambda: model_dir.save_best(big),
            lambda: model_dir.save_last(big, {"step": 9}),
            lambda: model_dir.append_events([{"sample": "x" * 2_000_000}]),
            lambda: make(tmp_path / "m", NEW, force=True).save_best(big),
        ):
            with pytest.raises(SeqtoolError, match=r"m: cannot be written .*make room"):
                save()
            if save.__code__.co_names[0] != "make":
                assert listing(tmp_path) == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_holds(tmp_path / "m", NEW)


def test_a_swap_in_the_middle_of_reading_never_mixes_two_models(tmp_path):
    path = tmp_path / "m"
    make(path)
    for moment in range(1, 4):  # load() opens three files
        opened = 0
        after = NEW if moment % 2 else OLD
        real = open

        def swapping(*args: Any, real=real, moment=moment, after=after, **kwargs: Any) -> Any:
            nonlocal opened
            opened += 1
            if opened == moment:
                make(path, after, force=True)
            return real(*args, **kwargs)

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(builtins, "open", swapping)
            assert load(path).card.train.steps == after
        assert_holds(path, after)


def test_readers_of_a_model_that_is_replaced_again_and_again(tmp_path):
    path = tmp_path / "m"
    make(path)
    stop = threading.Event()

    def replace_it() -> None:
        while not stop.is_set():
            for size in (NEW, OLD):
                make(path, size, force=True).save_best(weights_of(size))

    writer = threading.Thread(target=replace_it)
    writer.start()
    try:
        sizes = [load(path).card.train.steps for _ in range(60)]
        for _ in range(60):
            saved = load(path)
            assert saved.tokenizer_json == tokenizer_of(saved.card.train.steps)
    finally:
        stop.set()
        writer.join()
    assert set(sizes) <= {OLD, NEW}


# --- what an interrupted replacement leaves behind --------------------------------------------


@pytest.fixture
def moved_aside(tmp_path):
    """The moment between the two renames of a replacement, kept by a power failure."""
    make_full(tmp_path / "m")
    os.rename(tmp_path / "m", tmp_path / ".m.old-77")
    make(tmp_path / ".m.tmp-77", NEW)
    return tmp_path / "m"


def test_a_model_moved_aside_is_still_read(moved_aside):
    assert_holds(moved_aside, OLD)
    assert not moved_aside.exists()


def test_a_model_moved_aside_is_not_overwritten_without_force(moved_aside):
    with pytest.raises(ConfigError, match="--force"):
        ModelDir.create(moved_aside)
    assert_holds(moved_aside, OLD)


def test_resuming_puts_it_back(moved_aside):
    ModelDir.resume(moved_aside)
    assert os.listdir(moved_aside.parent) == ["m"]
    assert_holds(moved_aside, OLD)


def test_cleaning_up_deletes_only_what_seqtool_wrote(tmp_path):
    for name in (".m.tmp-1", ".m.old-2", ".m.old-backup", ".mm.tmp-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    make(tmp_path / "m")
    assert len(list(tmp_path.glob(".m*/thesis.txt"))) == 4
