"""The user's cache directory, and long texts kept in it so that no run reads them twice.

Everything there can be deleted at any time; what is missing is made again.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: two readings of the same text at a time are not noticed there
    fcntl = None  # type: ignore[assignment]

MOST_BYTES = 40 << 30  # kept of long texts; beyond that the ones not used for longest go
VARIABLE = "SEQTOOL_CACHE"  # names another directory
_LOCK = "lock"


def directory() -> Path:
    """Where machine code and long texts are kept.

    Raises:
        RuntimeError: If there is no home directory.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA")
        return (Path(place) if place else Path.home() / "AppData" / "Local") / "seqtool" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "seqtool"
    place = os.environ.get("XDG_CACHE_HOME")
    return (Path(place) if place else Path.home() / ".cache") / "seqtool"


def texts() -> Path:
    """The directory of all texts, each in a directory of its own; made if it is not there.

    Raises:
        OSError: If it cannot be made or written to.
        RuntimeError: If there is no home directory.
    """
    place = directory() / "texts"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)  # a text may be one for its owner alone
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{place}: you may not write there")
    return place


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Have one text's directory, made if need be, to oneself; waits for whoever has it now.

    Raises:
        OSError: If it cannot be made or written to.
    """
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = open(folder / _LOCK, "w")  # noqa: SIM115
        except FileNotFoundError:  # it was deleted meanwhile
            continue
        with lock:
            _lock(lock, wait=True)
            if not _is_there(folder, lock.fileno()):
                continue  # it was deleted before the lock was ours
            yield
            return


def prune(keep: Path) -> None:
    """Delete the texts not used for longest until all fit; not ``keep``, and none in use."""
    room = MOST_BYTES - size(keep)
    others = [path for path in keep.parent.iterdir() if path != keep]
    for folder in sorted(others, key=_used_at, reverse=True):
        with suppress(OSError):  # another process uses it, or has just deleted it
            room -= size(folder)
            if room < 0:
                with open(folder / _LOCK, "w") as lock:
                    _lock(lock, wait=False)
                    shutil.rmtree(folder)


def size(folder: Path) -> int:
    """Bytes of the files in a directory."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _lock(file: IO[str], *, wait: bool) -> None:
    """Lock a file until it is closed; where nothing can be locked, do without.

    Raises:
        BlockingIOError: If another process has it and there is no waiting.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # some network drives
        return


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_there(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder / _LOCK), os.fstat(handle))
    except FileNotFoundError:
        return False
