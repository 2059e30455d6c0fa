"""The options of the commands that answer line by line: ``classify``, ``tag`` and ``translate``."""

from pathlib import Path
from typing import Annotated

import typer

from seqtool.config import UNSEEN, BeamConfig, DecodeConfig
from seqtool.errors import ConfigError
from seqtool.options import (
    ConfigFile,
    InputEncoding,
    Lines,
    MinP,
    OnUnknownOption,
    PrecisionOption,
    Quiet,
    Seed,
    Temperature,
    Threads,
    TopK,
    TopP,
    Verbose,
    limit_threads,
    open_console,
    option,
)
from seqtool.settings import given

# What only a search or only drawing at random knows.
OF_SEARCH = ("beam_size",)
OF_CHANCE = ("temperature", "top_k", "top_p", "min_p", "seed")


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


def translate(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    source: Lines = None,
    beam_size: Annotated[
        int, option("Hypotheses kept side by side, 1 = greedy.", "--beam-size", "-k")
    ] = BeamConfig.beam_size,
    length_penalty: Annotated[
        float,
        option(
            "Log-probs are divided by length to this power; 0 likes short ones.", "--length-penalty"
        ),
    ] = BeamConfig.length_penalty,
    n_best: Annotated[
        int, option("Translations of a line, the best first, tabs between.", "--n-best", "-n")
    ] = BeamConfig.n_best,
    max_length: Annotated[
        int, option("Tokens at most, 0 = as training's pairs tell.", "--max-length")
    ] = BeamConfig.max_length,
    sample: Annotated[
        bool,
        option(
            "Draw at random instead of searching; -t, --top-k, --top-p, --min-p, --seed say how.",
            "--sample",
        ),
    ] = False,
    temperature: Temperature = DecodeConfig.temperature,
    top_k: TopK = DecodeConfig.top_k,
    top_p: TopP = DecodeConfig.top_p,
    min_p: MinP = DecodeConfig.min_p,
    seed: Seed = DecodeConfig.seed,
    replace_unknown: Annotated[
        bool,
        option(
            "Copy the source's word where a word is in no vocabulary; models of words only.",
            "--replace-unknown",
        ),
    ] = False,
    on_unknown: OnUnknownOption = UNSEEN,
    attention: Annotated[bool, option("Draw where the translation looks.", "--attention")] = False,
    batch_size: Annotated[
        int, option("Lines translated side by side.", "--batch-size", "-b", min=1)
    ] = 64,
    text_column: Annotated[
        str | None,
        option("The input is CSV and this its text [default: training's].", "--text-column"),
    ] = None,
    encoding: InputEncoding = None,
    config: ConfigFile = None,
    threads: Threads = None,
    precision: PrecisionOption = "float32",
    as_json: Annotated[bool, option("Print an object for each line.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Translate each line of INPUT with MODEL: line n of the output answers line n of the input.

    Example: cat new.en | seqtool translate en-de > new.de
    """
    chance = given(ctx, OF_CHANCE)
    if sample:
        searched = given(ctx, OF_SEARCH).values
        if searched:
            raise ConfigError("--beam-size is for a search; leave it or --sample out")
        beam_size = max(beam_size, n_best)  # how many are drawn is n_best
    elif chance.values:
        name = next(iter(chance.values)).replace("_", "-")
        raise ConfigError(f"--{name} is for drawing at random; add --sample")
    beam = BeamConfig(
        beam_size=beam_size, length_penalty=length_penalty, n_best=n_best, max_length=max_length
    )
    decode = DecodeConfig(**chance.values)
    limit_threads(threads)
    with open_console(quiet, verbose) as console:
        from seqtool.translating import TranslateRequest
        from seqtool.translating import translate as run
        from seqtool.translation import Wishes

        request = TranslateRequest(
            model=model,
            source=source,
            wishes=Wishes(
                beam=beam,
                sample=decode if sample else None,
                replace_unknown=replace_unknown,
                batch_size=batch_size,
            ),
            on_unknown=on_unknown,
            attention=attention,
            text_column=text_column,
            encoding=encoding,
            precision=precision,
            threads=threads,
            json=as_json,
        )
        raise typer.Exit(run(request, console))
