"""The plots of ``inspect`` and ``cure`` as files: PNG, and SVG for the page.

Drawn by matplotlib without a window. In the SVG, text stays text, what is not a curve takes the
page's own colour, and curves differ by dashes as well as by colour.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.console import printable
from seqtool.diagnostics import Flow
from seqtool.errors import SeqtoolError
from seqtool.findings import Attended, Belief, Findings, Labelled
from seqtool.gates import LayerGates
from seqtool.horizon import Horizon, Surprise
from seqtool.remedies import Outcome
from seqtool.summary import Event, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Readable on white and on black (contrast of 3 and more on both), apart also for the colour-blind.
COLOURS = ("#2f7fd0", "#c8701a", "#1f9468", "#b455b0", "#8a7a10", "#c24a4a")
DASHES = ("solid", "dashed", "dotted", "dashdot", (0, (5, 1)), (0, (1, 1)))
INK = "#010203"  # stands for the page's own colour until the SVG is written
INKED = (
    *("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"),
    "grid.color",
)
SIZE = (5.2, 2.9)  # inches of a plot: its words stay readable on a page 400 pixels wide
DPI = 150
FEW = 20  # points of a curve that are marked
DECADE = 10.0  # between losses from which on their scale is one of powers
SMOOTH = 80  # points of a smoothed curve
BELIEVED, MOST_ROWS = 0.02, 12  # of labels in a picture: probability somewhere, and how many
WORDS_SHOWN = 40  # of a text, below its curve
LONGEST_TITLE = 54  # characters
LARGEST, ROOM = 9.0, 130.0  # points of a name beside a bar, and of all that stand above each other
BELIEFS = 3  # texts or pictures drawn in one PNG
STYLE: dict[Any, Any] = {  # matplotlib's own settings
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.borderaxespad": 0,
}

Draw = Callable[["Axes"], None]


def draw_training(summary: Summary, axes: "Axes") -> None:
    """Loss over steps, in training and on the text held out."""
    curves = (("training", summary.train_curve), ("validation", summary.valid_curve))
    for index, (name, points) in enumerate(curves):
        if points:
            mark = "o" if len(points) < FEW else None  # one point has no line
            axes.plot(*zip(*points, strict=True), label=name, marker=mark, **_style(index))
    axes.set(xlabel="step", ylabel="loss in nats")
    _legend(axes)


def draw_flow(flow: Flow, axes: "Axes") -> None:
    """The gradient by lag of each layer, how far it reaches, and |ds_T/ds_t|."""
    for index, layer in enumerate(flow.layers):
        style = _style(index)
        axes.plot(range(flow.window + 1), _positive(layer.gradient), label=layer.name, **style)
        left = _positive(layer.gradient[[layer.horizon]])
        axes.plot([layer.horizon], left, marker="o", fillstyle="none", color=style["color"])
        if layer.jacobian is not None:
            marks = {"color": style["color"], "marker": "x", "linestyle": "none", "markersize": 4}
            axes.plot(layer.lags, _positive(layer.jacobian), **marks)
    names = {"xlabel": f"lag T-t in {flow.element}s", "ylabel": "|dC_T/ds_t|,  x: |ds_T/ds_t|"}
    axes.set(**names, yscale="log")
    _legend(axes, columns=3 if len(flow.layers) <= 3 else 2)


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
                axes.plot(
                    gate.unit_high,
                    gate.unit_low,
                    linestyle="none",
                    marker="os^vDP*X"[index % 8],
                    markersize=2.5,
                    alpha=0.7,
                    color=COLOURS[index % len(COLOURS)],
                    label=gate.name if len(layers) == 1 else f"{gate.name}, {layer.name}",
                )
                index += 1
    axes.plot([0, 1], [1, 0], color=INK, linewidth=0.5)
    axes.set(xlabel="share of the time open", ylabel="share of the time shut")
    if index:
        _legend(axes, columns=2 if len(layers) > 1 else 4)


def draw_horizon(horizon: Horizon, axes: "Axes") -> None:
    """Loss by the length of the visible past, and where that of the network stops falling."""
    curves = [("network", horizon)]
    if horizon.mixed is not None:
        curves.append(("mixed with counts, as the model is used", horizon.mixed))
    for index, (name, curve) in enumerate(curves):
        marks: dict[str, Any] = {"marker": "o", "markersize": 4, "label": name}
        marks |= {"yerr": curve.errors}
        axes.errorbar(curve.lengths, curve.losses, **marks, **_style(index))
    axes.axvline(horizon.knee, color=INK, linewidth=0.8, linestyle="dotted")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="tokens seen", ylabel="nats per token")
    if len(curves) > 1:
        _legend(axes)


def draw_units(found: Findings, axes: "Axes") -> None:
    """How well the best unit for each feature follows it, from 0, chance, to 1."""
    matches = found.ranking.by_feature[::-1] if found.ranking is not None else []
    names = [f"{m.feature}: {found.layers[m.layer]}, {m.unit}" for m in matches]
    rows = range(len(matches))
    axes.barh(rows, [match.excess for match in matches], color=COLOURS[0], height=0.6)
    axes.set_yticks(rows, [printable(name) for name in names], parse_math=False)
    axes.tick_params(axis="y", labelsize=min(LARGEST, ROOM / max(1, len(matches))))
    axes.set(xlabel="strength, 0 chance to 1 perfect", xlim=(0, 1))
    axes.grid(visible=False, axis="y")


def draw_surprises(surprises: Sequence[Surprise], axes: "Axes") -> None:
    """Bits of each token, smoothed over some of them, for the model and the network alone."""
    width = max(1, len(surprises) // SMOOTH)
    curves = [("model", [surprise.bits for surprise in surprises])]
    if surprises[0].network is not None:
        curves.append(("network alone", [surprise.network or 0.0 for surprise in surprises]))
    for index, (name, bits) in enumerate(curves):
        smooth = np.convolve(bits, np.ones(width) / width, mode="valid")
        axes.plot(np.arange(len(smooth)) + width // 2, smooth, label=name, **_style(index))
    axes.set(xlabel="token", ylabel=f"bits, mean of {width}")
    _legend(axes)


def draw_belief(belief: Belief, classes: Sequence[str], axes: "Axes") -> None:
    """The probability of the classes that matter after each word, or row of a picture."""
    steps = range(1, len(belief.pieces) + 1)
    for index, c in enumerate(belief.top):
        mark = "o" if len(steps) < FEW else None
        path = belief.probabilities[:, c]
        label = printable(classes[c])
        axes.plot(steps, path, label=label, marker=mark, markersize=3, **_style(index))
    axes.set(ylabel="probability", ylim=(-0.02, 1.02))
    if belief.pixels is None and len(steps) <= WORDS_SHOWN:
        words = [printable(piece.strip()) for piece in belief.pieces]
        axes.set_xticks(steps, words, rotation=60, ha="right", fontsize=8, parse_math=False)
    else:
        axes.set(xlabel=f"{belief.element}s read")
    _legend(axes)


def draw_attended(look: Attended, axes: "Axes") -> None:
    """The attention of a translator: a column for each source token, a row for each of its own."""
    _draw_grid(look.target, look.source, look.weights, axes)


def draw_labelled(labelled: Labelled, classes: Sequence[str], axes: "Axes") -> None:
    """The belief of a tagger: a column for each word, a row for each label that is believed in."""
    best = labelled.probabilities.max(axis=0)
    kept = [c for c in np.argsort(-best, kind="stable") if best[c] >= BELIEVED][:MOST_ROWS]
    rows, columns = [classes[c] for c in kept], labelled.tokens[:WORDS_SHOWN]
    _draw_grid(rows, columns, labelled.probabilities[: len(columns), kept].T, axes)


def _draw_grid(
    rows: Sequence[str], columns: Sequence[str], weights: np.ndarray, axes: "Axes"
) -> None:
    """A matrix of values from 0 to 1, (rows, columns)."""
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    sides = ((axes.set_xticks, columns, 60), (axes.set_yticks, rows, 0))
    for mark, tokens, angle in sides:
        names = [printable(token).strip() or "·" for token in tokens]
        mark(range(len(names)), names, rotation=angle, fontsize=8, parse_math=False)
    axes.grid(visible=False)
    axes.xaxis.tick_top()


def draw_race(outcomes: Sequence[Outcome], field: str, axes: "Axes") -> None:
    """One field of ``remedies.Point`` over the share of each remedy's updates."""
    for index, outcome in enumerate(outcomes):
        shares = [100 * point.share for point in outcome.curve]
        values = [getattr(point, field) for point in outcome.curve]
        label = f"{outcome.remedy.name}: {outcome.loss:.4f}"
        mark = "o" if len(values) < 2 else None  # one point has no line
        axes.plot(shares, values, label=label, marker=mark, **_style(index))
    axes.set(xlabel="% of the updates")
    if field == "loss":
        losses = [point.loss for outcome in outcomes for point in outcome.curve if point.loss > 0]
        apart = bool(losses) and max(losses) > DECADE * min(losses)
        axes.set(yscale="log" if apart else "linear")
        _legend(axes, columns=2)
    else:
        most = max(getattr(point, field) for outcome in outcomes for point in outcome.curve)
        axes.set_ylim(-0.04 * max(1, most), 1.04 * max(1, most))
        axes.locator_params(axis="y", integer=True)


def _legend(axes: "Axes", *, columns: int = 4) -> None:
    """Names of the curves above the frame, where they cover nothing."""
    legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name is no formula


def plots(summary: Summary, found: Findings) -> dict[str, Draw]:
    """What can be drawn of a model, by title."""
    made: dict[str, Draw] = {}
    if summary.train_curve or summary.valid_curve:
        made["Training"] = lambda axes: draw_training(summary, axes)
    if (flow := found.flow) is not None:
        made["Gradient through time"] = lambda axes: draw_flow(flow, axes)
    if (gates := found.gates) is not None:
        made["Saturation of the gates"] = lambda axes: draw_gates(gates, axes)
    if found.ranking is not None and found.ranking.by_feature:
        made["What units follow"] = lambda axes: draw_units(found, axes)
    if (horizon := found.horizon) is not None:
        made["Memory"] = lambda axes: draw_horizon(horizon, axes)
    if surprises := found.surprises:
        made["Surprisal"] = lambda axes: draw_surprises(surprises, axes)
    for belief in (found.beliefs or [])[:BELIEFS]:
        made[f"Belief, {belief.name}"] = partial(draw_belief, belief, found.classes)
    for each in (found.labelled or [])[:BELIEFS]:
        made[f"Belief, {each.name}"] = partial(draw_labelled, each, found.classes)
    for look in (found.attended or [])[:BELIEFS]:
        if look.target:
            made[f"Attention, {look.name}"] = partial(draw_attended, look)
    return made


def save_plots(made: dict[str, Draw], path: Path) -> None:
    """Write plots one below the other as a PNG.

    Raises:
        SeqtoolError: If there are none, or the file cannot be written.
    """
    if not made:
        raise SeqtoolError(f"--png {path}: nothing was measured that can be drawn")
    import matplotlib

    with matplotlib.rc_context(STYLE), _any_script():
        figure = _figure(len(made))
        # Each with margins of its own: long names beside one must not squeeze the others.
        parts = figure.subfigures(len(made), squeeze=False)[:, 0]
        for part, (title, draw) in zip(parts, made.items(), strict=True):
            draw(part.add_subplot())
            part.suptitle(_fitting(title), x=0.01, ha="left", parse_math=False)
        try:
            figure.savefig(path, format="png", dpi=DPI, facecolor="white")
        except OSError as err:
            raise SeqtoolError(
                f"--png {path}: cannot be written ({err.strerror}); choose another place"
            ) from err


def races(outcomes: Sequence[Outcome]) -> dict[str, Draw]:
    """The courses of remedies, by title."""
    titles = {
        "loss": "Loss, and the best of each remedy",
        "horizon": "Horizon: steps back that the gradient reaches",
        "blow_ups": "Blow-ups so far",
    }
    return {title: partial(draw_race, outcomes, field) for field, title in titles.items()}


def svg(draw: Draw, name: str) -> str:
    """A plot as an SVG element for a page, transparent, in the page's colours.

    Args:
        draw: What draws it.
        name: In its ids, so that no two plots of a page share one.
    """
    import matplotlib

    options = STYLE | dict.fromkeys(INKED, INK)
    options |= {"svg.fonttype": "none", "svg.hashsalt": name}
    file = io.StringIO()
    with matplotlib.rc_context(options), _any_script():
        figure = _figure(1)
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Plots of one page must not share ids, and the page sets the size.
    text = re.sub(r'(id="|href="#|url\(#)(?!flow-)', rf"\g<1>{name}-", text)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*"', r"\1", text, count=2)


@contextmanager
def _any_script() -> Iterator[None]:
    """Words may be of a script that matplotlib's font lacks; a browser has others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _fitting(title: str) -> str:
    """A title that is not wider than the picture: of a long one the end, which tells most."""
    shown = printable(title)
    return shown if len(shown) <= LONGEST_TITLE else "…" + shown[1 - LONGEST_TITLE :]


def _figure(rows: int) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(SIZE[0], SIZE[1] * rows), layout="constrained")


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        # After one round of colours each meets another dash.
        "linestyle": DASHES[(index + index // len(COLOURS)) % len(DASHES)],
        "linewidth": 1.5,
    }


def _positive(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Values for a scale of powers; what has none is left out."""
    made = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(made) & (made > 0), made, np.nan)
