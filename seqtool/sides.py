"""Which column of a table is translated and which is its translation: named, or guessed.

The counterpart of ``columns`` for tables whose rows are a text and what it shall become: two
languages, a word and its sounds, a date and the same date as a number.
"""

import re
from collections.abc import Sequence
from typing import Any

from seqtool.columns import (
    LABEL_NAMES,
    TEXT_NAMES,
    Columns,
    check_column,
    column_words,
    looks_like_label,
    plain_name,
)
from seqtool.errors import DataError
from seqtool.images import are_names

# Names of the two sides, the most telling first; compared without case and punctuation.
NAMES = (
    *(("source", "target"), ("src", "tgt"), ("src", "trg"), ("from", "to"), ("input", "output")),
    *(("original", "translation"), ("text", "translation"), ("sentence", "translation")),
    *(("source", "translation"), ("source", "reference"), ("mt", "reference")),
    *(("grapheme", "phoneme"), ("graphemes", "phonemes"), ("letters", "sounds")),
    *(("letters", "phonemes"), ("spelling", "pronunciation"), ("spelling", "ipa")),
    *(("word", "pronunciation"), ("word", "pronunciations"), ("word", "pron")),
    *(("word", "phonemes"), ("word", "phones"), ("word", "ipa"), ("word", "arpabet")),
    *(("word", "sounds"), ("word", "transcription"), ("word", "translation")),
    *(("lemma", "form"), ("informal", "formal"), ("complex", "simple"), ("raw", "normalized")),
    *(("human", "machine"), ("wrong", "right"), ("incorrect", "correct"), ("old", "new")),
)
# Codes (ISO 639) and names of languages; "id", "is", "it", "no" and the like count only beside
# another one of these.
LANGUAGES = frozenset(
    re.findall(
        r"\w+",
        "af am ar az be bg bn bs ca ceb cs cy da de el en eo es et eu fa fi fil fr fy ga gd gl gu "
        "ha he hi hr hu hy id ig is it ja ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms "
        "mt my nb ne nl nn no ny or pa pl ps pt ro ru rw sd si sk sl sm sn so sq sr st su sv sw ta "
        "te tg th tk tl tr tt ug uk ur uz vi wo xh yi yo zh zu afr amh ara aze bel bul ben bos cat "
        "ces cze cmn cym dan deu ger ell gre eng epo spa est eus fas per fin fra fre gle glg heb "
        "hin hrv hun hye ind isl ice ita jpn kat kaz kor lat lit lav mkd mon mar msa mlt nld dut "
        "nob nor pol por ron rum rus slk slo slv sqi srp swe swa tam tel tha tur ukr urd vie yid "
        "zho chi arabic bulgarian catalan chinese croatian czech danish dutch english esperanto "
        "estonian finnish french german greek hebrew hindi hungarian icelandic indonesian irish "
        "italian japanese korean latin latvian lithuanian norwegian persian polish portuguese "
        "romanian russian serbian slovak slovene slovenian spanish swahili swedish thai turkish "
        "ukrainian vietnamese welsh deutsch englisch espanol español francais français italiano "
        "nederlands polski portugues português svenska",
    )
)
IDENTIFIER = re.compile(r"[^\W\d_][\w .-]{0,29}")  # what a column may be called
WORD = re.compile(r"[^\W\d_]\w*")
PICTURES = "names of images and what they say"
ALONE = frozenset(("source", "src", "text", "sentence", "word"))  # a header with no other beside it
LINE_NAMES = ("transcription", "transcript", "line", "label", "target", "string", "words")
MOST = 0.1  # of the cells below a header may look like a name themselves


def choose_sides(
    names: Sequence[str],
    sample: Sequence[Sequence[Any]],
    where: str,
    *,
    source: str = "",
    targets: Sequence[str] = (),
) -> Columns:
    """Find the columns of the source and of its translation.

    Args:
        names: The columns, in order.
        sample: Some rows, best from all over the table, each as long as ``names``.
        where: The table's name, for messages.
        source: The one the user has named, if any.
        targets: Those the user has named, if any; several hold several right answers.

    Returns:
        ``texts`` is the source and then the targets.

    Raises:
        DataError: If a named column is not there, or if nothing tells the columns apart.
    """
    for name in (*([source] if source else []), *targets):
        check_column(name, names, where)
    if source in targets:
        raise DataError(f'{where}: column "{source}" cannot be both source and target')
    reason = "given"
    if not source or not targets:
        found, reason = _guess(names, sample, source, tuple(targets))
        if not found:
            raise DataError(
                f"{where}: cannot tell which two columns are a text and its translation; there "
                f"are {', '.join(names)}; name them with --source-column and --target-column"
            )
        source, target = found
        targets = tuple(targets) or (target, *_siblings(target, names))
    quoted = " or ".join(f'"{name}"' for name in targets)
    return Columns((source, *targets), None, f'"{source}" to {quoted} ({reason})')


def looks_like_pairs(names: Sequence[str], sample: Sequence[Sequence[Any]]) -> str:
    """Why a table is one of texts and their translations, "" if it rather has labels.

    It is one if its columns are called so, or if it has two columns of text at least and none that
    is called as labels are or has few values that come back, as labels do.
    """
    cells = dict(zip(names, zip(*sample, strict=True), strict=True))
    found, reason = _guess(names, sample, "", ())
    if not found or reason == PICTURES:
        return reason
    named = reason.startswith("by")
    if not named and any(plain_name(name) in LABEL_NAMES for name in names):
        return ""
    judged = [found[1]] if named else names
    if any(looks_like_label(cells[name]) for name in judged):
        return ""
    return "" if not named and any(_numeric(cells[name]) for name in found) else reason


def looks_like_header(rows: Sequence[Sequence[str]], wanted: Sequence[str]) -> bool:
    """Whether the first row names the columns of a table of pairs.

    A pair of words could be a header or a row. It is a header if it holds the names that the user
    expects or names known here, also those of a text and its label, or if, of all cells of its
    columns, nearly only these could be a name: a single word where sentences stand below, or
    letters above numbers.

    Args:
        rows: The first rows of the table; all of the same length.
        wanted: Columns that the user has named.
    """
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    if wanted and all(name in first for name in wanted):
        return True
    if len({*first}) < len(first) or not all(map(IDENTIFIER.fullmatch, filter(None, first))):
        return False
    plain = {plain_name(cell) for cell in first}
    if len(first) == 1 and plain & ALONE:
        return True
    labelled = plain & {*TEXT_NAMES} and plain & {*LABEL_NAMES}
    if _by_name(first) or _by_language(first) or labelled:
        return True
    columns = list(zip(*rest, strict=True)) if rest else []
    if any(are_names(below) for below in columns):
        return not any(are_names([cell]) for cell in first)
    return bool(columns) and all(
        WORD.fullmatch(name) is not None
        and sum(WORD.fullmatch(cell.strip()) is not None for cell in below) <= MOST * len(below)
        for name, below in zip(first, columns, strict=True)
    )


def _guess(
    names: Sequence[str],
    sample: Sequence[Sequence[Any]],
    source: str,
    targets: tuple[str, ...],
) -> tuple[tuple[str, str] | None, str]:
    """Source and target, those given included, and why."""
    texts = [name for at, name in enumerate(names) if not _numeric([row[at] for row in sample])]
    given = {*([source] if source else []), *targets}
    texts = [name for name in names if name in texts or name in given]
    if (pair := _by_pictures(names, sample)) and source in ("", pair[0]) and not targets:
        return pair, PICTURES
    for found, reason in (
        (_by_name(texts), "by their names"),
        (_by_language(texts), "by their names, which are languages"),
    ):
        if found and source in ("", found[0]) and targets in ((), (found[1],)):
            return found, reason
    if given:
        free = [name for name in texts or names if name not in given]
        free = free or [name for name in names if name not in given]
        if not free:
            return None, ""
        only = "the only other column" if len(names) == len(given) + 1 else "the first other text"
        return ((source, free[0]) if source else (free[0], targets[0])), only
    if len(texts) < 2 == len(names):
        return (names[0], names[1]), "the only two columns"
    if len(texts) < 2:
        return None, ""
    what = "the only two texts" if len(texts) == 2 else "the first two texts"
    return (texts[0], texts[1]), what


def _by_pictures(names: Sequence[str], sample: Sequence[Sequence[Any]]) -> tuple[str, str] | None:
    """A column of names of images, and one of what stands on them."""
    cells = [[str(row[at] or "") for row in sample] for at in range(len(names))]
    found = [name for name, column in zip(names, cells, strict=True) if are_names(column)]
    others = [name for name in names if name not in found]
    if len(found) != 1 or not others:
        return None
    told = [name for name in others if plain_name(name) in (*TEXT_NAMES, *LINE_NAMES)]
    return found[0], (told or others)[0]


def _by_name(names: Sequence[str]) -> tuple[str, str] | None:
    plain = {re.sub(r"\d+$", "", plain_name(name)): name for name in reversed(names)}
    for source, target in NAMES:
        if source in plain and target in plain:
            return plain[source], plain[target]
    return None


def _by_language(names: Sequence[str]) -> tuple[str, str] | None:
    found = [name for name in names if LANGUAGES & column_words(name)]
    return (found[0], found[1]) if len(found) > 1 else None


def _siblings(target: str, names: Sequence[str]) -> list[str]:
    """Columns with the target's name and another number: further right answers."""
    stem = re.sub(r"[\W_]*\d+$", "", target)
    if not stem:
        return []
    return [n for n in names if n != target and re.fullmatch(rf"{re.escape(stem)}[\W_]*\d+", n)]


def _numeric(cells: Sequence[Any]) -> bool:
    """Whether a column holds only numbers, or nothing."""
    filled = [str(cell) for cell in cells if cell is not None and str(cell).strip()]
    return all(re.fullmatch(r"\s*[-+]?[\d.,]+\s*", cell) for cell in filled)
