"""Recurrent layers on a CPU without torch: the compiled forward loops of training, on arrays.

What a trained model reads whole sequences with. Loading torch takes longer than judging ten
thousand lines. A sequence's numbers are the same to the bit whatever stands beside it, however far
it is padded and on any number of threads.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.config import ClassifierConfig, TaggerConfig
from seqtool.loops import BLOCK_ROWS, Job, areas, count_blocks, loop
from seqtool.pointwise import KINDS, kind_of
from seqtool.team import Team
from seqtool.tiles import COLUMNS

Floats = npt.NDArray[np.float32]


class Layer:
    """One recurrent layer in one direction."""

    def __init__(
        self,
        config: ClassifierConfig | TaggerConfig,
        weights: Mapping[str, Floats],
        stack: str,
        layer: str,
        *,
        backward: bool = False,
    ) -> None:
        """Pack weights for the loops; compiles these if that was never done.

        Args:
            config: Its cell; units drawn by chance give their probabilities.
            weights: By name, as in a model file.
            stack: What the names begin with, up to the dot.
            layer: ``l0``, ``l1`` or, as in torch, ``l0_reverse``.
            backward: Reads from the last time step to the first.
        """
        smooth = "sigmoid" if config.nonlinearity == "stochastic" else config.nonlinearity
        kind = kind_of(config.cell, smooth)
        self._areas, from_input = areas(kind)
        self._backward = backward
        self._memory = config.cell == "lstm"
        weight_ih, weight_hh, bias_ih, bias_hh = (
            weights[f"{stack}.{part}_{layer}"]
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        self.inputs, self.size = weight_ih.shape[1], weight_hh.shape[1]
        self._padded = -(-self.size // COLUMNS) * COLUMNS
        # Of a GRU, what the input adds to the candidate stands first, what the state adds last.
        turn = 1 if config.cell == "gru" else 0
        self._ih = self._panels(np.roll(weight_ih.reshape(from_input, self.size, -1), turn, 0))
        self._hh = self._panels(weight_hh.reshape(from_input, self.size, -1))
        self._bias = np.zeros((self._areas, self._padded), np.float32)
        self._bias[:from_input, : self.size] = np.roll(bias_ih.reshape(from_input, -1), turn, 0)
        self._bias[-from_input:, : self.size] += bias_hh.reshape(from_input, -1)
        address = loop("forward", KINDS[kind], np.float32)
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)

    def _panels(self, blocks: Floats) -> Floats:
        """Gate blocks (G, H, K) as panels of sixteen columns, (G P / 16, K, 16)."""
        grown = np.zeros((len(blocks), self._padded, blocks.shape[2]), np.float32)
        grown[:, : self.size] = blocks
        return np.ascontiguousarray(grown.reshape(-1, COLUMNS, blocks.shape[2]).transpose(0, 2, 1))

    def run(self, x: Floats, lengths: npt.NDArray[np.int64], team: Team) -> Floats:
        """Read sequences side by side from the zero state.

        Args:
            x: (T, B, E); what stands after an end does not matter.
            lengths: Of the sequences, (B,), each from 1 to T.
            team: Threads.

        Returns:
            h, (T + 1, B, H): that at time t is in place t + 1, backward in place t. Past its end a
            sequence keeps its last state, so that the last place, backward the first, holds it.
        """
        steps, rows = x.shape[:2]
        states = np.zeros((steps + 1, rows, self.size), np.float32)
        arrays: dict[Job, npt.NDArray[Any]] = {
            Job.LENGTHS: np.ascontiguousarray(lengths, np.int64),
            Job.X: np.ascontiguousarray(x, np.float32),
            Job.BIAS: self._bias,
            Job.WEIGHT_IH: self._ih,
            Job.WEIGHT_HH: self._hh,
            Job.STATES: states,
            Job.CELLS: np.zeros(states.shape if self._memory else 0, np.float32),
            Job.GATES: np.empty((1, rows, self._areas * self._padded), np.float32),
        }
        job = np.zeros(len(Job), np.int64)
        for place, array in arrays.items():
            job[place] = array.ctypes.data
        counts = {Job.BACKWARD: self._backward, Job.STEPS: steps, Job.ROWS: rows}
        counts |= {Job.INPUT: self.inputs, Job.HIDDEN: self.size}
        counts |= {Job.BLOCKS: count_blocks(rows, BLOCK_ROWS, team.threads)}
        for place, count in counts.items():
            job[place] = count

        def work(thread: int, threads: int) -> int:
            self._call(job.ctypes.data)
            return 0

        team.run(work, self.size, steps * rows)
        return states
