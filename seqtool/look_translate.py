"""Looking into a translator: pairs of texts come in and findings go out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.diagnostics import Flow, flow
from seqtool.encdec import BOUNDARY, EncoderDecoder
from seqtool.evaluation import evaluating
from seqtool.findings import Attended, Findings, View
from seqtool.looking import activations, layer_fields, layer_names
from seqtool.neurons import Ranking, Sample, features, rank_units
from seqtool.tape import Tape, Track


@dataclass(frozen=True)
class Pair:
    """A source and its translation."""

    source: npt.NDArray[np.integer[Any]]  # ids without a boundary, (S,)
    target: npt.NDArray[np.integer[Any]]  # (T,)
    read: list[str]  # the text of each token of the source
    written: list[str]


def look_translator(
    model: EncoderDecoder,
    pairs: Sequence[Pair],
    attended: list[Attended],
    views: frozenset[View],
    *,
    windows: tuple[list[int], int],
) -> Findings:
    """Look into a translator.

    Args:
        model: Its weights and its mode are not changed.
        pairs: Texts and what the model made of them, no side empty.
        attended: Where it looked.
        views: Which.
        windows: Which of the pairs the gradient flow is measured on, and the tokens of each side,
            boundary included, that are read of them.
    """
    source_text = [token for pair in pairs for token in _ended(pair.read)]
    target_text = [token for pair in pairs for token in _ended(pair.written)]
    found: dict[str, Any] = {"pieces": source_text}
    notes: list[str] = []
    with evaluating(model):
        if "health" in views:
            rows, steps = windows
            if steps >= 2:
                found["flow"] = _translator_flow(model, [pairs[row] for row in rows], steps)
                if model.config.attention != "none":
                    notes.append(
                        "health: attention hands the cost to every state of the encoder directly, "
                        "so the verdict is on the decoder; |ds_T/ds_t| tells what passes through "
                        "time itself"
                    )
            else:
                notes.append("health: needs a source and a translation of two tokens")
        if views & {"gates", "units"}:
            with torch.no_grad():
                runs = [_translate(model, [pair])[1:] for pair in pairs]
            encoder, decoder = ([*zip(*side, strict=True)] for side in zip(*runs, strict=True))
            found |= layer_fields([*encoder, *decoder], views)
            if "units" in views:
                turned = model.config.reverse_source
                states = [*(_at_source(tracks, turned) for tracks in encoder)]
                # The first step of a decoder reads the boundary, the next one the first token.
                written = [
                    np.concatenate([activations(track)[1:, 0] for track in tracks])
                    for tracks in decoder
                ]
                found["activations"] = (*states, *written)
                found["texts"] = (source_text,) * len(encoder) + (target_text,) * len(decoder)
                found["ranking"] = _rank_sides(
                    ("source", states, source_text), ("target", written, target_text)
                )
    if "attention" in views:
        found["attended"] = attended
    return Findings(**found, notes=notes)


def _ended(tokens: list[str]) -> list[str]:
    return [*tokens[:-1], tokens[-1] + "\n"]


def _at_source(tracks: Sequence[Track], turned: bool) -> np.ndarray:
    """Activations of a layer of an encoder at the tokens of sources as they stand there, (n, H)."""
    found = []
    for track in tracks:
        values = activations(track)[:: -1 if track.back else 1, 0][:-1]  # without the boundary
        found.append(values[::-1] if turned else values)
    return np.concatenate(found)


def _rank_sides(*sides: tuple[str, Sequence[np.ndarray], list[str]]) -> Ranking:
    """What the units of several groups of layers follow, each in a text of its own."""
    found, below = Ranking([], []), 0
    for name, states, text in sides:
        if states:
            followed = {f"{name}: {feature}": values for feature, values in features(text).items()}
            found = found.beside(rank_units([Sample(states, followed)]), below)
            below += len(states)
    return found


def _translator_flow(model: EncoderDecoder, pairs: Sequence[Pair], steps: int) -> Flow:
    """From the cost of the last token written back to every state of encoder and decoder."""
    with torch.enable_grad():
        logits, encoder, decoder = _translate(model, pairs, steps)
        last = logits[:, -1]
        costs = functional.cross_entropy(last, last.argmax(dim=1), reduction="none")
        attends = model.config.attention != "none"
        direct = len(encoder) if attends else 0
        return flow(([*encoder, *decoder], costs), cut=False, direct=direct)


def _translate(
    model: EncoderDecoder, pairs: Sequence[Pair], steps: int | None = None
) -> tuple[Tensor, list[Track], list[Track]]:
    """Logits (B, T, V) of pairs of the same lengths, and the tracks of encoder and decoder.

    Args:
        model: Reads the targets as they are given.
        pairs: B of them.
        steps: Tokens of each side, boundary included; None for all.
    """
    turn = -1 if model.config.reverse_source else 1
    cut = None if steps is None else steps - 1
    sources = [[*pair.source[:cut][::turn], BOUNDARY] for pair in pairs]
    targets = [[*pair.target, BOUNDARY][:steps] for pair in pairs]
    layers = model.config.num_layers
    names = layer_names(
        *((f"encoder {way}", layers) for way in ("onward", "back")),
        *(("decoder below", 1), ("decoder above", layers)),
    )
    written = len(targets[0]) if model.config.input_feeding else None  # one after the other
    tapes = [
        Tape(stack, names[first : first + count], calls)
        for stack, first, count, calls in (
            (model.encoder, 0, 2 * layers, None),
            (model.query, 2 * layers, 1, written),
            (model.reader, 2 * layers + 1, layers, written),
        )
    ]
    device = model.output.bias.device
    source, target = (
        torch.from_numpy(np.array(side, np.int64)).to(device) for side in (sources, targets)
    )
    logits = model.through(source, target, tapes[0], (tapes[1], tapes[2]))
    return logits, tapes[0].tracks, [*tapes[1].tracks, *tapes[2].tracks]
