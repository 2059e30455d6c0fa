"""Which column of a table holds the text and which the label: named by the user, or guessed.

A guess goes by the column's name first and by what stands in it second; both are told, so that a
wrong one is seen before anything is trained on it. Reading the table is the business of ``tables``.
"""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqtool.errors import DataError

# Names that people give to such columns, the most telling first; compared without case and
# punctuation. A word of a longer name counts too ("review_text"), but less than a whole name.
TEXT_NAMES = (
    *("text", "review", "sentence", "content", "comment", "tweet", "message", "utterance", "body"),
    *("question", "query", "document", "phrase", "post", "sms", "statement", "headline", "title"),
    *("description", "abstract", "summary", "input", "string", "word", "name"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "category", "target", "sentiment", "polarity", "intent"),
    *("emotion", "topic", "tag", "tags", "y", "output", "answer", "rating", "stars", "score"),
    *("language", "lang", "genre", "type", "kind", "spam", "toxic", "gold"),
)
PAIRS = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2")),
    *(("text1", "text2"), ("texta", "textb"), ("sentencea", "sentenceb")),
)
OTHER_NAMES = ("id", "idx", "index", "date", "time", "author", "user", "url", "split")
SHORT = 50  # characters; a label is seldom longer
LONG_NAME = 60  # characters; a column's name is never longer
# Symbols: how many a text has at least, different ones, and characters of one, on average.
SEVERAL_SYMBOLS, FEW_SYMBOLS, SHORT_SYMBOL = 2.5, 256, 3.0
NUMBERS = 0.2  # of the symbols; with more they are figures


@dataclass(frozen=True)
class Columns:
    """The columns that are used, and why these."""

    texts: tuple[str, ...]  # one; two or more when a row is a pair or tuple of texts
    label: str | None  # None when no label is wanted
    reason: str  # for the user, e.g. 'text from "review" (its name), label from "stars" (given)'


@dataclass(frozen=True)
class _Profile:
    """What stands in a column, judged on a sample of the rows."""

    filled: int
    distinct: int
    longest: int  # characters
    mean_length: float
    numeric: bool

    @property
    def may_be_label(self) -> bool:
        """Few short values that come back."""
        return 0 < self.distinct <= max(2, self.filled // 4) and self.longest <= SHORT

    @property
    def may_be_text(self) -> bool:
        """Words, not numbers, and not the same ones again and again."""
        return not self.numeric and 2 * self.distinct >= self.filled > 0


def choose_columns(
    names: Sequence[str],
    sample: Sequence[Sequence[Any]],
    where: str,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    labelled: bool = True,
) -> Columns:
    """Find the text and label columns of a table.

    Args:
        names: The columns, in order.
        sample: Some rows, best from all over the table, each as long as ``names``.
        where: The table's name, for messages.
        text_columns: Those the user has named, if any.
        label_column: The one the user has named, if any.
        labelled: Whether a label is wanted at all.

    Raises:
        DataError: If a named column is not there, or if nothing tells the columns apart.
    """
    for name in (*text_columns, *([label_column] if label_column else [])):
        check_column(name, names, where)
    if label_column in text_columns:
        raise DataError(f'{where}: column "{label_column}" cannot be both text and label')
    profiles = {name: _profile(sample, column) for column, name in enumerate(names)}
    texts, text_reason = tuple(text_columns), "given"
    label, label_reason = label_column, "given"
    if labelled and label is None:
        label, label_reason = _guess_label(profiles, texts)
    if not texts:
        texts, text_reason = _guess_texts(profiles, label)
    if labelled and label is None:
        label, label_reason = _guess_label(profiles, texts, content=True)
    listed = ", ".join(names)
    if not texts:
        raise DataError(
            f"{where}: cannot tell which column is the text; there are {listed}; "
            "name it with --text-column"
        )
    if labelled and label is None:
        raise DataError(
            f"{where}: cannot tell which column is the label; there are {listed}; "
            "name it with --label-column"
        )
    quoted = " and ".join(f'"{name}"' for name in texts)
    reason = f"text from {quoted} ({text_reason})"
    if label is not None and labelled:
        reason += f', label from "{label}" ({label_reason})'
    return Columns(texts, label if labelled else None, reason)


def looks_labelled(names: Sequence[str], sample: Sequence[Sequence[Any]]) -> bool:
    """Whether one column of some rows is of labels, which come back, beside one of texts."""
    profiles = [_profile(sample, column) for column in range(len(names))]
    labels = {p for p in profiles if p.may_be_label and 1 < p.distinct <= p.filled / 2}
    return bool(labels) and any(p.may_be_text for p in profiles if p not in labels)


def check_column(name: str, names: Sequence[str], where: str) -> None:
    """See that a column that the user has named is there, once.

    Raises:
        DataError: If it is not, with the name that comes nearest.
    """
    if names.count(name) == 1:
        return
    if name in names:
        raise DataError(f'{where}: {names.count(name)} columns are called "{name}"; rename them')
    folded = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    advice = f'did you mean "{folded[close[0]]}"?' if close else "name one of these"
    raise DataError(f'{where}: no column "{name}"; there are {", ".join(names)}; {advice}')


def looks_like_header(rows: Sequence[Sequence[str]], wanted: Sequence[str]) -> bool:
    """Whether the first row names the columns.

    It does when it holds the names that the user expects or names known here. It does not when it
    holds a number, a long text or the same cell twice, or when a cell comes back below it, as a
    label does. Otherwise it does: most tables have a header.

    Args:
        rows: The first rows of the table; all of the same length.
        wanted: Columns that the user has named.
    """
    first, rest = rows[0], rows[1:]
    if wanted and all(name in first for name in wanted):
        return True
    cells = [cell.strip() for cell in first]
    filled = [cell for cell in cells if cell]
    if len(set(filled)) < len(filled) or any(len(cell) > LONG_NAME for cell in filled):
        return False
    if any(_is_number(cell) for cell in filled) or not filled:
        return False
    known = {*TEXT_NAMES, *LABEL_NAMES, *OTHER_NAMES, *(name for pair in PAIRS for name in pair)}
    if any(
        known.intersection(column_words(cell)) and len(column_words(cell)) <= 3 for cell in filled
    ):
        return True
    columns = list(zip(*rest, strict=True)) or [()] * len(first)
    again = any(cell and cell in set(below) for cell, below in zip(first, columns, strict=True))
    return not again and len(cells) > 1


def looks_like_label(cells: Sequence[Any]) -> bool:
    """Whether a column holds few short values that come back, and some that really do."""
    profile = _profile([(cell,) for cell in cells], 0)
    return profile.may_be_label and profile.distinct < profile.filled


def _guess_label(
    profiles: dict[str, _Profile], texts: tuple[str, ...], *, content: bool = False
) -> tuple[str | None, str]:
    """The label by its name, or, on a second call, when the text is known, by its content."""
    free = {name: profile for name, profile in profiles.items() if name not in texts}
    if not content:
        return _by_name([name for name, p in free.items() if p.longest <= SHORT], LABEL_NAMES)
    likely = {name: p for name, p in free.items() if p.may_be_label}
    varied = {name: p for name, p in likely.items() if p.distinct > 1} or likely
    if varied:
        best = min(varied, key=lambda name: varied[name].distinct)
        return best, f"{profiles[best].distinct} different short values"
    if len(free) == 1:
        return next(iter(free)), "the only other column"
    return None, ""


def _guess_texts(profiles: dict[str, _Profile], label: str | None) -> tuple[tuple[str, ...], str]:
    free = {name: profile for name, profile in profiles.items() if name != label}
    plain = {plain_name(name): name for name in free}
    for pair in PAIRS:
        if all(part in plain for part in pair):
            return tuple(plain[part] for part in pair), "a pair by their names"
    worded = [name for name, profile in free.items() if not profile.numeric]
    named, reason = _by_name(worded, TEXT_NAMES)
    if named is not None:
        return (named,), reason
    likely = {name: profile for name, profile in free.items() if profile.may_be_text}
    if likely:
        best = max(likely, key=lambda name: likely[name].mean_length)
        return (best,), "the longest, varied texts"
    if len(free) == 1:
        return tuple(free), "the only other column" if label else "the only column"
    return (), ""


def _by_name(names: Sequence[str], known: Sequence[str]) -> tuple[str | None, str]:
    """The name that is known best, or has the best known word in it."""
    for found in known:
        for name in names:
            if plain_name(name) == found:
                return name, "by its name"
    both = {*TEXT_NAMES[:10], *LABEL_NAMES}
    for found in known:
        for name in names:
            # "label_text" says both and so nothing.
            if found in column_words(name) and not both.intersection(column_words(name)) - {*known}:
                return name, "by its name"
    return None, ""


def plain_name(name: str) -> str:
    """A column's name without case and punctuation."""
    return re.sub(r"[\W_]", "", name).casefold()


def column_words(name: str) -> set[str]:
    """The words of a name in snake case, camel case or kebab case, and the name as one word."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)
    return {part.casefold() for part in parts} | {plain_name(name)}


def _profile(sample: Sequence[Sequence[Any]], column: int) -> _Profile:
    cells = [str(row[column]) for row in sample if row[column] is not None]
    cells = [cell for cell in cells if cell.strip()]
    return _Profile(
        filled=len(cells),
        distinct=len(set(cells)),
        longest=max(map(len, cells), default=0),
        mean_length=sum(map(len, cells)) / max(1, len(cells)),
        numeric=bool(cells) and all(map(_is_number, cells)),
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip().casefold() not in ("nan", "inf", "infinity")


def are_symbols(texts: Sequence[str]) -> bool:
    """Whether texts are short symbols with spaces between, as the sounds of words are written.

    There are several in a text, few different ones, and they are not numbers.
    """
    symbols = Counter(symbol for text in texts for symbol in text.split())
    count, size = symbols.total(), sum(len(s) * n for s, n in symbols.items())
    numbers = sum(n for symbol, n in symbols.items() if symbol.isdecimal())
    short = size <= SHORT_SYMBOL * count and numbers <= NUMBERS * count
    return count >= SEVERAL_SYMBOLS * len(texts) and short and len(symbols) <= FEW_SYMBOLS
