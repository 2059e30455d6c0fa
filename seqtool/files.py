"""Files that are written whole or not at all, also when the power fails or the disk is full."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

try:
    import fcntl
except ImportError:  # Windows: two at work in one place are not noticed there
    fcntl = None  # type: ignore[assignment]

from seqtool.errors import ConfigError, SeqtoolError

_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room")
_ADVICE |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow writing there")


def open_plain(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open a file to read or append: no pipe, which could wait for ever, and no device.

    To append is to write, so a link is not followed then: it may lead anywhere.

    Raises:
        OSError: If the system refuses it, or it is no plain file.
    """

    def opener(name: str, flags: int) -> int:
        flags |= getattr(os, "O_NONBLOCK", 0)
        return os.open(name, flags | (0 if mode == "rb" else getattr(os, "O_NOFOLLOW", 0)), 0o666)

    file = open(path, mode, buffering=0 if mode == "ab" else -1, opener=opener)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file")
    return cast("IO[bytes]", file)


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


def check_place(option: str, path: Path | None) -> None:
    """See before long work that the file an option names can be written.

    Raises:
        SeqtoolError: If its directory is not there, or nothing may be written in that place.
    """
    if path is None:
        return
    if os.path.isdir(path):
        why = "it is a directory"
    elif not os.path.isdir(path.parent):
        why = f"{path.parent} is not a directory"
    elif not os.access(path if os.path.exists(path) else path.parent, os.W_OK):
        why = "you may not write there"
    else:
        return
    raise SeqtoolError(f"{option} {path}: cannot be written ({why}); choose another place")


def write_whole(path: Path, *pieces: bytes | bytearray | memoryview) -> None:
    """Put a whole file in place at once."""
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.writelines(pieces)
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


@contextmanager
def alone(path: Path, shown: str) -> Iterator[None]:
    """Keep other processes of seqtool away from a place that is written to meanwhile.

    The lock is a file beside it, which the system frees when its holder ends, however that happens.
    Where nothing can be locked, as on some network drives, nobody is kept away.

    Args:
        path: The place; it need not exist.
        shown: The option that named it.

    Raises:
        ConfigError: If another process is at work there.
    """
    home = Path(os.path.realpath(path))
    place, handle, made = home.parent / f".{home.name}.lock", -1, list[Path]()
    try:
        # Where this fails, writing will fail as well, and say why.
        with suppress(OSError), _refusing(place, f"{shown} {path}"):
            for parent in (*reversed(home.parent.parents), home.parent):
                if not parent.exists():
                    parent.mkdir()
                    made.insert(0, parent)
            handle = lock(place, wait=False)
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        if handle >= 0:
            place.unlink(missing_ok=True)
            os.close(handle)
        for parent in made:
            with suppress(OSError):  # something is in it by now
                parent.rmdir()


@contextmanager
def _refusing(place: Path, where: str) -> Iterator[None]:
    """Say who has the lock that somebody else has."""
    try:
        yield
    except BlockingIOError as err:
        holder = "unknown"
        with suppress(OSError), open_plain(place) as file:
            holder = file.read(20).decode("ascii", "replace").strip() or holder
        raise ConfigError(
            f"{where}: another process ({holder}) trains into it; wait for that, or choose "
            "another place"
        ) from err


def lock(path: Path, *, wait: bool) -> int:
    """Lock a file, made if there is none; gives the handle that holds the lock until it is closed.

    Where nothing can be locked, as on some network drives, everybody gets it.

    Raises:
        BlockingIOError: If another process has it and there is no waiting.
        OSError: If it cannot be made or written to.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _flock(handle, wait=wait)
            # The holder before may have deleted the file that was opened here.
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(handle)):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _flock(handle: int, *, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return


def sync_directory(directory: Path) -> None:
    """Make its renames survive a power failure; where that fails, old or new is whole anyway."""
    with suppress(OSError), held(directory) as handle:
        os.fsync(handle)
