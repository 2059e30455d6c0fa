"""What nobody asked a translator for by flag: sizes, rates and length that suit the pairs.

As in plan, every rule is simple and smooth, says why, and follows from how many tokens there are,
how large the vocabularies are, and what the machine can do in the time given.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqtool.config import GATES, TrainConfig, TranslatorConfig
from seqtool.plan import START_SECONDS, Plan

REACHED = 0.7  # share of the machine's peak that batches of sentences reach
FEWEST_EPOCHS = 8.0  # a network is made no larger than lets it read its pairs so often
# Without attention the state has to hold all of a source: wider networks that read their pairs less
# often make a third of the mistakes in strings turned round, and about as many in pig Latin.
WIDER, FEWER = 1.75, 0.5
SIZES = (48, 64, 96, 128, 160, 192, 256, 320, 384, 512)
SMALLEST_FOR_TIME = 128  # smaller networks are not faster by as much as they are worse
LARGE_VOCABULARY = 1000  # from here on tokens are words or their pieces, not characters
MOST_EPOCHS, FEWEST_UPDATES = 80.0, 6000  # a run is no longer than the larger of the two


@dataclass(frozen=True)
class Sizes:
    """What the pairs to train on are like, as ids."""

    pairs: int
    source_tokens: int  # in all, with their ends
    target_tokens: int
    source_vocabulary: int
    target_vocabulary: int
    joint: bool  # one vocabulary for both sides
    pictures: bool = False  # sources are columns of pixels


def flops_per_token(model: TranslatorConfig, sizes: Sizes) -> float:
    """Operations to train on one target token and its part of a source: six for each weight met."""
    hidden, embed, layers = model.hidden_size, model.embed_size, model.num_layers
    gates = GATES[model.cell] * hidden
    source = 2 * gates * (embed + hidden + (layers - 1) * 3 * hidden) + 4 * hidden * hidden
    target = gates * (embed + hidden) + gates * (3 * hidden + (layers - 1) * 2 * hidden)
    target += embed * (3 * hidden + sizes.target_vocabulary)
    return 6.0 * (target + source * sizes.source_tokens / sizes.target_tokens)


def choose_translator(
    sizes: Sizes, *, seconds: float | None, gflops: float, given: Mapping[str, Any]
) -> Plan:
    """Choose what ``given`` leaves open, but for what depends on the number of updates.

    Args:
        sizes: Of the data.
        seconds: Budget; None if a number of steps or epochs is given.
        gflops: From ``measure_gflops``.
        given: Settings that the user fixed, by field name.
    """
    model: dict[str, Any] = {}
    reasons: list[str] = []
    words = sizes.target_vocabulary >= LARGE_VOCABULARY
    if "tying" not in given:
        model["tying"] = "all" if sizes.joint else "target"
    if "source_word_dropout" not in given and sizes.source_vocabulary < LARGE_VOCABULARY:
        model["source_word_dropout"] = 0.0  # without one of its letters a word is another word
    work = None
    if seconds is not None:
        work = max(1.0, seconds - START_SECONDS) * gflops * REACHED * 1e9 / given.get("members", 1)
    if "hidden_size" not in given:
        hidden = _hidden_size(sizes, work, words, given)
        model["hidden_size"] = hidden
        reasons.append(f"hidden size {hidden} for {sizes.target_tokens:,} target tokens")
    hidden = given.get("hidden_size", model.get("hidden_size"))
    if "embed_size" not in given:
        model["embed_size"] = _embed_size(hidden, words)
    shape = _shape({**given, **model})
    epochs = _epochs(sizes, shape, work, given)
    if "dropout" not in given:
        model["dropout"] = _dropout(epochs, words)
        reasons.append(f"dropout {model['dropout']:g} for about {epochs:.0f} epochs")
    train: dict[str, Any] = {}
    if "batch_size" not in given:
        train["batch_size"] = batch_tokens(sizes.target_tokens)
        if sizes.pictures:  # a sign is many columns wide, and the longer side is counted
            ratio = max(1.0, sizes.source_tokens / sizes.target_tokens)
            train["batch_size"] = round(ratio * train["batch_size"])
        reasons.append(f"batches of {train['batch_size']} tokens")
    if "lr" not in given:
        train["lr"] = _learning_rate(shape)
        reasons.append(f"learning rate {train['lr']:.1e} for {hidden} units")
    return Plan(model, train, reasons)


def batch_tokens(tokens: int) -> int:
    """Tokens of a batch: the square root law, 1,600 for half a million tokens in all."""
    return int(min(4096, max(128, round(2.3 * math.sqrt(tokens), -1))))


def most_steps(batches: int) -> int:
    """Updates after which more would only learn the pairs by heart.

    Args:
        batches: In one epoch.
    """
    return max(FEWEST_UPDATES, round(MOST_EPOCHS * batches))


def _shape(values: Mapping[str, Any]) -> TranslatorConfig:
    names = ("cell", "hidden_size", "embed_size", "num_layers")
    return TranslatorConfig(**{name: values[name] for name in names if name in values})


def _embed_size(hidden: int, words: bool) -> int:
    return hidden if words else min(hidden, 128)


def _hidden_size(sizes: Sizes, work: float | None, words: bool, given: Mapping[str, Any]) -> int:
    """More units than the data can teach only learn by heart, or are too slow to learn at all."""
    plain = given.get("attention") == "none"
    most = 10.5 * sizes.target_tokens**0.25 * (4 / GATES[given.get("cell", "lstm")]) ** 0.5
    most *= WIDER if plain else 1
    fitting = [size for size in SIZES if size <= most] or [SIZES[0]]
    if work is None:
        return fitting[-1]

    def epochs(hidden: int) -> float:
        embed = given.get("embed_size", _embed_size(hidden, words))
        shape = _shape({**given, "hidden_size": hidden, "embed_size": embed})
        return work / flops_per_token(shape, sizes) / sizes.target_tokens

    fewest = FEWEST_EPOCHS * (FEWER if plain else 1)
    quick = [size for size in fitting if epochs(size) >= fewest]
    slowest = min(SMALLEST_FOR_TIME, fitting[-1])
    return max(slowest, quick[-1] if quick else 0)


def _epochs(
    sizes: Sizes, model: TranslatorConfig, work: float | None, given: Mapping[str, Any]
) -> float:
    if work is not None:
        return min(MOST_EPOCHS, work / flops_per_token(model, sizes) / sizes.target_tokens)
    if "epochs" in given:
        return float(given["epochs"])
    steps = given.get("steps", TrainConfig.steps)
    batch = given.get("batch_size", batch_tokens(sizes.target_tokens))
    return float(steps * batch / sizes.target_tokens)


def _dropout(epochs: float, words: bool) -> float:
    """Pairs read once or twice are not learned by heart; spellings follow rules, words less so."""
    wanted = min(0.4, 0.06 * math.log2(max(1.0, epochs)))
    return round(wanted if words else min(0.2, wanted / 2), 2)


def _learning_rate(model: TranslatorConfig) -> float:
    """Peak rate: falls as the layers widen; plain RNNs stand less than gated ones."""
    scale = 0.5 if model.cell != "rnn" else 0.12
    return float(f"{min(4e-3, scale / model.hidden_size):.2g}")
