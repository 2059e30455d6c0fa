"""One page that shows a model from inside; the slider and the marked text are moved by page.js."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqtool.figures import Draw, draw_belief, draw_history, plots
from seqtool.findings import Belief, Findings, Labelled
from seqtool.marking import Panel, packed, panel_data, panels, show_panels
from seqtool.page import details, escaped, page, plot, soft, table, write_page
from seqtool.summary import Summary

HISTORY = 40  # evaluations on the slider, at most
EXAMPLES = 8  # texts or pictures whose belief is drawn


def write_report(summary: Summary, found: Findings, spell: Sequence[str], path: Path) -> None:
    """Write the page.

    Raises:
        SeqtoolError: If it cannot be written.
    """
    write_page(make_page(summary, found, spell), path)


def make_page(summary: Summary, found: Findings, spell: Sequence[str]) -> str:
    """The page as text.

    Args:
        summary: What the model is.
        found: What was seen in it.
        spell: The text of every token of the vocabulary, (V,), if there are surprises.
    """
    made = plots(summary, found)
    texts = panels(found)
    sections = [
        ("reader", "The text, marked", show_panels(found, texts)),
        ("looks", "Attention", _attended(found)),
        ("belief", "Belief", _beliefs(found)),
        ("gradient", "Gradient through time", _flow(summary, found, made)),
        ("gates", "Gates", _gates(found, made)),
        ("units", "What units follow", _units(found)),
        ("memory", "Memory", _memory(found, made)),
        ("training", "Training", _training(made)),
        ("model", "The model", _about(summary)),
    ]
    total = sum(summary.parameters.values())
    lead = escaped(f"{summary.network}, {total:,} parameters, to {summary.task}")
    windowed = soft(f"{found.windowed}.") if found.windowed else ""
    values = _data(summary, found, texts, spell)
    data = (
        f'<script type="application/json" id="data">{values}</script>\n'
        f'<script type="text/plain" id="activations">{packed(found, texts)}</script>'
    )
    notes = "".join(map(soft, found.notes))
    return page(summary.name, f'<p class="lead">{lead}</p>{windowed}', sections, notes, data)


def _about(summary: Summary) -> str:
    rows: list[tuple[str, object]] = [
        *((f"parameters, {part}", f"{count:,}") for part, count in summary.parameters.items()),
        *((name.replace("_", " "), value) for name, value in summary.source.items()),
        *(
            (name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else value)
            for name, value in summary.scores.items()
        ),
    ]
    return table(["what", "value"], [row for row in rows if isinstance(row[1], str | int)])


def _training(made: dict[str, Draw]) -> str:
    if "Training" not in made:
        return ""
    return plot(made["Training"], "training", "Loss over the steps of training, lower is better.")


def _flow(summary: Summary, found: Findings, made: dict[str, Draw]) -> str:
    """The verdict, the plot and, if training recorded it, a slider over its course."""
    flow = found.flow
    if flow is None:
        return ""
    verdict = flow.verdict
    advice = f" Try {verdict.advice}." if verdict.advice else ""
    words = (
        f'<p class="verdict {verdict.judgement}"><strong>{verdict.judgement}</strong>'
        f"{escaped(verdict.evidence)}.{escaped(advice)}</p>"
    )
    caption = (
        f"How much of the gradient of a cost reaches the state some {found.element}s earlier "
        "(line, ring where 1 % is left), and how much a change of that state can still matter "
        "(crosses)."
    )
    heads = ["lag", *(layer.name for layer in flow.layers)]
    rows = [
        [lag, *(f"{layer.gradient[lag]:.2e}" for layer in flow.layers)]
        for lag in (0, *flow.layers[0].lags)
    ]
    now = plot(made["Gradient through time"], "now", caption) + details(heads, rows)
    history = _history(summary)
    if len(history) < 2:
        return words + now
    caption = "The same at each evaluation during training: move the slider."
    picture = plot(lambda axes: draw_history(history, axes), "history", caption)
    last = len(history) - 1
    course = (
        f'{picture}<p class="controls"><label for="when">Evaluation</label>'
        f'<input type="range" id="when" min="0" max="{last}" value="{last}">'
        '<output id="step" for="when"></output></p>'
    )
    return f'{words}<div class="pair"><div>{now}</div><div>{course}</div></div>'


def _history(summary: Summary) -> list[dict[str, Any]]:
    """The recorded gradient flows, thinned out evenly if there are many."""
    count = len(summary.flow)
    kept = sorted({round(i) for i in np.linspace(0, count - 1, min(count, HISTORY))})
    return [summary.flow[index] for index in kept]


def _gates(found: Findings, made: dict[str, Draw]) -> str:
    if found.gates is None:
        return ""
    rows = []
    for layer in found.gates:
        name = layer.name.removeprefix("layer ")
        for gate in layer.gates:
            rows.append(
                [name, gate.name, f"{gate.mean:.2f}", f"{gate.low:.0%}", f"{gate.high:.0%}"]
            )
        if layer.memory is not None:
            middle = f"{float(np.median(layer.memory)):.1f} {found.element}s"
            rows.append([name, f"memory 1/(1-{layer.keeping}), median", middle, "", ""])
    caption = (
        "Each unit of each gate: how much of the time it is open (above 0.9) and shut (below 0.1). "
        "Units on the line are never in between."
    )
    picture = plot(made["Saturation of the gates"], "saturation", caption)
    numbers = table(["layer", "gate", "mean", "shut", "open"], rows)
    return f'<div class="split">{picture}{numbers}</div>'


def _units(found: Findings) -> str:
    ranking = found.ranking
    if ranking is None:
        return ""
    rows = [
        [
            match.feature,
            found.layers[match.layer].removeprefix("layer "),
            match.unit,
            match.grade,
            match.there if match.clear else f"{match.there}, but vague",
        ]
        for match in ranking.by_feature
    ]
    limits = "".join(soft(f"{limit}.") for limit in ranking.limits)
    if not rows:
        return limits
    heads = ["feature", "layer", "unit", "strength", "there it is"]
    return (
        '<p class="soft">For each feature of the text the unit that follows it best. Chosen on one '
        "half of the text, measured on the other. AUC: 0.5 is chance, 1 perfect; rho: rank "
        "correlation, 0 is chance, 1 perfect. Those called vague hardly show in the text.</p>"
        f"{table(heads, rows)}{limits}"
    )


def _memory(found: Findings, made: dict[str, Draw]) -> str:
    horizon = found.horizon
    if horizon is None:
        return ""
    caption = (
        "Loss as the visible past is cut to fewer tokens; the dotted line is where that of the "
        f"network stops falling: {horizon.knee}."
    )
    heads, columns = ["tokens seen", "network, nats"], [horizon.losses]
    if horizon.mixed is not None:
        heads.append("model with counts, nats")
        columns.append(horizon.mixed.losses)
    rows = [
        [length, *(f"{loss:.3f}" for loss in losses)]
        for length, *losses in zip(horizon.lengths, *columns, strict=True)
    ]
    picture = plot(made["Memory"], "past", caption)
    hint = horizon.hint[0].upper() + horizon.hint[1:]
    beside = f"<div><p>{escaped(hint)}.</p>{table(heads, rows)}</div>"
    return f'<div class="split">{picture}{beside}</div>'


def _beliefs(found: Findings) -> str:
    """Of the first texts or pictures the curves, of the first sentences the labels."""
    examples = [
        *(
            _believed(index, each, found)
            for index, each in enumerate((found.beliefs or [])[:EXAMPLES])
        ),
        *(_labelled(each, found) for each in (found.labelled or [])[:EXAMPLES]),
    ]
    return _examples(examples)


def _believed(index: int, belief: Belief, found: Findings) -> tuple[str, str]:
    """The name of an example, and what is shown of it."""
    best = found.classes[belief.top[0]]
    truth = f", truly {belief.label}" if belief.label else ""
    caption = f"{belief.name}: what the model believes after each {belief.element}."
    picture = plot(lambda axes: draw_belief(belief, found.classes, axes), f"belief{index}", caption)
    if belief.pixels is not None:
        picture = _picture(belief.pixels, belief.name) + picture
    return f"{belief.name}: {best}{truth}", picture


def _labelled(sentence: Labelled, found: Findings) -> tuple[str, str]:
    """The name of a sentence, and its words with what they are taken for."""
    rows: list[list[object]] = []
    for at, (token, label) in enumerate(zip(sentence.tokens, sentence.labels, strict=True)):
        chance = sentence.probabilities[at, found.classes.index(label)]
        rows.append([token, label, *sentence.given(at), f"{chance:.2f}"])
    heads = ["word", "label", *["truly"] * bool(sentence.truth), "probability"]
    return sentence.name, table(heads, rows)


def _attended(found: Findings) -> str:
    """Sources and translations; the script marks what one token of a translation looks at."""
    examples = []
    for look in (found.attended or [])[:EXAMPLES]:
        source, target = (
            "".join(f"<span>{escaped(token)}</span> " for token in tokens)
            for tokens in (look.source, look.target)
        )
        inside = (
            f'<p class="soft">What is read</p><div class="text source">{source}</div>'
            '<p class="soft">What is written: point at a token, or go there with arrow keys</p>'
            '<div class="text target" tabindex="0" role="group" aria-label="The translation; arrow '
            f'keys go from token to token">{target}</div>'
            '<p class="said" aria-live="polite"></p>'
        )
        examples.append((look.name, inside))
    return _examples(examples, "example look")


def _examples(examples: Sequence[tuple[str, str]], kind: str = "example") -> str:
    """A picker of examples by name and what is shown of each, one at a time; "" if none."""
    if not examples:
        return ""
    options, parts = [], []
    for index, (name, inside) in enumerate(examples):
        options.append(f'<option value="{index}">{escaped(name)}</option>')
        hidden = " hidden" if index else ""
        parts.append(f'<div class="{kind}" id="example-{index}"{hidden}>{inside}</div>')
    return (
        '<p class="controls"><label for="example">Example</label>'
        f'<select id="example">{"".join(options)}</select></p>{"".join(parts)}'
    )


def _picture(pixels: np.ndarray, name: str) -> str:
    """Pixels (H, W, C) as an image inside the page."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    blob = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img class="pixels" alt="{escaped(name)}" src="data:image/png;base64,{blob}">'


def _data(summary: Summary, found: Findings, made: Sequence[Panel], spell: Sequence[str]) -> str:
    """What the script needs, as JSON that cannot end its element."""
    used = {int(token) for panel in made for each in panel.expected for token in each[::2]}
    values = panel_data(found, made) | {
        "spell": {token: spell[token] for token in sorted(used)},
        "attention": [
            look.weights.astype(float).round(3).tolist()
            for look in (found.attended or [])[:EXAMPLES]
        ],
        "history": [f"step {event['step']}: {event['verdict']}" for event in _history(summary)],
    }
    return json.dumps(values).replace("<", "\\u003c")
