"""The recurrent classifier: a sequence in, one score for each class out.

    x_t  = embedding[word_t] + mean of the vectors of the word's character n-grams
    f, b = recurrent layers that read x from its first and from its last element
    y    = W [max_t h_t, mean_t h_t, f_last, b_first] + c,    h_t = [f_t, b_t]

or with other ways of pooling, among them attention: the mean of h_t weighted by what each says
of itself. A language model's hashed n-gram tables may add to x_t, as they do in the model.
Several such networks may stand side by side, and y is then the mean of theirs.

Sequences of a batch are padded at their ends. Nothing that is learned or answered depends on that:
the layers that read backwards get every sequence turned around within its own length, and pooling
leaves padding out.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.cells import RecurrentStack, Stack
from seqtool.config import ClassifierConfig, TaggerConfig
from seqtool.dense import Embedding, linear, look_up
from seqtool.models import load_arrays
from seqtool.ngrams import NgramTables
from seqtool.shapes import of_member

EMBEDDING_STD = 0.1


class Words(NamedTuple):
    """The different words of a batch, and where they stand."""

    ids: Tensor  # (U,) in the vocabulary, 0 = not in it
    parts: Tensor  # (P,) buckets of their character n-grams, one word after the other
    starts: Tensor  # (U,) where each word's parts begin
    places: Tensor  # (B, T) which of the U words stands there; any of them in the padding

    def to(self, device: torch.device) -> "Words":
        """The same on a device."""
        return Words(*(part.to(device) for part in self))


class WordVectors(nn.Module):
    """A vector for each word: its own, if it is in the vocabulary, and that of its parts."""

    def __init__(
        self,
        config: ClassifierConfig | TaggerConfig,
        vocab_size: int,
        *,
        side_by_side: bool = False,
    ) -> None:
        """Draw both tables.

        Args:
            config: Their sizes, E wide.
            vocab_size: Words with an id, and one for the others.
            side_by_side: Whether the two vectors of a word are not added but joined, 2E wide.
        """
        super().__init__()
        self.side_by_side = side_by_side and config.part_buckets > 0
        self.word_dropout = config.word_dropout
        # torch's "padding" row is the one that stays zero: words outside the vocabulary.
        self.words = Embedding(vocab_size, config.embed_size, padding_idx=0)
        nn.init.normal_(self.words.weight, std=EMBEDDING_STD)
        self.parts: nn.Parameter | None = None
        if config.part_buckets:
            self.parts = nn.Parameter(torch.empty(config.part_buckets, config.embed_size))
            nn.init.normal_(self.parts, std=EMBEDDING_STD)
        with torch.no_grad():
            self.words.weight[0] = 0

    def forward(self, words: Words) -> Tensor:
        """Vectors, (B, T, E); in training some words are known by their parts alone."""
        vectors = self.words(words.ids)  # (U, E)
        if self.training and self.word_dropout:
            kept = torch.rand(len(vectors), 1, device=vectors.device) >= self.word_dropout
            vectors = vectors * kept / (1 - self.word_dropout)
        if self.parts is not None:
            parts = functional.embedding_bag(words.parts, self.parts, words.starts, mode="mean")
            vectors = torch.cat([vectors, parts], 1) if self.side_by_side else vectors + parts
        return look_up(vectors, words.places)


class AttentionPool(nn.Module):
    """One vector of many: a mean weighted by the softmax over time of u . tanh(W h_t + b).

    Source: Yang et al. 2016, "Hierarchical attention networks", equations 5 to 7.
    """

    def __init__(self, size: int, width: int) -> None:
        """Take outputs of ``size`` numbers; ``width`` is the number of rows of W."""
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, size)))
        self.bias = nn.Parameter(torch.zeros(width))
        self.query = nn.Parameter(torch.zeros(width))  # at first a plain mean

    def forward(self, h: Tensor, inside: Tensor) -> Tensor:
        """Pool (B, T, S) where ``inside`` (B, T) holds; gives (B, S)."""
        scores = torch.tanh(linear(h, self.weight, self.bias)) @ self.query
        shares = scores.masked_fill(~inside, -torch.inf).softmax(dim=1)
        # Padding may hold anything, and 0 times that must be 0.
        kept = h.masked_fill(~inside[:, :, None], 0)
        return (shares[:, :, None] * kept).sum(dim=1)


class Classifier(nn.Module):
    """Reads sequences in both directions and judges them."""

    def __init__(
        self, config: ClassifierConfig, num_classes: int, *, vocab_size: int = 0, width: int = 0
    ) -> None:
        """Make the layers and draw their starting weights from torch's global generator.

        Args:
            config: Its shape.
            num_classes: C.
            vocab_size: Words with an id and one for the others, if it reads words.
            width: Numbers in each element of a sequence, if it reads these.
        """
        super().__init__()
        self.config = config
        self.vectors = WordVectors(config, vocab_size) if vocab_size else None
        shape = (config.embed_size if vocab_size else width, config.hidden_size, config.num_layers)
        cell, nonlinearity, dropout = config.cell, config.nonlinearity, config.dropout
        self.onward = RecurrentStack(*shape, cell=cell, nonlinearity=nonlinearity, dropout=dropout)
        self.back = RecurrentStack(*shape, cell=cell, nonlinearity=nonlinearity, dropout=dropout)
        self.tables: NgramTables | None = None
        if config.table_order > 1:
            self.tables = NgramTables(
                config.table_order, config.table_buckets, config.embed_size, 0
            )
            self.tables.requires_grad_(False)  # few labels would only teach them by heart
        both = 2 * config.hidden_size
        self.attention: AttentionPool | None = None
        if "attention" in config.pools:
            self.attention = AttentionPool(both, config.hidden_size)
        self.output = nn.Linear(len(config.pools) * both, num_classes)
        nn.init.zeros_(self.output.bias)

    def forward(self, inputs: Words | Tensor, lengths: Tensor) -> Tensor:
        """Score a batch.

        Args:
            inputs: Words, or numbers (B, T, D).
            lengths: Of the sequences, (B,), each at least 1.

        Returns:
            Logits, (B, C).
        """
        return self.through(inputs, lengths, self.onward, self.back)

    def through(
        self, inputs: Words | Tensor, lengths: Tensor, onward: Stack, back: Stack
    ) -> Tensor:
        """As ``forward``, with the recurrent layers run by other functions.

        This is how diagnostics looks inside.

        Args:
            inputs: Words, or numbers (B, T, D).
            lengths: (B,).
            onward: Runs the layers that read from the first element on: from (B, T, E) and the
                state before to the output (B, T, H) and the state after.
            back: The same for those that read from the last.
        """
        x = self._read(inputs) if isinstance(inputs, Words) else inputs  # (B, T, E)
        x = functional.dropout(x, self.config.embed_dropout, self.training)
        steps = torch.arange(x.shape[1], device=x.device)
        inside = steps < lengths[:, None]  # (B, T)
        # Turned around within its length: t becomes length - 1 - t, padding stays where it is.
        turned = torch.where(inside, lengths[:, None] - 1 - steps, steps)[:, :, None]
        start = self.onward.init_state(len(x))
        f, _ = onward(x, start)  # (B, T, H)
        b, _ = back(x.gather(1, turned.expand_as(x)), start)
        # Pooling does not mind that the backward outputs stand in the order of reading, but that
        # what is weighted together belongs to one place.
        h = torch.cat([f, b], dim=2)  # (B, T, 2H)
        pooled = [self._pool(how, h, inside, lengths, turned) for how in self.config.pools]
        logits: Tensor = self.output(torch.cat(pooled, dim=1))
        return logits

    def _read(self, words: Words) -> Tensor:
        """Vectors of words, (B, T, E), with what n-grams that end there add."""
        assert self.vectors is not None, "this model reads numbers, not words"
        x: Tensor = self.vectors(words)
        if self.tables is not None:
            ids = words.ids[words.places]
            recent = ids.new_zeros(1, len(ids), self.tables.context)
            x = x + self.tables(ids, recent, drop=False)[0]
        return x

    def _pool(self, how: str, h: Tensor, inside: Tensor, lengths: Tensor, turned: Tensor) -> Tensor:
        """One vector of each sequence, (B, 2H)."""
        if how == "max":
            return h.masked_fill(~inside[:, :, None], -torch.inf).amax(dim=1)
        if how == "mean":
            return h.masked_fill(~inside[:, :, None], 0).sum(dim=1) / lengths[:, None]
        if how == "last":  # of both directions what has read all
            last = (lengths - 1)[:, None, None].expand(-1, 1, h.shape[2])
            return h.gather(1, last)[:, 0]
        assert self.attention is not None
        f, b = h.chunk(2, dim=2)
        aligned = torch.cat([f, b.gather(1, turned.expand_as(b))], dim=2)
        attended: Tensor = self.attention(aligned, inside)
        return attended


@torch.no_grad()
def build_classifier(
    config: ClassifierConfig,
    num_classes: int,
    *,
    vocab_size: int = 0,
    width: int = 0,
    weights: Mapping[str, np.ndarray],
) -> list[Classifier]:
    """The networks of a classifier as they were saved, in evaluation mode, one at least.

    Arguments as for ``Classifier``.
    """
    networks = []
    for number in range(config.members):
        model = Classifier(config, num_classes, vocab_size=vocab_size, width=width)
        load_arrays(model, of_member(config, weights, number))
        networks.append(model.eval())
    return networks
