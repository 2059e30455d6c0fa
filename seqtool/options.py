"""What the options of all commands share: how one is made, those that most have, the console."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqtool.config import Device, OnUnknown, Precision
from seqtool.distributed import world
from seqtool.settings import read_settings

if TYPE_CHECKING:
    from seqtool.console import Console


def option(
    help_text: str,
    *names: str,
    env: str = "",
    auto: bool = False,
    shown: object = None,
    **rest: Any,
) -> Any:
    """An option that also listens to SEQTOOL_NAME.

    Args:
        help_text: One sentence.
        names: As typed, the long one first.
        env: NAME, if it is not that of the first long name.
        auto: Without it seqtool chooses; the help says so.
        shown: The default of a config, for the help of an option whose own default is None, which
            tells what was given from what was not.
        rest: For typer.
    """
    name = env or next(n for n in names if n.startswith("--")).removeprefix("--")
    if auto:
        help_text += " [default: chosen]"
    if shown is not None:
        help_text += f" [default: {shown}]"
    return typer.Option(
        *names,
        help=help_text,
        envvar="SEQTOOL_" + name.upper().replace("-", "_"),
        show_envvar=False,
        **rest,
    )


def _load_config(ctx: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        ctx.default_map = read_settings(path, ctx)
    return path


Quiet = Annotated[bool, option("Show only warnings and errors.", "--quiet", "-q")]
Verbose = Annotated[bool, option("Show more of what goes on.", "--verbose", "-v")]
Threads = Annotated[int | None, option("Processor threads [default: all].", "--threads", min=1)]
DeviceOption = Annotated[Device, option("Where to compute.", "--device")]
PrecisionOption = Annotated[
    Precision, option("Of the weights; int8 is faster, hardly worse.", "--precision")
]
Lines = Annotated[
    str | None,
    typer.Argument(
        metavar="[INPUT]", help="File (also .csv, .tsv, .gz), a text, or - [default: -]."
    ),
]
InputEncoding = Annotated[
    str | None, option("Encoding of the input [default: utf-8].", "--encoding")
]
TextEncoding = Annotated[
    str | None, option("Encoding of the text [default: the model's].", "--encoding")
]
SourceFile = Annotated[
    str | None,
    option("translate: file of sources, in place of DATA, with --target.", "--source"),
]
TargetFile = Annotated[
    str | None, option("translate: their translations, line for line.", "--target")
]
OnUnknownOption = Annotated[
    OnUnknown, option("What to do with characters never seen.", "--on-unknown")
]
Temperature = Annotated[float, option("Below 1 safer, above 1 wilder.", "--temperature", "-t")]
TopK = Annotated[int, option("Only the k likeliest tokens, 0 = all.", "--top-k")]
TopP = Annotated[float, option("Only the likeliest that hold this much probability.", "--top-p")]
MinP = Annotated[float, option("Only those at least this likely beside the likeliest.", "--min-p")]
Seed = Annotated[int, option("Of all chance.", "--seed")]
FromState = Annotated[Path | None, option("Go on where --save-state stopped.", "--state")]
ToState = Annotated[Path | None, option("Save where this call stops.", "--save-state")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", is_eager=True, callback=_load_config, help="TOML file of options."
    ),
]


@contextmanager
def open_console(quiet: bool, verbose: bool, *, plain: bool = False) -> "Iterator[Console]":
    """What the person sees; leaves no unfinished line in front of what comes next."""
    from seqtool.console import Console

    with ExitStack() as stack:
        stream = None
        if not world().first:  # the first process speaks for all
            stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        console = Console(quiet, verbose, stream=stream, terminal=False if plain else None)
        stack.callback(console.clear_status)
        yield console


def limit_threads(threads: int | None) -> None:
    """NumPy's matrix products read these when they are loaded."""
    if threads:
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(threads)
