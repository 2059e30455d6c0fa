"""Paper for the terminal: headings, tables, curves and marked text on standard output.

Colour only repeats what shape and place already say, and is left out where the terminal or NO_COLOR
wants none. Curves are drawn by plotext, the rest by rich; both are loaded when first needed.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seqtool.console import printable
from seqtool.display import BLOCKS
from seqtool.output import emit, shown

if TYPE_CHECKING:
    from rich.text import Text

NARROWEST, WIDEST = 40, 100  # columns used
CURVE_ROWS = 12
MARKERS = "xo+*#@"  # of the curves of one plot
SHADES = ("on grey15", "on grey30", "on blue3", "on dodger_blue2", "on gold3", "on orange_red1")
RANK_SIGNS = "_.,-=+*#"  # in place of blocks where there is no Unicode

LONGEST_LABEL, LONGEST_HEAD = 16, 10  # characters of the names around a matrix
Weights = Sequence[Sequence[float]]

Series = tuple[str, Sequence[float], Sequence[float]]  # name, x, y


class Sheet:
    """Where a report is written, line by line; ``flush`` sends it to standard output."""

    def __init__(self, *, width: int | None = None, colour: bool | None = None) -> None:
        """Measure the terminal.

        Args:
            width: Columns; None asks the terminal or COLUMNS, 80 if neither knows.
            colour: Whether to use it; None asks the terminal and NO_COLOR.
        """
        from rich.console import Console

        terminal = sys.stdout is not None and sys.stdout.isatty()
        if colour is None:
            colour = terminal and not os.environ.get("NO_COLOR")
        self._text = io.StringIO()
        self._rich = Console(
            file=self._text,
            width=width,
            force_terminal=colour,
            no_color=not colour,
            highlight=False,
        )
        self.width = max(NARROWEST, min(WIDEST, self._rich.width))
        self.colour = colour

    def heading(self, text: str) -> None:
        """A title with space above it."""
        self.line()
        self._wrapped(text, "", "", "bold")

    def line(self, *pieces: str | tuple[str, str]) -> None:
        """One line of texts, each alone or with its style; it is never wrapped."""
        from rich.text import Text

        safe = [shown(p) if isinstance(p, str) else (shown(p[0]), p[1]) for p in pieces]
        self._rich.print(Text.assemble(*safe), soft_wrap=True)

    def paragraph(self, text: str, *, indent: int = 2) -> None:
        """A text wrapped at words."""
        self._wrapped(text, " " * indent, " " * indent)

    def pairs(self, rows: Sequence[tuple[str, str]]) -> None:
        """Named values in two columns; long values wrap in theirs."""
        widest = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self._wrapped(value, f"  {name:<{widest}}  ", " " * (widest + 4))

    def _wrapped(self, text: str, first: str, rest: str, style: str = "") -> None:
        from rich.text import Text

        for paragraph in printable(text).split("\n"):
            room = max(8, self.width - len(first))
            for piece in Text(paragraph).wrap(self._rich, room, overflow="fold"):
                self.line((first, "cyan"), (piece.plain.rstrip(), style))
                first = rest

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns: the first to the left, the others to the right.

        Where there is no room they move together; what is still too wide is cut, and it shows.
        """
        widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
        gap = "  " if 2 * len(widths) + sum(widths) <= self.width else " "
        for number, row in enumerate((heads, *rows)):
            cells = [f"{row[0]:<{widths[0]}}"]
            cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
            text = gap + gap.join(cells).rstrip()
            if len(text) > self.width:
                text = text[: self.width - 1] + "…"
            self.line((text, "dim" if number == 0 else ""))

    def curves(
        self,
        series: Sequence[Series],
        *,
        x: str,
        y: str,
        log: bool = False,
        rows: int = CURVE_ROWS,
    ) -> None:
        """Draw curves in one frame, each with its own marker.

        Args:
            series: At most six. Values that are not finite, or not above 0 if ``log``, are left
                out.
            x: What the horizontal axis counts.
            y: What the vertical axis measures.
            log: Whether its scale is of powers of ten.
            rows: Height of the frame.
        """
        import math

        import plotext

        figure = plotext.figure
        figure.clear()
        figure.theme("colorless")
        figure.plot_size(self.width - 2, rows)
        lows, places, names = list[float](), list[float](), list[str]()
        for (name, xs, ys), marker in zip(series, MARKERS, strict=False):
            kept = [
                (a, math.log10(b) if log else b)
                for a, b in zip(xs, ys, strict=True)
                if math.isfinite(b) and (b > 0 or not log)
            ]
            if not kept:
                continue
            lows += [b for _, b in kept]
            figure.draw(figure.signal(*zip(*kept, strict=True), marker=marker))
            names.append(f"{marker} {name}")
            places += [a for a, _ in kept]
        if not lows:
            self.paragraph("(nothing to draw)")
            return
        if log:
            low, high = math.floor(min(lows)), math.ceil(max(lows))
            step = max(1, -(-(high - low) // 5))
            ticks = list(range(low, high + 1, step))
            figure.ruler("y").ticks(ticks, [f"1e{tick}" for tick in ticks])
        first, last = min(places), max(places)
        marks = sorted({round(first + (last - first) * part / 4) for part in range(5)})
        figure.ruler("x").ticks(marks, [f"{mark}" for mark in marks])
        figure.label(x, "x")
        self.paragraph("   ".join([y, *(names if len(names) > 1 else [])]))
        for line in figure.build().string(colorless=True).rstrip().split("\n"):
            self.line("  " + line.rstrip())

    def bars(self, values: Sequence[float]) -> str:
        """A value from 0 to 1 each as a block of that height."""
        top = len(BLOCKS) - 1
        return "".join(BLOCKS[round(min(1.0, max(0.0, value)) * top)] for value in values)

    def grid(self, rows: Sequence[str], columns: Sequence[str], weights: Weights) -> None:
        """A matrix: of each weight a block of that height, the names of columns written downwards.

        Args:
            rows: R names.
            columns: C names; as many side by side as there is room for, then the next.
            weights: (R, C), from 0 to 1.
        """
        from rich.cells import cell_len, set_cell_size

        names = [printable(row).strip() or "·" for row in rows]
        heads = [(printable(column).strip() or "·")[:LONGEST_HEAD] for column in columns]
        label = min(LONGEST_LABEL, max(map(cell_len, names), default=0))
        at_once = (self.width - label - 4) // 2
        for first in range(0, len(heads), at_once):
            part = heads[first : first + at_once]
            deepest = max(map(len, part))
            for line in range(deepest):
                signs = [head.rjust(deepest)[line] for head in part]
                upright = "".join(sign + " " * (2 - cell_len(sign)) for sign in signs)
                self.line((" " * (label + 4) + upright.rstrip(), "dim"))
            for name, row in zip(names, weights, strict=True):
                blocks = " ".join(self.bars(row[first : first + at_once]))
                self.line(f"  {set_cell_size(name, label)}  {blocks}")

    def shaded(self, pieces: Sequence[str], levels: Sequence[float], low: str, high: str) -> None:
        """A text with a row of blocks under it, one for each character; colour repeats them.

        Args:
            pieces: Of the text.
            levels: Of each, from 0 to 1.
            low: What the lowest block means.
            high: What the highest block means.
        """
        from rich.text import Text

        self.paragraph(f"{BLOCKS[0]} {low}   {BLOCKS[-1]} {high}")
        room = self.width - 2
        above, below = Text("  "), "  "
        for piece, level in zip(pieces, levels, strict=True):
            shown = printable(piece).replace("\n", "⏎") or "·"
            if len(below) + len(shown) > room + 2 and len(below) > 2:
                self._pair(above, below)
                above, below = Text("  "), "  "
            shade = SHADES[min(len(SHADES) - 1, int(level * len(SHADES)))]
            above.append(shown, style=shade)
            below += self.bars([level]) * len(shown)
            if "\n" in piece:
                self._pair(above, below)
                above, below = Text("  "), "  "
        if len(below) > 2:
            self._pair(above, below)

    def _pair(self, above: "Text", below: str) -> None:
        self._rich.print(above, soft_wrap=True)
        self.line((below, "dim"))

    def take(self) -> str:
        """What was written, for ``emit`` with ``styled``; the sheet is blank afterwards."""
        written = self._text.getvalue().lstrip("\n")
        self._text.seek(0)
        self._text.truncate()
        return written

    def flush(self) -> None:
        """Send what was written."""
        emit(self.take(), styled=True)
