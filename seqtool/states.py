"""State files: where a text stopped, so that writing or scoring goes on exactly there.

One safetensors file with the recurrent state before the last token was read, that token, and, after
writing, the random generators and the ends of the copy tracks. It belongs to one model.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from seqtool.decode import State
from seqtool.errors import CheckpointError, ConfigError, SeqtoolError
from seqtool.files import write_whole

LONGEST_NAME = 235  # bytes: 255 is what file systems take, and it is written as .NAME.tmp-PID


@dataclass(frozen=True)
class Place:
    """A place in one or more texts: B of them after writing, one after scoring."""

    state: State  # each (L, B, H), before last_ids are read
    last_ids: np.ndarray  # (B,) int64
    pending: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # see evaluation
    rngs: list[dict[str, Any]] = field(default_factory=list)  # one per text after writing
    tails: list[list[int]] = field(default_factory=list)  # ends that the training text shares


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Names a model by its weights: a state means nothing to any other."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def check_place(path: Path) -> None:
    """See before the work that a state can be saved after it.

    Raises:
        ConfigError: If the path is no place for a file.
    """
    found = os.path.isfile(path) or not os.path.lexists(path)
    free = path.name and found and len(os.fsencode(path.name)) <= LONGEST_NAME
    if not (free and os.path.isdir(path.parent) and os.access(path.parent, os.W_OK)):
        raise ConfigError(f"--save-state {path}: not a place for a new file; choose another")


def save_place(path: Path, place: Place, model: str) -> None:
    """Write a state file beside its place and rename it.

    Raises:
        SeqtoolError: If it cannot be written; an earlier file stays.
    """
    tensors = {f"state.{i}": np.ascontiguousarray(part) for i, part in enumerate(place.state)}
    tensors |= {"last_ids": place.last_ids, "pending": place.pending}
    about = json.dumps({"model": model, "rngs": place.rngs, "tails": place.tails})
    sealed = json.dumps({"about": about, "sha256": _seal(tensors, about)})
    blob = save(tensors, metadata={"seqtool_state": sealed})
    try:
        write_whole(path, blob)
    except OSError as err:
        raise SeqtoolError(
            f"--save-state {path}: {err.strerror}; choose a place that can be written"
        ) from err


def _seal(tensors: Mapping[str, np.ndarray], about: str) -> str:
    return hashlib.sha256((fingerprint(tensors) + about).encode()).hexdigest()


def load_place(path: Path, model: str) -> Place:
    """Read a state file.

    Raises:
        CheckpointError: If it is missing, damaged, no state file, or of another model.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except OSError as err:
        raise CheckpointError(
            f"--state {path}: {err.strerror or 'no such file'}; write one with --save-state"
        ) from err
    except SafetensorError as err:
        raise CheckpointError(f"--state {path}: damaged or no state file ({err})") from err
    try:
        sealed = json.loads(metadata["seqtool_state"])
        whole = sealed["sha256"] == _seal(tensors, sealed["about"])
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"--state {path}: not a state file; write one with --save-state"
        ) from err
    if not whole:
        raise CheckpointError(f"--state {path}: damaged; write it anew with --save-state")
    about = json.loads(sealed["about"])
    if about["model"] != model:
        raise CheckpointError(
            f"--state {path}: of another model, or of this one before more training; "
            "write it anew with --save-state"
        )
    parts = sum(name.startswith("state.") for name in tensors)
    return Place(
        tuple(tensors[f"state.{i}"] for i in range(parts)),
        tensors["last_ids"],
        tensors["pending"],
        about["rngs"],
        about["tails"],
    )
