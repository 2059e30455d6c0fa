"""Long texts as ids in files: read in one pass, gone on with after a kill, kept for the next run.

The ids are those that a short text would get, to the last one; only words and byte pairs are
learned from a sample. Memory does not depend on the text. While a text is read, its directory holds
``progress.json``: how far all files are written, what came after is written again. A text that is
done has ``text.json`` instead.
"""

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
from seqtool.cache import VARIABLE, alone_in, prune, texts
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
from seqtool.text import Fingerprint, TextFiles
from seqtool.tokenizer import Tokenizer, segments

Array = npt.NDArray[Any]
Tell = Callable[[str], None]

LONG_BYTES = 32 << 20  # shorter ones, compressed or not, are read faster than looked for
SAMPLE = 50_000_000  # characters that words and byte pairs are learned from
GROUP = 128  # segments encoded before they are written
BLOCK = 1 << 24  # ids renumbered at once
SAVE_EVERY = 5.0  # seconds that a kill may cost
FORMAT = 1
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
    def one_pass(self) -> bool:
        """Whether characters are numbered while they are counted: nothing is learned before."""
        kind = self.config.tokenizer if self.tokenizer is None else self.tokenizer.kind
        return kind == "char"

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
            return _Reading(order, Path(place)).run(kept=False)
    if (folder := _look_up(order, home)) is None:
        folder = home / _name(order)
    try:
        with _room(folder), alone_in(folder):
            found = _Reading(order, folder).run()
            prune(folder)
    finally:
        # Nobody can go on with a pipe.
        if not order.files.paths and not (folder / "text.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return found


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Turn what the system refuses into one line."""
    try:
        yield
    except OSError as err:
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
    """What is in a directory, if its files are whole."""
    try:
        card = json.loads((folder / "text.json").read_bytes())
        item = np.dtype(card["dtype"]).itemsize
        sizes = [(folder / name).stat().st_size for name in PARTS]
        whole = sizes == [part["ids"] * item for part in card["parts"]]
        needed = {"identity", "size", "order", "learned", *FOUND}
        return card if whole and card.keys() >= needed else None
    except (OSError, ValueError, LookupError, TypeError):  # deleted, or damaged: made again
        return None


class _Reading:
    """One text on its way into its directory."""

    def __init__(self, order: Order, folder: Path) -> None:
        self.order = order
        self.folder = folder
        self._saved_at = monotonic()
        self._state: dict[str, Any] = {"runs": [], "sampled": 0}
        with suppress(OSError, ValueError):  # there is none: this is the beginning
            saved = json.loads((folder / "progress.json").read_bytes())
            if isinstance(saved, dict) and saved.keys() >= self._state.keys():
                self._state = saved

    def run(self, *, kept: bool = True) -> Encoded:
        """Do what is left to do, and map the ids."""
        card = _manifest(self.folder) or self._make()
        identity = self.order.identity
        if identity and card["identity"] != identity:  # known by its content; next time at once
            card["identity"] = identity
            write_whole(self.folder / "text.json", json.dumps(card).encode())
        for name in ("progress.json", "numbers"):
            (self.folder / name).unlink(missing_ok=True)
        os.utime(self.folder)  # used now
        parts = card["parts"]
        train, valid = (self._mapped(name, card["dtype"]) for name in PARTS)
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
            folder=self.folder if kept else None,
        )

    def _mapped(self, name: str, dtype: str) -> Array:
        path = self.folder / name
        if path.stat().st_size == 0:  # nothing can be mapped
            return np.zeros(0, dtype)
        return np.memmap(path, dtype, mode="r")

    def _make(self) -> dict[str, Any]:
        order, state = self.order, self._state
        if "sha256" not in state:
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

    def _save(self, file: IO[bytes] | None = None) -> None:
        """Note how far things are, once what has been written to the file is safe."""
        if file is not None:
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
        with _appending(self.folder / "numbers", _num_bytes(state["runs"])) as file:

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
                    _extend(state["runs"], numbers)
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

    def _renumber(self, tokenizer: Tokenizer, stats: TextStats, cut: int) -> None:
        """Turn the numbers of characters into ids, and cut off the part held out."""
        self.order.tell(f"splitting {self.order.files.name}")
        codes = np.array(self._state["alphabet"], np.int64)
        start = np.array([tokenizer.start_id], tokenizer.dtype)
        table = np.concatenate([start, tokenizer.encode("".join(map(chr, codes.tolist())))])
        lengths = np.concatenate([np.zeros(1, np.int64), utf8_lengths(codes)])
        left, held_bytes = cut, 0  # characters to train on; bytes of those held out
        with (
            open(self.folder / "numbers", "rb") as file,
            open(self.folder / PARTS[0], "wb") as train,
            open(self.folder / PARTS[1], "wb") as valid,
        ):
            for numbers in _blocks(file, self._state["runs"]):
                end = _place_of(numbers, left)
                left -= int(np.count_nonzero(numbers[:end]))
                held = numbers[end:]
                if valid.tell() == 0 and len(held) and held[0] != 0:
                    held = np.concatenate([np.zeros(1, held.dtype), held])
                held_bytes += int(np.bincount(held, minlength=len(table)) @ lengths)
                train.write(table[numbers[:end]].data)
                valid.write(table[held].data)
            for out in (train, valid):
                out.flush()
                os.fsync(out.fileno())
            ids = [out.tell() // start.itemsize for out in (train, valid)]
        chars = (cut, stats.characters - cut)
        sizes = (stats.bytes - held_bytes, held_bytes)
        self._state["parts"] = [
            {"characters": chars[i], "bytes": sizes[i], "ids": ids[i]} for i in range(len(PARTS))
        ]

    def _encode(self, tokenizer: Tokenizer, cut: int, characters: int) -> None:
        """Read the text once more, with the vocabulary and the place of the cut known."""
        state = self._state
        none = dict.fromkeys(("characters", "bytes", "ids"), 0)
        parts = state.setdefault("parts", [none, {**none}])
        start = np.array([tokenizer.start_id], tokenizer.dtype)
        for part, name, (first, last) in zip(
            parts, PARTS, ((0, cut), (cut, characters)), strict=True
        ):
            with _appending(self.folder / name, part["ids"] * start.itemsize) as file:
                documents = clip_documents(self.order.files.documents(), first, last)
                for begins, texts in _groups(documents, part["characters"]):
                    arrays = [start] if begins else []
                    for ids in chain(arrays, tokenizer.encode_chunks(texts)):
                        file.write(np.ascontiguousarray(ids).data)
                        part["ids"] += len(ids)
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


def _appending(path: Path, size: int) -> IO[bytes]:
    """A file to go on with after its first ``size`` bytes."""
    file = open(path, "ab")  # noqa: SIM115
    if file.tell() < size:
        file.close()
        raise DataError(f"{path}: cut short; delete {path.parent} and start again")
    file.truncate(size)
    return file


def _extend(runs: list[list[Any]], numbers: Array) -> None:
    """Note numbers of a type behind those before them."""
    if not runs or runs[-1][0] != numbers.dtype.name:
        runs.append([numbers.dtype.name, 0])
    runs[-1][1] += len(numbers)


def _num_bytes(runs: list[list[Any]]) -> int:
    return sum(np.dtype(kind).itemsize * count for kind, count in runs)


def _blocks(file: IO[bytes], runs: list[list[Any]]) -> Iterator[Array]:
    """The numbers of a file in blocks."""
    for kind, count in runs:
        for first in range(0, count, BLOCK):
            yield np.fromfile(file, kind, min(BLOCK, count - first))


def _millions(characters: int) -> str:
    return f"{characters / 1e6:,.0f} million characters"
