"""The ``evaluate`` command for taggers: labels and spans found, beside what cheap methods find."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.annotator import Annotator, load_annotator
from seqtool.checkpoint import Card, event_line, load_counts
from seqtool.console import Console
from seqtool.distributed import portions, shared_out, world
from seqtool.errors import CheckpointError, DataError, SeqtoolError
from seqtool.lexicon import TokenLexicon, fold, hash_text
from seqtool.output import cell, emit
from seqtool.scorecard import (
    LEVEL,
    RESAMPLES,
    GradeRequest,
    class_lines,
    confusion_matrix,
    held_part,
    is_at_hand,
    macro_f1,
    per_class,
    warn_of_better,
)
from seqtool.spans import Found, SpanCounts
from seqtool.tagged import all_labels, numbers, read, read_split, words
from seqtool.treebank import Treebank

Array = npt.NDArray[Any]

CHUNK = 2048  # sentences tagged at once
CONFUSED = 10  # pairs of labels shown
SHOWN_WORDS = 3  # of each pair
PASSES = 5  # of the logistic regression over its training data
FEATURES = 1 << 20  # columns that its features are hashed to
SHOWN = {"most_frequent": "most frequent", "logreg": "log. regression"}


@dataclass(frozen=True)
class Gold:
    """What the data say."""

    truth: Array  # numbers of the labels of all words, (n,)
    lengths: Array  # words of the sentences, (N,)
    unseen: Array  # whether a word was never met in training, (n,)
    names: tuple[str, ...]  # of the labels
    scheme: str  # of the spans they mark

    def padded(self, labels: Array) -> Array:
        """Labels of all words as sentences, (N, T), 0 in the padding."""
        rows = np.zeros((len(self.lengths), self.lengths.max()), np.int64)
        rows[np.arange(rows.shape[1]) < self.lengths[:, None]] = labels
        return rows

    def scores(self, guess: Array) -> dict[str, float]:
        """The scores of labels (n,) under the names that ``evaluate --json`` prints."""
        right = self.truth == guess
        found = {
            "accuracy": float(right.mean()),
            "macro_f1": macro_f1(confusion_matrix(self.truth, guess, len(self.names))),
        }
        if self.unseen.any():
            found["unseen_accuracy"] = float(right[self.unseen].mean())
        if self.scheme:
            total = self.spans(guess).total()
            found |= {f"span_{name}": value for name, value in _span_scores(total).items()}
        return found

    def spans(self, guess: Array) -> SpanCounts:
        """How many of the spans labels (n,) find."""
        counts = SpanCounts(self.names)
        counts.add(self.padded(self.truth), self.padded(guess), self.lengths)
        return counts


def appraise(request: GradeRequest, console: Console) -> int:
    """Score a tagger on tagged sentences; gives the exit status.

    Raises:
        SeqtoolError: If model, data or options do not fit.
    """
    annotator, card = load_annotator(request.model)
    console.status(f"reading {request.data}")
    bank = held_part(request, card, read_split) if request.held_out else _read(request, card)
    known = len(annotator.labels)
    names = all_labels(annotator.labels, bank)
    if len(names) > known:
        console.warn(
            f"{bank.name}: label {names[known]!r} was never met in training, so it is never given; "
            "where it stands is counted as a mistake"
        )
    counts = load_counts(request.model)
    _check_counts(counts, len(annotator.labels), str(request.model))
    frequent, unseen = _most_frequent(counts, card, bank)
    lengths = np.fromiter(map(len, words(bank)), np.int64, len(bank))
    gold = Gold(numbers(bank, names), lengths, unseen, names, card.source["scheme"])
    console.status(f"tagging {len(bank):,} sentences")
    guess = _guess(annotator, bank, names)
    if not world().first:
        return 0
    low, high = bootstrap(gold.truth == guess, lengths, seed=0)
    report: dict[str, Any] = {
        "task": card.task,
        "tokens": len(guess),
        "rows": len(bank),
        "unseen_tokens": int(unseen.sum()),
        "scores": gold.scores(guess) | {"accuracy_low": low, "accuracy_high": high},
        "classes": per_class(confusion_matrix(gold.truth, guess, len(names)), [*names]),
        "baselines": {},
        "confusions": _confusions(gold, guess, bank),
    }
    if gold.scheme:
        kinds = gold.spans(guess).by_kind().items()
        report["spans"] = {kind: _span_scores(row) | {"count": row.there} for kind, row in kinds}
    if request.baselines:
        report["baselines"] = {"most_frequent": gold.scores(frequent)}
        linear = _logreg(card, bank, names, console)
        report["baselines"] |= {"logreg": gold.scores(linear)} if linear is not None else {}
    console.clear_status()
    emit(event_line(report) if request.json else _text(report))
    warn_of_better(report, SHOWN, "sentences", console)
    return 0


def bootstrap(right: Array, lengths: Array, *, seed: int) -> tuple[float, float]:
    """The interval that holds 95 % of the accuracies of resampled sentences (Efron 1979).

    Mistakes in one sentence have one cause, so that words drawn one by one would promise too much.

    Args:
        right: Whether the label of a word was found, (n,).
        lengths: Words of the sentences, (N,).
        seed: Of the draws.
    """
    found = np.add.reduceat(right.astype(np.int64), np.cumsum(lengths) - lengths)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(lengths), size=len(lengths)) for _ in range(RESAMPLES))
    means = [found[rows].sum() / lengths[rows].sum() for rows in draws]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _guess(annotator: Annotator, bank: Treebank, names: Sequence[str]) -> Array:
    """The numbers of the labels that the model gives, (n,); in the first process only."""
    number = {name: i for i, name in enumerate(names)}

    def tagged(part: slice) -> list[int]:
        answers = annotator.annotate([sentence.tokens for sentence in bank.sentences[part]])
        return [number[label] for answer in answers for label in answer.labels]

    return np.array([*chain.from_iterable(shared_out(portions(len(bank), CHUNK), tagged))])


def _check_counts(counts: dict[str, Array], labels: int, where: str) -> None:
    """See that arrays from a file give a label to each of some words.

    Raises:
        CheckpointError: If not.
    """
    known, given = (counts.get(name, np.zeros(0)) for name in ("words", "labels"))
    right = known.dtype == np.int64 and known.ndim == 1 and len(known) > 0
    right = right and given.dtype.kind in "iu" and given.shape == known.shape
    if not (right and given.min() >= 0 and given.max() < labels):
        raise CheckpointError(
            f"{where}: its most frequent labels are damaged; copy the whole model directory again"
        )


def _most_frequent(counts: dict[str, Array], card: Card, bank: Treebank) -> tuple[Array, Array]:
    """The label that each word had most often in training, and whether it was never there, (n,)."""
    tokens = chain.from_iterable(words(bank))
    hashes = np.fromiter(map(hash_text, tokens), np.int64, bank.num_tokens)
    places = np.minimum(np.searchsorted(counts["words"], hashes), len(counts["words"]) - 1)
    unseen = counts["words"][places] != hashes
    return np.where(
        unseen, np.argmax(card.source["class_counts"]), counts["labels"][places]
    ), unseen


def _read(request: GradeRequest, card: Card) -> Treebank:
    """The data, from the columns named, or else those that training used."""
    source, encoding = card.source, request.encoding or card.data.encoding
    token = request.token_column or str(source["token_column"])
    label = request.label_column or str(source["label_column"])
    bank = read(request.data, token, label, encoding)
    named = request.token_column and request.label_column
    if bank.columns.conllu != source["conllu"] and not named:
        kinds = [f"{bank.columns.width} columns", "CoNLL-U"]
        raise DataError(
            f"{request.data}: {kinds[bank.columns.conllu]}, but {request.model} was trained on "
            f"words from column {token} and labels from {label} of "
            f"{'CoNLL-U' if source['conllu'] else 'other columns'}; say where they are here with "
            "--token-column and --label-column"
        )
    return bank


def _logreg(card: Card, bank: Treebank, names: Sequence[str], console: Console) -> Array | None:
    """The labels that a logistic regression on the neighbouring words gives, (n,).

    None if the training data are not there any more.
    """
    source = card.source
    if not is_at_hand(card):
        name = source["name"]
        console.notice(f"no logistic regression: the training data are needed, {name} is not here")
        return None
    try:
        train = read_split(source["name"], source["valid"], card.data, card.train.seed).train
    except SeqtoolError as err:
        console.notice(f"no logistic regression: the training data are needed ({err})")
        return None
    if train.sha256 != source["sha256"]:
        console.notice(f"no logistic regression: {source['name']} has changed since training")
        return None
    console.status("training a logistic regression")
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier

    hasher = FeatureHasher(FEATURES, input_type="string", alternate_sign=False, dtype=np.float32)
    model = SGDClassifier("log_loss", alpha=1e-6, max_iter=PASSES, tol=None, random_state=0)
    model.fit(hasher.transform(features(train)), numbers(train, names))
    return np.asarray(model.predict(hasher.transform(features(bank))))


def features(bank: Treebank) -> Iterator[list[str]]:
    """What stands at each word and beside it: words, beginnings, ends and shape."""
    for sentence in words(bank):
        near = ["", "", *map(fold, sentence), "", ""]
        for place, word in enumerate(sentence):
            around = near[place : place + 5]
            own = [f"{offset} {other}" for offset, other in enumerate(around)]
            pairs = [f"pair {around[1]} {around[2]}", f"next {around[2]} {around[3]}"]
            yield [*own, *pairs, f"word {word}", *TokenLexicon.grams(word)]


def _span_scores(found: Found) -> dict[str, float]:
    return {"precision": found.precision, "recall": found.recall, "f1": found.f1}


def _confusions(gold: Gold, guess: Array, bank: Treebank) -> list[dict[str, Any]]:
    """The pairs of labels that are taken for each other most often, with words where they are."""
    wrong = np.flatnonzero(gold.truth != guess)
    pairs = Counter(zip(gold.truth[wrong].tolist(), guess[wrong].tolist(), strict=True))
    tokens = list(chain.from_iterable(words(bank)))
    found = []
    for (label, other), count in pairs.most_common(CONFUSED):
        rows = wrong[(gold.truth[wrong] == label) & (guess[wrong] == other)]
        common = Counter(tokens[row] for row in rows).most_common(SHOWN_WORDS)
        found.append(
            {
                "label": gold.names[label],
                "predicted": gold.names[other],
                "count": count,
                "words": [word for word, _ in common],
            }
        )
    return found


def _text(report: dict[str, Any]) -> str:
    """The report for people."""
    mine = report["scores"]
    rows = [("model", mine), *((SHOWN[n], row) for n, row in report["baselines"].items())]
    columns = {"accuracy": "accuracy", "unseen_accuracy": "unseen", "macro_f1": "macro-F1"}
    columns |= {"span_precision": "span P", "span_recall": "span R", "span_f1": "span F1"}
    columns = {key: head for key, head in columns.items() if key in mine}
    lines = [
        f"{report['rows']:,} sentences, {report['tokens']:,} words, of which "
        f"{report['unseen_tokens']:,} were never seen in training",
        "",
        f"{'':<18}" + "".join(f"{head:>10}" for head in columns.values()),
    ]
    for name, row in rows:
        lines.append(f"{name:<18}" + "".join(f"{row[key]:>10.4f}" for key in columns))
    low, high = mine["accuracy_low"], mine["accuracy_high"]
    lines += [f"accuracy of the model from {low:.4f} to {high:.4f} ({LEVEL:.0%} interval)"]
    for title, table in (("span", report.get("spans", {})), ("label", report["classes"])):
        if table:
            lines += ["", *class_lines(title, table)]
    if report["confusions"]:
        lines += ["", f"{'label':<12}{'taken for':<12}{'times':>6}  such as"]
    for row in report["confusions"]:
        head = f"{cell(row['label']):<12}{cell(row['predicted']):<12}{row['count']:>6}"
        lines.append(f"{head}  {cell(', '.join(row['words']))}")
    return "\n".join(line.rstrip() for line in lines) + "\n"
