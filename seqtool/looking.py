"""Looking into a model: ids, or sequences in batches, come in and findings go out.

Every view that was asked for is computed once. The text of a token is only passed on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.batches import by_length
from seqtool.classifier import Classifier
from seqtool.diagnostics import Flow, flow, language_flow
from seqtool.evaluation import evaluating
from seqtool.findings import Belief, Findings, View
from seqtool.gates import describe
from seqtool.horizon import Surprise, memory_horizon, surprises
from seqtool.jacobians import lag_grid
from seqtool.judging import Sequences
from seqtool.mixture import Partner
from seqtool.models import LanguageModel
from seqtool.neurons import Sample, features, labelled, rank_units
from seqtool.tape import Tape, Track

BEFORE = 500  # tokens of a text read before the view, so that it begins in a state led up to
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
    ids: np.ndarray,
    pieces: list[str],
    views: frozenset[View],
    *,
    text: np.ndarray,
    window: int,
    before: np.ndarray | Sequence[int] = (),
    partner: Partner | None = None,
    documents: Sequence[np.ndarray] = (),
    labels: Labels | None = None,
) -> Findings:
    """Look into a language model.

    Args:
        model: Neither its weights nor its mode are changed.
        ids: What the model reads in the views of single tokens: the token before the view, then
            the view, (n + 1,).
        pieces: The text of each token of the view, (n,).
        views: Which.
        text: Ids of a longer text, (N,), for what is measured over many places.
        window: Longest lag of the gradient flow.
        before: What stands in the text before ``ids``, (M,); the end of it is read first, so that
            the view begins in the state that has led to it. At the start of a text there is none.
        partner: The counts that the model is mixed with when it is used.
        documents: Whole texts with labels, each (T,).
        labels: Theirs.
    """
    found: dict[str, Any] = {"pieces": pieces}
    notes: list[str] = []
    if "health" in views:
        if len(text) >= 3:
            found["flow"] = language_flow(model, text, window=window)
        else:
            notes.append(f"health: needs 3 tokens of text, got {len(text)}")
    if views & {"gates", "units", "surprisal"}:
        device = model.embedding.weight.device
        past = np.asarray(before[-BEFORE:], np.int64)
        inputs = torch.from_numpy(np.concatenate([past, ids]).astype(np.int64))[None].to(device)
        tape, state = Tape(model.stack), model.init_state(1)
        with evaluating(model), torch.no_grad():
            if len(past):
                _, state = model.through(inputs[:, : len(past)], state, Tape(model.stack))
            logits, _ = model.through(inputs[:, len(past) :], state, tape)
        tracks = tape.tracks
        found["layers"] = tuple(track.name for track in tracks)
        if "gates" in views:
            found["gates"] = tuple(describe([track]) for track in tracks)
        if "units" in views:
            # After the token before the view there is nothing of the view to follow.
            states = tuple(activations(track)[1:, 0] for track in tracks)
            samples = [Sample(states, features(pieces))]
            if labels is not None:
                means = _document_means(model, documents)
                samples.append(labelled(means, labels.numbers, labels.classes))
            found |= {"activations": states, "ranking": rank_units(samples)}
        if "surprisal" in views:
            found["surprises"] = _surprises(logits[0, :-1], ids, past, partner)
    if "memory" in views:
        longest = min(LONGEST_PAST, len(text) // 2)
        if longest >= 1:
            lengths = tuple(lag_grid(longest))
            found["horizon"] = memory_horizon(model, text, lengths, partner=partner)
        else:
            notes.append(f"memory: needs 2 tokens of text, got {len(text)}")
    return _with_notes(found, notes)


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
    """
    found: dict[str, Any] = {
        "pieces": [piece for belief in beliefs for piece in belief.line],
        "classes": labels.classes,
    }
    notes: list[str] = []
    with evaluating(model):
        if "health" in views:
            if windows.lengths[0] >= 2:
                found["flow"] = _classifier_flow(model, windows)
                notes.append(
                    "health: the maximum and the mean over time hand the cost to every element "
                    "directly; |ds_T/ds_t| tells what passes through time itself"
                )
            else:
                notes.append("health: needs a text of two words")
        if views & {"gates", "units"}:
            with torch.no_grad():
                read = [_run(model, shown, np.array([row]))[1] for row in range(len(beliefs))]
                by_layer = list(zip(*read, strict=True))
                found["layers"] = tuple(tracks[0].name for tracks in by_layer)
                if "gates" in views:
                    found["gates"] = tuple(describe(tracks) for tracks in by_layer)
                if "units" in views:
                    means = _means(many.lengths, lambda rows: _run(model, many, rows)[1])
                    states = _states(by_layer)
                    samples = [
                        Sample(states, _followed(beliefs)),
                        labelled(means, labels.numbers, labels.classes),
                    ]
                    found |= {"activations": states, "ranking": rank_units(samples)}
    if "belief" in views:
        found["beliefs"] = beliefs
    return _with_notes(found, notes)


def _classifier_flow(model: Classifier, windows: Sequences) -> Flow:
    """From the cost of the answer that the network itself gives back to every element."""
    with torch.enable_grad():
        logits, tracks = _run(model, windows, np.arange(len(windows.lengths)))
        costs = functional.cross_entropy(logits, logits.argmax(dim=1), reduction="none")
        return flow(tracks, costs, cut=False)


def _states(by_layer: Sequence[Sequence[Track]]) -> tuple[np.ndarray, ...]:
    """Activations of each layer in the order of the texts, (n, H); half of the layers read back."""
    states = []
    for layer, tracks in enumerate(by_layer):
        onward = 1 if 2 * layer < len(by_layer) else -1
        states.append(np.concatenate([activations(track)[::onward, 0] for track in tracks]))
    return tuple(states)


def _followed(beliefs: Sequence[Belief]) -> dict[str, npt.NDArray[np.float64]]:
    """What units might follow in texts or in pictures."""
    if beliefs[0].pixels is None:
        return features([piece for belief in beliefs for piece in belief.line])
    rows = [np.arange(len(belief.pieces)) for belief in beliefs]
    return {"row of the picture": np.concatenate(rows).astype(np.float64)}


def _run(model: Classifier, sequences: Sequences, rows: Array) -> tuple[Tensor, list[Track]]:
    """Logits (B, C) of some sequences, and the tracks of all layers, those that read back last."""
    layers = model.config.num_layers
    tapes = [
        Tape(stack, _names(way, first, layers))
        for way, stack, first in (("onward", model.onward, 1), ("back", model.back, 1 + layers))
    ]
    device = model.output.weight.device
    lengths = torch.from_numpy(sequences.lengths[rows]).to(device)
    logits = model.through(sequences.batch(rows).to(device), lengths, *tapes)
    return logits, [track for tape in tapes for track in tape.tracks]


def _names(way: str, first: int, layers: int) -> list[str]:
    if layers == 1:
        return [f"layer {first} ({way})"]
    return [f"layer {first + number} ({way} {number + 1})" for number in range(layers)]


def activations(track: Track) -> np.ndarray:
    """What a unit holds after each element, (T, B, H): tanh(c) of an LSTM, else the state.

    tanh(c), as in Karpathy et al. 2015: what the cell remembers, whether or not it shows it.
    """
    values = torch.tanh(track.stacked(1)) if track.kind == "lstm" else track.stacked()
    found: np.ndarray = values.float().numpy(force=True)
    return found


def _with_notes(found: dict[str, Any], notes: list[str]) -> Findings:
    ranking = found.get("ranking")
    if ranking is not None and not ranking.by_unit:
        notes.append("units: the text is too short to tell what they follow")
    return Findings(**found, notes=notes)
