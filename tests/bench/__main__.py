"""Speed beside plain PyTorch: a table, then one JSON line per row. ``python -m tests.bench``.

Both sides of a row take turns in one run and start from one set of weights. The peer is what one
writes with torch.nn alone, with the fastest optimizer that torch has.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.config import Cell, DecodeConfig, ModelConfig, TrainConfig
from seqtool.data import Corpus, TextStats
from seqtool.decode import Generation, row_rngs, warm_up
from seqtool.devices import set_up
from seqtool.engine import Engine
from seqtool.evaluation import BLOCK, Scorer, score_streams
from seqtool.language import NextToken
from seqtool.models import LanguageModel, build_model, to_arrays
from seqtool.tokenizer import Tokenizer
from seqtool.trainer import Trainer

ALPHABET = "\n" + "".join(map(chr, range(32, 96)))  # 65 characters, as a plain English text has
TOKENIZER = Tokenizer.train("char", lambda: iter([ALPHABET]), vocab_size=len(ALPHABET) + 2)
VOCAB = TOKENIZER.vocab_size
BATCH, STEPS = 32, 64  # of training
CELLS: tuple[Cell, ...] = ("lstm", "gru", "rnn")
LAYOUT = "{:40} {:8} {:>32} {:>32} {:>20}"
NOTES = """\
Medians (least - most) of {} rounds; the two sides take turns at being first. Ratio: of ours to
peer in the same round, above 1 ours is faster. Not in the times: start-up, reading and encoding
text, making models, a first round to warm up; in training also evaluating and saving.
Machine: ours is NumPy, on which text is written, peer is PyTorch; the most is the peak; a copied
byte counts twice, read and written. Ids are random: hardly two n-grams are alike, the worst case
for n-gram tables, which the peer never has. The fast score reads 256 tokens before each stream
that are not counted; the peer does not."""


@dataclass(frozen=True)
class Case:
    """A row to measure: what each side does again and again, and how much that is each time."""

    name: str
    unit: str  # of amount, per second
    amount: float
    repeats: int  # in a round
    ours: Callable[[], object]
    peer: Callable[[], object]

    def measure(self, rounds: int) -> dict[str, Any]:
        """Run both sides in turns; gives medians, extremes and ratios, fit for JSON."""
        rates = np.empty((rounds, 2))  # ours, peer
        sides = [(0, self.ours), (1, self.peer)]
        for turn in range(-1, rounds):  # the first is the warm-up and is overwritten
            for side, action in sides[:: 1 if turn % 2 == 0 else -1]:
                began = time.perf_counter()
                for _ in range(self.repeats):
                    action()
                rates[turn, side] = self.repeats * self.amount / (time.perf_counter() - began)
        row: dict[str, Any] = {"row": self.name, "unit": self.unit, "rounds": rounds}
        columns = {"ours": rates[:, 0], "peer": rates[:, 1], "ratio": rates[:, 0] / rates[:, 1]}
        for name, values in columns.items():
            for end, pick in (("", np.median), ("_min", np.min), ("_max", np.max)):
                row[name + end] = float(f"{pick(values):.5g}")
        return row


class Peer(nn.Module):
    """A language model of torch.nn alone, with the weights of one of ours, tables left out."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        shape = model.config
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[shape.cell]
        self.embedding = nn.Embedding(VOCAB, shape.embed_size)
        self.stack = kind(shape.embed_size, shape.hidden_size, shape.num_layers, batch_first=True)
        self.output = nn.Linear(shape.hidden_size, VOCAB)
        weights = {name: torch.from_numpy(array) for name, array in to_arrays(model).items()}
        weights.pop("ngrams.weight", None)
        self.load_state_dict(weights)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Ids (B, T) to logits (B, T, V) and the new state."""
        output, state = self.stack(self.embedding(ids), state)
        return self.output(output), state


def make_model(**shape: Any) -> LanguageModel:
    """A fresh model; without n-gram tables unless their order is given."""
    config = ModelConfig(**{"ngram_order": 1, **shape})
    return build_model(config, VOCAB, unknown_id=TOKENIZER.unknown_id)


def random_ids(count: int) -> np.ndarray:
    """The start id and then ``count`` random characters, (1 + count,)."""
    ids = np.random.default_rng(1).integers(2, VOCAB, count)
    return np.concatenate([[TOKENIZER.start_id], ids])


def training(cell: Cell, tables: bool, repeats: int) -> Case:
    """Whole updates: forward, backward, clipping, Adam; ours with the weight average it keeps."""
    order = ModelConfig.ngram_order if tables else 1
    model = make_model(cell=cell, hidden_size=256, ngram_order=order)
    peer, ids = Peer(model), random_ids(BATCH * STEPS * 100)
    n = len(ids)
    stats = TextStats(1, n, n, 1, {})
    corpus = Corpus("random", TOKENIZER, ids, ids[:0], n, 0, n, 0, "", None, stats, unknown={})
    config = TrainConfig(steps=10**6, batch_size=BATCH, bptt=STEPS, lr=1e-3)
    trainer = Trainer(NextToken(model, corpus, config), config)
    streams = torch.from_numpy(ids[1:]).view(BATCH, -1)  # (B, n / B)
    adam = torch.optim.AdamW(peer.parameters(), lr=config.lr, fused=True)
    place, state = 0, None

    def update() -> None:
        nonlocal place, state
        if place + STEPS >= streams.shape[1]:
            place, state = 0, None
        inputs, targets = streams[:, place:][:, :STEPS], streams[:, place + 1 :][:, :STEPS]
        logits, state = peer(inputs, state)
        state = tuple(s.detach() for s in state) if cell == "lstm" else state.detach()
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
        adam.step()
        loss.item()
        place += STEPS

    name = f"train {cell} 1x256, {BATCH} x {STEPS}" + (", n-gram tables" if tables else "")
    return Case(name, "tokens/s", BATCH * STEPS, repeats, trainer.update, update)


def generation(size: int, repeats: int) -> Case:
    """One text, a character at a time, at the default temperature."""
    model = make_model(hidden_size=size, num_layers=2)
    peer, engine = Peer(model).eval(), Engine(model.config, VOCAB, to_arrays(model))
    first, config = np.array([TOKENIZER.start_id]), DecodeConfig()
    start, state = warm_up(engine, first, engine.init_state(1))
    writer = Generation(engine, config, logits=start, state=state, rngs=row_rngs(1, 1))
    with torch.inference_mode():
        logits, carried = peer(torch.from_numpy(first)[None])
    np.testing.assert_allclose(start, logits[0].numpy(), atol=1e-4)

    @torch.inference_mode()
    def write() -> None:
        nonlocal logits, carried
        probs = torch.softmax(logits[:, -1] / config.temperature, dim=-1)
        logits, carried = peer(torch.multinomial(probs, 1), carried)

    return Case(f"write lstm 2x{size}, one text", "chars/s", 1, repeats, writer.next, write)


def scoring(streams: int, blocks: int) -> Case:
    """Nll of a text, exact in one stream, or fast in several of so many blocks of 256 each."""
    model = make_model(hidden_size=256)
    peer, ids = Peer(model).eval(), random_ids(streams * blocks * BLOCK)

    def ours() -> float:
        if streams > 1:
            return float(score_streams(model, ids, batch=streams).nll.mean())
        return float(Scorer(model, TOKENIZER.start_id).push(ids[1:]).mean())

    @torch.inference_mode()
    def theirs() -> float:
        total, state = 0.0, None
        pairs = (torch.from_numpy(part).view(streams, -1) for part in (ids[:-1], ids[1:]))
        for x, y in zip(*(part.split(BLOCK, dim=1) for part in pairs), strict=True):
            logits, state = peer(x, state)
            total += functional.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
        return total / blocks

    np.testing.assert_allclose(ours(), theirs(), rtol=1e-4)
    name = f"score lstm 1x256, {'exact' if streams == 1 else f'fast, {streams} streams'}"
    return Case(name, "tokens/s", len(ids) - 1, 1, ours, theirs)


def machine(side: int, floats: int, repeats: int) -> Iterator[Case]:
    """Float32 matrix products, and copies larger than caches."""
    left, right, out = np.ones((3, side, side), np.float32)
    source, target = np.ones((2, floats), np.float32)
    a, b, c, old, new = (torch.from_numpy(x) for x in (left, right, out, source, target))
    products = lambda: np.matmul(left, right, out=out), lambda: torch.mm(a, b, out=c)
    yield Case(f"machine: {side}^3 product", "GFLOP/s", 2e-9 * side**3, repeats, *products)
    copies = lambda: np.copyto(target, source), lambda: new.copy_(old)
    yield Case("machine: memory copy", "GB/s", 8e-9 * floats, repeats, *copies)


def cases(quick: bool) -> Iterator[Case]:
    """All rows, each made when it is its turn, so that memory never holds them all."""
    yield from machine(256, 1 << 20, 1) if quick else machine(1024, 1 << 25, 10)
    for tables in (False, True):
        yield from (training(cell, tables, 1 if quick else 10) for cell in CELLS)
    yield from (generation(size, 3 if quick else 1000) for size in (128, 512))
    yield scoring(1, 2 if quick else 64)
    yield scoring(32, 1 if quick else 12)


def main() -> None:
    """Measure all rows, each printed as it is done, then the same as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, no more")
    quick = parser.parse_args().quick
    rounds = 2 if quick else 9
    set_up("cpu", None)
    torch.manual_seed(1)
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    about |= {"numpy": np.__version__, "python": platform.python_version(), "quick": quick}
    about |= {"cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(LAYOUT.format("", "", "ours", "peer", "ratio"))
    rows = []
    for case in cases(quick):
        rows.append(case.measure(rounds))
        columns = [rows[-1]["row"], rows[-1]["unit"]]
        for name, digits in (("ours", 1), ("peer", 1), ("ratio", 2)):
            low, mid, high = (f"{rows[-1][name + end]:,.{digits}f}" for end in ("_min", "", "_max"))
            columns.append(f"{mid} ({low} - {high})")
        print(LAYOUT.format(*columns), flush=True)
    print(NOTES.format(rounds))
    for line in ({"row": "machine"} | about, *rows):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
