"""The options of ``classify``."""

from pathlib import Path
from typing import Annotated

import typer

from seqtool.options import (
    ConfigFile,
    InputEncoding,
    Lines,
    Quiet,
    Threads,
    Verbose,
    limit_threads,
    open_console,
    option,
)


def classify(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    source: Lines = None,
    top: Annotated[
        int, option("Labels in an answer, the likeliest first.", "--top", "-k", min=1)
    ] = 1,
    proba: Annotated[bool, option("All labels with their probabilities.", "--proba")] = False,
    threshold: Annotated[
        float, option("Answer unsure below this probability.", "--threshold")
    ] = 0.0,
    coverage: Annotated[
        float | None,
        option(
            "Answer with the set of labels that holds the truth this often, or unsure.",
            "--coverage",
        ),
    ] = None,
    trace: Annotated[
        bool, option("Show how the belief moves word by word, or row by row.", "--trace")
    ] = False,
    skip_bad: Annotated[
        bool, option("Leave out images that cannot be read, and name them.", "--skip-bad")
    ] = False,
    batch_size: Annotated[int, option("Lines judged together.", "--batch-size", "-b", min=1)] = 512,
    text_column: Annotated[
        str | None,
        option("The input is CSV and this its text [default: guessed].", "--text-column"),
    ] = None,
    encoding: InputEncoding = None,
    config: ConfigFile = None,
    threads: Threads = None,
    as_json: Annotated[bool, option("Print an object for each line.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge each line of INPUT with MODEL: line n of the output answers line n of the input.

    Example: cat new.txt | seqtool classify reviews
    """
    limit_threads(threads)
    with open_console(quiet, verbose) as console:
        from seqtool.classifying import ClassifyRequest
        from seqtool.classifying import classify as run

        request = ClassifyRequest(
            model=model,
            source=source,
            top=top,
            proba=proba,
            threshold=threshold,
            coverage=coverage,
            trace=trace,
            skip_bad=skip_bad,
            batch_size=batch_size,
            text_column=text_column,
            encoding=encoding,
            json=as_json,
        )
        raise typer.Exit(run(request, console))
