"""The ``inspect`` command: what a model is, and what happens inside it on a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqtool.checkpoint import (
    Card,
    Saved,
    check_weights,
    event_line,
    load,
    load_events,
    load_text,
)
from seqtool.config import Device, OnUnknown
from seqtool.console import Console
from seqtool.errors import CheckpointError, ConfigError, DataError
from seqtool.files import check_place
from seqtool.findings import VIEWS, Findings, View, as_dict
from seqtool.judge import load_judge
from seqtool.mixture import load_partner
from seqtool.output import emit
from seqtool.shapes import language_shapes
from seqtool.sheet import Sheet
from seqtool.specimens import (
    Reading,
    as_shown,
    own_labels,
    read_attended,
    read_beliefs,
    read_language,
    read_specimens,
    sequences,
    spread_rows,
    windows,
)
from seqtool.summary import Summary, summarise
from seqtool.tokenizer import Tokenizer
from seqtool.translation import load_translator

TEXT_TOKENS = 100_000  # read at most, for what is measured over many places


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
    check_place("--html", request.html)
    check_place("--png", request.png)
    saved = load(request.model)
    summary = summarise(str(request.model), saved, load_events(request.model))
    wanted = bool(request.data or request.views or request.units or request.png)
    if not wanted and not request.html:
        if request.json:
            emit(event_line(summary.as_dict()))
        else:
            from seqtool.views import show_summary

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
    looks = {
        "generate": _look_language,
        "classify": _look_classifier,
        "translate": _look_translator,
    }
    found, spell = looks[saved.card.task](request, saved, console)
    if request.png is not None:
        from seqtool.figures import plots, save_plots

        console.status("drawing")
        save_plots(plots(summary, found), request.png)
    if request.html is not None:
        from seqtool.report import write_report

        console.status("writing the page")
        write_report(summary, found, spell, request.html)
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
        ConfigError: If the model is of a task without views, or a view, layer or unit does not
            exist.
        CheckpointError: If its weights are not finite.
    """
    card = saved.card
    if card.task not in VIEWS:
        raise ConfigError(
            f"{request.model}: a model to {card.task}; views are for models that "
            f"{' or '.join(VIEWS)}; seqtool inspect {request.model} alone tells what it is"
        )
    for view in sorted(request.views - {*VIEWS[card.task]}):
        raise ConfigError(
            f"--{view}: nothing to see in a model to {card.task}; its views are "
            + ", ".join(f"--{name}" for name in VIEWS[card.task])
        )
    if summary.broken:
        raise CheckpointError(
            f"{request.model}: {summary.broken}; train anew with a lower --lr or --clip-norm 0.25"
        )
    size = card.model.hidden_size
    layers = card.model.num_layers * (2 if card.task == "classify" else 1)
    if request.layer is not None and not 1 <= request.layer <= layers:
        raise ConfigError(f"--layer must be from 1 to {layers}, got {request.layer}")
    for unit in request.units:
        if not 0 <= unit < size:
            raise ConfigError(f"--unit must be from 0 to {size - 1}, got {unit}")


def _views(request: InspectRequest, task: str) -> frozenset[View]:
    """What to compute: what was asked for, or everything."""
    asked = request.views | ({"units"} if request.units else set())
    if not asked or request.html:
        return frozenset(VIEWS[task])
    return frozenset(view for view in VIEWS[task] if view in asked)


def _look_language(
    request: InspectRequest, saved: Saved, console: Console
) -> tuple[Findings, list[str]]:
    """Look into a language model; gives the findings and the text of every token, (V,)."""
    card = saved.card
    where = str(request.model)
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, where, size=card.text_vocab_size)
    check_weights(saved.weights, language_shapes(card.model, card.vocab_size), where)
    views = _views(request, card.task)
    partner = load_partner(saved, request.model) if views & {"memory", "surprisal"} else None
    reading = _read(request, card, tokenizer, console)
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.looking import Labels, look_language
    from seqtool.models import build_model

    model = build_model(
        card.model, card.vocab_size, unknown_id=tokenizer.unknown_id, weights=saved.weights
    ).to(set_up(request.device, request.threads))
    text = reading.text
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
    if partner is not None:
        console.notice(
            "health, gates and units are of the network; memory and surprisal also of the model as "
            "it is used, mixed with counts"
        )
    labels = None
    if reading.labels:
        classes = tuple(sorted(set(reading.labels)))
        labels = Labels(np.array([classes.index(label) for label in reading.labels]), classes)
    console.status("looking inside")
    found = look_language(
        model,
        ids,
        [tokenizer.decode([token]) for token in ids[1:].tolist()],
        views,
        text=text,
        window=request.window or card.train.bptt,
        before=np.concatenate([reading.before, text[: request.start]]),
        partner=partner,
        documents=reading.documents,
        labels=labels,
    )
    return found, [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]


def _read(request: InspectRequest, card: Card, tokenizer: Tokenizer, console: Console) -> Reading:
    """DATA, or what the model has kept.

    Raises:
        DataError: If there is none.
        ConfigError: If it holds unknown characters and those are errors.
    """
    if request.data is not None:
        return read_language(
            request.data,
            tokenizer,
            needed=max(TEXT_TOKENS, request.start + request.length + 1),
            encoding=request.encoding or card.data.encoding,
            on_unknown=request.on_unknown,
            console=console,
        )
    kept = load_text(request.model)
    if kept is None:
        raise DataError(f"{request.model} does not hold its training text; name DATA to read")
    console.notice(f"no DATA given: reading the end of the text {request.model} was trained on")
    kept = kept.astype(np.int64)
    return Reading(kept[-TEXT_TOKENS:], before=kept[:-TEXT_TOKENS])


def _look_classifier(
    request: InspectRequest, saved: Saved, console: Console
) -> tuple[Findings, list[str]]:
    """Look into a classifier; gives the findings, and no vocabulary."""
    card = saved.card
    if request.data is None:
        raise ConfigError(
            f"{request.model}: a model to classify does not keep what it was trained on; name "
            "DATA: a table, lines of text, a text in quotes, or pictures"
        )
    console.status(f"reading {request.data}")
    specimens = read_specimens(request.data, card, request.encoding or card.data.encoding)
    _check_start(request.start, len(specimens))
    judge, _ = load_judge(request.model)
    console.status("reading one by one")
    shown = read_beliefs(judge, specimens, request.start, request.length)
    _say_shown(len(shown), len(specimens), request, console)
    classes = tuple(card.source["classes"])
    rows = spread_rows(judge, specimens, TEXT_TOKENS)
    labels = [specimens.labels[row] for row in rows]
    views = _views(request, card.task)
    if not set(labels) <= {*classes}:
        labels = own_labels(judge, specimens.select(rows), classes)
        if "units" in views:
            console.notice("no labels are known: units are matched with the model's own answers")
    console.status("loading PyTorch")
    from seqtool.classifier import build_classifier
    from seqtool.devices import set_up
    from seqtool.looking import Labels, look_classifier

    _, width, channels = card.source.get("image_shape", (0, 0, 0))
    device = set_up(request.device, request.threads)
    model = build_classifier(
        card.model,
        len(classes),
        vocab_size=card.vocab_size,
        width=width * channels,
        weights=saved.weights,
    ).to(device)
    many = specimens.select(rows)
    console.status("looking inside")
    found = look_classifier(
        model,
        sequences(judge, as_shown(specimens, shown)),
        [belief for _, belief in shown],
        views,
        many=sequences(judge, many),
        windows=windows(judge, many, request.window),
        labels=Labels(np.array([classes.index(label) for label in labels]), classes),
    )
    return found, []


def _look_translator(
    request: InspectRequest, saved: Saved, console: Console
) -> tuple[Findings, list[str]]:
    """Look into a translator; gives the findings, and no vocabulary."""
    card = saved.card
    if card.model.attention == "none":
        raise ConfigError(f"{request.model}: trained without attention, so there is none to see")
    if request.data is None:
        raise ConfigError(
            f"{request.model}: a model to translate does not keep what it was trained on; name "
            "DATA: a table of pairs, lines of text or a text in quotes"
        )
    console.status(f"reading {request.data}")
    specimens = read_specimens(request.data, card, request.encoding or card.data.encoding)
    _check_start(request.start, len(specimens))
    translator = load_translator(request.model, threads=request.threads)
    console.status("translating")
    attended = read_attended(translator, specimens, request.start, request.length)
    _say_shown(len(attended), len(specimens), request, console)
    return Findings(pieces=[], attended=attended), []


def _check_start(start: int, count: int) -> None:
    """See that there is a first example.

    Raises:
        ConfigError: If not.
    """
    if start >= count:
        raise ConfigError(f"--start must be below the number of examples, {count}, got {start}")


def _say_shown(shown: int, count: int, request: InspectRequest, console: Console) -> None:
    if shown < count:
        console.notice(
            f"single examples are shown for {shown} of {count}, from number {request.start} on; "
            "--start and --length choose others"
        )


def _show(request: InspectRequest, summary: Summary, found: Findings, spell: Sequence[str]) -> None:
    """Print, as JSON or for people."""
    from seqtool.views import show_findings, show_unit

    layer = (request.layer or len(found.layers)) - 1
    chosen = []
    for unit in request.units:
        assert found.activations is not None
        assert found.ranking is not None
        same = (m for m in found.ranking.by_unit if (m.layer, m.unit) == (layer, unit))
        chosen.append((unit, found.activations[layer][:, unit], next(same, None)))
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
    if not chosen or request.views:
        show_findings(found, spell, sheet)
    for unit, values_, match in chosen:
        show_unit(values_, found.pieces, unit, found.layers[layer], match, sheet)
    sheet.flush()
