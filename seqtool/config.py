"""What a run can be told: frozen dataclasses, each default written once.

Built at the edge (``cli``), checked here in the words of the flags, saved in every model
directory. Values that depend on the budget, the data and the machine are chosen by ``plan``; the
defaults below are what holds when nothing is known.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from seqtool.errors import ConfigError

Cell = Literal["rnn", "lstm", "gru"]
Nonlinearity = Literal["tanh", "relu", "sigmoid", "stochastic"]
Optimizer = Literal["adam", "rmsprop", "sgd"]
TokenizerKind = Literal["char", "byte", "word", "bpe"]
Task = Literal["generate", "classify", "tag", "translate"]
Attention = Literal["dot", "additive", "none"]
Tying = Literal["all", "target", "none"]  # of a translator's embeddings and output
# What a classifier reads one by one; row: of an image.
Unit = Literal["word", "char", "byte", "bpe", "row"]
Steps = Literal["row", "pixel", "block"]  # of an image, from the top left; a block is 2 x 2 pixels
POOLS = ("max", "mean", "last", "attention")  # ways to make one vector of a sequence
OnUnknown = Literal["error", "skip", "replace", "nearest"]
# Of a source: what is read as unknown is a vector that training has hardly, or never, moved.
UNSEEN: OnUnknown = "nearest"
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "int8"]

GATES: dict[str, int] = {"rnn": 1, "gru": 3, "lstm": 4}  # blocks of H rows in a cell's weights

# A table of logits for more tokens than this would be larger than the rest of a new model.
NGRAM_LOGITS_VOCABULARY = 512

MOST_MEMBERS = 64  # networks that answer together; the tenth already adds next to nothing
MOST_LAYERS = 1000  # far more than anyone trains; a damaged card could ask for any number

ConfigT = TypeVar("ConfigT")


def _check(condition: bool, flag: str, value: object, needed: str) -> None:
    if not condition:
        raise ConfigError(f"{flag} must be {needed}, got {value}")


def _check_choice(flag: str, value: str, choices: Any) -> None:
    names = get_args(choices)
    _check(value in names, flag, value, "one of " + ", ".join(names))


def _check_cell(cell: Cell, nonlinearity: Nonlinearity) -> None:
    _check_choice("--cell", cell, Cell)
    _check_choice("--nonlinearity", nonlinearity, Nonlinearity)
    if cell != "rnn" and nonlinearity != "tanh":
        raise ConfigError(f"--nonlinearity {nonlinearity} needs --cell rnn, got --cell {cell}")


def _check_members(members: int) -> None:
    _check(1 <= members <= MOST_MEMBERS, "--members", members, f"from 1 to {MOST_MEMBERS}")


def _check_layers(value: int) -> None:
    _check(1 <= value <= MOST_LAYERS, "--layers", value, f"from 1 to {MOST_LAYERS}")


def _check_size(flag: str, value: int, least: int) -> None:
    _check(value >= least, flag, value, f"at least {least}")
    _check(value < 2**31, flag, value, "below 2147483648")  # a tensor's shape must hold it


def _check_vocabulary(value: int) -> None:
    why = "256 of the entries are the bytes; --tokenizer char and byte do not use it"
    _check(value >= 300, "--vocab-size", value, f"at least 300 ({why})")
    _check_size("--vocab-size", value, 300)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a recurrent model. Saved in every model directory."""

    cell: Cell = "lstm"
    nonlinearity: Nonlinearity = "tanh"  # of the simple RNN; LSTM and GRU have their own
    hidden_size: int = 512
    num_layers: int = 1
    embed_size: int = 64
    dropout: float = 0.0  # one mask per sequence and chunk, on the output of every layer
    ngram_order: int = 5  # hashed tables of the last 2..n tokens feed input and output, 1 = off
    ngram_buckets: int = 16384  # rows of each table
    # The tables add to the logits too; None, as in models saved before this was: if V is small.
    ngram_output: bool | None = None
    ngram_dropout: float = 0.0  # chance that a token goes without one of its n-grams in training
    backoff_order: int = 0  # longest n-gram of the counts mixed into the predictions, 0 = none
    tied: bool = False  # the output layer shares the embedding matrix; needs embed = hidden size

    def __post_init__(self) -> None:
        _check_cell(self.cell, self.nonlinearity)
        _check_size("--hidden-size", self.hidden_size, 1)
        _check_layers(self.num_layers)
        _check_size("--embed-size", self.embed_size, 1)
        _check(0 <= self.dropout < 1, "--dropout", self.dropout, "at least 0 and below 1")
        _check(1 <= self.ngram_order <= 8, "--ngram-order", self.ngram_order, "from 1 (off) to 8")
        longest = self.backoff_order
        _check(0 <= longest <= 16, "--backoff-order", longest, "from 0 (off) to 16")
        _check_size("--ngram-buckets", self.ngram_buckets, 2)
        drop = self.ngram_dropout
        _check(0 <= drop < 1, "--ngram-dropout", drop, "at least 0 and below 1")
        if self.tied and self.embed_size != self.hidden_size:
            raise ConfigError(
                f"--tied needs --embed-size equal to --hidden-size, got {self.embed_size} "
                f"and {self.hidden_size}"
            )

    def ngram_logits(self, vocab_size: int) -> bool:
        """Whether the n-gram tables also add to the logits, not only to the input."""
        if self.ngram_order == 1:
            return False
        if self.ngram_output is None:
            return vocab_size <= NGRAM_LOGITS_VOCABULARY
        return self.ngram_output


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How text becomes ids and which part is held out. Saved in every model directory."""

    tokenizer: TokenizerKind = "char"
    vocab_size: int = 8000  # at most this many entries; word and bpe only
    valid_fraction: float = 0.1  # the end of the text, cut off before training
    encoding: str = "utf-8"
    text_column: str = ""  # of texts that begin with a label; "" = guessed
    label_column: str = ""  # "" = the text has no labels

    def __post_init__(self) -> None:
        _check_choice("--tokenizer", self.tokenizer, TokenizerKind)
        _check_vocabulary(self.vocab_size)
        fraction = self.valid_fraction
        _check(0 <= fraction <= 0.5, "--valid-fraction", fraction, "from 0 to 0.5")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Saved in every model directory."""

    steps: int = 1000  # updates in all; the schedule lands on its floor at the last
    batch_size: int = 16  # streams or sequences side by side; of a translator, tokens
    bptt: int = 64  # time steps per update; gradients stop at this distance
    # Where the length of the run was changed while the rate fell: update, and length until then.
    bends: tuple[tuple[int, int], ...] = ()
    lr: float = 4e-3  # peak learning rate
    lr_floor: float = 0.0  # last learning rate as a fraction of the peak
    warmup: int = 50  # updates over which the learning rate rises
    decay: float = 0.5  # fraction of the run, at its end, over which it falls
    optimizer: Optimizer = "adam"
    momentum: float = 0.9  # sgd's momentum, adam's first beta
    beta2: float = 0.99  # adam's second beta, rmsprop's smoothing
    weight_decay: float = 0.01  # decoupled, on matrices only
    clip_norm: float = 1.0  # limit on the global gradient norm, 0 = off
    clip_value: float = 0.0  # limit on each gradient entry, 0 = off
    table_lr: float = 0.1  # peak learning rate of the n-gram tables
    average: int = 100  # horizon of the weight average in updates at peak rate, 0 = off
    restart: float = 0.04  # chance per chunk that a stream starts afresh from the zero state
    report_every: int = 10  # updates between two lines of progress
    eval_every: int = 100  # updates between two looks at the validation text
    eval_tokens: int = 100_000  # how much of it each look reads, at most
    sample_every: int = 0  # updates between two samples, 0 = at each evaluation
    # Evaluations without a better one before the run stops. 0 = never: the schedule counts on all
    # its steps, the last ones bring the most, and the best model is kept in any case.
    patience: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        _check_choice("--optimizer", self.optimizer, Optimizer)
        for flag in ("steps", "batch_size", "bptt", "report_every", "eval_every", "eval_tokens"):
            name = "--" + flag.replace("_", "-")
            _check(getattr(self, flag) >= 1, name, getattr(self, flag), "at least 1")
        for flag in ("warmup", "sample_every", "patience", "seed", "average"):
            name = "--" + flag.replace("_", "-")
            _check(getattr(self, flag) >= 0, name, getattr(self, flag), "at least 0")
        if any(len(bend) != 2 or {*map(type, bend)} != {int} for bend in self.bends):
            raise ConfigError(f"bends must be pairs of update and length, got {self.bends}")
        _check(0 < self.lr < float("inf"), "--lr", self.lr, "above 0")
        _check(0 <= self.lr_floor <= 1, "--lr-floor", self.lr_floor, "from 0 to 1")
        _check(0 <= self.decay <= 1, "--decay", self.decay, "from 0 to 1")
        _check(0 <= self.momentum < 1, "--momentum", self.momentum, "at least 0 and below 1")
        _check(0 <= self.beta2 < 1, "--beta2", self.beta2, "at least 0 and below 1")
        _check(self.weight_decay >= 0, "--weight-decay", self.weight_decay, "at least 0")
        _check(self.clip_norm >= 0, "--clip-norm", self.clip_norm, "at least 0 (0 = off)")
        _check(self.clip_value >= 0, "--clip-value", self.clip_value, "at least 0 (0 = off)")
        _check(0 < self.table_lr < float("inf"), "--table-lr", self.table_lr, "above 0")
        _check(0 <= self.restart <= 1, "--restart", self.restart, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How the next token is chosen from the model's distribution."""

    temperature: float = 0.8  # below 1 safer, above 1 wilder
    top_k: int = 0  # only the k likeliest tokens, 0 = all
    top_p: float = 1.0  # only the likeliest tokens that hold this much probability
    min_p: float = 0.0  # only tokens at least this likely, relative to the likeliest
    greedy: bool = False  # always the likeliest token
    length: int = 500  # tokens to write
    num: int = 1  # texts to write
    max_copy: int = 0  # longest run that may be shared with the training text, 0 = no limit
    seed: int = 1

    def __post_init__(self) -> None:
        _check(0 < self.temperature < float("inf"), "--temperature", self.temperature, "above 0")
        _check(self.top_k >= 0, "--top-k", self.top_k, "at least 0 (0 = all)")
        _check(0 < self.top_p <= 1, "--top-p", self.top_p, "above 0 and at most 1")
        _check(0 <= self.min_p <= 1, "--min-p", self.min_p, "from 0 to 1")
        _check(self.length >= 0, "--length", self.length, "at least 0")
        _check(self.num >= 1, "--num", self.num, "at least 1")
        _check(self.max_copy >= 0, "--max-copy", self.max_copy, "at least 0 (0 = no limit)")
        _check(self.seed >= 0, "--seed", self.seed, "at least 0")


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """How a translation is searched for."""

    beam_size: int = 5  # hypotheses of a sentence that are kept, 1 = greedy
    length_penalty: float = 1.0  # sums of log-probs are divided by length to this power
    n_best: int = 1  # translations of a sentence that are wanted
    max_length: int = 0  # tokens of a translation at most, 0 = from the length of the source

    def __post_init__(self) -> None:
        _check(self.beam_size >= 1, "--beam-size", self.beam_size, "at least 1")
        penalty = self.length_penalty
        _check(0 <= penalty < float("inf"), "--length-penalty", penalty, "at least 0")
        _check(self.n_best >= 1, "--n-best", self.n_best, "at least 1")
        needed = f"at most --beam-size, {self.beam_size}"
        _check(self.n_best <= self.beam_size, "--n-best", self.n_best, needed)
        _check(self.max_length >= 0, "--max-length", self.max_length, "at least 0 (0 = chosen)")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The shape of a classifier and what keeps it from learning its data by heart."""

    cell: Cell = "lstm"
    nonlinearity: Nonlinearity = "tanh"
    hidden_size: int = 128  # in each direction
    num_layers: int = 1
    embed_size: int = 100
    dropout: float = 0.5  # one mask per sequence, on the output of every layer
    embed_dropout: float = 0.5  # of each number that the recurrent layers read
    word_dropout: float = 0.2  # chance that a word is known by its parts alone, for a batch
    label_smoothing: float = 0.0  # share of the target that goes to all classes alike
    part_buckets: int = 16384  # rows for the character n-grams inside words, 0 = none
    ngram_order: int = 2  # longest n-gram of the linear classifier beside, 0 = none
    pool: str = "max,mean,last"  # what is made of the outputs of all steps; some of POOLS
    # Hashed tables of the last 2..n tokens that feed the input, 1 = off: a language model's, kept.
    table_order: int = 1
    table_buckets: int = 16384  # rows of each
    members: int = 1  # networks that learn side by side and whose logits are averaged

    def __post_init__(self) -> None:
        _check_reader(self)
        _check_members(self.members)
        smooth = self.label_smoothing
        _check(0 <= smooth < 1, "--label-smoothing", smooth, "at least 0 and below 1")
        _check(0 <= self.ngram_order <= 8, "--ngram-order", self.ngram_order, "from 0 (off) to 8")
        pools = self.pools
        known = bool(pools) and set(pools) <= {*POOLS} and len({*pools}) == len(pools)
        _check(known, "--pool", self.pool, f"some of {','.join(POOLS)} with commas between")

    @property
    def pools(self) -> tuple[str, ...]:
        """Ways of pooling, in the order in which their vectors stand side by side."""
        return tuple(self.pool.split(","))


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How labelled texts become sequences and which of them are held out."""

    tokenizer: Unit = "word"  # what an element of a sequence is
    by: Steps = "row"  # what an element of an image is
    multi_label: bool = False  # whether any number of labels may be right at once
    lower: bool = True  # whether case is ignored
    vocab_size: int = 50_000  # at most this many words get a vector of their own
    max_length: int = 400  # elements of a sequence that are read: its beginning and its end
    text_column: str = ""  # several, as for pairs of texts, with commas between; "" = guessed
    label_column: str = ""
    image_size: str = ""  # "28x28"; "" = the commonest, at most 64 a side
    skip_bad: bool = False  # leave out images that cannot be read
    class_weights: str = ""  # "balanced", or how much a class counts: "spam=5,ham=1"
    valid_fraction: float = 0.1  # of each class
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        _check_choice("--tokenizer", self.tokenizer, Unit)
        _check_choice("--by", self.by, Steps)
        _check(self.vocab_size >= 1, "--vocab-size", self.vocab_size, "at least 1")
        _check(self.max_length >= 1, "--max-length", self.max_length, "at least 1")
        fraction = self.valid_fraction
        _check(0 <= fraction <= 0.5, "--valid-fraction", fraction, "from 0 to 0.5")


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """The shape of an encoder-decoder and what keeps it from learning its data by heart."""

    cell: Cell = "lstm"
    nonlinearity: Nonlinearity = "tanh"
    hidden_size: int = 256  # of the decoder, and of the encoder in each direction
    num_layers: int = 1  # of the encoder, and of the decoder above its attention
    embed_size: int = 256
    attention: Attention = "dot"  # "none": the decoder sees one vector of the source
    input_feeding: bool = False  # the decoder also reads what it last said from; slower
    # What shares a matrix: both embeddings and the output ("all", needs one vocabulary), or the
    # last two of the three.
    tying: Tying = "all"
    layer_norm: bool = True  # of what the attention reads and of what the output layer reads
    dropout: float = 0.3  # one mask per sequence, on embeddings and the output of every layer
    source_word_dropout: float = 0.1  # chance that a source token reads as nothing, for a batch
    subword_dropout: float = 0.0  # chance that a token of BPE is read and learned as its two parts
    label_smoothing: float = 0.1  # share of the target that goes to all tokens alike
    reverse_source: bool = False  # the source is read from its end
    members: int = 1  # networks that learn side by side and whose logits are averaged

    def __post_init__(self) -> None:
        _check_cell(self.cell, self.nonlinearity)
        _check_choice("--attention", self.attention, Attention)
        _check_choice("--tying", self.tying, Tying)
        _check_size("--hidden-size", self.hidden_size, 1)
        _check_layers(self.num_layers)
        _check_members(self.members)
        _check_size("--embed-size", self.embed_size, 1)
        for flag in ("dropout", "source_word_dropout", "subword_dropout", "label_smoothing"):
            value = getattr(self, flag)
            _check(0 <= value < 1, "--" + flag.replace("_", "-"), value, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How pairs of texts become sequences and which of them are held out."""

    tokenizer: TokenizerKind = "bpe"  # of the source, and of the target unless that has its own
    target_tokenizer: TokenizerKind | None = None  # None = as the source
    joint: bool = True  # one vocabulary for both sides; only if both have the same tokenizer
    vocab_size: int = 4000  # of each vocabulary, at most; word and bpe only
    max_length: int = 200  # tokens of a side; longer pairs are left out of training
    source_column: str = ""  # "" = guessed
    target_column: str = ""  # several, each a right answer, with commas between; "" = guessed
    separator: str = ""  # between several right answers in one cell; "" = there is but one
    image_height: int = 0  # of sources that are images; 0 = the commonest, at most 32
    skip_bad: bool = False  # leave out images that cannot be read
    valid_fraction: float | None = None  # None = chosen from the number of pairs
    encoding: str = "utf-8"
    target_encoding: str = ""  # of the file of targets, if it is another one

    def __post_init__(self) -> None:
        _check_choice("--tokenizer", self.tokenizer, TokenizerKind)
        if self.target_tokenizer is not None:
            _check_choice("--target-tokenizer", self.target_tokenizer, TokenizerKind)
        _check_vocabulary(self.vocab_size)
        _check(self.max_length >= 1, "--max-length", self.max_length, "at least 1")
        height = self.image_height
        _check(height >= 0, "--image-height", height, "at least 0 (0 = chosen)")
        if self.valid_fraction is not None:
            fraction = self.valid_fraction
            _check(0 <= fraction <= 0.5, "--valid-fraction", fraction, "from 0 to 0.5")
        if self.joint and self.target_tokenizer not in (None, self.tokenizer):
            raise ConfigError(
                f"--joint needs one tokenizer for both sides, got {self.tokenizer} and "
                f"{self.target_tokenizer}; use --separate"
            )


@dataclass(frozen=True, kw_only=True)
class TaggerConfig:
    """The shape of a tagger and what keeps it from learning its data by heart."""

    cell: Cell = "lstm"
    nonlinearity: Nonlinearity = "tanh"
    hidden_size: int = 128  # in each direction
    num_layers: int = 1
    embed_size: int = 100
    dropout: float = 0.5  # one mask per sentence, on the output of every layer
    embed_dropout: float = 0.3  # of each number that the recurrent layers read
    word_dropout: float = 0.2  # chance that a word is known by its parts alone, for a batch
    part_buckets: int = 32768  # rows for the beginnings, ends and shapes of words, 0 = none
    crf: bool = False  # whether labels are chosen together, as a chain

    def __post_init__(self) -> None:
        _check_reader(self)


@dataclass(frozen=True, kw_only=True)
class TreebankConfig:
    """How a file of tagged sentences is read and which of them are held out."""

    token_column: str = ""  # its name in CoNLL-U or its number from 1; "" = guessed
    label_column: str = ""
    vocab_size: int = 50_000  # at most this many words get a vector of their own
    valid_fraction: float = 0.1  # of the sentences
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        _check(self.vocab_size >= 1, "--vocab-size", self.vocab_size, "at least 1")
        fraction = self.valid_fraction
        _check(0 <= fraction <= 0.5, "--valid-fraction", fraction, "from 0 to 0.5")


def _check_reader(config: "ClassifierConfig | TaggerConfig") -> None:
    """See that what reads words in both directions can be built."""
    _check_cell(config.cell, config.nonlinearity)
    _check_layers(config.num_layers)
    for flag in ("hidden_size", "embed_size"):
        _check_size("--" + flag.replace("_", "-"), getattr(config, flag), 1)
    for flag in ("dropout", "embed_dropout", "word_dropout"):
        value = getattr(config, flag)
        _check(0 <= value < 1, "--" + flag.replace("_", "-"), value, "at least 0 and below 1")
    buckets = config.part_buckets
    _check(buckets >= 0, "--part-buckets", buckets, "at least 0 (0 = none)")


# What describes a model of each task and its data.
CONFIGS: dict[str, tuple[type, type]] = {
    "generate": (ModelConfig, DataConfig),
    "classify": (ClassifierConfig, LabelConfig),
    "tag": (TaggerConfig, TreebankConfig),
    "translate": (TranslatorConfig, PairConfig),
}


def from_dict(kind: type[ConfigT], values: object, where: str) -> ConfigT:
    """Build a config, or another dataclass of plain values, from saved values, strictly.

    Raises:
        ConfigError: If they are no settings by name, a name is unknown, or a value has the wrong
            type or range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold settings by name, got {values!r}")
    known = get_type_hints(kind)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"{where}: unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    for name, value in values.items():
        if wanted := needed(value, known[name]):
            raise ConfigError(f"{where}: {name} must be {wanted}, got {value!r}")
    # JSON has lists only.
    return kind(**{n: tuple(map(tuple, v)) if n == "bends" else v for n, v in values.items()})


def needed(value: object, hint: Any) -> str:
    """What a value from a file should have been for an annotation, "" if it is that.

    Stricter than Python and typer: neither 1.0 nor true nor "1" is the whole number 1.
    """
    if hint is Any:
        return ""
    if type(None) in get_args(hint):
        if value is None:
            return ""
        hint = get_args(hint)[0]
    kind = get_origin(hint) or hint
    text = ("one text in quotes", str)
    kinds: dict[Any, tuple[str, Any]] = {
        bool: ("true or false", bool),
        int: ("a whole number", int),
        float: ("a number", (int, float)),
        str: text,
        Literal: text,
        tuple: ("a list", (list, tuple)),
    }
    words, types = kinds.get(kind, (f"a {kind.__name__}", kind))
    right = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
    return "" if right else words
