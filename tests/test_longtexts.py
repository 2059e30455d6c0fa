"""Long texts: the same ids as by the short way, whatever happens on the way, and read only once."""

import gzip
import io
import json
import lzma
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

import seqtool.data as data_module
import seqtool.idfiles as idfiles
import seqtool.longtexts as longtexts
import seqtool.text as text_module
import seqtool.train_text as train_text
from seqtool.config import DataConfig
from seqtool.data import Corpus, load_corpus
from seqtool.errors import DataError
from seqtool.tokenizer import Tokenizer

WORDS = "the sea was calm, the sea was gr\u00e9y\nand the boat \U0001f6a3 was small\r\n\n"
# More than 255 characters, the last of which comes late: numbers outgrow a byte on the way.
SCRIPTS = WORDS * 20 + "".join(map(chr, range(0x4E00, 0x4F20))) + WORDS * 5 + "\u3042 end"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every text is long and blocks are small; gives the cache of texts."""
    monkeypatch.setattr(data_module, "LONG_BYTES", 0)
    monkeypatch.setattr(idfiles, "BLOCK", 50)
    monkeypatch.setattr(longtexts, "GROUP", 1)
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 64)
    monkeypatch.setenv("SEQTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "texts"


def short(data: str, config: DataConfig, **options) -> Corpus:
    """The corpus by the short way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_module, "LONG_BYTES", 1 << 40)
        return load_corpus(data, config, **options)


def assert_same(one: Corpus, other: Corpus) -> None:
    for part in ("train", "valid"):
        assert getattr(one, part).dtype == getattr(other, part).dtype
        assert getattr(one, part).tobytes() == getattr(other, part).tobytes()
    assert one.tokenizer.to_json() == other.tokenizer.to_json()
    fields = ("train_chars", "valid_chars", "train_bytes", "valid_bytes", "sha256", "valid_sha256")
    for name in (*fields, "stats", "unknown"):
        assert getattr(one, name) == getattr(other, name), name


def folder_of(tmp_path: Path, *texts: str) -> str:
    for number, text in enumerate(texts):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
    return str(tmp_path / "docs")


@pytest.mark.parametrize("kind", ["char", "byte", "word", "bpe"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_ids_are_those_of_the_short_way(tmp_path, kind, fraction):
    data = folder_of(tmp_path, SCRIPTS, "", WORDS * 3, "x", "no end")
    config = DataConfig(tokenizer=kind, valid_fraction=fraction, vocab_size=300)
    found = load_corpus(data, config)
    assert_same(found, short(data, config))
    assert isinstance(found.train, np.memmap)
    assert found.sampled == 0


@settings(max_examples=30)
@given(st.lists(st.text("ab\u00e9\n", max_size=40), min_size=1, max_size=6), st.integers(0, 5))
def test_the_cut_may_be_anywhere(tmp_path_factory, documents, tenths):
    if len("".join(documents)) * (10 - tenths) < 20:
        return  # too short to train on
    data = folder_of(tmp_path_factory.mktemp("cut"), *documents)
    config = DataConfig(valid_fraction=tenths / 10)
    assert_same(load_corpus(data, config), short(data, config))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8:replace"])
def test_other_encodings(tmp_path, encoding):
    path = tmp_path / "a.txt"
    text = WORDS.replace("\U0001f6a3", "")
    path.write_bytes(b"\xff\xff a\n" if ":" in encoding else (text * 4).encode(encoding))
    config = DataConfig(encoding=encoding)
    assert_same(load_corpus(str(path), config), short(str(path), config))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)) * 3)
    config = DataConfig(tokenizer="byte")
    assert_same(load_corpus(str(path), config), short(str(path), config))


def test_a_given_vocabulary_and_a_text_held_out(tmp_path):
    data, valid = tmp_path / "a.txt", tmp_path / "b.txt"
    data.write_text(WORDS * 9, encoding="utf-8", newline="")
    valid.write_text(WORDS + "q\u00fc", encoding="utf-8", newline="")
    known = Tokenizer.train("char", lambda: iter(["the sea\n"]), vocab_size=300)
    for tokenizer in (None, known):
        options = {"valid": str(valid), "tokenizer": tokenizer}
        found = load_corpus(str(data), DataConfig(), **options)
        assert_same(found, short(str(data), DataConfig(), **options))
        assert found.unknown["q"] == 1


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows whenever a text is really read."""
    read: list[str] = []
    count = longtexts._Reading._count

    def counted(self: longtexts._Reading) -> None:
        read.append(self.order.files.name)
        count(self)

    monkeypatch.setattr(longtexts._Reading, "_count", counted)
    return read


def test_the_second_run_reads_nothing(tmp_path, monkeypatch, small):
    read = count_readings(monkeypatch)
    data = folder_of(tmp_path, SCRIPTS, WORDS)
    first = load_corpus(data, DataConfig())
    monkeypatch.setattr(text_module.TextFiles, "sha256", None)  # not even to compare
    second = load_corpus(data, DataConfig())
    assert_same(first, second)
    assert len(read) == 1
    assert first.kept == second.kept
    assert first.kept is not None
    assert {path.name for path in small.iterdir()} == {first.kept.name}
    names = {"lock", "text.json", "train.ids", "valid.ids"}
    assert {path.name for path in first.kept.iterdir()} == names
    resumed = load_corpus(data, DataConfig(), tokenizer=first.tokenizer)
    assert_same(first, resumed)
    assert len(read) == 1


def test_the_same_content_under_another_name_is_known(tmp_path, monkeypatch):
    read = count_readings(monkeypatch)
    data = tmp_path / "a.txt"
    data.write_text(SCRIPTS, encoding="utf-8", newline="")
    first = load_corpus(str(data), DataConfig())
    shutil.copy(data, tmp_path / "b.txt")
    assert_same(first, load_corpus(str(tmp_path / "b.txt"), DataConfig()))
    for _ in range(2):
        stdin = io.TextIOWrapper(io.BytesIO(SCRIPTS.encode()), "utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        assert_same(first, load_corpus("-", DataConfig()))
    assert len(read) == 1


def test_what_is_known_by_its_content_is_known_at_once_the_next_time(tmp_path, monkeypatch):
    data = tmp_path / "a.txt"
    data.write_text(SCRIPTS, encoding="utf-8", newline="")
    first = load_corpus(str(data), DataConfig())
    data.rename(tmp_path / "b.txt")
    load_corpus(str(tmp_path / "b.txt"), DataConfig())
    monkeypatch.setattr(text_module.TextFiles, "sha256", None)
    assert_same(first, load_corpus(str(tmp_path / "b.txt"), DataConfig()))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no time of the last change there")
def test_an_edit_whose_time_is_put_back_is_seen(tmp_path):
    data = tmp_path / "a.txt"
    data.write_text("abc\n" * 30)
    before = data.stat()
    load_corpus(str(data), DataConfig())
    data.write_text("abd\n" * 30)
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_same(load_corpus(str(data), DataConfig()), short(str(data), DataConfig()))


@pytest.mark.parametrize("other", ["content", "encoding", "fraction", "kind"])
def test_another_text_or_order_is_another_reading(tmp_path, monkeypatch, other):
    read = count_readings(monkeypatch)
    data = tmp_path / "a.txt"
    data.write_text("abc\n" * 30)
    load_corpus(str(data), DataConfig())
    config = {
        "encoding": DataConfig(encoding="latin-1"),
        "fraction": DataConfig(valid_fraction=0.2),
        "kind": DataConfig(tokenizer="byte"),
    }.get(other, DataConfig())
    if other == "content":
        data.write_text("abd\n" * 30)  # of the same size
    assert_same(load_corpus(str(data), config), short(str(data), config))
    assert len(read) == 2


@pytest.mark.parametrize("form", ["gz", "xz", "stdin"])
def test_packed_texts_and_pipes(tmp_path, monkeypatch, form, small):
    packed = {"gz": gzip.compress, "xz": lzma.compress}.get(form, bytes)(SCRIPTS.encode())
    path = tmp_path / "a"
    path.write_bytes(packed)
    if form == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed), "utf-8"))
    found = load_corpus("-" if form == "stdin" else str(path), DataConfig())
    assert_same(found, short(str(path), DataConfig()))


class Killed(BaseException):
    """In place of a signal that nothing survives."""


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_an_interrupted_reading_goes_on(tmp_path, monkeypatch, kind):
    data = folder_of(tmp_path, SCRIPTS, "", WORDS * 3, "x", "no end")
    config = DataConfig(tokenizer=kind, vocab_size=300, valid_fraction=0.3)
    monkeypatch.setattr(longtexts, "SAVE_EVERY", 0.0)
    rng = random.Random(3)
    save, counts, splits = longtexts._Reading._save, [], list[bool]()

    def interrupted(self: longtexts._Reading, *files: IO[bytes]) -> None:
        save(self, *files)
        counts.append(self._state["census"]["counts"])
        splits.append(0 < self._state.get("renumbered", 0) < sum(counts[-1]))
        if rng.random() < 0.4:
            for file in files:
                file.write(b"what came after is written again")
            raise Killed

    monkeypatch.setattr(longtexts._Reading, "_save", interrupted)
    kills = 0
    while True:
        try:
            found = load_corpus(data, config)
            break
        except Killed:
            kills += 1
    assert kills > 10
    assert any(splits) == (kind == "char")
    assert all(sum(a) <= sum(b) for a, b in pairwise(counts))
    assert_same(found, short(data, config))


PROGRAM = """
import sys, seqtool.data, seqtool.longtexts, seqtool.text
from seqtool.config import DataConfig
seqtool.data.LONG_BYTES = 0
seqtool.longtexts.SAVE_EVERY = 0.0
seqtool.text.BLOCK_BYTES = 1 << 12
said = lambda line: print(line, flush=True)
seqtool.data.load_corpus(sys.argv[1], DataConfig(), tell=said)
"""


def test_a_killed_process_is_gone_on_with(tmp_path, small):
    data = tmp_path / "a.txt"
    data.write_text(WORDS * 9000, encoding="utf-8", newline="")
    command = [sys.executable, "-c", PROGRAM, str(data)]
    for lines in (3, 9):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert "so far" in process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    (folder,) = small.iterdir()
    done = sum(json.loads((folder / "progress.json").read_bytes())["census"]["counts"])
    assert 0 < done < len(WORDS) * 9000
    told: list[str] = []
    found = load_corpus(str(data), DataConfig(), tell=told.append)
    assert_same(found, short(str(data), DataConfig()))
    assert not (folder / "progress.json").exists()


def test_long_texts_are_sampled_to_learn_from(tmp_path, monkeypatch):
    monkeypatch.setattr(longtexts, "SAMPLE", 400)
    data = folder_of(tmp_path, "sea boat " * 300 + "calm wind " * 300)
    config = DataConfig(tokenizer="word", vocab_size=300)
    found = load_corpus(data, config)
    assert found.sampled == 400
    assert len(found.tokenizer.encode(" boat")) == len(found.tokenizer.encode(" wind")) == 1
    assert found.tokenizer.decode(found.train) == ("sea boat " * 300 + "calm wind " * 300)[:5130]


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch, small):
    data = tmp_path / "a.txt"
    data.write_text("abc\n" * 300)
    count = longtexts._Reading._count

    def meanwhile(self: longtexts._Reading) -> None:
        count(self)
        data.write_text("abd\n" * 200)

    monkeypatch.setattr(longtexts._Reading, "_count", meanwhile)
    with pytest.raises(DataError, match="written to while it was read; start again"):
        load_corpus(str(data), DataConfig())
    assert list(small.iterdir()) == []


def test_a_damaged_text_is_read_again(tmp_path, monkeypatch):
    read = count_readings(monkeypatch)
    data = folder_of(tmp_path, SCRIPTS)
    first = load_corpus(data, DataConfig())
    assert first.kept is not None
    for number, content in enumerate((b"{", b"{}", b"[]", b'{"dtype": "x"}')):
        (first.kept / "text.json").write_bytes(content)
        assert_same(load_corpus(data, DataConfig()), short(data, DataConfig()))
        assert len(read) == 2 + number
    os.truncate(first.kept / "train.ids", 5)
    assert_same(load_corpus(data, DataConfig()), short(data, DataConfig()))
    for number, name in enumerate(("train.ids", "valid.ids")):
        blob = bytearray((first.kept / name).read_bytes())
        blob[-2] ^= 1
        (first.kept / name).write_bytes(blob)
        assert_same(load_corpus(data, DataConfig()), short(data, DataConfig()))
        assert len(read) == 7 + number
    load_corpus(data, DataConfig())
    assert len(read) == 8


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"\xff"])
def test_damaged_progress_is_no_progress(tmp_path, content):
    data = folder_of(tmp_path, SCRIPTS)
    first = load_corpus(data, DataConfig())
    assert first.kept is not None
    (first.kept / "text.json").unlink()
    (first.kept / "progress.json").write_bytes(content)
    assert_same(load_corpus(data, DataConfig()), short(data, DataConfig()))


def test_a_cache_of_somebody_else_is_named(tmp_path, monkeypatch, small):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(longtexts, "alone_in", refuse)
    with pytest.raises(DataError, match=r"no place for the token ids \(Permission denied\)"):
        load_corpus(folder_of(tmp_path, SCRIPTS), DataConfig())


def test_without_a_cache_nothing_is_kept(tmp_path, monkeypatch, small):
    small.parent.write_text("a file is in its place")
    data = folder_of(tmp_path, SCRIPTS)
    found = load_corpus(data, DataConfig())
    assert_same(found, short(data, DataConfig()))
    assert found.kept is None


def test_a_full_disk_is_named(tmp_path, monkeypatch, small):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(longtexts, "write_whole", fail)
    data = folder_of(tmp_path, SCRIPTS)
    with pytest.raises(DataError) as error:
        load_corpus(data, DataConfig())
    assert re.fullmatch(
        rf"{re.escape(str(small))}/\w+: no place for the token ids \(No space left on device\); "
        "make room, or set SEQTOOL_CACHE to a directory with more",
        str(error.value),
    )
    assert list(small.iterdir()) == []  # or the disk would stay full


@pytest.mark.parametrize("stage", ["reading", "splitting"])
def test_a_disk_with_too_little_room_is_not_filled(tmp_path, monkeypatch, small, stage):
    read = count_readings(monkeypatch)
    data = folder_of(tmp_path, "sea " * 1000)

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=4_000 if stage == "splitting" and not read else 3_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(DataError) as error:
        load_corpus(data, DataConfig())
    assert "token ids (at least 0.0 GB are needed, 0.0 GB are free); make room" in str(error.value)
    assert len(read) == (stage == "splitting")
    assert list(small.iterdir()) == []


def test_a_pipe_that_is_no_text_leaves_nothing_behind(monkeypatch, small):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\n" * 50 + b"\xe9"), "utf-8")
    )
    with pytest.raises(DataError, match="byte 0xe9 at offset 200"):
        load_corpus("-", DataConfig())
    assert list(small.iterdir()) == []


def test_training_says_what_it_does_with_a_long_text_and_learns_the_same(
    run, tmp_path, monkeypatch, text, small
):
    data = tmp_path / "a.txt"
    data.write_text(text, encoding="utf-8")
    told, weights = [], []
    for number, longest in enumerate((0, 1 << 40)):
        monkeypatch.setattr(data_module, "LONG_BYTES", longest)
        out = tmp_path / str(number)
        code, _, err = run("train", data, "-o", out, *TINY, "--steps", 3)
        assert code == 0
        told.append(err)
        weights.append((out / "model.safetensors").read_bytes())
        monkeypatch.setattr(train_text, "MAX_TOKENS", 1000)
    (folder,) = small.iterdir()
    assert "for the next run" in told[0]
    assert folder.name in told[0]
    assert "for the next run" not in told[1]
    assert weights[0] == weights[1]
    assert "n-gram model of the same text" in told[0]
    assert "n-gram model of the last 1.0k tokens" in told[1]
