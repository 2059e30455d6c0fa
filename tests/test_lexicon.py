"""Splitting as Hugging Face does it, words and their parts, rows and their selection."""

from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import seqtool.idfiles as idfiles
import seqtool.lexicon as lexicon_module
from seqtool.errors import CheckpointError
from seqtool.lexicon import MAX_GRAMS, Lexicon, Texts, TokenLexicon, case_tells
from seqtool.tokenizer import Tokenizer

TEXTS = ["the cat's hat, the mat", "The end!", "", "a cat near a mat"]
TRICKY = [
    "don't stop -- it\u2019s 3.5 km \u4f60\u597d\u4e16\u754c, caf\u00e9 \u0e2a\u0e27\u0e31\u0e2a",
    "tab\tand\nline\x00 nul \U0001f600 end\u00a0nbsp \u0130stanbul",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0964 e\u0301te\u0301",
]


def learn(unit="word", **options):
    settings = {"lower": unit == "word", "buckets": 97, "size": 100} | options
    return Lexicon.learn(TEXTS, unit, **settings)


def test_words_seen_twice_get_ids_by_frequency_then_name():
    assert learn().ids == {"the": 1, "a": 2, "mat": 3}
    assert list(learn(size=1).ids) == ["the"]


def test_splits_as_it_says():
    assert learn().split("The cat's (two) hats.") == ["the", "cat's", "(", "two", ")", "hats", "."]
    assert learn().split("\u4f60\u597d ok") == ["\u4f60", "\u597d", "ok"]
    assert learn("char").split("Ab c") == ["A", "b", " ", "c"]


@pytest.mark.parametrize("unit", ["word", "char"])
def test_tokenizer_json_splits_and_numbers_the_same(unit):
    lexicon = learn(unit)
    theirs = tokenizers.Tokenizer.from_str(lexicon.to_json())
    for text in [*TEXTS, *TRICKY]:
        encoded = lexicon.encode([text])
        ids = [lexicon.table.ids[word] for word in encoded.words]
        assert theirs.encode(text).ids == ids, text


def test_comes_back_from_its_json():
    lexicon = learn()
    again = Lexicon.from_json(lexicon.to_json(), "here", buckets=97, size=lexicon.size)
    assert (again.ids, again.unit, again.lower) == (lexicon.ids, lexicon.unit, lexicon.lower)


def test_another_kind_or_size_of_tokenizer_is_refused():
    lexicon = learn()
    with pytest.raises(CheckpointError, match=f"has {lexicon.size} words, the model 7"):
        Lexicon.from_json(lexicon.to_json(), "here", buckets=97, size=7)
    with pytest.raises(CheckpointError, match="not that of a classifier"):
        Lexicon.from_json(
            '{"model": {"vocab": {}}, "pre_tokenizer": null}', "here", buckets=0, size=1
        )


def test_parts_are_those_of_a_word_between_borders():
    lexicon = learn()
    assert len(lexicon.parts("cat")) == 6  # <ca cat at> <cat cat> <cat>
    assert len(lexicon.parts("x" * 1000)) == MAX_GRAMS
    assert lexicon.parts("a") == lexicon.parts("a")
    assert all(0 <= part < 97 for part in lexicon.parts("wonderful"))
    assert set(lexicon.parts("wonderful")) & set(lexicon.parts("wonderfully"))


def test_tokens_are_known_without_case_and_digits_and_by_their_ends_and_shapes():
    lexicon = TokenLexicon("token", ["the", "00th"], lower=True, buckets=97)
    texts = lexicon.encode_words([["The", "13th", "New York"], ["the"]])
    table = lexicon.table
    assert [table.ids[row] for row in texts.words] == [1, 2, 0, 1]
    assert len(table.ids) == 4  # "The" and "the" differ in shape
    assert TokenLexicon.grams("Ab1")[:4] == ["begins a", "begins ab", "begins ab0", "begins ab0"]
    assert TokenLexicon.grams("Ab1")[4:8] == ["ends 0", "ends b0", "ends ab0", "ends ab0"]
    assert TokenLexicon.grams("McKays-19")[-1] == "shape XxXxx-00"
    again = TokenLexicon.from_json(lexicon.to_json(), "here", buckets=97, size=lexicon.size)
    assert again.encode_words([["The", "13th"]]).words.tolist() == [0, 1]
    assert again.table.grams == table.grams[:2]
    theirs = tokenizers.Tokenizer.from_str(lexicon.to_json())
    assert theirs.encode("The 13th  x").ids == [1, 2, 0]


def test_forgets_a_table_that_grew_large(monkeypatch):
    monkeypatch.setattr("seqtool.lexicon.MAX_CACHED", 3)
    lexicon = learn()
    lexicon.encode(["a b c d e"])
    lexicon.forget()
    assert lexicon.table.rows == {}


@given(st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=6), st.data())
def test_select_and_cut_do_to_every_row_what_they_say(rows, data):
    offsets = np.cumsum([0, *map(len, rows)])
    texts = Texts(np.array([w for row in rows for w in row], np.int32), offsets)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    picked = texts.select(np.array(chosen))
    longest = data.draw(st.integers(1, 9))
    cut = texts.cut(longest)

    def unpacked(texts):
        return [texts.words[a:b].tolist() for a, b in pairwise(texts.offsets)]

    assert unpacked(picked) == [rows[i] for i in chosen]
    head = longest // 3
    expected = [
        row if len(row) <= longest else row[:head] + row[len(row) - longest + head :]
        for row in rows
    ]
    assert unpacked(cut) == expected


def test_many_texts_are_mapped_and_the_same(monkeypatch):
    lexicon, texts = learn(), TEXTS * 5
    few = lexicon.encode(texts)
    monkeypatch.setattr(lexicon_module, "AT_ONCE", 3)
    monkeypatch.setattr(idfiles, "MEMORY_NUMBERS", 7)
    many = lexicon.encode(texts)
    assert isinstance(many.words, np.memmap)
    for found, expected in ((many, few), (many.cut(4), few.cut(4))):
        np.testing.assert_array_equal(found.words, expected.words)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        assert (found.words.dtype, found.offsets.dtype) == (np.int32, np.int64)


STRANGE = ["the cat sat on the mat", "le caf\u00e9 \U0001f600 the cat", "", "the \udcff mat"]


@pytest.mark.parametrize("unit", ["byte", "bpe"])
def test_bytes_and_pieces_are_split_and_numbered_as_by_their_tokenizer(unit):
    lexicon = Lexicon.learn(STRANGE * 3, unit, lower=True, buckets=9, size=300)
    tokenizer = Tokenizer.from_json(lexicon.to_json(), "here")
    assert tokenizer.kind == unit
    for text in STRANGE:
        ids = [lexicon.table.ids[row] for row in lexicon.encode([text]).words]
        assert ids == tokenizer.encode(text).tolist()
        ends = lexicon.ends(text)
        assert ends == sorted(ends)
        assert (len(ends), [*ends, len(text)][-1]) == (len(ids), len(text))
        if text.isascii() and text:
            starts = [0, *ends[:-1]]
            pieces = [text[a:b] for a, b in zip(starts, ends, strict=True)]
            assert pieces == [tokenizer.decode([i]) for i in ids]
    again = Lexicon.from_json(lexicon.to_json(), "here", buckets=0, size=lexicon.size)
    assert (again.unit, again.ids) == (unit, lexicon.ids)


def test_a_text_ends_a_piece():
    lexicon = Lexicon.learn(["ab", "ba"] * 40, "bpe", lower=False, buckets=0, size=300)
    assert not any("ba" in token[1:] or "bb" in token or "aa" in token for token in lexicon.ids)


@pytest.mark.parametrize("kind", ["char", "byte", "word", "bpe"])
def test_the_tokens_of_a_language_model_keep_their_numbers(kind):
    text = "The cat sat. The cat sat on a mat, and the cat was red.\n" * 5
    tokenizer = Tokenizer.train(kind, lambda: iter([text]), vocab_size=400)
    lexicon = Lexicon.of(tokenizer, buckets=7)
    assert lexicon.size == tokenizer.vocab_size
    ids = [lexicon.table.ids[row] for row in lexicon.encode([text]).words]
    assert ids == tokenizer.encode(text).tolist()
    assert all(lexicon.table.grams)
    rebuilt = Lexicon.from_json(
        lexicon.with_parts(5).to_json(), "here", buckets=5, size=lexicon.size
    )
    assert (rebuilt.ids, rebuilt.buckets) == (lexicon.ids, 5)


@pytest.mark.parametrize(
    ("texts", "tells"),
    [
        (["Korhonen", "De la Cruz", "O'Neill", "M\u00fcller", "Nov\u00e1k"], True),  # de, la
        (["Korhonen", "Virtanen", "O'Neill", "M\u00fcller", "Nov\u00e1k"], False),
        (["house", "garden"], False),
        (["NASA", "USA"], False),
        (["Haus", "house", "Garten", "garden"], True),
        (["\u6771\u4eac", "12", ""], False),  # nothing has case
    ],
)
def test_case_tells_nothing_where_all_words_use_it_alike(texts, tells):
    assert case_tells(texts) == tells
