"""Texts on a page, marked token by token: by the units of the layers that read them, by series.

A text has a panel with a picker of its own: a translator has two, for what it reads and for what
it writes. The activations of all units are packed into a few bits each, so that a page for two
layers of 512 units over 2,000 characters stays below 2 MB; the browser unpacks them.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from seqtool.findings import Findings
from seqtool.neurons import Match
from seqtool.page import escaped

LEVELS = 16  # shades of an activation: half a byte
MOST_CLASSES = 12  # that a text can be marked by
PEAKS, APART = 4, 9  # places named where a value is highest, and tokens between them at least
SIDES = ("What is read", "What is written")  # by a translator


@dataclass(frozen=True)
class Panel:
    """A text and what it can be marked by."""

    name: str  # of the text
    pieces: Sequence[str]  # (n,)
    layers: Sequence[int]  # that have read it
    series: Sequence[dict[str, Any]] = ()  # what each token has a number of, apart from units
    expected: Sequence[Sequence[int | float]] = ()  # at each token, chance after token id
    said: Sequence[str] = ()  # at each token, in words
    odd: frozenset[int] = field(default_factory=frozenset)  # tokens whose label is not the true one


def panels(found: Findings) -> list[Panel]:
    """A panel for each text that tokens are shown of; none of pictures."""
    if found.beliefs and found.beliefs[0].pixels is not None:
        return []
    if found.texts:
        encoder = [layer for layer, text in enumerate(found.texts) if text is found.texts[0]]
        decoder = range(len(encoder), len(found.texts))
        return [
            Panel(name, found.text_of(layers[0]), layers)
            for name, layers in zip(SIDES, (encoder, decoder), strict=True)
            if layers
        ]
    series = _series(found)
    if not series and found.activations is None:
        return []
    expected = [
        [part for token, p in surprise.alternatives for part in (token, round(p, 3))]
        for surprise in found.surprises or ()
    ]
    words = [(each, at) for each in found.labelled or () for at in range(len(each.tokens))]
    said = [
        f"labelled {each.labels[at]}" + (f", truly {each.truth[at]}" if each.truth else "")
        for each, at in words
    ]
    odd = frozenset(place for place, (each, at) in enumerate(words) if each.is_wrong(at))
    layers = range(len(found.activations or ()))
    return [Panel("The text", found.pieces, layers, series, expected, said, odd)]


def offsets(found: Findings) -> list[int]:
    """The number of units in the layers below each."""
    sizes = [values.shape[1] for values in found.activations or ()]
    return [0, *accumulate(sizes)]


def show_panels(found: Findings, made: Sequence[Panel]) -> str:
    """The pickers and the texts that they mark, as HTML; "" if there are none."""
    if not made:
        return ""
    keys = (
        '<p class="soft">The higher the bar below a token, the higher the value; colour repeats '
        "it, orange for what is below zero.</p>"
    )
    if any(panel.odd for panel in made):
        keys += '<p class="soft">In a dashed frame: words whose true label is another.</p>'
    return "".join(_show(found, panel, number) for number, panel in enumerate(made)) + keys


def _show(found: Findings, panel: Panel, number: int) -> str:
    """The parts of one panel have the number in their names, but for the first one's."""
    end = f"-{number}" if number else ""
    several = len(found.texts) > 0
    what = f"Mark {panel.name[0].lower()}{panel.name[1:]} by" if several else "Mark by"
    # A line feed has no width of its own: where it stands must be seen to be marked.
    spans = "".join(
        f"<span{_kinds(piece, at in panel.odd)}>{escaped(piece)}</span>"
        for at, piece in enumerate(panel.pieces)
    )
    return (
        f'<div class="panel"><div class="controls"><label for="unit{end}">{what}</label>'
        f'<select id="unit{end}">{_options(found, panel)}</select>'
        f'<button id="before{end}" aria-label="previous">&#8592;</button>'
        f'<button id="after{end}" aria-label="next">&#8594;</button>'
        f'<span class="legend" id="legend{end}"><span id="low{end}"></span><i></i>'
        f'<span id="high{end}"></span></span></div>'
        f'<p id="about{end}" class="soft" role="status" aria-live="polite"></p>'
        f'<div class="text" id="text{end}" tabindex="0" role="group" aria-label="{panel.name}; '
        f'arrow keys go from token to token" aria-describedby="reading{end}">{spans}</div>'
        f'<p id="reading{end}" class="reading" aria-live="polite">Point at a token, or go there '
        "with the arrow keys.</p></div>"
    )


def _kinds(piece: str, odd: bool) -> str:
    kinds = ["end"] * piece.startswith("\n") + ["odd"] * odd
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _options(found: Findings, panel: Panel) -> str:
    """What the text can be marked by, best first."""
    below, groups = offsets(found), list[str]()
    matches = found.ranking.by_feature if found.ranking is not None else []
    best = [match for match in matches if match.layer in panel.layers]
    if best:
        chosen = "".join(
            f'<option value="unit-{below[m.layer] + m.unit}">{escaped(label(m, found))}</option>'
            for m in best
        )
        groups.append(f'<optgroup label="units that follow something">{chosen}</optgroup>')
    if panel.series:
        chosen = "".join(
            f'<option value="series-{index}">{escaped(each["name"])}</option>'
            for index, each in enumerate(panel.series)
        )
        first = bool(best) and not (found.beliefs or found.labelled)
        groups.insert(first, f'<optgroup label="the model">{chosen}</optgroup>')
    for layer in panel.layers:
        each_unit = "".join(
            f'<option value="unit-{number}">unit {number - below[layer]}</option>'
            for number in range(below[layer], below[layer + 1])
        )
        groups.append(f'<optgroup label="{escaped(found.layers[layer])}">{each_unit}</optgroup>')
    return "".join(groups)


def label(match: Match, found: Findings) -> str:
    """What a unit follows, and how well."""
    return (
        f"{match.feature}: {found.layers[match.layer]}, unit {match.unit} "
        f"({match.grade}, {match.there} there)"
    )


def _series(found: Findings) -> list[dict[str, Any]]:
    """What each token has a number of, apart from units."""
    made: list[dict[str, Any]] = []
    if found.surprises:
        about = "Bits that each token costs the model, mixed with counts as it is used."
        alone = [surprise.network for surprise in found.surprises]
        bits = [round(surprise.bits, 2) for surprise in found.surprises]
        if alone[0] is None:
            about = "Bits that each token costs the model."
        made.append({"name": "surprisal", "about": about, "values": bits})
        if alone[0] is not None:
            made.append(
                {
                    "name": "surprisal of the network alone",
                    "about": "Bits that each token costs without counts.",
                    "values": [round(value or 0.0, 2) for value in alone],
                }
            )
    if believed := found.beliefs or found.labelled:
        p = np.concatenate([belief.probabilities for belief in believed])  # (n, C)
        for index in np.argsort(-p.max(axis=0), kind="stable")[:MOST_CLASSES]:
            made.append(
                {
                    "name": f"belief in {found.classes[index]}",
                    "about": "How probable the model finds it "
                    + ("after each word." if found.beliefs else "at each word."),
                    "values": p[:, index].round(3).tolist(),
                    "high": 1,
                }
            )
    return [{**each, "peaks": _peaks(np.array(each["values"]))} for each in made]


def panel_data(found: Findings, made: Sequence[Panel]) -> dict[str, Any]:
    """What the script needs to mark the texts, fit for JSON."""
    matches = found.ranking.by_unit if found.ranking is not None else []
    known = {(match.layer, match.unit): match for match in matches}
    units, ranges, peaks = [], [], []
    for layer, values in enumerate((found.activations or ()) if made else ()):
        lows, highs = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        for unit, (low, high) in enumerate(zip(lows, highs, strict=True)):
            match = known.get((layer, unit))
            name = f"{found.layers[layer]}, unit {unit}"
            about = f"Follows {label(match, found)}." if match else f"{name}: no match found."
            units.append([f"unit {unit}", about])
            ranges.append([round(low, 3), round(high, 3)])
        peaks += [_peaks(column) for column in values.T]
    below, texts, at = offsets(found), list[dict[str, Any]](), 0
    for panel in made:
        first = below[panel.layers[0]] if panel.layers else 0
        texts.append(
            {
                "tokens": len(panel.pieces),
                "first": first,  # of its units
                "at": at,  # byte of its activations among those of all panels
                "series": panel.series,
                "expected": panel.expected,
                "said": panel.said,
            }
        )
        count = below[panel.layers[-1] + 1] - first if panel.layers else 0
        at += count * -(-len(panel.pieces) // 2)
    return {"panels": texts, "units": units, "ranges": ranges, "peaks": peaks}


def _peaks(values: np.ndarray) -> list[int]:
    """Where values (n,) are highest, in places that lie apart, the highest first."""
    left, found = np.array(values, np.float64), list[int]()
    for _ in range(PEAKS):
        at = int(left.argmax())
        if found and left[at] <= values.mean():
            break
        found.append(at)
        left[max(0, at - APART + 1) : at + APART] = -np.inf
    return found


def packed(found: Findings, made: Sequence[Panel]) -> str:
    """The activations of all units, two to a byte, each scaled to its own range, compressed."""
    if not made or found.activations is None:
        return ""
    blob = b"".join(_levels(values.T).tobytes() for values in found.activations)
    return base64.b64encode(zlib.compress(blob, 9)).decode("ascii")


def _levels(values: np.ndarray) -> np.ndarray:
    """Values (units, n) as levels, two of them to a byte, (units, n / 2)."""
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    scaled = (values - low) / np.maximum(high - low, 1e-9)
    levels = np.round(scaled * (LEVELS - 1)).astype(np.uint8)
    if levels.shape[1] % 2:
        levels = np.pad(levels, ((0, 0), (0, 1)))
    pairs: np.ndarray = levels[:, ::2] | (levels[:, 1::2] << 4)
    return pairs
