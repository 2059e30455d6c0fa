"""The model directory: written whole, replaced whole, read strictly, without pickle.

``config.json`` (the card), ``tokenizer.json``, ``model.safetensors`` (best weights),
``last.safetensors`` (all that ``--resume`` needs), ``text.safetensors`` (the training ids, to tell
copies and for baselines), ``counts.safetensors`` (the n-gram model that is mixed in),
``dictionary.safetensors`` (a translator's baseline), ``metrics.jsonl`` (events). All but the last
are written beside their place, synced and renamed, carry a SHA-256 and name their run. A directory
is replaced the same way, so a reader sees the old model or the new one, after a crash as well.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from seqtool import __version__
from seqtool.config import CONFIGS, Task, TrainConfig, from_dict
from seqtool.errors import CheckpointError, ConfigError
from seqtool.files import open_plain, write_whole, writing
from seqtool.places import (
    BEST,
    CONFIG,
    COPY_AGAIN,
    COUNTS,
    DICTIONARY,
    EVENTS,
    LAST,
    TEXT,
    TOKENIZER,
    check_free,
    clean_up,
    discard,
    read_file,
    steadily,
    swap,
)
from seqtool.tensorfile import Arrays, Tensors, pack, sha256, unpack

FORMAT = 1  # of the whole directory; raised when an older seqtool could not read it rightly


@dataclass(frozen=True)
class Card:
    """What a model is: the content of ``config.json``."""

    task: str
    model: Any  # the two are of the classes that CONFIGS has for the task
    data: Any
    train: TrainConfig
    vocab_size: int
    source: dict[str, Any]  # the training text: name, sha256, sizes; JSON values
    extra: dict[str, Any] = field(default_factory=dict)  # JSON values; NaN and inf become null
    # What ties the other files to this one, set by ``ModelDir``: run, tokenizer_sha256.
    seal: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def text_vocab_size(self) -> int:
        """Ids of a language model's tokenizer: all but those of the labels it writes for."""
        return self.vocab_size - len(self.source.get("classes", ()))

    def to_json(self) -> str:
        """The card with its format, the version that wrote it, and a checksum."""
        values = {"format": FORMAT, "seqtool": __version__} | _finite(asdict(self))
        values["sha256"] = sha256(json.dumps(values, sort_keys=True))
        # ASCII, because file names may hold bytes that are not UTF-8 (lone surrogates in str).
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Read what ``to_json`` wrote; ``where`` names the file in errors.

        Raises:
            CheckpointError: If it is damaged, changed, of another format, or not from seqtool.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise CheckpointError(f"{where}: damaged or cut short; {COPY_AGAIN}") from err
        match values:
            case {"format": int(found), "seqtool": str(version)}:
                made = (
                    f"it was written by seqtool {version!r}, this is {__version__}"
                    if version != __version__
                    else f"it was written by another state of seqtool {version}"
                )
            case _:
                raise CheckpointError(f"{where}: not from seqtool; name a directory train made")
        digest = values.pop("sha256", None)
        sealed = digest == sha256(json.dumps(values, sort_keys=True))  # free of layout
        del values["format"], values["seqtool"]
        if found != FORMAT:
            raise CheckpointError(f"{where}: format {found}, needed {FORMAT}; {made}: upgrade")
        if not sealed:
            raise CheckpointError(f"{where}: damaged, or changed by hand; {COPY_AGAIN}")
        try:
            model_kind, data_kind = CONFIGS[values["task"]]
            values["model"] = from_dict(model_kind, values["model"], "model")
            values["data"] = from_dict(data_kind, values["data"], "data")
            values["train"] = from_dict(TrainConfig, values["train"], "train")
            made_card = from_dict(cls, values, "card")
            if not isinstance(made_card.extra.get("best") or {}, dict):
                raise ConfigError("card: best must hold settings by name")
            return made_card
        except (ConfigError, KeyError, TypeError) as err:
            raise CheckpointError(f"{where}: {err}; {made}: use that one") from err


def event_line(event: Mapping[str, Any]) -> str:
    """One event as a line of JSON; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(event), allow_nan=False) + "\n"


@dataclass(frozen=True)
class Saved:
    """A model as read from its directory."""

    card: Card
    tokenizer_json: str
    weights: Arrays  # the best so far


def load(path: Path, task: str | None = None) -> Saved:
    """Read all that is needed to use a model, strictly.

    Args:
        path: Its directory.
        task: What it must have been trained for; None for anything.

    Raises:
        CheckpointError: If it is missing, incomplete, damaged, of another format, or of two runs.
        ConfigError: If it was trained for another task.
    """

    def read(directory: Path, where: str) -> Saved:
        card, weights, _ = _read_tensors(directory, where, BEST)
        tokenizer = read_file(directory, where, TOKENIZER)
        if sha256(tokenizer) != card.seal.get("tokenizer_sha256"):
            raise CheckpointError(f"{where}/{TOKENIZER}: damaged, or of another run; {COPY_AGAIN}")
        return Saved(card, tokenizer.decode("utf-8"), weights)

    saved = steadily(path, read)
    if task is not None and saved.card.task != task:
        raise ConfigError(
            f"{path}: trained to {saved.card.task}, needed is a model trained to {task}; use "
            f"seqtool {saved.card.task} {path}"
        )
    return saved


def read_card(path: Path) -> Card:
    """What a model is, without its weights.

    Raises:
        CheckpointError: As ``load``.
    """
    return steadily(path, _read_card)


def task_of(path: Path) -> Task:
    """What a model was trained for.

    Raises:
        CheckpointError: As ``load``.
    """
    task: Task = read_card(path).task  # type: ignore[assignment]  # a key of CONFIGS
    return task


def load_last(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """The tensors and counters that the last ``save_last`` was given.

    Raises:
        CheckpointError: As ``load``; also if training never got as far as saving them.
    """
    _, tensors, header = steadily(path, _read_tensors)
    return tensors, header["counters"]


def load_text(path: Path) -> np.ndarray[Any, Any] | None:
    """The training ids, (n,), or None if the model was saved without them.

    Raises:
        CheckpointError: As ``load``.
    """
    part = _load_part(path, TEXT)
    if part is None:
        return None
    ids = part.get("ids", np.zeros((0, 0)))
    size = steadily(path, _read_card).vocab_size
    if ids.ndim != 1 or ids.dtype.kind != "u" or (len(ids) and int(ids.max()) >= size):
        raise CheckpointError(f"{path}/{TEXT}: not ids below {size}; {COPY_AGAIN}")
    return ids


def load_counts(path: Path) -> Arrays:
    """The arrays of the n-gram model that is mixed in.

    Raises:
        CheckpointError: As ``load``; also if there is none.
    """
    part = _load_part(path, COUNTS)
    if part is None:
        raise CheckpointError(f"{path}: no {COUNTS}, which {CONFIG} asks for; {COPY_AGAIN}")
    return part


def load_dictionary(path: Path) -> Arrays | None:
    """The word-by-word dictionary of the training pairs, or None if there is none.

    Raises:
        CheckpointError: As ``load``.
    """
    return _load_part(path, DICTIONARY)


def _load_part(path: Path, name: str) -> Arrays | None:
    def read(directory: Path, where: str) -> Arrays | None:
        if not (directory / name).exists():
            return None
        return _read_tensors(directory, where, name)[1]

    return steadily(path, read)


def load_events(path: Path) -> list[dict[str, Any]]:
    """The events of a model's training, in their order; none if they were not kept.

    A last line that a crash cut short is left out.
    """
    try:
        blob = read_file(path, str(path), EVENTS)
    except CheckpointError:
        return []
    events = []
    for line in blob.decode("utf-8", "replace").splitlines():
        with suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and type(event.get("step")) is int:
                events.append(event)
    return events


class ModelDir:
    """The writer of one model directory; ``create`` or ``resume`` makes one."""

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path = path  # as the user named it
        self.card: Card | None = None  # as last written; None until there is a directory
        self._home = Path(os.path.realpath(path))  # no link: what is beside it is on the same disk
        self._force = force
        self._events_end: int | None = None  # cut the events here before the next one

    @classmethod
    def create(cls, path: Path, *, force: bool = False) -> Self:
        """Check that a new model may be put at ``path``; nothing is touched before ``begin``.

        Raises:
            ConfigError: If something is there that may not, or not without force, be replaced.
            SeqtoolError: If the directory above cannot be written.
        """
        model_dir = cls(path, force=force)
        with writing(path, "nothing was changed"):
            check_free(path, model_dir._home, force=force)
        return model_dir

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Go on in the directory of an earlier run, after checking all that resuming needs.

        Raises:
            CheckpointError: As ``load_last``.
        """
        model_dir = cls(path)
        with writing(path, "the model there is still whole"):
            clean_up(model_dir._home)
            model_dir.card, _, header = steadily(path, _read_tensors)
        model_dir._events_end = header["events_bytes"]
        return model_dir

    @property
    def begun(self) -> bool:
        """Whether there is a directory yet that the ``save_`` methods can write to."""
        return self.card is not None

    def begin(
        self,
        card: Card,
        tokenizer_json: str,
        weights: Tensors,
        parts: Mapping[str, Tensors] | None = None,
        *,
        last: tuple[Tensors, Mapping[str, Any]] | None = None,
        events: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Put a new model in place, complete from the first moment, with these first weights.

        Args:
            card: What the model is.
            tokenizer_json: Its tokenizer.
            weights: Its first weights.
            parts: What else never changes, by file name: ``TEXT``, ``COUNTS``.
            last: What ``resume`` needs, as for ``save_last``.
            events: Those so far.

        Raises:
            ConfigError: As ``create``, if the place has changed since.
            SeqtoolError: If it cannot be written; what was there before is untouched.
        """
        assert self.card is None, "a directory begins once"
        tokenizer = tokenizer_json.encode("utf-8")
        # Named by its content, so that repeating a run repeats its files to the bit.
        name = replace(card, extra={}, seal={}).to_json()
        run = sha256(name, tokenizer, *pack(weights, {}))[:16]
        card = replace(card, seal={"run": run, "tokenizer_sha256": sha256(tokenizer)})
        log = "".join(map(event_line, events)).encode("ascii")
        files = {name: (tensors, dict[str, Any]()) for name, tensors in (parts or {}).items()}
        files[BEST] = weights, {}
        if last is not None:
            files[LAST] = last[0], {"events_bytes": len(log), "counters": last[1]}
        beside = self._home.with_name(f".{self._home.name}.tmp-{os.getpid()}")
        with writing(self.path, "what was there before is untouched"):
            self._home.parent.mkdir(parents=True, exist_ok=True)
            clean_up(self._home)
            check_free(self.path, self._home, force=self._force)
            try:
                os.mkdir(beside)
                write_whole(beside / CONFIG, card.to_json().encode("ascii"))
                write_whole(beside / TOKENIZER, tokenizer)
                if log:
                    write_whole(beside / EVENTS, log)
                for name, (tensors, header) in files.items():
                    header |= {"name": name, "run": run}
                    write_whole(beside / name, *pack(tensors, header))
                swap(beside, self._home)
            finally:
                discard(beside)
        self.card = card

    def save_card(self, card: Card) -> None:
        """Replace the card.

        Raises:
            SeqtoolError: Here and below: if it cannot be written; the model there stays whole.
            CheckpointError: Here and below: if another run has replaced the directory.
        """
        with self._saving() as seal:
            card = replace(card, seal=seal)
            write_whole(self._home / CONFIG, card.to_json().encode("ascii"))
        self.card = card

    def save_best(self, weights: Tensors) -> None:
        """Replace the weights that inference uses."""
        self._save(BEST, weights)

    def save_last(self, tensors: Tensors, counters: Mapping[str, Any]) -> None:
        """Save in one rename all that ``resume`` needs.

        ``counters`` holds JSON values and may hold NaN and infinity; floats come back exactly. The
        length of the events is kept too: a resumed run first cuts off those after this save.
        """
        with self._saving(), open_plain(self._home / EVENTS, "ab") as file:
            size = self._cut_events(file)
            os.fsync(file.fileno())  # or their length could survive a power failure without them
        self._save(LAST, tensors, events_bytes=size, counters=counters)

    def append_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Add events to ``metrics.jsonl``: all of them or, if that fails, none."""
        blob = "".join(map(event_line, events)).encode("ascii")
        with self._saving(), open_plain(self._home / EVENTS, "ab") as file:
            start, left = self._cut_events(file), memoryview(blob)
            try:
                while left:  # a nearly full disk takes a part and only then refuses
                    left = left[file.write(left) :]
            finally:
                if left:
                    file.truncate(start)

    def _save(self, name: str, tensors: Tensors, **header: Any) -> None:
        with self._saving() as seal:
            header |= {"name": name, "run": seal["run"]}
            write_whole(self._home / name, *pack(tensors, header))

    def _cut_events(self, file: IO[bytes]) -> int:
        size = file.seek(0, os.SEEK_END)
        if self._events_end is not None and size > self._events_end:
            size = file.truncate(self._events_end)
        self._events_end = None
        return size

    @contextmanager
    def _saving(self) -> Iterator[dict[str, str]]:
        assert self.card is not None, "begin() comes first"
        with writing(self.path, "the model there is still whole", then="go on with --resume"):
            if _read_card(self._home, str(self.path)).seal != self.card.seal:
                raise CheckpointError(f"{self.path}: replaced by another run; give each its own -o")
            yield self.card.seal


def _finite(value: Any) -> Any:
    """The value as strict JSON knows it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_card(home: Path, where: str) -> Card:
    blob = read_file(home, where, CONFIG)
    return Card.from_json(blob.decode("utf-8", "replace"), f"{where}/{CONFIG}")


def _read_tensors(home: Path, where: str, name: str = LAST) -> tuple[Card, Arrays, dict[str, Any]]:
    """The card, and a file's tensors and header, every byte of it checked."""
    card = _read_card(home, where)
    try:
        arrays, header = unpack(read_file(home, where, name))
    except ValueError as err:
        raise CheckpointError(f"{where}/{name}: {err}; {COPY_AGAIN}") from err
    if (header.get("name"), header.get("run")) != (name, card.seal.get("run")):
        raise CheckpointError(f"{where}: {name} is not that of this {CONFIG}; {COPY_AGAIN}")
    return card, arrays, header
