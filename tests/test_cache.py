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
