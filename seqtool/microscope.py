"""A model laid under the views: what it is shown is read, used and handed to those who look."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from seqtool.annotator import load_annotator
from seqtool.checkpoint import Card, Saved, load_text
from seqtool.config import Device, OnUnknown
from seqtool.console import Console
from seqtool.errors import ConfigError, DataError
from seqtool.findings import VIEWS, Findings, View
from seqtool.judge import image_width, load_judge
from seqtool.mixture import load_partner
from seqtool.shapes import check_weights, language_shapes
from seqtool.specimens import (
    Reading,
    as_shown,
    choose_windows,
    own_labels,
    read_attended,
    read_beliefs,
    read_labelled,
    read_language,
    read_sentences,
    read_specimens,
    sequences,
    spread_rows,
    windows,
)
from seqtool.tokenizer import Tokenizer
from seqtool.translation import load_translator

TEXT_TOKENS = 100_000  # read at most, for what is measured over many places

Examples = TypeVar("Examples", bound=Sized)
Model = TypeVar("Model")
Shown = TypeVar("Shown")
Network = TypeVar("Network")


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


def views_of(card: Card) -> tuple[View, ...]:
    """What there is to see in a model."""
    # Of pictures nothing is shown but where they are looked at.
    views: tuple[View, ...] = ("attention",) if "scanner" in card.source else VIEWS[card.task]
    if card.task == "translate" and card.model.attention == "none":
        return tuple(view for view in views if view != "attention")
    return views


def _views(request: InspectRequest, card: Card) -> frozenset[View]:
    """What to compute: what was asked for, or everything."""
    asked = request.views | ({"units"} if request.units else set())
    if not asked or request.html:
        return frozenset(views_of(card))
    return frozenset(view for view in views_of(card) if view in asked)


def look(request: InspectRequest, saved: Saved, console: Console) -> tuple[Findings, list[str]]:
    """Look into a model of any task.

    Returns:
        What was found, and the text of every token of a language model, (V,); of others nothing.

    Raises:
        SeqtoolError: If data or options do not fit.
    """
    looks = {
        "generate": _look_language,
        "classify": _look_classifier,
        "tag": _look_tagger,
        "translate": _look_translator,
    }
    return looks[saved.card.task](request, saved, console)


def _look_language(
    request: InspectRequest, saved: Saved, console: Console
) -> tuple[Findings, list[str]]:
    """Look into a language model; gives the findings and the text of every token, (V,)."""
    card = saved.card
    where = str(request.model)
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, where, size=card.text_vocab_size)
    check_weights(saved.weights, language_shapes(card.model, card.vocab_size), where)
    views = _views(request, card)
    partner = load_partner(saved, request.model) if views & {"memory", "surprisal"} else None
    reading = _read(request, card, tokenizer, console)
    text = reading.text
    if request.start >= len(text) - 1:
        raise ConfigError(
            f"--start must be below the length of the text, {len(text) - 1} tokens, "
            f"got {request.start}"
        )
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.looking import Labels, look_language
    from seqtool.models import build_model

    model = build_model(
        card.model, card.vocab_size, unknown_id=tokenizer.unknown_id, weights=saved.weights
    ).to(set_up(request.device, request.threads))
    stop = min(len(text), request.start + request.length + 1)
    shown = stop - request.start - 1
    windowed = ""
    if len(text) > shown + 1 and views & {"gates", "units", "surprisal"}:
        size = f"more than {TEXT_TOKENS}" if len(text) > TEXT_TOKENS else str(len(text) - 1)
        windowed = (
            f"single tokens are shown for {shown} of {size}, from token {request.start} on; "
            "--start and --length choose others"
        )
        console.notice(windowed)
    if partner is not None:
        console.notice(
            "health, gates and units are of the network; memory and surprisal also of the model as "
            "it is used, mixed with counts"
        )
    labels = None
    if reading.labels:
        classes = tuple(sorted(set(reading.labels)))
        labels = Labels(np.array([classes.index(label) for label in reading.labels]), classes)
    spell = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    console.status("looking inside")
    found = look_language(
        model,
        text,
        slice(request.start, stop),
        views,
        spell=spell,
        window=request.window or card.train.bptt,
        before=reading.before,
        partner=partner,
        documents=reading.documents,
        labels=labels,
    )
    return replace(found, windowed=windowed), spell


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
    taken = _take(
        request,
        card,
        console,
        kinds="a table, lines of text, a text in quotes, or pictures",
        read=read_specimens,
        load=lambda: load_judge(request.model)[0],
        doing="reading one by one",
        show=read_beliefs,
    )
    specimens, judge, shown = taken.examples, taken.model, taken.shown
    classes = tuple(card.source["classes"])
    rows = spread_rows(judge, specimens, TEXT_TOKENS)
    labels = [specimens.labels[row] for row in rows]
    views = _views(request, card)
    if not set(labels) <= {*classes}:
        labels = own_labels(judge, specimens.select(rows), classes)
        if "units" in views:
            console.notice("no labels are known: units are matched with the model's own answers")
    console.status("loading PyTorch")
    from seqtool.classifier import build_classifier
    from seqtool.devices import set_up
    from seqtool.looking import RANKED, Labels, look_classifier

    device = set_up(request.device, request.threads)
    networks = build_classifier(
        card.model,
        len(classes),
        vocab_size=card.vocab_size,
        width=image_width(card),
        weights=saved.weights,
    )
    many = specimens.select(rows)
    beliefs, more = [belief for _, belief in shown], None
    # What units follow is seen on more than is shown, as long as that is little.
    if "units" in views and sum(len(belief.pieces) for belief in beliefs) < RANKED:
        wider = read_beliefs(judge, many, 0, RANKED)
        if len(wider) > len(shown):
            more = sequences(judge, as_shown(many, wider)), [belief for _, belief in wider]
    console.status("looking inside")
    found = look_classifier(
        _first(networks, console).to(device),
        sequences(judge, as_shown(specimens, shown)),
        beliefs,
        views,
        many=sequences(judge, many),
        windows=windows(judge, many, request.window),
        labels=Labels(np.array([classes.index(label) for label in labels]), classes),
        more=more,
    )
    return replace(found, windowed=taken.windowed), []


def _first(networks: Sequence[Network], console: Console) -> Network:
    """The network that is looked at, of one or of several."""
    if len(networks) > 1:
        console.notice(f"the views are of the first of the {len(networks)} networks")
    return networks[0]


def _look_tagger(
    request: InspectRequest, saved: Saved, console: Console
) -> tuple[Findings, list[str]]:
    """Look into a tagger; gives the findings, and no vocabulary."""
    card = saved.card
    taken = _take(
        request,
        card,
        console,
        kinds="tagged sentences, lines of words or a text in quotes",
        read=read_sentences,
        load=lambda: load_annotator(request.model)[0],
        doing="labelling",
        show=read_labelled,
    )
    sentences, annotator, shown = taken.examples, taken.model, taken.shown
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.judging import TextSequences
    from seqtool.looking import look_tagger
    from seqtool.models import load_arrays
    from seqtool.tagger import Tagger

    classes, lexicon = tuple(annotator.labels), annotator.lexicon
    model = Tagger(card.model, len(classes), vocab_size=lexicon.size)
    load_arrays(model, saved.weights)
    lengths = np.array([len(tokens) for tokens in sentences.tokens])
    rows, steps = choose_windows(lengths, request.window)
    texts = (
        lexicon.encode_words(words)
        for words in (
            [each.tokens for each in shown],
            [sentences.tokens[row][:steps] for row in rows],
        )
    )
    seen, windows = (TextSequences(text, lexicon.table) for text in [*texts])
    console.status("looking inside")
    found = look_tagger(
        model.to(set_up(request.device, request.threads)),
        seen,
        shown,
        _views(request, card),
        windows=windows,
        classes=classes,
    )
    return replace(found, windowed=taken.windowed), []


def _look_translator(
    request: InspectRequest, saved: Saved, console: Console
) -> tuple[Findings, list[str]]:
    """Look into a translator; gives the findings, and no vocabulary."""
    card = saved.card
    taken = _take(
        request,
        card,
        console,
        kinds="a table of pairs, lines of text or a text in quotes",
        read=read_specimens,
        load=lambda: load_translator(request.model, threads=request.threads),
        doing="translating",
        show=read_attended,
    )
    translator, views = taken.model, _views(request, card)
    attended = [look for look, _ in taken.shown]
    if views <= {"attention"}:
        return Findings(pieces=[], attended=attended, windowed=taken.windowed), []
    console.status("loading PyTorch")
    from seqtool.devices import set_up
    from seqtool.encdec import build_translators
    from seqtool.look_translate import Pair, look_translator

    source, target = translator.spelling.source, translator.spelling.target
    assert source is not None, "pictures have no more views"
    sizes, unknown = (source.vocab_size, target.vocab_size), source.unknown_id
    networks = build_translators(card.model, *sizes, source_unknown=unknown, weights=saved.weights)
    pairs = [
        Pair(read, written, source.pieces(read), target.pieces(written))
        for _, translation in taken.shown
        for read, written in translation.ids
        if len(read) and len(written)
    ]
    if not pairs:
        raise DataError(
            f"{request.data}: the model makes nothing of it, so there is nothing to look at"
        )
    lengths = [min(len(pair.source), len(pair.target)) + 1 for pair in pairs]
    console.status("looking inside")
    found = look_translator(
        _first(networks, console).to(set_up(request.device, request.threads)),
        pairs,
        attended,
        views,
        windows=choose_windows(np.array(lengths), request.window),
    )
    return replace(found, windowed=taken.windowed), []


@dataclass(frozen=True)
class Taken(Generic[Examples, Model, Shown]):
    """What a model of examples is looked at with."""

    examples: Examples
    model: Model  # in the form that it is used in, without PyTorch
    shown: list[Shown]  # what it makes of some of them
    windowed: str  # which those are; "" if all


def _take(
    request: InspectRequest,
    card: Card,
    console: Console,
    *,
    kinds: str,
    read: Callable[[str, Card, str], Examples],
    load: Callable[[], Model],
    doing: str,
    show: Callable[[Model, Examples, int, int], list[Shown]],
) -> Taken[Examples, Model, Shown]:
    """Read examples and let a model use some of them.

    Args:
        request: Says which.
        card: Of the model.
        console: Told of the progress and of what is left out.
        kinds: Of data that fit, for people.
        read: Gives the examples of some data, given the card and the encoding.
        load: Gives the model.
        doing: What it does, for people.
        show: Gives what it makes of some, given the first and their number.

    Raises:
        ConfigError: If no data are named, which are not kept with such a model, or too few are in
            them.
    """
    if request.data is None:
        raise ConfigError(
            f"{request.model}: a model to {card.task} does not keep what it was trained on; name "
            f"DATA: {kinds}"
        )
    model = load()  # first, since it sees to the card, by which the data are read
    console.status(f"reading {request.data}")
    examples = read(request.data, card, request.encoding or card.data.encoding)
    count = len(examples)
    if request.start >= count:
        raise ConfigError(
            f"--start must be below the number of examples, {count}, got {request.start}"
        )
    console.status(doing)
    shown, windowed = show(model, examples, request.start, request.length), ""
    if len(shown) < count:
        windowed = (
            f"single examples are shown for {len(shown)} of {count}, from number {request.start} "
            "on; --start and --length choose others"
        )
        console.notice(windowed)
    return Taken(examples, model, shown, windowed)
