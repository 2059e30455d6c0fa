"""The options of ``train`` for the network that learns: the settings of models of all tasks."""

from typing import Annotated

from seqtool.config import (
    POOLS,
    Attention,
    Cell,
    ClassifierConfig,
    ModelConfig,
    Nonlinearity,
    TranslatorConfig,
    Tying,
)
from seqtool.options import option

CellOption = Annotated[Cell | None, option("Kind of recurrence.", "--cell", shown=ModelConfig.cell)]
NonlinearityOption = Annotated[
    Nonlinearity | None, option("Of --cell rnn.", "--nonlinearity", shown=ModelConfig.nonlinearity)
]
HiddenSize = Annotated[int | None, option("Units of a layer.", "--hidden-size", auto=True)]
Layers = Annotated[
    int | None, option("Recurrent layers.", "--layers", shown=ModelConfig.num_layers)
]
EmbedSize = Annotated[int | None, option("Width of the embedding.", "--embed-size", auto=True)]
Dropout = Annotated[float | None, option("Units dropped per sequence.", "--dropout", auto=True)]
Tied = Annotated[
    bool | None, option("Share embedding and output weights.", "--tied/--untied", env="tied")
]
NgramOrder = Annotated[
    int | None,
    option(
        "Longest n-gram in the hashed tables, 1 = none.",
        "--ngram-order",
        shown=ModelConfig.ngram_order,
    ),
]
NgramBuckets = Annotated[int | None, option("Rows of each table.", "--ngram-buckets", auto=True)]
NgramOutput = Annotated[
    bool | None,
    option(
        "Let the tables add to the logits, not only to the input.",
        "--ngram-output/--no-ngram-output",
        env="ngram-output",
        auto=True,
    ),
]
NgramDropout = Annotated[
    float | None,
    option("Chance that a token goes without one of its n-grams.", "--ngram-dropout", auto=True),
]
BackoffOrder = Annotated[
    int | None,
    option(
        "Longest n-gram of the counts mixed into the predictions, 0 = none.",
        "--backoff-order",
        auto=True,
    ),
]
AttentionOption = Annotated[
    Attention | None,
    option(
        "translate: how a source is looked at.", "--attention", shown=TranslatorConfig.attention
    ),
]
NoAttention = Annotated[
    bool, option("translate: the decoder sees one vector of the source.", "--no-attention")
]
InputFeeding = Annotated[
    bool | None,
    option(
        "translate: the decoder also reads what it last said from; slower.",
        "--input-feeding/--no-input-feeding",
        env="input-feeding",
    ),
]
TyingOption = Annotated[
    Tying | None, option("translate: embeddings that the output shares.", "--tying", auto=True)
]
LayerNorm = Annotated[
    bool | None,
    option(
        "translate: normalise what attention and output read [default: yes].",
        "--layer-norm/--no-layer-norm",
        env="layer-norm",
    ),
]
SourceWordDropout = Annotated[
    float | None, option("translate: source words not read.", "--source-word-dropout", auto=True)
]
SubwordDropout = Annotated[
    float | None,
    option(
        "translate: BPE tokens read as their parts.",
        "--subword-dropout",
        shown=TranslatorConfig.subword_dropout,
    ),
]
ReverseSource = Annotated[
    bool | None,
    option(
        "translate: read a source from its end.",
        "--reverse-source/--no-reverse-source",
        env="reverse-source",
    ),
]
Crf = Annotated[
    bool | None,
    option(
        "tag: whether labels are chosen together, as a chain.",
        "--crf/--no-crf",
        env="crf",
        auto=True,
    ),
]
Pool = Annotated[
    str | None,
    option(
        f"classify: what is made of all steps, some of {','.join(POOLS)}.",
        "--pool",
        shown=ClassifierConfig.pool,
    ),
]
EmbedDropout = Annotated[
    float | None,
    option("classify, tag: numbers dropped from what is read.", "--embed-dropout", auto=True),
]
WordDropout = Annotated[
    float | None,
    option("classify, tag: words known by their parts alone.", "--word-dropout", auto=True),
]
LabelSmoothing = Annotated[
    float | None,
    option(
        "classify, translate: share of a target that goes to all classes or tokens.",
        "--label-smoothing",
        shown=f"{ClassifierConfig.label_smoothing:g}, {TranslatorConfig.label_smoothing:g}",
    ),
]
PartBuckets = Annotated[
    int | None, option("classify, tag: rows for the parts of words.", "--part-buckets", auto=True)
]
Members = Annotated[
    int | None,
    option(
        "classify, translate: networks whose answers are averaged [default: 1; classify: what "
        "--budget has time for, at most 2].",
        "--members",
    ),
]
