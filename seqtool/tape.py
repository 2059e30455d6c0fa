"""A recurrent stack run by its equations, with notes of everything that diagnostics asks about.

Shape letters: B windows of text side by side, T time steps, H units, G gates (blocks of rows in a
cell's weights), L layers, D directions (1 or 2). Windows have one length and no padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seqtool.cells import STEPS, RecurrentStack, State, Weights


@dataclass
class Track:
    """What one layer did over a window, in the order in which it read: one that reads back has its
    last step at the first element.

    ``nudges`` and ``pushes`` are zeros that were added on the way. The derivative of a cost with
    respect to them is the one with respect to what they were added to, at that time alone.
    """

    name: str  # of the layer, for people
    kind: str  # key of cells.STEPS
    weights: Weights
    ux: Tensor  # what the input adds to the gates, (T, B, G*H)
    states: list[State]  # before the first step and after each, T + 1 of them, each (B, H)
    nudges: tuple[Tensor, ...]  # added to each part of the state after a step, each (T, B, H)
    pushes: Tensor  # added to W h_{t-1} + b, (T, B, G*H)
    back: bool = False  # whether it read from the last element to the first

    @property
    def steps(self) -> int:
        """T."""
        return len(self.ux)

    def stacked(self, part: int = 0, *, steps: int = 0) -> Tensor:
        """One part of the state after each step, (T, B, H), or after each of the last ``steps``."""
        return torch.stack([state[part] for state in self.states[-steps or 1 :]])

    def before(self) -> State:
        """The state before each step, each (T, B, H)."""
        return tuple(torch.stack(parts) for parts in zip(*self.states[:-1], strict=True))


class Tape:
    """Runs a stack in place of its own ``forward`` and keeps a Track for each layer.

    Pass it to ``LanguageModel.through``, or call it with an input of one's own.
    """

    def __init__(
        self, stack: RecurrentStack, names: Sequence[str] = (), steps: int | None = None
    ) -> None:
        """Stand before a run.

        Args:
            stack: What to run.
            names: Of its layers, where they are not just numbered; L that read onward, then L that
                read back if it has any.
            steps: T, if they come one after the other in as many calls; None if all come in one.
        """
        self.stack = stack
        self.steps = steps
        self._begun: dict[int, Track] = {}
        count = stack.num_layers * len(stack.suffixes)
        self.names = names or [f"layer {layer}" for layer in range(1, count + 1)]
        self.tracks: list[Track] = []

    def __call__(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run all layers, without dropout.

        Args:
            x: Input, (B, T, E).
            state: State before the first time step, each (L*D, B, H), as RecurrentStack has it.

        Returns:
            Output of the last layer, (B, T, H*D), and the state after the last time step.
        """
        x = x.transpose(0, 1)  # (T, B, E)
        ways, steps = len(self.stack.suffixes), len(x)
        found = list[Track]()
        for place, start in enumerate(zip(*(part.unbind() for part in state), strict=True)):
            found.append(self._run_layer(*divmod(place, ways), x, start))
            if len(found) % ways == 0:
                heard = [
                    track.stacked(steps=steps).flip([0] * track.back) for track in found[-ways:]
                ]
                x = torch.cat(heard, dim=-1)
        ends = zip(*(track.states[-1] for track in found), strict=True)
        self.tracks = [track for way in range(ways) for track in found[way::ways]]
        return x.transpose(0, 1), tuple(torch.stack(parts) for parts in ends)

    def _run_layer(self, layer: int, way: int, x: Tensor, state: State) -> Track:
        step, weights = STEPS[self.stack.kind], self.stack.weights(layer, way)
        x = x.flip(0) if way else x
        ux = functional.linear(x, weights.weight_ih, weights.bias_ih)
        place = layer + way * self.stack.num_layers
        track = self._begun.get(place)
        if track is None:
            track = self._begun[place] = self._begin(place, ux, state)
        else:
            track.ux = torch.cat([track.ux, ux])
        now = slice(len(track.states) - 1, len(track.states) - 1 + len(x))
        zeros = (part[now].unbind() for part in (track.pushes, *track.nudges))
        for ux_t, push, *nudge in zip(ux.unbind(), *zeros, strict=True):
            after = step(ux_t, state, weights.weight_hh, weights.bias_hh + push)
            state = tuple(part + zero for part, zero in zip(after, nudge, strict=True))
            track.states.append(state)
        return track

    def _begin(self, place: int, ux: Tensor, state: State) -> Track:
        grad, steps = torch.is_grad_enabled(), self.steps or len(ux)
        nudges = tuple(part.new_zeros(steps, *part.shape).requires_grad_(grad) for part in state)
        pushes = ux.new_zeros(steps, *ux.shape[1:]).requires_grad_(grad)
        name, kind = self.names[place], self.stack.kind
        way, layer = divmod(place, self.stack.num_layers)
        weights = self.stack.weights(layer, way)
        return Track(name, kind, weights, ux, [state], nudges, pushes, bool(way))


def gradients(cost: Tensor, tracks: Sequence[Track]) -> list[tuple[Tensor, Tensor]]:
    """Derivatives of a cost at the end of a window by all that happened in it.

    Args:
        cost: Sum of one cost for each of the B windows, a scalar.
        tracks: As left by a Tape that the cost was computed through.

    Returns:
        For each layer dC/ds_t, all parts of the state side by side, (T, B, n), and dC/d(W h + b)
        at each time, (T, B, G*H).
    """
    leaves = [leaf for track in tracks for leaf in (*track.nudges, track.pushes)]
    found = iter(torch.autograd.grad(cost, leaves, retain_graph=True, materialize_grads=True))
    return [
        (torch.cat([next(found) for _ in track.nudges], dim=-1), next(found)) for track in tracks
    ]
