"""The cache directory: where it is, who waits for whom, what is deleted when it is full."""

import os
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import seqtool.cache as cache_module
import seqtool.files as files_module
from seqtool.cache import alone_in, directory, make_room, prune, texts


def test_the_directory_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert directory() == tmp_path / "xdg" / "seqtool"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert directory() == tmp_path / "home" / ".cache" / "seqtool"
    monkeypatch.setenv("SEQTOOL_CACHE", str(tmp_path / "mine"))
    assert directory() == tmp_path / "mine"
    assert texts() == tmp_path / "mine" / "texts"
    assert texts().is_dir()
    if os.name == "posix":  # a text may be one for its owner alone
        assert texts().stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_one_waits_for_the_other(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with alone_in(tmp_path / "text"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with alone_in(tmp_path / "text"):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_directory_that_is_deleted_before_it_is_locked_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mkdir, made = Path.mkdir, []

    def unlucky(path: Path, **options: bool) -> None:
        mkdir(path, **options)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", unlucky)
    with alone_in(tmp_path / "text"):
        assert made == [tmp_path / "text"] * 2
        assert (tmp_path / "text").is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_drive_that_locks_nothing_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files_module.fcntl, "flock", refuse)
    with alone_in(tmp_path / "text"):
        assert (tmp_path / "text").is_dir()


def five_texts(place: Path) -> None:
    """Texts of ten bytes, of which 4 was used last."""
    for number in range(5):
        (place / str(number)).mkdir()
        (place / str(number) / "train.ids").write_bytes(bytes(10))
        os.utime(place / str(number), (number, number))


def disk_of(monkeypatch: pytest.MonkeyPatch, place: Path, room: int) -> None:
    """A disk with room for so many bytes of texts."""

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=room - sum(path.stat().st_size for path in place.glob("*/*")))

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_texts_take_no_more_than_half_of_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    five_texts(tmp_path)
    disk_of(monkeypatch, tmp_path, room=60)
    prune(tmp_path / "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "4"]


def test_room_is_made_by_deleting_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    five_texts(tmp_path)
    disk_of(monkeypatch, tmp_path, room=60)
    make_room(tmp_path / "2", 10)
    assert len(list(tmp_path.iterdir())) == 5  # there is room enough
    with pytest.raises(OSError, match=r"at least 0.0 GB are needed, 0.0 GB are free"):
        make_room(tmp_path / "2", 51)
    assert len(list(tmp_path.iterdir())) == 5
    make_room(tmp_path / "2", 21)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "4"]


def test_the_texts_not_used_for_longest_are_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    five_texts(tmp_path)
    monkeypatch.setattr(cache_module, "MOST_BYTES", 39)
    with alone_in(tmp_path / "1"):
        os.utime(tmp_path / "1", (1, 1))
        prune(tmp_path / "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4"]
