"""How the two sides of pairs are written as ids: one vocabulary for both or one for each.

Whole sentences are made of pieces (BPE) that both languages share, single words of characters, and
the sounds of a word of symbols. All are reversible; BPE and words fall back to bytes, characters
never seen become one unknown id. Sources that are spelled by characters have the syllables of
Hangul, eleven thousand of them, as the two or three letters that each is written with.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from seqtool.columns import are_symbols
from seqtool.config import OnUnknown, PairConfig, TokenizerKind
from seqtool.errors import CheckpointError, ConfigError
from seqtool.lexicon import SHORT_TEXT, Texts, mean_words
from seqtool.pairs import Pairs
from seqtool.tokenizer import Tokenizer
from seqtool.unseen import apply_unknown_policy

Ids = npt.NDArray[np.integer[Any]]

SAMPLE = 5000  # pairs looked at to choose
MANY_DIGITS = 0.2  # of the characters: dates and numbers, read by characters
SHARED = 0.5  # of the target's letters stand in sources too: then one vocabulary serves both
# Pieces: 4,000 for the 30,000 pairs (700,000 words) of Multi30k; they grow as word types do, with
# the square root of the text (Heaps 1978; Sennrich & Zhang 2019, arXiv:1905.11901, for few pairs).
PIECES_PER_ROOT = 4.8
FEWEST_PIECES, MOST_PIECES = 2000, 16_000
MOST_WORDS = 20_000
SYLLABLES, LETTERS = re.compile(r"[\uac00-\ud7a3]+"), re.compile(r"[\u1100-\u11ff]")  # of Hangul
CHOSEN = ("tokenizer", "target_tokenizer", "joint", "vocab_size")


class Side:
    """One side's texts to ids and back; id 0 is the boundary and stands in no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        # Words carry the space before them: with one in front, the first word is like all others.
        self._lead = " " if tokenizer.kind in ("word", "bpe") else ""
        known = "".join(tokenizer.characters)
        self._in_letters = bool(LETTERS.search(known)) and not SYLLABLES.search(known)

    @property
    def kind(self) -> TokenizerKind:
        """What a token is."""
        return self.tokenizer.kind

    @property
    def vocab_size(self) -> int:
        """Number of ids, the boundary included."""
        return self.tokenizer.vocab_size

    @property
    def unknown_id(self) -> int | None:
        """The id of a character never seen; None if everything can be spelled."""
        return self.tokenizer.unknown_id

    def spelled(self, text: str) -> str:
        """The text in the characters that the vocabulary is made of."""
        return in_letters(text) if self._in_letters else text

    def known(self, text: str, policy: OnUnknown, where: str) -> tuple[str, Counter[str]]:
        """The text in characters that training saw; see ``unseen.apply_unknown_policy``."""
        return apply_unknown_policy(self.spelled(text), self.tokenizer, policy, where)

    def encode(self, text: str) -> Ids:
        """The ids of one text, (T,), without a boundary."""
        return self.tokenizer.encode(self._lead + self.spelled(text))

    def encode_all(self, texts: Iterable[str]) -> Texts:
        """The ids of many texts."""
        lead = self._lead
        spelled = map(self.spelled, texts) if self._in_letters else texts
        found = [*self.tokenizer.encode_each(lead + text if lead else text for text in spelled)]
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in found], dtype=np.int64)])
        ids = np.concatenate([np.empty(0, np.int32), *found]).astype(np.int32)
        return Texts(ids, offsets)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids (T,), boundaries dropped; bytes that are no character become U+FFFD.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        return _printable(self.tokenizer.decode(ids)).removeprefix(self._lead)

    def pieces(self, ids: Sequence[int] | Ids) -> list[str]:
        """The text of each id, with the space that words carry."""
        return [_printable(self.tokenizer.decode([token])) for token in ids]


@dataclass(frozen=True)
class Spelling:
    """Both sides; the same object twice if they share one vocabulary."""

    source: Side | None  # None if sources are images
    target: Side

    @property
    def joint(self) -> bool:
        """Whether one vocabulary serves both sides."""
        return self.source is self.target

    def to_json(self) -> str:
        """A Hugging Face tokenizer.json; those of the sides in one object if they differ."""
        if self.joint:
            return self.target.tokenizer.to_json()
        sides = {"source": self.source, "target": self.target}
        parts = {name: json.loads(side.tokenizer.to_json()) for name, side in sides.items() if side}
        return json.dumps(parts, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Read what ``to_json`` wrote; ``where`` names it in errors.

        Raises:
            CheckpointError: If it is damaged, or not from seqtool.
        """
        try:
            saved = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise CheckpointError(
                f"{where}: damaged; copy the whole model directory again"
            ) from err
        if not isinstance(saved, dict) or saved.keys() not in ({"source", "target"}, {"target"}):
            side = Side(Tokenizer.from_json(text, where))
            return cls(side, side)
        sides = {
            name: Side(Tokenizer.from_json(json.dumps(side), where)) for name, side in saved.items()
        }
        return cls(sides.get("source"), sides["target"])


def learn_spelling(train: Pairs, config: PairConfig) -> Spelling:
    """Learn the vocabularies of pairs; the same pairs give the same ones."""
    kinds = config.tokenizer, config.target_tokenizer or config.tokenizer
    if config.joint and kinds[0] == kinds[1]:
        side = _learn(kinds[0], (train.sources, train.targets), config.vocab_size)
        return Spelling(side, side)
    sources: Sequence[str] = train.sources
    if kinds[0] == "char":
        sources = [in_letters(text) for text in sources]
    sides = zip(kinds, (sources, train.targets), strict=True)
    return Spelling(*(_learn(kind, (texts,), config.vocab_size) for kind, texts in sides))


def learn_lines(train: Pairs, config: PairConfig) -> Spelling:
    """Learn the vocabulary of what images say; they have none themselves."""
    kind = config.target_tokenizer or config.tokenizer
    return Spelling(None, _learn(kind, (train.targets,), config.vocab_size))


def choose_lines(train: Pairs, given: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer for what images say: signs, one after the other; see ``choose_spelling``.

    Raises:
        ConfigError: If one vocabulary for both sides is asked for.
    """
    if given.get("joint"):
        raise ConfigError("--joint: images have no vocabulary to share; leave it out")
    words = len(train) * mean_words(train.targets[:SAMPLE])
    chosen = {"tokenizer": "char", "joint": False, "vocab_size": _pieces(words)}
    return chosen | {name: value for name, value in given.items() if name in CHOSEN}


def choose_spelling(train: Pairs, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Tokenizers that suit pairs.

    Args:
        train: The pairs to learn from.
        given: Fields of ``PairConfig`` that the user has set; the others follow them.

    Returns:
        The fields ``tokenizer``, ``target_tokenizer``, ``joint`` and ``vocab_size``, those given
        unchanged; and why, for people.
    """
    step = max(1, len(train) // SAMPLE)
    sample = [train.texts[i] for i in range(0, len(train), step)]
    sides = [[pair[at] for pair in sample] for at in (0, 1)]
    kinds = [_choose_kind(texts) for texts in sides]
    if "tokenizer" in given:
        kinds = [given["tokenizer"]] * 2
    if given.get("target_tokenizer"):
        kinds[1] = given["target_tokenizer"]
    elif given.get("joint"):
        kinds[1] = kinds[0]
    same = kinds[0] == kinds[1]
    shared = _shared_letters(*sides)
    joint = given.get("joint", same and shared >= SHARED)
    words = [len(train) * mean_words(texts) for texts in sides]
    rooms = [MOST_WORDS]
    if "bpe" in kinds:
        counted = [n for n, kind in zip(words, kinds, strict=True) if kind == "bpe"]
        rooms = [_pieces(sum(counted) if joint else max(counted))]
    chosen = {
        "tokenizer": kinds[0],
        "target_tokenizer": None if same else kinds[1],
        "joint": joint,
        "vocab_size": rooms[0],
    } | {name: value for name, value in given.items() if name in CHOSEN}
    what = " and ".join(dict.fromkeys(kinds))
    reason = f"{mean_words(sides[0]):.1f} and {mean_words(sides[1]):.1f} words a text: {what}, "
    shares = f"{shared:.0%} of the target's letters stand in sources"
    return chosen, reason + ("one vocabulary, " if joint else "two vocabularies, ") + shares


def in_letters(text: str) -> str:
    """The text with each syllable of Hangul as its letters (Unicode 16.0, section 3.12).

    A syllable that training never saw is then made of letters that it did see.
    """
    return SYLLABLES.sub(lambda found: unicodedata.normalize("NFD", found[0]), text)


def _pieces(words: float) -> int:
    """How many pieces suit a text of so many words."""
    pieces = round(PIECES_PER_ROOT * words**0.5, -2)
    return int(min(max(pieces, FEWEST_PIECES), MOST_PIECES))


def _learn(kind: TokenizerKind, sides: Sequence[Iterable[str]], vocab_size: int) -> Side:
    lead = " " if kind in ("word", "bpe") else ""
    # A character vocabulary shall hold what stands in texts, and no line end of ours.
    end = "\n" if lead else ""

    def chunks() -> Iterator[str]:
        texts = chain.from_iterable(sides)
        while batch := [lead + text + end for text in islice(texts, SAMPLE)]:
            yield "".join(batch)

    return Side(Tokenizer.train(kind, chunks, vocab_size=vocab_size))


def _choose_kind(texts: Sequence[str]) -> TokenizerKind:
    if are_symbols(texts):
        return "word"
    letters = sum(map(len, texts))
    digits = sum(len(re.findall(r"\d", text)) for text in texts)
    if digits > MANY_DIGITS * letters or mean_words(texts) < SHORT_TEXT:
        return "char"
    return "bpe"


def _shared_letters(sources: Iterable[str], targets: Iterable[str]) -> float:
    """Share of the letters of targets that occur in sources at all."""
    known = {*chain.from_iterable(sources)}
    letters = Counter(c for c in chain.from_iterable(targets) if not c.isspace())
    return sum(n for c, n in letters.items() if c in known) / max(1, letters.total())


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
