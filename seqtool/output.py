"""The two streams: results go to standard output, the line that says why it failed to the other.

What a person sees besides is the business of console.
"""

import os
import sys
from contextlib import suppress

from seqtool.distributed import world
from seqtool.errors import SeqtoolError


def emit(text: str) -> None:
    """Write text at once; surrogate escapes go out as the bytes that they stand for.

    Of several processes that train together only the first one writes.

    Raises:
        BrokenPipeError: If the reader has gone away, as ``| head`` does.
        SeqtoolError: If nothing can be written, because the disk is full or the stream closed.
    """
    if not world().first:
        return
    if sys.stdout is None:
        raise SeqtoolError("standard output is closed; send it to a file, a pipe or /dev/null")
    try:
        # A byte model may write any bytes; they travel in str as surrogate escapes.
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        raise SeqtoolError(
            f"standard output: cannot be written ({err.strerror}); make room, or send it elsewhere"
        ) from err


def complain(message: str, status: int) -> int:
    """Tell on one line why the command ends; gives the exit status back."""
    if not world().first:
        return status
    with suppress(OSError):  # nobody to tell it to; the status remains
        print(f"seqtool: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def settle() -> None:
    """Make sure that Python has nothing to complain of when it flushes at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            # What could not be written is still in the buffer: let it go nowhere.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
