"""The options of ``selftest``."""

from pathlib import Path
from typing import Annotated

import typer

from seqtool.options import Quiet, open_console, option


def selftest(
    model: Annotated[
        Path | None, typer.Argument(help="Model directory [default: a tiny one, trained now].")
    ] = None,
    as_json: Annotated[bool, option("Print one JSON object.", "--json")] = False,
    quiet: Quiet = False,
) -> None:
    """Try on this machine what seqtool promises: the same answer however it is asked for.

    Example: seqtool selftest book
    """
    with open_console(quiet, False) as console:
        from seqtool.selftest import selftest as run

        raise typer.Exit(run(model, console, as_json=as_json))
