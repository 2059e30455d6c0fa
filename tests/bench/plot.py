"""Draws how cost grows from the committed results: ``python -m tests.bench.plot``.

The picture has no background, and colours that stand out on white and on black alike, so that it
is readable on light and dark pages.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator

from .results import RESULTS, Row, best, load

PICTURE = RESULTS.with_name("scaling.svg")
COLOURS = {"seqtool": "#e8590c", "torch.nn": "#1c7ed6", "onnxruntime": "#2f9e44"}
INK = "#808080"  # of axes and words: between black and white
TITLES = {"train": "training", "generate": "writing"}
AXES = {"hidden": "units", "batch": "batch", "length": "length", "vocabulary": "vocabulary"}


def sweeps(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each (action, axis), from small to large."""
    found = defaultdict(list)
    for row in rows:
        if row["group"] == "scale":
            found[row["action"], row["axis"]].append(row)
    return {key: sorted(points, key=lambda row: int(row["size"])) for key, points in found.items()}


def draw(rows: Iterable[Row], path: Path) -> None:
    """A small panel for each sweep, tokens a second against size, both on logarithmic axes.

    Args:
        rows: Of the results file.
        path: Where the SVG goes.

    Raises:
        SystemExit: If there is no sweep among the rows.
    """
    found = sweeps(rows)
    if not found:
        sys.exit("the results hold no sweep; run: python -m tests.bench scale")
    columns = min(4, len(found))
    lines = -(-len(found) // columns)
    options: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "seqtool",
        "font.size": 8,
        "text.color": INK,
    }
    options |= {f"{part}.color": INK for part in ("xtick", "ytick")}
    options |= {"axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK}
    with matplotlib.rc_context(options):
        figure, grid = pyplot.subplots(
            lines, columns, figsize=(2.3 * columns, 2.1 * lines), squeeze=False
        )
        for (action, axis), axes in zip(found, grid.flat, strict=False):
            panel(axes, found[action, axis], f"{TITLES[action]}: {AXES[axis]}")
        for axes in grid.flat[len(found) :]:
            axes.set_axis_off()
        grid[0, 0].set_ylabel("tokens/s")
        handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
        figure.legend(
            handles.values(), handles, loc="upper center", ncols=len(handles),
            frameon=False, labelcolor=INK,
        )  # fmt: skip
        figure.tight_layout(rect=(0, 0, 1, 0.93))
        figure.savefig(path, transparent=True, metadata={"Date": None})
        pyplot.close(figure)


def panel(axes: Axes, points: list[Row], title: str) -> None:
    """One sweep: medians as lines, quartiles as bands."""
    for peer, colour in COLOURS.items():
        known = [(row, side) for row in points if (side := best(row, peer))]
        if not known:
            continue
        sizes = [row["size"] for row, _ in known]
        low, middle, high = (
            [row["rates"][side][mark] for row, side in known] for mark in ("q1", "median", "q3")
        )
        axes.plot(sizes, middle, color=colour, marker=".", label=peer, linewidth=1.5)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set_xticks([row["size"] for row in points], [f"{row['size']:,}" for row in points])
    axes.tick_params(axis="x", labelrotation=40)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.minorticks_off()
    axes.grid(color=INK, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(load(RESULTS).values(), PICTURE)
