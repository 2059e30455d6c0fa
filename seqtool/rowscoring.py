"""``evaluate`` for a model that writes for labels: each text given its label, and the reverse.

A text is scored from the zero state, its end included. How likely it is under every label tells
which label made it (Bayes' rule), so the writer is a classifier too.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.backoff import NGram
from seqtool.checkpoint import Saved, event_line, load, load_text
from seqtool.console import Console
from seqtool.decode import Reader, Steppable
from seqtool.distributed import portions, shared_out, world
from seqtool.engine import build_engine
from seqtool.errors import ConfigError, DataError
from seqtool.labelled import numbered, read_like, read_split, strings
from seqtool.lexicon import Texts
from seqtool.output import emit
from seqtool.resampling import ratio_interval
from seqtool.rowtexts import as_labelled, as_table, spell
from seqtool.scorecard import GradeRequest, held_part
from seqtool.scoring import SPELLING_NATS, ScoreRequest
from seqtool.shapes import check_weights, language_shapes
from seqtool.surprisal import negative_log_likelihood
from seqtool.tables import Table
from seqtool.tokenizer import START_ID, Tokenizer
from seqtool.units import scores

Array = npt.NDArray[Any]

CHUNK = 4096  # texts scored at once
ORDER = 6  # longest n-gram of the baseline
MOST_READ = 2_000_000  # tokens under all labels together: a minute or so


def evaluate_rows(request: ScoreRequest, console: Console) -> int:
    """Score labelled texts; gives the exit status.

    Raises:
        SeqtoolError: If model, data or options do not fit.
    """
    _check(request)
    saved = load(request.model, "generate")
    card = saved.card
    classes: list[str] = card.source["classes"]
    size = card.text_vocab_size
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.model), size=size)
    check_weights(saved.weights, language_shapes(card.model, card.vocab_size), str(request.model))
    console.status(f"reading {request.data}")
    table = _read(request, saved)
    truth = numbered(table, classes)
    texts = list(strings(table))
    rows = spell(texts, truth, tokenizer)
    engine = build_engine(
        card.model,
        card.vocab_size,
        saved.weights,
        precision=request.precision,
        threads=request.threads,
        announce=console.compiling,
    )
    sizes = {
        "num_tokens": int(rows.lengths.sum()),
        "num_chars": sum(map(len, texts)),
        "num_bytes": sum(len(text.encode("utf-8", "surrogateescape")) for text in texts),
    }
    if not sizes["num_chars"]:
        raise DataError(f"{table.name}: no text to score")
    console.status(f"scoring {len(rows)} texts")
    every = sizes["num_tokens"] * len(classes) <= MOST_READ

    def cost(part: slice) -> Array:
        some, labels = rows.select(np.arange(len(rows))[part]), truth[part]
        own = row_nll(engine, some, tokenizer)
        return _under_all(engine, some, own, labels, tokenizer, len(classes)) if every else own

    found = [*shared_out(portions(len(rows), CHUNK), cost)]
    if not world().first:
        return 0
    costs = np.concatenate(found)  # (N, C), or (N,) of the right labels only
    own = costs[np.arange(len(rows)), truth] if every else costs
    report: dict[str, Any] = {
        "task": card.task,
        "tokens": sizes["num_tokens"],
        "characters": sizes["num_chars"],
        "bytes": sizes["num_bytes"],
        "rows": len(rows),
        "scores": scores(float(own.sum()), **sizes),
        "baselines": {},
    }
    if request.baselines:
        report["baselines"] = _baselines(request, rows, tokenizer, card.vocab_size, sizes, console)
    if every:
        report["labels"] = _told(costs, truth, np.array(card.source["class_counts"], float))
    else:
        console.notice("too much text to see which label makes each likeliest: left out")
    console.clear_status()
    emit(event_line(report) if request.json else _text(report, len(classes)))
    return 0


def _check(request: ScoreRequest) -> None:
    """Refuse what has no meaning for rows."""
    given = {
        "--per-token": request.per_token,
        "--dynamic": request.dynamic,
        "--compare": request.compare,
        "--state": request.state,
        "--save-state": request.save_state,
        f"--device {request.device}": request.device not in ("auto", "cpu"),
    }
    for flag, value in given.items():
        if value:
            raise ConfigError(f"{flag}: not for texts that begin with a label; leave it out")


def row_nll(model: Steppable, rows: Texts, tokenizer: Tokenizer) -> Array:
    """Negative log-likelihood of rows given their labels, ends included, (N,), in nats."""
    found = np.empty(len(rows))
    for row, (begin, end) in enumerate(zip(rows.offsets[:-1], rows.offsets[1:], strict=True)):
        ids = rows.words[begin:end].astype(np.int64)
        targets = np.append(ids[1:], START_ID)
        state = model.init_state(1)
        if isinstance(model, Reader):
            logits, _ = model.read(ids, state, all_logits=True)
        else:
            steps = []
            for token in ids:
                one, state = model.step(np.array([token]), state)
                steps.append(one)
            logits = np.concatenate(steps)
        nll = negative_log_likelihood(logits, targets).sum()
        found[row] = nll + _spelling(targets, tokenizer)
    return found


def _under_all(
    model: Steppable, rows: Texts, own: Array, truth: Array, tokenizer: Tokenizer, classes: int
) -> Array:
    """Negative log-likelihood of each row under every label, (N, C)."""
    under = np.empty((len(rows), classes))
    ids = np.arange(classes) + tokenizer.vocab_size
    for label in range(classes):
        others = np.flatnonzero(truth != label)
        turned = rows.select(others)
        turned.words[turned.offsets[:-1]] = ids[label]
        under[others, label] = row_nll(model, turned, tokenizer)
        under[truth == label, label] = own[truth == label]
    return under


def _told(under: Array, truth: Array, counts: Array) -> dict[str, float]:
    """How often the label that explains a text best is the right one."""
    posterior = np.log(counts / counts.sum()) - under
    right = posterior.argmax(axis=1) == truth
    low, high = ratio_interval(right, np.ones(len(right)))
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "majority": float((truth == counts.argmax()).mean()),
    }


def _read(request: ScoreRequest, saved: Saved) -> Table:
    """The data, in the columns that training used, or what of them was held out."""
    card = replace(saved.card, data=as_labelled(saved.card.data))
    if not request.held_out:
        return as_table(read_like(request.data, card, request.encoding or card.data.encoding))
    grading = GradeRequest(
        model=request.model,
        data=request.data,
        held_out=True,
        baselines=request.baselines,
        encoding=request.encoding,
        compare=None,
        json=request.json,
    )
    return as_table(held_part(grading, card, read_split))


def _baselines(
    request: ScoreRequest,
    rows: Texts,
    tokenizer: Tokenizer,
    vocab_size: int,
    sizes: dict[str, int],
    console: Console,
) -> dict[str, dict[str, float]]:
    """An n-gram model that knows the label as long as it knows the beginning of the text."""
    ids = load_text(request.model)
    if ids is None:
        console.notice(f"{request.model} does not hold its training text: no baselines")
        return {}
    console.status("counting n-grams of the training text")
    known = np.split(ids.astype(np.int64), np.flatnonzero(ids == START_ID))[1:]
    text = np.concatenate([_with_context(row[1:]) for row in known])
    ngram = NGram(text, vocab_size, order=ORDER)
    total = 0.0
    for begin, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        row = _with_context(rows.words[begin:end])
        context, targets = row[: ORDER - 1], row[ORDER - 1 :]
        total += float(ngram.nll(targets, context).sum()) + _spelling(targets, tokenizer)
    return {"ngram": scores(total, **sizes)}


def _with_context(row: Array) -> Array:
    """A row with its label as often as a context is long, and with its end.

    So the label is in the context of the first tokens, and the counts there are not those of what
    can stand before it, of which there is but one thing.
    """
    return np.concatenate([np.repeat(row[:1], ORDER - 1), row[1:], [START_ID]])


def _spelling(targets: Array, tokenizer: Tokenizer) -> float:
    """What it costs besides to name the characters that are unknown, in nats."""
    unknown = tokenizer.unknown_id
    return 0.0 if unknown is None else SPELLING_NATS * int((targets == unknown).sum())


def _text(report: dict[str, Any], classes: int) -> str:
    """The report for people."""
    columns = ["nats_per_token", "perplexity", "bits_per_char", "bits_per_byte"]
    heads = ["nats/token", "perplexity", "bits/char", "bits/byte"]
    lines = [f"{report['rows']} texts given their labels, {report['tokens']} tokens with the ends"]
    lines.append(f"{'':<16}" + "".join(f"{head:>12}" for head in heads))
    named = {"model": report["scores"], **report["baselines"]}
    for key, values in named.items():
        name = key.replace("ngram", "n-gram model")
        lines.append(f"{name:<16}" + "".join(f"{values[column]:>12.4f}" for column in columns))
    if told := report.get("labels"):
        lines.append(
            f"the likeliest of {classes} labels is the right one for {told['accuracy']:.4f} of the "
            f"texts ({told['accuracy_low']:.4f} to {told['accuracy_high']:.4f}); the commonest "
            f"label for {told['majority']:.4f}"
        )
    return "\n".join(lines) + "\n"
