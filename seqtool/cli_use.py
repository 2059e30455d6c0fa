"""The options of the commands that use a model: ``generate`` and ``evaluate``."""

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from seqtool.config import BeamConfig, DecodeConfig
from seqtool.errors import ConfigError
from seqtool.options import (
    ConfigFile,
    DeviceOption,
    FromState,
    MinP,
    OnUnknownOption,
    PrecisionOption,
    Quiet,
    Seed,
    SourceFile,
    TargetFile,
    Temperature,
    TextEncoding,
    Threads,
    TopK,
    TopP,
    ToState,
    Verbose,
    limit_threads,
    open_console,
    option,
)
from seqtool.settings import given, origin

# Options of ``evaluate`` that not every model has a use for, and the tasks of those that have.
OF_TASKS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("per_token", "dynamic", "on_unknown", "state", "save_state", "device"): ("generate",),
    ("precision",): ("generate", "translate"),
    ("compare",): ("generate", "classify", "translate"),
    ("source", "target", "lowercase", "beam_size", "length_penalty"): ("translate",),
    ("token_column", "label_column"): ("tag",),
}


def _stop_texts(ctx: typer.Context, texts: list[str] | None) -> list[str] | None:
    """SEQTOOL_STOP holds one text; typer cuts what is for a list at white space."""
    return [os.environ["SEQTOOL_STOP"]] if origin(ctx, "stop") == "environment" else texts


def _refuse_others(ctx: typer.Context, task: str) -> None:
    """See that no option of ``evaluate`` is given that means nothing for a model's task."""
    for names, tasks in OF_TASKS.items():
        for name in names:
            if task not in tasks and origin(ctx, name) == "flag":
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for models that {' or '.join(tasks)}, but "
                    f"{ctx.params['model']} was trained to {task}; leave it out"
                )


def generate(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    prompt: Annotated[
        str | None, option("Text to go on from; - reads standard input.", "--prompt", "-p")
    ] = None,
    label: Annotated[
        str | None, option("What to write for, if the model learned labels.", "--label")
    ] = None,
    length: Annotated[
        int, option("Tokens to write at most.", "--length", "-l")
    ] = DecodeConfig.length,
    num: Annotated[int, option("Texts to write, together.", "--num", "-n")] = DecodeConfig.num,
    temperature: Temperature = DecodeConfig.temperature,
    top_k: TopK = DecodeConfig.top_k,
    top_p: TopP = DecodeConfig.top_p,
    min_p: MinP = DecodeConfig.min_p,
    greedy: Annotated[
        bool, option("Always the likeliest token.", "--greedy")
    ] = DecodeConfig.greedy,
    stop: Annotated[
        list[str] | None,
        option("End before this text; may be repeated.", "--stop", callback=_stop_texts),
    ] = None,
    max_copy: Annotated[
        int, option("Longest run shared with the training text, 0 = any.", "--max-copy")
    ] = DecodeConfig.max_copy,
    on_unknown: OnUnknownOption = "error",
    state: FromState = None,
    save_state: ToState = None,
    seed: Seed = DecodeConfig.seed,
    config: ConfigFile = None,
    device: DeviceOption = "auto",
    threads: Threads = None,
    precision: PrecisionOption = "float32",
    as_json: Annotated[bool, option("Print an object for each text.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write text with MODEL.

    Example: seqtool generate book -p "Once upon" -l 400 -t 0.7
    """
    settings = given(ctx, asdict(DecodeConfig()))
    decode = DecodeConfig(**settings.values)
    if stop and "" in stop:
        raise ConfigError("--stop must be a text of at least one character, got an empty one")
    limit_threads(threads)
    with open_console(quiet, verbose) as console:
        from seqtool.writing import WriteRequest, write

        request = WriteRequest(
            model=model,
            prompt=prompt,
            label=label,
            stop=tuple(stop or ()),
            on_unknown=on_unknown,
            state=state,
            save_state=save_state,
            device=device,
            precision=precision,
            threads=threads,
            json=as_json,
            decode=decode,
            given=frozenset(settings.values),
        )
        raise typer.Exit(write(request, console))


def evaluate(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    data: Annotated[
        str | None,
        typer.Argument(help="Text, labelled texts or pairs, to score: file, directory, or -."),
    ] = None,
    source: SourceFile = None,
    target: TargetFile = None,
    lowercase: Annotated[
        bool, option("translate: BLEU and chrF ignore case, as sacrebleu -lc.", "--lowercase")
    ] = False,
    beam_size: Annotated[
        int, option("translate: translations kept in view, 1 = greedy.", "--beam-size")
    ] = BeamConfig.beam_size,
    length_penalty: Annotated[
        float, option("translate: above 1 longer, below shorter.", "--length-penalty")
    ] = BeamConfig.length_penalty,
    held_out: Annotated[
        bool,
        option("DATA is the training text: score the end that was held out.", "--held-out"),
    ] = False,
    per_token: Annotated[
        bool, option("Print the surprisal of each token, in bits.", "--per-token")
    ] = False,
    dynamic: Annotated[
        bool, option("Also score while learning from what was scored.", "--dynamic")
    ] = False,
    baselines: Annotated[
        bool, option("Score cheap methods too.", "--baselines/--no-baselines")
    ] = True,
    compare: Annotated[
        Path | None,
        option("Another model, to see which is better on the same data.", "--compare"),
    ] = None,
    on_unknown: OnUnknownOption = "replace",
    encoding: TextEncoding = None,
    token_column: Annotated[
        str | None,
        option("tag: column of the words [default: as in training].", "--token-column"),
    ] = None,
    label_column: Annotated[
        str | None,
        option("tag: column of the labels [default: as in training].", "--label-column"),
    ] = None,
    state: FromState = None,
    save_state: ToState = None,
    config: ConfigFile = None,
    device: DeviceOption = "auto",
    threads: Threads = None,
    precision: PrecisionOption = "float32",
    as_json: Annotated[bool, option("Print one JSON object.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score how well MODEL predicts or judges DATA, beside cheap methods.

    Example: seqtool evaluate book other.txt
    """
    beam = BeamConfig(beam_size=beam_size, length_penalty=length_penalty)
    if source is not None and data is not None:
        raise ConfigError(f"--source {source} stands in place of DATA, which is {data}; give one")
    data = data if source is None else source
    if data is None:
        raise ConfigError("nothing to score; name DATA, or files with --source and --target")
    limit_threads(threads)
    with open_console(quiet, verbose) as console:
        from seqtool.checkpoint import read_card, task_of

        task = task_of(model)
        _refuse_others(ctx, task)
        if task == "translate":
            from seqtool.rating import RateRequest, rate
            from seqtool.translation import open_translator

            rating = RateRequest(
                model=model,
                data=data,
                target=target,
                held_out=held_out,
                baselines=baselines,
                lower=lowercase,
                compare=compare,
                encoding=encoding,
                json=as_json,
            )
            opened = partial(
                open_translator,
                beam=beam,
                precision=precision,
                threads=threads,
                announce=console.compiling,
            )
            raise typer.Exit(rate(rating, console, opened))
        if task in ("classify", "tag"):
            from seqtool.appraising import appraise
            from seqtool.grading import grade
            from seqtool.scorecard import GradeRequest

            grading = GradeRequest(
                model=model,
                data=data,
                held_out=held_out,
                baselines=baselines,
                encoding=encoding,
                compare=compare,
                json=as_json,
                token_column=token_column,
                label_column=label_column,
            )
            judge = grade if task == "classify" else appraise
            raise typer.Exit(judge(grading, console))
        from seqtool.scoring import ScoreRequest
        from seqtool.scoring import evaluate as run

        request = ScoreRequest(
            model=model,
            data=data,
            held_out=held_out,
            per_token=per_token,
            dynamic=dynamic,
            baselines=baselines,
            on_unknown=on_unknown,
            encoding=encoding,
            state=state,
            save_state=save_state,
            compare=compare,
            device=device,
            threads=threads,
            precision=precision,
            json=as_json,
        )
        if "classes" in read_card(model).source:
            from seqtool.rowscoring import evaluate_rows

            raise typer.Exit(evaluate_rows(request, console))
        raise typer.Exit(run(request, console))
