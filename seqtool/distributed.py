"""Several processes that train one model, as torchrun starts them; in a single one nothing changes.

Every process reads the same data in the same order and computes its share of each batch; gradients
are averaged by torch's DistributedDataParallel. What depends on a clock, on a signal or on chance
outside of the model is decided by process 0 and told to the others, and that process alone writes.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from seqtool.errors import ConfigError, SeqtoolError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    Array = npt.NDArray[Any]

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # in the environment, by torchrun

ValueT = TypeVar("ValueT")
PartT = TypeVar("PartT")


@dataclass(frozen=True)
class World:
    """Where this process stands among all."""

    rank: int = 0
    size: int = 1
    restarts: int = 0  # how often torchrun has started them all again

    @property
    def first(self) -> bool:
        """Whether this is the process that shows, writes and decides."""
        return self.rank == 0


def world() -> World:
    """What torchrun says in the environment; a world of one if nobody says anything.

    Raises:
        ConfigError: If what is there makes no sense.
    """
    if not all(name in os.environ for name in NAMES):
        return World()
    shown = ", ".join(f"{name}={os.environ[name]}" for name in NAMES[:2])
    try:
        rank, size = (int(os.environ[name]) for name in NAMES[:2])
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    except ValueError as err:
        raise ConfigError(f"{shown} must be whole numbers, as torchrun sets them") from err
    if not 0 <= rank < size:
        raise ConfigError(f"{shown}: the rank must be below the size; start with torchrun")
    return World(rank, size, restarts)


def stand_alone() -> bool:
    """Whether this process is the first, which from now on is a world of one and does it all."""
    here = world()
    if here.size > 1:
        for name in NAMES:
            del os.environ[name]
    return here.first


def join(device: "torch.device") -> None:
    """Wait for the other processes, and connect with them."""
    here = world()
    if here.size > 1:
        import torch
        import torch.distributed as dist

        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave() -> None:
    """End the connection, if there is one."""
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def share(count: int) -> slice:
    """This process's part of so many rows; the parts of all differ by one at most."""
    here = world()
    return slice(count * here.rank // here.size, count * (here.rank + 1) // here.size)


def portions(count: int, most: int) -> list[slice]:
    """So many rows in parts of up to ``most``, of which all processes get equally many."""
    number = world().size * -(-count // (world().size * most))
    bounds = [count * part // number for part in range(number + 1)] if number else []
    return [slice(begin, end) for begin, end in pairwise(bounds) if begin < end]


def weight(mine: float, all_of_them: float) -> float:
    """What a mean over this process's items counts, for the mean over processes to be that of all.

    Args:
        mine: Items of this process.
        all_of_them: Items of all processes.
    """
    return mine * world().size / all_of_them


def divide(rows: "Array", sizes: "Array") -> tuple["Array", float]:
    """This process's part of the rows of a batch, and the weight that makes the mean right.

    Args:
        rows: (B,), the same everywhere.
        sizes: How much each of them counts in the mean that is the loss, (B,), not all 0.

    Returns:
        Rows, at least one, since all processes must have gradients to average; and what the mean
        loss over them is to be multiplied by, for the mean over processes to be the loss of all.
    """
    part = share(len(rows))
    if part.start == part.stop:
        return rows[:1], 0.0
    return rows[part], weight(float(sizes[part].sum()), float(sizes.sum()))


def agree(value: ValueT) -> ValueT:
    """The value that process 0 has, for all; a value that pickle can carry."""
    if world().size == 1:
        return value
    import torch.distributed as dist

    carried = [value]
    dist.broadcast_object_list(carried, src=0)
    return carried[0]


def mean(value: "Tensor") -> float:
    """The mean of a number over all processes."""
    here = world()
    if here.size == 1:
        return value.item()
    import torch.distributed as dist

    total = value.detach().clone()
    dist.all_reduce(total)
    return total.item() / here.size


def gather(part: "Tensor", dim: int) -> "Tensor":
    """The parts of all processes, one behind the other; they may differ in size along ``dim``."""
    here = world()
    if here.size == 1:
        return part
    import torch
    import torch.distributed as dist

    sizes = [0] * here.size
    dist.all_gather_object(sizes, part.shape[dim])
    room = [*part.shape]
    room[dim] = max(sizes)
    padded = part.new_zeros(room)
    padded.narrow(dim, 0, part.shape[dim]).copy_(part)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([p.narrow(dim, 0, n) for p, n in zip(parts, sizes, strict=True)], dim)


def replicate(model: "nn.Module", compute: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a model whose gradients come out as the mean over all processes.

    Args:
        model: Its weights become those of process 0 everywhere.
        compute: A method of the model, such as its loss.

    Sparse gradients are not averaged here, see ``average_sparse``.
    """
    if world().size == 1:
        return compute
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    names = (name for name, _ in model.named_parameters())
    sparse = [f"model.{name}" for name in names if is_sparse(model, name)]

    class Replica(nn.Module):
        """The model with the method as its forward, the only one that torch listens to."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            # The name by which torch's wrapper looks for weights to leave alone.
            self._ddp_params_and_buffers_to_ignore = sparse

        def forward(self, *arguments: Any) -> Any:
            return compute(*arguments)

    replica = Replica()
    for name in sparse:
        dist.broadcast(replica.get_parameter(name).data, src=0)
    return DistributedDataParallel(replica)


def is_sparse(model: "nn.Module", name: str) -> bool:
    """Whether a weight's gradient is sparse: that of the n-gram tables is."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return bool(getattr(owner, "sparse", False))


def average_sparse(gradient: "Tensor") -> "Tensor":
    """The mean over all processes of sparse gradients (R, D) with one entry a row."""
    here = world()
    if here.size == 1:
        return gradient
    import torch

    rows = gather(gradient._indices()[0], 0)
    values = gather(gradient._values(), 0)
    used, places = torch.unique(rows, return_inverse=True)
    total = values.new_zeros(len(used), values.shape[1]).index_add_(0, places, values)
    return torch.sparse_coo_tensor(
        used[None], total / here.size, gradient.shape, is_coalesced=True, check_invariants=False
    )


def shared_out(parts: Iterable[PartT], work: Callable[[PartT], ValueT]) -> Iterator[ValueT]:
    """The results for parts of some work, in their order; each is worked out by one process only.

    Args:
        parts: The same in all processes.
        work: What is to be done with each; its result must be fit for pickle.

    Yields:
        In process 0 all results, in the others nothing.

    Raises:
        SeqtoolError: In process 0, after the results before it, what reading a part or the work
            raised anywhere; in the others what reading raised.
    """
    here = world()
    if here.size == 1:
        yield from map(work, parts)
        return
    import torch

    join(torch.device("cpu"))
    yield from _in_rounds(iter(parts), work, here)


def _in_rounds(
    parts: Iterator[PartT], work: Callable[[PartT], ValueT], here: World
) -> Iterator[ValueT]:
    """As ``shared_out``: in each round a part for every process, then all results to the first."""
    import torch.distributed as dist

    ended = False
    while not ended:
        mine: list[ValueT | SeqtoolError] = []
        why: SeqtoolError | None = None
        for rank in range(here.size):
            try:
                part = next(parts)
            except StopIteration:
                ended = True
                break
            except SeqtoolError as err:  # all of them meet it here; what comes before is answered
                ended, why = True, err
                break
            if rank == here.rank:
                mine.append(_done(work, part))
        found: list[list[ValueT | SeqtoolError]] = [[]] * here.size
        dist.gather_object(mine, found if here.first else None)
        results = [*chain.from_iterable(found)]
        ended = agree(ended or any(isinstance(result, SeqtoolError) for result in results))
        for result in results if here.first else ():
            if isinstance(result, SeqtoolError):
                raise result
            yield result
        if why is not None:
            raise why


def _done(work: Callable[[PartT], ValueT], part: PartT) -> ValueT | SeqtoolError:
    """The result of some work, or why there is none."""
    try:
        return work(part)
    except SeqtoolError as err:
        return err


def vary_chance(seed: int, step: int) -> None:
    """Let the other processes drop other units than process 0, repeatably at every step."""
    here = world()
    if not here.first:
        import torch

        torch.manual_seed(hash((seed, step, here.rank)) % 2**63)
