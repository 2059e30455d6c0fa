"""The plain lines, the live view at several sizes, hostile text, and the number formats."""

import io
import math
import os
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from seqtool.console import (
    Console,
    format_bytes,
    format_count,
    format_duration,
    number_of,
    printable,
)
from seqtool.display import (
    ASCII_BLOCKS,
    BLOCKS,
    CURVE_POINTS,
    Curve,
    Progress,
    TrainingDisplay,
    sparkline,
)

REPORT = {
    "event": "report",
    "step": 120,
    "steps": 1200,
    "epoch": 0.12,
    "loss": 1.8312,
    "bits_per_char": 2.642,
    "lr": 4e-3,
    "grad_norm": 0.43,
    "tokens_per_s": 51234.0,
    "seconds": 10.2,
    "seconds_left": 108.0,
}
EVAL = {"event": "eval", "step": 120, "val_loss": 1.9123, "val_bits_per_char": 2.759, "best": True}
SAMPLE = {"event": "sample", "step": 120, "text": "To be, or not\nto be"}
RESCUE = {"event": "rescue", "step": 340, "reason": "nan", "action": "lr halved", "back_to": 300}
PLAN = {"event": "plan", "step": 20, "steps": 1200, "reason": "92 ms a step"}
END = {
    "event": "end",
    "step": 1200,
    "reason": "all steps done",
    "best_val_loss": 1.4712,
    "best_step": 1100,
    "seconds": 300.4,
}
EVENTS = (PLAN, REPORT, EVAL, SAMPLE, RESCUE, END)
# Escape sequences, markup, control and bidirectional characters, wide ones, a lone surrogate.
HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07 [bold]b[/bold] [/] \r\x08\x00\x7f\x9b2J\u202e\u2066\u200b"
    " 漢字かな 👩‍👩‍👧 ❤️ 🇩🇪 e\u0301 \ud800 \udcff \ue000 \u2028x\ty\u00a0z:smile:"
)


class Stream(io.StringIO):
    """A text stream that says which encoding it has."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    @encoding.setter
    def encoding(self, encoding: str) -> None:
        self._encoding = encoding


@pytest.fixture(autouse=True)
def usual_terminal(monkeypatch):
    """Take away what the surroundings of the test run may say about its terminal."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def logged(*events, **options):
    """What a log of these events holds, as lines."""
    stream = io.StringIO()
    with TrainingDisplay(Console(stream=stream, **options)) as display:
        for event in events:
            display.show(event)
    return stream.getvalue().splitlines()


def drawn(*events, size, encoding="utf-8", **options):
    """The last state of the live view, as lines without colours, and everything written."""
    stream = Stream(encoding)
    console = Console(stream=stream, terminal=True, size=size, **options)
    with TrainingDisplay(console) as display:
        for event in events:
            display.show(event)
    with console.rich.capture() as capture:
        console.rich.print(display)
    return Text.from_ansi(capture.get()).plain.splitlines(), stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0s"),
        (9.3, "9s"),
        (59.7, "1m00s"),
        (108, "1m48s"),
        (3599.6, "1h00m"),
        (7500, "2h05m"),
        (86399.9, "1d00h"),
        (273600, "3d04h"),
        (math.nan, "?"),
    ],
)
def test_durations_have_at_most_two_units(seconds, shown):
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "count", "size"),
    [
        (3.72, "3.7", "3.7 B"),
        (999.6, "1.0k", "1.0 kB"),
        (51234.0, "51.2k", "51.2 kB"),
        (999_951, "1.0M", "1.0 MB"),
        (1_115_394, "1.1M", "1.1 MB"),
        (-2e9, "-2.0G", "-2.0 GB"),
        (5e18, "5000000.0T", "5000000.0 TB"),
        (math.nan, "?", "? B"),
    ],
)
def test_numbers_are_scaled(number, count, size):
    assert (format_count(number), format_bytes(number)) == (count, size)


def test_plain_lines_can_be_searched():
    assert logged(*EVENTS) == [
        "step 20/1200  1%  plan 1200 steps: 92 ms a step",
        "step 120/1200  10%  epoch 0.12  loss 1.8312  bpc 2.642  51.2k tok/s  grad 0.43"
        "  lr 4.0e-03  left 1m48s",
        "step 120/1200  10%  epoch 0.12  loss 1.8312  bpc 2.642  val 1.9123 (best)  val_bpc 2.759"
        "  51.2k tok/s  grad 0.43  lr 4.0e-03  left 1m48s",
        "step 120/1200  10%  sample",
        "    To be, or not",
        "    to be",
        "seqtool: warning: step 340: nan; lr halved; back to step 300",
        "step 1200/1200  100%  end  all steps done  best val 1.4712  at step 1100  took 5m00s",
    ]


def reported_steps(steps, seconds_per_step):
    """The steps that have a plain report line when every step sends a report."""
    events = (
        {"event": "report", "step": step, "steps": steps, "seconds": step * seconds_per_step}
        for step in range(1, steps + 1)
    )
    return [int(line.split("/")[0].removeprefix("step ")) for line in logged(*events)]


def test_a_short_run_reports_every_ten_seconds():
    assert reported_steps(100, 0.3) == [1, 35, 69, 100]


def test_a_long_run_reports_every_twentieth():
    shown = reported_steps(1000, 3.0)
    assert shown[0] == 1
    assert shown[-1] == 1000
    assert {after - before for before, after in pairwise(shown[:-1])} == {50}


def test_a_very_long_run_reports_every_five_minutes():
    shown = reported_steps(10_000, 3.6)
    assert {after - before for before, after in pairwise(shown[:-1])} == {84}  # 302.4 s


def test_every_evaluation_has_a_plain_line():
    lines = logged(*({**EVAL, "step": step, "best": step % 2 == 0} for step in range(50)))
    assert sum("val 1.9123" in line for line in lines) == 50
    assert sum("(best)" in line for line in lines) == 25


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 lines"), (1, "1 line"), (2, "2 lines"), (12000, "12,000 lines")]
)
def test_one_is_not_many(number: int, words: str) -> None:
    assert number_of(number, "line") == words


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_only_warnings(terminal):
    stream = io.StringIO()
    console = Console(True, True, stream=stream, terminal=terminal, size=(80, 24))
    console.notice("a notice")
    console.debug("a debug line")
    console.status("loading")
    console.table("a table", [("key", "value")])
    with TrainingDisplay(console) as display:
        for event in EVENTS:
            display.show(event)
    console.warn("a warning")
    lines = Text.from_ansi(stream.getvalue()).plain.splitlines()
    assert lines == [
        "seqtool: warning: step 340: nan; lr halved; back to step 300",
        "seqtool: warning: a warning",
    ]


def test_only_verbose_shows_debug_lines():
    for verbose in (False, True):
        stream = io.StringIO()
        Console(verbose=verbose, stream=stream).debug("seen")
        assert stream.getvalue() == "seen\n" * verbose


def test_nothing_goes_to_standard_output(capsys):
    for terminal in (False, True):
        console = Console(terminal=terminal, size=(80, 24))
        console.status("loading PyTorch ...")
        console.table("Found", [("data", "input.txt")])
        with TrainingDisplay(console) as display:
            for event in EVENTS:
                display.show(event)
            print("result")
    out, err = capsys.readouterr()
    assert out == "result\nresult\n"
    assert "1.8312" in err


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_live_view_shows_the_numbers_within_the_width(width):
    lines, _ = drawn(*EVENTS[:4], size=(width, 40))
    assert max(map(cell_len, lines)) <= width - 2
    view = "\n".join(lines)
    for shown in ("10%", "step 120/1200", "1.8312", "2.642", "1.9123", "2.759", "51.2k tokens/s"):
        assert shown in view
    for shown in ("0.43", "4.0e-03", "0.12", "elapsed 10s", "left 1m48s", "│ To be, or not"):
        assert shown in view
    assert next(line for line in lines if "1.9123" in line).endswith("best")


def test_the_live_view_keeps_the_best_score_in_sight():
    worse = {**EVAL, "step": 240, "val_loss": 2.5, "best": False}
    lines, _ = drawn(REPORT, EVAL, worse, size=(40, 30))
    assert any(line.startswith("validation") and "2.5000" in line for line in lines)
    assert any(line.startswith("best so far") and "1.9123" in line for line in lines)


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 12, 30])
@pytest.mark.parametrize("width", [1, 9, 20, 40, 200])
def test_the_live_view_fits_any_size(width, height):
    lines, _ = drawn(*EVENTS, {**SAMPLE, "text": HOSTILE * 20}, size=(width, height))
    assert len(lines) <= max(1, height - 1)
    assert max(map(cell_len, lines)) <= width
    assert any(line.startswith("step"[:width]) for line in lines)


def test_warnings_stay_above_the_live_view_and_the_cursor_comes_back():
    _, written = drawn(*EVENTS, size=(100, 40))
    assert "back to step 300" in Text.from_ansi(written).plain
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0


def test_the_cursor_comes_back_after_an_exception():
    stream = io.StringIO()
    console = Console(stream=stream, terminal=True, size=(80, 24))
    display = TrainingDisplay(console)

    def interrupted():
        with display:
            display.show(REPORT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    display.close()
    assert stream.getvalue().endswith("\x1b[?25h")
    assert "1.8312" in stream.getvalue()
    console.notice("afterwards")
    assert stream.getvalue().endswith("afterwards\n")


def test_the_cursor_is_never_left_hidden():
    stream = io.StringIO()
    with TrainingDisplay(Console(stream=stream, terminal=True, size=(80, 24))):
        written = stream.getvalue()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")


def test_an_evaluation_without_held_out_text_is_not_shown():
    empty = {**EVAL, "val_loss": None, "val_bits_per_char": None}
    assert not any("val" in line for line in logged(REPORT, empty))
    lines, _ = drawn(REPORT, empty, size=(80, 30))
    assert not any(word in line for line in lines for word in ("validation", "best"))


def test_a_narrower_terminal_erases_the_lines_it_wrapped():
    stream = io.StringIO()
    console = Console(stream=stream, terminal=True, size=(80, 40))
    with TrainingDisplay(console) as display:
        display.show(REPORT)
        console.notice("before")
        height = 5  # bar, step, header, train loss, speed
        console.rich.width = 40
        mark = len(stream.getvalue())
        console.notice("after")
        erased = stream.getvalue()[mark:].split("after")[0]
        # The bar and the line of speed, longer than 40 columns, had become two lines each.
        assert erased.count("\x1b[1A") == height - 1 + 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_neutralised(encoding, terminal):
    stream = Stream(encoding)
    console = Console(stream=stream, terminal=terminal, size=(60, 60), verbose=True)
    for show in (console.notice, console.warn, console.debug):
        show(HOSTILE)
    console.table(HOSTILE, [("key", HOSTILE)])
    with TrainingDisplay(console) as display:
        for event in EVENTS:
            display.show(event)
        display.show({**SAMPLE, "text": HOSTILE})
        display.show({**PLAN, "reason": HOSTILE})
        display.show({**RESCUE, "reason": HOSTILE, "action": HOSTILE})
        display.show({**END, "reason": HOSTILE})
    written = stream.getvalue()
    written.encode(encoding)
    for harm in ("\x1b[31m", "\x1b]", "\x07", "\x08", "\x00", "\x7f", "\x9b", "\u202e", "\u2028"):
        assert harm not in written
    for visible in (r"\x1b[31mred", r"\x07", r"\x9b", r"\u202e", "[bold]b[/bold]"):
        assert visible in written
    assert ":smile:" in written
    assert ("漢字" in written) == (encoding == "utf-8")


@given(st.text(st.characters(codec=None)))
def test_printable_text_is_one_line_of_glyphs_per_line(text):
    lines = printable(text).split("\n")
    assert len(lines) == text.replace("\r\n", "\n").count("\n") + 1
    assert all(line.isprintable() for line in lines)
    assert printable(text, "ascii").isascii()


def test_printable_leaves_ordinary_text_alone():
    text = "Grüße, 漢字, ελληνικά, עברית, 👍🏽, e\u0301\n  indented — “quoted”\n"
    assert printable(text) == text
    assert printable("a\r\nb\tc\u00a0d") == "a\nb    c d"


@pytest.mark.parametrize("size", [None, (40, 24), (100, 24)])
def test_events_without_their_keys_and_unknown_events_do_no_harm(size):
    events = [{"event": kind} for kind in ("plan", "report", "eval", "sample", "rescue", "end")]
    events += [{}, {"event": "news", "step": "x"}, {"event": "report", "loss": None, "step": None}]
    events += [{"event": "report", "step": 3, "loss": math.nan, "lr": "high", "seconds": math.inf}]
    if size is None:
        assert logged(*events)
    else:
        assert drawn(*events, size=size)[0]


def test_times_run_on_between_reports_and_stop_at_the_end():
    progress = Progress().after(REPORT, 50.0)
    assert progress.time("seconds", 1, 53.0) == "13s"
    assert progress.time("seconds_left", -1, 53.0) == "1m45s"
    ended = progress.after(END, 60.0)
    assert ended.time("seconds", 1, 99.0) == "5m00s"
    assert ended.time("seconds_left", -1, 99.0) == ""


def test_a_table_is_aligned_in_a_log():
    stream = io.StringIO()
    value = "a long value that a log never wraps " * 5
    Console(stream=stream).table("Found", [("data", value), ("vocabulary", "65"), ("empty", "")])
    lines = stream.getvalue().splitlines()
    assert lines == ["Found", f"  data        {value}", "  vocabulary  65", "  empty"]


def test_a_table_wraps_in_a_narrow_terminal():
    stream = io.StringIO()
    value = "sixty-five characters, among them these wide ones: " + "漢字" * 20
    console = Console(stream=stream, terminal=True, size=(40, 24))
    console.table("Found", [("data", "input.txt"), ("vocabulary", value)])
    lines = Text.from_ansi(stream.getvalue()).plain.splitlines()
    assert max(map(cell_len, lines)) <= 40
    assert lines[1] == "  data        input.txt"
    assert all(line.startswith(" " * 14) for line in lines[3:])
    words = "".join(line[14:] for line in lines[2:]).replace(" ", "")
    assert words == value.replace(" ", "")


def test_a_notice_is_never_rewrapped():
    stream = io.StringIO()
    command = "seqtool train --resume " + "x" * 100
    Console(stream=stream, terminal=True, size=(40, 24)).notice(command)
    assert Text.from_ansi(stream.getvalue()).plain.splitlines() == [command]


def test_the_next_output_replaces_a_status_on_a_terminal():
    stream = io.StringIO()
    console = Console(stream=stream, terminal=True, size=(40, 24))
    console.status("loading PyTorch ...")
    assert "loading PyTorch ..." in stream.getvalue()
    assert "\n" not in stream.getvalue()
    console.notice("ready")
    assert stream.getvalue().endswith("\r\x1b[2Kready\n")


def test_a_status_is_a_line_in_a_log():
    stream = io.StringIO()
    console = Console(stream=stream)
    console.status("loading PyTorch ...")
    console.notice("ready")
    assert stream.getvalue() == "loading PyTorch ...\nready\n"


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(name, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    assert Console(stream=stream).terminal
    monkeypatch.setenv("TERM", name)
    assert not Console(stream=stream).terminal


def test_no_color_is_obeyed(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    _, written = drawn(*EVENTS, size=(80, 40))
    assert "\x1b[32m" not in written
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[32m" in drawn(*EVENTS, size=(80, 40))[1]


class FailingStream(io.StringIO):
    """A stream that cannot be written to."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_full_disk_under_the_log_does_not_stop_the_run():
    console = Console(stream=FailingStream(OSError(28, "No space left on device")))
    with TrainingDisplay(console) as display:
        for event in EVENTS:
            display.show(event)


def test_a_reader_that_has_gone_ends_the_program():
    console = Console(stream=FailingStream(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):
        console.notice("anyone?")


def test_closed_standard_error_is_silence(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    console = Console()
    console.warn("unheard")
    assert not console.terminal


@pytest.mark.parametrize("unicode", [True, False])
def test_a_sparkline_falls_as_its_values_do(unicode):
    blocks = BLOCKS if unicode else ASCII_BLOCKS
    assert sparkline(range(8), 8, unicode=unicode) == blocks
    line = sparkline([1 / (step + 1) for step in range(500)], 30, unicode=unicode)
    assert len(line) == 30
    assert [blocks.index(block) for block in line] == sorted(map(blocks.index, line), reverse=True)


def test_a_sparkline_marks_what_is_not_finite():
    assert sparkline([2.0, math.nan, 1.0, math.inf], 9) == f"{BLOCKS[-1]}!{BLOCKS[0]}!"
    assert sparkline([math.nan], 9) == "!"
    assert sparkline([], 9) == sparkline([1.0], 0) == ""
    assert sparkline([3.0, 3.0], 9) == BLOCKS[0] * 2


@pytest.mark.parametrize("count", [1, CURVE_POINTS - 1, CURVE_POINTS, 3 * CURVE_POINTS, 5001])
def test_a_curve_is_bounded_and_keeps_its_shape(count):
    curve = Curve()
    for value in range(count):
        curve = curve.add(float(value))
    values = curve.values()
    assert len(values) <= CURVE_POINTS
    assert values == tuple(sorted(values))
    assert values[0] == (curve.stride - 1) / 2  # the mean of the first `stride` values
    assert count - curve.stride <= values[-1] <= count - 1
    assert curve.add(None) is curve


def test_plain_output_never_loads_rich():
    code = (
        "import sys; from seqtool.console import Console\n"
        "from seqtool.display import TrainingDisplay\n"
        "console = Console(terminal=False)\n"
        "console.table('Found', [('data', 'x')])\n"
        "with TrainingDisplay(console) as display: display.show({'event': 'report', 'step': 1})\n"
        "sys.exit('rich' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ}, capture_output=True
    )
