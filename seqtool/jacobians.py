"""How one state depends on an earlier one: the product of the Jacobians of the steps between.

    ds_T/ds_t = J_T J_{T-1} ... J_{t+1},  J_k = ds_k/ds_{k-1}

Its norm vanishes or explodes with the lag T - t (Hochreiter 1991; Bengio, Simard & Frasconi 1994,
doi:10.1109/72.279181; Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, section 2). Within one
layer; an upper layer does not act on the ones below. An LSTM's state is (h, c), n = 2H numbers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torch.nn import functional

from seqtool.cells import STEPS
from seqtool.tape import Track

EXACT_SIZE = 256  # a larger state than this is probed, not multiplied out
PROBES = 4  # directions followed at once
ITERATIONS = 4  # of the power method; its result is a lower bound, mostly within a few per cent


def lag_grid(window: int) -> list[int]:
    """Lags to measure at: 1, 2, 3, 4, 6, 8, 12, 16, ... and the window itself."""
    grid = {window}
    power = 1
    while power <= window:
        grid |= {power, power * 3 // 2} if power > 1 else {1}
        power *= 2
    return sorted(lag for lag in grid if lag <= window)


def jacobian_norms(track: Track, lags: list[int], window: int = 0) -> np.ndarray:
    """The largest factor by which a small change of s_t can grow or shrink until s_T.

    Multiplied out for a state of up to 256 numbers. For a larger one the power method on the
    product's square, with four directions at once: a lower bound.

    Args:
        track: What a layer did, over T steps.
        lags: Distances T - t, rising, each from 1 to T.
        window: Which of the B windows.

    Returns:
        Spectral norms of ds_T/ds_t, (len(lags),) float64.
    """
    states = torch.stack([torch.cat(state, dim=-1)[window] for state in track.states[:-1]])
    states, ux = states.detach().double(), track.ux[:, window].detach().double()
    step = _flat_step(track)
    if states.shape[1] <= EXACT_SIZE:
        return _exact(step, states, ux, lags)
    pairs = zip(states[-lags[-1] :], ux[-lags[-1] :], strict=True)
    steps = [_Linear(step, *pair, copies=PROBES) for pair in pairs]
    return np.array([_probed(steps[-lag:], states.shape[1]) for lag in lags])


def is_exact(track: Track) -> bool:
    """Whether ``jacobian_norms`` multiplies out."""
    return sum(part.shape[-1] for part in track.states[0]) <= EXACT_SIZE


def slopes(track: Track) -> Tensor:
    """g'(a_t) of a simple recurrent layer at every time, (T, B, H)."""
    s = track.stacked().detach()
    if track.kind == "rnn_tanh":
        return 1 - s * s
    if track.kind == "rnn_relu":
        return (s > 0).to(s.dtype)
    h, (_, w, _, b) = track.before()[0], track.weights
    p = torch.sigmoid(track.ux + functional.linear(h, w, b)).detach()
    return p * (1 - p)


def bound(track: Track, lags: list[int], window: int = 0) -> np.ndarray | None:
    """What theory allows a simple recurrent layer at most: the product of |W| max |g'(a_k)|.

    Pascanu et al. 2013, equation 7, with the slopes that were met instead of their limit. Gated
    layers have no such bound, None: their memory does not pass through a product with W.
    """
    if not track.kind.startswith("rnn"):
        return None
    norm = float(torch.linalg.matrix_norm(track.weights.weight_hh.detach().double(), 2))
    factors = norm * slopes(track)[:, window].double().amax(dim=-1)  # (T,)
    products = torch.cumprod(factors.flip(0), dim=0)
    found: np.ndarray = products[[lag - 1 for lag in lags]].numpy(force=True)
    return found


def spectral_radii(track: Track, names: tuple[str, ...]) -> dict[str, float]:
    """The largest absolute eigenvalue of each gate's block of W, by the gate's name."""
    blocks = track.weights.weight_hh.detach().double().chunk(len(names))
    return {
        name: float(torch.linalg.eigvals(block).abs().max())
        for name, block in zip(names, blocks, strict=True)
    }


def _flat_step(track: Track) -> Callable[[Tensor, Tensor], Tensor]:
    """One step of the layer as a function of the state as one vector (n,), and ux (G*H,)."""
    parts = len(track.states[0])
    weight = track.weights.weight_hh.detach().double()
    bias = track.weights.bias_hh.detach().double()

    def step(state: Tensor, ux: Tensor) -> Tensor:
        after = STEPS[track.kind](ux, state.chunk(parts, dim=-1), weight, bias)
        return torch.cat(after, dim=-1)

    return step


def _exact(
    step: Callable[[Tensor, Tensor], Tensor], states: Tensor, ux: Tensor, lags: list[int]
) -> np.ndarray:
    longest = lags[-1]
    # A stochastic unit's draw has no part in its derivative, but vmap wants to be told.
    each = vmap(jacrev(step), randomness="different")(states[-longest:], ux[-longest:])
    product, norms = torch.eye(states.shape[1], dtype=states.dtype, device=states.device), []
    for lag in range(1, longest + 1):
        product = product @ each[-lag]
        if lag in lags:
            finite = bool(product.isfinite().all())
            norms.append(float(torch.linalg.matrix_norm(product, 2)) if finite else float("inf"))
    return np.array(norms)


class _Linear:
    """One step as the linear map J that it is to small changes of the state."""

    def __init__(
        self, step: Callable[[Tensor, Tensor], Tensor], state: Tensor, ux: Tensor, copies: int
    ) -> None:
        """Keep the graph of a step from ``state`` (n,), for that many changes side by side."""
        with torch.enable_grad():
            self.state = state.expand(copies, -1).clone().requires_grad_()
            self.after = step(self.state, ux)
            # J^T u is linear in u, whatever u: the derivative of that by u is J.
            self.dummy = torch.zeros_like(self.after).requires_grad_()
            (self.pulled,) = torch.autograd.grad(
                self.after, self.state, self.dummy, create_graph=True
            )

    def push(self, changes: Tensor) -> Tensor:
        """J v for each change v of the state before, (copies, n)."""
        (found,) = torch.autograd.grad(self.pulled, self.dummy, changes, retain_graph=True)
        return found

    def pull(self, gradients: Tensor) -> Tensor:
        """J^T u for each gradient u by the state after, (copies, n)."""
        (found,) = torch.autograd.grad(self.after, self.state, gradients, retain_graph=True)
        return found


def _probed(steps: Sequence[_Linear], size: int) -> float:
    """The largest singular value of the product of the steps, from below."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(size, PROBES, generator=generator, dtype=torch.float64)
    probes = torch.linalg.qr(probes.to(steps[0].state.device)).Q.T  # (PROBES, n)
    largest = 0.0
    for _ in range(ITERATIONS):
        for step in steps:
            probes = step.push(probes)
        if not probes.isfinite().all():
            return float("inf")
        largest = max(largest, float(torch.linalg.matrix_norm(probes, 2)))
        probes = torch.nn.functional.normalize(probes, dim=1)  # what vanishes must not underflow
        for step in reversed(steps):
            probes = step.pull(probes)
        probes = torch.linalg.qr(probes.T).Q.T
    return largest
