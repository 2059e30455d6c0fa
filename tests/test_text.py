"""Reading text: what is found, what is decoded, and the one line said about what cannot be."""

import bz2
import gzip
import hashlib
import io
import itertools
import lzma
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seqtool.text as text_module
from seqtool.errors import ConfigError, DataError
from seqtool.text import TextFiles, open_text

SAMPLE = "One line,\r\nanother: \u00e9\u4e2d\U0001f600 e\u0301\n\nlast without an end"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda text: pyarrow.compress(text, "zstd", asbytes=True),
}


def read(files: TextFiles) -> list[str]:
    return ["".join(document) for document in files.documents()]


def say(data, encoding="utf-8", *, binary_ok=False) -> str:
    """The line a user sees when this text is read to its end."""
    with pytest.raises(DataError) as error:
        read(open_text(str(data), encoding=encoding, binary_ok=binary_ok))
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.fixture
def small_blocks(monkeypatch):
    """Three bytes at a time: every character and line falls across blocks."""
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 3)


@pytest.fixture
def stdin(monkeypatch):
    """Set what standard input holds."""

    def set_stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))

    return set_stdin


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("misnamed", [False, True])
def test_compression_is_told_from_content(tmp_path, small_blocks, suffix, misnamed):
    path = tmp_path / ("a.txt" if misnamed else f"a.txt{suffix}")
    path.write_bytes(PACKERS[suffix](SAMPLE.encode()))
    files = open_text(str(path), encoding="utf-8")
    assert read(files) == [SAMPLE] == read(files)
    assert files.sha256() == hashlib.sha256(SAMPLE.encode()).hexdigest()


@pytest.mark.parametrize("suffix", PACKERS)
def test_standard_input_can_be_read_twice_and_at_once(stdin, small_blocks, suffix):
    stdin(PACKERS[suffix](SAMPLE.encode()))
    files = open_text("-", encoding="utf-8")
    assert files.name == "standard input"
    assert read(files) == [SAMPLE] == read(files)
    (first,), (second,) = files.documents(), files.documents()
    assert "".join(map("".join, zip(first, second, strict=True))) == "".join(
        piece * 2 for piece in next(files.documents())
    )
    assert files.sha256() == hashlib.sha256(SAMPLE.encode()).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_can_be_read_twice(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(SAMPLE.encode(),))
    writer.start()
    files = open_text(str(path), encoding="utf-8")
    writer.join()
    assert read(files) == [SAMPLE] == read(files)
    assert files.name == str(path)


def test_directory_is_read_in_sorted_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    content = {"c.txt": "5", "b/z.txt.gz": "4", "b/a.TXT": "3", "a.txt": "1", "b-.txt": "2"}
    content |= {"a.csv": "no", ".d.txt": "no", ".hidden/a.txt": "no", "README.md": "no"}
    for name, words in content.items():
        pack = gzip.compress if name.endswith(".gz") else bytes
        (tmp_path / name).write_bytes(pack(words.encode()))
    files = open_text(str(tmp_path), encoding="utf-8")
    names = [path.relative_to(tmp_path).as_posix() for path in files.paths]
    assert names == ["a.txt", "b/a.TXT", "b/z.txt.gz", "b-.txt", "c.txt"]
    assert read(files) == ["1", "3", "4", "2", "5"]


def test_fingerprint_sees_document_boundaries(tmp_path):
    prints = set()
    for parts in (("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc",)):
        folder = tmp_path / "".join(parts) / "-".join(parts)
        folder.mkdir(parents=True)
        for number, part in enumerate(parts):
            (folder / f"{number}.txt").write_text(part)
        prints.add(open_text(str(folder), encoding="utf-8").sha256())
    assert len(prints) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "utf-16-le", "utf-8-sig"])
def test_byte_order_mark_is_dropped_once_per_file(tmp_path, small_blocks, encoding):
    marked = encoding in ("utf-16", "utf-32", "utf-8-sig")  # these codecs write the mark themselves
    path = tmp_path / "a.txt"
    path.write_bytes((("" if marked else "\ufeff") + SAMPLE + "\ufeff").encode(encoding))
    assert read(open_text(str(path), encoding=encoding)) == [SAMPLE + "\ufeff"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "gb18030", "iso2022_jp"])
def test_other_encodings_are_decoded(tmp_path, small_blocks, encoding):
    words = "caf\u00e9\r\n" if encoding in ("latin-1", "cp1252") else "\u65e5\u672c\r\n"
    path = tmp_path / "a.txt"
    path.write_bytes((words * 3).encode(encoding))
    assert read(open_text(str(path), encoding=encoding)) == [words * 3]


def test_broken_bytes_are_replaced_on_demand(tmp_path, small_blocks):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xc3\xa9, caf\xe9\n")
    assert read(open_text(str(path), encoding="utf-8:replace")) == ["caf\xe9, caf\ufffd\n"]


def test_lines_end_at_line_feeds_only_and_may_not_be_endless(tmp_path, small_blocks):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\n\ntw\u2028o\rx\nlast".encode())
    files = open_text(str(path), encoding="utf-8")
    assert list(files.lines(6)) == ["one\r\n", "\n", "tw\u2028o\rx\n", "last"]
    with pytest.raises(DataError, match=r"a.txt:3: more than 5 characters in one text"):
        list(files.lines(5))


@given(st.binary().map(lambda content: b"x" + content))  # no mark, no compression
def test_any_bytes_come_back_if_binary_is_fine(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    (words,) = read(open_text(str(path), encoding="utf-8", binary_ok=True))
    assert words.encode("utf-8", "surrogateescape") == content


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 1 << 14)
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"all work and no play\n" * 200_000))
    tracemalloc.start()
    files = open_text(str(path), encoding="utf-8")
    size = sum(len(chunk) for document in files.documents() for chunk in document)
    files.sha256()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 21 * 200_000
    assert peak < 20 * (1 << 14)


def test_missing_file_is_named_with_its_nearest_neighbour(tmp_path):
    (tmp_path / "input.txt").write_text("words")
    path = tmp_path / "imput.txt"
    line = f"{path}: no such file or directory; did you mean {tmp_path / 'input.txt'}?"
    (tmp_path / ".imput.txt.lock").write_text("")  # nobody means a hidden file
    assert say(path) == line
    assert say(tmp_path / "zzz").endswith("zzz: no such file or directory; check the name")
    assert say(tmp_path / "no" / "a").endswith(f"there is no directory {tmp_path / 'no'} either")
    assert "cannot be read: Not a directory" in say(tmp_path / "input.txt" / "a")


def test_empty_text_is_refused(tmp_path, stdin):
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b""))
    stdin(b"")
    for data in (tmp_path / "a.txt", tmp_path / "b.txt.gz", tmp_path, "-"):
        name = "standard input" if data == "-" else str(data)
        assert say(data) == f"{name}: empty, there is nothing to read"


def test_one_text_among_empty_files_is_enough(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("" if name == "a.txt" else "words")
    assert read(open_text(str(tmp_path), encoding="utf-8")) == ["", "words"]


def test_directory_without_text_is_refused(tmp_path):
    assert say(tmp_path).startswith(f"{tmp_path}: no .txt file in this directory (no file at all)")
    (tmp_path / "x.csv").write_text("a,b")
    assert "(only others, e.g. x.csv)" in say(tmp_path)


def test_closed_standard_input_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert say("-") == "standard input is closed; name a file"


def fail_to_open(*_):
    raise PermissionError(13, "Permission denied")


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("words")
    monkeypatch.setattr(TextFiles, "_open", fail_to_open)
    assert say(path) == f"{path}: cannot be read: Permission denied"


def test_unreadable_directory_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "scandir", fail_to_open)
    assert say(tmp_path).endswith("cannot be read: Permission denied")


def test_full_disk_while_copying_a_pipe_is_named(stdin, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    stdin(b"words")
    monkeypatch.setattr("shutil.copyfileobj", fail)
    line = say("-")
    assert line.startswith("standard input: cannot be copied to ")
    assert "No space left on device; set TMPDIR" in line


@pytest.mark.parametrize("block_bytes", [2, 1 << 20])
def test_latin_1_is_refused_with_its_place(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.txt"
    path.write_bytes("\u4e2d one\ntwo\ncaf\u00e9 ".encode()[:-3] + b"\xe9 x\n")
    assert say(path) == (
        f"{path}:3: not valid UTF-8 (byte 0xe9 at offset 15); name the encoding, e.g. "
        "--encoding latin-1, or --encoding utf-8:replace if only a few bytes are broken, "
        "or train with --tokenizer byte, which takes any bytes"
    )


@pytest.mark.parametrize("block_bytes", [2, 1 << 20])
def test_text_cut_inside_a_character_is_refused(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.txt"
    path.write_bytes("one\n\u4e2d".encode()[:-1])
    assert f"{path}:2: not valid UTF-8 (the file ends inside a character, byte 0xe4 " in say(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_with_a_mark_is_refused_with_the_flag(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffwords".encode(encoding))
    line = say(path)
    assert line.startswith(f"{path}:1: this is {encoding[:6].upper()} text (it begins with")
    assert line.endswith(f"use --encoding {encoding[:6]}")
    assert read(open_text(str(path), encoding=encoding[:6])) == ["words"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_text_without_a_mark_is_refused_with_the_flag(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("many words\n".encode(encoding))
    assert say(path) == (
        f"{path}:1: NUL byte, so this looks binary, not text; it may be UTF-16, "
        f"then use --encoding {encoding}"
    )


@pytest.mark.parametrize("block_bytes", [3, 1 << 20])
def test_binary_is_refused_with_its_line(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.bin"
    path.write_bytes(b"PK\n\nwords words\0 words")
    assert say(path) == (
        f"{path}:3: NUL byte, so this looks binary, not text; if it is meant to be read, "
        "train with --tokenizer byte, which takes any bytes"
    )


def test_wrong_encoding_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\n\xff\xfe\xff")
    assert say(path, "shift_jis").startswith(f"{path}:2: not valid SHIFT_JIS (byte 0x")
    assert "name the right one with --encoding" in say(path, "utf-16")
    assert "does not start with BOM" in say(path, "utf-16")
    assert "--tokenizer byte" not in say(path, "utf-16", binary_ok=True)


@pytest.mark.parametrize(
    "encoding", ["klingon", "hex", "rot13", "a\0b", "", "utf-8:", "utf-8:ignore"]
)
def test_unknown_encoding_is_a_wrong_flag(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_text("words")
    with pytest.raises(
        ConfigError, match=r"^--encoding .* is not a text encoding .*utf-8:replace$"
    ):
        open_text(str(path), encoding=encoding)


# A Zstandard file need not have a checksum, so what is flipped in one may not show.
@pytest.mark.parametrize(
    ("suffix", "harm"),
    [*itertools.product([".gz", ".xz", ".bz2"], ["cut", "flipped"]), (".zst", "cut")],
)
def test_damaged_compression_is_refused(tmp_path, suffix, harm):
    whole = bytearray(PACKERS[suffix](os.urandom(5000).hex().encode()))
    if harm == "flipped":
        whole[len(whole) // 2] ^= 0xFF
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(whole[:-100] if harm == "cut" else whole)
    line = say(path)
    assert line.startswith(f"{path}: the compressed file is damaged or cut short (")
    assert line.endswith("; copy or download it again")
