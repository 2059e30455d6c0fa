"""The ``inspect`` command: what a model is, and what happens inside it on a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.checkpoint import Saved, check_weights, event_line, load, load_events, load_text
from seqtool.config import Device, OnUnknown
from seqtool.console import Console, format_count
from seqtool.data import Tally, encode_documents
from seqtool.errors import CheckpointError, ConfigError, DataError
from seqtool.output import emit
from seqtool.shapes import language_shapes
from seqtool.sheet import Sheet
from seqtool.summary import Summary, summarise
from seqtool.text import open_text
from seqtool.tokenizer import Tokenizer, apply_unknown_policy

if TYPE_CHECKING:
    from seqtool.findings import Findings, View

TEXT_TOKENS = 100_000  # read at most, for what is measured over many places
SETTINGS_SHOWN = (
    *("tokenizer", "vocab_size", "valid_fraction", "embed_size", "dropout", "ngram_order"),
    *("ngram_buckets", "tied", "optimizer", "lr", "batch_size", "bptt", "clip_norm", "clip_value"),
    *("steps", "seed"),
)


@dataclass(frozen=True)
class InspectRequest:
    """What the user asked ``inspect`` for."""

    model: Path
    data: str | None
    views: frozenset[str]  # names in findings.VIEWS; none: all of them if there is a text
    units: tuple[int, ...]
    layer: int | None  # counted from 1
    start: int
    length: int
    window: int | None
    html: Path | None
    png: Path | None
    on_unknown: OnUnknown
    encoding: str | None
    device: Device
    threads: int | None
    json: bool


def inspect(request: InspectRequest, console: Console) -> int:
    """Look at a model, and into it if there is a text; gives the exit status.

    Raises:
        SeqtoolError: If model, text or options do not fit.
    """
    saved = load(request.model)
    summary = summarise(str(request.model), saved, load_events(request.model))
    wanted = bool(request.data or request.views or request.units or request.png)
    if not wanted and not request.html:
        if request.json:
            emit(event_line(summary.as_dict()))
        else:
            sheet = Sheet()
            show_summary(summary, sheet)
            sheet.flush()
        return 0
    _check_usable(request, saved, summary)
    if not summary.trained:
        console.warn(
            f"{request.model}: no update of its weights was ever reported; what follows "
            "is what chance has drawn; train it first"
        )
    size = saved.card.vocab_size
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.model), size=size)
    text = _read(request, saved, tokenizer, console)
    found = _look(request, saved, tokenizer, text, console)
    spell = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    if request.png is not None:
        from seqtool.figures import plots, save_plots

        console.status("drawing")
        save_plots(plots(summary, found), request.png)
    if request.html is not None:
        from seqtool.report import write_report

        console.status("writing the page")
        write_report(summary, found, request.html)
    console.clear_status()
    written = [str(path) for path in (request.html, request.png) if path is not None]
    if written and not (request.views or request.units or request.json):
        emit("".join(path + "\n" for path in written))
    else:
        _show(request, summary, found, spell)
    return 0


def _check_usable(request: InspectRequest, saved: Saved, summary: Summary) -> None:
    """Refuse what cannot be looked into.

    Raises:
        ConfigError: If the model is of another task, or a layer or unit does not exist.
        CheckpointError: If its weights are not finite.
    """
    card = saved.card
    if card.task != "generate":
        raise ConfigError(
            f"{request.model}: a model to {card.task}; views of a text are for models that "
            f"generate; seqtool inspect {request.model} alone tells what it is"
        )
    if summary.broken:
        raise CheckpointError(
            f"{request.model}: {summary.broken}; train anew with a lower --lr or --clip-norm 0.25"
        )
    check_weights(saved.weights, language_shapes(card.model, card.vocab_size), str(request.model))
    layers, size = card.model.num_layers, card.model.hidden_size
    if request.layer is not None and not 1 <= request.layer <= layers:
        raise ConfigError(f"--layer must be from 1 to {layers}, got {request.layer}")
    for unit in request.units:
        if not 0 <= unit < size:
            raise ConfigError(f"--unit must be from 0 to {size - 1}, got {unit}")


def _read(
    request: InspectRequest, saved: Saved, tokenizer: Tokenizer, console: Console
) -> np.ndarray:
    """The ids of the text, each document after a start id: DATA, or what the model has kept.

    Raises:
        DataError: If there is none.
        ConfigError: If it holds unknown characters and those are errors.
    """
    if request.data is None:
        kept = load_text(request.model)
        if kept is None:
            raise DataError(f"{request.model} does not hold its training text; name DATA to read")
        console.notice(f"no DATA given: reading the end of the text {request.model} was trained on")
        return kept[-TEXT_TOKENS:].astype(np.int64)
    encoding = request.encoding or saved.card.data.encoding
    files = open_text(request.data, encoding=encoding, binary_ok=tokenizer.kind == "byte")
    console.status(f"reading {files.name}")
    unknown: dict[str, int] = {}

    def known(document: Any) -> Any:
        for chunk in document:
            made, counts = apply_unknown_policy(chunk, tokenizer, request.on_unknown, files.name)
            for character, count in counts.items():
                unknown[character] = unknown.get(character, 0) + count
            yield made

    needed = max(TEXT_TOKENS, request.start + request.length + 1)
    found, total = list[np.ndarray](), 0
    documents = (known(document) for document in files.documents())
    for ids in encode_documents(documents, tokenizer, Tally()):
        found.append(ids.astype(np.int64))
        total += len(ids)
        if total > needed:
            break
    if total < 2:
        raise DataError(f"{files.name}: no text to look at")
    if unknown:
        listed = " ".join(map(repr, islice(unknown, 12)))
        console.warn(
            f"{files.name}: {sum(unknown.values())} characters are not in the model's vocabulary: "
            f"{listed}; --on-unknown nearest reads the nearest ones instead"
        )
    return np.concatenate(found)


def _look(
    request: InspectRequest,
    saved: Saved,
    tokenizer: Tokenizer,
    text: np.ndarray,
    console: Console,
) -> "Findings":
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.findings import VIEWS, look
    from seqtool.models import build_model

    card = saved.card
    model = build_model(
        card.model, card.vocab_size, unknown_id=tokenizer.unknown_id, weights=saved.weights
    ).to(set_up(request.device, request.threads))
    views: frozenset[View] = frozenset(view for view in VIEWS if view in request.views)
    if request.units:
        views |= {"units"}
    if not views or request.html:
        views = frozenset(VIEWS)
    if request.start >= len(text) - 1:
        raise ConfigError(
            f"--start must be below the length of the text, {len(text) - 1} tokens, "
            f"got {request.start}"
        )
    ids = text[request.start : request.start + request.length + 1]
    if len(text) > len(ids) and views & {"gates", "units", "surprisal"}:
        size = f"more than {TEXT_TOKENS}" if len(text) > TEXT_TOKENS else str(len(text) - 1)
        console.notice(
            f"single tokens are shown for {len(ids) - 1} of {size}, from token {request.start} on; "
            "--start and --length choose others"
        )
    pieces = [tokenizer.decode([token]) for token in ids[1:].tolist()]
    window = request.window or card.train.bptt
    console.status("looking inside")
    return look(model, ids, pieces, views, text=text, window=window)


def _show(
    request: InspectRequest, summary: Summary, found: "Findings", spell: Sequence[str]
) -> None:
    """Print, as JSON or for people, and write the files asked for."""
    from seqtool.findings import as_dict
    from seqtool.views import show_findings, show_unit

    layer = (request.layer or len(found.activations or ())) - 1
    chosen = []
    for unit in request.units:
        assert found.activations is not None
        assert found.ranking is not None
        same = (m for m in found.ranking.by_unit if (m.layer, m.unit) == (layer, unit))
        match = next(same, None)
        chosen.append((unit, found.activations[layer][:, unit], match))
    if request.json:
        values = {"model": summary.name, "task": summary.task} | as_dict(found, list(spell))
        if chosen:
            values["activations"] = [
                {"layer": layer + 1, "unit": unit, "values": [round(float(v), 4) for v in values_]}
                for unit, values_, _ in chosen
            ]
        emit(event_line(values))
        return
    sheet = Sheet()
    if chosen and not request.views:
        for unit, values_, match in chosen:
            show_unit(values_, found.pieces, unit, layer, match, sheet)
    else:
        show_findings(found, spell, sheet)
        for unit, values_, match in chosen:
            show_unit(values_, found.pieces, unit, layer, match, sheet)
    sheet.flush()


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
        [(name.replace("_", " "), f"{v}") for name, v in summary.source.items() if v is not None]
    )
    if summary.scores or summary.valid_curve or summary.train_curve:
        sheet.heading("Training")
        events = ", ".join(f"{count} {kind}" for kind, count in summary.events.items())
        rows = [(name.replace("_", " "), _number(value)) for name, value in summary.scores.items()]
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


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
