"""What nobody asked for by flag: sizes and rates that suit the time, the data and the machine.

Every rule here is a guess about data it has never seen, so each is simple, smooth and says why. The
rules were fitted to a 1 MB English text and checked on others (README, "Results"). What is left
out: turning the time into steps, which train does from measured steps.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seqtool.config import GATES, NGRAM_LOGITS_VOCABULARY, ModelConfig, TrainConfig

DEFAULT_SECONDS = 300.0  # with no budget and no number of steps or epochs
BACKOFF_ORDER = 8  # n-grams longer than this hardly ever come back
START_SECONDS = 4.0  # of a command in which nothing is learned: imports, reading, closing


@dataclass(frozen=True)
class Plan:
    """Chosen settings by field name, and why."""

    model: dict[str, Any]
    train: dict[str, Any]
    reasons: list[str]  # what was chosen, because of what


def measure_gflops(seconds: float = 0.15) -> float:
    """Speed of a float32 matrix product of a recurrent layer's size, in GFLOP/s."""
    left, right = torch.ones(1024, 512), torch.ones(512, 1024)
    torch.mm(left, right)  # the first product sets up threads
    products, began = 0, time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        torch.mm(left, right)
        products += 1
    return 2e-9 * 1024 * 512 * 1024 * products / spent


def flops_per_token(cell: str, hidden: int, embed: int, layers: int, vocab_size: int) -> float:
    """Floating point operations to train on one token: six for each weight it meets."""
    recurrent = GATES[cell] * hidden * (embed + hidden + (layers - 1) * 2 * hidden)
    return 6.0 * (recurrent + hidden * vocab_size)


def choose(
    *, tokens: int, vocab_size: int, seconds: float | None, gflops: float, given: Mapping[str, Any]
) -> Plan:
    """Choose what ``given`` leaves open.

    Args:
        tokens: Length of the training text.
        vocab_size: V.
        seconds: Budget of the whole command; None if a number of steps or epochs is given, and
            then nothing depends on the machine, so that the run can be repeated elsewhere.
        gflops: From ``measure_gflops``.
        given: Settings that the user fixed, by field name.
    """
    cell = given.get("cell", ModelConfig.cell)
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    reasons: list[str] = []
    if seconds is None:
        work = 60.0 * min(tokens, 10**7) * 1e-3  # GFLOP as if the text were worth a minute per MB
        why = f"{tokens:,} training tokens"
    else:
        work = max(1.0, seconds - START_SECONDS) * gflops * 0.7  # share of the peak that is reached
        why = f"{tokens:,} training tokens and {seconds:g} s at {gflops:.0f} GFLOP/s"
    hidden = given.get("hidden_size") or _hidden_size(work, cell, tokens)
    layers = given.get("num_layers", 1)
    if "hidden_size" not in given:
        model["hidden_size"] = hidden
        reasons.append(f"{hidden} units for {why}")
    embed = given.get("embed_size") or (hidden if given.get("tied") else 64)
    if "embed_size" not in given:
        if vocab_size > 1000 and not given.get("tied"):
            embed = min(256, hidden)  # a word says more than a character
        model["embed_size"] = embed
    epochs = _epochs(work, cell, hidden, embed, layers, vocab_size, tokens, given)
    if "dropout" not in given:
        model["dropout"] = _dropout(epochs)
        reasons.append(f"dropout {model['dropout']:g} for about {epochs:.1f} epochs")
    if "ngram_buckets" not in given:
        # Rows for the n-grams that the run will see, within what a model file should weigh.
        model["ngram_buckets"] = 8192 if work < 5_000 else 16384
    if "ngram_output" not in given:
        # Said once, for a model keeps it when characters are added to its vocabulary.
        model["ngram_output"] = vocab_size <= NGRAM_LOGITS_VOCABULARY
    if "ngram_dropout" not in given:
        # Tables learn a text by heart before the network does; until then dropping only slows them.
        model["ngram_dropout"] = round(min(0.5, max(0.0, 0.15 * (epochs - 1.5))), 2)
    if "backoff_order" not in given:
        model["backoff_order"] = BACKOFF_ORDER
    if "table_lr" not in given:
        train["table_lr"] = round(TrainConfig.table_lr * min(1.0, max(0.1, 2.5 / epochs)), 4)
    if "lr" not in given:
        train["lr"] = _learning_rate(cell, hidden, given)
        reasons.append(f"learning rate {train['lr']:g} for {hidden} units")
    if given.get("optimizer") == "sgd" and "weight_decay" not in given:
        train["weight_decay"] = 1e-5  # decay is relative to the rate, which is high for sgd
    if "batch_size" not in given:
        train["batch_size"] = 32 if work > 40_000 else 16
    if "bptt" not in given:
        train["bptt"] = 64
    return Plan(model, train, reasons)


def rhythm(steps: int) -> dict[str, int]:
    """How long a run of known length warms up, and how often it reports and evaluates."""
    return {
        "warmup": min(TrainConfig.warmup, steps // 10),
        "report_every": max(1, steps // 100),
        "eval_every": max(1, -(-steps // 12)),
    }


def _hidden_size(work: float, cell: str, tokens: int) -> int:
    """Units for so many GFLOP: the size grows with time, but the number of updates grows faster."""
    # Fitted at 20 s, 2 min and 10 min; cheaper cells get some of what they save as units.
    width: float = 24.5 * work**0.28 * (4 / GATES[cell]) ** 0.25
    # A short text is soon known by heart; more units would only learn that faster.
    width = min(width, 0.75 * math.sqrt(tokens), 1024)
    return max(64, round(width / 64) * 64)


def _epochs(
    work: float,
    cell: str,
    hidden: int,
    embed: int,
    layers: int,
    vocab_size: int,
    tokens: int,
    given: Mapping[str, Any],
) -> float:
    if "epochs" in given:
        return float(given["epochs"])
    if "steps" in given:
        shape = given.get("batch_size", 16) * given.get("bptt", 64)
        return float(given["steps"] * shape / tokens)
    return work * 1e9 / flops_per_token(cell, hidden, embed, layers, vocab_size) / tokens


def _dropout(epochs: float) -> float:
    """A text read once or twice cannot be learned by heart; one read twenty times will be."""
    wanted = 0.1 * math.log2(max(epochs, 1e-9) / 2)
    return round(min(0.5, wanted), 2) if wanted >= 0.05 else 0.0


def _learning_rate(cell: str, hidden: int, given: Mapping[str, Any]) -> float:
    """Peak rate: falls as the layer widens; plain RNNs stand less than gated ones."""
    optimizer = given.get("optimizer", TrainConfig.optimizer)
    if optimizer == "sgd":
        return 1.0 if cell != "rnn" else 0.2
    scale = {"lstm": 2.0, "gru": 1.5, "rnn": 0.4}[cell]
    if given.get("nonlinearity") == "relu":
        scale *= 0.5  # twice as much still learns, but long chunks then explode at first
    if optimizer == "rmsprop":
        scale *= 0.3
    return float(f"{min(1e-2, scale / hidden):.2g}")
