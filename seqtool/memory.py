"""Memory that a process keeps for itself instead of asking the system for it again and again."""

import ctypes

# Parameters of glibc's mallopt (malloc.h), and what they are set to.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
KEEP_ALL, NONE, ONE = 2**31 - 1, 0, 1


def keep_memory() -> None:
    """Have what a step of training or writing frees kept for the next, where the library is glibc.

    It would go back to the system, which hands it out again in pages of zeros: some 8,000 of them
    for the training of 2x512, a tenth of the time of a step. One arena, because others give back a
    heap whenever it is empty.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; no way to ask it (Windows)
        return
    for parameter, value in (
        (M_TRIM_THRESHOLD, KEEP_ALL),
        (M_MMAP_MAX, NONE),
        (M_ARENA_MAX, ONE),
    ):
        mallopt(parameter, value)
