"""Recurrent layers on a CPU: whole sequences, forward and backward, at the speed of the machine.

Here torch's tensors are laid out for the compiled loops, threads are set to work on them, and the
result is made an autograd function. The values are those of the equations in cells.
"""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqtool import loops
from seqtool.loops import BLOCK_ROWS, Job, count_blocks
from seqtool.pointwise import KINDS
from seqtool.tiles import ABREAST, COLUMNS

# Panels of the gates whose gradients of the weights are summed together, reading the input once;
# and of weights that are packed together.
GROUP = 8 * ABREAST


@cache
def _openmp() -> Callable[..., None] | None:
    """How torch's own OpenMP library starts a parallel region, if it is one that can be asked.

    Threads of our own would share the cores with torch's, which wait for their next region in a
    busy loop; in torch's team there is nothing to share.
    """
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            start: Callable[..., None] = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):  # not a library to load, or another OpenMP
            continue
        start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]  # type: ignore[attr-defined]
        start.restype = None  # type: ignore[attr-defined]
        return start
    return None


@cache
def _team(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")


def run(loop: int, job: np.ndarray, size: int, best: int) -> None:
    """Run a compiled loop on as many threads as torch uses.

    Args:
        loop: Its address.
        job: What it works on, see Job.
        size: Rows or panels to share among them.
        best: How many a block should have.
    """
    count = count_blocks(size, best, torch.get_num_threads())
    job[Job.NEXT], job[Job.BLOCKS] = 0, count
    threads = min(torch.get_num_threads(), count)
    start = _openmp()
    if threads > 1 and start is not None:
        start(loop, job.ctypes.data, threads, 0)
        return
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(loop)  # lets other Python threads run
    others = [_team(threads - 1).submit(call, job.ctypes.data) for _ in range(threads - 1)]
    call(job.ctypes.data)
    for other in others:
        other.result()


def padded(size: int) -> int:
    """The size of whole panels that hold so many columns."""
    return -(-size // COLUMNS) * COLUMNS


def num_areas(kind: str) -> int:
    """Blocks of numbers that a unit keeps of a time step."""
    return loops.areas(KINDS.index(kind))[0]


def input_areas(blocks: Tensor, kind: str) -> Tensor:
    """Gate blocks (G, ...) of the input in torch's order to that of areas: the GRU's n is first."""
    return blocks.roll(1, 0) if kind == "gru" else blocks


def torch_order(blocks: Tensor, kind: str) -> Tensor:
    """The inverse of ``input_areas``."""
    return blocks.roll(-1, 0) if kind == "gru" else blocks


class _Layer(torch.autograd.Function):
    """One layer in one direction over a sequence."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        kind: str,
        backward: bool,
        keep: bool,
        lengths: Tensor | None,
        *start: Tensor,
    ) -> tuple[Tensor, ...]:
        """x (T, B, E), start each (B, H) to states (T + 1, B, H) and the final state."""
        steps, rows, inputs = x.shape
        size = weight_hh.shape[1]
        gates = len(weight_hh) // size
        width, depth = num_areas(kind) * padded(size), gates * padded(size)
        x = x.contiguous()
        states = x.new_empty(steps + 1, rows, size)
        states[-1 if backward else 0] = start[0]
        cells = None
        if kind == "lstm":
            cells = torch.empty_like(states)
            cells[-1 if backward else 0] = start[1]
        activity = x.new_empty(steps if keep else 1, rows, width)

        bias = x.new_zeros(width // padded(size), padded(size))
        bias[:gates, :size] = input_areas(bias_ih.view(gates, size), kind)
        bias[-gates:, :size] += bias_hh.view(gates, size)
        tensors = {
            Job.LENGTHS: lengths,
            Job.X: x,
            Job.BIAS: bias,
            Job.MATRIX_IH: weight_ih.contiguous(),
            Job.MATRIX_HH: weight_hh.contiguous(),
            Job.WEIGHT_IH: x.new_empty(depth * inputs),
            Job.WEIGHT_HH: x.new_empty(depth * size),
            Job.STATES: states,
            Job.CELLS: cells,
            Job.GATES: activity,
        }
        counts = {Job.BACKWARD: int(backward), Job.STEPS: steps, Job.ROWS: rows}
        counts |= {Job.INPUT: inputs, Job.HIDDEN: size, Job.KEEP: int(keep)}
        job = make_job(counts, tensors)
        run(loop("rows to panels", kind, x), job, 2 * depth // COLUMNS, GROUP)
        run(loop("forward", kind, x), job, rows, BLOCK_ROWS)
        ctx.save_for_backward(x, weight_ih, weight_hh, states, cells, activity, lengths)
        ctx.counts, ctx.kind = counts, kind
        last = 0 if backward else -1
        output = states[:-1] if backward else states[1:]
        if lengths is not None:
            times = torch.arange(steps)
            output = output * (times[:, None] < lengths)[:, :, None]
        return output, *(part[last].clone() for part in (states, cells) if part is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *grad_final: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of everything that ``forward`` got."""
        x, weight_ih, weight_hh, states, cells, activity, lengths = ctx.saved_tensors
        kind = ctx.kind
        steps, rows, inputs = x.shape
        size = weight_hh.shape[1]
        gates = len(weight_hh) // size
        width = activity.shape[2]
        depth = gates * padded(size)
        grad_state = x.new_zeros(rows, padded(size))
        grad_state[:, :size] = grad_final[0]
        grad_cell = grad_final[1].clone() if cells is not None else None
        grad_x = x.new_empty(steps, rows, padded(inputs)) if ctx.needs_input_grad[0] else None

        grad_ih = x.new_empty(gates, padded(size), inputs)
        grad_hh = x.new_empty(gates, padded(size), size)
        grad_bias = x.new_empty(width // padded(size), padded(size))
        tensors = {
            Job.LENGTHS: lengths,
            Job.X: x,
            Job.MATRIX_IH: weight_ih.contiguous(),
            Job.MATRIX_HH: weight_hh.contiguous(),
            Job.WEIGHT_IH: x.new_empty(depth * padded(inputs)) if grad_x is not None else None,
            Job.WEIGHT_HH: x.new_empty(depth * padded(size)),
            Job.STATES: states,
            Job.CELLS: cells,
            Job.GATES: activity,
            Job.GRAD_OUTPUT: grad_output.contiguous(),
            Job.GRAD_STATE: grad_state,
            Job.GRAD_CELL: grad_cell,
            Job.GRAD_GATES: x.new_empty(steps, rows, width + COLUMNS),
            Job.GRAD_X: grad_x,
            Job.GRAD_WEIGHT_IH: grad_ih,
            Job.GRAD_WEIGHT_HH: grad_hh,
            Job.GRAD_BIAS: grad_bias,
        }
        job = make_job(ctx.counts, tensors)
        columns = padded(size) + (padded(inputs) if grad_x is not None else 0)
        run(loop("columns to panels", kind, x), job, columns // COLUMNS, GROUP)
        run(loop("backward", kind, x), job, rows, BLOCK_ROWS)
        run(loop("weights", kind, x), job, width // COLUMNS, GROUP)
        return (
            grad_x[..., :inputs] if grad_x is not None else None,
            torch_order(grad_ih[:, :size], kind).reshape(weight_ih.shape),
            grad_hh[:, :size].reshape(weight_hh.shape),
            torch_order(grad_bias[:gates, :size], kind).reshape(-1),
            grad_bias[-gates:, :size].reshape(-1),
            *(None, None, None, None),
            grad_state[:, :size],
            *((grad_cell,) if grad_cell is not None else ()),
        )


def make_job(counts: dict[Job, int], tensors: dict[Job, Tensor | None]) -> np.ndarray:
    """The job array; the tensors must outlive its use."""
    job = np.zeros(len(Job), np.int64)
    for place, count in counts.items():
        job[place] = count
    for place, tensor in tensors.items():
        if tensor is not None:
            assert tensor.is_contiguous(), place
            job[place] = tensor.data_ptr()
    return job


def loop(name: str, kind: str, x: Tensor) -> int:
    """The address of a loop for numbers like those of x."""
    return loops.loop(name, kind, np.float32 if x.dtype == torch.float32 else np.float64)


def run_layer(
    kind: str,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    backward: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one layer in one direction over a batch of sequences.

    Args:
        kind: One of KINDS.
        x: Input, (B, T, E), on the CPU, float32 or (slower, for checks) float64.
        state: Before the first step taken, each (B, H).
        weights: weight_ih, weight_hh, bias_ih, bias_hh as in cells.
        backward: Read from the last time step to the first.
        lengths: Steps that each row really has, (B,) int64; all T if not given. Past them the state
            stays as it is and the output is zero.

    Returns:
        h at every time, (B, T, H), in the order of x, and the state after the last step taken.
    """
    # The gradient of a simple RNN needs the states only.
    keep = torch.is_grad_enabled() and kind in ("lstm", "gru")
    arguments = (*weights, kind, backward, keep, lengths, *state)
    output, *final = _Layer.apply(x.transpose(0, 1), *arguments)
    return output.transpose(0, 1), tuple(final)
