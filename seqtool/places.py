"""Where a model directory stands: how it is found, read steadily, refused, replaced and cleaned up.

A new model is made in a directory beside its place and renamed; the old one is first moved aside,
where it is found should the machine stop between the two renames. What the files hold is the
business of checkpoint.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from seqtool.errors import CheckpointError, ConfigError, SeqtoolError
from seqtool.files import held, open_plain, sync_directory

ResultT = TypeVar("ResultT")

CONFIG, TOKENIZER, EVENTS = "config.json", "tokenizer.json", "metrics.jsonl"
BEST, LAST, TEXT = "model.safetensors", "last.safetensors", "text.safetensors"
COUNTS, DICTIONARY = "counts.safetensors", "dictionary.safetensors"
# What is read into memory before it is checked. A card lists its classes, the events a run.
MOST_BYTES = {CONFIG: 1 << 24, TOKENIZER: 1 << 25, EVENTS: 1 << 28}
COPY_AGAIN = "copy the whole directory again from where it was trained"
_FILES = (CONFIG, TOKENIZER, EVENTS, BEST, LAST, TEXT, COUNTS, DICTIONARY)
_NAMES = "|".join(map(re.escape, _FILES))
_BESIDE = re.compile(rf"\.({_NAMES})\.tmp-\d+")  # a file on its way to its place
_OURS = re.compile(rf"{_NAMES}|\.DS_Store|{_BESIDE.pattern}")  # the second is the macOS Finder's


def steadily(path: Path, read: Callable[[Path, str], ResultT]) -> ResultT:
    """Read a directory again if it was replaced meanwhile, so that files never mix."""
    while place := locate(path):  # a swap takes milliseconds, and each round needs one more
        with suppress(FileNotFoundError), held(place[0]) as handle:  # gone since the look
            if handle >= 0:  # or another has come
                place = place[0], os.fstat(handle).st_ino
            try:
                result = read(place[0], str(path))
            except CheckpointError:
                if locate(path) == place:
                    raise
            else:
                if locate(path) == place:
                    return result
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as err:  # no right to look, a name too long, links in a circle
        raise CheckpointError(f"{path}: cannot be read ({err.strerror}); check the path") from err
    near = sorted(other.name for other in entries(path.parent) if is_model(other))
    raise CheckpointError(
        f"{path}: no model there (models in {path.parent}: {listed(near)}); train one"
    )


def read_file(directory: Path, where: str, name: str) -> bytes:
    """One file of a model, if it is not absurdly large; ``where`` names the directory in errors.

    Raises:
        CheckpointError: If it is, is not there or cannot be read.
    """
    try:
        with open_plain(directory / name) as file:
            size, most = os.fstat(file.fileno()).st_size, MOST_BYTES.get(name) or _memory()
            if size > most:
                raise CheckpointError(
                    f"{where}/{name}: {size} bytes are more than seqtool writes or this machine "
                    f"holds ({most}); {COPY_AGAIN}"
                )
            return file.read()
    except FileNotFoundError as err:
        advice = COPY_AGAIN
        if name == LAST:
            advice = "there is nothing to resume; start anew with --force, or use --init-from"
        found: list[str] = []
        with suppress(OSError):
            found = sorted(os.listdir(directory))
        raise CheckpointError(f"{where}: no {name} (found {listed(found)}); {advice}") from err
    except OSError as err:
        raise CheckpointError(f"{where}/{name}: cannot be read ({err.strerror})") from err


def _memory() -> int:
    """Bytes of memory that this machine has."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 63  # Windows: it will say when there is not enough


def locate(path: Path) -> tuple[Path, int] | None:
    """Where the model is and that directory's inode; mid-swap it is the one moved aside."""
    home = Path(os.path.realpath(path))
    for _ in range(4):  # a swap may end between the look at its one place and at the other
        for place in [home] if os.path.isdir(home) else filter(is_model, siblings(home, "old")):
            with suppress(OSError):
                return place, os.stat(place).st_ino
    return None


def listed(names: Sequence[str]) -> str:
    """Names for an error message, five at most."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""  # errors are one line
    return (", ".join(names[:5]) or "nothing") + more


def is_model(directory: Path) -> bool:
    """Whether seqtool wrote it, in whatever format; others name files config.json as well."""
    unreadable = (OSError, ValueError, TypeError, RecursionError)
    with suppress(*unreadable), open_plain(directory / CONFIG) as file:
        return {"format", "seqtool"} <= set(json.loads(file.read(MOST_BYTES[CONFIG])))
    return False


def siblings(home: Path, kind: str) -> list[Path]:
    name = re.compile(rf"\.{re.escape(home.name)}\.{kind}-\d+")
    return [path for path in entries(home.parent) if name.fullmatch(path.name)]


def entries(directory: Path) -> list[Path]:
    """What is in a directory; nothing if it cannot be listed."""
    with suppress(OSError):
        return [directory / name for name in os.listdir(directory)]
    return []


def is_free(path: Path) -> bool:
    """Whether nothing is at a place, not even what a crash has moved aside from there."""
    if os.path.isdir(path):
        return not entries(path)
    return not os.path.lexists(path) and locate(path) is None


def check_free(shown: Path, home: Path, *, force: bool) -> None:
    """Refuse a place for a new model that is taken or cannot be renamed over."""
    above = next(parent for parent in home.parents if os.path.lexists(parent))
    if not above.is_dir() or (os.path.lexists(home) and not home.is_dir()):
        raise ConfigError(f"-o {shown}: a file is in the way of that directory; choose another -o")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SeqtoolError(f"-o {shown}: no right to write in {above}; choose another -o")
    present = sorted(os.listdir(home)) if home.exists() else []
    foreign = [name for name in present if not _OURS.fullmatch(name) or (home / name).is_dir()]
    if present and (foreign or not is_model(home)):
        raise ConfigError(
            f"-o {shown}: not empty and not just a seqtool model (found "
            f"{listed(foreign or present)}), so not even --force replaces it; choose another -o"
        )
    if not force and (present or (not home.exists() and locate(home))):
        raise ConfigError(
            f"-o {shown}: holds a model; add --resume, or --force to replace it, or change -o"
        )
    if home.exists() and (home.is_mount() or Path.cwd().is_relative_to(home)):
        raise ConfigError(
            f"-o {shown}: a mount point or the current directory; use e.g. -o {shown / 'model'}"
        )


def swap(beside: Path, home: Path) -> None:
    """Rename a directory into place; an old one is moved aside, where ``load`` finds it, first."""
    aside, done = home.with_name(f".{home.name}.old-{os.getpid()}"), False
    try:
        if home.exists():
            os.rename(home, aside)
        os.rename(beside, home)
        sync_directory(home.parent)
        done = True
    finally:
        # Asks the disk and no flag: an interrupt may strike between a rename and its flag.
        if not done and not os.path.lexists(beside):
            os.rename(home, beside)
        if not done and not os.path.lexists(home) and os.path.lexists(aside):
            os.rename(aside, home)
    discard(aside)


def clean_up(home: Path) -> None:
    """Undo an interrupted replacement and remove what earlier crashes left behind."""
    for aside in filter(is_model, siblings(home, "old")):
        if not os.path.lexists(home):
            os.rename(aside, home)
    for leftover in siblings(home, "(tmp|old)"):
        discard(leftover)
    for path in home.glob(".*") if is_model(home) else ():
        if _BESIDE.fullmatch(path.name) and not path.is_dir():
            os.unlink(path)


def discard(directory: Path) -> None:
    """Delete a model directory, but no file that seqtool did not write; failing is no harm."""
    with suppress(OSError):
        # The card first: without it, what an interrupt leaves is not taken for a model.
        for name in sorted(os.listdir(directory), key=lambda name: name != CONFIG):
            if _OURS.fullmatch(name):
                os.unlink(directory / name)
        os.rmdir(directory)
