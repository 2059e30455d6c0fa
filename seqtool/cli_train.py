"""The options of ``train``."""

import sys
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from seqtool import STARTED
from seqtool.architecture import (
    AttentionOption,
    BackoffOrder,
    CellOption,
    Crf,
    Dropout,
    EmbedDropout,
    EmbedSize,
    HiddenSize,
    InputFeeding,
    LabelSmoothing,
    LayerNorm,
    Layers,
    Members,
    NgramBuckets,
    NgramDropout,
    NgramOrder,
    NgramOutput,
    NoAttention,
    NonlinearityOption,
    PartBuckets,
    Pool,
    ReverseSource,
    SourceWordDropout,
    SubwordDropout,
    Tied,
    TyingOption,
    WordDropout,
)
from seqtool.config import (
    CONFIGS,
    DataConfig,
    LabelConfig,
    Optimizer,
    PairConfig,
    Steps,
    Task,
    TokenizerKind,
    TrainConfig,
)
from seqtool.errors import ConfigError
from seqtool.guessing import guess_task, new_task
from seqtool.options import (
    ConfigFile,
    DeviceOption,
    Quiet,
    SourceFile,
    TargetFile,
    Threads,
    Verbose,
    open_console,
    option,
)
from seqtool.settings import default_out, given, parse_duration, strongest

LENGTHS = ("budget", "epochs", "steps")  # of a run: one of them
HELD_OUT = ("valid", "valid_fraction")  # one of them
ABOUT_RUN = (
    *("out", "valid", "target", "valid_target", "init_from", "embeddings", "device", "threads"),
)


def train(
    ctx: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="Text, table of texts and labels or translations (also .gz, .xz), directory, or -."
        ),
    ] = None,
    out: Annotated[
        Path | None, option("Where the model goes [default: runs/NAME].", "--out", "-o")
    ] = None,
    budget: Annotated[
        str | None,
        option("Time for the whole command: 90s, 5m, 2h [default: 5m].", "--budget"),
    ] = None,
    epochs: Annotated[
        float | None, option("Passes over the text, instead of a budget.", "--epochs", "-e")
    ] = None,
    steps: Annotated[int | None, option("Updates, instead of a budget.", "--steps")] = None,
    valid: Annotated[str | None, option("Text to hold out, instead of a part.", "--valid")] = None,
    valid_fraction: Annotated[
        float | None,
        option("Part held out, from the end.", "--valid-fraction", shown=DataConfig.valid_fraction),
    ] = None,
    tokenizer: Annotated[
        TokenizerKind | None,
        option("What a token is.", "--tokenizer", shown=DataConfig.tokenizer),
    ] = None,
    vocab_size: Annotated[
        int | None,
        option("Most words or pieces.", "--vocab-size", shown=DataConfig.vocab_size),
    ] = None,
    encoding: Annotated[
        str | None, option("Encoding of the text.", "--encoding", shown=DataConfig.encoding)
    ] = None,
    cell: CellOption = None,
    nonlinearity: NonlinearityOption = None,
    hidden_size: HiddenSize = None,
    layers: Layers = None,
    embed_size: EmbedSize = None,
    dropout: Dropout = None,
    tied: Tied = None,
    ngram_order: NgramOrder = None,
    ngram_buckets: NgramBuckets = None,
    ngram_output: NgramOutput = None,
    ngram_dropout: NgramDropout = None,
    backoff_order: BackoffOrder = None,
    batch_size: Annotated[
        int | None,
        option("Streams side by side; translate: tokens.", "--batch-size", "-b", auto=True),
    ] = None,
    bptt: Annotated[
        int | None, option("Time steps a gradient goes back.", "--bptt", auto=True)
    ] = None,
    restart: Annotated[
        float | None,
        option(
            "Chance per chunk to start from the zero state.", "--restart", shown=TrainConfig.restart
        ),
    ] = None,
    lr: Annotated[float | None, option("Peak learning rate.", "--lr", auto=True)] = None,
    table_lr: Annotated[
        float | None,
        option("Peak rate of the n-gram tables.", "--table-lr", auto=True),
    ] = None,
    lr_floor: Annotated[
        float | None,
        option("Last rate, as a part of the peak.", "--lr-floor", shown=TrainConfig.lr_floor),
    ] = None,
    warmup: Annotated[int | None, option("Updates of rising rate.", "--warmup", auto=True)] = None,
    decay: Annotated[
        float | None,
        option("Part of the run with falling rate.", "--decay", shown=TrainConfig.decay),
    ] = None,
    optimizer: Annotated[
        Optimizer | None,
        option("Kind of update.", "--optimizer", shown=TrainConfig.optimizer),
    ] = None,
    momentum: Annotated[
        float | None,
        option("sgd's, or adam's first beta.", "--momentum", shown=TrainConfig.momentum),
    ] = None,
    beta2: Annotated[
        float | None,
        option("adam's second beta, rmsprop's smoothing.", "--beta2", shown=TrainConfig.beta2),
    ] = None,
    weight_decay: Annotated[
        float | None,
        option("Decay of matrices.", "--weight-decay", auto=True),
    ] = None,
    clip_norm: Annotated[
        float | None,
        option("Limit on the gradient norm, 0 = off.", "--clip-norm", shown=TrainConfig.clip_norm),
    ] = None,
    clip_value: Annotated[
        float | None,
        option("Limit on each entry, 0 = off.", "--clip-value", shown=TrainConfig.clip_value),
    ] = None,
    average: Annotated[
        int | None,
        option("Updates averaged over, 0 = off.", "--average", shown=TrainConfig.average),
    ] = None,
    patience: Annotated[
        int | None,
        option(
            "Stop early after so many evaluations without a better one [default: never].",
            "--patience",
        ),
    ] = None,
    eval_every: Annotated[
        int | None, option("Updates between evaluations.", "--eval-every", auto=True)
    ] = None,
    eval_tokens: Annotated[
        int | None, option("Tokens an evaluation reads.", "--eval-tokens", auto=True)
    ] = None,
    report_every: Annotated[
        int | None, option("Updates between reports.", "--report-every", auto=True)
    ] = None,
    sample_every: Annotated[
        int | None,
        option("Updates between samples [default: with evaluations].", "--sample-every"),
    ] = None,
    task: Annotated[
        Task | None,
        option("What the model shall do [default: seen from DATA].", "--task"),
    ] = None,
    attention: AttentionOption = None,
    no_attention: NoAttention = False,
    input_feeding: InputFeeding = None,
    tying: TyingOption = None,
    layer_norm: LayerNorm = None,
    source_word_dropout: SourceWordDropout = None,
    subword_dropout: SubwordDropout = None,
    reverse_source: ReverseSource = None,
    text_column: Annotated[
        str | None,
        option("Table: column of the text, of a pair A,B [default: guessed].", "--text-column"),
    ] = None,
    label_column: Annotated[
        str | None,
        option(
            "Column of the label [default: guessed]; with --task generate, write for labels.",
            "--label-column",
        ),
    ] = None,
    token_column: Annotated[
        str | None,
        option("tag: column of the words, by number or name [default: guessed].", "--token-column"),
    ] = None,
    crf: Crf = None,
    multi_label: Annotated[
        bool | None,
        option("classify: a text may have any number of labels.", "--multi-label"),
    ] = None,
    lower: Annotated[
        bool | None,
        option("classify: whether case is ignored.", "--lower/--cased", env="lower", auto=True),
    ] = None,
    image_size: Annotated[
        str | None,
        option("classify: pixels of an image, 28x28 [default: the commonest].", "--image-size"),
    ] = None,
    by: Annotated[
        Steps | None,
        option("classify: what a step of an image is.", "--by", shown=LabelConfig.by),
    ] = None,
    image_height: Annotated[
        int | None,
        option(
            "translate: pixels of an image of a line [default: the commonest, at most 32].",
            "--image-height",
        ),
    ] = None,
    skip_bad: Annotated[
        bool | None,
        option("classify, translate: leave out images that cannot be read.", "--skip-bad"),
    ] = None,
    class_weights: Annotated[
        str | None,
        option("classify: balanced, or how much a class counts, A=5,B=1.", "--class-weights"),
    ] = None,
    pool: Pool = None,
    embed_dropout: EmbedDropout = None,
    word_dropout: WordDropout = None,
    label_smoothing: LabelSmoothing = None,
    part_buckets: PartBuckets = None,
    members: Members = None,
    max_length: Annotated[
        int | None,
        option(
            "classify: words of a text that are read; translate: tokens of the longest pair.",
            "--max-length",
            shown=f"{LabelConfig.max_length}, {PairConfig.max_length}",
        ),
    ] = None,
    source: SourceFile = None,
    target: TargetFile = None,
    valid_target: Annotated[
        str | None, option("translate: translations of the lines of --valid.", "--valid-target")
    ] = None,
    source_column: Annotated[
        str | None,
        option("translate: column to translate from [default: guessed].", "--source-column"),
    ] = None,
    target_column: Annotated[
        str | None,
        option(
            "translate: column to translate to; A,B: each a right answer [default: guessed].",
            "--target-column",
        ),
    ] = None,
    separator: Annotated[
        str | None,
        option("translate: what stands between several right answers in a cell.", "--separator"),
    ] = None,
    target_tokenizer: Annotated[
        TokenizerKind | None,
        option("translate: what a token of the target is.", "--target-tokenizer", auto=True),
    ] = None,
    joint: Annotated[
        bool | None,
        option(
            "translate: one vocabulary for both sides.",
            "--joint/--separate",
            env="joint",
            auto=True,
        ),
    ] = None,
    target_encoding: Annotated[
        str | None,
        option("translate: encoding of --target, if another one.", "--target-encoding"),
    ] = None,
    resume: Annotated[bool, option("Go on with the interrupted run in --out.", "--resume")] = False,
    init_from: Annotated[
        Path | None, option("Start from this model's weights.", "--init-from")
    ] = None,
    embeddings: Annotated[
        str | None,
        option(
            "classify: start from vectors of words in a text file (GloVe, word2vec, fastText).",
            "--embeddings",
        ),
    ] = None,
    reproduce: Annotated[
        Path | None,
        option("Train once more what made this model, and compare the weights.", "--reproduce"),
    ] = None,
    force: Annotated[bool, option("Replace the model in --out.", "--force")] = False,
    seed: Annotated[int | None, option("Of all chance.", "--seed", shown=TrainConfig.seed)] = None,
    config: ConfigFile = None,
    show_config: Annotated[
        bool,
        option("Print all settings and where each came from; do not train.", "--show-config"),
    ] = False,
    device: DeviceOption = "auto",
    threads: Threads = None,
    json_lines: Annotated[bool, option("Print events as JSON Lines.", "--json")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a model that writes like DATA, or that judges, tags or translates as it shows.

    Example: seqtool train book.txt --budget 5m -o book, or seqtool train reviews.csv -o reviews
    """
    length, held_out = strongest(ctx, LENGTHS), strongest(ctx, HELD_OUT)
    weaker = {*LENGTHS, *HELD_OUT} - {length, held_out}
    if epochs is not None and not 0 < epochs < float("inf"):
        raise ConfigError(f"--epochs must be above 0, got {epochs}")
    if resume and force:
        raise ConfigError("--resume goes on with the model in --out, --force replaces it; give one")
    if source is not None and data is not None:
        raise ConfigError(f"--source {source} stands in place of DATA, which is {data}; give one")
    data = data if source is None else source
    if data is None and reproduce is None:
        raise ConfigError("nothing to train on; name DATA, or files with --source and --target")
    if source is not None and target is None:
        raise ConfigError(f"--source {source} needs its translations, named by --target")
    if no_attention and attention not in (None, "none"):
        raise ConfigError(f"--no-attention contradicts --attention {attention}; give one")
    begun = None  # the card of a model that is made on, or once more
    if reproduce is not None or resume:
        from seqtool.checkpoint import read_card, task_of
        from seqtool.places import is_free

        place = reproduce or out or default_out(data or "")
        if reproduce is not None or not is_free(place):
            begun = read_card(place)
            task = task_of(place) if reproduce is not None or task is None else task
    if any((target, source_column, target_column, separator)):
        task = task or "translate"
    guessed = task is None and not resume and data != "-"  # a pipe tells nothing beforehand
    labelled = bool(text_column or label_column)
    task = task or guess_task(
        data or "",
        labelled=labelled,
        encoding=encoding or PairConfig.encoding,
        any_bytes=tokenizer == "byte",
    )
    kinds = TrainConfig, *chain.from_iterable(CONFIGS.values())
    known = {field.name for kind in kinds for field in fields(kind)}
    # On a terminal that shows the events too, a live view would be drawn over them.
    same = json_lines and sys.stdout is not None and sys.stdout.isatty()
    with open_console(quiet, verbose, plain=same) as console:
        from seqtool.runs import TrainRequest
        from seqtool.tasks import train as run

        settings = given(ctx, known - weaker)
        if no_attention:
            settings = settings.add({"attention": "none"}, "flag")
        request = TrainRequest(
            data=data or "",
            out=out or (Path() if reproduce else default_out(data or "")),
            valid=valid if held_out == "valid" else None,
            seconds=parse_duration(budget) if budget and length == "budget" else None,
            epochs=epochs if length == "epochs" else None,
            resume=resume,
            init_from=init_from,
            embeddings=embeddings,
            force=force,
            show_config=show_config,
            guessed=guessed,
            device=device,
            threads=threads,
            json=json_lines,
            settings=settings,
            others=given(ctx, {*ABOUT_RUN, length} - {"steps", *weaker}),
            started=STARTED,
            target=target,
            valid_target=valid_target,
        )
        if begun is not None and begun.task == "generate":
            label_column = begun.data.label_column
        made = new_task(task, labelled=bool(label_column))
        if reproduce is not None:
            from seqtool.reproducing import reproduce as repeat

            raise typer.Exit(repeat(made, reproduce, request, console))
        raise typer.Exit(run(made, request, console))
