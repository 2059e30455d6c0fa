"""Which columns are a text and its translation, and when the first row is a header."""

import pytest

from seqtool.errors import DataError
from seqtool.sides import choose_sides, looks_like_header, looks_like_pairs

SENTENCES = [
    ("The dog sleeps.", "Der Hund schläft."),
    ("A cat eats fish.", "Eine Katze isst Fisch."),
]
WORDS = [("through", "θ r u\u02d0"), ("dough", "d oʊ"), ("rough", "r ʌ f")]


@pytest.mark.parametrize(
    ("names", "source", "target"),
    [
        ("en de", "en", "de"),
        ("id text_de text_en", "text_de", "text_en"),
        ("target source", "source", "target"),
        ("English Deutsch notes", "English", "Deutsch"),
        ("key word pronunciation", "word", "pronunciation"),
        ("translation.fr translation.en", "translation.fr", "translation.en"),
        ("input_text output_text", "input_text", "output_text"),
        ("a b", "a", "b"),
    ],
)
def test_names_decide_and_else_the_order(names, source, target):
    columns = names.split()
    rows = [("17", *(f"cell {name} of {n}" for name in columns[1:])) for n in range(3)]
    if columns[0] not in ("id", "key"):
        rows = [(f"cell of {n}", *row[1:]) for n, row in enumerate(rows)]
    assert choose_sides(columns, rows, "x").texts == (source, target)


def test_one_named_column_leaves_the_other_to_be_guessed():
    rows = [("a b", "c d", "e f")] * 2
    assert choose_sides("pqr", rows, "x", source="q").texts == ("q", "p")
    assert choose_sides("pqr", rows, "x", targets=["p"]).texts == ("q", "p")
    assert choose_sides("pqr", rows, "x", source="r", targets=["p", "q"]).texts == ("r", "p", "q")


def test_numbered_columns_are_further_right_answers():
    names = ["source", "reference1", "reference2", "reference_3", "note1"]
    rows = [("a b", "c d", "e f", "g h", "i j")]
    assert choose_sides(names, rows, "x").texts == (*names[:4],)


def test_without_names_columns_do_not_become_further_answers():
    rows = [("Go.", "Va !", "CC-BY")] * 3
    assert choose_sides("123", rows, "x").texts == ("1", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "soruce"}, 'no column "soruce"; there are source, target; did you mean'),
        ({"source": "target", "targets": ["target"]}, "cannot be both"),
    ],
)
def test_wrong_names_are_told(options, message):
    with pytest.raises(DataError, match=message):
        choose_sides(("source", "target"), SENTENCES, "x", **options)


def test_numbers_beside_one_text_are_asked_about():
    rows = [("1", "a text", "2"), ("2", "another", "3")]
    with pytest.raises(DataError, match="name them with --source-column and --target-column"):
        choose_sides(("n", "words", "m"), rows, "x")


@pytest.mark.parametrize(
    "rows",
    [
        [("en", "de"), *SENTENCES],
        [("word", "ipa"), *WORDS],
        [("one", "two"), *SENTENCES],
        [("raw", "iso"), ("3 May 2001", "2001-05-03"), ("4 June 1999", "1999-06-04")],
    ],
)
def test_headers(rows):
    assert looks_like_header(rows, [])


@pytest.mark.parametrize(
    "rows",
    [
        SENTENCES,
        WORDS,
        [("Go", "Va"), ("Hi", "Salut"), ("I run", "Je cours")],
        [("3 May 2001", "2001-05-03"), ("4 June 1999", "1999-06-04")],
        [("en", "de")],
    ],
)
def test_rows_that_are_no_header(rows):
    expected = rows == [("en", "de")]  # alone, names of languages are a header all the same
    assert looks_like_header(rows, []) == expected


def test_names_that_the_user_expects_make_a_header():
    assert looks_like_header(WORDS, ["dough", "d oʊ"]) is False
    assert looks_like_header(WORDS, ["through"])


@pytest.mark.parametrize(
    ("names", "rows", "pairs"),
    [
        (("1", "2"), SENTENCES, True),
        (("en", "label"), [(f"text {n}", "pos" if n % 2 else "neg") for n in range(20)], False),
        (("text", "sentiment", "about"), [(f"t {n}", "pos", "cafe") for n in range(20)], False),
        (("source", "target"), [(f"t {n}", str(n % 2)) for n in range(20)], False),
        (("word", "pron", "kind"), [(f"t{n}", f"s{n}", "noun") for n in range(20)], True),
        (("a", "b", "c"), [(f"t{n}", f"s{n}", "noun") for n in range(20)], False),
        (("id", "text"), [(str(n), f"text {n}") for n in range(9)], False),
        (("text", "label"), [("a b c", "x"), ("d e f", "")], False),
    ],
)
def test_a_table_of_labels_is_no_table_of_pairs(names, rows, pairs):
    assert bool(looks_like_pairs(names, rows)) == pairs
