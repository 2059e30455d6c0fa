"""The options of the commands that look inside: ``inspect`` and ``cure``."""

from pathlib import Path
from typing import Annotated

import typer

from seqtool.config import OnUnknown
from seqtool.errors import ConfigError
from seqtool.options import (
    ConfigFile,
    DeviceOption,
    Quiet,
    Threads,
    Verbose,
    open_console,
    option,
)


def inspect(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    data: Annotated[
        str | None,
        typer.Argument(help="Text to look inside on: file, directory, or - [default: kept text]."),
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
    start: Annotated[int, option("First token shown.", "--start", min=0)] = 0,
    length: Annotated[int, option("Tokens shown.", "--length", "-l", min=1)] = 2000,
    window: Annotated[
        int | None,
        option("Longest lag of --health [default: --bptt of training].", "--window", min=1),
    ] = None,
    html: Annotated[Path | None, option("Write one page with all views.", "--html")] = None,
    png: Annotated[Path | None, option("Write the plots as a picture.", "--png")] = None,
    on_unknown: Annotated[
        OnUnknown, option("What to do with characters never seen.", "--on-unknown")
    ] = "replace",
    encoding: Annotated[
        str | None, option("Encoding of the text [default: the model's].", "--encoding")
    ] = None,
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
    }
    if layer is not None and not unit:
        raise ConfigError("--layer says where --unit N is; give --unit too")
    with open_console(quiet, verbose) as console:
        from seqtool.inspection import InspectRequest
        from seqtool.inspection import inspect as run

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
