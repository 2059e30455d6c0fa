"""Texts in memory or in a mapped file: the same sequence either way."""

import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest

import seqtool.storage as storage
from seqtool.storage import Picked, TextStore

SINGLE = ["", "one", "zwei \u00e9\u4e2d\U0001f600\n", "byte \udcff"] * 700  # more than one batch
PAIRS = [(text, text[::-1]) for text in SINGLE]


@pytest.fixture(params=[0, 5_000, 1 << 26], ids=["mapped", "mapped later", "in memory"])
def limit(request, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "MEMORY_CHARS", request.param)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return request.param


def stored(texts):
    store = TextStore()
    for text in texts:
        store.append(text)
    return store.finish()


@pytest.mark.parametrize("texts", [SINGLE, PAIRS], ids=["single", "pairs"])
def test_gives_back_what_it_took(limit, texts, tmp_path):
    found = stored(texts)
    assert len(found) == len(texts)
    assert list(found) == texts
    assert [found[i] for i in (0, 1700, -1)] == [texts[i] for i in (0, 1700, -1)]
    assert list(found[1000:10:-3]) == texts[1000:10:-3]
    with pytest.raises(IndexError):
        found[len(texts)]
    assert not list(tmp_path.iterdir())  # nothing is left behind, not even while in use


def test_no_text_is_a_sequence_too(limit):
    assert list(stored([])) == []


def test_picks_in_any_order_without_copies(limit):
    found = Picked(stored(SINGLE), [5, 1, 1])
    assert list(found) == [SINGLE[5], SINGLE[1], SINGLE[1]]
    assert list(found[1:]) == [SINGLE[1]] * 2


def test_memory_is_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(storage, "MEMORY_CHARS", 100_000)
    stored(["warm up"] * 100_000)  # loads the library
    tracemalloc.start()
    found = stored(f"{n} " + "x" * 1000 for n in range(20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # of 20 MB of text
    assert found[12_345].startswith("12345 x")
    assert not list(tmp_path.glob("seqtool-*/texts"))


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is asked for there")
def test_what_was_read_of_a_file_does_not_stay_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(storage, "MEMORY_CHARS", 100_000)

    def megabytes():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) / 1024

    stored(["warm up " * 20] * 5000)[1]  # loads the libraries
    before = megabytes()
    found = stored(f"{n} " + "x" * 1000 for n in range(40_000))  # 40 MB
    assert sum(len(text) for text in found) > 40_000_000
    assert megabytes() < before + 10
    assert sum(len(found[row]) for row in range(0, 40_000, 2)) > 20_000_000  # one by one
    assert megabytes() < before + 10
