"""The ``inspect`` command: what a model is, and what happens inside it on a text."""

from collections.abc import Sequence

from seqtool.checkpoint import Saved, event_line, load, load_events
from seqtool.console import Console
from seqtool.errors import CheckpointError, ConfigError
from seqtool.files import check_place
from seqtool.findings import VIEWS, Findings, as_dict
from seqtool.microscope import InspectRequest, look, views_of
from seqtool.output import emit
from seqtool.sheet import Sheet
from seqtool.summary import Summary, summarise

WAYS = {"generate": 1, "classify": 2, "tag": 2, "translate": 2}  # in which each layer reads


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
    found, spell = look(request, saved, console)
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
    there = views_of(card)
    for view in sorted(request.views - {*there}):
        what = "a model to " + card.task + " without attention" * (view == "attention")
        raise ConfigError(
            f"--{view}: nothing to see in {what}; its views are "
            + ", ".join(f"--{name}" for name in there)
        )
    if summary.broken:
        raise CheckpointError(
            f"{request.model}: {summary.broken}; train anew with a lower --lr or --clip-norm 0.25"
        )
    size = card.model.hidden_size
    layers = card.model.num_layers * WAYS[card.task]
    if card.task == "translate":
        layers += 1 + card.model.num_layers  # the decoder's, below and above its attention
    if request.layer is not None and not 1 <= request.layer <= layers:
        raise ConfigError(f"--layer must be from 1 to {layers}, got {request.layer}")
    for unit in request.units:
        if not 0 <= unit < size:
            raise ConfigError(f"--unit must be from 0 to {size - 1}, got {unit}")


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
        show_unit(values_, found.text_of(layer), unit, found.layers[layer], match, sheet)
    sheet.flush()
