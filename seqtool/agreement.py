"""Whether the compiled loops compute what PyTorch does with the same weights, up to rounding."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.checkpoint import load, task_of

Array = npt.NDArray[Any]
Twice = tuple[Array, Array]  # the same numbers by the compiled loops and by PyTorch

TOLERANCE = 1e-4  # of the largest number; float32 sums in another order stay far below
STEPS = 20  # tokens written
IMAGES = 5


def agrees(model: Path, texts: Sequence[str]) -> bool:
    """Whether both ways to compute a model give the same.

    Units drawn by chance have no compiled loops and never give the same twice: they agree.

    Args:
        model: Its directory, of any task.
        texts: What it reads; images are drawn instead for one that reads these.

    Raises:
        SeqtoolError: If the model cannot be used.
    """
    ways: dict[str, Callable[[Path, Sequence[str]], Iterator[Twice]]] = {
        "generate": _language,
        "classify": _classifier,
        "tag": _tagger,
        "translate": _translator,
    }
    return all(_close(*twice) for twice in ways[task_of(model)](model, texts))


def _close(ours: Array, theirs: Array) -> bool:
    largest = max(1.0, float(np.abs(theirs).max(initial=0)))
    return bool(np.abs(ours - theirs).max(initial=0) <= TOLERANCE * largest)


def _language(path: Path, texts: Sequence[str]) -> Iterator[Twice]:
    """Logits of tokens one by one, without the counts that are mixed in."""
    from seqtool.engine import build_engine
    from seqtool.models import Stepper, build_model

    saved = load(path, "generate")
    card = saved.card
    if card.model.nonlinearity == "stochastic":
        return
    engine = build_engine(card.model, card.vocab_size, saved.weights)
    model = build_model(card.model, card.vocab_size, unknown_id=None, weights=saved.weights)
    network = Stepper(model)
    ours, theirs = engine.init_state(2), network.init_state(2)
    for step in range(STEPS):
        ids = np.array([step, 7 * step + 3]) % card.vocab_size
        logits, ours = engine.step(ids, ours)
        others, theirs = network.step(ids, theirs)
        yield logits, others


def _classifier(path: Path, texts: Sequence[str]) -> Iterator[Twice]:
    """Logits of texts or images, without the n-grams that are weighed in."""
    import torch

    from seqtool.classifier import build_classifier
    from seqtool.judge import ImageJudge, image_width, load_judge
    from seqtool.judging import ImageSequences, Sequences, TextSequences

    judge, card = load_judge(path)
    classes, weights = len(card.source["classes"]), load(path).weights
    inputs: Sequences
    if isinstance(judge, ImageJudge):
        shape = card.source["image_shape"]
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), np.uint8)
        ours = judge.opinions(pixels)[0]
        inputs = ImageSequences(pixels, judge.by, judge.mean, judge.deviation)
        networks = build_classifier(card.model, classes, width=image_width(card), weights=weights)
    else:
        ours = judge.opinions(texts)[0]
        rows = judge.lexicon.encode(texts).cut(judge.max_length)
        inputs = TextSequences(rows, judge.lexicon.table)
        networks = build_classifier(
            card.model, classes, vocab_size=card.vocab_size, weights=weights
        )
    lengths = torch.from_numpy(inputs.lengths)
    with torch.inference_mode():
        batch = inputs.batch(np.arange(len(ours)))
        yield ours, np.mean([network(batch, lengths).numpy() for network in networks], axis=0)


def _tagger(path: Path, texts: Sequence[str]) -> Iterator[Twice]:
    """Scores of the labels at each word, before the best sequence is searched."""
    import torch

    from seqtool.annotator import load_annotator
    from seqtool.judging import TextSequences
    from seqtool.models import load_arrays
    from seqtool.tagger import Tagger

    annotator, card = load_annotator(path)
    network = Tagger(card.model, len(annotator.labels), vocab_size=card.vocab_size).eval()
    with torch.inference_mode():
        load_arrays(network, load(path).weights)
    sentences = [text.split() for text in texts if text.split()]
    inputs = TextSequences(annotator.lexicon.encode_words(sentences), annotator.lexicon.table)
    with torch.inference_mode():
        scores = network(
            inputs.batch(np.arange(len(sentences))), torch.from_numpy(inputs.lengths)
        ).numpy()
    for rows, found, lengths in annotator.emissions(sentences):
        for row, ours, length in zip(rows, found, lengths, strict=True):
            yield ours[:length], scores[row, :length]


def _translator(path: Path, texts: Sequence[str]) -> Iterator[Twice]:
    """Logits of target tokens one by one, all sources side by side."""
    from seqtool.encdec import EncDecStepper, build_translators
    from seqtool.ensemble import Ensemble, joined
    from seqtool.translation import load_translator

    made = load_translator(path)
    source, target = made.spelling.source, made.spelling.target
    sources: list[Array]
    if source is not None:
        size, unknown = source.vocab_size, source.unknown_id
        sources = [source.encode(text)[: made.limit] for text in texts]
    else:
        assert made.scanner is not None, "load_translator has seen to it"
        size, unknown = made.scanner.width, None
        rng = np.random.default_rng(0)
        sources = [rng.standard_normal((4 + n, size), np.float32) for n in range(IMAGES)]
    networks = build_translators(
        made.card.model,
        size,
        target.vocab_size,
        source_unknown=unknown,
        pictures=source is None,
        weights=load(path).weights,
    )
    steppers = [*map(EncDecStepper, networks)]
    reading, stepper = made.translator.read(sources), Ensemble(steppers)
    lengths = np.array([len(ids) + 1 for ids in sources])
    # The boundary is 0, like the column that ends a picture.
    kind = np.int64 if source is not None else np.float32
    padded = np.zeros((len(sources), lengths.max(), *sources[0].shape[1:]), kind)
    for row, ids in zip(padded, sources, strict=True):
        row[: len(ids)] = ids[::-1] if made.card.model.reverse_source else ids
    ours, theirs = reading.state, joined(one.encode(padded, lengths) for one in steppers)
    for step in range(STEPS):
        ids = np.full(len(sources), 7 * step % target.vocab_size)  # the boundary first
        logits, ours = reading.step(ids, ours)
        others, theirs = stepper.step(ids, theirs)
        yield logits, others
