"""The encoder-decoder: a sequence in, the scores of the next token of another one out.

    h_j     = encoder, both directions, over the source embeddings;   m_j = layer norm of h_j
    q_t     = recurrent layer over the target embeddings, first part of the decoder
    c_t     = what attention sees in m when asked q_t
    s_t     = recurrent layers over [q_t, c_t], second part of the decoder
    o_t     = tanh(layer norm(W [s_t, c_t, q_t] + b))
    logits  = V o_t + d

The attention is asked by a layer that does not read its answer, so with the right target given
(teacher forcing) every layer runs over all time steps at once; the answer reaches the state in the
second part. With input feeding q_t also reads o_{t-1} (Luong, Pham & Manning 2015,
arXiv:1508.04025, section 3.3), time steps are taken one by one, and each draws its own dropout. The
decoder starts from the encoder's last states, h parts through a tanh. Without attention this is the
plain encoder-decoder of Sutskever, Vinyals & Le 2014 (arXiv:1409.3215) and Cho et al. 2014
(arXiv:1406.1078).

A source may be a picture of a line: then a linear map of its columns of pixels is the embedding.

Sources end with the boundary id (pictures with a column of zeros), targets begin and end with it.
Padding, the other sequences of a batch and their order change nothing. No text and no search here.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.attention import Attention, Memory
from seqtool.cells import RecurrentStack, Stack, State
from seqtool.config import TranslatorConfig
from seqtool.dense import Embedding, Linear
from seqtool.losses import cross_entropy
from seqtool.models import load_arrays
from seqtool.shapes import of_member

BOUNDARY = 0  # id that begins and ends a target, and ends a source
EMBEDDING_STD = 0.1


class EncoderDecoder(nn.Module):
    """Reads sources, scores targets.

    The decoder's state is a tuple: the parts of the first layer, each (1, B, H), those of the
    layers behind the attention, each (L, B, H), and with input feeding o, (1, B, E). It is passed
    in and returned, never kept.
    """

    def __init__(
        self,
        config: TranslatorConfig,
        source_size: int,
        target_size: int,
        *,
        source_unknown: int | None = None,
        pictures: bool = False,
    ) -> None:
        """Make the layers and draw their starting weights from torch's global generator.

        Args:
            config: Its shape. ``tying`` "all" needs one vocabulary for both sides.
            source_size: Ids of the source's vocabulary, or of pictures D, the numbers of a step.
            target_size: V, ids of the target's.
            source_unknown: Id that says nothing about what stands there: its embedding is zero and
                stays zero, like that of a word that source word dropout hides.
            pictures: Whether sources are columns of pixels, not ids.
        """
        super().__init__()
        self.config = config
        self.source_unknown = source_unknown
        embed, hidden = config.embed_size, config.hidden_size
        memory = 2 * hidden
        self.source_embedding: nn.Embedding | nn.Linear
        if pictures:
            self.source_embedding = nn.Linear(source_size, embed)
        else:
            self.source_embedding = Embedding(source_size, embed, padding_idx=source_unknown)
        self.target_embedding: nn.Embedding | None = None
        if config.tying == "all":
            assert source_size == target_size, "one matrix for two vocabularies"
            assert not pictures, "pictures have no vocabulary"
        else:
            self.target_embedding = Embedding(target_size, embed)

        def stack(width: int, layers: int, *, bidirectional: bool = False) -> RecurrentStack:
            return RecurrentStack(
                width,
                hidden,
                layers,
                cell=config.cell,
                nonlinearity=config.nonlinearity,
                dropout=config.dropout,
                bidirectional=bidirectional,
            )

        self.encoder = stack(embed, config.num_layers, bidirectional=True)
        self.attention = Attention(config.attention, memory, hidden)
        self.query = stack(2 * embed if config.input_feeding else embed, 1)
        self.reader = stack(2 * hidden, config.num_layers)
        parts = 2 if config.cell == "lstm" else 1
        self.bridge = Linear(memory, parts * (1 + config.num_layers) * hidden)
        self.deep = Linear(3 * hidden, embed)
        looked_at = config.layer_norm and config.attention != "none"
        self.memory_norm = nn.LayerNorm(memory) if looked_at else nn.Identity()
        self.deep_norm = nn.LayerNorm(embed) if config.layer_norm else nn.Identity()
        self.output = nn.Linear(embed, target_size)
        if config.tying != "none":  # no second name for one matrix
            self.output.register_parameter("weight", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw what the stacks and the attention have not drawn."""
        for embedding in (self.source_embedding, self.target_embedding):
            if isinstance(embedding, nn.Embedding):
                nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
        if self.source_unknown is not None:
            self.source_embedding.weight[self.source_unknown] = 0
        for layer in (self.bridge, self.deep):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.bias)

    def encode(
        self, source: Tensor, lengths: Tensor, encoder: Stack | None = None
    ) -> tuple[State, Memory]:
        """Read a batch of sources.

        Args:
            source: Ids, (B, S) int64, or pictures, (B, S, D) float32; what stands behind a row's
                length is not read.
            lengths: (B,), each at least 1.
            encoder: Runs the encoder's layers in their place.

        Returns:
            The state before the first step of the decoder, and what its attention looks at.
        """
        x = self._drop(self.source_embedding(source))
        if self.training and self.config.source_word_dropout:
            keep = 1 - self.config.source_word_dropout
            x = x * x.new_empty(*source.shape[:2], 1).bernoulli_(keep) / keep
        run = encoder or partial(self.encoder, lengths=lengths)
        output, final = run(x, self.encoder.init_state(len(x)))
        summary = torch.cat(final[0][-2:].unbind(), dim=1)  # last layer's h, both directions
        memory = self.memory_norm(output)
        return self._start(summary), self.attention.read(memory, summary, lengths)

    def _start(self, summary: Tensor) -> State:
        layers, hidden = 1 + self.config.num_layers, self.config.hidden_size
        first = self.bridge(summary).view(len(summary), -1, layers, hidden).permute(1, 2, 0, 3)
        parts = [torch.tanh(first[0]), *first[1:]]  # each (1 + L, B, H); c has no bounds
        state = [part[:1] for part in parts] + [part[1:] for part in parts]
        if self.config.input_feeding:
            state.append(summary.new_zeros(1, len(summary), self.config.embed_size))
        return tuple(state)

    def forward(
        self, source: Tensor, source_lengths: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score the next token at every position, the right ones before it given.

        Args:
            source: Ids, (B, S), or pictures, (B, S, D).
            source_lengths: (B,).
            target: Ids that are to be said, (B, T); padding may be anything.

        Returns:
            Logits, (B, T, V), and alignments, (B, T, S).
        """
        output, weights = self._decode(source, source_lengths, target)
        return functional.linear(output, self._output_weight(), self.output.bias), weights

    def loss(
        self, source: Tensor, source_lengths: Tensor, target: Tensor, target_lengths: Tensor
    ) -> tuple[Tensor, int]:
        """How badly the next token is predicted, in the mean over all positions.

        Args:
            source: Ids, (B, S), or pictures, (B, S, D).
            source_lengths: (B,).
            target: Ids that are to be said, boundary included, (B, T).
            target_lengths: (B,).

        Returns:
            Cross entropy with label smoothing, in nats, and the number of positions.
        """
        output, _ = self._decode(source, source_lengths, target)
        inside = torch.arange(target.shape[1], device=target.device) < target_lengths[:, None]
        output, target = output[inside], target[inside]  # (N, E), (N,)
        weight, smoothing = self._output_weight(), self.config.label_smoothing
        loss = cross_entropy(output, weight, self.output.bias, target, smoothing=smoothing)
        return loss, len(target)

    def through(
        self, source: Tensor, target: Tensor, encoder: Stack, decoder: tuple[Stack, Stack]
    ) -> Tensor:
        """As ``forward``, with the recurrent layers run by other functions.

        This is how diagnostics looks inside.

        Args:
            source: Ids of sources of one length, (B, S).
            target: Ids that are to be said, (B, T).
            encoder: Runs the encoder's layers.
            decoder: Run the decoder's below and above its attention. With input feeding they are
                called for one time step after the other.

        Returns:
            Logits, (B, T, V).
        """
        lengths = source.new_full((len(source),), source.shape[1])
        output, _ = self._decode(source, lengths, target, encoder, decoder)
        return functional.linear(output, self._output_weight(), self.output.bias)

    def step(self, ids: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Tensor]:
        """Score the next token after one more, without dropout.

        Args:
            ids: The last token of each target, (B,); BOUNDARY before the first.
            state: From ``encode`` or the last step.
            memory: From ``encode``.

        Returns:
            Logits, (B, V), the new state, and where the attention looked, (B, S).
        """
        assert not self.training, "dropout would not be the same at every step"
        x = self._target_embedding()(ids[:, None])
        output, state, weights = self._advance(x, state, memory)
        logits = functional.linear(output[:, 0], self._output_weight(), self.output.bias)
        return logits, state, weights[:, 0]

    @staticmethod
    def select(state: State, memory: Memory, rows: Tensor) -> tuple[State, Memory]:
        """State and sources of some rows of the batch, in any order and any number of times."""
        return tuple(part[:, rows] for part in state), memory.select(rows)

    def _decode(
        self,
        source: Tensor,
        source_lengths: Tensor,
        target: Tensor,
        encoder: Stack | None = None,
        decoder: tuple[Stack, Stack] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """o at every position, (B, T, E), and alignments, (B, T, S)."""
        state, memory = self.encode(source, source_lengths, encoder)
        before = functional.pad(target[:, :-1], (1, 0), value=BOUNDARY)
        x = self._drop(self._target_embedding()(before))
        if not self.config.input_feeding:
            output, _, weights = self._advance(x, state, memory, decoder)
            return output, weights
        outputs, looks = [], []
        for t in range(x.shape[1]):
            output, state, weights = self._advance(x[:, t : t + 1], state, memory, decoder)
            outputs.append(output)
            looks.append(weights)
        return torch.cat(outputs, dim=1), torch.cat(looks, dim=1)

    def _advance(
        self,
        x: Tensor,
        state: State,
        memory: Memory,
        decoder: tuple[Stack, Stack] | None = None,
    ) -> tuple[Tensor, State, Tensor]:
        """The decoder over T steps, T = 1 with input feeding.

        Args:
            x: Target embeddings, (B, T, E).
            state: Before the first step.
            memory: What is looked at.
            decoder: Runs the layers below and above the attention in their place.

        Returns:
            o, (B, T, E), the state after the last step, and alignments, (B, T, S).
        """
        parts = (len(state) - self.config.input_feeding) // 2
        if self.config.input_feeding:
            x = torch.cat([x, state[-1].transpose(0, 1)], dim=2)
        query, reader = decoder or (self.query, self.reader)
        queries, first = query(x, state[:parts])
        contexts, weights = self.attention(queries, memory)
        contexts = self._drop(contexts)
        states, second = reader(torch.cat([queries, contexts], dim=2), state[parts : 2 * parts])
        output = self.deep(torch.cat([states, contexts, queries], dim=2))
        output = torch.tanh(self.deep_norm(output))
        output = functional.dropout(output, self.config.dropout, self.training)
        fed = (output[:, -1:].transpose(0, 1),) if self.config.input_feeding else ()
        return output, (*first, *second, *fed), weights

    def _drop(self, x: Tensor) -> Tensor:
        return self.encoder.drop(x)  # the same mask at every step of a sequence

    def _target_embedding(self) -> nn.Embedding:
        if self.target_embedding is None:
            assert isinstance(self.source_embedding, nn.Embedding), "pictures share no matrix"
            return self.source_embedding
        return self.target_embedding

    def _output_weight(self) -> Tensor:
        if self.config.tying == "none":
            return self.output.weight
        weight = self._target_embedding().weight
        if self.config.tying == "all" and self.source_unknown is not None:
            # Keep the gradient of the output off the zero row.
            unknown = torch.tensor([self.source_unknown], device=weight.device)
            weight = weight.index_fill(0, unknown, 0.0)
        return weight


def build_translators(
    config: TranslatorConfig,
    source_size: int,
    target_size: int,
    *,
    source_unknown: int | None = None,
    pictures: bool = False,
    weights: Mapping[str, np.ndarray] | None = None,
) -> list[EncoderDecoder]:
    """The networks of a translator, fresh or as they were saved, then in evaluation mode.

    Arguments as for ``EncoderDecoder``.
    """
    networks = []
    for number in range(config.members):
        model = EncoderDecoder(
            config, source_size, target_size, source_unknown=source_unknown, pictures=pictures
        )
        if weights is not None:
            with torch.no_grad():
                load_arrays(model, of_member(config, weights, number))
            model.eval()
        networks.append(model)
    return networks


class EncDecStepper:
    """An EncoderDecoder behind the numpy contract of decode and beam.

    What is looked at is part of the state: the decoder's, then the ``Memory``, all with the batch
    as the second axis. Reads the live weights, so it may be used in the middle of training.
    """

    def __init__(self, model: EncoderDecoder) -> None:
        self.model = model
        self.vocab_size = len(model.output.bias)

    @torch.inference_mode()
    def encode(self, source: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
        """The state before the first token, for sources as ``EncoderDecoder.encode`` has them."""
        self.model.eval()
        device = self.model.output.bias.device
        parts = torch.from_numpy(source).to(device), torch.from_numpy(lengths).to(device)
        state, memory = self.model.encode(*parts)
        return tuple(part.numpy(force=True) for part in (*state, *(x[None] for x in memory)))

    @torch.inference_mode()
    def step(
        self, ids: np.ndarray, state: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Feed one id to each row: logits of the next, (B, V) float32, and the new state."""
        self.model.eval()
        device = self.model.output.bias.device
        *parts, keys, values, lengths = (torch.from_numpy(part).to(device) for part in state)
        logits, after, _ = self.model.step(
            torch.from_numpy(ids.astype(np.int64)).to(device),
            tuple(parts),
            Memory(keys[0], values[0], lengths[0]),
        )
        new = tuple(part.numpy(force=True) for part in after)
        return logits.float().numpy(force=True), (*new, *state[-3:])
