"""Which column is text and which label: by name, by content, as told."""

import pytest

from seqtool.columns import Columns, choose_columns
from seqtool.errors import DataError

TEXTS = [f"a long and varied text about so many things and number {n}" for n in range(40)]


def rows(*columns):
    return [list(row) for row in zip(*columns, strict=True)]


def choose(names, sample, **options) -> Columns:
    return choose_columns(names.split(), sample, "x.csv", **options)


def numbers(n=40):
    return [str(n) for n in range(n)]


def labels(n=40):
    return ["yes" if n % 3 else "no" for n in range(n)]


@pytest.mark.parametrize(
    ("names", "text", "label"),
    [
        ("text label", "text", "label"),
        ("label text", "text", "label"),
        ("Review Sentiment", "Review", "Sentiment"),
        ("label_text text label", "text", "label"),
        ("title content topic", "content", "topic"),
        ("review_body star_rating", "review_body", "star_rating"),
        ("reviewText classLabel", "reviewText", "classLabel"),
        ("name language", "name", "language"),
    ],
)
def test_names_decide(names, text, label):
    sample = rows(*([labels()] * len(names.split())))
    found = choose(names, sample)
    assert (found.texts, found.label) == ((text,), label)
    assert found.reason == f'text from "{text}" (by its name), label from "{label}" (by its name)'


@pytest.mark.parametrize("pair", ["premise hypothesis", "Sentence1 Sentence2", "text_a text_b"])
def test_pairs_are_found_by_name(pair):
    found = choose(f"{pair} gold", rows(TEXTS, TEXTS, labels()))
    assert found.texts == tuple(pair.split())
    assert found.label == "gold"


def test_content_decides_where_names_say_nothing():
    found = choose("a b c d", rows(numbers(), TEXTS, labels(), [t[:30] for t in TEXTS]))
    assert (found.texts, found.label) == (("b",), "c")
    assert found.reason == (
        'text from "b" (the longest, varied texts), label from "c" (2 different short values)'
    )


def test_a_constant_is_no_label_if_something_varies():
    found = choose("a b c", rows(["same"] * 40, TEXTS, labels()))
    assert found.label == "c"


def test_a_column_of_numbers_is_no_text_whatever_its_name():
    assert choose("text a label", rows(numbers(), TEXTS, labels())).texts == ("a",)


def test_long_texts_are_no_label_whatever_their_name():
    assert choose("a target b", rows(labels(), TEXTS, TEXTS)).label == "a"


def test_missing_values_are_not_counted():
    found = choose("a b", rows([None, *TEXTS[1:]], [None, "", *labels()[2:]]))
    assert (found.texts, found.label) == (("a",), "b")


def test_what_the_user_names_is_taken():
    found = choose(
        "text label x y",
        rows(TEXTS, labels(), TEXTS, labels()),
        text_columns=["x"],
        label_column="y",
    )
    assert found == Columns(("x",), "y", 'text from "x" (given), label from "y" (given)')


def test_no_label_is_looked_for_if_none_is_wanted():
    found = choose("text label", rows(TEXTS, labels()), labelled=False)
    assert found == Columns(("text",), None, 'text from "text" (by its name)')


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            "text label",
            {"text_columns": ["Txt"]},
            'x.csv: no column "Txt"; there are text, label; did you mean "text"?',
        ),
        ("text label", {"label_column": "mood"}, "name one of these"),
        ("text text", {"text_columns": ["text"]}, '2 columns are called "text"; rename them'),
        (
            "text label",
            {"text_columns": ["text"], "label_column": "text"},
            'column "text" cannot be both text and label',
        ),
    ],
)
def test_wrong_names_are_told(names, options, message):
    with pytest.raises(DataError) as error:
        choose(names, rows(TEXTS, labels()), **options)
    assert message in str(error.value)


def test_what_cannot_be_guessed_is_asked_for():
    with pytest.raises(DataError, match="which column is the label; there are a, b, c; name it"):
        choose("a b c", rows(TEXTS, TEXTS, TEXTS))
    with pytest.raises(DataError, match="which column is the text; there are a, b; name it with"):
        choose("a b", rows(numbers(), numbers()), labelled=False)
