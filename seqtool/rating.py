"""The ``evaluate`` command for translators: how near they come, beside cheap methods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.bitext import read_split
from seqtool.checkpoint import Card, event_line, load, load_dictionary
from seqtool.claims import check_pairs
from seqtool.console import Console
from seqtool.dictionary import Dictionary
from seqtool.distributed import portions, shared_out, world
from seqtool.errors import ConfigError, DataError
from seqtool.metrics import (
    References,
    Unit,
    bleu,
    bleu_metric,
    choose_unit,
    chrf,
    chrf_metric,
    columns,
    edits,
    exact,
    repeats,
)
from seqtool.output import emit
from seqtool.pairs import Answers, Pairs, answers, read_pairs
from seqtool.resampling import LEVEL, compare_ratios, ratio_interval
from seqtool.scans import Scanner, beside

Array = npt.NDArray[Any]
Translate = Callable[[Sequence[str]], list[str]]  # one line for each
Opener = Callable[[Path], Translate]

CHUNK = 4096  # sources translated at once
WORST = 10  # translations shown
SHOWN = 100  # characters of one
POINTS = {"bleu": "BLEU", "chrf": "chrF"}  # of 100
# The scores that are shown, by what edits are counted in, as each field calls them.
NAMES: dict[Unit, dict[str, str]] = {
    "word": {**POINTS, "exact": "exact", "edit_distance": "edits"},
    "character": {**POINTS, "exact": "exact", "edit_distance": "CER"},
    "sound": {"wer": "WER", "per": "PER"},
}
NOTES: dict[Unit, str] = {
    "word": "edits: words to change, of those in the right answers",
    "character": "CER: characters to change, of those in the right answers",
    "sound": "WER: words that became none of their right answers\n"
    "PER: sounds (white space stands between) to change, of those in the right answers",
}
NEAREST = "of several right answers of a source the nearest counts"


@dataclass(frozen=True)
class RateRequest:
    """What the user asked ``evaluate`` for."""

    model: Path
    data: str
    target: str | None  # the second of two parallel files
    held_out: bool
    baselines: bool
    lower: bool  # BLEU and chrF ignore case, as sacrebleu -lc does
    compare: Path | None  # another model
    encoding: str | None
    json: bool


@dataclass(frozen=True)
class Exam:
    """Sources to translate, and by what they are judged."""

    answers: Answers  # sources, each once, with all their right answers
    rows: References  # (n,) of each row of the data its own right answers
    source_of: list[int]  # (n,) the source of each row, an index into answers
    unit: Unit  # what edits are counted in


def rate(request: RateRequest, console: Console, open_translator: Opener) -> int:
    """Score a translator on pairs; gives the exit status.

    Args:
        request: What to score, and how.
        console: Where progress and remarks go.
        open_translator: Gives what translates texts with the model in a directory.

    Raises:
        SeqtoolError: If model, data or options do not fit.
    """
    card = load(request.model, "translate").card
    check_pairs(card, str(request.model))
    console.status(f"reading {request.data}")
    pairs = _held_out(request, card) if request.held_out else _read(request, card)
    exam = set_exam(pairs)
    sources = exam.answers.sources
    console.status(f"translating {len(sources):,} sources")
    asked = sources
    if Scanner.of(card.source, str(request.model)) is not None:
        asked = [*map(str, beside(request.data, sources))]
    # Both are opened first: what is wrong with the second is told before the first takes its time.
    places = [request.model, *([request.compare] if request.compare else [])]
    translators = [open_translator(place) for place in places]
    found = _translated(translators[0], asked)
    other = None
    if request.compare is not None:
        console.status(f"translating with {request.compare}")
        other = _translated(translators[1], asked)
    if not world().first:
        return 0
    console.status("scoring")
    report: dict[str, Any] = {
        "task": "translate",
        "tokens": sum(len(source.split()) for source in sources),
        "rows": len(exam.rows),
        "sources": len(sources),
        **judge(found, exam, lower=request.lower),
        "edit_unit": exam.unit,
        "several": sum(len(found) > 1 for found in exam.answers.references),
        "lengths": describe(found, exam),
        "baselines": {} if asked is not sources else _baselines(request, exam, console),
    }
    if other is not None:
        console.status("comparing")
        report["compare"] = {"model": str(request.compare)} | judge(
            other, exam, lower=request.lower, resample=False
        )
        report["compare"]["difference"] = compare(found, other, exam, lower=request.lower)
    report["mistakes"] = worst(found, exam, pairs)
    console.clear_status()
    emit(event_line(report) if request.json else show(report))
    for name, row in report["baselines"].items():
        if row["chrf"] > report["scores"]["chrf_high"]:
            console.warn(f"{name} comes nearer; train longer, or on more pairs")
    return 0


def _translated(translate: Translate, sources: Sequence[str]) -> list[str]:
    """The translations of all sources; in the first process only."""
    rows = portions(len(sources), CHUNK)
    return [*chain.from_iterable(shared_out(rows, lambda part: translate(sources[part])))]


def set_exam(pairs: Pairs) -> Exam:
    """Put right answers together: those of a source, and those of a row."""
    found = answers(pairs)
    targets: dict[int, list[str]] = {}
    source_of: dict[int, int] = {}
    for row, target, source in zip(pairs.rows, pairs.targets, found.group.tolist(), strict=True):
        targets.setdefault(row, []).append(target)
        source_of[row] = source
    rows = [*map(tuple, targets.values())]
    unit = choose_unit(rows, found.sources)
    return Exam(found, rows, [*source_of.values()], unit)


def judge(
    found: Sequence[str], exam: Exam, *, lower: bool, resample: bool = True
) -> dict[str, dict[str, Any]]:
    """Scores under the names that ``--json`` prints, and how they were computed.

    BLEU and chrF are of all rows, each with its own right answers, as papers count; exact matches
    and edits of all sources, each once, where any right answer of a source counts. Of letters and
    sounds they are also given as the word and the phoneme error rate.
    """
    by_row = [found[at] for at in exam.source_of]
    scores: dict[str, Any] = {}
    signatures = {}
    for name, measure in (("bleu", bleu), ("chrf", chrf)):
        score = measure(by_row, exam.rows, lower=lower, resample=resample)
        scores[name], signatures[name] = score.value, score.signature
        if resample:
            scores |= {f"{name}_low": score.low, f"{name}_high": score.high}
    for name, (parts, sizes) in _rates(found, exam).items():
        scores[name] = float(parts.sum() / sizes.sum())
        if resample:
            low, high = ratio_interval(parts, sizes)
            scores |= {f"{name}_low": low, f"{name}_high": high}
    return {"scores": scores, "signatures": signatures}


def compare(
    found: Sequence[str], other: Sequence[str], exam: Exam, *, lower: bool
) -> dict[str, dict[str, float]]:
    """How far the first is ahead of the other in each score: paired bootstrap (Koehn 2004)."""
    from sacrebleu.significance import PairedTest

    systems: list[tuple[str, Sequence[str]]] = [
        (name, [texts[at] for at in exam.source_of])
        for name, texts in (("other", other), ("model", found))
    ]
    metrics = {"bleu": bleu_metric(exam.rows, lower=lower), "chrf": chrf_metric(lower=lower)}
    test: Any = PairedTest(systems, metrics, columns(exam.rows), test_type="bs")
    results = test()[1]
    differences: dict[str, dict[str, float]] = {}
    for name, title in (("bleu", "BLEU"), ("chrf", "chrF2")):
        theirs, mine = results[title]
        gap = mine.score - theirs.score
        # Where both are equal sacrebleu counts no resample as far from none.
        differences[name] = {"value": gap, "p": mine.p_value if gap else 1.0}
    rates = zip(_rates(found, exam).items(), _rates(other, exam).values(), strict=True)
    for (name, (parts, sizes)), (others, _) in rates:
        differences[name] = asdict(compare_ratios(parts, others, sizes))
    return differences


def describe(found: Sequence[str], exam: Exam) -> dict[str, float]:
    """What goes wrong as a whole: too short or long, copied, nothing said, the same again."""
    sources = exam.answers.sources
    shown = [(f, s, r[0]) for f, s, r in zip(found, sources, exam.answers.references, strict=True)]
    sizes = np.array([(len(f), len(r)) for f, _, r in shown], float)
    shares = {
        "copied": [f.split() == s.split() != [] for f, s, _ in shown],
        "copied_right": [r.split() == s.split() != [] for _, s, r in shown],
        "empty": [not f.split() for f, _, _ in shown],
        "repeating": [repeats(f) and not repeats(r) for f, _, r in shown],
    }
    ratio = float(sizes[:, 0].sum() / max(1.0, sizes[:, 1].sum()))
    return {"ratio": ratio} | {name: float(np.mean(share)) for name, share in shares.items()}


def worst(found: Sequence[str], exam: Exam, pairs: Pairs) -> list[dict[str, Any]]:
    """The translations with the most edits for their length, wrong ones only."""
    counts, sizes = edits(found, exam.answers.references, exam.unit)
    share = counts / np.maximum(sizes, 1)
    order = [int(at) for at in np.argsort(-share, kind="stable") if counts[at]][:WORST]
    return [
        {
            "row": pairs.where(int(exam.answers.first[at])),
            "source": exam.answers.sources[at],
            "target": exam.answers.references[at][0],
            "translation": found[at],
            "edits": float(share[at]),
        }
        for at in order
    ]


def _rates(found: Sequence[str], exam: Exam) -> dict[str, tuple[Array, Array]]:
    """Exact matches and edits of each source, and out of how much, each (m,)."""
    references = exam.answers.references
    right = exact(found, references).astype(float)
    counts, sizes = edits(found, references, exam.unit)
    ones, changed = np.ones(len(right)), (counts.astype(float), np.maximum(sizes, 1).astype(float))
    rates = {"exact": (right, ones), "edit_distance": changed}
    return rates | ({"wer": (1 - right, ones), "per": changed} if exam.unit == "sound" else {})


def _read(request: RateRequest, card: Card) -> Pairs:
    """The pairs, in the columns that training used if they are there."""
    encoding = request.encoding or card.data.encoding

    def read(source_column: str, target_column: str) -> Pairs:
        return read_pairs(
            request.data,
            target=request.target,
            source_column=source_column,
            target_column=target_column,
            separator=card.data.separator,
            encoding=encoding,
        )

    if request.target is not None or card.source.get("target") is not None:
        return read("", "")
    try:
        return read(card.source.get("source_column", ""), card.source.get("target_column", ""))
    except DataError:
        # Another file may name its columns otherwise; if guessing fails too, that is the error.
        return read("", "")


def _held_out(request: RateRequest, card: Card) -> Pairs:
    """The part of the training pairs that was held out."""
    if card.source["valid"]:
        raise ConfigError(
            f"--held-out: {request.model} held out {card.source['valid']}; score that instead"
        )
    target = request.target or (
        None if request.data != card.source["name"] else card.source["target"]
    )
    split = read_split(request.data, target, None, None, card.data, card.train.seed)
    if split.source["sha256"] != card.source["sha256"]:
        raise DataError(
            f"{request.data}: not the pairs that {request.model} was trained on, so no part of "
            "them was held out; leave --held-out out to score all of them"
        )
    if split.held_out is None:
        raise ConfigError(f"--held-out: {request.model} held nothing out")
    return split.held_out


def _baselines(request: RateRequest, exam: Exam, console: Console) -> dict[str, dict[str, float]]:
    """What cheap methods reach on the same sources."""
    if not request.baselines:
        return {}
    sources = exam.answers.sources
    systems = {"copy": list(sources)}
    saved = load_dictionary(request.model)
    if saved is None:
        console.notice(f"no dictionary baseline: {request.model} was saved without one")
    else:
        dictionary = Dictionary.from_arrays(saved, str(request.model))
        systems["dictionary"] = [*map(dictionary.translate, sources)]
    return {
        name: judge(found, exam, lower=request.lower, resample=False)["scores"]
        for name, found in systems.items()
    }


def show(report: dict[str, Any]) -> str:
    """The report for people."""
    names = NAMES[report["edit_unit"]]
    again = f", {report['rows']:,} rows" if report["rows"] != report["sources"] else ""
    lines = [f"{report['sources']:,} sources{again}", ""]
    scores = report["scores"]
    rows = [("", "".join(f"{name:>10}" for name in names.values()))]
    rows.append(("model", _cells(scores, names)))
    for end in ("low", "high"):
        row = {key: scores[f"{key}_{end}"] for key in names}
        rows.append((f"  {LEVEL:.0%} {end}", _cells(row, names)))
    if (other := report.get("compare")) is not None:
        rows.append((other["model"], _cells(other["scores"], names)))
        row = {key: other["difference"][key]["value"] for key in names}
        rows.append(("  model minus other", _cells(row, names)))
        odds = "".join(f"{other['difference'][key]['p']:>10.4f}" for key in names)
        rows.append(("  p (bootstrap)", odds))
    rows += [(title, _cells(row, names)) for title, row in report["baselines"].items()]
    width = max(20, *(len(title) + 1 for title, _ in rows))
    lines += [f"{title:<{width}}{cells}" for title, cells in rows]
    lines += ["", NOTES[report["edit_unit"]], *([NEAREST] if report["several"] else [])]
    lines += [
        f"{POINTS[key]}: {said}" for key, said in report["signatures"].items() if key in names
    ]
    lengths = report["lengths"]
    lines.append(
        f"lengths {lengths['ratio']:.2f} of the right ones, copied {lengths['copied']:.1%} (right "
        f"{lengths['copied_right']:.1%}), empty {lengths['empty']:.1%}, repeating "
        f"{lengths['repeating']:.1%}"
    )
    if report["mistakes"]:
        lines += ["", "worst translations"]
    for mistake in report["mistakes"]:
        lines.append(f"{mistake['row']}  {_cut(mistake['source'])}")
        lines.append(f"    should be  {_cut(mistake['target'])}")
        lines.append(f"    is         {_cut(mistake['translation'])}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _cells(row: Mapping[str, float], names: Iterable[str]) -> str:
    """Scores by name: points of 100, or shares."""
    return "".join(f"{row[key]:>10.{2 if key in POINTS else 4}f}" for key in names)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else flat[: SHOWN - 1] + "…"
