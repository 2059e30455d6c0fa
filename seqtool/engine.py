"""A trained model on a CPU without torch: compiled loops behind the ``step`` contract.

Loading torch takes seconds and its kernels are made for whole sequences; writing text needs
neither. numba is loaded when an engine is made.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from seqtool.config import DecodeConfig, ModelConfig, Precision
from seqtool.decode import State, Steppable, Written, select_rows
from seqtool.errors import ConfigError
from seqtool.memory import keep_memory
from seqtool.mixture import Mixture, Partner
from seqtool.numpy_engine import NumpyEngine
from seqtool.team import Team

if TYPE_CHECKING:
    from seqtool.choosing import Options

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

READ_AT_ONCE = 256  # tokens; more take more memory and hardly less time
FEWEST_TEXTS = 16  # for a thread of its own; fewer do not pay for reading all weights
# Kinds of jobs, for which the number of threads is chosen apart.
STEP, READ, WRITE = 0, -1, 1


def build_engine(
    config: ModelConfig,
    vocab_size: int,
    weights: Mapping[str, Floats],
    *,
    precision: Precision = "float32",
    threads: int | None = None,
    announce: Callable[[], None] = lambda: None,
    partner: Partner | None = None,
) -> Steppable:
    """The fastest engine that can run a model; stochastic units need NumPy's.

    Args:
        config: The model's shape.
        vocab_size: V.
        weights: As in a model file; check_weights is the caller's business.
        precision: Of the weights. int8 is faster and costs some thousandths of a bit a token.
        threads: At most so many; as many as pay if not given.
        announce: Called if code has to be compiled, which takes seconds, once.
        partner: An n-gram model to mix in.

    Raises:
        ConfigError: If there is no int8 for such a model.
    """
    if config.nonlinearity != "stochastic":
        return Engine(
            config,
            vocab_size,
            weights,
            precision=precision,
            threads=threads,
            announce=announce,
            partner=partner,
        )
    if precision == "int8":
        raise ConfigError("--precision int8: not for stochastic units; leave it out")
    network = NumpyEngine(config, vocab_size, weights)
    return Mixture(network, *partner) if partner else network


class Desk(NamedTuple):
    """Some texts in the making, as recurrence.write takes them; ``done`` is what it returned."""

    counter: Ids
    failed: Ids
    done: Ids
    h: Floats
    c: Floats
    past: Ids
    contexts: Ids
    x: Floats
    table_rows: Ids
    logits: Floats
    allowed: npt.NDArray[np.bool_]
    uniforms: npt.NDArray[np.float64]
    given: bool


class Engine:
    """A language model as compiled loops, made from saved weights.

    The state is that of models.LanguageModel: (h,) or (h, c), each (L, B, H), and with n-gram
    tables the last ids, (1, B, K) int64. With an n-gram model mixed in, logits are those of the
    mixture, and where that model stands, (1, B, order) int64, is the last part of the state.

    A text's numbers are the same to the bit however many texts stand beside it, whether its tokens
    come one by one or at once, and on any number of threads.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        weights: Mapping[str, Floats],
        *,
        precision: Precision = "float32",
        threads: int | None = None,
        announce: Callable[[], None] = lambda: None,
        partner: Partner | None = None,
    ) -> None:
        """Lay out weights that fit the config; see ``build_engine``."""
        from seqtool.counting import build_counts
        from seqtool.quantize import build_network, padded

        keep_memory()
        self.config = config
        self.vocab_size = vocab_size
        self.precision = precision
        self._network = build_network(config, vocab_size, weights, precision)
        self._padded = padded(vocab_size)
        self._partner = partner
        self._counts = build_counts(*(partner or (None, None)))
        self._team = Team(threads, meeting=True)
        self._announce = announce
        self._context = config.ngram_order - 1
        self._parts = 2 if config.cell == "lstm" else 1

    @property
    def nbytes(self) -> int:
        """Bytes of weights that a step reads, without embedding and n-gram tables."""
        return int(self._network.matrices.weights.nbytes)

    def init_state(self, batch: int) -> State:
        """The zero state of a batch of texts."""
        shape = (self.config.num_layers, batch, self.config.hidden_size)
        state: State = tuple(np.zeros(shape, np.float32) for _ in range(self._parts))
        if self._context:
            state = (*state, np.zeros((1, batch, self._context), np.int64))
        if self._partner:
            state = (*state, np.tile(self._partner.ngram.start(), (1, batch, 1)))
        return state

    def step(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Feed one id to each text.

        Args:
            ids: (B,), any integer type.
            state: As from ``init_state`` or the last step; not modified.

        Returns:
            Logits of the next id, (B, V) float32, and the new state.
        """
        nothing = np.zeros((len(ids), 1))
        allowed = np.ones((1, self.vocab_size), np.bool_)
        written = self._write(None, state, nothing, DecodeConfig(), allowed, np.asarray(ids))
        return written.logits, written.state_at(1)

    def write(
        self,
        logits: np.ndarray,
        state: State,
        uniforms: np.ndarray,
        config: DecodeConfig,
        allowed: np.ndarray,
    ) -> Written:
        """Choose and read one token after the other in each text; see decode.Writer.

        Args:
            logits: Of the first token, (B, V).
            state: Before it.
            uniforms: A random number in [0, 1) for each token, (B, N) float64.
            config: How to choose.
            allowed: Which ids may be chosen, (B or 1, V) bool.
        """
        return self._write(logits, state, uniforms, config, allowed, None)

    def _write(
        self,
        logits: np.ndarray | None,
        state: State,
        uniforms: np.ndarray,
        config: DecodeConfig,
        allowed: np.ndarray,
        ids: np.ndarray | None,
    ) -> Written:
        from seqtool.choosing import Options

        batch, steps = uniforms.shape
        options = Options(
            float(config.temperature),
            int(config.top_k),
            float(config.top_p),
            float(config.min_p),
            bool(config.greedy),
        )
        desks = [
            self._desk(rows, logits, state, uniforms, allowed, ids)
            for rows in np.array_split(np.arange(batch), self._shares(batch))
        ]

        def job(thread: int, threads: int) -> int:
            if len(desks) == 1:
                return self._work(desks[0], options, thread, threads)
            return min(
                (self._work(desk, options, 0, 1) for desk in desks[thread::threads]), default=steps
            )

        self._run(job, STEP if ids is not None else WRITE * batch, max(1, steps * batch))
        done = min(desk.done[0] for desk in desks)
        if any(desk.done[0] > done for desk in desks):  # back to where one could not go on
            return self._write(logits, state, uniforms[:, :done], config, allowed, ids)

        def state_at(step: int) -> State:
            states = [self._state_at(desk, step) for desk in desks]
            return tuple(np.concatenate(parts, axis=1) for parts in zip(*states, strict=True))

        written = [desk.past[:, self._context : self._context + done] for desk in desks]
        scores = [desk.logits[:, : self.vocab_size] for desk in desks]
        return Written(np.concatenate(written), np.concatenate(scores), state_at)

    def _shares(self, batch: int) -> int:
        """Into how many parts to cut a batch, each the work of one thread.

        A small batch stays whole: threads then share the units, and wait for each other in each
        layer.
        """
        return max(1, min(self._team.threads, batch // FEWEST_TEXTS))

    def _desk(
        self,
        rows: npt.NDArray[np.int64],
        logits: np.ndarray | None,
        state: State,
        uniforms: np.ndarray,
        allowed: np.ndarray,
        ids: np.ndarray | None,
    ) -> Desk:
        """What some rows of a batch are written on; arguments as those of ``_write``."""
        batch, steps = len(rows), uniforms.shape[1]
        state = select_rows(state, rows)
        h, c = self._history(state, steps)
        past = np.zeros((batch, self._context + steps), np.int64)
        if self._context:
            past[:, : self._context] = state[self._parts][0]
        contexts = np.zeros((batch, steps + 1, len(self._counts.weights)), np.int64)
        if self._partner:
            contexts[:, 0] = state[-1][0]
        if ids is not None:
            past[:, self._context] = ids[rows]
        x = np.zeros((batch, self._network.matrices.layout[0, 2]), np.float32)
        table_rows = np.zeros((batch, self._context), np.int64)
        scores = np.zeros((batch, self._padded), np.float32)
        if logits is not None:
            scores[:, : self.vocab_size] = logits[rows]
        counter, failed, done = np.zeros((3, 1), np.int64)
        own = allowed if len(allowed) == 1 else allowed[rows]
        return Desk(
            *(counter, failed, done, h, c, past, contexts, x, table_rows, scores, own),
            *(uniforms[rows], ids is not None),
        )

    def _work(self, desk: Desk, options: "Options", thread: int, threads: int) -> int:
        from seqtool.recurrence import write

        done = write(
            self._network, self._counts, options, thread, threads, desk.counter, desk.failed,
            desk.h, desk.c, desk.past, desk.contexts, desk.x, desk.table_rows, desk.logits,
            desk.allowed, desk.uniforms, desk.given,
        )  # fmt: skip
        desk.done[0] = done
        return done

    def _state_at(self, desk: Desk, step: int) -> State:
        recent = desk.past[:, step : step + self._context]
        return self._state(desk.h[step], desk.c[step], recent, desk.contexts[:, step])

    def read(
        self, ids: np.ndarray, state: State, *, all_logits: bool = False
    ) -> tuple[np.ndarray, State]:
        """Read several tokens of one text: what as many steps would give, to the bit, and faster.

        Args:
            ids: (T,), any integer type, T at least 1.
            state: Of one text; not modified.
            all_logits: Whether the logits after each token are wanted, not only after the last.

        Returns:
            Logits, (T, V) or (1, V), and the new state.
        """
        found = []
        for first in range(0, len(ids), READ_AT_ONCE):
            logits, state = self._read(ids[first : first + READ_AT_ONCE], state, all_logits)
            found.append(logits)
        return np.concatenate(found) if all_logits else found[-1], state

    def _read(self, ids: np.ndarray, state: State, all_logits: bool) -> tuple[np.ndarray, State]:
        from seqtool.recurrence import read

        steps = len(ids)
        h, c = self._history(state, 1)
        past = np.zeros(self._context + steps, np.int64)
        if self._context:
            past[: self._context] = state[self._parts][0, 0]
        past[self._context :] = ids
        widest = int(self._network.matrices.layout[:, 2].max())
        flow = np.zeros((2, steps, widest), np.float32)
        rows = np.zeros((steps, self._context), np.int64)
        logits = np.zeros((steps if all_logits else 1, self._padded), np.float32)
        counter = np.zeros(1, np.int64)

        def job(thread: int, threads: int) -> int:
            return read(self._network, thread, threads, counter, h, c, past, flow, rows, logits)

        self._run(job, READ, steps)
        contexts = np.zeros((2, len(self._counts.weights)), np.int64)
        if self._partner:
            from seqtool.counting import follow_text

            contexts[0] = state[-1][0, 0]
            follow_text(self._counts, contexts, past[self._context :], logits, self.vocab_size)
        after = self._state(h[1], c[1], past[None, steps:], contexts[1:])
        return logits[:, : self.vocab_size], after

    def _run(self, job: Callable[[int, int], int], like: int, amount: int) -> int:
        from seqtool.compiled import announced

        with announced(self._announce):
            return self._team.run(job, like, amount)

    def _history(self, state: State, steps: int) -> tuple[Floats, Floats]:
        """Room for h and c, (N + 1, L, B, H padded) each, the first taken from a state."""
        shape = (steps + 1, *state[0].shape[:2], self._network.units)
        # No zeros but in the first: all others are written before they are read.
        parts = [np.empty(shape, np.float32) for _ in range(self._parts)]
        for part, values in zip(parts, state[: self._parts], strict=True):
            part[0] = 0
            part[0, :, :, : self.config.hidden_size] = values
        if self._parts == 1:
            parts.append(np.zeros((steps + 1, 0, 0, 0), np.float32))
        return parts[0], parts[1]

    def _state(
        self, h: Floats, c: Floats, recent: npt.NDArray[np.int64], contexts: npt.NDArray[np.int64]
    ) -> State:
        """A state as others know it: without padding, each part (L, B, H)."""
        parts: State = tuple(
            part[:, :, : self.config.hidden_size].copy() for part in (h, c)[: self._parts]
        )
        if self._context:
            parts = (*parts, recent[None].copy())
        return (*parts, contexts[None].copy()) if self._partner else parts
