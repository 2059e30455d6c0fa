"""Reading the plain text that a user names: a file, standard input, or a directory of files.

Everything is read in blocks, as often as the caller likes, and never held whole in memory. What the
text becomes (alphabet, split, ids) is the business of ``data``.
"""

import bz2
import codecs
import difflib
import gzip
import hashlib
import io
import lzma
import mmap
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from seqtool.distributed import world
from seqtool.errors import ConfigError, DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 1 << 20  # read, decoded and handed on at once
PACKED = (".gz", ".xz", ".bz2", ".zst")
SUFFIXES = (".txt", *(f".txt{end}" for end in PACKED))  # what counts as text in a directory
STDIN = "standard input"

# Longest first: the UTF-32 mark begins with the UTF-16 one.
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_BZ2_BLOCK = b"1AY&SY"  # follows "BZh" and a digit; without it any text in BZh would pass


class _Mapped(io.RawIOBase):
    """A reader of a memory map with a position of its own, so that many can read one map."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        block = self._data[self._position : self._position + len(view)]
        view[: len(block)] = block
        self._position += len(block)
        return len(block)


@dataclass(frozen=True)
class TextFiles:
    """The documents of one text: every file is one, and can be read any number of times."""

    name: str  # what the user called it, for messages
    paths: tuple[Path, ...]  # in reading order; none when the text was copied from a pipe
    encoding: str
    binary_ok: bool  # any bytes are fine: those that are no text become surrogate escapes
    spool: mmap.mmap | None = None  # the copy of a pipe

    def documents(self, fingerprint: "Fingerprint | None" = None) -> Iterator[Iterator[str]]:
        """The text, file by file, in chunks of about a million characters.

        Line ends stay as they are; a byte order mark at the start of a file is dropped. Finish one
        document before asking for the next.

        Args:
            fingerprint: Takes what is read on the way; then read all documents to their ends.

        Raises:
            DataError: While iterating, if a file cannot be read, is damaged, or is not text.
        """
        for path in self._sources():
            yield self._chunks(path, fingerprint)

    def lines(self, longest: int) -> Iterator[str]:
        """The lines of all documents, each with its line feed; the last one may lack it.

        Only a line feed ends a line, so that numbers agree with those of an editor.

        Args:
            longest: Characters that a line may have; a longer one is refused before it is whole.

        Raises:
            DataError: As ``documents``, or if a line is longer.
        """
        for path, document in zip(self._sources(), self.documents(), strict=True):
            yield from split_lines(document, longest, self._where(path))

    def sha256(self) -> str:
        """Fingerprint of the bytes, decompressed, that sees where a document ends.

        For one file it is what ``sha256sum`` prints; for several, the hash of their hashes.
        """
        fingerprint = Fingerprint()
        for path in self._sources():
            fingerprint.begin()
            for block in self.blocks(path):
                fingerprint.update(block)
        return fingerprint.hexdigest()

    def size(self) -> int:
        """Bytes of all sources as they lie there, compressed or not."""
        if self.spool is not None:
            return len(self.spool)
        return sum(size for _, size, *_ in self.identity())

    def identity(self) -> list[tuple[str, int, int, int]]:
        """What changes when a file does: path, bytes and times of each; none for a pipe.

        Of the two times the second cannot be set: it moves even if a tool puts the first one back.

        Raises:
            DataError: If a file is no longer there.
        """
        found = []
        for path in self.paths:
            try:
                status = path.stat()
            except OSError as err:
                raise DataError(f"{path}: cannot be read: {err.strerror}") from err
            times = status.st_mtime_ns, status.st_ctime_ns
            found.append((os.path.realpath(path), status.st_size, *times))
        return found

    def blocks(self, path: Path | None) -> Generator[bytes, None, None]:
        """The decompressed bytes of one source: a file, or None for the copy of a pipe.

        Raises:
            DataError: If it cannot be read or its compression is damaged.
        """
        where = self._where(path)
        try:
            with self._open(path) as raw, _unpacked(raw) as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block
        except (EOFError, zlib.error, lzma.LZMAError) as err:
            raise _damaged(where, err) from err
        except OSError as err:
            if err.errno is None:  # gzip and bz2 report damaged data so
                raise _damaged(where, err) from err
            raise DataError(f"{where}: cannot be read: {err.strerror}") from err

    def _sources(self) -> tuple[Path | None, ...]:
        return self.paths if self.spool is None else (None,)

    def _where(self, path: Path | None) -> str:
        return self.name if path is None else str(path)

    def _open(self, path: Path | None) -> io.BufferedReader:
        if path is not None:
            return open(path, "rb")
        assert self.spool is not None
        return io.BufferedReader(_Mapped(self.spool))

    def _chunks(self, path: Path | None, fingerprint: "Fingerprint | None") -> Iterator[str]:
        """Decode one source, checking it on the way."""
        decoder = _Decoder(self._where(path), self.encoding, self.binary_ok)
        first = True
        if fingerprint is not None:
            fingerprint.begin()
        with closing(self.blocks(path)) as blocks:
            for block in blocks:
                if fingerprint is not None:
                    fingerprint.update(block)
                text = decoder.decode(block)
                if first and text:
                    first = False
                    text = text.removeprefix("\ufeff")
                if text:
                    yield text
        if text := decoder.finish():
            yield text


class Fingerprint:
    """The hash of a text, worked out by a thread beside what else is done with its bytes."""

    def __init__(self) -> None:
        self._digests: list[Any] = []  # of each source
        self._worker = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def begin(self) -> None:
        """A source begins."""
        self._wait()
        self._digests.append(hashlib.sha256())

    def update(self, block: bytes) -> None:
        """The next bytes of the source; waits for those before, so that memory stays bounded."""
        self._wait()
        self._last = self._worker.submit(self._digests[-1].update, block)

    def hexdigest(self) -> str:
        """The fingerprint, see ``TextFiles.sha256``; the end of all."""
        self._wait()
        self._worker.shutdown()
        if len(self._digests) == 1:
            whole: str = self._digests[0].hexdigest()
            return whole
        return hashlib.sha256(b"".join(one.digest() for one in self._digests)).hexdigest()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def split_lines(chunks: Iterable[str], longest: int, where: str) -> Iterator[str]:
    """Lines out of chunks of text, each with its line feed; the last one may lack it.

    Raises:
        DataError: If a line has more characters than ``longest``.
    """
    number, rest = 1, ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            if len(line) > longest:
                raise too_long(f"{where}:{number}", longest)
            yield line + "\n"
            number += 1
        if len(rest) > longest:
            raise too_long(f"{where}:{number}", longest)
    if rest:
        yield rest


def too_long(where: str, longest: int) -> DataError:
    """The one line about a text that no model could read as one."""
    return DataError(
        f"{where}: more than {longest:,} characters in one text, which no model could read as one; "
        "cut it into shorter texts, and see whether a quote or a line end is missing"
    )


class _Decoder:
    """Bytes to text, block by block, with errors that say where in the file they are."""

    def __init__(self, where: str, encoding: str, binary_ok: bool) -> None:
        self.where = where
        self.encoding = encoding
        self.binary_ok = binary_ok
        codec, _, errors = encoding.partition(":")
        self._utf8 = codecs.lookup(codec).name == "utf-8"
        errors = "surrogateescape" if binary_ok else errors or "strict"
        self._decoder = codecs.getincrementaldecoder(codec)(errors)
        self._num_bytes = 0  # taken so far
        self._num_lines = 0  # line ends in the text given out so far

    def decode(self, block: bytes) -> str:
        """The text of the next block; half a character at its end waits for the next call."""
        if self._num_bytes == 0 and self._utf8 and not self.binary_ok:
            self._refuse_wide(block)
        text = self._decode(block, final=False)
        if not self.binary_ok and "\0" in text:
            raise self._binary(text, block)
        self._num_bytes += len(block)
        self._num_lines += text.count("\n")
        return text

    def finish(self) -> str:
        """Whatever is left at the end of the file."""
        return self._decode(b"", final=True)

    def _decode(self, block: bytes, *, final: bool) -> str:
        waiting, flag = self._decoder.getstate()
        try:
            return self._decoder.decode(block, final)
        except UnicodeDecodeError as err:
            # Once more, up to the bad byte, to count the lines before it.
            self._decoder.setstate((b"", flag))
            before = self._decoder.decode(err.object[: err.start])
            line = self._num_lines + before.count("\n") + 1
            offset = self._num_bytes - len(waiting) + err.start
            found = f"byte 0x{err.object[err.start]:02x} at offset {offset}"
            if err.end == len(err.object) and final:
                found = f"the file ends inside a character, {found}"
            raise self._not_text(f"{self.where}:{line}", found) from err
        except UnicodeError as err:  # no byte order mark where the codec needs one
            raise self._not_text(self.where, str(err)) from err

    def _not_text(self, where: str, found: str) -> DataError:
        hint = (
            "name the encoding, e.g. --encoding latin-1, or --encoding utf-8:replace if only a few "
            "bytes are broken"
            if self._utf8
            else "name the right one with --encoding"
        )
        if not self.binary_ok:
            hint += ", or train with --tokenizer byte, which takes any bytes"
        return DataError(f"{where}: not valid {self.encoding.upper()} ({found}); {hint}")

    def _refuse_wide(self, block: bytes) -> None:
        for mark, encoding in _WIDE_MARKS.items():
            if block.startswith(mark):
                raise DataError(
                    f"{self.where}:1: this is {encoding.upper()} text (it begins with the bytes "
                    f"{mark.hex(' ')}), not UTF-8; use --encoding {encoding}"
                )

    def _binary(self, text: str, block: bytes) -> DataError:
        position = text.index("\0")
        line = self._num_lines + text.count("\n", 0, position) + 1
        hint = "if it is meant to be read, train with --tokenizer byte, which takes any bytes"
        # Western text in UTF-16 without a mark: every second byte is NUL.
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            half = block[start:2000:2]
            if self._utf8 and len(block) >= 4 and half.count(0) > 0.7 * len(half):
                hint = f"it may be UTF-16, then use --encoding {encoding}"
        return DataError(f"{self.where}:{line}: NUL byte, so this looks binary, not text; {hint}")


def open_text(data: str, *, encoding: str, binary_ok: bool = False) -> TextFiles:
    """Find the text that a user names and see that there is something in it.

    Args:
        data: A file (plain, or gzip, xz, bzip2, Zstandard by its content), ``-`` for standard
            input, or a directory: every .txt, .txt.gz, .txt.xz, .txt.bz2 and .txt.zst below it, in
            sorted order, hidden ones left out. A pipe is copied once to a nameless temporary file,
            to be read twice.
        encoding: Name of a Python text encoding, or ``NAME:replace`` (as in PYTHONIOENCODING) to
            put U+FFFD where bytes are no text in it.
        binary_ok: Take any bytes (tokenizer ``byte``): what is not text in the encoding becomes
            surrogate escapes, so that nothing is lost.

    Raises:
        ConfigError: If the encoding is unknown.
        DataError: If there is no such file, it cannot be read, or it is empty.
    """
    codec, colon, errors = encoding.partition(":")
    try:
        "".encode(codec)
        codecs.getincrementaldecoder(codec)
        if colon and errors != "replace":
            raise LookupError(errors)
    except (LookupError, ValueError) as err:
        raise ConfigError(
            f"--encoding {encoding!r} is not a text encoding known here; "
            "use for example utf-8, latin-1, cp1252, utf-16 or utf-8:replace"
        ) from err
    if data == "-":
        spool = _spooled(standard_input(), STDIN)
        files = TextFiles(STDIN, (), encoding, binary_ok, spool)
    else:
        files = _open_path(data, encoding, binary_ok)
    for path in files._sources():
        with closing(files.blocks(path)) as blocks:
            if next(blocks, b""):
                return files
    raise DataError(f"{files.name}: empty, there is nothing to read")


def standard_input() -> BinaryIO:
    """The bytes that come through a pipe.

    Raises:
        DataError: If there are none.
        ConfigError: If several processes would each get some of them.
    """
    if sys.stdin is None:
        raise DataError(f"{STDIN} is closed; name a file")
    if world().size > 1:
        raise ConfigError(
            f"{STDIN} cannot be read by {world().size} processes; name a file, or leave "
            "torchrun out"
        )
    return sys.stdin.buffer


def _open_path(data: str, encoding: str, binary_ok: bool) -> TextFiles:
    path = Path(data)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return TextFiles(data, _files_below(path), encoding, binary_ok)
        if stat.S_ISREG(mode):
            return TextFiles(data, (path,), encoding, binary_ok)
        with open(path, "rb") as pipe:  # for example the shell's <(command)
            return TextFiles(data, (), encoding, binary_ok, _spooled(pipe, data))
    except FileNotFoundError as err:
        raise DataError(f"{data}: no such file or directory; {_nearest(path)}") from err
    except OSError as err:
        raise DataError(f"{data}: cannot be read: {err.strerror}") from err


def _nearest(path: Path) -> str:
    """What to say instead of a name that is not there."""
    folder = path.parent
    if not os.path.isdir(folder):
        return f"there is no directory {folder} either"
    names: list[str] = []
    with suppress(OSError):  # a directory that may be searched but not listed
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {folder / close[0]}?" if close else "check the name"


def _files_below(root: Path) -> tuple[Path, ...]:
    """The text files of a directory, sorted by their path in it."""

    def fail(err: OSError) -> None:
        raise DataError(f"{err.filename}: cannot be read: {err.strerror}") from err

    found: list[Path] = []
    others: list[str] = []
    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(Path(folder, name))
            else:
                others.append(name)
    if not found:
        seen = f"only others, e.g. {min(others)}" if others else "no file at all"
        raise DataError(
            f"{root}: no .txt file in this directory ({seen}); name a file, or rename it to .txt"
        )
    return tuple(sorted(found, key=lambda path: path.relative_to(root).parts))


def _spooled(pipe: IO[bytes], name: str) -> mmap.mmap | None:
    """Copy a pipe to a temporary file without a name, which no kind of exit can leave behind."""
    try:
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(pipe, file, BLOCK_BYTES)
            file.flush()
            if file.tell() == 0:
                raise DataError(f"{name}: empty, there is nothing to read")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as err:
        raise DataError(
            f"{name}: cannot be copied to {tempfile.gettempdir()}: {err.strerror}; "
            "set TMPDIR to a directory with room, or name a file"
        ) from err


def _unpacked(raw: io.BufferedReader) -> io.BufferedIOBase:
    """The stream without its compression, which is told from the first bytes, not from the name."""
    head = raw.peek(10)
    if head.startswith(b"\x1f\x8b\x08"):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(raw)
    if head.startswith(b"BZh") and head[4:10] == _BZ2_BLOCK:
        return bz2.BZ2File(raw)
    if head.startswith(_ZSTD):
        # It comes with datasets.
        from pyarrow import CompressedInputStream, PythonFile  # type: ignore[import-untyped]

        unpacked: io.BufferedIOBase = CompressedInputStream(PythonFile(raw, "r"), "zstd")
        return unpacked
    return raw


def _damaged(where: str, err: Exception) -> DataError:
    return DataError(
        f"{where}: the compressed file is damaged or cut short ({err}); copy or download it again"
    )
