"""Scores of translations: those of sacrebleu, and of a slow table."""

import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from seqtool.metrics import (
    bleu,
    choose_tokenizer,
    choose_unit,
    chrf,
    edit_distance,
    edits,
    exact,
    repeats,
)

HYPOTHESES = ["Der Hund schläft.", "eine Katze isst Fische", "Es regnet heute stark in der Stadt"]
REFERENCES = [
    ("Der Hund schläft .",),
    ("Eine Katze isst Fisch.", "Eine Katze frisst den Fisch."),
    ("Es regnet stark in der Stadt.",),
]
COLUMNS = [[r[0] for r in REFERENCES], [None, REFERENCES[1][1], None]]


def table_distance(first, second):
    """The usual table, row by row (Wagner & Fischer 1974)."""
    row = list(range(len(second) + 1))
    for above, x in enumerate(first, 1):
        new = [above]
        for at, y in enumerate(second, 1):
            new.append(min(row[at] + 1, new[-1] + 1, row[at - 1] + (x != y)))
        row = new
    return row[-1]


def test_bleu_and_chrf_are_those_of_sacrebleu_with_several_answers():
    score = bleu(HYPOTHESES, REFERENCES)
    assert score.value == sacrebleu.corpus_bleu(HYPOTHESES, COLUMNS).score
    assert "nrefs:var|" in score.signature
    assert "|tok:13a|" in score.signature
    assert score.low is None
    assert chrf(HYPOTHESES, REFERENCES).value == sacrebleu.corpus_chrf(HYPOTHESES, COLUMNS).score


def test_lower_is_the_option_lc():
    first = [(answers[0],) for answers in REFERENCES]
    score = bleu(HYPOTHESES, first, lower=True)
    assert score.value == sacrebleu.corpus_bleu(HYPOTHESES, COLUMNS[:1], lowercase=True).score
    assert "case:lc" in score.signature
    assert score.value > bleu(HYPOTHESES, first).value


def test_intervals_hold_the_score():
    for measure in (bleu, chrf):
        score = measure(HYPOTHESES * 20, REFERENCES * 20, resample=True)
        assert score.low < score.value < score.high
        none = measure(["x"], [("ganz anders",)], resample=True)
        assert none.low == none.high == none.value


def test_scripts_without_spaces_get_a_tokenizer_of_their_own():
    assert choose_tokenizer([("Ein Hund.",), ("狗",)]) == "13a"
    assert choose_tokenizer([("狗在睡觉。",)]) == "zh"
    assert choose_tokenizer([("犬が眠っている。",)]) == "char"
    right = "一只狗在睡觉。"
    assert bleu([right], [(right,)]).value > 99.9


def test_any_right_answer_counts():
    found = exact(["a b", "c", " x  y "], [("b", "a b"), ("d",), ("x y",)])
    assert found.tolist() == [True, False, True]
    counts, sizes = edits(["θ r u\u02d0", "d o"], [("θ ɹ u\u02d0 w", "θ r u"), ("d o",)], "word")
    assert counts.tolist() == [1, 0]
    assert sizes.tolist() == [3, 2]


def test_the_unit_is_what_stands_between_spaces_if_there_are_several():
    assert choose_unit([("2001-05-03",), ("1999-01-02",)]) == "character"
    assert choose_unit([("r ʌ f",), ("d oʊ",)]) == "word"
    sounds = [("r ʌ f",), ("d oʊ k",)]
    assert choose_unit(sounds, ["rough", "doc"]) == "sound"
    assert choose_unit(sounds, ["a rough one", "the doc there"]) == "word"
    assert choose_unit([("reading",), ("walked",)], ["read", "walk"]) == "character"
    counts, sizes = edits(["2001-05-04"], [("2001-05-03",)], "character")
    assert (counts[0], sizes[0]) == (1, 10)


@given(
    st.lists(st.sampled_from("abc"), max_size=90), st.lists(st.sampled_from("abcd"), max_size=90)
)
def test_edit_distance_is_that_of_the_table(first, second):
    assert edit_distance(first, second) == table_distance(first, second)


def test_running_in_circles_is_seen():
    assert repeats("und ein Mann und ein Mann und ein Mann")
    assert repeats("ja ja ja")
    assert not repeats("ein Mann und ein Hund und ein Kind")
    assert not repeats("das das der Mann sagt")


def test_an_interval_can_hold_draws_without_a_match():
    score = chrf(["abc", "x"], [("abc",), ("qqq",)], resample=True)
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
