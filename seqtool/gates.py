"""What the gates of a recurrent layer do over a text: how open, how saturated, how long a memory.

Works on a Track from tape. Which unit follows what in the text is the business of units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.tape import Track

# "Left" and "right saturated" as in Karpathy, Johnson & Fei-Fei 2015, arXiv:1506.02078, section
# 4.1. For values between -1 and 1 the same place on the curve, since tanh(a) = 2 sigmoid(2a) - 1.
LOW, HIGH = 0.1, 0.9
BINS = 10  # of a histogram
LONGEST = 1e6  # tokens, in place of infinity for a gate that is fully open

Values = dict[str, Tensor]  # by name, each (T, B, H)


def gate_values(track: Track) -> Values:
    """Every gate of a layer at every time, by the equations in cells.

    Returns:
        LSTM: input, forget, candidate, output, cell. GRU: reset, update, candidate, state. RNN:
        state. Each (T, B, H), gates between 0 and 1, the others as they are.
    """
    h = track.before()[0]
    wh = functional.linear(h, track.weights.weight_hh, track.weights.bias_hh)  # (T, B, G*H)
    if track.kind == "lstm":
        i, f, g, o = (track.ux + wh).chunk(4, dim=-1)
        return {
            "input": torch.sigmoid(i),
            "forget": torch.sigmoid(f),
            "candidate": torch.tanh(g),
            "output": torch.sigmoid(o),
            "cell": track.stacked(1),
        }
    if track.kind == "gru":
        (r, z, n), (wr, wz, wn) = track.ux.chunk(3, dim=-1), wh.chunk(3, dim=-1)
        r = torch.sigmoid(r + wr)
        return {
            "reset": r,
            "update": torch.sigmoid(z + wz),
            "candidate": torch.tanh(n + r * wn),
            "state": track.stacked(),
        }
    return {"state": track.stacked()}


# The gate that says how much of the old memory is kept, by kind of layer.
KEEPING = {"lstm": "forget", "gru": "update"}
SIGMOID = frozenset({"input", "forget", "output", "reset", "update"})


@dataclass(frozen=True)
class GateStats:
    """One gate, or other quantity, of one layer over a text."""

    name: str
    mean: float
    low: float  # share of its values that are saturated: below 0.1, or below -0.8
    high: float  # above 0.9, or above 0.8
    histogram: tuple[float, ...]  # shares of ten equal bins of ``span``
    span: tuple[float, float]
    unit_low: np.ndarray  # for each unit the share of the time that it is saturated low, (H,)
    unit_high: np.ndarray


@dataclass(frozen=True)
class LayerGates:
    """All gates of one layer over a text, and how long its units remember."""

    name: str
    gates: tuple[GateStats, ...]
    keeping: str | None  # the gate that says how much of the memory is kept; None for a simple RNN
    memory: np.ndarray | None  # tokens for each unit, (H,); None for a simple RNN
    dead: float | None  # share of units that stay at 0 over the whole text; ReLU only


def describe(tracks: Sequence[Track]) -> LayerGates:
    """Measure the gates of one layer; the numbers of all texts, windows and times count alike.

    Args:
        tracks: Of that layer over one text or more, each (T, B, ...) with the same B.
    """
    name, kind = tracks[0].name, tracks[0].kind
    found = [gate_values(track) for track in tracks]
    values = {gate: torch.cat([each[gate].detach() for each in found]) for gate in found[0]}
    keeping = KEEPING.get(kind)
    stats = tuple(_stats(gate, value, kind) for gate, value in values.items())
    dead = None
    if kind == "rnn_relu":
        dead = float((values["state"] == 0).all(dim=0).all(dim=0).double().mean())
    lives = None if keeping is None else memory(values[keeping])
    return LayerGates(name, stats, keeping, lives, dead)


def memory(keep: Tensor) -> np.ndarray:
    """How long each unit remembers, in tokens.

    A unit that keeps the share f of its memory at each step keeps f^k of it after k: on average a
    memory stays 1/(1-f) steps. f is the geometric mean over the text, because keeping multiplies.

    Args:
        keep: Forget gate of an LSTM or update gate of a GRU, (T, B, H).

    Returns:
        Tokens, (H,), from 1 to a million.
    """
    f = keep.double().clamp_min(1e-12).log().mean(dim=(0, 1)).exp()
    found: np.ndarray = (1 / (1 - f).clamp_min(1 / LONGEST)).numpy(force=True)
    return found


def saturated(track: Track) -> dict[str, float]:
    """The share of saturated values of each gate, and of the state of a tanh or sigmoid layer."""
    shares = {}
    for name, value in gate_values(track).items():
        bounds = _bounds(name, track.kind)
        if bounds is not None:
            low, high = bounds
            shares[name] = float(((value < low) | (value > high)).double().mean())
    return shares


def _bounds(name: str, kind: str) -> tuple[float, float] | None:
    """Where a quantity counts as saturated; None for one without limits, or of zeros and ones."""
    if name in SIGMOID or kind == "rnn_sigmoid":
        return LOW, HIGH
    if name == "cell" or kind in ("rnn_relu", "rnn_stochastic"):
        return None
    return 2 * LOW - 1, 2 * HIGH - 1


def _stats(name: str, value: Tensor, kind: str) -> GateStats:
    bounds = _bounds(name, kind)
    unbounded = name == "cell" or kind == "rnn_relu"
    if unbounded:
        largest = max(float(value.abs().max()), 1e-9)
        span = (0.0 if kind == "rnn_relu" else -largest, largest)
    else:
        positive = name in SIGMOID or kind in ("rnn_sigmoid", "rnn_stochastic")
        span = (0.0 if positive else -1.0, 1.0)
    counts = torch.histc(value.float(), BINS, *span)
    low, high = bounds or (-float("inf"), float("inf"))
    below, above = (value < low).double(), (value > high).double()
    return GateStats(
        name,
        float(value.mean()),
        float(below.mean()),
        float(above.mean()),
        tuple((counts / counts.sum()).tolist()),
        span,
        below.mean(dim=(0, 1)).numpy(force=True),
        above.mean(dim=(0, 1)).numpy(force=True),
    )
