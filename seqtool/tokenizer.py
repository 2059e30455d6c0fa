"""Text to ids and back: char, byte, word and bpe, each one Hugging Face tokenizer.json.

char and byte encode through tables of their own and never load the library; word and bpe load it to
learn and to encode. Every kind is reversible. Files, documents and the split are left to data.
"""

import codecs
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from seqtool.config import TokenizerKind
from seqtool.errors import CheckpointError

if TYPE_CHECKING:  # loading it takes 60 ms, which a char or byte model never needs
    import tokenizers

Ids = npt.NDArray[np.unsignedinteger[Any]]
Chunks = Callable[[], Iterator[str]]

START = "<s>"  # id 0 of every kind: between documents, and the first input of a model
UNKNOWN = "<unk>"  # id 1 of char: any character that the training text lacks
START_ID = 0
UNKNOWN_ID = 1
KINDS: tuple[TokenizerKind, ...] = get_args(TokenizerKind)

# Pieces that no token of word or bpe crosses: clitics, words with the space before them, numbers,
# punctuation, white space up to a line end, other white space (without a space before a word).
# Two facts keep text in chunks exact. No piece runs from a visible character into white space, and
# none that ends there depends on what follows, so text may be cut there. And pieces are bounded:
# without such a place, a piece is settled once the REACH characters from its start are known.
# Every tokenizer.json holds the pattern: with another one, models saved before no longer load.
PIECES = (
    r"['\u2019][\p{L}\p{M}]{1,2}(?![\p{L}\p{M}])| ?[\p{L}\p{M}]{1,64}| ?\p{N}{1,4}"
    r"| ?[^\s\p{L}\p{M}\p{N}]{1,16}|\s{0,63}\n|\s{1,64}(?!\S)|\s{1,64}"
)
REACH = 128  # more characters than a piece and its look ahead can span
CUT = re.compile(r"\S(?=[ \n])|[\ud800-\udfff]")  # text may always be cut behind a match
SURROGATES = re.compile(r"([\ud800-\udfff]+)")
NO_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte
SEGMENT = 1 << 15  # characters encoded at once, and at least buffered before text is cut
BATCH = 1024  # short texts encoded at once
SEGMENTS = 8  # encoded side by side on the cores; bounds the library's memory


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary.

    Source: GPT-2 (Radford et al. 2019), `bytes_to_unicode`: printable bytes stand for themselves,
    the others are moved up to U+0100 and beyond, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]


BYTE_SYMBOLS = _byte_symbols()
BYTE_OF = {symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)}


class TextStream:
    """Ids in, text out as soon as it is complete: no half character ever appears."""

    def __init__(self, spelling: Sequence[bytes]) -> None:
        self._spelling = spelling
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def push(self, token: int) -> str:
        """The text that this id completes, "" while bytes of a character are still missing."""
        return self._decoder.decode(self._spelling[token])

    def flush(self) -> str:
        """What is left when no id follows: the bytes of a half character, as surrogate escapes."""
        return self._decoder.decode(b"", final=True)


class Tokenizer(ABC):
    """A reversible mapping between text and ids; made by `train` or `from_json`.

    Attributes:
        kind: The recipe.
        vocab_size: Number of ids, the special ones included.
        start_id: 0, the boundary between documents; no text encodes to it.
        unknown_id: 1 for char, None for the kinds that can spell anything.
        dtype: The smallest of uint8, uint16, uint32 that holds every id.
        characters: What the vocabulary can spell, for char; empty for the others, which spell all.
        tokens: The vocabulary in the order of its ids, in BYTE_SYMBOLS for all kinds but char.
    """

    start_id = START_ID
    unknown_id: int | None = None
    characters: frozenset[str] = frozenset()

    def __init__(self, kind: TokenizerKind, tokens: list[str], merges: list[str]) -> None:
        """Build from a vocabulary in the order of its ids; use `train` or `from_json` instead."""
        self.kind = kind
        self.vocab_size = len(tokens)
        self.dtype = np.min_scalar_type(len(tokens) - 1)
        self.tokens = tokens
        self._merges = merges
        self._spelling = [b"", *map(self._spell, tokens[1:])]

    @classmethod
    def train(cls, kind: TokenizerKind, chunks: Chunks, *, vocab_size: int) -> "Tokenizer":
        """Learn a vocabulary; the same text gives the same one, however it is cut into chunks.

        Args:
            kind: char takes every character there is, byte needs no text, word takes the most
                frequent words seen at least twice, bpe merges the most frequent pairs.
            chunks: Gives the text anew at each call.
            vocab_size: The most ids that word and bpe may have; the other kinds ignore it.
        """
        if kind == "char":
            seen = (character for chunk in chunks() for character in set(chunk))
            return _CharTokenizer(kind, [START, UNKNOWN], []).extend(seen)
        alphabet = [START, *BYTE_SYMBOLS]
        if kind == "byte":
            return _ByteTokenizer(kind, alphabet, [])
        learned, merges = _learn(kind, chunks, vocab_size)
        return _PieceTokenizer(kind, alphabet + learned, merges)

    @classmethod
    def from_json(cls, text: str, where: str, *, size: int | None = None) -> "Tokenizer":
        """Read a Hugging Face tokenizer.json that `to_json` wrote.

        Args:
            text: The content of the file.
            where: Its path, for the error message.
            size: Ids that it must have, those that a model has weights for.

        Raises:
            CheckpointError: If it is damaged, or a tokenizer that seqtool did not make, or of
                another size.
        """
        try:
            saved = json.loads(text)
            vocab, merges = saved["model"]["vocab"], saved["model"].get("merges", [])
            tokens = sorted(vocab, key=vocab.__getitem__)
            # Equal to what we write: the layout is ours and the ids are 0, 1, ... each once.
            kinds = (kind for kind in KINDS if saved == _file(kind, tokens, merges))
            kind = next(kind for kind in kinds if _is_sound(kind, tokens, merges))
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            StopIteration,
        ) as err:
            raise CheckpointError(
                f"{where}: damaged, or not a tokenizer that seqtool wrote; copy the whole model "
                "directory again"
            ) from err
        if size not in (None, len(tokens)):
            raise CheckpointError(
                f"{where}: its tokenizer has {len(tokens)} ids, the model {size}; copy the whole "
                "model directory again"
            )
        made = {"char": _CharTokenizer, "byte": _ByteTokenizer}.get(kind, _PieceTokenizer)
        return made(kind, tokens, merges)

    def to_json(self) -> str:
        """A Hugging Face tokenizer.json; equal tokenizers give equal text."""
        saved = _file(self.kind, self.tokens, self._merges)
        return json.dumps(saved, ensure_ascii=False, indent=1) + "\n"

    def encode(self, text: str) -> Ids:
        """The ids of a text, (T,) of `dtype`; characters that char lacks become `unknown_id`."""
        return np.concatenate([np.empty(0, self.dtype), *self.encode_chunks((text,))])

    def encode_each(self, texts: Iterable[str]) -> Iterator[Ids]:
        """The ids of many short texts, one after the other, as `encode` gives them."""
        return map(self.encode, texts)

    @abstractmethod
    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[Ids]:
        """The ids of a text given in chunks, equal to those of the whole, in constant memory."""

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        """The text of ids (T,): START is dropped, an unknown character is U+FFFD.

        Bytes that are not UTF-8 come back as surrogate escapes, as in os.fsdecode.

        Raises:
            ValueError: If an id is outside the vocabulary.
        """
        wanted = np.asarray(ids, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.vocab_size:
            raise ValueError(f"ids must be below {self.vocab_size}, got up to {wanted.max()}")
        spelled = b"".join(map(self._spelling.__getitem__, wanted.tolist()))
        return spelled.decode("utf-8", "surrogateescape")

    def stream(self) -> TextStream:
        """A decoder for one id at a time; its pieces put together equal `decode` of all ids."""
        return TextStream(self._spelling)

    def unknown(self, text: str) -> dict[str, int]:
        """The characters that the vocabulary lacks, in code point order, and their counts."""
        return {}

    def extend(self, characters: Iterable[str]) -> "Tokenizer":
        """One that also knows these characters, sorted, behind the old ids; only char changes."""
        return self

    def merged_from(self) -> npt.NDArray[np.int64]:
        """The two ids that each of bpe was merged from, (V, 2); 0 for all others."""
        ids = {token: index for index, token in enumerate(self.tokens)}
        found = np.zeros((self.vocab_size, 2), np.int64)
        for left, right in reversed([merge.split(" ") for merge in self._merges]):
            found[ids[left + right]] = ids[left], ids[right]  # of two ways the first one counts
        return found

    def line_end_ids(self) -> Ids:
        """The ids of tokens whose text ends in a line feed, ascending, of `dtype`."""
        ends = [i for i, spelling in enumerate(self._spelling) if spelling.endswith(b"\n")]
        return np.array(ends, self.dtype)

    @staticmethod
    def _spell(token: str) -> bytes:
        """The UTF-8 bytes of an entry of a byte-level vocabulary."""
        return bytes(map(BYTE_OF.__getitem__, token))


class _CharTokenizer(Tokenizer):
    """One id per code point, looked up in a table of all code points."""

    unknown_id = UNKNOWN_ID

    def __init__(self, kind: TokenizerKind, tokens: list[str], merges: list[str]) -> None:
        super().__init__(kind, tokens, merges)
        self.characters = frozenset(tokens[2:])
        self._table = np.full(sys.maxunicode + 1, UNKNOWN_ID, self.dtype)
        self._table[code_points("".join(tokens[2:]))] = np.arange(2, len(tokens))

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[Ids]:
        for chunk in chunks:
            yield self._table[code_points(chunk)]

    def unknown(self, text: str) -> dict[str, int]:
        points = code_points(text)
        missing, counts = np.unique(points[self._table[points] == UNKNOWN_ID], return_counts=True)
        return {chr(c): n for c, n in zip(missing.tolist(), counts.tolist(), strict=True)}

    def extend(self, characters: Iterable[str]) -> Tokenizer:
        new = set(characters) - self.characters
        # A lone surrogate cannot be written to a file, so it stays unknown.
        added = sorted(c for c in new if not SURROGATES.match(c))
        return _CharTokenizer(self.kind, self.tokens + added, [])

    @staticmethod
    def _spell(token: str) -> bytes:
        return ("\N{REPLACEMENT CHARACTER}" if token == UNKNOWN else token).encode()


class _ByteTokenizer(Tokenizer):
    """One id per byte of UTF-8: the byte plus one."""

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[Ids]:
        for chunk in chunks:
            yield self._byte_ids(chunk)

    def _byte_ids(self, text: str) -> Ids:
        values = np.frombuffer(text_bytes(text), np.uint8)
        return np.add(values, START_ID + 1, dtype=self.dtype)


class _PieceTokenizer(_ByteTokenizer):
    """word and bpe: one or more ids per piece of text, bytes where nothing longer fits."""

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[Ids]:
        cut = segments(chunks)
        while batch := list(islice(cut, SEGMENTS)):
            parts = [part for segment in batch for part in SURROGATES.split(segment) if part]
            # The library takes no surrogates; the bytes they stand for are ids of their own.
            plain = [part for part in parts if not SURROGATES.match(part)]
            encoded = iter(self._library.encode_batch_fast(plain, add_special_tokens=False))
            for part in parts:
                bare = SURROGATES.match(part)
                yield self._byte_ids(part) if bare else np.array(next(encoded).ids, self.dtype)

    def encode_each(self, texts: Iterable[str]) -> Iterator[Ids]:
        left = iter(texts)
        while batch := list(islice(left, BATCH)):
            if any(len(text) > SEGMENT or SURROGATES.search(text) for text in batch):
                yield from map(self.encode, batch)
            else:
                found = self._library.encode_batch_fast(batch, add_special_tokens=False)
                yield from (np.array(one.ids, self.dtype) for one in found)

    @cached_property
    def _library(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer as LibraryTokenizer

        return LibraryTokenizer.from_str(self.to_json())


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text, (T,); lone surrogates are code points like any other."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def text_bytes(text: str) -> bytes:
    """The bytes that a text stands for, surrogate escapes undone; other surrogates are U+FFFD."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # rare, so not looked for in every text
        return NO_BYTE.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "surrogateescape")


def segments(chunks: Iterable[str]) -> Iterator[str]:
    """Cut a text where no token crosses, whatever the chunks: segments of about SEGMENT."""
    rest = ""
    pieces = (chunk[i : i + SEGMENT] for chunk in chunks for i in range(0, len(chunk), SEGMENT))
    for piece in pieces:
        rest += piece
        if len(rest) >= SEGMENT:
            cut = _last_cut(rest)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _last_cut(text: str) -> int:
    """Where to cut a text of at least SEGMENT characters so that no token is split."""
    for start in (max(0, len(text) - 1024), 0):  # white space is usually near the end
        ends = [match.end() for match in CUT.finditer(text, start)]
        if ends:
            return ends[-1]
    # No such place, as in a long line of Chinese: walk along the pieces from the start, a cut.
    splitter = _piece_splitter()
    pieces = splitter.pre_tokenize_str(text)
    while pieces[-1][1][0] + REACH > len(text):
        pieces.pop()
    # The end of a text can turn white space before it into other pieces; then cut earlier.
    while splitter.pre_tokenize_str(text[: pieces[-1][1][1]]) != pieces:
        pieces.pop()
    return pieces[-1][1][1]


def _piece_splitter() -> "tokenizers.pre_tokenizers.PreTokenizer":
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    return Split(Regex(PIECES), "isolated")


def _learn(kind: TokenizerKind, chunks: Chunks, vocab_size: int) -> tuple[list[str], list[str]]:
    """The tokens longer than a byte, in the order of their ids, and the merges of bpe.

    Source of bpe: Sennrich, Haddow & Birch 2016, arXiv:1508.07909; over bytes as in GPT-2.
    """
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    room = max(0, vocab_size - 1 - len(BYTE_SYMBOLS))
    most = room + len(BYTE_SYMBOLS)  # the library also counts single bytes, which we have anyway
    options: dict[str, Any] = {"vocab_size": most, "min_frequency": 2, "show_progress": False}
    library = LibraryTokenizer(models.WordLevel() if kind == "word" else models.BPE())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([_piece_splitter(), to_bytes])
    texts = (SURROGATES.split(segment)[::2] for segment in segments(chunks()))
    if kind == "word":
        library.train_from_iterator(texts, trainers.WordLevelTrainer(**options))
        vocab = library.get_vocab()  # ids by count, then by spelling
        words = [word for word in sorted(vocab, key=vocab.__getitem__) if len(word) > 1]
        return words[:room], []
    trainer = trainers.BpeTrainer(initial_alphabet=BYTE_SYMBOLS, **options)
    library.train_from_iterator(texts, trainer)
    pairs = json.loads(library.to_str())["model"]["merges"]
    # Should two merges spell the same token, it has one id, as in the library.
    return list(dict.fromkeys(map("".join, pairs))), list(map(" ".join, pairs))


def _file(kind: TokenizerKind, tokens: list[str], merges: list[str]) -> dict[str, Any]:
    """What a tokenizer.json of this kind holds.

    START and UNKNOWN are plain entries, not "added tokens": those would be found in the text.
    """
    regex = {"Regex": r"[\s\S]" if kind == "char" else PIECES}
    split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    to_bytes["use_regex"] = False
    steps = {"byte": [to_bytes], "char": [split]}.get(kind, [split, to_bytes])
    decoder = {"type": "Fuse"} if kind == "char" else to_bytes
    model: dict[str, Any] = {"vocab": {token: index for index, token in enumerate(tokens)}}
    if kind == "char":
        model |= {"type": "WordLevel", "unk_token": UNKNOWN}
    else:
        # word: a whole piece in the vocabulary is one id, and nothing else is ever joined.
        model |= {"type": "BPE", "ignore_merges": kind == "word", "merges": merges}
    unused = ("truncation", "padding", "normalizer", "post_processor")
    sequence = {"type": "Sequence", "pretokenizers": steps}
    parts = {"pre_tokenizer": sequence, "decoder": decoder, "model": model}
    return {"version": "1.0", "added_tokens": [], **dict.fromkeys(unused), **parts}


def _is_sound(kind: TokenizerKind, tokens: list[str], merges: list[str]) -> bool:
    """Whether tokens and merges read from a file can be what `Tokenizer.train` learned."""
    special = [START, UNKNOWN] if kind == "char" else [START, *BYTE_SYMBOLS]
    learned = tokens[len(special) :]
    if tokens[: len(special)] != special:
        return False
    if kind == "char":
        return all(len(token) == 1 and not SURROGATES.match(token) for token in learned)
    pairs = [merge.split(" ") for merge in merges]
    known = set(tokens)
    return (
        (kind != "byte" or not learned)
        and (kind == "bpe" or not merges)
        and all(len(token) > 1 and BYTE_OF.keys() >= set(token) for token in learned)
        and all(len(pair) == 2 and known >= {*pair, "".join(pair)} for pair in pairs)
    )
