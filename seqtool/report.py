"""One page that shows a model from inside: self-contained, without network, for eyes and ears.

Plots are SVG made by figures. The activations of all units are packed into a few bits each, so that
a page for two layers of 512 units over 2,000 characters stays below 2 MB; the browser unpacks them.
"""

import base64
import html
import json
import zlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from seqtool.errors import SeqtoolError
from seqtool.figures import Draw, draw_history, plots, svg
from seqtool.files import write_whole
from seqtool.findings import Findings
from seqtool.neurons import Match
from seqtool.summary import Summary

LEVELS = 16  # shades of an activation: half a byte
HISTORY = 40  # evaluations on the slider, at most

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --mark: 47 127 208; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --paper: #16181b; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; }
td + td { overflow-wrap: anywhere; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; }
.verdict { font-size: 1.2rem; font-weight: 600; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/2 ui-monospace, monospace; }
.text span { background: rgb(var(--mark) / calc(var(--a) * .75));
  box-shadow: inset 0 calc(var(--a) * -.5em) 0 -1px rgb(var(--mark) / .55); }
label { margin-right: 1rem; } select, input { font: inherit; }
:focus-visible { outline: 3px solid rgb(var(--mark)); outline-offset: 2px; }
[hidden] { display: none; }
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
async function unpack() {
  const raw = Uint8Array.from(atob(byId("activations").textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
function paint(levels) {
  document.querySelectorAll("#text span").forEach((span, i) => {
    span.style.setProperty("--a", levels[i].toFixed(3));
  });
}
async function units() {
  if (!byId("text")) return;
  const packed = await unpack(), n = data.tokens, wide = Math.ceil(n / 2);
  const show = () => {
    const choice = byId("unit").value;
    if (choice === "surprisal") {
      const most = Math.max(...data.bits, 1e-9);
      paint(data.bits.map(b => b / most));
      byId("about").textContent = "Surprisal: the most is " + most.toFixed(1) + " bits.";
      return;
    }
    const u = Number(choice), levels = [];
    for (let i = 0; i < n; i++) {
      const byte = packed[u * wide + (i >> 1)];
      levels.push((i % 2 ? byte >> 4 : byte & 15) / 15);
    }
    paint(levels);
    const best = levels.map((v, i) => [v, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
    const spans = document.querySelectorAll("#text span");
    const around = best.map(([, i]) =>
      "'" + [...spans].slice(Math.max(0, i - 8), i + 1).map(s => s.textContent).join("") + "'");
    byId("about").textContent = data.units[u] + " Highest after " + around.join(", ") + ".";
  };
  const picker = byId("unit"), wanted = decodeURIComponent(location.hash).match(/^#unit=(.+)$/);
  if (wanted && [...picker.options].some(option => option.value === wanted[1])) {
    picker.value = wanted[1];
  }
  picker.addEventListener("change", () => { location.hash = "unit=" + picker.value; show(); });
  show();
}
function slide() {
  const slider = byId("when");
  if (!slider) return;
  const show = () => {
    const now = Number(slider.value);
    document.querySelectorAll("[id^='flow-']").forEach(group => {
      group.style.display = group.id.split("-")[1] === String(now) ? "" : "none";
    });
    byId("step").textContent = data.history[now];
    slider.setAttribute("aria-valuetext", data.history[now]);
  };
  slider.addEventListener("input", show);
  show();
}
slide();
units();
"""


def write_report(summary: Summary, found: Findings, path: Path) -> None:
    """Write the page.

    Raises:
        SeqtoolError: If it cannot be written.
    """
    page = make_page(summary, found)
    try:
        write_whole(path, page.encode("utf-8", "replace"))
    except OSError as err:
        raise SeqtoolError(
            f"--html {path}: cannot be written ({err.strerror}); choose another place"
        ) from err


def make_page(summary: Summary, found: Findings) -> str:
    """The page as text."""
    made = plots(summary, found)
    sections = [_about(summary)]
    if "Training" in made:
        caption = "Loss over the steps of training, lower is better."
        sections.append(_section("Training", _plot(made["Training"], "training", caption)))
    if found.flow is not None:
        sections.append(_flow(summary, found, made["Gradient through time"]))
    if found.gates is not None:
        caption = (
            "Each unit of each gate: how much of the time it is open (above 0.9) and shut (below "
            "0.1). Units on the line are never in between."
        )
        body = _gate_table(found) + _plot(made["Saturation of the gates"], "gates", caption)
        sections.append(_section("Gates", body))
    if found.activations is not None:
        sections.append(_section("Units", _units(found)))
    if found.horizon is not None:
        caption = (
            "Loss as the visible past is cut to fewer tokens; the dotted line is where it stops "
            f"falling: {found.horizon.knee}."
        )
        body = f"<p>{_text(found.horizon.hint)}</p>" + _plot(made["Memory"], "memory", caption)
        rows = zip(found.horizon.lengths, found.horizon.losses, strict=True)
        table = [[str(length), f"{loss:.3f}"] for length, loss in rows]
        sections.append(_section("Memory", body + _details(["tokens seen", "nats"], table)))
    body = "\n".join(sections)
    title = _text(f"seqtool: {summary.name}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{_text(summary.name)}</h1>
{body}
</main>
<script type="application/json" id="data">{_data(summary, found)}</script>
<script type="text/plain" id="activations">{_packed(found)}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _text(value: object) -> str:
    return html.escape(str(value))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _details(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return f"<details><summary>as a table</summary>{_table(heads, rows)}</details>"


def _plot(draw: Draw, name: str, caption: str) -> str:
    picture = svg(draw, name).replace("<svg", f'<svg role="img" aria-label="{_text(caption)}"', 1)
    return f"<figure>{picture}<figcaption>{_text(caption)}</figcaption></figure>"


def _about(summary: Summary) -> str:
    total = sum(summary.parameters.values())
    rows: list[tuple[str, object]] = [
        ("task", summary.task),
        ("network", summary.network),
        ("parameters", f"{total:,}"),
        *((name.replace("_", " "), value) for name, value in summary.source.items()),
        *((name.replace("_", " "), value) for name, value in summary.scores.items()),
    ]
    kept = [row for row in rows if isinstance(row[1], str | int | float)]
    return _table(["what", "value"], kept)


def _flow(summary: Summary, found: Findings, draw: Draw) -> str:
    """The verdict, the plot and, if training recorded it, a slider over its course."""
    flow = found.flow
    assert flow is not None
    verdict = flow.verdict
    advice = f" Try {verdict.advice}." if verdict.advice else ""
    words = f"{verdict.judgement}: {verdict.evidence}.{advice}"
    caption = (
        "How much of the gradient of a cost reaches the state some tokens earlier; crosses: how "
        "much a change of that state can still matter."
    )
    body = f'<p class="verdict">{_text(words)}</p>' + _plot(draw, "gradient", caption)
    heads = ["lag", *(f"layer {layer.layer + 1}" for layer in flow.layers)]
    rows = [
        [lag, *(f"{layer.gradient[lag]:.2e}" for layer in flow.layers)]
        for lag in (0, *flow.layers[0].lags)
    ]
    body += _details(heads, rows)
    history = _history(summary)
    if len(history) > 1:
        caption = "The same at each evaluation during training; move the slider."
        picture = _plot(lambda axes: draw_history(history, axes), "history", caption)
        body += (
            '<p><label for="when">Evaluation</label>'
            f'<input type="range" id="when" min="0" max="{len(history) - 1}" '
            f'value="{len(history) - 1}"> <output id="step" for="when"></output></p>{picture}'
        )
    return _section("Gradient through time", body)


def _history(summary: Summary) -> list[dict[str, object]]:
    """The recorded gradient flows, thinned out evenly if there are many."""
    count = len(summary.flow)
    kept = sorted({round(i) for i in np.linspace(0, count - 1, min(count, HISTORY))})
    return [summary.flow[index] for index in kept]


def _gate_table(found: Findings) -> str:
    rows = []
    for layer in found.gates or ():
        for gate in layer.gates:
            rows.append(
                [
                    f"{layer.layer + 1}",
                    gate.name,
                    f"{gate.mean:.2f}",
                    f"{gate.low:.0%}",
                    f"{gate.high:.0%}",
                ]
            )
        if layer.memory is not None:
            middle = f"{float(np.median(layer.memory)):.1f} tokens"
            rows.append([f"{layer.layer + 1}", "memory 1/(1-f), median", middle, "", ""])
    return _table(["layer", "gate", "mean", "shut", "open"], rows)


def _units(found: Findings) -> str:
    """The picker and the text that it marks."""
    ranking = found.ranking
    best = ranking.by_feature if ranking is not None else []
    options = []
    if found.surprises is not None:
        options.append('<option value="surprisal">surprisal</option>')
    offsets = _offsets(found)
    if best:
        chosen = "".join(
            f'<option value="{offsets[m.layer] + m.unit}">{_text(_label(m))}</option>' for m in best
        )
        options.insert(0, f'<optgroup label="best for each feature">{chosen}</optgroup>')
    for layer, values in enumerate(found.activations or ()):
        each = "".join(
            f'<option value="{offsets[layer] + unit}">unit {unit}</option>'
            for unit in range(values.shape[1])
        )
        options.append(f'<optgroup label="layer {layer + 1}">{each}</optgroup>')
    spans = "".join(f"<span>{_text(piece)}</span>" for piece in found.pieces)
    return (
        '<p><label for="unit">Mark the text by</label>'
        f'<select id="unit">{"".join(options)}</select></p>'
        '<p id="about" role="status" aria-live="polite"></p>'
        "<p>The higher the bar and the stronger the colour, the higher the unit.</p>"
        f'<div class="text" id="text">{spans}</div>'
    )


def _label(match: Match) -> str:
    where = "high" if match.sign > 0 else "low"
    return (
        f"{match.feature}: layer {match.layer + 1}, unit {match.unit} "
        f"({match.measure} {match.strength:.2f}, {where} there)"
    )


def _offsets(found: Findings) -> list[int]:
    """The number of units in the layers below each."""
    sizes = [values.shape[1] for values in found.activations or ()]
    return [0, *accumulate(sizes)]


def _data(summary: Summary, found: Findings) -> str:
    """What the script needs, as JSON that cannot end its element."""
    names = []
    matches = found.ranking.by_unit if found.ranking is not None else []
    known = {(match.layer, match.unit): match for match in matches}
    for layer, values in enumerate(found.activations or ()):
        for unit in range(values.shape[1]):
            match = known.get((layer, unit))
            about = f"Follows {_label(match)}." if match else f"Layer {layer + 1}, unit {unit}."
            names.append(about)
    values_ = {
        "tokens": len(found.pieces),
        "units": names,
        "bits": [round(surprise.bits, 2) for surprise in found.surprises or ()],
        "history": [f"step {event['step']}: {event['verdict']}" for event in _history(summary)],
    }
    return json.dumps(values_).replace("<", "\\u003c")


def _packed(found: Findings) -> str:
    """The activations of all units, two to a byte, each scaled to its own range, compressed."""
    if found.activations is None:
        return ""
    values = np.concatenate([part.T for part in found.activations])  # (units, n)
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    scaled = (values - low) / np.maximum(high - low, 1e-9)
    levels = np.round(scaled * (LEVELS - 1)).astype(np.uint8)
    if levels.shape[1] % 2:
        levels = np.pad(levels, ((0, 0), (0, 1)))
    packed = levels[:, ::2] | (levels[:, 1::2] << 4)
    return base64.b64encode(zlib.compress(packed.tobytes(), 9)).decode("ascii")
