"""The live view of a training run: rows drawn over themselves on a terminal, plain lines in a log.

What there is to show are the events of train. rich is loaded only when there is a terminal.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from textwrap import wrap
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
    from rich.live import Live

from seqtool.console import Console, format_count, format_duration, printable

Event = dict[str, Any]
Row = tuple[int, list[tuple[str, str]]]  # rank (the lowest stays longest), pieces (text, style)

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.,-=+*#"
MAX_WIDTH = 100  # columns of the live view; wider lines are hard to read
MARGIN = 2  # columns left free, so that the terminal's echo of ^C does not wrap
SAMPLE_LINES, PLAIN_SAMPLE_LINES = 6, 40  # of a sample in the live view, in a log
CURVE_POINTS = 256  # kept of a curve, more than any terminal shows
REFRESH_PER_SECOND = 1.0  # each takes 5 ms from the training on the same processor
# What a task reports beside the loss: field of the events, short and long name, format.
SCORES = (
    ("bits_per_char", "bpc", "bits/char", ".3f"),
    ("accuracy", "acc", "accuracy", ".4f"),
    ("macro_f1", "f1", "macro-F1", ".4f"),
    ("exact", "exact", "exact", ".4f"),
    ("bleu", "bleu", "BLEU", ".1f"),
)
# A plain report line needs both a twentieth of the run and ten seconds since the last one; five
# minutes are enough in any case, so that the log of a long run shows that it lives.
PLAIN_PARTS, PLAIN_SECONDS, PLAIN_SILENCE = 20, 10.0, 300.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sparkline(values: Sequence[float], width: int, *, unicode: bool = True) -> str:
    """Draw a curve in one line of at most `width` blocks, lowest value lowest.

    The top is the highest value after the first tenth: a loss falls so steeply at first that the
    rest would be flat. A value that is not finite is drawn as an exclamation mark.
    """
    count = max(0, min(width, len(values)))
    ends = [index * len(values) // max(1, count) for index in range(count + 1)]
    means = [_mean(values[start:end]) for start, end in pairwise(ends)]
    finite = [value for value in means if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite[len(finite) // 10 :])
    blocks = BLOCKS if unicode else ASCII_BLOCKS
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(
        blocks[round((min(value, high) - low) * scale)] if math.isfinite(value) else "!"
        for value in means
    )


@dataclass(frozen=True)
class Curve:
    """A history of numbers in bounded memory: when full, neighbours are averaged in pairs."""

    points: tuple[float, ...] = ()
    stride: int = 1  # values that make one point
    pending: tuple[float, ...] = ()

    def add(self, value: float | None) -> "Curve":
        """The curve with one more value; None adds nothing."""
        if value is None:
            return self
        pending = (*self.pending, value)
        if len(pending) < self.stride:
            return replace(self, pending=pending)
        points = (*self.points, _mean(pending))
        if len(points) < CURVE_POINTS:
            return replace(self, points=points, pending=())
        pairs = tuple(map(_mean, zip(points[::2], points[1::2], strict=True)))
        return Curve(pairs, self.stride * 2)

    def values(self) -> tuple[float, ...]:
        """The points, with what is not yet a whole one."""
        return (*self.points, _mean(self.pending)) if self.pending else self.points


def _number(event: Event, key: str) -> float | None:
    value = event.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _show(event: Event, key: str, form: str | Callable[[float], str]) -> str:
    """A number of an event, formatted, or nothing if the event lacks it."""
    value = _number(event, key)
    if value is None:
        return ""
    return format(value, form) if isinstance(form, str) else form(value)


def _fields(*pairs: tuple[str, str]) -> str:
    """Join the named values that there are."""
    return "  ".join(name + value for name, value in pairs if value)


@dataclass(frozen=True)
class Progress:
    """All that the events so far say. Replaced, never changed: the drawing thread reads it too."""

    step: int = 0
    steps: int = 0  # in all, 0 = not known
    latest: dict[str, Event] = field(default_factory=dict)  # by kind; "best" is the best eval
    train: Curve = Curve()
    valid: Curve = Curve()
    clock: float = 0.0  # `now` at the latest report, in seconds

    def after(self, event: Event, now: float) -> "Progress":
        """The progress after one more event; an unknown one changes nothing."""
        kind = event.get("event")
        if kind not in ("report", "eval", "sample", "plan", "rescue", "end"):
            return self
        step, steps = _number(event, "step"), _number(event, "steps")
        best = {"best": event} if kind == "eval" and event.get("best") else {}
        best |= {"flow": event} if _flow(event) else {}
        return replace(
            self,
            step=self.step if step is None else int(step),
            steps=self.steps if steps is None else int(steps),
            latest={**self.latest, kind: event, **best},
            train=self.train.add(_number(event, "loss") if kind == "report" else None),
            valid=self.valid.add(_number(event, "val_loss") if kind == "eval" else None),
            clock=now if kind == "report" else self.clock,
        )

    def get(self, kind: str) -> Event:
        """The latest event of a kind, empty if there was none."""
        return self.latest.get(kind, {})

    def counter(self) -> str:
        """The step reached, and of how many if that is known."""
        return f"step {self.step}/{self.steps}" if self.steps else f"step {self.step}"

    def percent(self) -> int:
        """The part of the run that is done; 100 only when all of it is."""
        return min(100, 100 * self.step // self.steps) if self.steps else 0

    def time(self, key: str, pace: int, now: float) -> str:
        """A time of the latest report, which goes on running at `pace` until the next one."""
        if self.get("end"):
            return _show(self.get("end"), key, format_duration)
        since = pace * (now - self.clock)
        return _show(self.get("report"), key, lambda seconds: format_duration(seconds + since))


def plain_lines(progress: Progress, event: Event) -> list[str]:
    """What a log says about an event, which `progress` already includes."""
    kind, report = event.get("event"), progress.get("report")
    percent = f"{progress.percent()}%" if progress.steps else ""
    head = _fields(("", progress.counter()), ("", percent))
    if kind in ("report", "eval"):
        valid = event if kind == "eval" else {}
        rest = _fields(
            ("epoch ", _show(report, "epoch", ".2f")),
            ("loss ", _show(report, "loss", ".4f")),
            *((f"{short} ", _show(report, name, form)) for name, short, _, form in SCORES),
            ("val ", _show(valid, "val_loss", ".4f") + (" (best)" if valid.get("best") else "")),
            *(
                (f"val_{short} ", _show(valid, "val_" + name, form))
                for name, short, _, form in SCORES
            ),
            ("", _show(report, "tokens_per_s", lambda rate: format_count(rate) + " tok/s")),
            ("grad ", _show(report, "grad_norm", ".3g")),
            ("lr ", _show(report, "lr", ".1e")),
            ("left ", _show(report, "seconds_left", format_duration)),
        )
        flow = [_fields(("", head), ("gradient ", _flow(event)))] if _flow(event) else []
        return [_fields(("", head), ("", rest)), *flow]
    if kind == "sample":
        lines = printable(str(event.get("text", ""))).strip("\n").split("\n")
        return [f"{head}  sample", *("    " + line for line in lines[:PLAIN_SAMPLE_LINES])]
    return [_fields(("", head), ("", _remark(event)))] if kind in ("plan", "end") else []


def _flow(event: Event) -> str:
    """The verdict on gradients through time that an evaluation came with, if it did."""
    flow = event.get("gradient")
    if not isinstance(flow, dict):
        return ""
    advice = f"; try {flow['advice']}" if flow.get("advice") else ""
    return f"{flow.get('verdict')}: {flow.get('evidence')}{advice}"


def _remark(event: Event) -> str:
    """A plan, rescue or end event in words."""
    reason, steps = str(event.get("reason") or ""), _show(event, "steps", ".0f")
    if event.get("event") == "plan":
        return "plan " + ": ".join(filter(None, (steps and f"{steps} steps", reason)))
    if event.get("event") == "rescue":
        step, back = _show(event, "step", ".0f"), _show(event, "back_to", ".0f")
        what = (reason, str(event.get("action") or ""), back and f"back to step {back}")
        return (f"step {step}: " if step else "") + "; ".join(filter(None, what))
    best = _show(event, "best_val_loss", ".4f")
    return _fields(
        ("end  ", "interrupted" if reason.startswith("SIG") else reason or "done"),
        ("best val ", best),
        ("at step ", best and _show(event, "best_step", ".0f")),
        ("took ", _show(event, "seconds", format_duration)),
    )


def _rows(progress: Progress, console: Console, width: int, now: float) -> list[Row]:
    """The live view but for the sample, in the order shown."""
    full = (width - 5) * progress.percent() // 100
    done, missing = ("━", "─") if console.unicode else ("#", "-")
    bar = [(done * full, "green"), (missing * (width - 5 - full), "dim")]
    rows: list[Row] = [(1, [*bar, (f"{progress.percent():4d}%", "bold")])]
    report, valid, best = (progress.get(kind) for kind in ("report", "eval", "best"))
    info = _fields(
        ("", progress.counter()),
        ("elapsed ", progress.time("seconds", 1, now)),
        ("left ", progress.time("seconds_left", -1, now)),
    )
    rows += [(0, [(line, "")]) for line in wrap(info, width)]
    scores = [(2, "train loss", report, "", progress.train)]
    scores += [(3, "validation", valid, "val_", progress.valid)]
    scores += [(4, "best so far", best, "val_", Curve())] if best is not valid else []
    table, curves = list[Row](), list[Row]()
    columns = [c for c in SCORES if c[0] in report or "val_" + c[0] in valid]
    for rank, name, event, prefix, curve in filter(itemgetter(2), scores):
        label, mark = (f"{name:<12}", "cyan"), "  best" if event is best is valid else ""
        nats = _show(event, prefix + "loss", ".4f")
        cells = "".join(f"{_show(event, prefix + c[0], c[3]):>11}" for c in columns)
        table += [(rank, [label, (f"{nats:>8}{cells}", ""), (mark, "bold green")])]
        drawing = sparkline(curve.values(), width - 12, unicode=console.unicode)
        curves += [(7, [label, (drawing, "blue")])] if len(drawing) > 1 else []
    head = f"{'nats':>20}" + "".join(f"{long:>11}" for _, _, long, _ in columns)
    rows += [(5, [(head, "dim")]), *table] if table else []
    effort = _fields(
        ("", _show(report, "tokens_per_s", lambda rate: format_count(rate) + " tokens/s")),
        ("grad ", _show(report, "grad_norm", ".3g")),
        ("lr ", _show(report, "lr", ".1e")),
        ("epoch ", _show(report, "epoch", ".2f")),
    )
    rows += [*((6, [(line, "")]) for line in wrap(effort, width)), *curves]
    if flow := console.one_line(_flow(progress.get("flow"))):
        rows += [(8, [(line, "")]) for line in wrap(f"gradient {flow}", width)]
    for rank, kind in ((8, "plan"), (2, "end")):
        remark = console.one_line(_remark(progress.get(kind))) if kind in progress.latest else ""
        rows += [(rank, [(line, "")]) for line in wrap(remark, width)]
    return rows


class TrainingDisplay:
    """Context that shows the events of a training run: a live view on a terminal, else lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress()
        self._live: Live | None = None
        self._drawn: list[int] = []  # widths of the lines on screen
        self._logged = (0, -math.inf)  # step and seconds of the last plain report

    def __enter__(self) -> "TrainingDisplay":
        if self._console.terminal and not self._console.quiet:
            from rich.live import Live

            self._console.clear_status()
            # Stray output to standard error goes above the view; standard output is left alone.
            self._live = Live(
                cast("ConsoleRenderable", self),
                console=self._console.rich,
                refresh_per_second=REFRESH_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=self._console.stream is sys.stderr,
            )
            self._console.live = True
            self._console.rich.push_render_hook(cast("RenderHook", self))
            self._live.start(refresh=True)
            # rich has hidden the cursor; nothing would bring it back after an abrupt end.
            self._console.rich.show_cursor(True)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last state on screen and restore the terminal; may be called twice."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
            self._console.rich.pop_render_hook()
            self._console.live = False

    def show(self, event: Event) -> None:
        """Show one event; keys it lacks are left out, and an unknown event is ignored."""
        if event.get("event") == "eval" and _number(event, "val_loss") is None:
            return  # nothing is held out
        self._progress = self._progress.after(event, time.monotonic())
        if event.get("event") == "rescue":
            self._console.warn(_remark(event))
        elif self._live is None and (event.get("event") != "report" or self._is_due(event)):
            for line in plain_lines(self._progress, event):
                self._console.notice(line)

    def _is_due(self, report: Event) -> bool:
        """Whether enough has happened since the last plain line for another one."""
        step, steps = self._progress.step, self._progress.steps
        seconds = _number(report, "seconds")
        now = time.monotonic() if seconds is None else seconds
        waited = now - self._logged[1]
        moved = (step - self._logged[0]) * PLAIN_PARTS >= steps
        due = step == steps or waited >= PLAIN_SILENCE or (moved and waited >= PLAIN_SECONDS)
        if due:
            self._logged = step, now
        return due

    def process_renderables(self, output: "list[ConsoleRenderable]") -> "list[ConsoleRenderable]":
        """Erase the lines that the terminal made by wrapping when it became narrower."""
        from rich.control import Control
        from rich.segment import ControlType

        # rich 15 goes up as many lines as it drew, whatever a resize has made of them.
        extra = sum(max(0, drawn - 1) // self._console.rich.width for drawn in self._drawn)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        return [Control(*up * extra), *output]

    def __rich_console__(self, rich: "RichConsole", options: "ConsoleOptions") -> "RenderResult":
        """Draw as many rows as fit, the most telling ones, in their order."""
        from rich.text import Text

        progress, console = self._progress, self._console
        width = max(8, min(MAX_WIDTH, rich.width - MARGIN))
        rows = _rows(progress, console, width, time.monotonic())
        sample = progress.get("sample")
        if written := console.printable(str(sample.get("text") or "")).strip("\n"):
            rows.append((9, [(f"sample at step {_show(sample, 'step', '.0f')}", "dim")]))
            bar = "│ " if console.unicode else "| "
            shown = console.wrap(written, width - 2)[:SAMPLE_LINES]
            rows += [(10, [(bar + line, "dim")]) for line in shown]
        by_rank = sorted(range(len(rows)), key=lambda index: rows[index][0])
        kept = sorted(by_rank[: max(1, rich.height - 1)])
        lines = [Text.assemble(*rows[index][1], no_wrap=True, overflow="crop") for index in kept]
        self._drawn = [min(line.cell_len, rich.width) for line in lines]
        yield from lines
