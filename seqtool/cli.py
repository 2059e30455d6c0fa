"""The command line: options become configs, each command is one call. No maths, no torch."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from seqtool import __version__
from seqtool.config import (
    Cell,
    DataConfig,
    DecodeConfig,
    Device,
    ModelConfig,
    Nonlinearity,
    OnUnknown,
    Optimizer,
    TokenizerKind,
    TrainConfig,
)
from seqtool.errors import ConfigError, SeqtoolError
from seqtool.output import complain, emit, settle
from seqtool.settings import (
    canonical,
    check_single_dash,
    default_out,
    given,
    parse_duration,
    read_settings,
    strongest,
)

if TYPE_CHECKING:
    from seqtool.console import Console

STARTED = time.monotonic()

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

LENGTHS = ("budget", "epochs", "steps")  # of a run: one of them
ABOUT_RUN = ("out", "valid", "init_from", "device", "threads")


def _option(help_text: str, *names: str, env: str = "", auto: bool = False, **rest: Any) -> Any:
    """An option that also listens to SEQTOOL_NAME; ``auto``: without it seqtool chooses."""
    name = env or next(n for n in names if n.startswith("--")).removeprefix("--")
    if auto:
        help_text += " [default: chosen]"
    return typer.Option(
        *names,
        help=help_text,
        envvar="SEQTOOL_" + name.upper().replace("-", "_"),
        show_envvar=False,
        **rest,
    )


def _default(value: object) -> str:
    return f" [default: {value}]"


def _load_config(ctx: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        ctx.default_map = read_settings(path, ctx)
    return path


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(f"seqtool {__version__}\n")
        raise typer.Exit


Quiet = Annotated[bool, _option("Show only warnings and errors.", "--quiet", "-q")]
Verbose = Annotated[bool, _option("Show more of what goes on.", "--verbose", "-v")]
Threads = Annotated[int | None, _option("Processor threads [default: all].", "--threads", min=1)]
DeviceOption = Annotated[Device, _option("Where to compute.", "--device")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", is_eager=True, callback=_load_config, help="TOML file of options."
    ),
]


VersionFlag = typer.Option(
    "--version", is_eager=True, callback=_show_version, help="Show the version."
)


@app.callback()
def _root(version: Annotated[bool, VersionFlag] = False) -> None:
    """Train recurrent networks on a laptop CPU, use them in a pipe, and see how they work."""


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(help="Text file (also .gz, .xz), directory of them, or -.")
    ],
    out: Annotated[
        Path | None, _option("Where the model goes [default: runs/NAME].", "--out", "-o")
    ] = None,
    budget: Annotated[
        str | None,
        _option("Time for the whole command: 90s, 5m, 2h [default: 5m].", "--budget"),
    ] = None,
    epochs: Annotated[
        float | None, _option("Passes over the text, instead of a budget.", "--epochs", "-e")
    ] = None,
    steps: Annotated[int | None, _option("Updates, instead of a budget.", "--steps")] = None,
    valid: Annotated[str | None, _option("Text to hold out, instead of a part.", "--valid")] = None,
    valid_fraction: Annotated[
        float | None,
        _option(
            "Part held out, from the end." + _default(DataConfig.valid_fraction),
            "--valid-fraction",
        ),
    ] = None,
    tokenizer: Annotated[
        TokenizerKind | None,
        _option("What a token is." + _default(DataConfig.tokenizer), "--tokenizer"),
    ] = None,
    vocab_size: Annotated[
        int | None,
        _option("Most words or pieces." + _default(DataConfig.vocab_size), "--vocab-size"),
    ] = None,
    encoding: Annotated[
        str | None, _option("Encoding of the text." + _default(DataConfig.encoding), "--encoding")
    ] = None,
    cell: Annotated[
        Cell | None, _option("Kind of recurrence." + _default(ModelConfig.cell), "--cell")
    ] = None,
    nonlinearity: Annotated[
        Nonlinearity | None,
        _option("Of --cell rnn." + _default(ModelConfig.nonlinearity), "--nonlinearity"),
    ] = None,
    hidden_size: Annotated[
        int | None, _option("Units of a layer.", "--hidden-size", auto=True)
    ] = None,
    layers: Annotated[
        int | None, _option("Recurrent layers." + _default(ModelConfig.num_layers), "--layers")
    ] = None,
    embed_size: Annotated[
        int | None, _option("Width of the embedding.", "--embed-size", auto=True)
    ] = None,
    dropout: Annotated[
        float | None, _option("Units dropped per sequence.", "--dropout", auto=True)
    ] = None,
    tied: Annotated[
        bool | None, _option("Share embedding and output weights.", "--tied/--untied", env="tied")
    ] = None,
    ngram_order: Annotated[
        int | None,
        _option(
            "Longest n-gram in the hashed tables, 1 = none." + _default(ModelConfig.ngram_order),
            "--ngram-order",
        ),
    ] = None,
    ngram_buckets: Annotated[
        int | None,
        _option("Rows of each table.", "--ngram-buckets", auto=True),
    ] = None,
    ngram_dropout: Annotated[
        float | None,
        _option(
            "Chance that a token goes without one of its n-grams.", "--ngram-dropout", auto=True
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _option("Streams side by side.", "--batch-size", "-b", auto=True)
    ] = None,
    bptt: Annotated[
        int | None, _option("Time steps a gradient goes back.", "--bptt", auto=True)
    ] = None,
    restart: Annotated[
        float | None,
        _option(
            "Chance per chunk to start from the zero state." + _default(TrainConfig.restart),
            "--restart",
        ),
    ] = None,
    lr: Annotated[float | None, _option("Peak learning rate.", "--lr", auto=True)] = None,
    table_lr: Annotated[
        float | None,
        _option("Peak rate of the n-gram tables." + _default(TrainConfig.table_lr), "--table-lr"),
    ] = None,
    lr_floor: Annotated[
        float | None,
        _option("Last rate, as a part of the peak." + _default(TrainConfig.lr_floor), "--lr-floor"),
    ] = None,
    warmup: Annotated[
        int | None, _option("Updates of rising rate." + _default(TrainConfig.warmup), "--warmup")
    ] = None,
    decay: Annotated[
        float | None,
        _option("Part of the run with falling rate." + _default(TrainConfig.decay), "--decay"),
    ] = None,
    optimizer: Annotated[
        Optimizer | None,
        _option("Kind of update." + _default(TrainConfig.optimizer), "--optimizer"),
    ] = None,
    momentum: Annotated[
        float | None,
        _option("sgd's, or adam's first beta." + _default(TrainConfig.momentum), "--momentum"),
    ] = None,
    beta2: Annotated[
        float | None,
        _option(
            "adam's second beta, rmsprop's smoothing." + _default(TrainConfig.beta2), "--beta2"
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        _option("Decay of matrices." + _default(TrainConfig.weight_decay), "--weight-decay"),
    ] = None,
    clip_norm: Annotated[
        float | None,
        _option(
            "Limit on the gradient norm, 0 = off." + _default(TrainConfig.clip_norm), "--clip-norm"
        ),
    ] = None,
    clip_value: Annotated[
        float | None,
        _option("Limit on each entry, 0 = off." + _default(TrainConfig.clip_value), "--clip-value"),
    ] = None,
    average: Annotated[
        int | None,
        _option("Updates averaged over, 0 = off." + _default(TrainConfig.average), "--average"),
    ] = None,
    patience: Annotated[
        int | None,
        _option(
            "Evaluations without a better one, 0 = never stop." + _default(TrainConfig.patience),
            "--patience",
        ),
    ] = None,
    eval_every: Annotated[
        int | None, _option("Updates between evaluations.", "--eval-every", auto=True)
    ] = None,
    eval_tokens: Annotated[
        int | None, _option("Tokens an evaluation reads.", "--eval-tokens", auto=True)
    ] = None,
    report_every: Annotated[
        int | None, _option("Updates between reports.", "--report-every", auto=True)
    ] = None,
    sample_every: Annotated[
        int | None,
        _option("Updates between samples [default: with evaluations].", "--sample-every"),
    ] = None,
    resume: Annotated[
        bool, _option("Go on with the interrupted run in --out.", "--resume")
    ] = False,
    init_from: Annotated[
        Path | None, _option("Start from this model's weights.", "--init-from")
    ] = None,
    force: Annotated[bool, _option("Replace the model in --out.", "--force")] = False,
    seed: Annotated[
        int | None, _option("Of all chance." + _default(TrainConfig.seed), "--seed")
    ] = None,
    config: ConfigFile = None,
    show_config: Annotated[
        bool,
        _option("Print all settings and where each came from; do not train.", "--show-config"),
    ] = False,
    device: DeviceOption = "auto",
    threads: Threads = None,
    json_lines: Annotated[bool, _option("Print events as JSON Lines.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a model that writes text like DATA.

    Example: seqtool train book.txt --budget 5m -o book
    """
    length = strongest(ctx, LENGTHS)
    if epochs is not None and not 0 < epochs < float("inf"):
        raise ConfigError(f"--epochs must be above 0, got {epochs}")
    if resume and force:
        raise ConfigError("--resume goes on with the model in --out, --force replaces it; give one")
    fields = {*asdict(ModelConfig()), *asdict(DataConfig()), *asdict(TrainConfig())}
    # On a terminal that shows the events too, a live view would be drawn over them.
    same = json_lines and sys.stdout is not None and sys.stdout.isatty()
    with _console(quiet, verbose, plain=same) as console:
        from seqtool.training import TrainRequest
        from seqtool.training import train as run

        request = TrainRequest(
            data=data,
            out=out or default_out(data),
            valid=valid,
            seconds=parse_duration(budget) if budget and length == "budget" else None,
            epochs=epochs if length == "epochs" else None,
            resume=resume,
            init_from=init_from,
            force=force,
            show_config=show_config,
            device=device,
            threads=threads,
            json=json_lines,
            settings=given(ctx, fields - ({*LENGTHS} - {length})),
            others=given(ctx, {*ABOUT_RUN, length} - {"steps"}),
            started=STARTED,
        )
        raise typer.Exit(run(request, console))


@app.command()
def generate(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    prompt: Annotated[
        str | None, _option("Text to go on from; - reads standard input.", "--prompt", "-p")
    ] = None,
    length: Annotated[int, _option("Tokens to write.", "--length", "-l")] = DecodeConfig.length,
    num: Annotated[int, _option("Texts to write, together.", "--num", "-n")] = DecodeConfig.num,
    temperature: Annotated[
        float, _option("Below 1 safer, above 1 wilder.", "--temperature", "-t")
    ] = DecodeConfig.temperature,
    top_k: Annotated[
        int, _option("Only the k likeliest tokens, 0 = all.", "--top-k")
    ] = DecodeConfig.top_k,
    top_p: Annotated[
        float, _option("Only the likeliest that hold this much probability.", "--top-p")
    ] = DecodeConfig.top_p,
    min_p: Annotated[
        float, _option("Only those at least this likely beside the likeliest.", "--min-p")
    ] = DecodeConfig.min_p,
    greedy: Annotated[
        bool, _option("Always the likeliest token.", "--greedy")
    ] = DecodeConfig.greedy,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")
    ] = None,
    max_copy: Annotated[
        int, _option("Longest run shared with the training text, 0 = any.", "--max-copy")
    ] = DecodeConfig.max_copy,
    on_unknown: Annotated[
        OnUnknown, _option("What to do with characters never seen.", "--on-unknown")
    ] = "error",
    state: Annotated[Path | None, _option("Go on where --save-state stopped.", "--state")] = None,
    save_state: Annotated[
        Path | None, _option("Save where this call stops.", "--save-state")
    ] = None,
    seed: Annotated[int, _option("Of all chance.", "--seed")] = DecodeConfig.seed,
    config: ConfigFile = None,
    device: DeviceOption = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, _option("Print an object for each text.", "--json")] = False,
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
    _limit_threads(threads)
    with _console(quiet, verbose) as console:
        from seqtool.writing import WriteRequest, write

        request = WriteRequest(
            model=model,
            prompt=prompt,
            stop=tuple(stop or ()),
            on_unknown=on_unknown,
            state=state,
            save_state=save_state,
            device=device,
            json=as_json,
            decode=decode,
            given=frozenset(settings.values),
        )
        raise typer.Exit(write(request, console))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    data: Annotated[str, typer.Argument(help="Text to score: file, directory, or -.")],
    held_out: Annotated[
        bool,
        _option("DATA is the training text: score the end that was held out.", "--held-out"),
    ] = False,
    per_token: Annotated[
        bool, _option("Print the surprisal of each token, in bits.", "--per-token")
    ] = False,
    dynamic: Annotated[
        bool, _option("Also score while learning from what was scored.", "--dynamic")
    ] = False,
    baselines: Annotated[
        bool, _option("Score an n-gram model and xz too.", "--baselines/--no-baselines")
    ] = True,
    on_unknown: Annotated[
        OnUnknown, _option("What to do with characters never seen.", "--on-unknown")
    ] = "replace",
    encoding: Annotated[
        str | None, _option("Encoding of the text [default: the model's].", "--encoding")
    ] = None,
    state: Annotated[Path | None, _option("Go on where --save-state stopped.", "--state")] = None,
    save_state: Annotated[
        Path | None, _option("Save where this call stops.", "--save-state")
    ] = None,
    config: ConfigFile = None,
    device: DeviceOption = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, _option("Print one JSON object.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score how well MODEL predicts DATA, beside cheap methods.

    Example: seqtool evaluate book other.txt
    """
    with _console(quiet, verbose) as console:
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
            device=device,
            threads=threads,
            json=as_json,
        )
        raise typer.Exit(run(request, console))


@contextmanager
def _console(quiet: bool, verbose: bool, *, plain: bool = False) -> "Iterator[Console]":
    """What the person sees; leaves no unfinished line in front of what comes next."""
    from seqtool.console import Console

    console = Console(quiet, verbose, terminal=False if plain else None)
    try:
        yield console
    finally:
        console.clear_status()


def _limit_threads(threads: int | None) -> None:
    """NumPy's matrix products read these when they are loaded."""
    if threads:
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(threads)


def main(argv: list[str] | None = None) -> None:
    """Run the command line; every error that a user can cause becomes one line."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        check_single_dash(arguments)
        status = app(arguments or ["--help"], standalone_mode=False)
    except SeqtoolError as err:
        status = complain(str(err), err.exit_code)
    except TyperException as err:
        status = complain(err.format_message(), getattr(err, "exit_code", 2))
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader went away, as `| head` does
        status = 1
    except MemoryError as err:
        status = complain(f"not enough memory ({err}); ask for less at once", 1)
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        # In typer's output, the help; what commands read and write has messages of its own.
        status = complain(f"standard output: cannot be written ({err.strerror})", 1)
    settle()
    raise SystemExit(status or 0)
