"""A trained translator on a CPU without torch: ids in, hypotheses out.

The same equations as encdec, from the arrays of a model file, behind the contract that beam drives.
Sources may be pictures, as columns of pixels. No text here. numba is loaded when a translator is
made.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seqtool.beam import Hypothesis, Ranking, draw, search
from seqtool.config import GATES, BeamConfig, DecodeConfig, Precision, TranslatorConfig
from seqtool.decode import State, check_finite, select_rows
from seqtool.ensemble import Ensemble, joined, together
from seqtool.shapes import layer_shapes, of_all_members, of_member
from seqtool.team import Team

if TYPE_CHECKING:
    from seqtool.transducer import Transducer

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]

BOUNDARY = 0  # id that begins and ends a target, and ends a source
# Kinds of jobs, for which the number of threads is chosen apart: reading, and steps by their rows.
READ, STEP = -1, 0
FEW_ROWS = 16
NO_FLOATS = np.zeros((0, 0, 0), np.float32)
NONE_BANNED = np.zeros(0, np.int64)


class Translator:
    """An encoder-decoder as compiled loops, made from saved weights.

    What becomes of a source is the same to the bit whatever is translated beside it and on any
    number of threads.
    """

    def __init__(
        self,
        config: TranslatorConfig,
        weights: Weights,
        *,
        precision: Precision = "float32",
        threads: int | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Lay out weights that fit the config; check_weights is the caller's business.

        Args:
            config: The model's shape.
            weights: By name, as in a model file.
            precision: Of all matrices but the embeddings.
            threads: At most so many; as many as pay if not given.
            announce: Called if code has to be compiled, which takes seconds, once.
        """
        self.config = config
        own = [of_member(config, weights, number) for number in range(config.members)]
        self.networks = [Network(config, one, precision) for one in own]
        self.team = Team(threads)
        self.announce = announce

    def read(self, sources: Sequence[Array]) -> "Reading | Readings":
        """Read sources, each its ids (S,) or its columns of pixels (S, D), without a boundary.

        At least one.
        """
        found = [Reading(self, network, sources) for network in self.networks]
        return found[0] if len(found) == 1 else Readings(found)

    def translate(
        self,
        sources: Sequence[Array],
        config: BeamConfig,
        max_lengths: Sequence[int] | Array,
        *,
        banned_ids: Sequence[int] = (),
    ) -> list[list[Hypothesis]]:
        """The best translations of sources that stand side by side; see beam.search."""
        if not len(sources):
            return []
        reading = self.read(sources)
        return search(
            reading,
            reading.state,
            config,
            start_id=BOUNDARY,
            end_id=BOUNDARY,
            max_lengths=max_lengths,
            banned_ids=banned_ids,
        )

    def sample(
        self,
        sources: Sequence[Array],
        config: DecodeConfig,
        max_lengths: Sequence[int] | Array,
        *,
        beam: BeamConfig,
        banned_ids: Sequence[int] = (),
    ) -> list[list[Hypothesis]]:
        """``beam.n_best`` random translations of each source, the best first.

        They depend on the seed and on the source alone.
        """
        if not len(sources):
            return []
        several = [source for source in sources for _ in range(beam.n_best)]
        reading = self.read(several)
        drawn = draw(
            reading,
            reading.state,
            config,
            start_id=BOUNDARY,
            end_id=BOUNDARY,
            max_lengths=np.repeat(np.asarray(max_lengths), beam.n_best),
            rngs=[
                np.random.Generator(
                    np.random.PCG64([config.seed, row % beam.n_best, *_entropy(source)])
                )
                for row, source in enumerate(several)
            ],
            length_penalty=beam.length_penalty,
            banned_ids=banned_ids,
        )
        return [
            sorted(drawn[first : first + beam.n_best], key=lambda one: -one.score)
            for first in range(0, len(drawn), beam.n_best)
        ]

    def align(self, sources: Sequence[Array], targets: Sequence[Array]) -> list[Floats]:
        """Where targets look at their sources.

        Args:
            sources: Ids (S,) or columns of pixels (S, D) each, without a boundary.
            targets: Ids (T,) each, without the end.

        Returns:
            Weights (T + 1, S + 1) each, whose rows sum to 1; the last row is that of the end, the
            last column the boundary. (T + 1, 1) of ones for a model without attention.
        """
        if not len(sources):
            return []
        reading = self.read(sources)
        state, looks = reading.state, []
        longest = max(map(len, targets))
        ids = np.full((longest + 1, len(targets)), BOUNDARY, np.int64)
        for row, target in enumerate(targets):
            ids[1 : len(target) + 1, row] = target
        for now in ids:
            _, state, weights = reading.look(now, state)
            looks.append(weights)
        found = []
        for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
            width = 1 if self.config.attention == "none" else len(source) + 1
            own = np.stack([weights[row, :width] for weights in looks[: len(target) + 1]])
            if self.config.reverse_source:  # what was read first stands last
                own[:, :-1] = own[:, -2::-1].copy() if width > 1 else own[:, :-1]
            found.append(own)
        return found


class Network:
    """One encoder-decoder, laid out for the loops."""

    def __init__(self, config: TranslatorConfig, weights: Weights, precision: Precision) -> None:
        self.net = build_transducer(config, weights, precision)
        # Of pictures the embedding of a column: a matrix (E, D) and a bias (E,).
        self.lens = None
        if "source_embedding.bias" in weights:
            self.lens = weights["source_embedding.weight"], weights["source_embedding.bias"]


class Reading:
    """Sources that a network has read; drives a beam (beam.Ranker).

    Attributes:
        state: Before the first token, a row for each source: h and, of an LSTM, c of all decoder
            layers, (1 + L, N, H padded) each; with input feeding o, (1, N, E padded); which source
            a row is of, (1, N, 1) int64.
    """

    def __init__(self, translator: Translator, network: Network, sources: Sequence[Array]) -> None:
        from seqtool.memories import read
        from seqtool.transducer import GROUP, NONE, Memory

        self._team, self._announce = translator.team, translator.announce
        net, count = network.net, len(sources)
        if network.lens is not None:
            table, sources = embed_columns(*network.lens, sources)
            net = net._replace(source=table)
        self._net = net
        self.vocab_size = len(net.target)
        self.padded = _rows_of(net, net.places.output)
        turned = [
            source[::-1] if translator.config.reverse_source else source for source in sources
        ]
        order = np.argsort([-len(source) for source in turned], kind="stable")
        ids = np.concatenate([part for row in order for part in (turned[row], [BOUNDARY])])
        lengths = np.array([len(source) + 1 for source in turned])
        kept = np.ones_like(lengths) if net.attention == NONE else lengths
        grouped = -(-kept // GROUP) * GROUP
        sorted_starts = np.cumsum(grouped[order]) - grouped[order]
        total = int(grouped.sum())
        # In the order of reading, the longest first.
        memory = Memory(
            np.zeros((0 if net.attention == NONE else total, net.units), np.float32),
            np.zeros((total, net.units), np.float32),
            sorted_starts,
            kept[order],
        )
        shape = (1 + net.layers, count, net.units)
        h = np.zeros(shape, np.float32)
        c = np.zeros(shape, np.float32) if translator.config.cell == "lstm" else NO_FLOATS
        starts = np.concatenate([[0], np.cumsum(lengths[order])])

        def job(thread: int, threads: int) -> int:
            return read(net, thread, threads, ids.astype(np.int64), starts, memory, h, c)

        self._run(job, READ, int(lengths.sum()))
        self._memory = memory
        place = np.empty(count, np.int64)
        place[order] = np.arange(count)
        state = select_rows((h, c) if len(c) else (h,), place)
        if net.feeding:
            state = (*state, np.zeros((1, count, net.width), np.float32))
        self.state: State = (*state, place[None, :, None])

    def step(self, ids: Array, state: State) -> tuple[Array, State]:
        """Read one token per row, ids (B,); gives the logits of the next, (B, V) float32."""
        logits, after, _ = self.look(ids, state)
        return logits, after

    def look(self, ids: Array, state: State) -> tuple[Array, State, Array]:
        """As ``step``, and where each row looked: (B, most positions of any source)."""
        logits = np.zeros((len(ids), self.padded), np.float32)
        weights = np.zeros((len(ids), int(self._memory.lengths.max())), np.float32)
        after, _, _ = self._step(ids, state, logits, weights, 0, NONE_BANNED, BOUNDARY)
        return logits[:, : self.vocab_size], after, weights

    def ranked(
        self, ids: Array, state: State, *, count: int, end_id: int, banned_ids: Array
    ) -> tuple[Ranking, State]:
        """Read one token per row; gives the ``count`` likeliest that are not banned."""
        logits, weights = np.zeros((0, self.padded), np.float32), np.zeros((0, 0), np.float32)
        after, ranking, norms = self._step(ids, state, logits, weights, count, banned_ids, end_id)
        check_finite(norms)
        return ranking, after

    def _step(
        self,
        ids: Array,
        state: State,
        logits: Array,
        weights: Array,
        count: int,
        banned_ids: Array,
        end_id: int,
    ) -> tuple[State, Ranking, Array]:
        from seqtool.transduction import step

        net, batch = self._net, len(ids)
        *parts, sentences = state
        o = parts.pop() if net.feeding else NO_FLOATS
        h, *memories = parts
        c = np.empty((2, *(memories[0] if memories else NO_FLOATS).shape), np.float32)
        c[0] = memories[0] if memories else NO_FLOATS
        new_h, new_o = np.empty_like(h), np.zeros_like(o)
        banned, top, logs, norms, ends = _blank(batch, count, self.vocab_size, banned_ids)
        ids = np.asarray(ids, np.int64)
        rows = np.ascontiguousarray(sentences[0, :, 0])

        def job(thread: int, threads: int) -> int:
            return step(
                net, thread, threads, self._memory, ids, rows, h, c, o, new_h, new_o,
                weights, logits, banned, top, logs, norms, ends, end_id,
            )  # fmt: skip

        self._run(job, STEP + (batch > FEW_ROWS), batch)
        made = [part for part in (new_h, c[1], new_o) if len(part)]
        return (*made, sentences), Ranking(top, logs, ends), norms

    def _run(self, job: Callable[[int, int], int], like: int, amount: int) -> None:
        from seqtool.compiled import announced

        with announced(self._announce):
            self._team.run(job, like, amount)


class Readings(Ensemble[Reading]):
    """Sources that several networks have read; drives a beam (beam.Ranker).

    Attributes:
        state: Before the first token, that of all networks.
    """

    def __init__(self, readings: Sequence[Reading]) -> None:
        super().__init__(readings)
        self.state = joined(reading.state for reading in readings)

    def look(self, ids: Array, state: State) -> tuple[Array, State, Array]:
        """As ``Reading.look``, the mean of what the networks say and of where they look."""
        made = [reading.look(ids, own) for reading, own in self.each(state)]
        logits, states, weights = zip(*made, strict=True)
        return together(logits), joined(states), together(weights)

    def ranked(
        self, ids: Array, state: State, *, count: int, end_id: int, banned_ids: Array
    ) -> tuple[Ranking, State]:
        """Read one token per row; gives the ``count`` likeliest that are not banned."""
        from seqtool.transduction import rank_rows

        logits, state = self.step(ids, state)
        batch = len(logits)
        # Padded as those of a network are, for loops that take several at once.
        padded = np.full((batch, self.models[0].padded), -np.inf, np.float32)
        padded[:, : self.vocab_size] = logits
        banned, top, logs, norms, ends = _blank(batch, count, self.vocab_size, banned_ids)
        rank_rows(padded, banned, top, logs, norms, ends, end_id)
        check_finite(norms)
        return Ranking(top, logs, ends), state


def _blank(
    batch: int, count: int, vocab_size: int, banned_ids: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """What a ranking of so many rows is written on: ``banned`` to ``ends`` of transduction.Said."""
    banned = np.zeros(vocab_size, np.bool_)
    banned[banned_ids] = True
    norms, ends = np.zeros((2, batch))
    return banned, np.zeros((batch, count), np.int64), np.zeros((batch, count)), norms, ends


def embed_columns(
    weight: Floats, bias: Floats, pictures: Sequence[Floats]
) -> tuple[Floats, list[Array]]:
    """The embeddings of all columns of pictures (S, D), and each picture as rows of them.

    Row 0 is that of the end of a picture. einsum adds up every entry on its own, so that a picture
    is the same to the bit whatever stands beside it.
    """
    lengths = [len(columns) for columns in pictures]
    every = np.concatenate([np.zeros((1, weight.shape[1]), np.float32), *pictures])
    table: Floats = np.einsum("td,ed->te", every, weight) + bias
    return table, np.split(np.arange(1, len(every)), np.cumsum(lengths)[:-1])


def _entropy(source: Array) -> Array:
    """Whole numbers that tell a source from others: its ids, or the bits of its pixels."""
    return source if source.ndim == 1 else np.ascontiguousarray(source).view(np.uint32).ravel()


def _rows_of(net: "Transducer", matrix: int) -> int:
    """Rows of a matrix, padded."""
    layout = net.matrices.layout
    last = len(net.matrices.scales) if matrix + 1 == len(layout) else layout[matrix + 1, 1]
    return int(last - layout[matrix, 1])


def build_transducer(
    config: TranslatorConfig, weights: Weights, precision: Precision
) -> "Transducer":
    """Lay out the weights of an encoder-decoder for the loops."""
    from seqtool.pointwise import kind_of
    from seqtool.quantize import contiguous, join, layer_pairs, padded, spread
    from seqtool.transducer import ADDITIVE, DOT, NONE, Places, Transducer

    hidden, embed = config.hidden_size, config.embed_size
    one, gates, both = [hidden], [hidden] * GATES[config.cell], [hidden, hidden]
    pairs: list[tuple[Floats, Floats]] = []

    def add(*new: tuple[Floats, Floats]) -> int:
        """Take matrices with their biases; gives the number of the first."""
        pairs.extend(new)
        return len(pairs) - len(new)

    def matrix(name: str, rows: Sequence[int], columns: Sequence[int]) -> int:
        """Take a matrix by its name, -1 if there is none; its bias is zero if it has none."""
        if f"{name}.weight" not in weights:
            return -1
        bias = weights.get(f"{name}.bias", np.zeros(sum(rows), np.float32))
        return add((spread(weights[f"{name}.weight"], rows, columns), spread(bias, rows)))

    for layer in range(config.num_layers):
        below = both if layer else [embed]
        for back in ("", "_reverse"):
            add(*layer_pairs(weights, "encoder", f"l{layer}{back}", gates, below))
    states = one * ((1 + config.num_layers) * (2 if config.cell == "lstm" else 1))
    target = weights.get("target_embedding.weight", weights["source_embedding.weight"])
    places = Places(
        bridge=matrix("bridge", states, both),
        value=matrix("attention.value", one, both),
        key=matrix("attention.key", one, both),
        ask=matrix("attention.query", one, one),
        query=add(
            *layer_pairs(weights, "query", "l0", gates, [embed] * (1 + config.input_feeding))
        ),
        reader=add(
            *(
                pair
                for layer in range(config.num_layers)
                for pair in layer_pairs(
                    weights, "reader", f"l{layer}", gates, one if layer else both
                )
            )
        ),
        deep=matrix("deep", [embed], one * 3),
        output=add(
            (
                spread(weights.get("output.weight", target), [len(target)], [embed]),
                spread(weights["output.bias"], [len(target)]),
            )
        ),
    )

    def norm(name: str, sizes: Sequence[int]) -> Floats:
        if f"{name}.weight" not in weights:
            return np.zeros((2, 0), np.float32)
        return np.stack([spread(weights[f"{name}.{part}"], sizes) for part in ("weight", "bias")])

    score = weights.get("attention.score")
    return Transducer(
        join(pairs, precision),
        places,
        contiguous(weights["source_embedding.weight"]),
        contiguous(target),
        norm("memory_norm", both),
        norm("deep_norm", [embed]),
        np.zeros(0, np.float32) if score is None else spread(score, one),
        kind_of(config.cell, config.nonlinearity),
        len(gates),
        config.num_layers,
        hidden,
        padded(hidden),
        padded(embed),
        {"none": NONE, "dot": DOT, "additive": ADDITIVE}[config.attention],
        config.input_feeding,
    )


def weight_shapes(
    config: TranslatorConfig, source_size: int, target_size: int, *, pictures: bool = False
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight of a translator: what a model file must hold.

    Args:
        config: Its shape.
        source_size: As EncoderDecoder has it.
        target_size: The same.
        pictures: Whether sources are columns of pixels.
    """
    hidden, embed, layers = config.hidden_size, config.embed_size, config.num_layers
    both = 2 * hidden
    states = (1 + layers) * (2 if config.cell == "lstm" else 1) * hidden
    shapes: dict[str, tuple[int, ...]] = {
        "source_embedding.weight": (source_size, embed),
        "bridge.weight": (states, both),
        "bridge.bias": (states,),
        "attention.value.weight": (hidden, both),
        "deep.weight": (embed, 3 * hidden),
        "deep.bias": (embed,),
        "output.bias": (target_size,),
    }
    if pictures:
        shapes["source_embedding.weight"] = (embed, source_size)
        shapes["source_embedding.bias"] = (embed,)
    for layer in range(layers):
        for back in ("", "_reverse"):
            below = both if layer else embed
            shapes |= layer_shapes(config, "encoder.", f"l{layer}{back}", below)
        shapes |= layer_shapes(config, "reader.", f"l{layer}", hidden if layer else both)
    shapes |= layer_shapes(config, "query.", "l0", embed * (1 + config.input_feeding))
    if config.tying != "all":
        shapes["target_embedding.weight"] = (target_size, embed)
    if config.tying == "none":
        shapes["output.weight"] = (target_size, embed)
    if config.attention != "none":
        shapes["attention.key.weight"] = (hidden, both)
    if config.attention == "additive":
        shapes["attention.key.bias"] = shapes["attention.score"] = (hidden,)
        shapes["attention.query.weight"] = (hidden, hidden)
    if config.layer_norm:
        shapes["deep_norm.weight"] = shapes["deep_norm.bias"] = (embed,)
        if config.attention != "none":
            shapes["memory_norm.weight"] = shapes["memory_norm.bias"] = (both,)
    return of_all_members(config, shapes)
