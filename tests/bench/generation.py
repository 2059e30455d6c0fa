"""Writing text, a token at a time, beside ONNX Runtime and torch.nn; reading it, for its score."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from seqtool.config import DecodeConfig, ModelConfig, Precision
from seqtool.decode import Generation, row_rngs, warm_up
from seqtool.engine import Engine, build_engine
from seqtool.evaluation import BLOCK, score_streams
from seqtool.models import LanguageModel, build_model, to_arrays
from seqtool.surprisal import Surprisal
from seqtool.team import available_cores

from .limits import matrix_weights, reading, sgemm
from .measure import OURS, Case, Group, Side
from .peers import OnnxPeer, TorchPeer, missing

VOCAB = 65  # characters of a plain English text
DECODE = DecodeConfig(temperature=0.8)
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
CHUNK = 100  # tokens that one call of ours writes; `generate` writes more at once
TOLERANCE = {"float32": 1e-4, "int8": 0.05}  # of logits that start between -1 and 1


def make_model(vocab_size: int = VOCAB, **shape: Any) -> LanguageModel:
    """A network with fresh weights and without n-gram tables, as the peers have none."""
    return build_model(ModelConfig(**{"ngram_order": 1, **shape}), vocab_size)


def draw(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ids (B,) drawn from logits (B, V) in few calls of NumPy, as a peer's user would."""
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)) * (1 / DECODE.temperature))
    mass = weights.cumsum(axis=1)
    return np.asarray((mass > rng.random((len(mass), 1)) * mass[:, -1:]).argmax(axis=1))


class OnnxWriter:
    """ONNX Runtime, its state kept in the session's memory, its tokens drawn by NumPy."""

    def __init__(self, model: LanguageModel, threads: int, batch: int) -> None:
        self.peer = OnnxPeer(model, threads, batch)
        self.rng = np.random.default_rng(1)
        self.ids = np.zeros(batch, np.int64)

    def write(self) -> None:
        """One token in each text."""
        self.ids = draw(self.peer.step(self.ids), self.rng)


class TorchWriter:
    """The loop that char-rnn and its descendants have."""

    def __init__(self, peer: TorchPeer, batch: int) -> None:
        self.peer = peer
        self.ids = torch.zeros(batch, 1, dtype=torch.int64)
        self.state: Any = None

    @torch.inference_mode()
    def write(self) -> None:
        """One token in each text."""
        logits, self.state = self.peer(self.ids, self.state)
        probs = torch.softmax(logits[:, -1] / DECODE.temperature, dim=-1)
        self.ids = torch.multinomial(probs, 1)


def check(model: LanguageModel, precision: Precision = "float32") -> None:
    """Every side must give the same logits for the same ids.

    Raises:
        AssertionError: If one does not.
    """
    engine = build_engine(model.config, model.vocab_size, to_arrays(model), precision=precision)
    ids, state = np.arange(6).reshape(3, 2) % model.vocab_size, engine.init_state(2)
    onnx = None if missing("onnxruntime") or missing("onnx") else OnnxPeer(model, 1, batch=2)
    with torch.inference_mode():
        expected = TorchPeer(model).eval()(torch.from_numpy(ids.T.copy()))[0].numpy()
    for step, row in enumerate(ids):
        logits, state = engine.step(row, state)
        np.testing.assert_allclose(logits, expected[:, step], atol=TOLERANCE[precision], rtol=0)
        if onnx:
            np.testing.assert_allclose(onnx.step(row), expected[:, step], atol=1e-4, rtol=0)


def writing(
    name: str,
    model: LanguageModel,
    *,
    precision: Precision = "float32",
    batch: int = 1,
    group: Group = "generate",
    facts: dict[str, Any] | None = None,
) -> Case:
    """Texts written side by side, at a temperature.

    Args:
        name: Of the case.
        model: What writes; peers have its weights as float32.
        precision: Of ours.
        batch: Texts, B.
        group: Of the case.
        facts: Of the case.
    """
    check(model, precision)
    engine = build_engine(model.config, model.vocab_size, to_arrays(model), precision=precision)
    start, state = warm_up(engine, np.zeros(1, np.int64), engine.init_state(1))
    writer = Generation(engine, DECODE, logits=start, state=state, rngs=row_rngs(1, batch))
    sides = [Side(OURS, CHUNK * batch, lambda: writer.write(CHUNK))]
    cores = sorted({1, available_cores()})
    if not (missing("onnxruntime") or missing("onnx")):
        for threads in cores:
            onnx = OnnxWriter(model, threads, batch)
            sides.append(Side(f"onnxruntime, {threads} threads", batch, onnx.write))
    for threads in cores:
        loop = TorchWriter(TorchPeer(model).eval(), batch)
        sides.append(Side(f"torch.nn, {threads} threads", batch, loop.write, threads))
    weights = matrix_weights(model.config, model.vocab_size)
    if batch == 1:
        sides.append(reading(weights * (1 if precision == "int8" else 4)))
    else:
        sides.append(sgemm(2.0 * weights))
    about = {"precision": precision, "batch": batch, "weights": weights, **(facts or {})}
    return Case(name, group, "tokens/s", sides, about)


def writing_cases(smoke: bool) -> Iterator[Case]:
    """The table's sizes."""
    shapes: list[tuple[Any, int, Precision, int]] = [
        *(("lstm", hidden, "float32", 1) for hidden in (128, 512)),
        *(("lstm", hidden, "int8", 1) for hidden in (128, 512, 1024)),
        *((cell, 512, precision, 1) for cell in ("gru", "rnn") for precision in PRECISIONS),
        *(("lstm", hidden, "float32", 64) for hidden in (128, 512)),
    ]
    for cell, hidden, precision, batch in shapes:
        if smoke:
            hidden, batch = hidden // 32, min(batch, 3)
        model = make_model(cell=cell, hidden_size=hidden, num_layers=2)
        words = [f"generate {cell} 2x{hidden}", precision] + [f"{batch} texts"] * (batch > 1)
        yield writing(", ".join(words), model, precision=precision, batch=batch)


def scoring(name: str, model: LanguageModel, streams: int, blocks: int) -> Case:
    """Loss of a text: exactly, in one stream, or fast in several of so many blocks each.

    The exact one is that of ``evaluate``, without torch; the fast one that of training.
    """
    peer = TorchPeer(model).eval()
    engine = build_engine(model.config, model.vocab_size, to_arrays(model))
    assert isinstance(engine, Engine), "stochastic units have another"
    ids = np.random.default_rng(1).integers(0, model.vocab_size, 1 + streams * blocks * BLOCK)

    def ours() -> float:
        if streams > 1:
            return float(score_streams(model, ids, batch=streams).nll.mean())
        return float(Surprisal(engine, int(ids[0])).push(ids[1:]).mean())

    @torch.inference_mode()
    def theirs() -> float:
        total, state = 0.0, None
        pairs = (torch.from_numpy(part).view(streams, -1) for part in (ids[:-1], ids[1:]))
        for x, y in zip(*(part.split(BLOCK, dim=1) for part in pairs), strict=True):
            logits, state = peer(x, state)
            total += functional.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
        return total / blocks

    np.testing.assert_allclose(ours(), theirs(), rtol=1e-4)
    count = len(ids) - 1
    flops = 2.0 * matrix_weights(model.config, model.vocab_size)
    sides = [Side(OURS, count, ours), Side("torch.nn", count, theirs), sgemm(flops)]
    return Case(name, "score", "tokens/s", sides, {"streams": streams})


def scoring_cases(smoke: bool) -> Iterator[Case]:
    """Exact, and fast: of about as many tokens as a look at the validation text reads."""
    for streams, blocks in ((1, 16), (32, 12)):
        hidden = 16 if smoke else 256
        how = "exact" if streams == 1 else f"fast, {streams} streams"
        name = f"score lstm 1x{hidden}, {how}"
        yield scoring(name, make_model(hidden_size=hidden), streams, 1 if smoke else blocks)
