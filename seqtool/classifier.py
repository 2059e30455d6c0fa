"""The recurrent classifier: a sequence in, one score for each class out.

    x_t  = embedding[word_t] + mean of the vectors of the word's character n-grams
    f, b = recurrent layers that read x from its first and from its last element
    y    = W [max_t h_t, mean_t h_t, f_last, b_first] + c,    h_t = [f_t, b_t]

Sequences of a batch are padded at their ends. Nothing that is learned or answered depends on that:
the layers that read backwards get every sequence turned around within its own length, and pooling
leaves padding out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.cells import RecurrentStack, Stack
from seqtool.config import ClassifierConfig, TaggerConfig

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
        self.words = nn.Embedding(vocab_size, config.embed_size, padding_idx=0)
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
        return functional.embedding(words.places, vectors)


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
        self.output = nn.Linear(6 * config.hidden_size, num_classes)
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
        if isinstance(inputs, Words):
            assert self.vectors is not None, "this model reads numbers, not words"
            x: Tensor = self.vectors(inputs)  # (B, T, E)
        else:
            x = inputs
        x = functional.dropout(x, self.config.embed_dropout, self.training)
        steps = torch.arange(x.shape[1], device=x.device)
        inside = steps < lengths[:, None]  # (B, T)
        # Turned around within its length: t becomes length - 1 - t, padding stays where it is.
        turned = torch.where(inside, lengths[:, None] - 1 - steps, steps)[:, :, None]
        start = self.onward.init_state(len(x))
        f, _ = onward(x, start)  # (B, T, H)
        b, _ = back(x.gather(1, turned.expand_as(x)), start)
        last = (lengths - 1)[:, None, None].expand(-1, 1, f.shape[2])
        ends = [f.gather(1, last)[:, 0], b.gather(1, last)[:, 0]]  # 2 x (B, H)
        # Pooling does not mind that the backward outputs stand in the order of reading.
        h = torch.cat([f, b], dim=2)  # (B, T, 2H)
        highest = h.masked_fill(~inside[:, :, None], -torch.inf).amax(dim=1)
        mean = h.masked_fill(~inside[:, :, None], 0).sum(dim=1) / lengths[:, None]
        logits: Tensor = self.output(torch.cat([highest, mean, *ends], dim=1))
        return logits
