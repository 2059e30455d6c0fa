"""How far back a recurrent network learns: gradients through time, measured and judged.

The gradient that reaches the state s_t from a cost C_T is a product of T - t Jacobians, so it
vanishes or explodes with the lag (see jacobians). The norm of the weights' gradient does not show
it: that is a sum over all lags, and the near ones hide the far ones. Here every lag is looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.cells import STEPS
from seqtool.gates import saturated
from seqtool.jacobians import bound, is_exact, jacobian_norms, lag_grid, spectral_radii
from seqtool.models import LanguageModel
from seqtool.tape import Tape, Track, gradients

REACHED = 0.01  # a lag counts as reached while this part of the gradient at lag 0 arrives
VANISHED = 0.25  # a horizon of less than this part of what is read: most of it is for nothing
# Tokens of a running text that a healthy gradient reaches back, whatever the window: lags that
# simple RNNs fail to learn begin at 5 to 10 (Gers, Schmidhuber & Cummins 2000).
SHORT = 10
MARGIN = 1.25  # by which a limit has to be passed before a verdict that stood is changed
EXPLODED = 10.0  # growth of the gradient over its size at lag 0
SPIKED = 0.1  # a share of windows that explode while the median does not
STRETCH = 1.2  # |eigenvalue| of W that lets differences grow until the nonlinearity saturates
DEAD = 0.5  # a share of dead ReLU units that is named as the cause
FEWEST = 100  # tokens looked at below which nothing is judged
WARM_UP = 64  # tokens read before each window
# Places of a text that are looked at. How far a gradient reaches differs from place to place more
# than from network to network: half of the time to between 13 and 38 tokens in one LSTM, the median
# of 512 being 23. Medians of 4 places were anywhere from 7 to 49, of 32 from 15 to 31.
WINDOWS = 32

# The blocks of W in their order; a simple RNN has one.
BLOCKS = {
    **dict.fromkeys(STEPS, ("state",)),
    "lstm": ("input", "forget", "candidate", "output"),
    "gru": ("reset", "update", "candidate"),
}

Judgement = Literal["healthy", "vanishing", "exploding", "unsure"]


@dataclass(frozen=True)
class LayerFlow:
    """What reaches one layer from the cost at the end of a window, by lag: medians of windows."""

    name: str
    gradient: np.ndarray  # |dC_T/ds_t| at lags 0 to K by its part of that at lag 0, (K+1,)
    terms: np.ndarray  # |term of dC_T/dW at time t|, at lags 0 to K, (K+1,)
    lags: tuple[int, ...]  # where the next two are measured
    jacobian: np.ndarray | None  # |ds_T/ds_t|, the largest factor, in the middle window
    bound: np.ndarray | None  # what |W|^(T-t) |g'|^(T-t) allows; simple RNN only
    exact: bool  # whether ``jacobian`` is multiplied out; else it is a lower bound (power method)
    horizon: int  # farthest lag that 1 % of the gradient at lag 0 reaches; K: at least that
    rate: float  # factor per token at which the gradient falls on the way there
    spikes: float  # share of windows whose gradient grows tenfold
    spectral_radius: dict[str, float]  # of W, by gate
    saturated: dict[str, float]  # share of saturated values, by gate
    dead: float | None  # share of units that are 0 at every step; ReLU only


class Verdict(NamedTuple):
    """A judgement, the evidence in one sentence, and the flag to try ("" if nothing needs one)."""

    judgement: Judgement
    evidence: str
    advice: str


@dataclass(frozen=True)
class Flow:
    """The gradient flow of all layers."""

    layers: tuple[LayerFlow, ...]
    window: int  # K, longest lag looked at
    windows: int  # how many were looked at
    verdict: Verdict
    element: str = "token"  # what one step of time reads

    def as_dict(self) -> dict[str, Any]:
        """Values fit for JSON."""
        values = asdict(self) | {"verdict": self.verdict._asdict()}
        for number, layer in enumerate(values["layers"]):
            for name, value in layer.items():
                if isinstance(value, np.ndarray):
                    layer[name] = value.tolist()
            layer["layer"] = number
        return values

    def summary(self) -> dict[str, Any]:
        """What one evaluation in training records: a few numbers for each layer."""
        lags = [0, *lag_grid(self.window)]
        return {
            "verdict": self.verdict.judgement,
            "evidence": self.verdict.evidence,
            "advice": self.verdict.advice,
            "horizon": max(layer.horizon for layer in self.layers),
            "window": self.window,
            "lags": lags,
            "gradient": [
                [float(f"{layer.gradient[lag]:.4g}") for lag in lags] for layer in self.layers
            ],
        }


def language_flow(
    model: LanguageModel,
    ids: np.ndarray,
    *,
    window: int,
    windows: int = WINDOWS,
    jacobians: bool = True,
    stood: Judgement | None = None,
) -> Flow:
    """The gradient flow of a language model on a text.

    C_T is the cost of one token, at the end of each window; a window begins with the state that the
    text before it has led to. Run by the plain equations, without dropout.

    Args:
        model: Neither its weights nor their gradients are touched.
        ids: The text, (n,), n at least 3.
        window: Longest lag, K, in tokens; less if the text is shorter.
        windows: How many to look at, spread evenly over the text.
        jacobians: Also measure |ds_T/ds_t| and its bound, which costs more than all else.
        stood: The verdict on the same network some updates ago, if there is one.

    Raises:
        ValueError: If the text has fewer than 3 tokens.
    """
    if len(ids) < 3:
        raise ValueError(f"{len(ids)} tokens have no gradient through time; give at least 3")
    window = min(window, len(ids) - 2)
    last = len(ids) - window - 2  # where the last window can begin
    begins = np.unique(np.linspace(0, last, windows).astype(np.int64))
    warm_up = min(WARM_UP, int(begins[1]) if len(begins) > 1 else 0)
    before = np.maximum(begins[:, None] + np.arange(-warm_up, 0), 0)
    inside = begins[:, None] + np.arange(window + 2)  # (B, K + 2)
    device = model.embedding.weight.device
    chunk = torch.from_numpy(ids[inside].astype(np.int64)).to(device)
    tape = Tape(model.stack)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)  # of stochastic units
        state = model.init_state(len(begins))
        if warm_up:
            with torch.no_grad():
                past = torch.from_numpy(ids[before].astype(np.int64)).to(device)
                _, state = model.through(past, state, Tape(model.stack))
            fresh = torch.from_numpy(begins < warm_up).to(device)
            state = tuple(part.masked_fill(_like(fresh, part), 0) for part in state)
        with torch.enable_grad():
            logits, _ = model.through(chunk[:, :-1], state, tape)
            costs = functional.cross_entropy(logits[:, -1], chunk[:, -1], reduction="none")
            return flow((tape.tracks, costs), jacobians=jacobians, seen=len(ids), stood=stood)


def _like(fresh: Tensor, part: Tensor) -> Tensor:
    """A mask over windows in the shape of a part of the state, (L, B, H)."""
    return fresh[None, :, None].expand_as(part)


def flow(
    *runs: tuple[Sequence[Track], Tensor],
    jacobians: bool = True,
    cut: bool = True,
    element: str = "token",
    seen: int | None = None,
    direct: int = 0,
    stood: Judgement | None = None,
) -> Flow:
    """The gradient flow to the costs at the end of what tapes have run.

    Args:
        runs: Tracks of layers after a run over T steps, so that lags go from 0 to T - 1, and the
            costs, one for each window, (B,), that were computed from their last outputs.
        jacobians: Also measure |ds_T/ds_t| and its bound.
        cut: Whether training cuts its sequences after --bptt steps.
        element: What one step reads, for people.
        seen: Elements that the windows were taken from; those in them if not given.
        direct: Layers, the first ones, whose every state the cost reaches without passing through
            time; they are shown, not judged.
        stood: The verdict on the same network some updates ago, if there is one.
    """
    layers = list[LayerFlow]()
    for tracks, costs in runs:
        found = gradients(costs.sum(), tracks)
        with torch.no_grad():
            layers += (
                _layer_flow(track, by_state, by_push, jacobians)
                for track, (by_state, by_push) in zip(tracks, found, strict=True)
            )
    (first, *_), costs = runs[0]
    window, windows = first.steps - 1, len(costs)
    if seen is None:
        seen = windows * first.steps
    judged = tuple(layers[direct:])
    verdict = judge(judged, window, first.kind, cut=cut, element=element, seen=seen, stood=stood)
    return Flow(tuple(layers), window, windows, verdict, element)


def _layer_flow(track: Track, by_state: Tensor, by_push: Tensor, jacobians: bool) -> LayerFlow:
    gradient = _by_lag(by_state.double().norm(dim=-1))  # (K+1, B)
    # At one time the gradient of W is the outer product of two vectors: its norm is theirs.
    terms = _by_lag(by_push.double().norm(dim=-1) * track.before()[0].double().norm(dim=-1))
    start = gradient[0]
    # A token that was expected has a small cost and a small gradient at every lag. As parts of that
    # at lag 0 all places count alike.
    parts = np.divide(gradient, start, out=np.zeros_like(gradient), where=start != 0)
    median = np.median(parts, axis=1) * np.median(start)
    window = track.steps - 1
    horizon = _horizon(median)
    lags, middle = lag_grid(window), gradient.shape[1] // 2
    dead = None
    if track.kind == "rnn_relu":
        dead = float((track.stacked() == 0).all(dim=0).all(dim=0).double().mean())
    return LayerFlow(
        name=track.name,
        gradient=median,
        terms=np.median(terms, axis=1),
        lags=tuple(lags),
        jacobian=jacobian_norms(track, lags, middle) if jacobians else None,
        bound=bound(track, lags, middle) if jacobians else None,
        exact=is_exact(track),
        horizon=horizon,
        rate=_rate(median, min(horizon + 1, window)),
        spikes=float((gradient.max(axis=0) > EXPLODED * start).mean()),
        spectral_radius=spectral_radii(track, BLOCKS[track.kind]) if jacobians else {},
        saturated=saturated(track),
        dead=dead,
    )


def weight_terms(track: Track, by_push: Tensor, window: int = 0) -> Tensor:
    """The terms over t whose sum is dC_T/dW: what each time step alone contributes.

    dC/dW = sum over t of dC/d(W s_{t-1} + b) s_{t-1}^T

    Args:
        track: Of a small layer: the result is large.
        by_push: The layer's dC/d(W h + b) from ``tape.gradients``, (T, B, G*H).
        window: Which of the B windows.

    Returns:
        (T, G*H, H), in the order of time.
    """
    return by_push[:, window, :, None] * track.before()[0][:, window, None, :]


def _by_lag(norms: Tensor) -> np.ndarray:
    """(T, B) in the order of time to (T, B) by rising lag."""
    return np.asarray(norms.flip(0).numpy(force=True))


def _horizon(median: np.ndarray) -> int:
    """The farthest lag with 1 % of the gradient at lag 0; 0 if there is none at all."""
    if median[0] == 0:
        return 0
    reached = np.flatnonzero(median >= REACHED * median[0])
    return int(reached[-1]) if len(reached) else 0


def _rate(median: np.ndarray, lag: int) -> float:
    """Mean factor per step from lag 0 to a lag."""
    if lag == 0 or median[0] == 0:
        return math.nan
    return float((max(median[lag], 1e-300) / median[0]) ** (1 / lag))


def judge(
    layers: tuple[LayerFlow, ...],
    window: int,
    kind: str,
    *,
    cut: bool = True,
    element: str = "token",
    seen: int = FEWEST,
    stood: Judgement | None = None,
) -> Verdict:
    """Judge a gradient flow.

    *Exploding*: in some layer the median gradient grows tenfold over its size at lag 0, or does so
    in more than a tenth of the windows; or the layer is a simple RNN whose W stretches (spectral
    radius of 1.2 or more) and the measured Jacobian over the whole window is still not below 1, so
    that only saturation holds the growth back. *Vanishing*: no layer passes 1 % of the gradient
    over a quarter of the window, nor over ten tokens if the text runs on: then the window is only
    what training sees at once. *Unsure*: neither explodes, nor was enough seen to say more. Else
    *healthy*.

    Two looks at one network differ a little, so a verdict is kept until what is measured has passed
    the limit by a quarter.

    Args:
        layers: What was measured.
        window: Longest lag, K.
        kind: Key of cells.STEPS.
        cut: Whether a running text was cut into windows, by --bptt.
        element: What one step reads.
        seen: How many of these the windows were taken from.
        stood: The verdict so far.
    """
    firm = {None: 1.0, "exploding": 1 / MARGIN}.get(stood, MARGIN)
    for layer in layers:
        if why := _explodes(layer, window, kind, element, firm):
            return Verdict("exploding", why, _exploding_advice(kind))
    if not layers:
        return Verdict("unsure", "no layer gets its gradient through time alone", "")
    if seen < FEWEST:
        evidence = f"too little to judge by: {seen} {element}s; give at least {FEWEST}"
        return Verdict("unsure", evidence, "")
    best = max(layers, key=lambda layer: layer.horizon)
    where = f"{best.name}: " if len(layers) > 1 else ""
    enough = VANISHED * window
    if cut:
        enough = min(enough, SHORT)
    enough *= {"healthy": 1 / MARGIN, "vanishing": MARGIN}.get(stood or "", 1.0)
    if best.horizon < enough:
        far = f"{best.horizon + 1} {element}" + "s" * (best.horizon > 0)
        evidence = (
            f"{where}{far} back less than 1 % of the gradient is left (x{best.rate:.2f} per "
            f"{element}), of {window} that were looked at"
        )
        return Verdict("vanishing", evidence, _vanishing_advice(best, kind, cut))
    reach = f"{best.horizon} {element}s" if best.horizon < window else f"all {window} {element}s"
    evidence = f"{where}the gradient reaches {reach} back (x{best.rate:.2f} per {element})"
    advice = ""
    if best.horizon >= window and cut:
        advice = f"--bptt {2 * (window + 1)}: there may be more to learn from farther back"
    return Verdict("healthy", evidence, advice)


def _explodes(layer: LayerFlow, window: int, kind: str, element: str, firm: float) -> str:
    """The evidence that gradients explode in a layer by limits times ``firm``; "" if they don't."""
    where = f"{layer.name}: "
    if not np.isfinite(layer.gradient).all():
        return f"{where}the gradient is not finite"
    start, peak = layer.gradient[0], int(layer.gradient.argmax())
    growth = layer.gradient[peak] / max(start, 1e-300)
    if start > 0 and not growth <= EXPLODED * firm:
        return f"{where}{peak} {element}s back the gradient is {growth:.3g} times that at the cost"
    if layer.spikes > SPIKED * firm:
        return f"{where}in {layer.spikes:.0%} of the windows the gradient grows tenfold or more"
    radius = layer.spectral_radius.get("state", 0.0)
    if kind.startswith("rnn") and radius >= STRETCH and layer.jacobian is not None:
        left = layer.jacobian[-1]
        if left >= firm:
            return (
                f"{where}W has spectral radius {radius:.2f} and a change of the state is still "
                f"{left:.2g} times as large after {window} {element}s"
            )
    return ""


def _exploding_advice(kind: str) -> str:
    if kind.startswith("rnn"):
        return "--clip-norm 0.25 and a lower --lr, or --cell lstm"
    return "--clip-norm 0.25 and a lower --lr"


def _vanishing_advice(best: LayerFlow, kind: str, cut: bool) -> str:
    if best.dead is not None and best.dead > DEAD:
        return f"a lower --lr: {best.dead:.0%} of the ReLU units are dead; or --cell lstm"
    if kind.startswith("rnn"):
        return "--cell lstm or gru, or --cell rnn --nonlinearity relu, which starts as the identity"
    return "inspect --memory: whether the text needs a longer memory" if cut else ""
