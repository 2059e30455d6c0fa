"""From text to ids, and from ids to the batches of truncated backpropagation through time.

Shape letters: B streams side by side, T time steps of a chunk, n tokens. Memory is bounded whatever
the size of the text: ids that do not fit are mapped from a temporary file.
"""

import mmap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seqtool.census import (
    Tally,
    TextStats,
    clip_documents,
    counted,
    split_at,
    text_stats,
)
from seqtool.config import DataConfig
from seqtool.errors import CheckpointError, DataError
from seqtool.idfiles import joined
from seqtool.longtexts import LONG_BYTES, Encoded, Order, Tell, read_long
from seqtool.memory import drop_pages
from seqtool.text import TextFiles, open_text
from seqtool.tokenizer import Tokenizer

Ids = npt.NDArray[Any]  # (n,) of the tokenizer's own unsigned type

RESTART_REACH = 512  # tokens within which a restarted stream looks for a line end
LET_GO_EVERY = 1 << 24  # tokens read of a mapped text before its pages are let go


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids, cut into a part to train on and a part held out.

    The ids of a part are, for each document or piece of one, the start id and then its tokens.
    """

    name: str
    tokenizer: Tokenizer
    train: Ids  # (n,)
    valid: Ids  # may be empty
    train_chars: int
    valid_chars: int
    train_bytes: int  # as UTF-8
    valid_bytes: int
    sha256: str  # of the bytes of DATA
    valid_sha256: str | None  # of those of --valid FILE
    stats: TextStats  # of DATA
    unknown: dict[str, int]  # characters, of DATA and --valid FILE, that the tokenizer lacks
    sampled: int = 0  # characters that words or byte pairs were learned from, 0 if from all
    kept: Path | None = None  # directory of ids that the next run uses again

    @property
    def train_tokens_per_char(self) -> float:
        """Turns nats per token into nats per character."""
        return len(self.train) / self.train_chars

    @property
    def valid_tokens_per_char(self) -> float:
        """The same for the part held out, which must not be empty."""
        return len(self.valid) / self.valid_chars


def encode_documents(
    documents: Iterable[Iterator[str]], tokenizer: Tokenizer, tally: Tally
) -> Iterator[Ids]:
    """The ids of a text piece by piece, each document after a start id; none for an empty one.

    Args:
        documents: The chunks of each document.
        tokenizer: What turns them into ids.
        tally: Grows by the text that has been read.
    """
    start = np.array([tokenizer.start_id], dtype=tokenizer.dtype)
    for document in documents:
        started = False
        for ids in tokenizer.encode_chunks(counted(document, tally)):
            if len(ids) and not started:
                started = True
                yield start
            yield ids


def load_corpus(
    data: str,
    config: DataConfig,
    *,
    valid: str | None = None,
    tokenizer: Tokenizer | None = None,
    tell: Tell = lambda line: None,
) -> Corpus:
    """Read a text, learn its vocabulary, and cut off the part that is held out.

    The cut is by characters: the first floor(characters * (1 - valid_fraction)) train. An alphabet
    is taken from all of DATA; words and byte pairs are learned from the training part only.

    Args:
        data: What ``open_text`` takes.
        config: Kind and size of the vocabulary, encoding, fraction held out.
        valid: A text to hold out instead; then all of DATA trains.
        tokenizer: A vocabulary to use as it is, instead of learning one.
        tell: Takes a line now and then on how far the reading of a long text is.

    Raises:
        ConfigError: If the encoding is unknown.
        DataError: If a text cannot be read, or is too short to train on or to validate with.
    """
    kind = config.tokenizer if tokenizer is None else tokenizer.kind
    files = open_text(data, encoding=config.encoding, binary_ok=kind == "byte")
    valid_files = None
    if valid is not None:
        valid_files = open_text(valid, encoding=config.encoding, binary_ok=kind == "byte")
        config = replace(config, valid_fraction=0.0)
    text = _read(Order(files, config, tokenizer, tell))
    # A document has at least one token, so two tokens show in the first four ids.
    num_tokens = int(np.count_nonzero(text.ids[0][:4] != text.tokenizer.start_id))
    if num_tokens < 2:
        cut = split_at(text.stats.characters, config.valid_fraction)
        raise _too_small(files.name, text.stats.characters, cut, num_tokens)
    unknown = Counter(_unknown(text.tokenizer, text.stats))
    held, which = text, 1
    if valid_files is not None:
        held, which = _read(Order(valid_files, config, text.tokenizer, tell)), 0
        unknown.update(_unknown(text.tokenizer, held.stats))
        if len(held.ids[which]) == 0:
            raise DataError(
                f"{valid_files.name}: no text to validate with; name another --valid FILE"
            )
    return Corpus(
        name=files.name,
        tokenizer=text.tokenizer,
        train=text.ids[0],
        valid=held.ids[which],
        train_chars=text.chars[0],
        valid_chars=held.chars[which],
        train_bytes=text.bytes[0],
        valid_bytes=held.bytes[which],
        sha256=text.sha256,
        valid_sha256=None if valid_files is None else held.sha256,
        stats=text.stats,
        unknown=dict(unknown),
        sampled=text.sampled,
        kept=text.folder,
    )


class Batch(NamedTuple):
    """One chunk of every stream."""

    inputs: npt.NDArray[np.int64]  # (B, T)
    targets: npt.NDArray[np.int64]  # (B, T), the inputs shifted by one
    restart: npt.NDArray[np.bool_]  # (B,), True: the state must be zero before this chunk


class Streams:
    """Endless chunks of B streams through a text, for truncated BPTT with carried state.

    The ids are a ring: they begin with the start id, so its seam is the boundary of a document. In
    an epoch stream b reads on from offset + b * n // B, each chunk where the last one ended, until
    it has read n // B tokens or a few more; then every stream restarts at a new random offset, so
    that no token is always the one after a cut. Besides, each stream restarts with a small
    probability before each chunk, so that the model also learns to write from the zero state.

    Half of the restarts happen on the spot: only the state is lost, which teaches the model to find
    its feet anywhere. The other half teach it how texts begin: the stream moves on to the next line
    end (or start id) within 512 tokens, but not beyond its share of the text, and there the input
    becomes the start id, while the targets stay those of the text. (With this half alone, held-out
    text costs 0.02 to 0.03 nats per character more; with no restarts at all, 0.5.)
    """

    def __init__(
        self,
        ids: Ids,
        *,
        batch_size: int,
        bptt: int,
        restart: float,
        line_ends: npt.NDArray[Any],
        start_id: int,
        seed: int,
    ) -> None:
        """Stand before the first epoch.

        Args:
            ids: The text, (n,), in memory or mapped from a file.
            batch_size: Streams side by side, B.
            bptt: Time steps of a chunk, T.
            restart: Probability that a stream restarts before a chunk.
            line_ends: Ids of the tokens that end a line.
            start_id: Id of the boundary between documents.
            seed: Of offsets and restarts.
        """
        assert len(ids) > 0
        self.ids = np.asarray(ids)  # a plain view: indexing a memmap copies through Python
        self.batch_size = batch_size
        self.bptt = bptt
        self.restart = restart
        self.start_id = start_id
        # Ids above the highest line end are looked up in the last entry, which stays False.
        ends = np.array([start_id, *line_ends], dtype=np.int64)
        self._ends = np.zeros(ends.max() + 2, dtype=bool)
        self._ends[ends] = True
        self._steps = np.arange(bptt + 1)
        self._share = max(1, len(ids) // batch_size)  # tokens of a stream in an epoch
        self._reach = np.arange(min(RESTART_REACH, self._share))  # so that no two streams meet
        self._rng = np.random.default_rng(seed)
        self._positions = np.zeros(batch_size, dtype=np.int64)
        self._left = 0  # tokens that each stream has yet to read in this epoch
        self.num_tokens = 0  # given out so far

    @property
    def epoch(self) -> float:
        """Tokens given out so far, as a multiple of the length of the text."""
        return self.num_tokens / len(self.ids)

    def next(self) -> Batch:
        """The next chunk of every stream."""
        num_ids = len(self.ids)
        if self._left <= 0:
            self._left = self._share
            offset = self._rng.integers(num_ids)
            starts = np.arange(self.batch_size) * num_ids // self.batch_size
            self._positions = (offset + starts) % num_ids
            probability = 1.0
        else:
            probability = self.restart
        chance = self._rng.random(self.batch_size)
        streams = np.flatnonzero(chance < probability / 2)
        if len(streams):
            self._positions[streams] = self._line_ends_after(self._positions[streams])
        where = (self._positions[:, None] + self._steps) % num_ids  # (B, T + 1)
        chunk = self.ids[where].astype(np.int64)
        inputs = chunk[:, :-1].copy()
        inputs[streams, 0] = self.start_id
        self._positions = where[:, -1].copy()
        self._left -= self.bptt
        if self.num_tokens % LET_GO_EVERY + inputs.size >= LET_GO_EVERY:
            let_go(self.ids)
        self.num_tokens += inputs.size
        return Batch(inputs, chunk[:, 1:], chance < probability)

    def state_dict(self) -> dict[str, Any]:
        """Where the streams are and what chance will do next, as JSON-able values."""
        return {
            "num_ids": len(self.ids),
            "positions": self._positions.tolist(),
            "left": self._left,
            "num_tokens": self.num_tokens,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken.

        Raises:
            CheckpointError: If it was taken from another text or another number of streams.
        """
        saved = (state["num_ids"], len(state["positions"]))
        here = (len(self.ids), self.batch_size)
        if saved != here:
            raise CheckpointError(
                f"the saved run read {saved[0]} tokens in {saved[1]} streams, this one has "
                f"{here[0]} tokens in {here[1]}; resume it with the same data and --batch-size"
            )
        self._positions = np.array(state["positions"], dtype=np.int64)
        self._left = state["left"]
        self.num_tokens = state["num_tokens"]
        self._rng.bit_generator.state = state["rng"]

    def _line_ends_after(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The first line end at or after each position, (R,), or the position if none is near."""
        windows = (positions[:, None] + self._reach) % len(self.ids)  # (R, reach)
        is_end = self._ends[np.minimum(self.ids[windows], len(self._ends) - 1)]
        # argmax is 0 where there is no end: the position itself.
        nearest: npt.NDArray[np.int64] = (positions + is_end.argmax(axis=1)) % len(self.ids)
        return nearest


def let_go(ids: Ids) -> None:
    """Take the pages of mapped ids that have been read out of memory."""
    base: Any = ids
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        drop_pages(base)


def fit_shape(num_tokens: int, batch_size: int, bptt: int) -> tuple[int, int]:
    """Shrink a batch to a short text so that every stream has at least one chunk of its own.

    Streams go first, then time steps: a long reach is worth more than a smooth gradient.

    Args:
        num_tokens: Length of the training ids.
        batch_size: Streams wanted, B.
        bptt: Time steps wanted, T.

    Returns:
        B and T, at most those wanted and at least 1, with B * T <= num_tokens.
    """
    bptt = max(1, min(bptt, num_tokens))
    return max(1, min(batch_size, num_tokens // bptt)), bptt


def _read(order: Order) -> Encoded:
    """A text as ids; the two ways give the same, but for words and byte pairs of long texts."""
    files, config = order.files, order.config
    if files.size() >= LONG_BYTES:
        return read_long(order)
    stats = text_stats(files)
    cut = split_at(stats.characters, config.valid_fraction)
    tokenizer = order.tokenizer or _learn(files, stats, cut, config)
    spans = ((0, cut), (cut, stats.characters))
    train, valid = (_part(clip_documents(files.documents(), *span), tokenizer) for span in spans)
    return Encoded(
        tokenizer=tokenizer,
        ids=(train[0], valid[0]),
        chars=(train[1].characters, valid[1].characters),
        bytes=(train[1].bytes, valid[1].bytes),
        sha256=files.sha256(),
        stats=stats,
        sampled=0,
        folder=None,
    )


def _learn(files: TextFiles, stats: TextStats, cut: int, config: DataConfig) -> Tokenizer:
    def chunks() -> Iterator[str]:
        if config.tokenizer == "char":
            return iter(stats.character_counts)  # each character once is all an alphabet needs
        return chain.from_iterable(clip_documents(files.documents(), 0, cut))

    return Tokenizer.train(config.tokenizer, chunks, vocab_size=config.vocab_size)


def _part(documents: Iterator[Iterator[str]], tokenizer: Tokenizer) -> tuple[Ids, Tally]:
    tally = Tally()
    return joined(encode_documents(documents, tokenizer, tally), tokenizer.dtype), tally


def _unknown(tokenizer: Tokenizer, stats: TextStats) -> dict[str, int]:
    counts = stats.character_counts
    return {char: counts[char] for char in tokenizer.unknown("".join(counts))}


def _too_small(name: str, characters: int, cut: int, num_tokens: int) -> DataError:
    def count(number: int, noun: str) -> str:
        return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

    return DataError(
        f"{name}: {count(characters, 'character')}, of which {cut} to train on, make "
        f"{count(num_tokens, 'token')}; at least 2 are needed: give more text, or "
        "--valid-fraction 0"
    )
