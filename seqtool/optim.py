"""One training update: clip the gradients, move the weights, average them.

The learning-rate schedule is a pure function of the step and of the number of steps, flat until its
decay begins, so a run whose length is still being measured is the same run as one told its length
beforehand. What is left out: the model, the data and the loss.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seqtool.config import TrainConfig
from seqtool.distributed import average_sparse
from seqtool.ngrams import NgramTables

# The average takes in the weights at every eighth update: it saves memory traffic, not accuracy.
AVERAGE_EVERY = 8
# Where a table's sums of squares start, for gradients of the summed loss: fitted from 1 to 100.
TABLE_START = 10.0


def decay_start(config: TrainConfig) -> int:
    """First step of the falling part of the schedule."""
    steps = config.bends[0][1] if config.bends else config.steps
    return math.ceil(steps * (1 - config.decay))


def fewest_steps(step: int, config: TrainConfig) -> int:
    """Least run length for which everything done before ``step`` stays as it was.

    With a decay of 1 no part is flat and there is none; then this is merely long enough.
    """
    return math.floor(step / (1 - config.decay)) + 1 if config.decay < 1 else step + 1


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of an update: linear warm-up, flat, then linear to the floor at the last one.

    "Warmup-stable-decay" (Hu et al. 2024, arXiv:2404.06395, section 4). Where the length of the run
    was changed during the fall (``bends``), the line goes on from the rate reached to the new end.

    Args:
        step: Index of the update, from 0.
        config: ``lr`` is the peak; ``warmup`` and ``steps`` count updates.
    """
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    begin, height = decay_start(config), 1.0
    for at, steps in (*config.bends, (config.steps, config.steps)):
        if step < at:
            break
        height *= _line(at, begin, steps)
        begin = at
    fall = height * _line(step, begin, steps)
    return config.lr * rise * (config.lr_floor + (1 - config.lr_floor) * fall)


def _line(step: int, begin: int, steps: int) -> float:
    """1 up to ``begin``, then straight to 0 at the last of ``steps``."""
    return 1.0 if step < begin else max(0.0, (steps - 1 - step) / max(1, steps - 1 - begin))


def clip(parameters: Iterable[Tensor], config: TrainConfig) -> float:
    """Limit the gradients in place, by entry and then by global norm.

    Source: Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, algorithm 1 (norm); Mikolov 2012, PhD
    thesis, section 3.2.2 (value).

    Returns:
        The global norm before clipping; not finite if any entry is not.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    values = [g._values() if g.is_sparse else g for g in gradients]
    norm = torch.stack([torch.linalg.vector_norm(v) for v in values]).norm()
    total = float(norm)
    if config.clip_value:
        for value in values:
            value.clamp_(-config.clip_value, config.clip_value)
    if config.clip_norm and math.isfinite(total):
        if config.clip_value:
            norm = torch.stack([torch.linalg.vector_norm(v) for v in values]).norm()
        if float(norm) > config.clip_norm:
            torch._foreach_mul_(values, config.clip_norm / float(norm))
    return total


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad for tables whose coalesced sparse gradients touch a few rows at a time.

    Source: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods", figure 1. The sum of squares
    starts above zero, so a row seen once or twice moves little: Adam would move it as far as a row
    seen a thousand times, and so learn rare n-grams by heart (0.03 nats per character worse on
    held-out text after two epochs). torch.optim.Adagrad does the same arithmetic through sparse
    tensors at many times the cost.
    """

    def __init__(self, tables: Iterable[Tensor], lr: float, *, initial: float) -> None:
        """Take the tables, each (R, D).

        Args:
            tables: What to move.
            lr: Learning rate.
            initial: What every sum of squared gradients starts from, above 0.
        """
        super().__init__(tables, {"lr": lr, "initial": initial})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient; ``closure`` is not called."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["sum"] = torch.full_like(table, group["initial"])
                # ngrams gives every row once, but autograd forgets that it is coalesced.
                shared = average_sparse(table.grad)
                rows, gradient = shared._indices()[0], shared._values()
                # Not by indexing or index_add_, which take two to four times as long.
                total = state["sum"].index_select(0, rows).addcmul_(gradient, gradient)
                state["sum"].index_copy_(0, rows, total)
                moved = table.index_select(0, rows)
                moved.addcdiv_(gradient, total.sqrt_(), value=-group["lr"])
                table.index_copy_(0, rows, moved)


class Updater:
    """Moves a model's weights after ``backward`` and keeps their running average.

    Weights that require no gradient stay as they are.

    Dense matrices have decoupled weight decay, vectors none. Embedding tables with sparse gradients
    are moved by Adagrad on the rows they touch, at ``table_lr``, whatever moves the rest.
    The average is exponential; its horizon shrinks with the learning rate, because it is there to
    cancel the noise that the learning rate makes (Polyak & Juditsky 1992; Sandler et al. 2023,
    arXiv:2307.06515): where the schedule ends at zero the average ends at the weights themselves.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.names: dict[Tensor, str] = {
            p: name for name, p in model.named_parameters() if p.requires_grad
        }
        tables = {m.weight for m in model.modules() if isinstance(m, NgramTables)}
        tables &= self.names.keys()
        self.dense = [p for p in self.names if p not in tables]
        # Of several networks side by side each is clipped as if it learned alone.
        alone = model if isinstance(model, nn.ModuleList) else [model]
        dense = {*self.dense}
        self.clipped = [[p for p in one.parameters() if p in dense] for one in alone]
        self.matrices = [p for p in self.dense if p.ndim > 1]
        self.optimizers = [_dense_optimizer(self.dense, config)]
        self.peaks = [config.lr]
        if tables:
            # The loss is a mean over the batch; the start is meant for the gradient of its sum.
            initial = TABLE_START / (config.batch_size * config.bptt) ** 2
            rows = [p for p in self.names if p in tables]
            self.optimizers.append(RowAdagrad(rows, config.table_lr, initial=initial))
            self.peaks.append(config.table_lr)
        self.last_lr = 0.0
        self.average: list[Tensor] = (
            [p.detach().clone() for p in self.names] if config.average else []
        )

    def zero_grad(self) -> None:
        """Forget the gradients of the last update."""
        for p in self.names:
            p.grad = None

    def update(self, step: int, *, lr_scale: float = 1.0) -> float:
        """Clip, step and average.

        Args:
            step: Index of the update, from 0; sets the learning rate.
            lr_scale: What rescues from divergence have left of the learning rate, in (0, 1].

        Returns:
            The gradient norm of the dense weights before clipping, of several networks the root
            mean square. If it is not finite, nothing is changed.
        """
        norms = [clip(dense, self.config) for dense in self.clipped]
        norm = math.hypot(*norms) / math.sqrt(len(norms))
        if not math.isfinite(norm):
            return norm
        self.last_lr = lr_scale * learning_rate(step, self.config)
        relative = self.last_lr / self.config.lr
        if self.config.optimizer != "adam":  # AdamW does it itself
            with torch.no_grad():
                torch._foreach_mul_(self.matrices, 1 - self.last_lr * self.config.weight_decay)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * relative
            optimizer.step()
        every = min(AVERAGE_EVERY, self.config.eval_every)  # each look sees another average
        due = step % every == every - 1 or step == self.config.steps - 1
        if self.average and due:
            # Young averages forget faster: otherwise they would remember the random start.
            horizon = min(self.config.average * relative, step / 10) / every
            weight = 1 / (1 + horizon)
            torch._foreach_lerp_(self.average, [p.detach() for p in self.names], weight)
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this block the model holds the averaged weights (no copy is made)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for i, p in enumerate(self.names if self.average else ()):
            mine = p.data
            p.data = self.average[i]
            self.average[i] = mine

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the weights that the next update depends on, by name."""
        found = {}
        for p, average in zip(self.names, self.average, strict=False):
            found[f"average.{self.names[p]}"] = average
        for optimizer in self.optimizers:
            for p, state in optimizer.state.items():
                for key, value in state.items():
                    if value is not None:
                        found[f"optimizer.{key}.{self.names[p]}"] = value
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` gave."""
        by_name = {name: p for p, name in self.names.items()}
        for i, name in enumerate(by_name if self.average else ()):
            self.average[i].copy_(tensors[f"average.{name}"])
        owner = {p: o for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for full_name, value in tensors.items():
            kind, _, rest = full_name.partition(".")
            if kind != "optimizer":
                continue
            key, _, name = rest.partition(".")
            p = by_name[name]
            owner[p].state[p][key] = value.to(p.device, copy=True)


def _dense_optimizer(parameters: Sequence[Tensor], config: TrainConfig) -> torch.optim.Optimizer:
    lr = config.lr
    if config.optimizer == "adam":
        groups: list[dict[str, object]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr, betas=(config.momentum, config.beta2), fused=True)
    # What these two call weight decay adds to the gradient, so Updater does it instead.
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, alpha=config.beta2, foreach=True)
    return torch.optim.SGD(
        parameters, lr=lr, momentum=config.momentum, nesterov=config.momentum > 0
    )
