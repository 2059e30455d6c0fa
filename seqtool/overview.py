"""What ``train`` tells before it starts: the text that it found and the settings that it chose."""

from collections.abc import Sequence

from seqtool.config import ModelConfig, TrainConfig
from seqtool.console import Console, format_bytes, format_count, number_of, plural
from seqtool.data import Corpus
from seqtool.settings import Settings

SHOWN = 12  # rare or strange characters listed
CHOSEN = ("chosen by seqtool", "shrunk to the text")  # origins of settings that nobody asked for


def listed(characters: dict[str, int]) -> str:
    """Characters with their counts, most frequent first, the invisible ones by code point."""
    shown = sorted(characters.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    names = [
        f"{char if char.isprintable() and not char.isspace() else f'U+{ord(char):04X}'} x{count}"
        for char, count in shown
    ]
    more = len(characters) - len(shown)
    return ", ".join(names) + (f" and {more} more" if more else "")


def show_corpus(corpus: Corpus, console: Console) -> None:
    """What the text holds, and how it is split."""
    stats = corpus.stats
    letters = plural(stats.characters, "character")
    size = f"{format_count(stats.characters)} {letters}, {format_bytes(stats.bytes)}"
    if stats.documents > 1:
        size += f" in {stats.documents} files"
    kind = corpus.tokenizer.kind
    rows = [
        ("size", f"{size}, {format_count(stats.lines)} {plural(stats.lines, 'line')}"),
        ("vocabulary", f"{corpus.tokenizer.vocab_size} entries ({kind})"),
        (
            "split",
            f"{format_count(corpus.train_chars)} characters to train on, the last "
            f"{format_count(corpus.valid_chars)} held out"
            if corpus.valid_sha256 is None
            else f"all to train on; {format_count(corpus.valid_chars)} characters of --valid",
        ),
    ]
    if kind != "char":
        per_token = corpus.train_chars / max(1, len(corpus.train))
        rows.append(
            ("tokens", f"{format_count(len(corpus.train))}, {per_token:.2f} characters each")
        )
    if corpus.sampled:
        sample = f"{format_count(corpus.sampled)} characters, spread evenly over those to train on"
        rows.append(("learned from", sample))
    if kind == "char" and stats.rare:
        rows.append(("rare", f"{number_of(len(stats.rare), 'character')}: {listed(stats.rare)}"))
    if stats.strange:
        odd = number_of(len(stats.strange), "character")
        rows.append(("strange", f"{odd}: {listed(stats.strange)}"))
    if corpus.unknown:
        rows.append(("unknown", f"not in the vocabulary: {listed(corpus.unknown)}"))
    if corpus.kept:
        rows.append(("kept", f"{corpus.kept}, for the next run; it may be deleted at any time"))
    console.table(corpus.name, rows)
    if corpus.valid.size == 0:
        console.warn("nothing is held out, so nothing tells when the model starts to memorise")


def model_rows(
    num_weights: int,
    num_table: int,
    model_config: ModelConfig,
    config: TrainConfig,
    settings: Settings,
    seconds: float | None,
    reasons: Sequence[str],
    counted: int,
) -> list[tuple[str, str]]:
    """What the model is and how it is trained, a star on what was chosen, and why.

    Args:
        num_weights: Of the network and its tables.
        num_table: Of the tables alone.
        model_config: The model.
        config: The training.
        settings: Where their values came from.
        seconds: The budget, None if there is none.
        reasons: For what was chosen.
        counted: Tokens, from the end, whose n-grams are counted; 0 for all.
    """

    def star(name: str) -> str:
        return "*" if settings.origins[name] in CHOSEN else ""

    cell = model_config.cell.upper()
    if model_config.cell == "rnn":
        cell += f" ({model_config.nonlinearity})"
    layers, hidden = model_config.num_layers, model_config.hidden_size
    rows = [
        (
            "network",
            f"{cell}, {layers} x {hidden}{star('hidden_size')} units, "
            f"dropout {model_config.dropout:g}{star('dropout')}",
        ),
        (
            "weights",
            f"{format_count(num_weights - num_table)} in the network, "
            f"{format_count(num_table)} in n-gram tables",
        ),
        (
            "training",
            f"{config.optimizer}, learning rate {config.lr:g}{star('lr')}, "
            f"batch {config.batch_size}{star('batch_size')} x {config.bptt}{star('bptt')}, "
            + (f"{config.steps} steps" if seconds is None else f"a budget of {seconds:g} s"),
        ),
    ]
    if model_config.backoff_order:
        longest = f"up to {model_config.backoff_order}{star('backoff_order')} tokens"
        where = f"the last {format_count(counted)} tokens" if counted else "the same text"
        rows.insert(2, ("mixed with", f"an n-gram model of {where}, n-grams of {longest}"))
    if reasons:
        rows.append(("* chosen", "; ".join(reasons)))
    return rows
