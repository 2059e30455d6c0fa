"""The recurrent tagger: a sentence in, one score for each label at each word out.

    x_t = [embedding[word_t], mean of the vectors of the word's parts]
    h_t = [onward_t, back_t], layer by layer: each reads both directions of the one below
    y_t = W h_t + c

The scores are those of the labels at a word or, with a chain from crf on top, a part of the score
of a whole sequence of labels. Sentences of a batch are padded at their ends, and nothing that is
learned or answered depends on that.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.cells import RecurrentStack, Stack
from seqtool.classifier import Words, WordVectors
from seqtool.config import TaggerConfig
from seqtool.crf import Chain
from seqtool.dense import Linear


class Tagger(nn.Module):
    """Reads sentences in both directions and labels their words."""

    def __init__(self, config: TaggerConfig, num_labels: int, *, vocab_size: int) -> None:
        """Make the layers and draw their starting weights from torch's global generator.

        Args:
            config: Its shape.
            num_labels: C.
            vocab_size: Words with an id, and one for the others.
        """
        super().__init__()
        self.config = config
        self.vectors = WordVectors(config, vocab_size, side_by_side=True)
        self.stack = RecurrentStack(
            config.embed_size * (2 if self.vectors.side_by_side else 1),
            config.hidden_size,
            config.num_layers,
            cell=config.cell,
            nonlinearity=config.nonlinearity,
            dropout=config.dropout,
            bidirectional=True,
        )
        self.output = Linear(2 * config.hidden_size, num_labels)
        nn.init.zeros_(self.output.bias)
        self.chain = Chain(num_labels) if config.crf else None

    def forward(self, words: Words, lengths: Tensor) -> Tensor:
        """Score every label at every word.

        Args:
            words: Of a batch.
            lengths: Of the sentences, (B,), each at least 1.

        Returns:
            (B, T, C); what stands in the padding means nothing.
        """
        return self.through(words, partial(self.stack, lengths=lengths))

    def through(self, words: Words, stack: Stack) -> Tensor:
        """As ``forward``, with the recurrent layers run by another function, as diagnostics does.

        Args:
            words: Of a batch.
            stack: From (B, T, E) and the state before to the output (B, T, 2H) and the state after.
        """
        x = functional.dropout(self.vectors(words), self.config.embed_dropout, self.training)
        h, _ = stack(x, self.stack.init_state(len(x)))  # (B, T, 2H)
        scores: Tensor = self.output(h)
        return scores

    def nll(self, scores: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """How improbable labels are.

        Args:
            scores: What ``forward`` gave, (B, T, C).
            lengths: Of the sentences, (B,).
            labels: (B, T) int64; any label in the padding.

        Returns:
            Nats per word, a scalar.
        """
        if self.chain is not None:
            total: Tensor = self.chain(scores, lengths, labels).sum()
            return total / lengths.sum()
        inside = torch.arange(scores.shape[1], device=lengths.device) < lengths[:, None]
        return functional.cross_entropy(scores[inside], labels[inside])
