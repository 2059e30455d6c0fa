"""The cache directory: where it is, who waits for whom, what is deleted when it is full."""

import os
import sys
import threading
from pathlib import Path

import pytest

import seqtool.cache as cache_module
from seqtool.cache import alone_in, directory, prune, texts


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

    monkeypatch.setattr(cache_module.fcntl, "flock", refuse)
    with alone_in(tmp_path / "text"):
        assert (tmp_path / "text").is_dir()


def test_the_texts_not_used_for_longest_are_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "train.ids").write_bytes(bytes(10))
        os.utime(tmp_path / str(number), (number, number))
    monkeypatch.setattr(cache_module, "MOST_BYTES", 39)
    with alone_in(tmp_path / "1"):
        os.utime(tmp_path / "1", (1, 1))
        prune(tmp_path / "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4"]
