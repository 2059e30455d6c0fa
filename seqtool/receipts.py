"""What a model says of how it was made, and where two models differ.

The receipt is in the card: the command, where its data were, and the versions of all that computes.
With the settings, the seed and the hash of the data, which are there as well, it is what has to be
the same for a run to give the same bits again.
"""

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from seqtool import __version__
from seqtool.checkpoint import Saved

COMPUTING = ("numpy", "torch", "numba")  # libraries whose version decides about the last bits


def versions() -> dict[str, str]:
    """Of all that computes, by name; nothing is loaded for it."""
    found = {"seqtool": __version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in COMPUTING}


def receipt(**where: Any) -> dict[str, Any]:
    """What the card keeps of a run: JSON values.

    Args:
        where: What else was asked for: data, threads and the like.
    """
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": ["seqtool", *words[1:]],
        **where,
        "versions": versions(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def difference(one: Saved, other: Saved) -> str:
    """The first thing in which two models differ, "" if their answers are the same to the bit."""
    if one.tokenizer_json != other.tokenizer_json:
        return "the vocabulary"
    if one.weights.keys() != other.weights.keys():
        return f"which weights there are ({sorted(one.weights.keys() ^ other.weights.keys())[0]})"
    for name, array in one.weights.items():
        again = other.weights[name]
        if array.shape != again.shape:
            return f"{name}: {array.shape} against {again.shape}"
        apart = array.view(np.uint32) != again.view(np.uint32)
        if apart.any():
            largest = np.abs(array.astype(np.float64) - again).max()
            return f"{name}: {apart.sum()} of {apart.size} numbers, by {largest:.2g} at most"
    if one.card.extra.get("best") != other.card.extra.get("best"):
        return "the scores, which the card holds"
    return ""
