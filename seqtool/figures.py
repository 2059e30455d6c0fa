"""The plots of ``inspect`` and ``cure`` as files: PNG, and SVG for the page.

Drawn by matplotlib without a window. In the SVG, text stays text, what is not a curve takes the
page's own colour, and curves differ by dashes as well as by colour.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.diagnostics import Flow
from seqtool.errors import SeqtoolError
from seqtool.findings import Findings
from seqtool.gates import LayerGates
from seqtool.horizon import Horizon
from seqtool.remedies import Outcome
from seqtool.summary import Event, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Readable on white and on black (contrast of 3 and more on both), apart also for the colour-blind.
COLOURS = ("#2f7fd0", "#c8701a", "#1f9468", "#b455b0", "#8a7a10", "#c24a4a")
DASHES = ("solid", "dashed", "dotted", "dashdot", (0, (5, 1)), (0, (1, 1)))
INK = "#010203"  # stands for the page's own colour until the SVG is written
INKED = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color")
SIZE = (6.4, 3.2)  # inches of a plot
DPI = 120
FEW = 20  # points of a curve that are marked

Draw = Callable[["Axes"], None]


def draw_training(summary: Summary, axes: "Axes") -> None:
    """Loss over steps, in training and on the text held out."""
    curves = (("training", summary.train_curve), ("validation", summary.valid_curve))
    for index, (name, points) in enumerate(curves):
        if points:
            mark = "o" if len(points) < FEW else None  # one point has no line
            axes.plot(*zip(*points, strict=True), label=name, marker=mark, **_style(index))
    axes.set(xlabel="step", ylabel="loss in nats")
    axes.legend(frameon=False, labelcolor=INK)


def draw_flow(flow: Flow, axes: "Axes") -> None:
    """The gradient by lag, of each layer, and what the theory bounds it by."""
    for layer in flow.layers:
        style, name = _style(layer.layer), f"layer {layer.layer + 1}"
        axes.plot(range(flow.window + 1), _positive(layer.gradient), label=name, **style)
        if layer.jacobian is not None:
            marks = {"color": style["color"], "marker": "x", "linestyle": "none"}
            label = f"|ds_T/ds_t|, {name}"
            axes.plot(layer.lags, _positive(layer.jacobian), label=label, **marks)
    axes.set(xlabel="lag T-t in tokens", ylabel="|dC_T/ds_t|", yscale="log")
    axes.legend(frameon=False, labelcolor=INK)


def draw_history(history: Sequence[Event], axes: "Axes") -> None:
    """The gradient by lag at every evaluation that recorded it; each is a group of its own."""
    for index, event in enumerate(history):
        for layer, norms in enumerate(event["gradient"]):
            (line,) = axes.plot(event["lags"], _positive(norms), **_style(layer))
            line.set_gid(f"flow-{index}-{layer}")
    axes.set(xlabel="lag T-t in tokens", ylabel="|dC_T/ds_t|", yscale="log")


def draw_gates(layers: Sequence[LayerGates], axes: "Axes") -> None:
    """Each unit of each gate: how often it is shut and how often open, as Karpathy et al. 2015."""
    index = 0
    for layer in layers:
        for gate in layer.gates:
            if gate.unit_low.any() or gate.unit_high.any():
                marker = "os^vDP*X"[index % 8]
                axes.plot(
                    gate.unit_high,
                    gate.unit_low,
                    linestyle="none",
                    marker=marker,
                    markersize=3,
                    color=COLOURS[index % len(COLOURS)],
                    label=f"{gate.name}, layer {layer.layer + 1}",
                )
                index += 1
    axes.plot([0, 1], [1, 0], color=INK, linewidth=0.5)
    axes.set(xlabel="share of the time open", ylabel="share of the time shut")
    if index:
        axes.legend(frameon=False, labelcolor=INK, fontsize="small")


def draw_horizon(horizon: Horizon, axes: "Axes") -> None:
    """Loss by the length of the visible past, and where it stops falling."""
    axes.errorbar(horizon.lengths, horizon.losses, yerr=horizon.errors, marker="o", **_style(0))
    axes.axvline(horizon.knee, color=INK, linewidth=0.8, linestyle="dotted")
    axes.set(xlabel="tokens seen", ylabel="nats per token", xscale="log")


def draw_race(outcomes: Sequence[Outcome], axes: "Axes") -> None:
    """Loss over seconds of each remedy."""
    for index, outcome in enumerate(outcomes):
        if outcome.curve:
            label = f"{outcome.remedy.name}: {outcome.loss:.4f}"
            axes.plot(*zip(*outcome.curve, strict=True), label=label, **_style(index))
    axes.set(xlabel="seconds", ylabel="loss", yscale="log")
    axes.legend(frameon=False, labelcolor=INK, fontsize="small")


def plots(summary: Summary, found: Findings | None) -> dict[str, Draw]:
    """What can be drawn of a model, by title."""
    made: dict[str, Draw] = {}
    if summary.train_curve or summary.valid_curve:
        made["Training"] = lambda axes: draw_training(summary, axes)
    if found is not None and (flow := found.flow) is not None:
        made["Gradient through time"] = lambda axes: draw_flow(flow, axes)
    if found is not None and (gates := found.gates) is not None:
        made["Saturation of the gates"] = lambda axes: draw_gates(gates, axes)
    if found is not None and (horizon := found.horizon) is not None:
        made["Memory"] = lambda axes: draw_horizon(horizon, axes)
    return made


def save_plots(made: dict[str, Draw], path: Path) -> None:
    """Write plots one below the other as a PNG.

    Raises:
        SeqtoolError: If there are none, or the file cannot be written.
    """
    if not made:
        raise SeqtoolError(f"--png {path}: nothing was measured that can be drawn")
    figure = _figure(len(made))
    for number, (title, draw) in enumerate(made.items(), 1):
        axes = figure.add_subplot(len(made), 1, number)
        axes.set_title(title)
        draw(axes)
    try:
        figure.savefig(path, format="png", dpi=DPI, facecolor="white")
    except OSError as err:
        raise SeqtoolError(
            f"--png {path}: cannot be written ({err.strerror}); choose another place"
        ) from err


def save_race(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the curves of remedies as a PNG.

    Raises:
        SeqtoolError: If the file cannot be written.
    """
    save_plots({"Remedies": lambda axes: draw_race(outcomes, axes)}, path)


def svg(draw: Draw, name: str) -> str:
    """A plot as an SVG element for a page, transparent, in the page's colours.

    Args:
        draw: What draws it.
        name: In its ids, so that no two plots of a page share one.
    """
    import matplotlib

    options: Any = dict.fromkeys(INKED, INK) | {"svg.fonttype": "none", "svg.hashsalt": name}
    file = io.StringIO()
    with matplotlib.rc_context(options):
        figure = _figure(1)
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Plots of one page must not share ids, and the page sets the size.
    text = re.sub(r'(id="|href="#|url\(#)(?!flow-)', rf"\g<1>{name}-", text)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*"', r"\1", text, count=2)


def _figure(rows: int) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(SIZE[0], SIZE[1] * rows), layout="constrained")


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "linewidth": 1.5,
    }


def _positive(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Values for a scale of powers; what has none is left out."""
    made = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(made) & (made > 0), made, np.nan)
