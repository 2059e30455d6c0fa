"""Long texts as ids in files: read in one pass, gone on with after a kill, kept for the next run.

The ids are those that a short text would get, to the last one; only words and byte pairs are
learned from a sample. Memory does not depend on the text. While a text is read, its directory holds
``progress.json``: how far all files are written, what came after is written again. A text that is
done has ``text.json`` instead.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from time import monotonic
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from seqtool.alphabet import Alphabet, numbered
from seqtool.cache import VARIABLE, alone_in, make_room, prune, size, texts
from seqtool.census import (
    Census,
    TextStats,
    clip_documents,
    split_at,
    utf8_length,
    utf8_lengths,
)
from seqtool.config import DataConfig
from seqtool.errors import DataError
from seqtool.files import write_whole
from seqtool.idfiles import appending, blocks, extend, is_whole, mapped, num_bytes, put
from seqtool.text import Fingerprint, TextFiles
from seqtool.tokenizer import Tokenizer, segments

Array = npt.NDArray[Any]
Tell = Callable[[str], None]

LONG_BYTES = 32 << 20  # shorter ones, compressed or not, are read faster than looked for
SAMPLE = 50_000_000  # characters that words and byte pairs are learned from
GROUP = 128  # segments encoded before they are written
SAVE_EVERY = 5.0  # seconds that a kill may cost
FORMAT = 2
PARTS = ("train.ids", "valid.ids")
FOUND = ("sha256", "census", "tokenizer", "sampled", "parts")  # of what is known when all is done


@dataclass(frozen=True)
class Order:
    """A text and how it is to become ids.

    Attributes:
        files: The text.
        config: Kind of the vocabulary, its size, encoding and the fraction held out.
        tokenizer: A vocabulary to use; learned if None.
        tell: Takes a line on how far things are, now and then.
    """

    files: TextFiles
    config: DataConfig
    tokenizer: Tokenizer | None
    tell: Tell

    @property
    def kind(self) -> str:
        """Of its vocabulary."""
        return self.config.tokenizer if self.tokenizer is None else self.tokenizer.kind

    @property
    def one_pass(self) -> bool:
        """Whether characters are numbered while they are counted: nothing is learned before."""
        return self.kind == "char"

    @property
    def least_bytes(self) -> int:
        """What its files take at least, as far as that can be told before it is read."""
        return self.files.size() if self.kind in ("char", "byte") else 0

    @cached_property
    def identity(self) -> list[list[Any]]:
        """Of the files when they were first looked at, see ``TextFiles.identity``."""
        return [list(part) for part in self.files.identity()]

    def as_dict(self) -> dict[str, Any]:
        """What makes another order of the same text have the same ids, but for the vocabulary."""
        return {
            "format": FORMAT,
            "encoding": self.files.encoding,
            "any_bytes": self.files.binary_ok,
            "valid_fraction": self.config.valid_fraction,
        }

    def vocabulary(self) -> dict[str, Any]:
        """The vocabulary given, or how one is learned."""
        if self.tokenizer is not None:
            return {"tokenizer": self.tokenizer.to_json()}
        size = 0 if self.config.tokenizer in ("char", "byte") else self.config.vocab_size
        return {"learned": [self.config.tokenizer, size]}


@dataclass(frozen=True, eq=False)
class Encoded:
    """A text as ids.

    Attributes:
        tokenizer: Its vocabulary.
        ids: Of the part to train on and of the part held out, each (n,).
        chars: Of both parts.
        bytes: Of both parts, as UTF-8.
        sha256: See ``TextFiles.sha256``.
        stats: Of all of it.
        sampled: Characters that the vocabulary was learned from; 0 if from all of them.
        folder: Where the ids are mapped from, if they are kept for the next run.
    """

    tokenizer: Tokenizer
    ids: tuple[Array, Array]
    chars: tuple[int, int]
    bytes: tuple[int, int]
    sha256: str
    stats: TextStats
    sampled: int
    folder: Path | None


def read_long(order: Order) -> Encoded:
    """The ids of a long text, from the cache if it has been read before.

    A file is known by path, size and times; if these are new and the cache holds a text of the same
    size, by its content.

    Raises:
        DataError: If it cannot be read, is not text, or there is no room for its ids.
    """
    try:
        home = texts()
    except (OSError, RuntimeError):  # read-only, or there is no home directory
        made = tempfile.TemporaryDirectory(prefix="seqtool-", ignore_cleanup_errors=True)
        with made as place, _room(Path(place)):  # Windows deletes no file that is mapped
            return _Reading(order, Path(place), kept=False).run()
    if (folder := _look_up(order, home)) is None:
        folder = home / _name(order)
    try:
        with _room(folder), alone_in(folder):
            found = _Reading(order, folder, kept=True).run()
            prune(folder)
    finally:
        # Nobody can go on with a pipe.
        if not order.files.paths and not (folder / "text.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return found


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Turn what the system refuses into one line; a disk that is full does not stay so."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            shutil.rmtree(folder, ignore_errors=True)
        raise DataError(
            f"{folder}: no place for the token ids ({err.strerror}); make room, or set {VARIABLE} "
            "to a directory with more"
        ) from err


def _name(order: Order) -> str:
    """A directory's name, the same whenever the same files are ordered in the same way."""
    if not order.files.paths:
        return f"pipe-{secrets.token_hex(8)}"
    what = [order.identity, order.as_dict(), order.vocabulary()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _look_up(order: Order, home: Path) -> Path | None:
    """The directory of a text that is the one ordered; None if there is none."""
    known = [(path.parent, _manifest(path.parent)) for path in home.glob("*/text.json")]
    fitting = [(path, card) for path, card in known if card and _serves(card, order)]
    for path, card in fitting:
        if order.identity and card["identity"] == order.identity:
            return path
    same_size = [(path, card) for path, card in fitting if card["size"] == order.files.size()]
    if same_size:
        order.tell(f"looking whether {order.files.name} has been read before")
        digest = order.files.sha256()
        for path, card in same_size:
            if card["sha256"] == digest:
                return path
    return None


def _serves(card: dict[str, Any], order: Order) -> bool:
    wanted = order.vocabulary()
    return bool(card["order"] == order.as_dict()) and any(
        card[key] == value for key, value in wanted.items()
    )


def _manifest(folder: Path) -> dict[str, Any] | None:
    """What is in a directory, if its files have the right sizes."""
    try:
        card = json.loads((folder / "text.json").read_bytes())
        item = np.dtype(card["dtype"]).itemsize
        sizes = [(folder / name).stat().st_size for name in PARTS]
        whole = sizes == [part["ids"] * item for part in card["parts"] if "crc" in part]
        needed = {"identity", "size", "order", "learned", *FOUND}
        return card if whole and card.keys() >= needed else None
    except (OSError, ValueError, LookupError, TypeError):  # deleted, or damaged: made again
        return None


class _Reading:
    """One text on its way into its directory."""

    def __init__(self, order: Order, folder: Path, *, kept: bool) -> None:
        self.order = order
        self.folder = folder
        self.kept = kept  # in the cache
        self._saved_at = monotonic()
        self._state: dict[str, Any] = {"runs": [], "sampled": 0}
        with suppress(OSError, ValueError):  # there is none: this is the beginning
            saved = json.loads((folder / "progress.json").read_bytes())
            if isinstance(saved, dict) and saved.keys() >= self._state.keys():
                self._state = saved

    def run(self) -> Encoded:
        """Do what is left to do, and map the ids."""
        card = _manifest(self.folder)
        if card is None or not self._whole(card):
            card = self._make()
        identity = self.order.identity
        if identity and card["identity"] != identity:  # known by its content; next time at once
            card["identity"] = identity
            write_whole(self.folder / "text.json", json.dumps(card).encode())
        for name in ("progress.json", "numbers"):
            (self.folder / name).unlink(missing_ok=True)
        os.utime(self.folder)  # used now
        parts = card["parts"]
        train, valid = (mapped(self.folder / name, card["dtype"]) for name in PARTS)
        given = self.order.tokenizer
        tokenizer = given or Tokenizer.from_json(card["tokenizer"], str(self.folder))
        return Encoded(
            tokenizer=tokenizer,
            ids=(train, valid),
            chars=(parts[0]["characters"], parts[1]["characters"]),
            bytes=(parts[0]["bytes"], parts[1]["bytes"]),
            sha256=card["sha256"],
            stats=Census(card["census"]).stats(),
            sampled=card["sampled"],
            folder=self.folder if self.kept else None,
        )

    def _whole(self, card: dict[str, Any]) -> bool:
        """Whether no byte of the ids has changed, which costs a tenth of reading the text."""
        self.order.tell(f"looking whether the ids of {self.order.files.name} are whole")
        parts = zip(PARTS, card["parts"], strict=True)
        return all(is_whole(self.folder / name, part["crc"]) for name, part in parts)

    def _need(self, num_bytes: int) -> None:
        """See that there is room for the files, together, of so many bytes."""
        if self.kept:
            make_room(self.folder, num_bytes - size(self.folder))

    def _make(self) -> dict[str, Any]:
        order, state = self.order, self._state
        if "sha256" not in state:
            self._need(order.least_bytes)
            self._count()
        stats = Census(state["census"]).stats()
        cut = split_at(stats.characters, order.config.valid_fraction)
        if "tokenizer" not in state:
            state["tokenizer"] = self._vocabulary(stats, cut).to_json()
            self._save()
        tokenizer = Tokenizer.from_json(state["tokenizer"], str(self.folder))
        if order.one_pass:
            self._renumber(tokenizer, stats, cut)
        else:
            self._encode(tokenizer, cut, stats.characters)
        if order.identity != [list(part) for part in order.files.identity()]:
            shutil.rmtree(self.folder, ignore_errors=True)  # all but the lock on Windows
            raise DataError(f"{order.files.name}: it was written to while it was read; start again")
        card: dict[str, Any] = {
            "identity": order.identity,
            "size": order.files.size(),
            "order": order.as_dict(),
            "learned": order.vocabulary().get("learned"),
            "dtype": tokenizer.dtype.name,
            **{name: state[name] for name in FOUND},
        }
        write_whole(self.folder / "text.json", json.dumps(card).encode())
        return card

    def _save(self, *files: IO[bytes]) -> None:
        """Note how far things are, once what has been written to the files is safe."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        write_whole(self.folder / "progress.json", json.dumps(self._state).encode())
        self._saved_at = monotonic()

    def _count(self) -> None:
        """Read the text once: hash and count it and, for char, write the numbers of its characters.

        The file ``numbers`` holds 0 where a document begins, and else the place of the character
        among those met so far, from 1 on; ``runs`` says which types the numbers have.
        """
        state, name = self._state, self.order.files.name
        census = Census(state.get("census"))
        alphabet = Alphabet(state.get("alphabet", []))
        fingerprint = Fingerprint()
        with appending(self.folder / "numbers", num_bytes(state["runs"])) as file:

            def save() -> None:
                state["census"], state["alphabet"] = census.as_dict(), alphabet.codes
                self._save(file)
                self.order.tell(f"reading {name}: {_millions(census.characters)} so far")

            chunks = _after(self.order.files.documents(fingerprint), census.characters)
            for begins, chunk, numbers, counts in numbered(chunks, alphabet):
                census.add(alphabet.codes, counts[1:], last=chunk[-1], begins=begins)
                if self.order.one_pass:
                    if begins:
                        numbers = np.concatenate([np.zeros(1, numbers.dtype), numbers])
                    file.write(numbers.data)
                    extend(state["runs"], numbers)
                if monotonic() - self._saved_at > SAVE_EVERY:
                    save()
            save()
        state["sha256"] = fingerprint.hexdigest()

    def _vocabulary(self, stats: TextStats, cut: int) -> Tokenizer:
        """The tokenizer given, or one learned from the training part, from a sample if it is long.

        The sample is spread evenly over it.
        """
        if self.order.tokenizer is not None:
            return self.order.tokenizer
        config, files = self.order.config, self.order.files

        def chunks() -> Iterator[str]:
            if config.tokenizer in ("char", "byte"):
                return iter(stats.character_counts)
            self.order.tell(f"learning a vocabulary from {_millions(min(cut, SAMPLE))}")
            self._state["sampled"] = SAMPLE if cut > SAMPLE else 0
            return _sample(clip_documents(files.documents(), 0, cut), SAMPLE / max(1, cut))

        return Tokenizer.train(config.tokenizer, chunks, vocab_size=config.vocab_size)

    def _parts(self) -> list[dict[str, Any]]:
        """What has been written of both parts, to be gone on with."""
        none = dict.fromkeys(("characters", "bytes", "ids", "crc"), 0)
        parts: list[dict[str, Any]] = self._state.setdefault("parts", [none, {**none}])
        return parts

    def _renumber(self, tokenizer: Tokenizer, stats: TextStats, cut: int) -> None:
        """Turn the numbers of characters into ids, and cut off the part held out."""
        state, parts, name = self._state, self._parts(), self.order.files.name
        codes = np.array(state["alphabet"], np.int64)
        start = np.array([tokenizer.start_id], tokenizer.dtype)
        table = np.concatenate([start, tokenizer.encode("".join(map(chr, codes.tolist())))])
        lengths = np.concatenate([np.zeros(1, np.int64), utf8_lengths(codes)])
        sizes = [part["ids"] * start.itemsize for part in parts]
        self._need(num_bytes(state["runs"]) + (stats.characters + 1) * start.itemsize)
        state.setdefault("renumbered", 0)
        with (
            open(self.folder / "numbers", "rb") as file,
            appending(self.folder / PARTS[0], sizes[0]) as train,
            appending(self.folder / PARTS[1], sizes[1]) as valid,
        ):
            for numbers in blocks(file, state["runs"], state["renumbered"]):
                state["renumbered"] += len(numbers)
                left = cut - parts[0]["characters"]
                end = _place_of(numbers, left)
                held = numbers[end:]
                if parts[1]["ids"] == 0 and len(held) and held[0] != 0:
                    held = np.concatenate([np.zeros(1, held.dtype), held])
                put(train, table[numbers[:end]], parts[0])
                put(valid, table[held], parts[1])
                for part, some in zip(parts, (numbers[:end], held), strict=True):
                    part["characters"] += int(np.count_nonzero(some))
                parts[1]["bytes"] += int(np.bincount(held, minlength=len(table)) @ lengths)
                if monotonic() - self._saved_at > SAVE_EVERY:
                    self._save(train, valid)
                    done = _millions(sum(part["characters"] for part in parts))
                    self.order.tell(f"splitting {name}: {done} so far")
            parts[0]["bytes"] = stats.bytes - parts[1]["bytes"]
            self._save(train, valid)

    def _encode(self, tokenizer: Tokenizer, cut: int, characters: int) -> None:
        """Read the text once more, with the vocabulary and the place of the cut known."""
        parts = self._parts()
        start = np.array([tokenizer.start_id], tokenizer.dtype)
        for part, name, (first, last) in zip(
            parts, PARTS, ((0, cut), (cut, characters)), strict=True
        ):
            with appending(self.folder / name, part["ids"] * start.itemsize) as file:
                documents = clip_documents(self.order.files.documents(), first, last)
                for begins, texts in _groups(documents, part["characters"]):
                    arrays = [start] if begins else []
                    for ids in chain(arrays, tokenizer.encode_chunks(texts)):
                        put(file, ids, part)
                    part["characters"] += sum(map(len, texts))
                    part["bytes"] += sum(map(utf8_length, texts))
                    if monotonic() - self._saved_at > SAVE_EVERY:
                        self._save(file)
                        done = _millions(sum(part["characters"] for part in parts))
                        self.order.tell(f"encoding {self.order.files.name}: {done} so far")
                self._save(file)


def _after(documents: Iterator[Iterator[str]], skip: int) -> Iterator[tuple[bool, str]]:
    """The chunks after so many characters, each with whether a document begins with it."""
    for document in documents:
        begins = True
        for chunk in document:
            if skip < len(chunk):
                yield begins and skip == 0, chunk[skip:]
            skip = max(0, skip - len(chunk))
            begins = False


def _groups(documents: Iterator[Iterator[str]], skip: int) -> Iterator[tuple[bool, list[str]]]:
    """Documents in groups of segments after so many characters, which end a group."""
    for document in documents:
        begins, left = True, segments(document)
        while texts := list(islice(left, GROUP)):
            if skip == 0:
                yield begins, texts
            else:
                skip -= sum(map(len, texts))
            begins = False


def _sample(documents: Iterator[Iterator[str]], share: float) -> Iterator[str]:
    """A share of the chunks, spread evenly."""
    seen = taken = 0
    for chunk in chain.from_iterable(documents):
        if taken <= seen * share:
            yield chunk
            taken += len(chunk)
        seen += len(chunk)


def _place_of(numbers: Array, characters: int) -> int:
    """Where in some numbers so many characters, or all, are over; 0 is no character."""
    if characters <= 0:
        return 0
    end = min(characters, len(numbers))
    while end < len(numbers) and (missing := characters - np.count_nonzero(numbers[:end])):
        end = min(end + int(missing), len(numbers))
    return end


def _millions(characters: int) -> str:
    return f"{characters / 1e6:,.0f} million characters"
