"""The ``evaluate`` command for classifiers: how often they are right, beside cheap methods."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.calibration import calibration_error, nll
from seqtool.checkpoint import Card, event_line
from seqtool.comparing import compare_right
from seqtool.console import Console
from seqtool.distributed import portions, shared_out, world
from seqtool.errors import ConfigError, SeqtoolError
from seqtool.images import Images
from seqtool.judge import ImageJudge, TextJudge, load_judge, sure
from seqtool.labelled import Data, numbered, read_like, read_split, strings
from seqtool.labelsets import HALF, Powers, label_counts, label_scores, probabilities
from seqtool.output import cell, emit
from seqtool.scorecard import (
    LEVEL,
    RESAMPLES,
    GradeRequest,
    class_lines,
    confusion_matrix,
    first_width,
    held_part,
    is_at_hand,
    macro_f1,
    per_class,
    warn_of_better,
)

Array = npt.NDArray[Any]

CHUNK = 2048  # texts judged at once
WORST = 10  # mistakes shown
SHOWN_TEXT = 100  # characters of one
SHOWN = {
    "majority": "majority",
    "nb_linear": "n-gram linear",
    "tfidf_logreg": "TF-IDF + log. reg.",
}


def grade(request: GradeRequest, console: Console) -> int:
    """Score a classifier on labelled texts; gives the exit status.

    Raises:
        SeqtoolError: If model, data or options do not fit.
    """
    judge, card = load_judge(request.model)
    classes: list[str] = card.source["classes"]
    console.status(f"reading {request.data}")
    encoding = request.encoding or card.data.encoding
    if request.held_out:
        data = held_part(request, card, read_split)
    else:
        data = read_like(request.data, card, encoding)
    truth = numbered(data, classes)
    console.status(f"judging {len(data)} examples")
    logits, tokens = _opinions(judge, data, request)
    theirs = _right(request, data, console) if request.compare else None
    if not world().first:
        return 0
    p = sure(probabilities(logits, judge.powers))
    if card.data.multi_label:
        least = thresholds(card).tolist()
        answers = (p >= thresholds(card)).astype(np.int64)
        right = (answers == truth).all(axis=1)
        found = label_scores(p, truth, least)
        details: dict[str, Any] = {"classes": per_label(answers > 0, truth, least, classes)}
    else:
        answers = p.argmax(axis=1)
        right = answers == truth
        confusion = confusion_matrix(truth, answers, len(classes))
        found = scores(p, truth)
        details = {"classes": per_class(confusion, classes), "confusion": confusion.tolist()}
    low, high = bootstrap(right, seed=0)
    report = {
        "task": card.task,
        "tokens": tokens,
        "rows": len(data),
        "scores": found | {"accuracy_low": low, "accuracy_high": high},
        **details,
        "baselines": _baselines(request, card, logits, data, truth, console),
        "mistakes": _mistakes(p, truth, answers, data, classes),
    }
    comparison = None
    if theirs is not None:
        comparison = compare_right(right, theirs, other=str(request.compare))
        report["comparison"] = comparison.as_dict()
    console.clear_status()
    emit(event_line(report) if request.json else _text(report, classes))
    if comparison and not request.json:
        emit(comparison.sentence(str(request.model)) + "\n")
    warn_of_better(report, SHOWN, "texts", console)
    return 0


def scores(p: Array, truth: Array) -> dict[str, float]:
    """The scores of probabilities (N, C) under the names that ``evaluate --json`` prints."""
    guess = p.argmax(axis=1)
    return {
        "accuracy": float((guess == truth).mean()),
        "macro_f1": macro_f1(confusion_matrix(truth, guess, p.shape[1])),
        "ece": calibration_error(p, truth),
        "nats": nll(p, truth),
    }


def per_label(
    given: Array, truth: Array, least: Sequence[float], classes: list[str]
) -> dict[str, dict[str, float]]:
    """What ``per_class`` tells, of labels of which any number may be right; their thresholds."""
    right, guessed, there = label_counts(given, truth)
    columns = {
        "precision": right / np.maximum(guessed, 1),
        "recall": right / np.maximum(there, 1),
        "f1": 2 * right / np.maximum(guessed + there, 1),
        "count": there,
        "threshold": np.asarray(least),
    }
    return {
        label: {name: column[i].item() for name, column in columns.items()}
        for i, label in enumerate(classes)
    }


def bootstrap(right: Array, *, seed: int) -> tuple[float, float]:
    """The interval that holds 95 % of the accuracies of resampled texts (Efron 1979)."""
    rng = np.random.default_rng(seed)
    # How many of N draws with replacement are right is binomial.
    means = rng.binomial(len(right), right.mean(), RESAMPLES) / len(right)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _opinions(
    judge: TextJudge | ImageJudge, data: Data, request: GradeRequest
) -> tuple[list[Array], int]:
    """Logits (N, C) of each of the model's opinions, and how many elements were read.

    Of several processes the first one gets the logits, the others none.
    """
    if isinstance(data, Images) != isinstance(judge, ImageJudge):
        kinds = ("texts", "images")
        raise ConfigError(
            f"{request.data}: holds {kinds[isinstance(data, Images)]}, but {request.model} reads "
            f"{kinds[isinstance(judge, ImageJudge)]}"
        )
    rows = portions(len(data), CHUNK)
    if isinstance(judge, ImageJudge):
        assert isinstance(data, Images)
        found = [*shared_out(rows, lambda part: judge.opinions(data.pixels[part]))]
        tokens = len(data) * data.pixels.shape[1]
    else:
        assert not isinstance(data, Images)
        texts = strings(data)
        found = [*shared_out(rows, lambda part: judge.opinions(texts[part]))]
        tokens = sum(len(judge.lexicon.split(text)) for text in texts)
    return [np.concatenate(logits) for logits in zip(*found, strict=True)], tokens


def _right(request: GradeRequest, data: Data, console: Console) -> Array:
    """Whether the model to compare with is right, (N,); a label unknown to it it gets wrong."""
    assert request.compare is not None
    judge, card = load_judge(request.compare)
    classes: list[str] = card.source["classes"]
    if isinstance(data, Images) and list(data.pixels.shape[1:]) != card.source.get("image_shape"):
        raise ConfigError(f"--compare {request.compare}: it does not read images of this size")
    console.status(f"judging {len(data)} examples by {request.compare}")
    logits, _ = _opinions(judge, data, replace(request, model=request.compare))
    if not world().first:
        return np.zeros(0, bool)
    p = sure(probabilities(logits, judge.powers))
    if card.data.multi_label:
        theirs = (p >= thresholds(card)).astype(np.int64)
        return np.asarray((theirs == numbered(data, classes)).all(axis=1))
    named = [classes[best] for best in p.argmax(axis=1)]
    return np.array([mine == label for mine, label in zip(named, data.labels, strict=True)])


def thresholds(card: Card) -> Array:
    """Least probability of each label that is given, (C,), of a model of label sets."""
    found = (card.extra.get("best") or {}).get("thresholds")
    return np.asarray(found or [HALF] * len(card.source["classes"]))


def _baselines(
    request: GradeRequest,
    card: Card,
    logits: list[Array],
    data: Data,
    truth: Array,
    console: Console,
) -> dict[str, dict[str, float]]:
    """What cheap methods reach on the same texts."""
    if not request.baselines:
        return {}
    several = card.data.multi_label
    shares = np.array(card.source["class_counts"], float)
    shares /= card.source["train_rows"] if several else shares.sum()

    def measured(p: Array) -> dict[str, float]:
        return label_scores(p, truth, [HALF] * len(shares)) if several else scores(p, truth)

    found = {"majority": measured(np.tile(shares, (len(truth), 1)))}
    if len(logits) > 1:
        alone: Powers = [[1.0, 0.0]] * len(shares) if several else [1.0]
        found["nb_linear"] = measured(probabilities(logits[1:], alone))
    if isinstance(data, Images):
        return found
    name, valid = card.source["name"], card.source.get("valid")
    if not is_at_hand(card):
        console.notice(f"no TF-IDF baseline: the training data are needed, {name} is not here")
        return found
    try:
        split = read_split(name, valid, card.data, card.train.seed)
    except SeqtoolError as err:
        console.notice(f"no TF-IDF baseline: the training data are needed ({err})")
        return found
    if split.train.sha256 != card.source.get("sha256"):
        console.notice(f"no TF-IDF baseline: {name} has changed since training")
        return found
    console.status("training TF-IDF with logistic regression")
    train = split.train
    assert not isinstance(train, Images)
    texts, labels = list(strings(train)), split.labels(train)
    letters = card.data.tokenizer in ("char", "byte")
    p = _tfidf(texts, labels, list(strings(data)), len(split.classes), letters=letters)
    return found | {"tfidf_logreg": measured(p)}


def _tfidf(
    texts: list[str], labels: Array, test: list[str], classes: int, *, letters: bool
) -> Array:
    """Probabilities (N, C) of what scikit-learn's users try first: TF-IDF of words and pairs.

    Or, for texts that are judged by their letters, of up to four of these within words. Where texts
    may have several labels, ``labels`` (n, C), there is one model for each.
    """
    from sklearn.feature_extraction import text
    from sklearn.linear_model import LogisticRegression

    pieces = {"analyzer": "char_wb", "ngram_range": (1, 4)} if letters else {"ngram_range": (1, 2)}
    vectorizer = text.TfidfVectorizer(**pieces, sublinear_tf=True, min_df=1)
    features, tested = vectorizer.fit_transform(texts), vectorizer.transform(test)
    p = np.zeros((len(test), classes))
    if labels.ndim == 1:
        model = LogisticRegression(C=10.0, max_iter=200).fit(features, labels)
        p[:, model.classes_] = model.predict_proba(tested)
        return p
    for c in range(classes):
        if 0 < labels[:, c].sum() < len(labels):
            model = LogisticRegression(C=10.0, max_iter=200).fit(features, labels[:, c])
            p[:, c] = model.predict_proba(tested)[:, 1]
        else:
            p[:, c] = labels[:, c].mean()
    return p


def _mistakes(
    p: Array, truth: Array, answers: Array, data: Data, classes: list[str]
) -> list[dict[str, Any]]:
    """The texts whose truth was given the least probability; truth and answers as ``numbered``."""
    if truth.ndim == 2:
        given = np.where(truth > 0, p, 1 - p).prod(axis=1)
        wrong = np.flatnonzero((answers != truth).any(axis=1))
    else:
        given = p[np.arange(len(truth)), truth]
        wrong = np.flatnonzero(answers != truth)
    worst = wrong[np.argsort(given[wrong], kind="stable")][:WORST]
    texts = None if isinstance(data, Images) else strings(data)

    def named(labels: Array) -> str:
        chosen = np.flatnonzero(labels) if labels.ndim else [labels]
        return "|".join(classes[i] for i in chosen)

    return [
        {
            "row": f"{data.name}:{data.place(row)}",
            "label": named(truth[row]),
            "predicted": named(answers[row]),
            "probability": float(given[row]),
            "text": "" if texts is None else texts[row],
        }
        for row in map(int, worst)
    ]


def _text(report: dict[str, Any], classes: list[str]) -> str:
    """The report for people."""
    mine = report["scores"]
    lines = [f"{report['rows']} examples, {len(classes)} classes", ""]
    columns = {"accuracy": "accuracy", "macro_f1": "macro-F1", "ece": "ECE", "nats": "nats"}
    if "micro_f1" in mine:  # any number of labels: accuracy is that of the whole set
        columns = {"micro_f1": "micro-F1"} | columns | {"accuracy": "exact"}
    lines.append(" " * 20 + "".join(f"{column:>10}" for column in columns.values()))
    for name, row in [("model", mine), *((SHOWN[n], r) for n, r in report["baselines"].items())]:
        lines.append(f"{name:<20}" + "".join(f"{row[key]:>10.4f}" for key in columns))
    low, high = mine["accuracy_low"], mine["accuracy_high"]
    measure = columns["accuracy"]
    lines += [f"{measure} of the model from {low:.4f} to {high:.4f} ({LEVEL:.0%} interval)", ""]
    lines += class_lines("class", report["classes"])
    if len(classes) <= 12 and "confusion" in report:
        width = first_width(classes)
        lines += ["", "truth down, answers across"]
        lines.append(" " * width + "".join(f"{cell(label)[:8]:>9}" for label in classes))
        for label, counts in zip(map(cell, classes), report["confusion"], strict=True):
            lines.append(f"{label:<{width}}" + "".join(f"{count:>9}" for count in counts))
    if report["mistakes"]:
        lines += ["", "worst mistakes"]
    for mistake in report["mistakes"]:
        text = cell(" ".join(mistake["text"].split()))
        shown = text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"
        lines.append(
            f"{cell(mistake['row'])}  {cell(mistake['label'])} (given "
            f"{mistake['probability']:.4f}), answered {cell(mistake['predicted'])}: {shown}"
        )
    return "\n".join(line.rstrip() for line in lines) + "\n"
