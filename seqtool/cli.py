"""The command line: its commands, its version, and every error as one line. No maths, no torch."""

import errno
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated

import typer
from typer.exceptions import TyperException

from seqtool import __version__
from seqtool.cli_inspect import cure, inspect
from seqtool.cli_lines import classify, tag, translate
from seqtool.cli_selftest import selftest
from seqtool.cli_train import train
from seqtool.cli_use import evaluate, generate
from seqtool.distributed import leave, stand_alone
from seqtool.errors import SeqtoolError, is_out_of_memory
from seqtool.output import complain, emit, settle
from seqtool.settings import canonical, check_single_dash

app = typer.Typer(
    name="seqtool",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": canonical,
        "max_content_width": 100,
    },
)


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(f"seqtool {__version__}\n")
        raise typer.Exit


VersionFlag = typer.Option(
    "--version", is_eager=True, callback=_show_version, help="Show the version."
)


@app.callback()
def _root(context: typer.Context, version: Annotated[bool, VersionFlag] = False) -> None:
    """Train recurrent networks on a laptop CPU, use them in a pipe, and see how they work."""
    shared = {command.__name__ for command in SHARED}
    if context.invoked_subcommand not in shared and not stand_alone():
        raise typer.Exit


SHARED = (train, classify, tag, translate, evaluate)  # by all processes that torchrun starts
for command in (train, generate, classify, tag, translate, evaluate, inspect, cure, selftest):
    app.command()(command)


@cache
def _commands() -> Callable[..., int | None]:
    """What parses and runs them; typer would make it anew from their signatures for each call."""
    return typer.main.get_command(app)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; every error that a user can cause becomes one line."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        check_single_dash(arguments)
        status = _commands()(arguments or ["--help"], standalone_mode=False)
    except SeqtoolError as err:
        status = complain(str(err), err.exit_code)
    except TyperException as err:
        status = complain(err.format_message(), getattr(err, "exit_code", 2))
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader went away, as `| head` does
        status = 1
    except (MemoryError, RuntimeError) as err:
        if not is_out_of_memory(err):
            raise
        status = complain(f"not enough memory ({err}); ask for less at once", 1)
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        # In typer's output, the help; what commands read and write has messages of its own.
        status = complain(f"standard output: cannot be written ({err.strerror})", 1)
    leave()
    settle()
    raise SystemExit(status or 0)
