"""Seconds to a validation loss: the ``train`` command beside a small transformer, same text.

The transformer is the usual one for a CPU: 4 layers, 128 wide, 4 heads, a context of 64 characters
(Vaswani et al. 2017, arXiv:1706.03762, with the layer norms before the blocks; Radford et al.
2019), learned with AdamW, warm-up and a cosine to a tenth. Both read the first nine tenths of the
text and are scored on the rest, in nats per character.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .measure import OURS, machine_name, versions
from .starting import SAMPLES

CONTEXT, LAYERS, WIDTH, HEADS, BATCH = 64, 4, 128, 4, 12
PEAK, FLOOR, BETAS, DECAY, CLIP = 1e-3, 1e-4, (0.9, 0.99), 0.1, 1.0
WARMUP, LOOKS = 0.05, 12  # share of the time; evaluations
SHORT = 8.0  # seconds of a second run of ours: one that plans for little time is there sooner
TARGET = 1.886  # nats: what nanoGPT's CPU recipe reaches on tiny-shakespeare


class Block(nn.Module):
    """Attention to what came before, then two layers on each position alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH, bias=False) for _ in range(2)])
        self.attention = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.project = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, WIDTH) to the same."""
        batch, steps, _ = x.shape
        parts = self.attention(self.norms[0](x)).view(batch, steps, 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, T, WIDTH / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, steps, WIDTH))
        inner: Tensor = x + self.narrow(functional.gelu(self.widen(self.norms[1](x))))
        return inner


class Transformer(nn.Module):
    """Ids (B, T) to logits (B, T, V), T at most CONTEXT; the output shares the embedding."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                last = "project" in name or "narrow" in name
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * LAYERS) if last else 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """Score the next token at every position."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        return functional.linear(self.norm(self.blocks(x)), self.tokens.weight)


@torch.inference_mode()
def held_out_loss(model: Transformer, ids: Tensor) -> float:
    """Nats per token of a text (n,), each token with 32 to 64 others before it.

    Windows overlap by half and their second halves count, but for the first, which counts whole.
    """
    half = CONTEXT // 2
    total, count = 0.0, 0
    starts = range(0, len(ids) - CONTEXT, half)
    for first in range(0, len(starts), 256):
        rows = [ids[s : s + CONTEXT + 1] for s in starts[first : first + 256]]
        window = torch.stack(rows)
        logits = model(window[:, :-1])
        costs = functional.cross_entropy(
            logits.flatten(0, 1), window[:, 1:].flatten(), reduction="none"
        ).view(len(rows), CONTEXT)
        kept = (
            [costs[:1].flatten(), costs[1:, half:].flatten()] if first == 0 else [costs[:, half:]]
        )
        total += sum(float(part.sum()) for part in kept)
        count += sum(part.numel() for part in kept)
    return total / count


def learn_transformer(text: str, seconds: float) -> list[tuple[float, float]]:
    """Train for so many seconds; gives (seconds of training, held-out loss) along the way.

    The time to evaluate does not count, nor that to read the text.
    """
    alphabet, codes = np.unique(np.array(list(text)), return_inverse=True)
    ids = torch.from_numpy(codes.astype(np.int64))
    cut = int(0.9 * len(ids))
    train, valid = ids[:cut], ids[cut:]
    torch.manual_seed(1)
    model = Transformer(len(alphabet))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=PEAK, betas=BETAS, fused=True)
    spent = 0.0
    curve: list[tuple[float, float]] = []
    while spent < seconds:
        began = time.perf_counter()
        while (now := spent + time.perf_counter() - began) < seconds * (len(curve) + 1) / LOOKS:
            for group in adam.param_groups:
                group["lr"] = rate(now / seconds)
            places = torch.randint(len(train) - CONTEXT, (BATCH, 1)) + torch.arange(CONTEXT + 1)
            batch = train[places]  # (B, T + 1)
            logits = model(batch[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            adam.step()
        spent += time.perf_counter() - began
        curve.append((spent, held_out_loss(model, valid)))
    return curve


def rate(share: float) -> float:
    """Learning rate after that share of the time."""
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return min(1.0, share / WARMUP) * (FLOOR + (PEAK - FLOOR) * fall)


def learn_ours(text: Path, seconds: float) -> tuple[list[tuple[float, float, float]], float]:
    """The command with that budget and default settings; its time counts from start to saved model.

    Returns:
        (seconds since the start, held-out loss, that of the network alone) along the way, and the
        seconds of the whole command.
    """
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "seqtool", "train", str(text), "--json"]
        command += ["--budget", f"{seconds:g}s", "-o", str(Path(place) / "model")]
        began, curve = time.perf_counter(), []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event.get("val_loss") is not None:
                    network = event.get("val_network_loss", event["val_loss"])
                    curve.append((time.perf_counter() - began, event["val_loss"], network))
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: failed with {process.returncode}")
        return curve, time.perf_counter() - began


def reached(curve: list[tuple[float, float]], loss: float) -> float | None:
    """Seconds until a curve was first at or below a loss."""
    return next((round(at, 2) for at, value in curve if value <= loss), None)


def learning_rows(text: Path | None, seconds: float, *, smoke: bool) -> Iterator[dict[str, Any]]:
    """One line: the curves, where they end, and when they reached the transformer's end.

    Ours runs twice, with the transformer's seconds and with a few, each planned for its time.
    """
    found = text or max(SAMPLES.glob("*.txt"), key=lambda path: path.stat().st_size)
    content = found.read_text(encoding="utf-8")
    curves, totals = {}, {}
    for budget in sorted({min(SHORT, seconds), seconds}):
        ours, totals[f"{budget:g} s"] = learn_ours(found, budget)
        curves[f"{OURS}, {budget:g} s"] = [(at, loss) for at, loss, _ in ours]
        curves[f"{OURS}, {budget:g} s, network alone"] = [(at, loss) for at, _, loss in ours]
    theirs = learn_transformer(content, seconds)
    curves["transformer"] = theirs
    goal = theirs[-1][1]
    yield {
        "case": f"learn {found.name}, {seconds:g} s",
        "group": "learn",
        "characters": len(content),
        "command_seconds": {name: round(total, 2) for name, total in totals.items()},
        "final": {name: round(curve[-1][1], 4) for name, curve in curves.items()},
        "goal": round(goal, 4),
        "seconds_to_goal": {name: reached(curve, goal) for name, curve in curves.items()},
        "target": TARGET,
        "seconds_to_target": {name: reached(curve, TARGET) for name, curve in curves.items()},
        "curves": {
            name: [[round(at, 2), round(loss, 4)] for at, loss in curve]
            for name, curve in curves.items()
        },
        "machine": machine_name(),
        "versions": versions(),
    }
