"""Memory that a process keeps for itself, or gives back, instead of what the C library would do."""

import ctypes
import mmap

# Parameters of glibc's mallopt (malloc.h), and what they are set to.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
KEEP_ALL, NONE, ONE = 2**31 - 1, 0, 1


def keep_memory() -> None:
    """Have what a step of training or writing frees kept for the next, where the library is glibc.

    It would go back to the system, which hands it out again in pages of zeros: some 8,000 of them
    for the training of 2x512, a tenth of the time of a step. One arena, because others give back a
    heap whenever it is empty.
    """
    for parameter, value in (
        (M_TRIM_THRESHOLD, KEEP_ALL),
        (M_MMAP_MAX, NONE),
        (M_ARENA_MAX, ONE),
    ):
        _glibc("mallopt", parameter, value)


def give_back() -> None:
    """Give what reading and counting have freed back to the system: no step will need it."""
    _glibc("malloc_trim", 0)


def drop_pages(mapping: mmap.mmap) -> None:
    """Take what was read of a mapped file out of memory; reading it again brings it back.

    The system would not do so while it has memory left, and counts the pages as the process's.
    """
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)


def _glibc(name: str, *values: int) -> None:
    """Call a function of glibc; with another library nothing happens."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # TypeError: no way to ask for it on Windows
        return
    function(*values)
