"""Files that are written whole or not at all, also when the power fails or the disk is full."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seqtool.errors import SeqtoolError

_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room")
_ADVICE |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow writing there")


@contextmanager
def writing(path: Path, kept: str, then: str = "try again") -> Iterator[None]:
    """Turn what the system refuses into one line that says what is still there."""
    try:
        yield
    except OSError as err:
        advice = _ADVICE.get(err.errno or 0, "look at the disk")
        raise SeqtoolError(
            f"{path}: cannot be written ({err.strerror}); {kept}; {advice} and {then}"
        ) from err


def write_whole(path: Path, blob: bytes | bytearray) -> None:
    """Put a whole file in place at once."""
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave the new name without content
        os.replace(beside, path)
        sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def held(directory: Path) -> Iterator[int]:
    """Keep a directory open, so that its inode goes to no other; -1 where that is impossible."""
    handle = -1
    with suppress(PermissionError):  # Windows, or no right to list it
        handle = os.open(directory, os.O_RDONLY)
    try:
        yield handle
    finally:
        if handle >= 0:
            os.close(handle)


def sync_directory(directory: Path) -> None:
    """Make its renames survive a power failure; where that fails, old or new is whole anyway."""
    with suppress(OSError), held(directory) as handle:
        os.fsync(handle)
