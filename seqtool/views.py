"""The views of ``inspect`` on a sheet: what a model is and what was found, as tables and curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seqtool.console import format_count, number_of, printable
from seqtool.findings import Attended, Belief, Findings, Labelled
from seqtool.neurons import Match, Ranking
from seqtool.sheet import Series, Sheet
from seqtool.summary import Summary

if TYPE_CHECKING:
    from seqtool.diagnostics import Flow
    from seqtool.gates import LayerGates
    from seqtool.horizon import Horizon, Surprise

STARTLING = 8  # tokens listed
MOST_LISTED = 20  # values of a list in a summary
FEATURE_WIDTH = 28  # characters of a feature's name
WORD_WIDTH, LABEL_WIDTH = 18, 9  # characters
SHOWN_BELIEFS = 6  # texts or pictures shown one by one
INK = " .:-=+*#%@"  # of pixels, dark to bright
SETTINGS_SHOWN = (
    *("tokenizer", "vocab_size", "valid_fraction", "embed_size", "dropout", "ngram_order"),
    *("ngram_buckets", "tied", "optimizer", "lr", "batch_size", "bptt", "clip_norm", "clip_value"),
    *("steps", "seed"),
)
NOTHING = "-"


def show_summary(summary: Summary, sheet: Sheet) -> None:
    """What a model is, on one sheet."""
    sheet.heading(summary.name)
    total = sum(summary.parameters.values())
    parts = ", ".join(f"{format_count(n)} {part}" for part, n in summary.parameters.items())
    rows = [
        ("task", summary.task),
        ("network", summary.network),
        ("parameters", f"{format_count(total)}: {parts}"),
    ]
    if summary.broken:
        rows.append(("BROKEN", summary.broken))
    if not summary.trained:
        rows.append(("training", "none: no update was ever reported"))
    sheet.pairs(rows)
    sheet.heading("Data")
    sheet.pairs(
        [
            (name.replace("_", " "), _value(value))
            for name, value in summary.source.items()
            if value not in (None, "")
        ]
    )
    if summary.scores or summary.valid_curve or summary.train_curve:
        sheet.heading("Training")
        events = ", ".join(f"{count} {kind}" for kind, count in summary.events.items())
        rows = [(name.replace("_", " "), _value(value)) for name, value in summary.scores.items()]
        sheet.pairs([*rows, ("events", events)])
        curves = [("training", summary.train_curve), ("validation", summary.valid_curve)]
        series = [
            (name, [float(step) for step, _ in points], [loss for _, loss in points])
            for name, points in curves
            if points
        ]
        if series:
            sheet.curves(series, x="step", y="loss in nats")
        for flow in summary.flow[-1:]:
            sheet.pairs([("gradient flow", f"{flow['verdict']}: {flow['evidence']}")])
    if summary.receipt:
        sheet.heading("Made by")
        sheet.pairs(list(summary.receipt.items()))
    sheet.heading("Settings")
    kept = {name: summary.settings[name] for name in SETTINGS_SHOWN if name in summary.settings}
    sheet.table(
        ["setting", "value", "from"],
        [
            [name, f"{value}", summary.origins.get(name, "not recorded")]
            for name, value in kept.items()
        ],
    )
    sheet.heading("Weights")
    shapes = [[name, " x ".join(map(str, shape))] for name, shape in summary.shapes.items()]
    sheet.table(["name", "shape"], shapes)


def _value(value: object) -> str:
    """A value in few words: long lists are counted, not listed."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        if len(value) > MOST_LISTED:
            return f"{', '.join(map(_value, value[:3]))}, ... ({len(value)} in all)"
        return ", ".join(map(_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items())
    return f"{value}"


def show_findings(found: Findings, spell: Sequence[str], sheet: Sheet) -> None:
    """Every view there is, in the order of the theory: flow, gates, units, memory, surprise."""
    if found.flow is not None:
        show_flow(found.flow, sheet)
    if found.gates is not None:
        show_gates(found.gates, sheet, found.element)
    if found.ranking is not None:
        show_units(found.ranking, sheet)
    if found.horizon is not None:
        show_horizon(found.horizon, sheet)
    if found.surprises:
        show_surprises(found.surprises, spell, sheet)
    if found.beliefs:
        show_beliefs(found.beliefs, found.classes, sheet)
    if found.labelled:
        show_labelled(found.labelled, found.classes, sheet)
    if found.attended:
        show_attended(found.attended, sheet)
    for note in found.notes:
        sheet.paragraph(note)


def show_flow(flow: "Flow", sheet: Sheet) -> None:
    """The verdict on gradients through time, and what it rests on."""
    verdict = flow.verdict
    sheet.heading("Gradient through time")
    rows = [("verdict", f"{verdict.judgement.upper()}: {verdict.evidence}")]
    if verdict.advice:
        rows.append(("try", verdict.advice))
    places, back = number_of(flow.windows, "place"), number_of(flow.window, flow.element)
    rows.append(("looked at", f"{places}, {back} back from each"))
    sheet.pairs(rows)
    lags = list(range(flow.window + 1))
    gradients: list[Series] = [(layer.name, lags, layer.gradient.tolist()) for layer in flow.layers]
    sheet.line()
    sheet.curves(gradients, x=f"lag T-t in {flow.element}s", y="|dC_T/ds_t|", log=True)
    for layer in flow.layers:
        sheet.line()
        sheet.line((f"  {layer.name}", "bold"))
        heads = ["lag", "|dC/ds_t|", "|dC/dW at t|", "|ds_T/ds_t|"]
        heads += ["bound"] if layer.bound is not None else []
        table = [_flow_row(0, layer.gradient[0], layer.terms[0], None, layer.bound is not None)]
        for index, lag in enumerate(layer.lags):
            jacobian = None if layer.jacobian is None else layer.jacobian[index]
            row = _flow_row(lag, layer.gradient[lag], layer.terms[lag], jacobian, False)
            table.append(row + ([] if layer.bound is None else [f"{layer.bound[index]:.1e}"]))
        sheet.table(heads, table)
        more = "at least " * (layer.horizon == flow.window) + number_of(layer.horizon, flow.element)
        left = f"(1 % of the gradient left), x{layer.rate:.2f} a {flow.element}"
        rows = [("horizon", f"{more} {left}")]
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


def show_gates(layers: Sequence["LayerGates"], sheet: Sheet, element: str = "token") -> None:
    """How open the gates are, how saturated, and how long the cells remember."""
    sheet.heading("Gates")
    for layer in layers:
        sheet.line((f"  {layer.name}", "bold"))
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
            term = f"memory 1/(1-{layer.keeping})"
            sheet.pairs([(term, f"{shown} {element}s (least, quartiles, most)")])
        if layer.dead is not None:
            sheet.pairs([("dead units", f"{layer.dead:.0%}")])
    sheet.paragraph("shut: below 0.1 (candidate, state: -0.8); open: above 0.9 (0.8)")


def _tokens(value: float) -> str:
    from seqtool.gates import LONGEST

    return "endless" if value >= LONGEST else format_count(value)


def show_units(ranking: Ranking, sheet: Sheet) -> None:
    """For each feature of the text the unit that follows it best, and what was not found."""
    sheet.heading("Hidden units that follow something")
    rows = [
        [
            printable(match.feature)[:FEATURE_WIDTH],
            f"{match.layer + 1}",
            f"{match.unit}",
            match.grade,
            match.there,
        ]
        for match in ranking.by_feature
        if match.clear
    ]
    if rows:
        sheet.table(["follows", "layer", "unit", "strength", "there"], rows)
    for limit in ranking.limits:
        sheet.paragraph(limit)
    if ranking.by_feature:
        best = ranking.by_feature[0]
        sheet.paragraph(
            "strength on the half of the text that it was not chosen by; AUC: 0.5 is chance, rho: "
            f"0; see one with --layer {best.layer + 1} --unit {best.unit}"
        )


def show_unit(
    values: np.ndarray,
    pieces: Sequence[str],
    unit: int,
    layer: str,
    match: Match | None,
    sheet: Sheet,
) -> None:
    """A text marked by the activation of one unit, (n,)."""
    sheet.heading(f"Unit {unit} of {layer}")
    best = (
        "none found" if match is None else f"{match.feature} ({match.grade}, {match.there} there)"
    )
    sheet.paragraph(f"best match: {best}")
    low, high = float(values.min()), float(values.max())
    sheet.shaded(pieces, scaled(values).tolist(), f"{low:+.2f}", f"{high:+.2f}")


def scaled(values: np.ndarray) -> np.ndarray:
    """Activations from 0, the lowest in the text, to 1, the highest."""
    low, high = values.min(), values.max()
    found: np.ndarray = (values - low) / max(float(high - low), 1e-9)
    return found


def show_horizon(horizon: "Horizon", sheet: Sheet) -> None:
    """The loss by the length of the past that the model may see."""
    sheet.heading("Memory: loss as the visible past is cut")
    curves = [("network", horizon)]
    if horizon.mixed is not None:
        curves.insert(0, ("model, with counts", horizon.mixed))
    steps = [float(np.log2(length)) for length in horizon.lengths]
    series: list[Series] = [(name, steps, curve.losses) for name, curve in curves]
    sheet.curves(series, x="log2 of tokens seen", y="nats per token")
    heads = ["tokens seen", *(name.split(",")[0] for name, _ in curves), "network above its last"]
    rows = [
        [
            str(length),
            *(f"{curve.losses[index]:.3f}" for _, curve in curves),
            f"{horizon.losses[index] - horizon.losses[-1]:+.3f} ±{horizon.errors[index]:.3f}",
        ]
        for index, length in enumerate(horizon.lengths)
    ]
    sheet.table(heads, rows)
    notes = [("hint", horizon.hint), ("measured on", number_of(horizon.places, "token"))]
    if (mixed := horizon.mixed) is not None:
        reach = number_of(mixed.knee, "token") + " or more" * (not mixed.ended)
        notes.insert(1, ("with counts", f"what is seen matters up to {reach}"))
    sheet.pairs(notes)


def show_surprises(surprises: Sequence["Surprise"], spell: Sequence[str], sheet: Sheet) -> None:
    """The text marked by surprisal, and the tokens that surprised most."""
    mixed = surprises[0].network is not None
    sheet.heading("Surprisal" + (" (of the model as it is used, mixed with counts)" * mixed))
    most = max(surprise.bits for surprise in surprises)
    pieces = [spell[surprise.token] for surprise in surprises]
    levels = [surprise.bits / max(most, 1e-9) for surprise in surprises]
    sheet.shaded(pieces, levels, "0 bits", f"{most:.1f} bits")
    startling = sorted(range(len(surprises)), key=lambda i: -surprises[i].bits)[:STARTLING]
    rows = []
    for index in startling:
        surprise = surprises[index]
        before = "".join(pieces[max(0, index - 12) : index])
        expected = "  ".join(
            f"{_quoted(spell[token])} {chance:.0%}" for token, chance in surprise.alternatives
        )
        alone = [] if surprise.network is None else [f"{surprise.network:.1f}"]
        after = printable(before).replace("\n", "⏎")
        rows.append([_quoted(pieces[index]), f"{surprise.bits:.1f}", *alone, after, expected])
    sheet.table(["token", "bits", *["network"] * mixed, "after", "expected"], rows)
    means = [("mean", f"{np.mean([surprise.bits for surprise in surprises]):.3f} bits a token")]
    if mixed:
        network = float(np.mean([surprise.network or 0.0 for surprise in surprises]))
        means.append(("network", f"{network:.3f} bits a token alone"))
    sheet.pairs(means)


def show_beliefs(beliefs: Sequence[Belief], classes: Sequence[str], sheet: Sheet) -> None:
    """How the judgement of texts or pictures moves while they are read."""
    sheet.heading("Belief: what the model thinks after each " + beliefs[0].element)
    for belief in beliefs[:SHOWN_BELIEFS]:
        best = belief.top[0]
        path = belief.probabilities[:, best]
        truth = f", truly {belief.label}" if belief.label else ""
        sheet.line()
        sheet.paragraph(f"{belief.name}: {classes[best]} {path[-1]:.2f}{truth}")
        if belief.pixels is not None:
            _show_rows(belief, classes, sheet)
            continue
        sheet.shaded(belief.line, path.tolist(), f"not {classes[best]}", classes[best])
        if turns := _turns(belief, classes):
            sheet.pairs([("turns", turns)])
    _say_more(len(beliefs), sheet)


def show_labelled(labelled: Sequence[Labelled], classes: Sequence[str], sheet: Sheet) -> None:
    """For each word of sentences its label, and what it might be instead."""
    sheet.heading("Belief: what the model takes each word for")
    for each in labelled[:SHOWN_BELIEFS]:
        sheet.line()
        sheet.paragraph(each.name)
        rows = []
        for row, (token, label) in enumerate(zip(each.tokens, each.labels, strict=True)):
            p = each.probabilities[row]
            other = max((c for c in range(len(p)) if classes[c] != label), key=p.__getitem__)
            chance = float(p[list(classes).index(label)])
            names = (label, *each.given(row), classes[other])
            *first, second = (printable(name)[:LABEL_WIDTH] for name in names)
            rows.append([printable(token)[:WORD_WIDTH], *first, f"{chance:.2f}"])
            rows[-1] += [sheet.bars([chance]), second, f"{p[other]:.2f}"]
        truly = ["truly"] * bool(each.truth)
        sheet.table(["word", "label", *truly, "p", "", "or", "p"], rows)
    _say_more(len(labelled), sheet)


def show_attended(attended: Sequence[Attended], sheet: Sheet) -> None:
    """For each token of translations a row: how much of the attention each source token got."""
    sheet.heading("Attention: where the translator looks for each token it writes")
    for look in attended[:SHOWN_BELIEFS]:
        sheet.line()
        sheet.paragraph(f"{look.name}: {look.translation}")
        if look.target:
            sheet.grid(look.target, look.source, look.weights.tolist())
    _say_more(len(attended), sheet)


def _say_more(count: int, sheet: Sheet) -> None:
    if count > SHOWN_BELIEFS:
        sheet.paragraph(f"and {count - SHOWN_BELIEFS} more: --start N chooses, --json has all")


def _turns(belief: Belief, classes: Sequence[str]) -> str:
    """The words at which another class became the likeliest."""
    best = belief.probabilities.argmax(axis=1)
    return ", ".join(
        f"{_quoted(belief.pieces[t].strip())} to {classes[best[t]]}"
        for t in range(1, len(best))
        if best[t] != best[t - 1]
    )


def _show_rows(belief: Belief, classes: Sequence[str], sheet: Sheet) -> None:
    """A picture, and beside each row what is believed once it is read."""
    assert belief.pixels is not None
    grey = belief.pixels.mean(axis=2)  # (H, W)
    room = max(8, sheet.width - 30)
    columns = np.unique(np.linspace(0, grey.shape[1] - 1, min(room, grey.shape[1])).astype(int))
    for row, p in zip(grey[:, columns], belief.after_rows, strict=True):
        drawn = "".join(INK[int(value * len(INK) / 256)] for value in row)
        best = int(p.argmax())
        name = printable(classes[best])[:12]
        sheet.line(f"  {drawn}  {name:<12} {p[best]:.2f} {sheet.bars([float(p[best])])}")


def _quoted(text: str) -> str:
    return "'" + printable(text).replace("\n", "⏎") + "'"
