"""Texts as rows of words: splitting, a vocabulary of frequent words, and parts for the others.

A word that training saw too rarely for an embedding of its own is known by the hashed character
n-grams inside it, as in fastText (Bojanowski et al. 2017, arXiv:1607.04606, section 3.2). Texts
that are single words, such as names, are split into characters instead. Bytes, pieces of words
(BPE) and whatever a language model reads come from its own kind of tokenizer.

No tensors and no model here. The vocabulary is stored as a Hugging Face ``tokenizer.json``, which
splits exactly as this module does.
"""

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from seqtool.config import TokenizerKind
from seqtool.errors import CheckpointError
from seqtool.idfiles import joined
from seqtool.tokenizer import Tokenizer, text_bytes

Array = npt.NDArray[Any]

# A word with its apostrophes is one token, so is any other sign; in scripts that do not set spaces
# between words, every character is. Python's \w lacks the marks that combine with a letter.
_NO_SPACES = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_MARKS = (
    r"\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963"
    r"\u0966-\u0df3\u200c\u200d"
)
_LETTERS = rf"(?:[^\W{_NO_SPACES}]|[{_MARKS}])+"
PATTERNS: dict[str, str] = {
    "word": rf"[{_NO_SPACES}]|{_LETTERS}(?:['\u2019]{_LETTERS})*|[^\w\s]",
    "char": r"[\s\S]",
    "token": r"\S+",
}
_BORROWED: dict[str, TokenizerKind] = {"byte": "byte", "bpe": "bpe"}  # units split by Tokenizer
UNKNOWN = "[UNK]"
GRAMS = (3, 5)  # shortest and longest character n-gram inside a word, its borders included
MAX_GRAMS = 32  # of one word: what is longer is hardly a word
MAX_CHARS = 64  # of a word that its parts are taken from
AFFIX = 4  # longest beginning and ending that is a part of a token
AT_ONCE = 1000  # texts encoded, or cut, before they are put behind those before them
MAX_CACHED = 1 << 16  # words that a lexicon remembers at once; a stream may bring any number

_DIGIT = re.compile(r"\d")
_RUN = re.compile(r"(.)\1+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]{2,}")


SHORT_TEXT = 2.5  # words; texts shorter than this on average are single words, seen as letters
ALIKE = 0.9  # share of the words that are written in the same way, where case tells nothing


def hash_text(text: str) -> int:
    """A number below 2**63 for a word or a part of one, the same on every machine."""
    blob = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(blob, digest_size=8).digest(), "little") >> 1


_hash_part = lru_cache(MAX_CACHED)(hash_text)  # words share most of their parts


@dataclass
class Texts:
    """Rows of words: those of row i are ``words[offsets[i] : offsets[i + 1]]``."""

    words: npt.NDArray[np.int32]  # (n,), rows of the lexicon's table; mapped if they are many
    offsets: npt.NDArray[np.int64]  # (N + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Words of each row, (N,)."""
        return np.diff(self.offsets)

    def cut(self, longest: int) -> "Texts":
        """Long rows cut to a length: a third of it from their beginning, the rest from their end.

        What a review says for and against ends up there (Sun et al. 2019, arXiv:1905.05583,
        section 5.3.1).
        """
        lengths, head = self.lengths, longest // 3
        if len(self) == 0 or lengths.max() <= longest:
            return self

        def chunks() -> Iterator[Array]:
            for first in range(0, len(self), AT_ONCE):
                begin, end = self.offsets[[first, min(first + AT_ONCE, len(self))]]
                some = lengths[first : first + AT_ONCE]
                starts = np.cumsum(some) - some
                place = np.arange(end - begin) - np.repeat(starts, some)
                left = np.repeat(some, some) - place
                kept = (place < head) | (left <= longest - head)
                yield np.asarray(self.words[begin:end])[kept]

        offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, longest))])
        return Texts(joined(chunks(), np.int32), offsets)

    def select(self, rows: Array) -> "Texts":
        """Some of the rows, in any order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # The k-th word of a selected row is the k-th after that row's start.
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Texts(self.words[places], offsets)


@dataclass
class Table:
    """Every word met so far; grows while texts are encoded."""

    rows: dict[str, int] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)  # in the vocabulary, 0 = not in it
    hashes: list[int] = field(default_factory=list)
    grams: list[list[int]] = field(default_factory=list)  # buckets of its character n-grams


class Lexicon:
    """Splits texts into words; knows the frequent ones by number and all by their parts."""

    def __init__(
        self,
        unit: str,
        vocabulary: Sequence[str],
        *,
        lower: bool,
        buckets: int,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Take what ``learn`` found.

        Args:
            unit: What a token is, a key of PATTERNS.
            vocabulary: Words with an id, the first gets 1; 0 is for the others.
            lower: Whether case is ignored.
            buckets: Rows of the table of character n-grams, 0 = words have no parts.
            tokenizer: What splits texts, if not the pattern of the unit; its ids are then those
                of the vocabulary.
        """
        self.unit = unit
        self.lower = lower
        self.buckets = buckets
        self.ids = {word: number for number, word in enumerate(vocabulary, 1)}
        self.tokenizer = tokenizer
        self._pattern = re.compile(PATTERNS.get(unit, ""))
        self.table = Table()

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, buckets: int = 0) -> Self:
        """One that splits and numbers as a tokenizer does; id 0, which no text has, is unknown."""
        words = tokenizer.tokens[1:]
        return cls(tokenizer.kind, words, lower=False, buckets=buckets, tokenizer=tokenizer)

    def with_parts(self, buckets: int) -> "Lexicon":
        """The same, with a table of so many rows for the character n-grams of words."""
        return Lexicon(
            self.unit, [*self.ids], lower=self.lower, buckets=buckets, tokenizer=self.tokenizer
        )

    @classmethod
    def learn(
        cls, texts: Iterable[str], unit: str, *, lower: bool, buckets: int, size: int
    ) -> Self:
        """Take words seen twice or more, the most frequent ones, at most ``size``.

        Bytes and BPE read texts as they are, whatever ``lower`` and ``buckets`` say.
        """
        if kind := _BORROWED.get(unit):
            lines = [text + "\n" for text in texts]
            return cls.of(Tokenizer.train(kind, lambda: iter(lines), vocab_size=size))
        lexicon = cls(unit, [], lower=lower, buckets=buckets)
        frequent = frequent_words(map(lexicon.split, texts), size)
        return cls(unit, frequent, lower=lower, buckets=buckets)

    @property
    def size(self) -> int:
        """Words with an id, and one for the others."""
        return len(self.ids) + 1

    def split(self, text: str) -> list[str]:
        """The words of a text, in order."""
        if self.tokenizer is not None:
            tokens = self.tokenizer.tokens
            return [tokens[i] for i in self.tokenizer.encode(text).tolist()]
        found: list[str] = self._pattern.findall(text.lower() if self.lower else text)
        return found

    def ends(self, text: str) -> list[int]:
        """Where each word of a text ends, in whole characters."""
        if self.tokenizer is not None and self.unit != "char":
            sizes = [len(token) for token in self.split(text)]  # one sign for each byte
            begins = np.cumsum([0, *(len(text_bytes(character)) for character in text)])
            places: list[int] = np.searchsorted(begins, np.cumsum(sizes), side="right").tolist()
            return [place - 1 for place in places]
        return [match.end() for match in self._pattern.finditer(text)]

    def encode(self, texts: Iterable[str]) -> Texts:
        """Look up every word; new ones get a row in ``table``."""
        return self.encode_words(map(self.split, texts))

    def encode_words(self, texts: Iterable[Sequence[str]]) -> Texts:
        """As ``encode``, for texts that are split already."""
        rows, lengths = self.table.rows, array("q", [0])

        def chunks() -> Iterator[Array]:
            left = iter(texts)
            while some := list(islice(left, AT_ONCE)):
                words = list[int]()
                for text in some:
                    try:
                        words += [rows[word] for word in text]
                    except KeyError:
                        words += [rows[word] if word in rows else self._add(word) for word in text]
                    lengths.append(len(text))
                yield np.array(words, np.int32)

        return Texts(joined(chunks(), np.int32), np.cumsum(lengths))

    def forget(self) -> None:
        """Drop the table if it has grown large; earlier ``Texts`` lose their meaning."""
        if len(self.table.rows) > MAX_CACHED:
            self.table = Table()

    def _add(self, word: str) -> int:
        table = self.table
        row = table.rows[word] = len(table.ids)
        table.ids.append(self.ids.get(self.fold(word), 0))
        table.hashes.append(hash_text(word))
        table.grams.append(self.parts(word) if self.buckets else [])
        return row

    def fold(self, word: str) -> str:
        """What of a word its id depends on: here all of it."""
        return word

    def parts(self, word: str) -> list[int]:
        """Buckets of the character n-grams of a word between its borders."""
        return [_hash_part(part) % self.buckets for part in self.grams(word)]

    @staticmethod
    def grams(word: str) -> list[str]:
        """The character n-grams of a word between its borders."""
        marked = f"<{word[:MAX_CHARS]}>"
        shortest, longest = GRAMS
        grams = [
            marked[start : start + length]
            for length in range(shortest, longest + 1)
            for start in range(len(marked) - length + 1)
        ]
        return grams[:MAX_GRAMS] or [marked]

    def to_json(self) -> str:
        """A Hugging Face tokenizer that splits and numbers as this lexicon does."""
        if self.tokenizer is not None:
            return self.tokenizer.to_json()
        vocabulary = {UNKNOWN: 0} | self.ids
        split = {
            "type": "Split",
            "pattern": {"Regex": PATTERNS[self.unit]},
            "behavior": "Removed",
            "invert": True,
        }
        return json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": self._normalizer(),
                "pre_tokenizer": split,
                "post_processor": None,
                "decoder": None,
                "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
            },
            ensure_ascii=False,
        )

    def _normalizer(self) -> dict[str, Any] | None:
        return {"type": "Lowercase"} if self.lower else None

    @classmethod
    def from_json(cls, text: str, where: str, *, buckets: int, size: int) -> Self:
        """Read what ``to_json`` wrote of a lexicon of some size.

        Raises:
            CheckpointError: If it is a tokenizer of another kind or size.
        """
        found = cls._from_json(text, where, buckets)
        if found.size != size:
            raise CheckpointError(
                f"{where}: its tokenizer has {found.size} words, the model {size}; copy the whole "
                "directory again"
            )
        return found

    @classmethod
    def _from_json(cls, text: str, where: str, buckets: int) -> Self:
        try:
            values = json.loads(text)
            if values["pre_tokenizer"]["type"] == "Sequence":
                return cls.of(Tokenizer.from_json(text, where), buckets=buckets)
            pattern = values["pre_tokenizer"]["pattern"]["Regex"]
            unit = next(unit for unit, known in PATTERNS.items() if known == pattern)
            words = sorted(values["model"]["vocab"].items(), key=lambda item: item[1])
            lower = values["normalizer"] is not None
        except (
            *(ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError),
        ) as err:
            raise CheckpointError(
                f"{where}: its tokenizer.json is not that of a classifier; train it again"
            ) from err
        return cls(unit, [word for word, _ in words[1:]], lower=lower, buckets=buckets)


class TokenLexicon(Lexicon):
    """Tokens that somebody else has split off: a number for each without case, parts with it.

    The parts are how a token begins and ends and what shape it has: what taggers have looked at
    ever since Ratnaparkhi 1996, "A maximum entropy model for part-of-speech tagging", table 1. All
    of its character n-grams beside these would only drown them (0.2 % worse on English web text).
    """

    def fold(self, word: str) -> str:
        """Without case, and every digit a 0."""
        return fold(word)

    @staticmethod
    def grams(word: str) -> list[str]:
        """Its first and its last one to four characters, and its shape."""
        folded = fold(word[:MAX_CHARS])
        sizes = range(1, AFFIX + 1)
        begins = [f"begins {folded[:size]}" for size in sizes]
        ends = [f"ends {folded[-size:]}" for size in sizes]
        return [*begins, *ends, f"shape {shape(word)}"]

    def _normalizer(self) -> dict[str, Any]:
        digits = {"type": "Replace", "pattern": {"Regex": _DIGIT.pattern}, "content": "0"}
        return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, digits]}


def frequent_words(texts: Iterable[Iterable[str]], size: int) -> list[str]:
    """Words seen twice or more, the most frequent ones first, at most ``size``."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = [word for word, count in counts.items() if count >= 2]
    # By frequency, then by the word itself: the order of the rows must not matter.
    frequent.sort(key=lambda word: (-counts[word], word))
    return frequent[:size]


def fold(word: str) -> str:
    """A word without case, every digit a 0."""
    return _DIGIT.sub("0", word.lower())


def shape(word: str) -> str:
    """Its kinds of character in order, runs cut to two: "Mr." is Xx., "1990s" is 00x."""
    kinds = (
        "X"
        if c.isupper()
        else "x"
        if c.islower()
        else "0"
        if c.isdigit()
        else "a"
        if c.isalpha()
        else c
        for c in word[:MAX_CHARS]
    )
    return _RUN.sub(r"\1\1", "".join(kinds))


def mean_words(texts: Sequence[str]) -> float:
    """How many words texts have on average, in scripts without spaces characters; 0 for none."""
    pattern = re.compile(PATTERNS["word"])
    return sum(len(pattern.findall(text)) for text in texts) / max(1, len(texts))


def case_tells(texts: Sequence[str]) -> bool:
    """Whether words of some texts differ in how they use capitals.

    Where nearly all are written alike, small, in capitals or with one at the beginning, as names
    are, capitals tell nothing and only keep apart what belongs together.
    """
    forms = Counter(
        (word[0].isupper(), word[1:].islower())
        for text in texts
        for word in _WORD.findall(text)
        if word.upper() != word.lower()
    )
    return bool(forms) and max(forms.values()) < ALIKE * forms.total()
