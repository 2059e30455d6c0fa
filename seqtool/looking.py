"""Looking into a model: ids, or sequences in batches, come in and findings go out.

Every view that was asked for is computed once. The text of a token is only passed on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.batches import by_length
from seqtool.classifier import Classifier
from seqtool.diagnostics import Flow, flow, language_flow
from seqtool.evaluation import evaluating
from seqtool.findings import Belief, Findings, Labelled, View
from seqtool.gates import describe
from seqtool.horizon import Surprise, memory_horizon, surprises
from seqtool.jacobians import lag_grid
from seqtool.judging import Sequences
from seqtool.mixture import Partner
from seqtool.models import LanguageModel
from seqtool.neurons import Sample, features, labelled, named_labels, rank_units
from seqtool.tagger import Tagger
from seqtool.tape import Tape, Track

BEFORE = 500  # tokens of a text read before the view, so that it begins in a state led up to
RANKED = 6000  # tokens that units are matched with features on, if there are so many
LONGEST_PAST = 256  # tokens shown to the model at most when its memory is measured
BATCH = 32  # texts read side by side

Array = npt.NDArray[Any]
Read = Callable[[Array], Sequence[Track]]  # from rows of a set of texts to a track of each layer


@dataclass(frozen=True)
class Labels:
    """What whole texts are about."""

    numbers: npt.NDArray[np.int64]  # (N,)
    classes: tuple[str, ...]


def look_language(
    model: LanguageModel,
    text: np.ndarray,
    shown: slice,
    views: frozenset[View],
    *,
    spell: Sequence[str],
    window: int,
    before: np.ndarray | Sequence[int] = (),
    partner: Partner | None = None,
    documents: Sequence[np.ndarray] = (),
    labels: Labels | None = None,
) -> Findings:
    """Look into a language model.

    Args:
        model: Neither its weights nor its mode are changed.
        text: Ids, (N,).
        shown: Which of them the views of single tokens show, but for the first one, which is only
            read. What is measured over many places may take more.
        views: Which.
        spell: The text of every token of the vocabulary, (V,).
        window: Longest lag of the gradient flow.
        before: What stands before ``text``, (M,). What precedes the view is read first, so that it
            begins in the state that has led to it.
        partner: The counts that the model is mixed with when it is used.
        documents: Whole texts with labels, each (T,).
        labels: Theirs.
    """
    ids = text[shown]
    found: dict[str, Any] = {"pieces": [spell[token] for token in ids[1:].tolist()]}
    notes: list[str] = []
    if "health" in views:
        if len(text) >= 3:
            found["flow"] = language_flow(model, text, window=window)
        else:
            notes.append(f"health: needs 3 tokens of text, got {len(text)}")
    if views & {"gates", "units", "surprisal"}:
        past = np.concatenate([before, text[: shown.start]])[-BEFORE:].astype(np.int64)
        logits, tracks = _read(model, past, ids)
        found["layers"] = tuple(track.name for track in tracks)
        if "gates" in views:
            found["gates"] = tuple(describe([track]) for track in tracks)
        if "units" in views:
            found["activations"] = _after(tracks)
            samples = [Sample(*_matched(model, text, shown, tracks, spell))]
            if labels is not None:
                means = _document_means(model, documents)
                samples.append(labelled(means, labels.numbers, labels.classes))
            found["ranking"] = rank_units(samples)
        if "surprisal" in views:
            found["surprises"] = _surprises(logits[0, :-1], ids, past, partner)
    if "memory" in views:
        longest = min(LONGEST_PAST, len(text) // 2)
        if longest >= 1:
            lengths = tuple(lag_grid(longest))
            found["horizon"] = memory_horizon(model, text, lengths, partner=partner)
        else:
            notes.append(f"memory: needs 2 tokens of text, got {len(text)}")
    return Findings(**found, notes=notes)


def _read(
    model: LanguageModel, past: np.ndarray, ids: np.ndarray
) -> tuple[Tensor, Sequence[Track]]:
    """Logits (1, n, V) of ids (n,) in the state that the past has led to, and the tracks of it."""
    device = model.embedding.weight.device
    inputs = torch.from_numpy(np.concatenate([past, ids]).astype(np.int64))[None].to(device)
    tape, state = Tape(model.stack), model.init_state(1)
    with evaluating(model), torch.no_grad():
        if len(past):
            _, state = model.through(inputs[:, : len(past)], state, Tape(model.stack))
        logits, _ = model.through(inputs[:, len(past) :], state, tape)
    return logits, tape.tracks


def _matched(
    model: LanguageModel,
    text: np.ndarray,
    shown: slice,
    tracks: Sequence[Track],
    spell: Sequence[str],
) -> tuple[Sequence[np.ndarray], dict[str, npt.NDArray[np.float64]]]:
    """What units do and what they may follow, in the view or, as a short one proves little, beyond.

    Args:
        model: What to look into.
        text: Ids, (N,).
        shown: Of the view.
        tracks: Of the view.
        spell: The text of every token.
    """
    ids = text[shown]
    if len(ids) <= RANKED < len(text):
        ids = text[min(shown.start, len(text) - RANKED - 1) :][: RANKED + 1]
        _, tracks = _read(model, ids[:0], ids)
    return _after(tracks), features([spell[token] for token in ids[1:].tolist()])


def _after(tracks: Sequence[Track]) -> tuple[np.ndarray, ...]:
    """Activations after each token but the first, which nothing is told of, each (n - 1, H)."""
    return tuple(activations(track)[1:, 0] for track in tracks)


def _surprises(
    logits: Tensor, ids: np.ndarray, past: np.ndarray, partner: Partner | None
) -> list[Surprise]:
    if partner is None:
        return surprises(logits, ids[1:])
    mixed = partner.mix_text(logits.numpy(force=True), ids[:-1], past)
    return surprises(torch.from_numpy(mixed).log(), ids[1:], network=logits)


def _document_means(model: LanguageModel, documents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The mean of every unit over each document, of each layer (N, H)."""
    lengths = np.array([len(ids) for ids in documents])

    def read(rows: Array) -> Sequence[Track]:
        padded = np.zeros((len(rows), lengths[rows].max()), np.int64)
        for ids, row in zip(padded, rows, strict=True):
            ids[: lengths[row]] = documents[row]
        tape = Tape(model.stack)
        inputs = torch.from_numpy(padded).to(model.embedding.weight.device)
        model.through(inputs, model.init_state(len(rows)), tape)
        return tape.tracks

    with evaluating(model), torch.no_grad():
        return _means(lengths, read)


def _means(lengths: Array, read: Read) -> list[np.ndarray]:
    """The mean of every unit over each of N texts, which are read padded at their ends."""
    means: list[np.ndarray] = []
    for rows in by_length(lengths, BATCH):
        for layer, track in enumerate(read(rows)):
            values = activations(track)  # (T, B, H)
            if len(means) == layer:
                means.append(np.empty((len(lengths), values.shape[2])))
            inside = np.arange(len(values))[:, None] < lengths[rows]
            means[layer][rows] = (values * inside[:, :, None]).sum(axis=0) / lengths[rows, None]
    return means


def look_classifier(
    model: Classifier,
    shown: Sequences,
    beliefs: list[Belief],
    views: frozenset[View],
    *,
    many: Sequences,
    windows: Sequences,
    labels: Labels,
    more: tuple[Sequences, list[Belief]] | None = None,
) -> Findings:
    """Look into a classifier.

    Args:
        model: Its weights and its mode are not changed.
        shown: Texts or pictures for the views of single elements.
        beliefs: How these were judged while they were read.
        views: Which.
        many: N texts or pictures, in no order.
        windows: Some of one length, which the gradient flow is measured on.
        labels: Of the N, or what the model itself takes them for.
        more: What units are matched with single elements on, as far as it was read, and how it was
            judged; None for what is shown.
    """
    element = beliefs[0].element

    def read(sequences: Sequences, row: int) -> Sequence[Track]:
        return _run(model, sequences, np.array([row]))[1]

    def samples(states: Sequence[np.ndarray]) -> list[Sample]:
        means = _means(many.lengths, lambda rows: _run(model, many, rows)[1])
        about = labelled(means, labels.numbers, labels.classes)
        if more is None:
            return [Sample(states, _followed(beliefs)), about]
        tracks = (read(more[0], row) for row in range(len(more[1])))
        return [Sample(_states([*zip(*tracks, strict=True)]), _followed(more[1])), about]

    with evaluating(model):
        found, notes = _look_examples(
            beliefs,
            views,
            element=element,
            gradient=windows.lengths[0] >= 2
            and (lambda: _classifier_flow(model, windows, element)),
            read=lambda row: read(shown, row),
            samples=samples,
        )
    if "flow" in found:
        notes.append(
            "health: the maximum and the mean over time hand the cost to every element directly; "
            "|ds_T/ds_t| tells what passes through time itself"
        )
    if "belief" in views:
        found["beliefs"] = beliefs
    return Findings(**found, classes=labels.classes, notes=notes)


def _look_examples(
    given: Sequence[Belief] | Sequence[Labelled],
    views: frozenset[View],
    *,
    element: str,
    gradient: Callable[[], Flow] | Literal[False],
    read: Callable[[int], Sequence[Track]],
    samples: Callable[[Sequence[np.ndarray]], list[Sample]],
) -> tuple[dict[str, Any], list[str]]:
    """What can be seen in every model of examples, as fields of Findings, and notes.

    Args:
        given: What the model made of N examples.
        views: Which.
        element: What one step of time reads.
        gradient: Measures the gradient flow; False if no example is long enough.
        read: Gives a track of each layer on one of the N.
        samples: Gives what units may follow, beside their activations on the N.
    """
    found: dict[str, Any] = {
        "pieces": [piece for each in given for piece in each.line],
        "element": element,
    }
    notes: list[str] = []
    if "health" in views and gradient:
        found["flow"] = gradient()
    elif "health" in views:
        notes.append(f"health: needs an example of two {element}s")
    if views & {"gates", "units"}:
        with torch.no_grad():
            by_layer = [*zip(*(read(row) for row in range(len(given))), strict=True)]
            found |= layer_fields(by_layer, views)
            if "units" in views:
                states = _states(by_layer)
                found |= {"activations": states, "ranking": rank_units(samples(states))}
    return found, notes


def _classifier_flow(model: Classifier, windows: Sequences, element: str) -> Flow:
    """From the cost of the answer that the network itself gives back to every element."""
    with torch.enable_grad():
        logits, tracks = _run(model, windows, np.arange(len(windows.lengths)))
        costs = functional.cross_entropy(logits, logits.argmax(dim=1), reduction="none")
        return flow((tracks, costs), cut=False, element=element)


def _states(by_layer: Sequence[Sequence[Track]]) -> tuple[np.ndarray, ...]:
    """Activations of each layer in the order of the texts, (n, H)."""
    return tuple(
        np.concatenate([activations(track)[:: -1 if track.back else 1, 0] for track in tracks])
        for tracks in by_layer
    )


def look_tagger(
    model: Tagger,
    shown: Sequences,
    given: list[Labelled],
    views: frozenset[View],
    *,
    windows: Sequences,
    classes: tuple[str, ...],
) -> Findings:
    """Look into a tagger.

    Args:
        model: Its weights and its mode are not changed.
        shown: Sentences for the views of single words.
        given: How these were labelled.
        views: Which.
        windows: Some of one length, which the gradient flow is measured on.
        classes: The labels that there are.
    """
    names = [label for each in given for label in each.truth or each.labels]
    followed = features([piece for each in given for piece in each.line]) | named_labels(names)
    with evaluating(model):
        found, notes = _look_examples(
            given,
            views,
            element="word",
            gradient=windows.lengths[0] >= 2 and (lambda: _tagger_flow(model, windows)),
            read=lambda row: _label(model, shown, np.array([row]))[1],
            samples=lambda states: [Sample(states, followed)],
        )
    if "belief" in views:
        found["labelled"] = given
    return Findings(**found, classes=classes, notes=notes)


def layer_fields(by_layer: Sequence[Sequence[Track]], views: frozenset[View]) -> dict[str, Any]:
    """Names of layers and, if they are wanted, their gates, as fields of Findings."""
    found: dict[str, Any] = {"layers": tuple(tracks[0].name for tracks in by_layer)}
    if "gates" in views:
        found["gates"] = tuple(describe(tracks) for tracks in by_layer)
    return found


def _tagger_flow(model: Tagger, windows: Sequences) -> Flow:
    """From the cost of the last word's label onward layers, from the first one's those back.

    The cost of a word in between would reach states on both sides of it at once. Labels are those
    that the network itself finds likeliest.
    """
    with torch.enable_grad():
        scores, tracks = _label(model, windows, np.arange(len(windows.lengths)))
        runs = []
        for back, word in ((False, -1), (True, 0)):
            there = scores[:, word]
            costs = functional.cross_entropy(there, there.argmax(dim=1), reduction="none")
            runs.append(([track for track in tracks if track.back == back], costs))
        return flow(*runs, cut=False, element="word")


def _label(model: Tagger, sequences: Sequences, rows: Array) -> tuple[Tensor, list[Track]]:
    """Scores (B, T, C) of sentences of one length, and the tracks of all layers."""
    layers = model.config.num_layers
    tape = Tape(model.stack, layer_names(("onward", layers), ("back", layers)))
    batch = sequences.batch(rows)
    assert not isinstance(batch, Tensor), "a tagger reads words"
    return model.through(batch.to(model.output.weight.device), tape), tape.tracks


def _followed(beliefs: Sequence[Belief]) -> dict[str, npt.NDArray[np.float64]]:
    """What units might follow in texts or in pictures."""
    if beliefs[0].pixels is None:
        return features([piece for belief in beliefs for piece in belief.line])
    rows = [np.arange(len(belief.pieces)) for belief in beliefs]
    return {f"{beliefs[0].element} of the picture": np.concatenate(rows).astype(np.float64)}


def _run(model: Classifier, sequences: Sequences, rows: Array) -> tuple[Tensor, list[Track]]:
    """Logits (B, C) of some sequences, and the tracks of all layers, those that read back last."""
    layers = model.config.num_layers
    names = layer_names(("onward", layers), ("back", layers))
    tapes = [Tape(model.onward, names[:layers]), Tape(model.back, names[layers:])]
    device = model.output.weight.device
    lengths = torch.from_numpy(sequences.lengths[rows]).to(device)
    logits = model.through(sequences.batch(rows).to(device), lengths, *tapes)
    onward, back = (tape.tracks for tape in tapes)
    return logits, [*onward, *(replace(track, back=True) for track in back)]


def layer_names(*groups: tuple[str, int]) -> list[str]:
    """Names of layers for people, numbered from 1; of each group what it does, and how many."""
    ways = [
        f"{way} {number}" if count > 1 else way
        for way, count in groups
        for number in range(1, count + 1)
    ]
    return [f"layer {number} ({way})" for number, way in enumerate(ways, 1)]


def activations(track: Track) -> np.ndarray:
    """What a unit holds after each element, (T, B, H): tanh(c) of an LSTM, else the state.

    tanh(c), as in Karpathy et al. 2015: what the cell remembers, whether or not it shows it.
    """
    values = torch.tanh(track.stacked(1)) if track.kind == "lstm" else track.stacked()
    found: np.ndarray = values.float().numpy(force=True)
    return found
