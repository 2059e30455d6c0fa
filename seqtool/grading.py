"""The ``evaluate`` command for classifiers: how often they are right, beside cheap methods."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.calibration import calibration_error, nll, pool
from seqtool.checkpoint import Card, event_line
from seqtool.console import Console
from seqtool.errors import ConfigError, SeqtoolError
from seqtool.images import Images
from seqtool.judge import ImageJudge, TextJudge, load_judge, sure
from seqtool.labelled import Data, numbered, read_like, read_split, strings
from seqtool.output import cell, emit
from seqtool.scorecard import (
    LEVEL,
    RESAMPLES,
    GradeRequest,
    class_lines,
    confusion_matrix,
    first_width,
    held_part,
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
    p = sure(pool(logits, judge.powers))
    guess = p.argmax(axis=1)
    confusion = confusion_matrix(truth, guess, len(classes))
    low, high = bootstrap(truth == guess, seed=0)
    report = {
        "task": card.task,
        "tokens": tokens,
        "rows": len(data),
        "scores": scores(p, truth) | {"accuracy_low": low, "accuracy_high": high},
        "classes": per_class(confusion, classes),
        "confusion": confusion.tolist(),
        "baselines": _baselines(request, card, logits, data, truth, console),
        "mistakes": _mistakes(p, truth, data, classes),
    }
    console.clear_status()
    emit(event_line(report) if request.json else _text(report, classes))
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
    """Logits (N, C) of each of the model's opinions, and how many elements were read."""
    if isinstance(data, Images) != isinstance(judge, ImageJudge):
        kinds = ("texts", "images")
        raise ConfigError(
            f"{request.data}: holds {kinds[isinstance(data, Images)]}, but {request.model} reads "
            f"{kinds[isinstance(judge, ImageJudge)]}"
        )
    starts = range(0, len(data), CHUNK)
    if isinstance(judge, ImageJudge):
        assert isinstance(data, Images)
        found = [judge.opinions(data.pixels[start : start + CHUNK]) for start in starts]
        tokens = len(data) * data.pixels.shape[1]
    else:
        assert not isinstance(data, Images)
        texts = strings(data)
        found = [judge.opinions(texts[start : start + CHUNK]) for start in starts]
        tokens = sum(len(judge.lexicon.split(text)) for text in texts)
    return [np.concatenate(parts) for parts in zip(*found, strict=True)], tokens


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
    shares = np.array(card.source["class_counts"], float)
    p = np.tile(shares / shares.sum(), (len(truth), 1))
    found = {"majority": scores(p, truth)}
    if len(logits) > 1:
        found["nb_linear"] = scores(pool(logits[1:], [1.0]), truth)
    if isinstance(data, Images):
        return found
    # A model from elsewhere may name anything: nothing is fetched, no pipe is waited for.
    name, valid = card.source["name"], card.source.get("valid")
    plain = [os.path.isfile(path) or os.path.isdir(path) for path in (name, valid or name)]
    if not all(plain):
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
    p = _tfidf(texts, labels, list(strings(data)), len(split.classes))
    return found | {"tfidf_logreg": scores(p, truth)}


def _tfidf(texts: list[str], labels: Array, test: list[str], classes: int) -> Array:
    """Probabilities (N, C) of what scikit-learn's users try first: TF-IDF of words and pairs."""
    from sklearn.feature_extraction import text
    from sklearn.linear_model import LogisticRegression

    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    features = vectorizer.fit_transform(texts)
    model = LogisticRegression(C=10.0, max_iter=200).fit(features, labels)
    p = np.zeros((len(test), classes))
    p[:, model.classes_] = model.predict_proba(vectorizer.transform(test))
    return p


def _mistakes(p: Array, truth: Array, data: Data, classes: list[str]) -> list[dict[str, Any]]:
    """The texts whose truth was given the least probability."""
    given = p[np.arange(len(truth)), truth]
    wrong = np.flatnonzero(p.argmax(axis=1) != truth)
    worst = wrong[np.argsort(given[wrong], kind="stable")][:WORST]
    texts = None if isinstance(data, Images) else strings(data)
    return [
        {
            "row": f"{data.name}:{data.place(int(row))}",
            "label": classes[truth[row]],
            "predicted": classes[int(p[row].argmax())],
            "probability": float(given[row]),
            "text": "" if texts is None else texts[int(row)],
        }
        for row in worst
    ]


def _text(report: dict[str, Any], classes: list[str]) -> str:
    """The report for people."""
    mine = report["scores"]
    lines = [f"{report['rows']} examples, {len(classes)} classes", ""]
    lines.append(f"{'':<20}{'accuracy':>10}{'macro-F1':>10}{'ECE':>10}{'nats':>10}")
    for name, row in [("model", mine), *((SHOWN[n], r) for n, r in report["baselines"].items())]:
        cells = (f"{row[key]:>10.4f}" for key in ("accuracy", "macro_f1", "ece", "nats"))
        lines.append(f"{name:<20}" + "".join(cells))
    low, high = mine["accuracy_low"], mine["accuracy_high"]
    lines += [f"accuracy of the model from {low:.4f} to {high:.4f} ({LEVEL:.0%} interval)", ""]
    lines += class_lines("class", report["classes"])
    if len(classes) <= 12:
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
