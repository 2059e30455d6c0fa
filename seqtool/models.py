"""Models: ids in, logits out; and the bridge to numpy for decoding and for files.

A model is an embedding, a stack of recurrent layers from cells, and an output layer. It never sees
text and keeps no state of its own; those are for tokenizer and train.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.cells import RecurrentStack, Stack, State
from seqtool.config import ModelConfig
from seqtool.dense import Embedding, linear
from seqtool.losses import cross_entropy
from seqtool.ngrams import NgramTables

# Embeddings start small so that the first updates, not the draw, decide what a token means.
EMBEDDING_STD = 0.1


class LanguageModel(nn.Module):
    """Scores every token of a vocabulary as the next one, given all before it.

        x_t = embedding[id_t];  h_t = stack(x_t, state_{t-1});  logits_t = V h_t + b

    With ``config.ngram_order`` above 1, hashed n-gram tables add to x_t and to the logits; the ids
    they look back on, (1, B, K), are then the last part of the state.

    With ``config.tied`` the output matrix V is the embedding (Press & Wolf 2017, arXiv:1608.05859);
    the parameter then exists once, as ``embedding.weight``.

    ``unknown_id`` is a token that stands for characters never seen in training: its embedding is
    zero and stays zero, so that reading one tells the recurrent layers only that time passes. The
    n-grams that hold it have rows like all others: zero as well, unless the hash made them share.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, *, unknown_id: int | None = None
    ) -> None:
        """Make the layers and draw their starting weights from torch's global generator."""
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.unknown_id = unknown_id
        # padding_idx: torch's name for the one row that gets no gradient.
        self.embedding = Embedding(vocab_size, config.embed_size, padding_idx=unknown_id)
        self.stack = RecurrentStack(
            config.embed_size,
            config.hidden_size,
            config.num_layers,
            cell=config.cell,
            nonlinearity=config.nonlinearity,
            dropout=config.dropout,
        )
        self.ngrams: NgramTables | None = None
        if config.ngram_order > 1:
            self.ngrams = NgramTables(
                config.ngram_order,
                config.ngram_buckets,
                config.embed_size,
                vocab_size if config.ngram_logits(vocab_size) else 0,
                dropout=config.ngram_dropout,
            )
        self.output = nn.Linear(config.hidden_size, vocab_size)
        if config.tied:  # no second name for one matrix: files and optimizers see it once
            self.output.register_parameter("weight", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw what the stack has not drawn; an untied output matrix keeps torch's own start."""
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        if self.unknown_id is not None:
            self.embedding.weight[self.unknown_id] = 0
        nn.init.zeros_(self.output.bias)

    def init_state(self, batch: int) -> State:
        """The zero state of a batch of texts, each part (L, B, H); recent ids are start ids."""
        state = self.stack.init_state(batch)
        if self.ngrams is None:
            return state
        recent = torch.zeros(1, batch, self.ngrams.context, dtype=torch.int64)
        return (*state, recent.to(self.embedding.weight.device))

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Score the next token at every position.

        Args:
            ids: (B, T) int64, T at least 1.
            state: State before the first of them, each (L, B, H); zero if not given.

        Returns:
            Logits, (B, T, V), and the state after the last id.
        """
        if state is None:
            state = self.init_state(ids.shape[0])
        return self._run(ids, state, self.stack, drop=self.training)

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Score the next token after one more id; without dropout, also in training mode.

        Args:
            ids: (B,) int64.
            state: Each (L, B, H).

        Returns:
            Logits, (B, V), and the new state.
        """
        logits, state = self._run(ids[:, None], state, self._one_step, drop=False)
        return logits[:, 0], state

    def follow(self, ids: Tensor, state: State) -> State:
        """The state after some more ids, without the cost of logits; without dropout.

        Args:
            ids: (B, T) int64.
            state: Each (L, B, H).
        """
        return self._read(ids, state, self.stack, drop=False)[2]

    def through(self, ids: Tensor, state: State, stack: Stack) -> tuple[Tensor, State]:
        """As ``forward`` without dropout, with the recurrent layers run by another function.

        This is how diagnostics looks inside: it passes a function that computes what the stack
        would and takes notes.

        Args:
            ids: (B, T) int64.
            state: Each (L, B, H).
            stack: From (B, T, E) and the layers' state to the output (B, T, H) and the new state.
        """
        return self._run(ids, state, stack, drop=False)

    def _one_step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = self.stack.step(x[:, 0], state)
        return output[:, None], state

    def loss(
        self, ids: Tensor, targets: Tensor, state: State, counted: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """How badly the next token is predicted at every position, in the mean.

        Args:
            ids: (B, T) int64, T at least 1.
            targets: The tokens that do follow, (B, T) int64.
            state: State before the first of them, each (L, B, H).
            counted: Positions that count, (B, T) bool; all if not given.

        Returns:
            Mean negative log-likelihood in nats, and the state after the last id. The logits of a
            large vocabulary are never held all at once.
        """
        output, added, state = self._read(ids, state, self.stack, drop=self.training)
        # Time step by time step, as the layers leave it in memory: nothing has to be copied.
        rows, answers = output.transpose(0, 1).flatten(0, 1), targets.t().flatten()
        if counted is not None:
            kept = counted.t().flatten()
            rows, answers = rows[kept], answers[kept]
        if added is not None:
            added = added.transpose(0, 1).flatten(0, 1)
            added = added if counted is None else added[kept]
            logits = linear(rows, self._output_weight(), self.output.bias) + added
            return functional.cross_entropy(logits, answers), state
        return cross_entropy(rows, self._output_weight(), self.output.bias, answers), state

    def _run(self, ids: Tensor, state: State, stack: Stack, *, drop: bool) -> tuple[Tensor, State]:
        output, added, state = self._read(ids, state, stack, drop=drop)
        # Time step by time step, as in ``loss``.
        rows = output.transpose(0, 1)
        logits = linear(rows, self._output_weight(), self.output.bias).transpose(0, 1)
        return logits if added is None else logits + added, state

    def _read(
        self, ids: Tensor, state: State, stack: Stack, *, drop: bool
    ) -> tuple[Tensor, Tensor | None, State]:
        """What the layers make of some ids, what n-grams add to the logits, and the state."""
        if self.ngrams is None:
            x = self.embedding(ids.t()).transpose(0, 1)  # as layers want it in memory
            output, state = stack(x, state)
            return output, None, state
        x = self.embedding(ids)
        added_input, added_logits, recent = self.ngrams(ids, state[-1], drop=drop)
        output, state = stack(x + added_input, state[:-1])
        on_logits = self.config.ngram_logits(self.vocab_size)
        return output, added_logits if on_logits else None, (*state, recent)

    def _output_weight(self) -> Tensor:
        weight = self.embedding.weight if self.config.tied else self.output.weight
        if self.config.tied and self.unknown_id is not None:
            # Keep the gradient of the output off the zero row.
            unknown = torch.tensor([self.unknown_id], device=weight.device)
            weight = weight.index_fill(0, unknown, 0.0)
        return weight


class Stepper:
    """A LanguageModel behind the numpy contract of decode: states and logits are arrays.

    Uses the equations one step at a time, on the model's device; torch's kernels are made for whole
    sequences and slow for one step. Reads the live weights of the model and changes nothing in it,
    so it may be used in the middle of training.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.vocab_size = model.vocab_size

    def init_state(self, batch: int) -> tuple[np.ndarray, ...]:
        """The zero state, each part (L, B, H)."""
        return tuple(part.numpy(force=True) for part in self.model.init_state(batch))

    @torch.inference_mode()
    def step(
        self, ids: np.ndarray, state: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Feed one id to each text.

        Args:
            ids: (B,), any integer dtype.
            state: Each (L, B, H); not modified.

        Returns:
            Logits of the next id, (B, V) float32, and the new state.
        """
        device = self.model.embedding.weight.device
        logits, after = self.model.step(
            torch.tensor(ids.astype(np.int64), device=device),
            tuple(torch.tensor(part, device=device) for part in state),
        )
        return logits.float().numpy(force=True), tuple(part.numpy(force=True) for part in after)


def build_model(
    config: ModelConfig,
    vocab_size: int,
    *,
    unknown_id: int | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> LanguageModel:
    """Make a model, with fresh weights or with saved ones.

    Args:
        config: Its shape.
        vocab_size: V, with the special entries.
        unknown_id: The token that means "no information", if the vocabulary has one.
        weights: As from ``to_arrays``; fitting names and shapes are the caller's to check.
    """
    model = LanguageModel(config, vocab_size, unknown_id=unknown_id)
    if weights is not None:
        load_arrays(model, weights)
    return model


def to_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all parameters by name, as float32 arrays: what a model file holds."""
    return {
        name: parameter.detach().float().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
    }


@torch.no_grad()
def load_arrays(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Copy saved weights into a model of the same shape, in place."""
    parameters = dict(model.named_parameters())
    assert {name: value.shape for name, value in weights.items()} == shapes(model), (
        "weights do not fit the model; check them against shapes(model) first"
    )
    for name, parameter in parameters.items():
        parameter.copy_(torch.tensor(weights[name]))


def shapes(model: nn.Module, vocab_size: int | None = None) -> dict[str, tuple[int, ...]]:
    """The name and shape of every parameter: what a model file must hold to fit.

    Args:
        model: A model.
        vocab_size: For a language model, the size that its vocabulary had before it grew.
    """
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if vocab_size is not None:
        assert isinstance(model, LanguageModel), "no other model's vocabulary grows"
        grown = model.vocab_size - vocab_size
        for name, axis in vocabulary_axes(model).items():
            shape = found[name]
            found[name] = (*shape[:axis], shape[axis] - grown, *shape[axis + 1 :])
    return found


@torch.no_grad()
def copy_grown(model: LanguageModel, weights: Mapping[str, np.ndarray]) -> None:
    """Start from the weights of a model with the first part of this one's vocabulary, in place.

    The rows of the other tokens keep their fresh start. ``shapes`` tells what fits.
    """
    axes = vocabulary_axes(model)
    for name, parameter in model.named_parameters():
        axis = axes.get(name, 0)
        weight = torch.from_numpy(weights[name])
        parameter.narrow(axis, 0, weight.shape[axis]).copy_(weight)


def vocabulary_axes(model: LanguageModel) -> dict[str, int]:
    """The parameters that have an entry for every token, and the axis that ends with these."""
    axes = {"embedding.weight": 0, "output.weight": 0, "output.bias": 0}
    if model.config.ngram_logits(model.vocab_size):
        axes["ngrams.weight"] = 1  # to the right of what it adds to the input
    return {name: axes[name] for name, _ in model.named_parameters() if name in axes}
