"""Characters that a model has never seen: what stands nearest to them, what is done with them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice

from seqtool.config import OnUnknown
from seqtool.errors import ConfigError
from seqtool.tokenizer import Tokenizer

# What `apply_unknown_policy` has done, for messages.
DONE = {
    "skip": "left out",
    "replace": "read as unknown",
    "nearest": "read as near forms, or as unknown where there is none",
}

# What may stand for each other, the nearest first: quotes, dashes, spaces, line ends.
ALIKE = (
    "'\u2019\u2018\u201a\u201b\u2032\u00b4\u02bc`",
    "\"\u201d\u201c\u201e\u201f\u2033\u00ab\u00bb'\u2019",
    "-\u2010\u2011\u2013\u2012\u2014\u2015\u2212",
    " \u00a0\u2002\u2003\u2009\u202f\u3000\t",
    "\n\r\u2028\u2029\u0085\v\f",
)
SPELLED = {"\u00e6": "ae", "\u0153": "oe", "\u00fe": "th", "\u00f0": "d", "\u0131": "i"}
INVISIBLE = {"Mn", "Me", "Cf"}  # accents, enclosing marks, format characters
CLUSTERS = re.compile(r"\r\n|\S[\u0300-\u036f]+")
NAMELESS = {"Cc": "control", "Cs": "lone surrogate", "Co": "private use", "Cn": "unassigned"}
MOST_LISTED = 50  # a whole text in another script must not fill the screen


def nearest_known(character: str, known: Collection[str]) -> str | None:
    """The form nearest to a character that a vocabulary can spell, None if there is none.

    Tried in order: the same kind of quote, dash or space; compatibility forms (ligatures, full
    width); without accents; the digit it stands for; the other case. The form may be several
    characters, or "" for one that is invisible by itself (zero width, a lone accent).
    """
    if character in known:
        return character
    for form in _forms(character):
        if form != character and all(part in known for part in form):
            return form
    return None


def _forms(character: str) -> Iterator[str]:
    """Forms of a character, the nearest first; some may be the character itself."""
    for alike in ALIKE:
        if character in alike:
            yield from alike
    compatible = unicodedata.normalize("NFKD", character).replace("\N{FRACTION SLASH}", "/")
    bare = "".join(c for c in compatible if unicodedata.category(c) not in INVISIBLE)
    spelled = SPELLED.get(character.lower(), character)
    forms = [compatible, bare, spelled.upper() if character.isupper() else spelled]
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        forms.append(str(digit))
    stem, changed, _ = unicodedata.name(character, "").partition(" WITH ")
    if changed:  # o with stroke, which has no compatibility form
        with suppress(KeyError):
            forms.append(unicodedata.lookup(stem))
    yield from forms
    for form in (character, *forms):
        yield from (form.lower(), form.upper(), form.casefold())


def apply_unknown_policy(
    text: str, tokenizer: Tokenizer, policy: OnUnknown, where: str
) -> tuple[str, Counter[str]]:
    """Deal with the characters of a text that a model has never seen.

    Args:
        text: What the model shall read.
        tokenizer: The model's; only char lacks any characters.
        policy: error; skip leaves them out; replace keeps them (they encode to `unknown_id`);
            nearest puts the nearest known form in their place and keeps those without one.
        where: What the text is, for the error message: "--prompt", a path.

    Returns:
        The text to encode, and how often each unknown character stood in the text given.

    Raises:
        ConfigError: With the policy error, if there are any; one line that lists them.
    """
    counts = Counter(tokenizer.unknown(text))
    if not counts or policy == "replace":
        return text, counts
    known = tokenizer.characters
    if policy == "error":
        listed = [_describe(character, known) for character in islice(counts, MOST_LISTED)]
        listed += [f"and {len(counts) - MOST_LISTED} more"] if len(counts) > MOST_LISTED else []
        raise ConfigError(
            f"{where}: not in the model's vocabulary of {len(known)} characters: "
            f"{', '.join(listed)}; use --on-unknown nearest, skip or replace, or train with "
            "--tokenizer byte"
        )
    if policy == "skip":
        return text.translate(dict.fromkeys(map(ord, counts))), counts
    text = CLUSTERS.sub(lambda cluster: _composed(cluster[0], known), text)
    forms = {ord(c): form for c in counts if (form := nearest_known(c, known)) is not None}
    return text.translate(forms), counts


def _composed(cluster: str, known: Collection[str]) -> str:
    """One known character for several that are not all known: a CRLF, a letter and its accents."""
    whole = "\n" if cluster == "\r\n" else unicodedata.normalize("NFC", cluster)
    spelled = all(part in known for part in cluster)
    return cluster if spelled or not all(part in known for part in whole) else whole


def _describe(character: str, known: Collection[str]) -> str:
    """A character for a message: itself if it can be shown, code point, name, nearest form."""
    category = unicodedata.category(character)
    name = unicodedata.name(character, NAMELESS.get(category, "no name"))
    form = nearest_known(character, known)
    near = "nothing near it" if form is None else f"nearest {form!r}" if form else "can be left out"
    carrier = "\u25cc" if category.startswith("M") else ""  # a dotted circle carries an accent
    shown = f"'{carrier}{character}' " if character.isprintable() else ""
    return f"{shown}(U+{ord(character):04X} {name}, {near})"
