"""Texts in, translations out: a trained translator with its spelling, without torch.

Lines beyond what training saw are cut at the ends of sentences and put together again.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seqtool.batches import by_length
from seqtool.beam import Hypothesis, normalised
from seqtool.checkpoint import Card, load
from seqtool.claims import check_pairs
from seqtool.config import UNSEEN, BeamConfig, DecodeConfig, Precision
from seqtool.errors import CheckpointError, ConfigError
from seqtool.scans import Scanner
from seqtool.shapes import check_weights
from seqtool.spelling import Side, Spelling
from seqtool.tokenizer import BYTE_SYMBOLS
from seqtool.translator import Translator, weight_shapes

Array = npt.NDArray[Any]

STRIPS = 30  # into which an image is cut to draw where a translation looks
ALIGNED_AT_ONCE = 64  # pieces of texts
TWICE, SPARE = 2, 10  # tokens a translation may have where training has not told: 2 S + 10
# A sentence ends with one of these, what closes it, and a space, which CJK scripts do not set.
SENTENCE_END = re.compile(
    r"(?<=[.!?\u2026])[\"')\]\u00bb\u2019\u201d]*\s+|(?<=[\u3002\uff01\uff1f])[\u300d\u300f]*\s*"
)


@dataclass(frozen=True)
class Wishes:
    """How texts are to be translated."""

    beam: BeamConfig = field(default_factory=BeamConfig)
    sample: DecodeConfig | None = None  # draw at random instead of searching
    replace_unknown: bool = False  # words spelled by bytes are copied from the source
    batch_size: int = 64  # texts side by side


@dataclass(frozen=True)
class Alignment:
    """Where a translation looked.

    Attributes:
        source: S tokens, as people read them, or columns of an image.
        target: T tokens.
        parts: Of each piece of the text its weights, (T_i, S_i) float32; what a row lacks of 1 went
            to the end of the source. (T_i, 0) for a model without attention.
    """

    source: list[str]
    target: list[str]
    parts: list[Array]

    @property
    def weights(self) -> Array:
        """All weights, (T, S) float32: 0 outside of a token's own piece."""
        whole = np.zeros([sum(part.shape[axis] for part in self.parts) for axis in (0, 1)])
        row = column = 0
        for part in self.parts:
            whole[row : row + part.shape[0], column : column + part.shape[1]] = part
            row, column = row + part.shape[0], column + part.shape[1]
        return whole.astype(np.float32)

    @property
    def looked_at(self) -> list[int]:
        """For each token of the target the token of the source with the largest weight."""
        found, column = list[int](), 0
        for part in self.parts:
            if part.shape[1]:
                found += (column + part.argmax(axis=1)).tolist()
            column += part.shape[1]
        return found

    def in_strips(self, most: int) -> "Alignment":
        """With neighbouring tokens of the source added up, so that there are ``most`` at most."""
        size = len(self.source)
        starts = np.unique(np.arange(most) * size // most) if size else np.zeros(0, np.int64)
        whole = self.weights
        strips = np.add.reduceat(whole, starts, axis=1) if size else whole
        return Alignment([self.source[start] for start in starts], self.target, [strips])


@dataclass(frozen=True)
class Translation:
    """One translation of a text; of a long one the translations of its pieces put together.

    Attributes:
        text: What it says.
        score: Sum of log-probs over length to the power of the length penalty.
        log_probs: Of each token and of the end of each piece, in nats.
        ids: Of each piece, source and target without boundaries.
    """

    text: str
    score: float
    log_probs: list[float]
    ids: list[tuple[Array, Array]]


class Piece(NamedTuple):
    """What is translated at once: a text, or a part of a long one."""

    before: str  # what stands between it and the piece before
    ids: Array  # (S,), or of an image its columns, (S, D)


class TextTranslator:
    """Translates texts. What becomes of one does not depend on those beside it."""

    def __init__(self, translator: Translator, spelling: Spelling, card: Card) -> None:
        """Take a model, the spelling of its two sides, and its card."""
        self.translator = translator
        self.spelling = spelling
        self.card = card
        self.scanner = Scanner.of(card.source, "the model's card")
        longest = card.source.get("longest", {})
        self._ratio, self._most = longest.get("ratio"), longest.get("target")
        self.limit = int(longest.get("source") or card.data.max_length)  # tokens of a piece

    def translate(self, texts: Sequence[str], wishes: Wishes) -> list[list[Translation]]:
        """The best translations of each text, the best first; of a text of spaces one empty one.

        A model that reads images takes their names in place of texts.

        Raises:
            ConfigError: For what the model cannot do.
            DataError: If an image cannot be read.
            CheckpointError: If the model's numbers are not finite.
        """
        if wishes.replace_unknown:
            self._check_replacing()
        pieces = [self._pieces(text) for text in texts]
        found = iter(self._search_all([piece.ids for parts in pieces for piece in parts], wishes))
        return [self._join(parts, [next(found) for _ in parts], wishes) for parts in pieces]

    def _pieces(self, text: str) -> list[Piece]:
        """What is translated at once."""
        if self.spelling.source is not None:
            return list(cut(text, self.spelling.source, self.limit))
        assert self.scanner is not None, "load_translator has seen to it"
        name = text.strip()
        columns = [self.scanner.columns(Path(name))] if name else []
        return [Piece("", self.scanner.frames(pixels)) for pixels in columns]

    def _search_all(self, sources: Sequence[Array], wishes: Wishes) -> list[list[Hypothesis]]:
        """The translations of sources, each its ids; those of about the same length together."""
        found: list[list[Hypothesis]] = [[] for _ in sources]
        if not sources:
            return found
        for rows in by_length(np.array([len(ids) for ids in sources]), wishes.batch_size):
            made = self._search([sources[row] for row in rows], wishes)
            for row, hypotheses in zip(rows, made, strict=True):
                found[row] = hypotheses
        return found

    def _check_replacing(self) -> None:
        if self.spelling.source is None:
            raise ConfigError("--replace-unknown copies words, but this model reads images")
        if self.spelling.target.kind != "word":
            raise ConfigError(
                f"--replace-unknown is for a vocabulary of words; this model writes "
                f"{self.spelling.target.kind}, which spells every word: leave it out"
            )
        if self.translator.config.attention == "none":
            raise ConfigError(
                "--replace-unknown copies what the attention looks at; this model has none"
            )

    def attention(self, text: str) -> Alignment:
        """Where the best translation of a text looks; see ``align``."""
        (found,) = self.translate([text], Wishes())
        return self.align([found[0]])[0]

    def align(self, translations: Sequence[Translation]) -> list[Alignment]:
        """Where translations looked; a piece of a long text looks at that piece only."""
        pairs = [pair for translation in translations for pair in translation.ids]
        looks = list[Array]()
        for first in range(0, len(pairs), ALIGNED_AT_ONCE):
            sources, targets = zip(*pairs[first : first + ALIGNED_AT_ONCE], strict=True)
            looks += self.translator.align(sources, targets)
        rest = iter(looks)
        return [
            Alignment(
                [p for source, _ in found.ids for p in self._shown(source)],
                [p for _, target in found.ids for p in self.spelling.target.pieces(target)],
                [next(rest)[:-1, :-1] for _ in found.ids],
            )
            for found in translations
        ]

    def _shown(self, source: Array) -> list[str]:
        """The tokens of a source as people read them; of an image the numbers of its columns."""
        if self.spelling.source is None:
            return [*map(str, range(len(source)))]
        return self.spelling.source.pieces(source)

    def _search(self, sources: Sequence[Array], wishes: Wishes) -> list[list[Hypothesis]]:
        most = [wishes.beam.max_length or self._room(len(source)) for source in sources]
        unknown = self.spelling.target.unknown_id
        banned = [] if unknown is None else [unknown]
        if wishes.sample is None:
            return self.translator.translate(sources, wishes.beam, most, banned_ids=banned)
        return self.translator.sample(
            sources, wishes.sample, most, beam=wishes.beam, banned_ids=banned
        )

    def _room(self, length: int) -> int:
        """The most tokens of a translation, its end included, of a source of some length."""
        if self._ratio is None or self._most is None:
            return TWICE * length + SPARE
        return int(min(self._most, math.ceil(self._ratio * (length + 1)))) + SPARE

    def _join(
        self, pieces: Sequence[Piece], found: Sequence[Sequence[Hypothesis]], wishes: Wishes
    ) -> list[Translation]:
        """The n-th best of a text is made of the n-th best of its pieces, or their last."""
        if not pieces:
            return [Translation("", 0.0, [], [])]
        made = []
        for place in range(max(map(len, found))):
            chosen = [ranked[min(place, len(ranked) - 1)] for ranked in found]
            text = ""
            for piece, hypothesis in zip(pieces, chosen, strict=True):
                words = self._text(piece.ids, hypothesis.ids, wishes)
                text += (piece.before if text and words else "") + words
            logs = [log for hypothesis in chosen for log in hypothesis.log_probs.tolist()]
            score = chosen[0].score
            if len(chosen) > 1:
                score = float(normalised(sum(logs), len(logs), wishes.beam.length_penalty))
            ids = [(p.ids, h.ids) for p, h in zip(pieces, chosen, strict=True)]
            made.append(Translation(text, score, logs, ids))
        return made

    def _text(self, source: Array, target: Array, wishes: Wishes) -> str:
        if wishes.replace_unknown:
            return _one_line(self._copied(source, target))
        return _one_line(self.spelling.target.decode(target))

    def _copied(self, source: Array, target: Array) -> str:
        """A translation whose words outside the vocabulary are those of the source looked at.

        Such words come out letter by letter, of which a model of words has seen too little to
        spell well (Luong et al. 2015, arXiv:1410.8206, for the idea).
        """
        source_side, target_side = self.spelling.source, self.spelling.target
        assert source_side is not None, "_check_replacing has seen to it"
        words = _words(source_side, source)
        weights: Array | None = None
        text = ""
        for first, last in _words(target_side, target):
            word = target_side.tokenizer.decode(target[first:last])
            if words and _is_spelled(target[first:last], word):
                if weights is None:
                    (weights,) = self.translator.align([source], [target])
                looked = [float(weights[first:last, a:b].sum()) for a, b in words]
                a, b = words[int(np.argmax(looked))]
                space = word[: len(word) - len(word.lstrip())]
                word = space + source_side.tokenizer.decode(source[a:b]).strip()
            text += word
        return text.removeprefix(" ")


def _one_line(text: str) -> str:
    """The text without line ends, which would make two lines of one."""
    return " ".join(text.splitlines())


def _words(side: Side, ids: Array) -> list[tuple[int, int]]:
    """Where each word begins and ends in ids: a token that begins with a space begins one."""
    pieces = side.pieces(ids)
    starts = [i for i, piece in enumerate(pieces) if i == 0 or piece[:1].isspace()]
    return list(zip(starts, [*starts[1:], len(pieces)], strict=True))


def _is_spelled(ids: Array, word: str) -> bool:
    """Whether a word stands in no vocabulary: single bytes, with a letter or digit among them."""
    return bool((ids <= len(BYTE_SYMBOLS)).all()) and any(map(str.isalnum, word))


def cut(text: str, side: Side, limit: int) -> Iterator[Piece]:
    """A text in pieces of up to ``limit`` tokens: whole, or its sentences, or parts of these.

    Nothing is lost but space around the text; a text without tokens has no pieces.
    """
    text = text.strip()
    ids = side.encode(text) if text else np.zeros(0, np.int64)
    if len(ids) <= limit:
        if len(ids):
            yield Piece("", ids)
        return
    before = ""
    for sentence, after in _sentences(text):
        for part, space in _halved(sentence, side, limit):
            yield Piece(before, side.encode(part))
            before = space
        before = after


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """The sentences of a text, each with the space after it."""
    start = 0
    for end in SENTENCE_END.finditer(text):
        sentence = text[start : end.end()].rstrip()
        if sentence:
            yield sentence, text[start + len(sentence) : end.end()]
            start = end.end()
    if start < len(text):
        yield text[start:], ""


def _halved(text: str, side: Side, limit: int) -> Iterator[tuple[str, str]]:
    """A sentence in parts of up to ``limit`` tokens, cut at spaces; each with the space after."""
    if len(text) <= 1 or len(side.encode(text)) <= limit:
        yield text, ""
        return
    middle = len(text) // 2
    spaces = [space.span() for space in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    first, last = min(spaces, key=lambda span: abs(span[0] - middle), default=(middle, middle))
    *head, (end, _) = _halved(text[:first], side, limit)
    yield from head
    yield end, text[first:last]
    yield from _halved(text[last:], side, limit)


def load_translator(
    path: Path,
    *,
    precision: Precision = "float32",
    threads: int | None = None,
    announce: Callable[[], None] = lambda: None,
) -> TextTranslator:
    """Read a translator from its directory.

    Args:
        path: The directory.
        precision: Of the weights; int8 is faster, hardly worse.
        threads: At most so many.
        announce: Called if code has to be compiled.

    Raises:
        CheckpointError: As ``checkpoint.load``.
        ConfigError: If the model was trained for another task.
    """
    saved = load(path, "translate")
    spelling = Spelling.from_json(saved.tokenizer_json, str(path))
    check_pairs(saved.card, str(path))
    scanner = Scanner.of(saved.card.source, str(path))
    source = scanner or spelling.source
    if source is None or (scanner and spelling.source):
        raise CheckpointError(
            f"{path}: config.json and tokenizer.json do not agree whether sources are images; copy "
            "the whole model directory again"
        )
    size = source.width if isinstance(source, Scanner) else source.vocab_size
    shapes = weight_shapes(
        saved.card.model, size, spelling.target.vocab_size, pictures=scanner is not None
    )
    check_weights(saved.weights, shapes, str(path))
    translator = Translator(
        saved.card.model, saved.weights, precision=precision, threads=threads, announce=announce
    )
    return TextTranslator(translator, spelling, saved.card)


def open_translator(
    path: Path,
    *,
    beam: BeamConfig | None = None,
    precision: Precision = "float32",
    threads: int | None = None,
    announce: Callable[[], None] = lambda: None,
) -> Callable[[Sequence[str]], list[str]]:
    """What ``evaluate`` asks: gives for each text its best translation; see ``load_translator``."""
    translator = load_translator(path, precision=precision, threads=threads, announce=announce)
    wishes, side = Wishes(beam=beam or BeamConfig()), translator.spelling.source

    def answer(texts: Sequence[str]) -> list[str]:
        if side is not None:  # as translate reads them
            texts = [side.known(text, UNSEEN, "source")[0] for text in texts]
        return [found[0].text for found in translator.translate(texts, wishes)]

    return answer
