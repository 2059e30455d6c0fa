"""The options of ``tag``."""

from pathlib import Path
from typing import Annotated

import typer

from seqtool.options import (
    ConfigFile,
    InputEncoding,
    Quiet,
    Threads,
    Verbose,
    limit_threads,
    open_console,
    option,
)


def tag(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[INPUT]",
            help="File (a sentence a line, or CoNLL; also .gz), a text, or - [default: -].",
        ),
    ] = None,
    conll: Annotated[
        bool | None,
        option(
            "Whether the input is CoNLL [default: seen from the input].",
            "--conll/--lines",
            env="conll",
        ),
    ] = None,
    token_column: Annotated[
        str | None,
        option("Column of the words in CoNLL [default: as in training].", "--token-column"),
    ] = None,
    label_column: Annotated[
        str | None,
        option("Column that labels go to [default: as in training].", "--label-column"),
    ] = None,
    tokenize: Annotated[
        bool, option("Take punctuation off the words of lines.", "--tokenize")
    ] = False,
    inline: Annotated[bool, option("Print word/LABEL, a sentence a line.", "--inline")] = False,
    batch_size: Annotated[
        int, option("Sentences tagged together.", "--batch-size", "-b", min=1)
    ] = 256,
    encoding: InputEncoding = None,
    config: ConfigFile = None,
    threads: Threads = None,
    as_json: Annotated[bool, option("Print an object for each sentence.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Label each word of INPUT with MODEL, sentence by sentence, in the order of the input.

    Example: seqtool tag pos sentences.txt
    """
    limit_threads(threads)
    with open_console(quiet, verbose) as console:
        from seqtool.tagging import TagRequest
        from seqtool.tagging import tag as run

        request = TagRequest(
            model=model,
            source=source,
            conll=conll,
            token_column=token_column,
            label_column=label_column,
            tokenize=tokenize,
            inline=inline,
            batch_size=batch_size,
            encoding=encoding,
            json=as_json,
        )
        raise typer.Exit(run(request, console))
