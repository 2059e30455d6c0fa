"""CoNLL and CoNLL-U: which columns, which lines are tokens, and what is wrong on which line."""

import gzip
from pathlib import Path

import pytest

import seqtool.storage as storage
from seqtool.errors import DataError
from seqtool.text import open_text
from seqtool.treebank import Sentence, is_treebank, read_treebank

ROOT = Path(__file__).parent.parent


def row(number, form, tag, xpos="_"):
    return "\t".join([str(number), form, "_", tag, xpos, *"_" * 5])


CONLLU = "\n".join(
    [
        "# text = Don't watch it.",
        row("1-2", "Don't", "_"),
        row(1, "Do", "AUX", "VB"),
        row(2, "n't", "PART", "RB"),
        row(3, "watch", "VERB", "VB"),
        row("3.1", "you", "PRON", "PRP"),
        row(4, "it", "PRON", "PRP"),
        row(5, ".", "PUNCT", "."),
        "",
        "",
        "# a comment",
        row(1, "New York", "PROPN", "NNP"),
        row(2, "#", "SYM", "#"),
    ]
)
CHUNKS = "The DT B-NP\n# # B-NP\n\nends NN I-NP\n"


@pytest.fixture
def source(tmp_path):
    def write(content: str | bytes, name="a.conll") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def say(source, **options) -> str:
    with pytest.raises(DataError) as error:
        read_treebank(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(str(Path(source).parent) + "/")


def test_conllu_gives_syntactic_words(source):
    bank = read_treebank(source(CONLLU, "a.conllu"))
    assert list(bank.sentences) == [
        Sentence(("Do", "n't", "watch", "it", "."), ("AUX", "PART", "VERB", "PRON", "PUNCT"), 3),
        Sentence(("New York", "#"), ("PROPN", "SYM"), 12),
    ]
    assert bank.tags == ("AUX", "PART", "PRON", "PROPN", "PUNCT", "SYM", "VERB")
    assert (len(bank), bank.num_tokens, bank.place(1)) == (2, 7, "12")
    assert bank.columns.reason == (
        "CoNLL-U, tokens from column FORM (the usual column), tags from column UPOS "
        "(the usual column)"
    )


def test_compressed_and_from_disk_it_is_the_same(source, monkeypatch):
    plain = read_treebank(source(CONLLU, "a.conllu"))
    monkeypatch.setattr(storage, "MEMORY_CHARS", 0)
    packed = read_treebank(source(gzip.compress(CONLLU.encode()), "a.conllu.gz"))
    assert list(packed.sentences) == list(plain.sentences)
    assert packed.sentences[1] == plain.sentences[1]
    assert list(packed.sentences[::-1]) == list(plain.sentences)[::-1]
    assert packed.sha256 == plain.sha256


def test_columns_are_settable(source):
    path = source(CONLLU)
    assert read_treebank(path, tag_column="xpos").sentences[0].tags[:2] == ("VB", "RB")
    assert read_treebank(path, tag_column="5").sentences[0].tags[:2] == ("VB", "RB")
    assert "no column --label-column XPSO; there are ID, FORM," in say(path, tag_column="XPSO")
    assert say(path, tag_column="XPSO").endswith("did you mean XPOS?")
    assert say(path, tag_column="11").endswith("name one of these")
    assert "cannot be both token and tag" in say(path, tag_column="FORM")


def test_last_column_is_the_tag_elsewhere(source):
    bank = read_treebank(source(CHUNKS))
    assert list(bank.sentences) == [
        Sentence(("The", "#"), ("B-NP", "B-NP"), 1),
        Sentence(("ends",), ("I-NP",), 4),
    ]
    assert read_treebank(source(CHUNKS), tag_column="2").tags == ("#", "DT", "NN")
    assert read_treebank(source(CHUNKS), tagged=False).sentences[0].tags == ()


def test_numbers_in_the_first_column_are_no_tokens(source):
    bank = read_treebank(source("1\tIt\tX\n2\tis\tY\n\n1\tso\tZ\n"))
    assert bank.sentences[0].tokens == ("It", "is")
    assert "numbers come first" in bank.columns.reason


def test_comments_and_document_marks_are_no_sentences(source):
    bank = read_treebank(
        source("# id = 1\n-DOCSTART- -X- O\n\n# id = 2\nJapan NNP B-LOC\r\n \nwon V O")
    )
    assert [sentence.tokens for sentence in bank.sentences] == [("Japan",), ("won",)]
    assert [sentence.line for sentence in bank.sentences] == [5, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a X\nb Y Z\n\n", "a.conll:2: 3 columns, but 2 are needed, as in the first token line;"),
        (CONLLU.replace("\t_\n3", "\n3"), "a.conll:4: 9 columns, but 10 are needed"),
        (CONLLU.replace("\tVERB", "\t_"), "a.conll:5: no tag in column 4; fill it in"),
        (CONLLU.replace("\twatch", "\t"), "a.conll:5: no token in column 2; fill it in"),
        (CONLLU.replace("3.1", "three"), "a.conll:6: 'three' is not the number of a token"),
        ("word\n\nword\n", "a.conll: column 1 cannot be both token and tag; there must be a"),
        ("# only\n\n\n", "a.conll: no sentence in it, only comments"),
        ("\n\n", "a.conll: no sentence in it, only comments or empty lines"),
        ("", "a.conll: empty, there is nothing to read"),
        (b"caf\xe9 X\n", "a.conll:1: not valid UTF-8 (byte 0xe9"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(source, content, message):
    assert say(source(content)).startswith(message)


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (CONLLU, "a.txt", True),
        (CHUNKS, "a.txt", True),
        (CONLLU.strip().split("\n\n")[0], "a.txt", True),  # one sentence
        ("", "a.conllu.gz", True),
        ("a b\nc d\n\ne f\n", "a.csv", False),
        ("a\tb\nc\td\n", "a.txt", False),  # a table: no empty lines
        ("A line of prose.\nAnother one, longer.\n\nThe end.\n", "a.txt", False),
        ("one\ntwo\n\nthree\n", "a.txt", False),
    ],
)
def test_a_treebank_is_told_from_other_files(source, content, name, expected):
    path = source(content or gzip.compress(b"x"), name)
    assert is_treebank(open_text(path, encoding="utf-8")) == expected


def test_select_keeps_lines(source):
    bank = read_treebank(source(CONLLU)).select([1])
    assert (len(bank), bank.num_tokens, bank.place(0)) == (1, 2, "12")
    assert bank.keys().tolist() == read_treebank(source(CONLLU)).keys().tolist()[1:]


def test_sample_corpus_is_what_its_readme_says():
    bank = read_treebank(str(ROOT / "sample_data" / "tagged.conllu"))
    assert len(bank) == 420
    assert len(set(bank.keys().tolist())) == 420
    tags: dict[str, set[str]] = {}
    for sentence in bank.sentences:
        for token, tag in zip(sentence.tokens, sentence.tags, strict=True):
            tags.setdefault(token.lower(), set()).add(tag)
    for word in ("watch", "light", "that", "can"):
        assert len(tags[word]) > 1
