"""What nobody asked a classifier for by flag: sizes, rates and length that suit the data.

As in plan, every rule is simple and smooth, says why, and is fitted to no data set: each follows
from how many texts there are, how long they are, and what the machine can do in the time given.
"""

import math
from collections.abc import Mapping
from typing import Any

from seqtool.config import GATES, ClassifierConfig
from seqtool.plan import START_SECONDS, Plan

REACHED = 0.25  # share of the machine's peak that short padded batches reach
FEWEST_EPOCHS = 4.0  # a network is made no larger than lets it read its data so often
# Networks averaged: two have half of what endlessly many bring, and each costs the time of judging.
MOST_CHOSEN = 2
FILLED = 0.7  # of the time left that they may need by the first timing, which is a rough one
SIZES = (32, 48, 64, 96, 128, 192, 256)


def choose_classifier(
    *,
    examples: int,
    tokens: int,
    unit: str,
    seconds: float | None,
    gflops: float,
    given: Mapping[str, Any],
) -> Plan:
    """Choose what ``given`` leaves open.

    Args:
        examples: Sequences to train on.
        tokens: Elements in all of them, as far as they are read.
        unit: "word", "bpe", "char", "byte" or "row".
        seconds: Budget; None if a number of steps or epochs is given.
        gflops: From ``measure_gflops``.
        given: Settings that the user fixed, by field name.
    """
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    reasons: list[str] = []
    cell = given.get("cell", ClassifierConfig.cell)
    worded = unit in ("word", "bpe")  # few tokens of many kinds
    embed = given.get("embed_size", 100 if worded else 32)
    if "embed_size" not in given and unit != "row":
        model["embed_size"] = embed
    if "hidden_size" not in given:
        # More units than the data can teach only learn by heart.
        size = fitting_size(13 * examples**0.25, cell, embed, tokens, seconds, gflops)
        model["hidden_size"] = size
        reasons.append(f"hidden size {model['hidden_size']} for {examples:,} examples")
    if "part_buckets" not in given:
        model["part_buckets"] = 16384 if unit == "word" else 0
    if "ngram_order" not in given:
        # Two words make a phrase; it takes more characters to make anything. Those of short texts,
        # which are read by characters unless somebody says otherwise, have few of any length.
        model["ngram_order"] = {"word": 2, "bpe": 3, "char": 4, "byte": 5}.get(unit, 0)
    if not worded:
        model |= {name: 0.0 for name in ("word_dropout", "embed_dropout") if name not in given}
    if "dropout" not in given:
        model["dropout"] = 0.5 if worded else 0.25
    batch = given.get("batch_size", max(8, min(64, round(math.sqrt(examples) / 2))))
    if "batch_size" not in given:
        train["batch_size"] = batch
    if "lr" not in given:
        # Words make a large table that is soon known by heart; then slower is better.
        train["lr"] = (1e-3 if worded else 2e-3) * (1.0 if cell != "rnn" else 0.3)
        reasons.append(f"learning rate {train['lr']:.1e} for this cell")
    return Plan(model, train, reasons)


def fitting_size(
    most: float, cell: str, width: int, tokens: int, seconds: float | None, gflops: float
) -> int:
    """Units in each of two directions: as many as the data can teach and the time lets learn.

    Args:
        most: That the data can teach.
        cell: Kind of recurrence.
        width: Numbers that the layers read at each step.
        tokens: Steps in one pass over the data.
        seconds: Budget; None for any time.
        gflops: Of the machine.
    """
    most = max(most, SIZES[0])
    if seconds is not None:
        work = max(1.0, seconds - START_SECONDS) * gflops * REACHED * 1e9

        def epochs(hidden: int) -> float:
            flops = 6.0 * 2 * GATES[cell] * hidden * (width + hidden)
            return float(work / (flops * tokens))

        fits = (size for size in SIZES if epochs(size) >= FEWEST_EPOCHS)
        most = min(most, max(fits, default=SIZES[0]))
    return max(size for size in SIZES if size <= most)


def choose_pieces(characters: int) -> int:
    """How many pieces of words (BPE) a text of some length can teach.

    The vocabulary of a text grows about as the root of its length (Heaps' law); pieces that come
    often enough to be learned are a like share of it.
    """
    return round(min(16_000, max(500, 2 * math.sqrt(characters))))


def most_steps(examples: int, batch_size: int, unit: str) -> int:
    """Updates after which more would only learn the data by heart.

    Words are soon known by heart, characters and rows of pixels less so; a small set needs more
    passes for the same number of updates.
    """
    epochs = max(5.0 if unit in ("word", "bpe") else 12.0, 1000 * batch_size / examples)
    return max(20, round(min(epochs, 60.0) * examples / batch_size))


def choose_members(seconds: float, left: float) -> int:
    """How many networks a budget has time for.

    Their mean errs less by what is chance in each: of that 1 / K is left. A single one is never
    hurried for the sake of others.

    Args:
        seconds: That one of them needs for its whole run.
        left: Of the budget.
    """
    return max(1, min(MOST_CHOSEN, int(FILLED * left / max(seconds, 1e-9))))
