"""Lines as they come: none lost, none kept waiting, none without end."""

import io
import os
import threading

import pytest

from seqtool.errors import ConfigError, DataError
from seqtool.pipes import _byte_lines, batches, read_lines


class Stream(io.RawIOBase):
    """Gives what it holds in pieces of a size."""

    def __init__(self, data, size):
        self.data, self.size = data, size

    def read(self, most=-1):
        piece, self.data = self.data[: self.size], self.data[self.size :]
        return piece


def test_live_items_wait_for_others_only_a_moment():
    release = threading.Event()

    def items():
        yield from range(5)
        release.wait(30)  # who waits for more than a moment gets them all at once
        yield from range(5, 9)

    found = batches(items(), 4, live=True)
    assert next(found) == [0, 1, 2, 3]
    assert next(found) == [4]
    release.set()
    assert [item for batch in found for item in batch] == [5, 6, 7, 8]


@pytest.mark.parametrize("live", [False, True])
def test_items_before_a_fault_are_given_first(live):
    def items():
        yield from range(5)
        raise DataError("line 6")

    found = batches(items(), 3, live=live)
    assert [next(found), next(found)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(DataError, match="line 6"):
        next(found)


def test_every_item_comes_once_and_in_order_however_fast_they_are():
    found = [item for batch in batches(iter(range(10_000)), 7, live=True) for item in batch]
    assert found == [*range(10_000)]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_lines_do_not_depend_on_the_pieces_they_come_in(size):
    data = b"one\n\n two\r\nthree\x00\nlast"
    lines = [*_byte_lines(Stream(data, size), 1000)]
    assert lines == [b"one\n", b"\n", b" two\r\n", b"three\x00\n", b"last"]
    assert [*_byte_lines(Stream(data + b"\n", size), 1000)] == [*lines[:-1], b"last\n"]
    assert [*_byte_lines(Stream(b"", size), 1000)] == []


def standard_input(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    return read_lines("-", "utf-8", 10)


def test_a_line_without_end_is_refused_before_it_is_whole(monkeypatch):
    monkeypatch.setattr("seqtool.pipes.BLOCK_BYTES", 16)
    endless = standard_input(monkeypatch, b"short\n" + b"x" * 10_000)
    assert next(endless) == "short\n"
    with pytest.raises(DataError, match=r"standard input:2: more than 10 characters"):
        next(endless)
    wide = standard_input(monkeypatch, "é".encode() * 11)
    with pytest.raises(DataError, match="more than 10 characters"):
        next(wide)


def test_bytes_and_encodings_that_are_wrong_are_told(monkeypatch):
    lines = standard_input(monkeypatch, b"fine\n\xe9\n")
    assert next(lines) == "fine\n"
    with pytest.raises(DataError, match=r"standard input:2: not utf-8 \(byte 0xe9\)"):
        next(lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x\n")))
    with pytest.raises(ConfigError, match="--encoding klingon"):
        next(read_lines("-", "klingon", 10))


def test_a_file_is_read_like_a_pipe(tmp_path, monkeypatch):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"a\n\nb")
    assert [*read_lines(os.fspath(path), "utf-8", 10)] == ["a\n", "\n", "b"]
    assert [*standard_input(monkeypatch, b"a\n\nb")] == ["a\n", "\n", "b"]
