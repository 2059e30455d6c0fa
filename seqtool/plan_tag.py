"""What nobody asked a tagger for by flag: sizes, rates and length that suit the data.

As in plan_classify, every rule is simple and smooth and fitted to no data set.
"""

import math
from collections.abc import Mapping
from typing import Any

from seqtool.config import TaggerConfig
from seqtool.plan import Plan
from seqtool.plan_classify import fitting_size

RATE = 5e-3  # peak learning rate; a word's label says so much that steps may be large
MOST_EPOCHS = 15.0  # by then labels held out have long ceased to become more probable
FEWEST_STEPS = 4000  # for these a small set is passed over more often
SMALL_EPOCHS = 60.0  # but not more than so often


def choose_tagger(
    *,
    sentences: int,
    tokens: int,
    seconds: float | None,
    gflops: float,
    given: Mapping[str, Any],
) -> Plan:
    """Choose what ``given`` leaves open.

    Args:
        sentences: To train on.
        tokens: Words in all of them.
        seconds: Budget; None if a number of steps or epochs is given.
        gflops: From ``measure_gflops``.
        given: Settings that the user fixed, by field name.
    """
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    reasons: list[str] = []
    cell = given.get("cell", TaggerConfig.cell)
    if "hidden_size" not in given:
        width = 2 * given.get("embed_size", TaggerConfig.embed_size)
        # Every word teaches, not only every sentence; more units would only learn by heart.
        size = fitting_size(7 * tokens**0.25, cell, width, tokens, seconds, gflops)
        model["hidden_size"] = size
        reasons.append(f"hidden size {size} for {tokens:,} words")
    if "batch_size" not in given:
        train["batch_size"] = max(8, min(32, round(math.sqrt(sentences) / 3)))
    if "lr" not in given:
        train["lr"] = RATE * (1.0 if cell != "rnn" else 0.3)
        reasons.append(f"learning rate {train['lr']:.1e} for this cell")
    return Plan(model, train, reasons)


def most_steps(sentences: int, batch_size: int) -> int:
    """Updates after which more would only learn the data by heart."""
    epochs = max(MOST_EPOCHS, min(SMALL_EPOCHS, FEWEST_STEPS * batch_size / sentences))
    return max(20, round(epochs * sentences / batch_size))
