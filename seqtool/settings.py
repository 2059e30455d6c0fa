"""Where each setting comes from: flag, environment, settings file, plan, or default.

Flags beat the environment (``SEQTOOL_*``), which beats ``--config FILE``, which beats what ``plan``
chooses, which beats the defaults of ``config``. Inside: durations, the settings file, the spellings
that people know from other tools, and the record that ``--show-config`` prints.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqtool.errors import ConfigError

# Spellings from char-rnn, torch-rnn, nanoGPT, fairseq, OpenNMT: not in --help, but known.
ALIASES = {
    "rnn-size": "hidden-size",
    "nhid": "hidden-size",
    "num-units": "hidden-size",
    "n-embd": "hidden-size",
    "dim": "hidden-size",
    "num-layers": "layers",
    "nlayers": "layers",
    "n-layer": "layers",
    "rnn-type": "cell",
    "model-type": "cell",
    "unit-type": "cell",
    "emsize": "embed-size",
    "wordvec-size": "embed-size",
    "seq-length": "bptt",
    "block-size": "bptt",
    "max-epochs": "epochs",
    "num-epochs": "epochs",
    "max-steps": "steps",
    "max-iters": "steps",
    "train-steps": "steps",
    "max-updates": "steps",
    "max-update": "steps",
    "learning-rate": "lr",
    "learn-rate": "lr",
    "optim": "optimizer",
    "clip": "clip-norm",
    "grad-clip": "clip-norm",
    "max-grad-norm": "clip-norm",
    "max-gradient-norm": "clip-norm",
    "val": "valid",
    "val-frac": "valid-fraction",
    "val-fraction": "valid-fraction",
    "eval-interval": "eval-every",
    "eval-steps": "eval-every",
    "valid-steps": "eval-every",
    "early-stopping-patience": "patience",
    "random-seed": "seed",
    "out-dir": "out",
    "output": "out",
    "save-dir": "out",
    "checkpoint-dir": "out",
    "tied-embeddings": "tied",
    "level": "tokenizer",
    "warmup-steps": "warmup",
    "prime": "prompt",
    "primetext": "prompt",
    "start": "prompt",
    "start-text": "prompt",
    "prefix": "prompt",
    "max-new-tokens": "length",
    "words": "length",
    "num-samples": "num",
    "temp": "temperature",
    "sampling-topk": "top-k",
    "unknown": "on-unknown",
}
COMMAND_ALIASES = {"sample": "generate", "test": "evaluate", "score": "evaluate"}

UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|min|m|sec|s)?)+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|min|m|sec|s)?")


def canonical(name: str) -> str:
    """The documented spelling of an option, a command or a choice."""
    dashed = name.replace("_", "-")
    return ALIASES.get(dashed, COMMAND_ALIASES.get(dashed, dashed))


def check_single_dash(arguments: Collection[str]) -> None:
    """Refuse ``-rnn_size 128``: with one dash its letters would be taken for short flags.

    Raises:
        ConfigError: Naming the option with two dashes.
    """
    for argument in arguments:
        if argument == "--":
            return
        match = re.fullmatch(r"-([a-z][a-z_-]{3,})(=.*)?", argument)
        if match and canonical(match[1]) in ALIASES.values():
            raise ConfigError(f"{argument}: options have two dashes; use --{canonical(match[1])}")


def parse_duration(text: str) -> float:
    """Seconds in ``90s``, ``5m``, ``2h``, ``1h30m``; a bare number counts seconds.

    Raises:
        ConfigError: If it is not a duration above zero.
    """
    squeezed = re.sub(r"\s", "", text.lower())
    seconds = 0.0
    if _DURATION.fullmatch(squeezed):
        seconds = sum(float(n) * UNITS[unit or "s"] for n, unit in _PART.findall(squeezed))
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--budget must be a time such as 90s, 5m or 2h, got {text!r}")
    return seconds


def read_settings(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a TOML file of option names, with dashes or underscores, and their values.

    Raises:
        ConfigError: If it cannot be read, is not TOML, or names an unknown option.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as err:
        raise ConfigError(f"--config {path}: {err.strerror}; name a TOML file") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"--config {path}: not valid TOML: {err}") from err
    found = {}
    for name, value in values.items():
        option = canonical(name).replace("-", "_")
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--config {path}: unknown setting {name}{hint}")
        if isinstance(value, dict | list):
            raise ConfigError(f"--config {path}: {name} must be one value, got {value}")
        found[option] = value
    return found


@dataclass(frozen=True)
class Settings:
    """Values by field name, and for each the place it came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, values: dict[str, Any], origin: str) -> "Settings":
        """With these values too, where nothing stronger was set before."""
        new = {name: value for name, value in values.items() if name not in self.values}
        origins = self.origins | dict.fromkeys(new, origin)
        return replace(self, values=self.values | new, origins=origins)

    def toml(self) -> str:
        """A settings file that asks for the same, each line with its origin."""
        lines = []
        for name, value in self.values.items():
            if value is not None:
                line = f"{name.replace('_', '-')} = {_toml_value(value)}"
                lines.append(f"{line:<32}# {self.origins[name]}")
        return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    # JSON's strings, numbers and booleans are TOML's too.
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))
