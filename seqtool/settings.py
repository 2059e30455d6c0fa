"""Where each setting comes from: flag, environment, settings file, plan, or default.

Flags beat the environment (``SEQTOOL_*``), which beats ``--config FILE``, which beats what ``plan``
chooses, which beats the defaults of ``config``. Inside: durations, the settings file, the spellings
that people know from other tools, and the record that ``--show-config`` prints.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from seqtool.config import needed
from seqtool.errors import ConfigError

if TYPE_CHECKING:
    from typer import Context

# Options whose name differs from the field of the config that they set.
FIELDS = {"layers": "num_layers"}
# What typer calls the places that a value can come from, the strongest first.
ORIGINS = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "config file"}

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
    "beam": "beam-size",
    "beam-width": "beam-size",
    "num-beams": "beam-size",
    "nbest": "n-best",
    "lenpen": "length-penalty",
    "replace-unk": "replace-unknown",
}
COMMAND_ALIASES = {"sample": "generate", "test": "evaluate", "score": "evaluate"}

LONGEST_NAME = 60  # characters, in UTF-8 within the 255 bytes that file systems allow
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


def default_out(data: str) -> Path:
    """Where a model goes that is trained on this text."""
    # Not Path.resolve, which fails where links go in a circle: reading will say so.
    name = "text" if data == "-" else Path(os.path.realpath(data)).name.split(".")[0]
    return Path("runs") / (name[:LONGEST_NAME] or "text")


def read_settings(path: Path, ctx: "Context") -> dict[str, Any]:
    """Read a TOML file of option names, with dashes or underscores, and their values.

    Args:
        path: The file.
        ctx: Of the command that takes the options.

    Returns:
        Values by the name of the parameter, as typer wants its defaults.

    Raises:
        ConfigError: If it cannot be read, is not TOML, names an unknown option, or has a value of
            another type than the option.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as err:
        raise ConfigError(f"--config {path}: {err.strerror}; name a TOML file") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"--config {path}: not valid TOML: {err}") from err
    hints = get_type_hints(ctx.command.callback)
    known = {n.removeprefix("--"): p.name for p in ctx.command.params for n in p.opts if len(n) > 2}
    del known["config"]  # it names no other file
    found: dict[str, Any] = {}
    for name, value in values.items():
        option = known.get(canonical(name))
        if option is None:
            near = difflib.get_close_matches(canonical(name), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--config {path}: unknown setting {name}{hint}")
        if option in found:
            raise ConfigError(f"--config {path}: {name} is there twice, spelled in two ways")
        found[option] = _checked(f"--config {path}: {name}", value, hints[option])
    return found


def _checked(where: str, value: Any, hint: Any) -> Any:
    """The value if it is of the option's type: typer would make 1 of 1.9 and of true."""
    if type(None) in get_args(hint):
        hint = get_args(hint)[0]
    if get_origin(hint) is list:
        values = value if isinstance(value, list) else [value]
        return [_checked(where, item, str) for item in values]
    if wanted := needed(value, str if hint is Path else hint):
        raise ConfigError(f"{where} must be {wanted}, got {_toml_value(value)}")
    if isinstance(value, str) and "\0" in value:  # no flag could hold one, and no path may
        raise ConfigError(f"{where} must not hold a NUL character, got {_toml_value(value)}")
    return value


def origin(ctx: "Context", option: str) -> str | None:
    """The place that an option's value came from; None if nobody set it."""
    source = ctx.get_parameter_source(option)
    return ORIGINS.get(source.name) if source is not None else None


def given(ctx: "Context", names: Collection[str | None]) -> "Settings":
    """What the user set of the fields that are named so, and where."""
    settings = Settings()
    for option, value in ctx.params.items():
        name, place = FIELDS.get(option, option), origin(ctx, option)
        if name in names and place is not None:
            settings = settings.add({name: value}, place)
    return settings


def strongest(ctx: "Context", options: Collection[str]) -> str | None:
    """Which of several options that exclude each other holds: flags beat environment beat file.

    Raises:
        ConfigError: If two come from the same place.
    """
    for place in ORIGINS.values():
        here = [name for name in options if origin(ctx, name) == place]
        if len(here) > 1:
            both = " and ".join(f"--{name.replace('_', '-')}" for name in here[:2])
            raise ConfigError(f"{both} exclude each other ({place}); give one of them")
        if here:
            return here[0]
    return None


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
                lines.append(f"{line:<31} # {self.origins[name]}")
        return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value)
    # JSON's strings are TOML's too, but for one character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
