"""The user's cache directory, and long texts kept in it so that no run reads them twice.

Everything there can be deleted at any time; what is missing is made again.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seqtool.files import lock

MOST_BYTES = 40 << 30  # kept of long texts; beyond that the ones not used for longest go
MOST_SHARE = 0.5  # of what the disk would have free without them, at most
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
            handle = lock(folder / _LOCK, wait=True)
            break
        except FileNotFoundError:  # it was deleted meanwhile
            continue
    try:
        yield
    finally:
        os.close(handle)


def prune(keep: Path) -> None:
    """Delete the texts not used for longest until all fit; not ``keep``, and none in use."""
    others = _others(keep)
    free = shutil.disk_usage(keep).free
    room = min(MOST_BYTES, int(MOST_SHARE * (free + size(keep) + sum(map(size, others)))))
    room -= size(keep)
    for folder in others:
        room -= size(folder)
        if room < 0:
            _delete(folder)


def make_room(keep: Path, needed: int) -> None:
    """See that the disk has so many bytes for ``keep``, if need be without other texts.

    Raises:
        OSError: If it has not; then no text is deleted.
    """
    others = _others(keep)
    free = shutil.disk_usage(keep).free
    if free + sum(map(size, others)) < needed:
        raise OSError(
            errno.ENOSPC, f"at least {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        )
    while others and shutil.disk_usage(keep).free < needed:
        _delete(others.pop())


def size(folder: Path) -> int:
    """Bytes of the files in a directory; 0 if it is just being deleted."""
    found = 0
    with suppress(OSError):
        found = sum(path.stat().st_size for path in folder.iterdir())
    return found


def _others(keep: Path) -> list[Path]:
    """The directories of other texts, the one not used for longest last."""
    others = [path for path in keep.parent.iterdir() if path != keep]
    return sorted(others, key=_used_at, reverse=True)


def _delete(folder: Path) -> None:
    with suppress(OSError):  # another process uses it, or has just deleted it
        handle = lock(folder / _LOCK, wait=False)
        try:
            shutil.rmtree(folder)
        finally:
            os.close(handle)


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
