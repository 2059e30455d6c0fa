"""The two streams: results go to standard output, the line that says why it failed to the other.

What a person sees besides is the business of console.
"""

import os
import re
import sys
from contextlib import suppress

from seqtool.distributed import world
from seqtool.errors import SeqtoolError

# What would move a terminal's cursor, set its colours, or turn the order of what is read: control
# characters but for tab and line end, and those that steer the direction of writing.
STEERING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)"
)
BREAKING = re.compile("[\t\n\r\x85\u2028\u2029]")  # what would end a cell or a line
LONGEST = 2000  # characters of an error: a hostile file can put anything into one


def shown(text: str) -> str:
    r"""A text for a terminal: what would steer it is written as \x1b."""
    return STEERING.sub(_escaped, text)


def cell(text: str) -> str:
    r"""A text for a cell of a line, such as a label: as ``shown``, with a line end as \n."""
    return BREAKING.sub(_escaped, shown(text))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def emit(text: str, *, styled: bool = False) -> None:
    """Write text at once; surrogate escapes go out as the bytes that they stand for.

    Of several processes that train together only the first one writes. On a terminal nothing in
    the text can steer that, unless it is ``styled``: then it may, being ours.

    Raises:
        BrokenPipeError: If the reader has gone away, as ``| head`` does.
        SeqtoolError: If nothing can be written, because the disk is full or the stream closed.
    """
    if not world().first:
        return
    if sys.stdout is None:
        raise SeqtoolError("standard output is closed; send it to a file, a pipe or /dev/null")
    if not styled and sys.stdout.isatty():
        text = shown(text)
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
    line = cell(" ".join(message.split()))
    # Half of a character, from a name or a card, can be written to no file.
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    with suppress(OSError):  # nobody to tell it to; the status remains
        print(f"seqtool: error: {line}", file=sys.stderr)
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
