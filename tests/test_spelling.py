"""Vocabularies of pairs: reversible, joint or separate, chosen from the data."""

import json

import pytest
from tokenizers import Tokenizer as LibraryTokenizer

from seqtool.columns import Columns
from seqtool.config import PairConfig
from seqtool.errors import CheckpointError
from seqtool.pairs import Pairs
from seqtool.spelling import Spelling, choose_spelling, in_letters, learn_spelling

HARD = [
    "",
    " ",
    "Ä€ 漢字 x  y",
    "a\u0301e\u0302 ñ",
    "tab\there",
    "'tis \u201cfine\u201d — 3.14 %",
    "🙂 ok",
]
SENTENCES = [
    (
        f"The old man sees {n} red houses near the river.",
        f"Der alte Mann sieht {n} rote Häuser am Fluss.",
    )
    for n in range(200)
]


def make(rows):
    return Pairs(
        "x", rows, range(1, len(rows) + 1), "", Columns(("source", "target"), None, ""), "x"
    )


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("kind", ["char", "byte", "word", "bpe"])
def test_every_kind_is_reversible(kind, joint):
    config = PairConfig(tokenizer=kind, joint=joint, vocab_size=500)
    spelling = learn_spelling(make(SENTENCES), config)
    assert spelling.joint == joint
    for pair in SENTENCES[::20]:
        for side, text in zip((spelling.source, spelling.target), pair, strict=True):
            ids = side.encode(text)
            assert side.decode(ids) == text
            assert side.decode([*ids, 0]) == text
            if kind != "byte":
                assert "".join(side.pieces(ids)).removeprefix(" ") == text
            assert 0 not in ids
    for text in HARD:
        back = spelling.target.decode(spelling.target.encode(text))
        if kind == "char":
            assert len(back) == len(text)
            known = spelling.target.tokenizer.characters
            assert [c for c in back if c != "\ufffd"] == [c for c in text if c in known]
        else:
            assert back == text


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_many_texts_are_encoded_as_one_by_one(kind):
    side = learn_spelling(make(SENTENCES), PairConfig(tokenizer=kind)).source
    texts = [*HARD, *(pair[0] for pair in SENTENCES)]
    found = side.encode_all(texts)
    for row, text in enumerate(texts):
        mine = found.words[found.offsets[row] : found.offsets[row + 1]]
        assert mine.tolist() == side.encode(text).tolist()
    assert len(side.encode_all([])) == 0


def test_a_first_word_is_the_token_that_it_is_elsewhere():
    side = learn_spelling(make(SENTENCES), PairConfig(vocab_size=500)).source
    first, later = side.encode("river")[0], side.encode("the river")
    assert side.pieces([first]) == [" river"]
    assert first in later


@pytest.mark.parametrize("joint", [True, False])
def test_files_come_back_equal_and_are_those_of_the_library(joint):
    spelling = learn_spelling(make(SENTENCES), PairConfig(joint=joint, vocab_size=500))
    text = spelling.to_json()
    again = Spelling.from_json(text, "x")
    assert again.joint == joint
    assert again.to_json() == text
    whole = json.loads(text)
    for name, side in (("source", spelling.source), ("target", spelling.target)):
        library = LibraryTokenizer.from_str(json.dumps(whole if joint else whole[name]))
        sample = SENTENCES[7][name == "target"]
        assert library.encode(" " + sample).ids == side.encode(sample).tolist()
    with pytest.raises(CheckpointError, match="x: damaged"):
        Spelling.from_json(text[:-9], "x")


def test_bytes_that_are_no_character_can_be_shown():
    side = learn_spelling(make(SENTENCES), PairConfig(tokenizer="byte")).target
    ids = side.encode("Häuser")[:2]
    assert side.decode(ids) == "H\ufffd"


CHOICES = {
    "sentences": (SENTENCES * 3, {"tokenizer": "bpe", "joint": True}),
    "letters to sounds": (
        [("through", "θ r u\u02d0"), ("dough", "d oʊ"), ("rough", "r ʌ f")] * 9,
        {"tokenizer": "char", "target_tokenizer": "word", "joint": False},
    ),
    "dates": (
        [(f"{n % 28 + 1} May {1900 + n}", f"{1900 + n}-05-{n % 28 + 1:02}") for n in range(120)],
        {"tokenizer": "char", "joint": True},
    ),
    "backwards": (
        [(w, w[::-1]) for w in ("abcdef", "xyzzy", "fedcab", "zzyx")] * 9,
        {"tokenizer": "char", "target_tokenizer": None, "joint": True},
    ),
    "two scripts": (
        [("the dog sees the cat", "собака видит кошку сейчас")] * 30,
        {"tokenizer": "bpe", "joint": False},
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices_follow_the_data_and_can_be_used(name):
    rows, expected = CHOICES[name]
    chosen, reason = choose_spelling(make(rows), {})
    assert chosen | expected == chosen
    assert "\n" not in reason
    spelling = learn_spelling(make(rows), PairConfig(**chosen))
    assert spelling.target.decode(spelling.target.encode(rows[0][1])) == rows[0][1]


def test_more_text_gets_more_pieces():
    few, some = (choose_spelling(make(SENTENCES * n), {})[0]["vocab_size"] for n in (1, 200))
    assert few == 2000
    assert 4000 < some < 5000


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"tokenizer": "bpe"}, {"target_tokenizer": None, "vocab_size": 2000}),
        ({"joint": True}, {"tokenizer": "char", "target_tokenizer": None}),
        ({"target_tokenizer": "byte"}, {"tokenizer": "char", "joint": False}),
        ({"vocab_size": 700, "tokenizer": "bpe"}, {"vocab_size": 700}),
    ],
)
def test_what_is_given_stays_and_the_rest_follows(given, chosen):
    rows = CHOICES["letters to sounds"][0]
    found, _ = choose_spelling(make(rows), given)
    assert found | given | chosen == found
    learn_spelling(make(rows), PairConfig(**found))


KOREAN = [("한국", "h a n k u k"), ("나무", "n a m u"), ("강 é", "k a ŋ")]


def learn_sounds(rows):
    config = PairConfig(tokenizer="char", target_tokenizer="word", joint=False)
    return learn_spelling(make(rows), config)


def test_syllables_never_seen_are_spelled_with_letters_that_were():
    spelling = learn_sounds(KOREAN)
    found = spelling.source.encode("칸간ㅋ"), spelling.source.encode("국간")
    assert spelling.source.unknown_id in found[0]  # no word had that letter
    assert spelling.source.unknown_id not in found[1]
    assert len(found[1]) == 6
    each = spelling.source.encode_all(["국간", "한"])
    assert each.select([0]).words.tolist() == found[1].tolist()
    assert in_letters("국") in spelling.source.decode(found[1])
    again = Spelling.from_json(spelling.to_json(), "x")
    assert again.source.encode("국간").tolist() == found[1].tolist()


def test_only_sources_by_characters_are_taken_apart_and_only_hangul():
    spelling = learn_sounds(KOREAN)
    assert spelling.source.decode(spelling.source.encode("é")) == "é"  # not e and an accent
    turned = learn_sounds([(target, source) for source, target in KOREAN])
    assert turned.target.decode(turned.target.encode("한국")) == "한국"
    joint = learn_spelling(make(KOREAN), PairConfig(tokenizer="char", joint=True))
    assert joint.source.decode(joint.source.encode("한국")) == "한국"
    assert len(joint.source.encode("한국")) == 2
