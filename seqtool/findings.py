"""Looking into a language model on a text: every view that was asked for, computed once.

Ids and the text of each come in, plain results go out; sheet and report show them.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from seqtool.diagnostics import Flow, language_flow
from seqtool.evaluation import evaluating
from seqtool.gates import LayerGates, describe
from seqtool.horizon import Horizon, Surprise, memory_horizon, surprises
from seqtool.jacobians import lag_grid
from seqtool.models import LanguageModel
from seqtool.neurons import Ranking, rank_units
from seqtool.tape import Tape, Track

View = Literal["health", "gates", "units", "memory", "surprisal"]
VIEWS: tuple[View, ...] = ("health", "gates", "units", "memory", "surprisal")

LONGEST_PAST = 256  # tokens shown to the model at most when its memory is measured


@dataclass(frozen=True)
class Findings:
    """What was seen; views not asked for are None."""

    pieces: list[str]  # the text of each token of the view, (n,)
    flow: Flow | None = None
    gates: tuple[LayerGates, ...] | None = None
    activations: tuple[np.ndarray, ...] | None = None  # of each layer after each token, (n, H)
    ranking: Ranking | None = None
    horizon: Horizon | None = None
    surprises: list[Surprise] | None = None
    notes: list[str] = field(default_factory=list)  # why a view is missing or limited


def look(
    model: LanguageModel,
    ids: np.ndarray,
    pieces: list[str],
    views: frozenset[View],
    *,
    text: np.ndarray,
    window: int,
) -> Findings:
    """Compute views.

    Args:
        model: Neither its weights nor its mode are changed.
        ids: What the model reads in the views of single tokens: the token before the view, then
            the view, (n + 1,).
        pieces: The text of each token of the view, (n,).
        views: Which.
        text: Ids of a longer text, (N,), for what is measured over many places.
        window: Longest lag of the gradient flow.
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
        inputs = torch.from_numpy(ids.astype(np.int64))[None].to(device)
        tape = Tape(model.stack)
        with evaluating(model), torch.no_grad():
            logits, _ = model.through(inputs, model.init_state(1), tape)
            if "gates" in views:
                found["gates"] = tuple(
                    describe(track, layer) for layer, track in enumerate(tape.tracks)
                )
            if "units" in views:
                # After the token before the view there is nothing of the view to follow.
                states = tuple(activations(track)[1:] for track in tape.tracks)
                found["activations"] = states
                ranking = found["ranking"] = rank_units(states, pieces)
                if not ranking.by_unit:
                    notes.append("units: the text is too short to tell what they follow")
            if "surprisal" in views:
                found["surprises"] = surprises(logits[0, :-1], ids[1:])
    if "memory" in views:
        longest = min(LONGEST_PAST, len(text) // 2)
        if longest >= 1:
            lengths = tuple(lag_grid(longest))
            found["horizon"] = memory_horizon(model, text, lengths)
        else:
            notes.append(f"memory: needs 2 tokens of text, got {len(text)}")
    return Findings(**found, notes=notes)


def activations(track: Track) -> np.ndarray:
    """What a unit holds after each token, (T, H): tanh(c) of an LSTM, else the state.

    tanh(c), as in Karpathy et al. 2015: what the cell remembers, whether or not it shows it.
    """
    values = torch.tanh(track.stacked(1)) if track.kind == "lstm" else track.stacked()
    found: np.ndarray = values[:, 0].float().numpy(force=True)
    return found


def as_dict(found: Findings, spell: list[str]) -> dict[str, Any]:
    """Values fit for JSON, a key for each view.

    Args:
        found: What was seen.
        spell: The text of every token of the vocabulary, (V,).
    """
    values: dict[str, Any] = {"tokens": len(found.pieces), "notes": found.notes}
    if found.flow is not None:
        values["health"] = found.flow.as_dict()
    if found.gates is not None:
        values["gates"] = [_gates_dict(layer) for layer in found.gates]
    if found.ranking is not None:
        values["units"] = asdict(found.ranking)
    if found.horizon is not None:
        horizon = found.horizon
        values["memory"] = asdict(horizon) | {"ended": horizon.ended, "hint": horizon.hint}
    if found.surprises is not None:
        values["surprisal"] = [
            {
                "token": spell[surprise.token],
                "bits": surprise.bits,
                "expected": [[spell[token], chance] for token, chance in surprise.alternatives],
            }
            for surprise in found.surprises
        ]
    return values


def _gates_dict(layer: LayerGates) -> dict[str, Any]:
    values = asdict(layer)
    values["memory"] = None if layer.memory is None else layer.memory.tolist()
    for gate in values["gates"]:
        gate["unit_low"], gate["unit_high"] = gate["unit_low"].tolist(), gate["unit_high"].tolist()
    return values
