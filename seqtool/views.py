"""The views of ``inspect`` on a sheet: what was found, as tables, curves and words."""

from collections.abc import Sequence

import numpy as np

from seqtool.console import format_count, printable
from seqtool.diagnostics import Flow
from seqtool.findings import Findings
from seqtool.gates import LONGEST, LayerGates
from seqtool.horizon import Horizon, Surprise
from seqtool.neurons import Match
from seqtool.sheet import Series, Sheet

STARTLING = 8  # tokens listed
NOTHING = "-"


def show_findings(found: Findings, spell: Sequence[str], sheet: Sheet) -> None:
    """Every view there is, in the order of the theory: flow, gates, units, memory, surprise."""
    if found.flow is not None:
        show_flow(found.flow, sheet)
    if found.gates is not None:
        show_gates(found.gates, sheet)
    if found.ranking and found.ranking.by_feature:
        show_units(found.ranking.by_feature, sheet)
    if found.horizon is not None:
        show_horizon(found.horizon, sheet)
    if found.surprises:
        show_surprises(found.surprises, spell, sheet)
    for note in found.notes:
        sheet.paragraph(note)


def show_flow(flow: Flow, sheet: Sheet) -> None:
    """The verdict on gradients through time, and what it rests on."""
    verdict = flow.verdict
    sheet.heading("Gradient through time")
    rows = [("verdict", f"{verdict.judgement.upper()}: {verdict.evidence}")]
    if verdict.advice:
        rows.append(("try", verdict.advice))
    rows.append(("looked at", f"{flow.windows} places, {flow.window} tokens back from each"))
    sheet.pairs(rows)
    lags = list(range(flow.window + 1))
    gradients: list[Series] = [
        (f"layer {layer.layer + 1}", lags, layer.gradient.tolist()) for layer in flow.layers
    ]
    sheet.line()
    sheet.curves(gradients, x="lag T-t in tokens", y="|dC_T/ds_t|", log=True)
    for layer in flow.layers:
        sheet.line()
        sheet.line((f"  layer {layer.layer + 1}", "bold"))
        heads = ["lag", "|dC/ds_t|", "|dC/dW at t|", "|ds_T/ds_t|"]
        heads += ["bound"] if layer.bound is not None else []
        table = [_flow_row(0, layer.gradient[0], layer.terms[0], None, layer.bound is not None)]
        for index, lag in enumerate(layer.lags):
            jacobian = None if layer.jacobian is None else layer.jacobian[index]
            row = _flow_row(lag, layer.gradient[lag], layer.terms[lag], jacobian, False)
            table.append(row + ([] if layer.bound is None else [f"{layer.bound[index]:.1e}"]))
        sheet.table(heads, table)
        more = f"at least {flow.window}" if layer.horizon == flow.window else str(layer.horizon)
        rows = [("horizon", f"{more} tokens (1 % of the gradient left), x{layer.rate:.2f} a token")]
        if layer.jacobian is not None and not layer.exact:
            rows.append(("|ds_T/ds_t|", "from below: power method with 4 probes"))
        if layer.spectral_radius:
            rows.append(("radius of W", _shares(layer.spectral_radius, ".2f")))
        if layer.saturated:
            rows.append(("saturated", _shares(layer.saturated, ".0%")))
        if layer.dead is not None:
            rows.append(("dead units", f"{layer.dead:.0%}"))
        sheet.pairs(rows)


def _flow_row(
    lag: int, gradient: float, term: float, jacobian: float | None, bounded: bool
) -> list[str]:
    measured = NOTHING if jacobian is None else f"{jacobian:.1e}"
    return [str(lag), f"{gradient:.1e}", f"{term:.1e}", measured, *([NOTHING] if bounded else [])]


def _shares(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def show_gates(layers: Sequence[LayerGates], sheet: Sheet) -> None:
    """How open the gates are, how saturated, and how long the cells remember."""
    sheet.heading("Gates")
    for layer in layers:
        sheet.line((f"  layer {layer.layer + 1}", "bold"))
        rows = [
            [
                gate.name,
                f"{gate.mean:.2f}",
                f"{gate.low:.0%}",
                f"{gate.high:.0%}",
                f"{gate.span[0]:.3g}",
                sheet.bars([share / max(gate.histogram) for share in gate.histogram]),
                f"{gate.span[1]:.3g}",
            ]
            for gate in layer.gates
        ]
        sheet.table(["gate", "mean", "shut", "open", "from", "histogram", "to"], rows)
        if layer.memory is not None:
            quartiles = np.quantile(layer.memory, [0, 0.25, 0.5, 0.75, 1])
            shown = " / ".join(_tokens(value) for value in quartiles)
            sheet.pairs([("memory 1/(1-f)", f"{shown} tokens (least, quartiles, most)")])
        if layer.dead is not None:
            sheet.pairs([("dead units", f"{layer.dead:.0%}")])
    sheet.paragraph("shut: below 0.1 (candidate, state: -0.8); open: above 0.9 (0.8)")


def _tokens(value: float) -> str:
    return "endless" if value >= LONGEST else format_count(value)


def show_units(matches: Sequence[Match], sheet: Sheet) -> None:
    """For each feature of the text the unit that follows it best."""
    sheet.heading("Hidden units that follow something")
    rows = [
        [
            match.feature,
            f"{match.layer + 1}",
            f"{match.unit}",
            f"{match.measure} {match.strength:.2f}",
            "high" if match.sign > 0 else "low",
        ]
        for match in matches
    ]
    sheet.table(["follows", "layer", "unit", "strength", "there it is"], rows)
    best = matches[0]
    sheet.paragraph(
        "strength on the half of the text that it was not chosen by; see one with "
        f"--layer {best.layer + 1} --unit {best.unit}"
    )


def show_unit(
    values: np.ndarray,
    pieces: Sequence[str],
    unit: int,
    layer: int,
    match: Match | None,
    sheet: Sheet,
) -> None:
    """A text marked by the activation of one unit, (n,)."""
    sheet.heading(f"Unit {unit} of layer {layer + 1}")
    if match is not None:
        what = "high" if match.sign > 0 else "low"
        sheet.paragraph(
            f"best match: {match.feature} ({match.measure} {match.strength:.2f}, {what} there)"
        )
    low, high = float(values.min()), float(values.max())
    sheet.shaded(pieces, scaled(values).tolist(), f"{low:+.2f}", f"{high:+.2f}")


def scaled(values: np.ndarray) -> np.ndarray:
    """Activations from 0, the lowest in the text, to 1, the highest."""
    low, high = values.min(), values.max()
    found: np.ndarray = (values - low) / max(float(high - low), 1e-9)
    return found


def show_horizon(horizon: Horizon, sheet: Sheet) -> None:
    """The loss by the length of the past that the model may see."""
    sheet.heading("Memory: loss as the visible past is cut")
    steps = [float(np.log2(length)) for length in horizon.lengths]
    sheet.curves([("loss", steps, horizon.losses)], x="log2 of tokens seen", y="nats per token")
    rows = [
        [str(length), f"{loss:.3f}", f"{loss - horizon.losses[-1]:+.3f} ±{error:.3f}"]
        for length, loss, error in zip(horizon.lengths, horizon.losses, horizon.errors, strict=True)
    ]
    sheet.table(["tokens seen", "nats", "above the last"], rows)
    sheet.pairs([("hint", horizon.hint), ("measured on", f"{horizon.places} tokens")])


def show_surprises(surprises: Sequence[Surprise], spell: Sequence[str], sheet: Sheet) -> None:
    """The text marked by surprisal, and the tokens that surprised most."""
    sheet.heading("Surprisal")
    most = max(surprise.bits for surprise in surprises)
    pieces = [spell[surprise.token] for surprise in surprises]
    levels = [surprise.bits / max(most, 1e-9) for surprise in surprises]
    sheet.shaded(pieces, levels, "0 bits", f"{most:.1f} bits")
    startling = sorted(range(len(surprises)), key=lambda i: -surprises[i].bits)[:STARTLING]
    rows = []
    for index in startling:
        before = "".join(pieces[max(0, index - 12) : index])
        expected = "  ".join(
            f"{_quoted(spell[token])} {chance:.0%}"
            for token, chance in surprises[index].alternatives
        )
        rows.append(
            [
                _quoted(pieces[index]),
                f"{surprises[index].bits:.1f}",
                printable(before).replace("\n", "⏎"),
                expected,
            ]
        )
    sheet.table(["token", "bits", "after", "expected"], rows)


def _quoted(text: str) -> str:
    return "'" + printable(text).replace("\n", "⏎") + "'"
