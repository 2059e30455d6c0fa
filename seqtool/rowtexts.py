"""Labelled texts to write like: rows of ids, each begun by a token for its label.

One sequence for each row: its label, its text, and the end, which is the start id of a text. Labels
are ids behind those of the tokenizer, so no text can hold one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.columns import Columns
from seqtool.config import DataConfig, LabelConfig
from seqtool.errors import DataError
from seqtool.labelled import Data, Split, read_split, strings
from seqtool.lexicon import Texts
from seqtool.tables import Table
from seqtool.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class RowTexts:
    """Labelled texts as ids, to train on and held out."""

    split: Split
    columns: Columns
    tokenizer: Tokenizer
    train: Texts  # each row is its label's id and its tokens
    valid: Texts  # may be empty
    train_chars: int
    valid_chars: int
    unknown: dict[str, int]  # characters that the tokenizer lacks

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer and of the labels."""
        return self.tokenizer.vocab_size + len(self.split.classes)

    def joined(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """All rows to train on one after the other, (n,), the start id before each."""
        words = self.train.words.astype(np.min_scalar_type(self.vocab_size - 1))
        return np.insert(words, self.train.offsets[:-1], self.tokenizer.start_id)


def as_labelled(config: DataConfig) -> LabelConfig:
    """What the reader of labelled data is told."""
    return LabelConfig(
        text_column=config.text_column,
        label_column=config.label_column,
        encoding=config.encoding,
        valid_fraction=config.valid_fraction,
    )


def read_rows(
    data: str,
    config: DataConfig,
    *,
    valid: str | None = None,
    seed: int,
    tokenizer: Tokenizer | None = None,
) -> RowTexts:
    """Read labelled texts, hold some of each class out, learn the vocabulary and spell them.

    An alphabet is taken from all texts; words and byte pairs are learned from those to train on.

    Args:
        data: A table, as for a classifier.
        config: Columns, kind and size of the vocabulary, encoding, fraction held out.
        valid: A table to hold out instead.
        seed: Of the split.
        tokenizer: A vocabulary to use as it is, instead of learning one.

    Raises:
        DataError: If there are no labelled texts, or not enough of them.
    """
    split = read_split(data, valid, as_labelled(config), seed)
    train, held_out = as_table(split.train), split.held_out
    texts, others = list(strings(train)), list(strings(as_table(held_out))) if held_out else []
    if tokenizer is None:
        known = chain(texts, others) if config.tokenizer == "char" else iter(texts)
        kept = list(known)
        tokenizer = Tokenizer.train(
            config.tokenizer, lambda: iter(kept), vocab_size=config.vocab_size
        )
    unknown: dict[str, int] = {}
    for text in chain(texts, others):
        for character, count in tokenizer.unknown(text).items():
            unknown[character] = unknown.get(character, 0) + count
    first = split.labels(train)
    second = split.labels(held_out) if held_out else np.zeros(0, np.int64)
    return RowTexts(
        split,
        train.columns,
        tokenizer,
        spell(texts, first, tokenizer),
        spell(others, second, tokenizer),
        sum(map(len, texts)),
        sum(map(len, others)),
        unknown,
    )


def spell(texts: Sequence[str], labels: npt.NDArray[np.int64], tokenizer: Tokenizer) -> Texts:
    """Texts as rows of ids, each begun by that of its label, given by number, (N,)."""
    rows = [
        np.append(tokenizer.vocab_size + label, tokenizer.encode(text)).astype(np.int32)
        for text, label in zip(texts, labels, strict=True)
    ]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    return Texts(np.concatenate([np.zeros(0, np.int32), *rows]), offsets)


def as_table(data: Data) -> Table:
    """Labelled data that hold texts.

    Raises:
        DataError: If they hold images.
    """
    if not isinstance(data, Table):
        raise DataError(f"{data.name}: holds images; needed are texts to write like")
    return data
