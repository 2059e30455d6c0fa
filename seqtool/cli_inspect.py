"""The options of the commands that look inside: ``inspect`` and ``cure``."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from seqtool.config import DataConfig, TokenizerKind, TrainConfig
from seqtool.errors import ConfigError
from seqtool.options import (
    ConfigFile,
    DeviceOption,
    OnUnknownOption,
    Quiet,
    TextEncoding,
    Threads,
    Verbose,
    open_console,
    option,
)
from seqtool.settings import parse_duration, strongest

STARTED = time.monotonic()


def inspect(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    data: Annotated[
        str | None,
        typer.Argument(help="What it reads: a file, directory, - or a text [default: kept text]."),
    ] = None,
    health: Annotated[bool, option("Gradients through time, with a verdict.", "--health")] = False,
    gates: Annotated[
        bool, option("How open the gates are, how long cells remember.", "--gates")
    ] = False,
    units: Annotated[bool, option("Which hidden units follow what.", "--units")] = False,
    unit: Annotated[
        list[int] | None, option("The text marked by this unit; may be repeated.", "--unit")
    ] = None,
    layer: Annotated[int | None, option("Of --unit, from 1 [default: last].", "--layer")] = None,
    memory: Annotated[bool, option("Loss as the visible past is cut.", "--memory")] = False,
    surprisal: Annotated[
        bool, option("Bits of each token, and what was expected.", "--surprisal")
    ] = False,
    belief: Annotated[
        bool, option("What a classifier or tagger thinks at each word or row.", "--belief")
    ] = False,
    attention: Annotated[
        bool, option("Where a translator looks for each word it writes.", "--attention")
    ] = False,
    start: Annotated[
        int, option("First token shown; not of a text, first example.", "--start", min=0)
    ] = 0,
    length: Annotated[int, option("Tokens shown.", "--length", "-l", min=1)] = 2000,
    window: Annotated[
        int | None,
        option("Longest lag of --health [default: --bptt of training].", "--window", min=1),
    ] = None,
    html: Annotated[Path | None, option("Write one page with all views.", "--html")] = None,
    png: Annotated[Path | None, option("Write the plots as a picture.", "--png")] = None,
    on_unknown: OnUnknownOption = "replace",
    encoding: TextEncoding = None,
    config: ConfigFile = None,
    device: DeviceOption = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, option("Print one JSON object.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tell what MODEL is, and look inside it on DATA.

    Example: seqtool inspect book book.txt --health
    """
    flags = {
        "health": health,
        "gates": gates,
        "units": units,
        "memory": memory,
        "surprisal": surprisal,
        "belief": belief,
        "attention": attention,
    }
    if layer is not None and not unit:
        raise ConfigError("--layer says where --unit N is; give --unit too")
    with open_console(quiet, verbose) as console:
        from seqtool.inspection import inspect as run
        from seqtool.microscope import InspectRequest

        request = InspectRequest(
            model=model,
            data=data,
            views=frozenset(name for name, wanted in flags.items() if wanted),
            units=tuple(unit or ()),
            layer=layer,
            start=start,
            length=length,
            window=window,
            html=html,
            png=png,
            on_unknown=on_unknown,
            encoding=encoding,
            device=device,
            threads=threads,
            json=as_json,
        )
        raise typer.Exit(run(request, console))


def cure(
    ctx: typer.Context,
    data: Annotated[
        str | None, typer.Argument(help="Text to learn [default: the problem of --probe].")
    ] = None,
    probe: Annotated[
        Literal["adding", "copy"], option("Problem to test memory on, without DATA.", "--probe")
    ] = "adding",
    length: Annotated[
        int, option("Steps between question and answer in --probe.", "--length", "-l", min=2)
    ] = 200,
    hidden_size: Annotated[
        int, option("Units of the simple RNNs; others get as many weights.", "--hidden-size", min=2)
    ] = 64,
    layers: Annotated[int, option("Recurrent layers.", "--layers", min=1)] = 1,
    batch_size: Annotated[int, option("Sequences side by side.", "--batch-size", "-b", min=1)] = 16,
    bptt: Annotated[
        int, option("Time steps a gradient goes back on DATA.", "--bptt", min=2)
    ] = TrainConfig.bptt,
    budget: Annotated[str, option("Time for all remedies together.", "--budget")] = "10m",
    steps: Annotated[
        str | None,
        option("Updates instead of a budget: of each remedy, or of all: 90,80,...", "--steps"),
    ] = None,
    tokenizer: Annotated[
        TokenizerKind, option("What a token is.", "--tokenizer")
    ] = DataConfig.tokenizer,
    encoding: Annotated[str, option("Encoding of the text.", "--encoding")] = DataConfig.encoding,
    seed: Annotated[int, option("Of all chance.", "--seed", min=0)] = TrainConfig.seed,
    html: Annotated[Path | None, option("Write ranking and curves as one page.", "--html")] = None,
    png: Annotated[Path | None, option("Write the curves as a picture.", "--png")] = None,
    config: ConfigFile = None,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None,
        option("Processor threads [default: 1 up to 128 units, else all].", "--threads", min=1),
    ] = None,
    as_json: Annotated[bool, option("Print one JSON object.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Try remedies for vanishing and exploding gradients on DATA, or on a problem made for it.

    Example: seqtool cure book.txt --budget 5m
    """
    by_steps = strongest(ctx, ("budget", "steps")) == "steps"
    with open_console(quiet, verbose) as console:
        from seqtool.curing import CureRequest
        from seqtool.curing import cure as run

        request = CureRequest(
            data=data,
            probe=probe,
            length=length,
            hidden_size=hidden_size,
            layers=layers,
            batch_size=batch_size,
            bptt=bptt,
            seconds=parse_duration(budget),
            steps=steps if by_steps else None,
            tokenizer=tokenizer,
            encoding=encoding,
            seed=seed,
            png=png,
            html=html,
            device=device,
            threads=threads,
            json=as_json,
            started=STARTED,
        )
        raise typer.Exit(run(request, console))
