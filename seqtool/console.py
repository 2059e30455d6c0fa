"""What a person sees while seqtool works: notices, tables, what goes on; how numbers are written.

Everything goes to standard error. rich is loaded only when there is a terminal to draw on; a pipe
or a log file gets plain lines that can be searched with grep.
"""

import math
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


SPACES = (0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)
JOINERS = (0x200C, 0x200D, 0xFE0E, 0xFE0F)  # terminals disagree about the width of what they join
REPLACED = {9: "    ", **dict.fromkeys(SPACES, " "), **dict.fromkeys(JOINERS, "")}


def format_duration(seconds: float) -> str:
    """A time span in at most two units: 9s, 1m48s, 2h05m, 3d04h."""
    if not math.isfinite(seconds):
        return "?"
    total = max(0, round(seconds))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h{total // 60 % 60:02d}m"
    return f"{total // 86400}d{total // 3600 % 24:02d}h"


def _scaled(number: float, units: Sequence[str]) -> tuple[str, str]:
    if not math.isfinite(number):
        return "?", units[0]
    power = 0
    # 999.95 would be written 1000.0, which is 1.0 of the next unit.
    while power < len(units) - 1 and abs(number) >= (999.95 if power else 999.5):
        number, power = number / 1000, power + 1
    whole = power == 0 and (abs(number) >= 10 or float(number).is_integer())
    return f"{number:.{0 if whole else 1}f}", units[power]


def number_of(number: int, noun: str) -> str:
    """A number, and of what: ``1 line``, ``12,000 lines``."""
    return f"{number:,} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    """The noun, with an s if there is not just one."""
    return noun + "s" * (number != 1)


def format_count(number: float) -> str:
    """A number in at most four digits: 3.7, 812, 51.2k, 1.1M, 2.0G."""
    return "".join(_scaled(number, ("", "k", "M", "G", "T")))


def format_bytes(number: float) -> str:
    """A size in powers of 1000, as disks are sold: 812 B, 51.2 kB, 1.1 MB."""
    return " ".join(_scaled(number, ("B", "kB", "MB", "GB", "TB")))


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""Make any text safe to show: nothing in it can move the cursor, set a colour or hide.

    Line breaks stay, CRLF becomes LF, a tab four spaces, odd spaces plain ones; invisible joiners
    are left out; whatever else has no glyph, or none in `encoding`, becomes an escape as \x1b.
    """

    def safe(character: str) -> str:
        shown = character.isprintable() and character.encode(encoding, errors="ignore")
        if shown or character == "\n":
            return character
        return character.encode("unicode_escape").decode("ascii")

    return "".join(map(safe, text.replace("\r\n", "\n").translate(REPLACED)))


class Console:
    """One place through which every word to the person at the terminal goes.

    Args:
        stream: Where to write; None means standard error, or nowhere if that is closed.
        terminal: Whether to draw; None asks the stream and TERM.
        size: (columns, rows) to draw in; None asks the terminal each time.
    """

    def __init__(
        self,
        quiet: bool = False,
        verbose: bool = False,
        *,
        stream: TextIO | None = None,
        terminal: bool | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.stream: TextIO | None = sys.stderr if stream is None else stream
        self.encoding: str = getattr(self.stream, "encoding", None) or "utf-8"
        self.unicode = self.encoding.lower().replace("-", "").startswith("utf")
        if terminal is None:
            dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
            terminal = self.stream is not None and self.stream.isatty() and not dumb
        self.terminal = terminal
        self._size = size
        self.live = False  # whether a live view is on the terminal
        self._has_status = False

    @cached_property
    def rich(self) -> "RichConsole":
        """The rich console on the stream; only for a terminal."""
        from rich.console import Console as RichConsole

        width, height = self._size or (None, None)
        file = cast("TextIO", _Steady(self))
        return RichConsole(file=file, force_terminal=True, width=width, height=height)

    def notice(self, text: str) -> None:
        """Tell something good to know; may have several lines, which are never re-wrapped."""
        if not self.quiet:
            self._emit((self.printable(text), ""))

    def debug(self, text: str) -> None:
        """Tell something that only --verbose asks for."""
        if self.verbose and not self.quiet:
            self._emit((self.printable(text), "dim"))

    def warn(self, text: str) -> None:
        """Tell, on one line, something the person should act on; quiet does not hide it."""
        self._emit(("seqtool: warning: ", "bold yellow"), (self.one_line(text), ""))

    def status(self, text: str) -> None:
        """Say at once what is going on; on a terminal the next output takes its place."""
        if not self.quiet and (self.live or not self.terminal):
            self._emit((self.one_line(text), ""))
        elif not self.quiet:
            # Without rich, which takes a tenth of a second to load. Wrapping is off meanwhile,
            # and the cursor returns to the left, so that output from elsewhere covers the line.
            self._write(f"\r\x1b[2K\x1b[?7l{self.one_line(text)}\x1b[?7h\r")
            self._has_status = True

    def compiling(self) -> None:
        """Say that code is being compiled: it takes seconds, the first time on a machine."""
        self.status("compiling for this processor, once")

    def clear_status(self) -> None:
        """Remove the line that `status` left on a terminal, if it is still there."""
        if self._has_status:
            self._write("\r\x1b[2K")
            self._has_status = False

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Show named values in two aligned columns; on a terminal long values wrap in theirs."""
        if self.quiet:
            return
        self._emit((self.one_line(title), "bold"))
        indent = max((len(key) for key, _ in rows), default=0) + 2
        for key, value in rows:
            lines = self.printable(value).split("\n")
            if self.terminal:
                lines = self.wrap(self.printable(value), self.rich.width - 2 - indent)
            for number, line in enumerate(lines):
                name = self.one_line(key) if number == 0 else ""
                self._emit((f"  {name:<{indent}}" if line else f"  {name}", "cyan"), (line, ""))

    def printable(self, text: str) -> str:
        """The module's `printable` in the encoding of this stream."""
        return printable(text, self.encoding)

    def one_line(self, text: str) -> str:
        """As `printable`, with line breaks escaped too."""
        return self.printable(text).replace("\n", "\\n")

    def wrap(self, text: str, width: int) -> list[str]:
        """Break lines at words, and inside a word that is too long; wide characters count two."""
        from rich.text import Text

        lines = Text(text).wrap(self.rich, max(width, 8), overflow="fold")  # 8: show something
        return [line.plain.rstrip() for line in lines]

    def _emit(self, *pieces: tuple[str, str]) -> None:
        """Write pieces of (text, style) as one line, above the live view if there is one."""
        self.clear_status()
        if not self.terminal:
            self._write("".join(text for text, _ in pieces) + "\n")
            return
        from rich.text import Text

        self.rich.print(Text.assemble(*pieces), soft_wrap=True)

    def _write(self, text: str) -> None:
        try:
            if self.stream is not None:
                self.stream.write(text)
                self.stream.flush()
        except BrokenPipeError:
            raise  # the reader has gone: the program ends, silently
        except OSError:
            # A full disk under the log must not cost the training run that the log is about.
            self.stream = None


class _Steady:
    """The stream as rich writes to it: a terminal that closes ends no training run."""

    def __init__(self, console: Console) -> None:
        self._console, self._stream = console, console.stream

    def write(self, text: str) -> int:
        self._console._write(text)
        return len(text)

    def flush(self) -> None:
        """Every write has been."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
