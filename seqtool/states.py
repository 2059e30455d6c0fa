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
from seqtool.errors import CheckpointError, SeqtoolError


@dataclass(frozen=True)
class Place:
    """A place in one or more texts: B of them after writing, one after scoring."""

    state: State  # each (L, B, H), before last_ids are read
    last_ids: np.ndarray  # (B,) int64
    pending: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # see evaluation
    rngs: list[dict[str, Any]] = field(default_factory=list)  # one per text after writing
    tails: list[list[int]] = field(default_factory=list)  # ends that the training text shares


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Names a model by its weights: a state means nothing to any other."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()


def save_place(path: Path, place: Place, model: str) -> None:
    """Write a state file beside its place and rename it.

    Raises:
        SeqtoolError: If it cannot be written; an earlier file stays.
    """
    tensors = {f"state.{i}": np.ascontiguousarray(part) for i, part in enumerate(place.state)}
    tensors |= {"last_ids": place.last_ids, "pending": place.pending}
    about = {"model": model, "rngs": place.rngs, "tails": place.tails}
    blob = save(tensors, metadata={"seqtool_state": json.dumps(about)})
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        try:
            beside.write_bytes(blob)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as err:
        raise SeqtoolError(
            f"--save-state {path}: {err.strerror}; choose a place that can be written"
        ) from err


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
    if "seqtool_state" not in metadata:
        raise CheckpointError(f"--state {path}: not a state file; write one with --save-state")
    about = json.loads(metadata["seqtool_state"])
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
