"""How well a language model of torch predicts a text: exact, fast, and adapting scores.

Ids come in, negative log-likelihoods (nll) in nats go out: nothing here reads files or sees text.
The cheap methods to compare with are in baselines.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.decode import State
from seqtool.models import LanguageModel
from seqtool.surprisal import Position

EPSILON = 1e-3  # keeps the steps of weights with hardly any gradient small
PIECE = 1 << 16  # tokens of a text that may be mapped from a file looked through at once
BLOCK = 256  # tokens per call of an exact score; longer ones are hardly faster
MAX_LOGITS = 1 << 22  # logits held at once by a fast score, 16 MB
TINY = 1e-30  # in place of 0 as a divisor
SEED = 0  # of the noise in stochastic units, so that a score is repeatable


class Scorer:
    """Scores a text of any length token by token, in constant memory, with carried state.

    The text is cut into blocks, counted from where the scorer began, and a block is always computed
    at its full length, the part not yet known filled up (what follows a token cannot change its
    score). So the arithmetic on a token is the same, to the bit, however the text is pushed. A push
    that ends inside a block makes the next one compute that block again: push large pieces.
    """

    block = BLOCK

    def __init__(
        self,
        model: LanguageModel,
        start_id: int,
        state: State | None = None,
        last_id: int | None = None,
        pending: np.ndarray | None = None,
    ) -> None:
        """Begin a text, or go on with one.

        Args:
            model: Scores the text; neither its weights nor its mode are changed.
            start_id: What the model reads before the first token of a text.
            state: State to go on from, each (L, 1, H); zero if not given.
            last_id: Last token of the text that led to ``state``, not yet read; ``start_id`` if not
                given.
            pending: Tokens already scored after ``last_id``, from ``position``.
        """
        self._model = model
        self._device = model.embedding.weight.device
        self._state = model.init_state(1) if state is None else self._to_tensors(state)
        self._last_id = start_id if last_id is None else last_id
        self._pending = np.empty(0, np.int64)
        if pending is not None:
            self.push(pending)

    @property
    def last_id(self) -> int:
        """The last token scored: the next one the model has to read."""
        return int(self._pending[-1]) if len(self._pending) else self._last_id

    @property
    def state(self) -> State:
        """The state before ``last_id`` is read, each (L, 1, H): enough to go on writing.

        Scoring that goes on from here equals one long pass up to rounding; from ``position``, to
        the bit.
        """
        state = self._state
        if len(self._pending):
            ids = np.array([self._last_id, *self._pending[:-1]])
            with evaluating(self._model), torch.inference_mode():
                _, state = self._model(self._to_batch(ids), state)
        return tuple(part.numpy(force=True).copy() for part in state)

    @property
    def position(self) -> Position:
        """What another Scorer needs to go on exactly as this one would."""
        state = tuple(part.numpy(force=True).copy() for part in self._state)
        return Position(state, self._last_id, self._pending.copy())

    def push(self, ids: np.ndarray) -> np.ndarray:
        """Score more of the text.

        Args:
            ids: Next tokens, (T,) of any integer type, T may be 0.

        Returns:
            Nll of each given all before it, (T,) float64, in nats.
        """
        nll = np.empty(len(ids))
        done = 0
        while done < len(ids):
            piece = np.asarray(ids[done : done + self.block - len(self._pending)], np.int64)
            self._pending = np.concatenate([self._pending, piece])
            nll[done : done + len(piece)] = self._score_pending()[-len(piece) :]
            done += len(piece)
        return nll

    def _score_pending(self) -> np.ndarray:
        """Nll of all pending tokens; when they fill a block, begin the next one."""
        with evaluating(self._model), torch.inference_mode():
            nll, state = self._forward()
        scored: np.ndarray = nll.numpy(force=True)[: len(self._pending)]
        self._finish_block(state)
        return scored

    def _forward(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Nll of every token of the block, (block,), and the state after it."""
        targets = np.full(self.block, self._last_id)
        targets[: len(self._pending)] = self._pending
        inputs = self._to_batch(np.concatenate([[self._last_id], targets[:-1]]))
        logits, state = self._model(inputs, self._state)
        return _nll(logits, self._to_batch(targets))[0], state

    def _finish_block(self, state: tuple[Tensor, ...]) -> None:
        if len(self._pending) == self.block:
            self._state = state
            self._last_id = int(self._pending[-1])
            self._pending = self._pending[:0]

    def _to_batch(self, ids: np.ndarray) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64))[None].to(self._device)

    def _to_tensors(self, state: State) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(part, device=self._device) for part in state)


class DynamicScorer(Scorer):
    """Scores a text while learning from what it has already scored: dynamic evaluation.

    After each segment has been scored, and only then, the weights take a gradient step on it and
    decay towards the trained ones:

        w <- w - lr * g / (rms + epsilon) + decay * (rms / mean rms) * (w_trained - w)

    Source: Krause, Kahembwe, Murray & Renals 2018, arXiv:1709.07432, section 5, RMS with RMS
    decay. There rms, the root mean square of each weight's gradient, is measured on the training
    text beforehand. That text may be gone when a model is evaluated, so here the mean is over the
    segments scored so far, the present one included. Of a table with sparse gradients only the rows
    that a segment reads are touched. It works on a copy of the model.

    lr and decay suit character models of some 300 thousand weights on 1 MB of text; twice the lr
    gained more on models trained briefly.
    """

    def __init__(
        self,
        model: LanguageModel,
        start_id: int,
        *,
        lr: float = 5e-4,
        decay: float = 2e-3,
        segment: int = 20,
    ) -> None:
        """Begin a text.

        Args:
            model: The trained model; it is copied, never altered.
            start_id: What the model reads before the first token.
            lr: Step of a weight whose gradient is as large as usual; 0 scores statically.
            decay: Fraction of the way back to the trained weights, for the average weight, at each
                step.
            segment: Tokens scored, then learned from, at a time.

        Raises:
            ValueError: If segment is below 1.
        """
        if segment < 1:
            raise ValueError(f"segment must be at least 1, got {segment}")
        super().__init__(copy.deepcopy(model), start_id)
        self.block = segment
        self.lr = lr
        self.decay = decay
        self._weights = [weight.requires_grad_() for weight in self._model.parameters()]
        self._trained = [weight.detach().clone() for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._trained]
        self._num_steps = 0

    def _score_pending(self) -> np.ndarray:
        if len(self._pending) < self.block:
            return super()._score_pending()
        with evaluating(self._model):
            nll, state = self._forward()
            gradients = torch.autograd.grad(nll.mean(), self._weights)
        scored: np.ndarray = nll.numpy(force=True)
        self._finish_block(tuple(part.detach() for part in state))
        self._adapt(gradients)
        return scored

    @torch.no_grad()
    def _adapt(self, gradients: tuple[Tensor, ...]) -> None:
        """One step on the gradients of a segment that has been scored."""
        self._num_steps += 1
        scale = math.sqrt(self._num_steps)  # from rms to the root of the summed squares
        touched = [_rows(gradient) for gradient in gradients]
        roots = []  # scale * rms of the rows touched
        total, count = 0.0, 0
        for square, (rows, change) in zip(self._squares, touched, strict=True):
            square[rows] += change.square()
            roots.append(square[rows].sqrt())
            if isinstance(rows, slice):  # tables of mostly zeros would drown the average
                total += float(roots[-1].sum())
                count += square.numel()
        pull = self.decay / max(total / count, TINY)
        for weight, trained, root, (rows, change) in zip(
            self._weights, self._trained, roots, touched, strict=True
        ):
            # At most the whole way back, whatever the weight's share.
            new = torch.lerp(weight[rows], trained[rows], (root * pull).clamp_(max=1))
            weight[rows] = new.addcdiv_(change, root + EPSILON * scale, value=-self.lr * scale)


def _rows(gradient: Tensor) -> tuple[Tensor | slice, Tensor]:
    """The rows of a weight that a gradient touches, all of a dense one, and the gradient there."""
    if not gradient.is_sparse:
        return slice(None), gradient
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off and fix the noise of stochastic units; put both back afterwards."""
    device = next(model.parameters()).device
    was_training = model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of targets (B, T) under logits (B, T, V); (B, T), nats."""
    # Time step by time step, as they lie in memory.
    rows, answers = logits.transpose(0, 1).flatten(0, 1), targets.t().flatten()
    nll = functional.cross_entropy(rows, answers, reduction="none")
    return nll.view(targets.t().shape).t()


class Costs(NamedTuple):
    """What tokens of a text cost, in the order of the text.

    Attributes:
        nll: (N,) float64, nats.
        places: Where they stand in the text, (N,) int64.
    """

    nll: np.ndarray
    places: np.ndarray


def score_streams(
    model: LanguageModel,
    ids: np.ndarray,
    *,
    batch: int = 32,
    warm_up: int = 256,
    limit: int | None = None,
) -> Costs:
    """Score a text fast and nearly exactly: in pieces, side by side.

    Each piece but the first is warmed up on the tokens before it; the first starts from the zero
    state. Changes neither the model nor torch's generator, and gives the same number every time.

    Args:
        model: Scores the text; dropout is off meanwhile.
        ids: (n,) as in a Corpus: the start id, then the text. Start ids further on are read, as in
            training, but not scored: they are not text.
        batch: Pieces, at most; fewer if they would be shorter than ``warm_up``.
        warm_up: Tokens read before each piece.
        limit: Score only so many tokens, in pieces spread evenly over the text.

    Raises:
        ValueError: If there is no token to score.
    """
    num_targets = len(ids) - 1
    if not any((ids[i : i + PIECE] != ids[0]).any() for i in range(1, len(ids), PIECE)):
        raise ValueError(f"{len(ids)} ids hold no token to score; the first is only read")
    wanted = num_targets if limit is None else min(num_targets, limit)
    num_pieces = max(1, min(batch, wanted // max(1, warm_up)))
    length = -(-wanted // num_pieces)
    stride = max(length, num_targets // num_pieces)
    starts = np.arange(num_pieces)[:, None] * stride  # (B, 1)
    ends = np.minimum(starts + length, num_targets)
    span = max(1, MAX_LOGITS // (num_pieces * model.vocab_size))
    found: list[Costs] = []
    with evaluating(model), torch.inference_mode():
        state = model.init_state(1)
        if num_pieces > 1:
            warm = model.init_state(num_pieces - 1)
            for steps in _spans(-warm_up, 0, span):
                warm = model.follow(_at(model, ids, starts[1:] + steps), warm)
            state = tuple(torch.cat(parts, dim=1) for parts in zip(state, warm, strict=True))
        for steps in _spans(0, length, span):
            places = starts + steps  # (B, T)
            nll, state = _score_places(model, ids, places, state)
            targets = ids[np.minimum(places + 1, num_targets)]
            scored = (places < ends) & (targets != ids[0])
            found.append(Costs(nll[scored], places[scored] + 1))
    places = np.concatenate([costs.places for costs in found])
    order = np.argsort(places)
    return Costs(np.concatenate([costs.nll for costs in found])[order], places[order])


def _spans(begin: int, end: int, span: int) -> Iterator[np.ndarray]:
    """The whole numbers from begin to end, in arrays of at most ``span``."""
    for first in range(begin, end, span):
        yield np.arange(first, min(first + span, end))


def _score_places(
    model: LanguageModel, text: np.ndarray, places: np.ndarray, state: tuple[Tensor, ...]
) -> tuple[np.ndarray, tuple[Tensor, ...]]:
    """Read the tokens at ``places`` (B, T) of the text and score the one after each.

    Returns:
        Nll, (B, T) float64, meaningless past the end of the text; and the new state.
    """
    places = np.minimum(places, len(text) - 2)
    logits, state = model(_at(model, text, places), state)
    nll = _nll(logits, _at(model, text, places + 1))
    return nll.numpy(force=True).astype(np.float64), state


def _at(model: LanguageModel, text: np.ndarray, places: np.ndarray) -> Tensor:
    """The tokens at some places, where the model is."""
    return torch.from_numpy(text[places].astype(np.int64)).to(model.embedding.weight.device)
