"""The word-by-word dictionary, beside IBM model 1 written as in its paper."""

import math
from collections import defaultdict

import numpy as np
import pytest

from seqtool import dictionary
from seqtool.columns import Columns
from seqtool.dictionary import Dictionary, learn_dictionary, most_likely
from seqtool.errors import CheckpointError
from seqtool.lexicon import Lexicon
from seqtool.pairs import Pairs

ROWS = [
    ("the house is here", "das Haus ist hier"),
    ("the book is here", "das Buch ist hier"),
    ("a book is old", "ein Buch ist alt"),
    ("the old house is big", "das alte Haus ist groß"),
    ("the book is old", "das Buch ist alt"),
    ("a big dog sleeps", "ein großer Hund schläft"),
    ("a dog sleeps here", "ein Hund schläft hier"),
    ("the cat sleeps here", "die Katze schläft hier"),
]


def make(rows):
    return Pairs(
        "x", rows, range(1, len(rows) + 1), "", Columns(("source", "target"), None, ""), "x"
    )


def model_1(rows, rounds):
    """Translation probabilities t[source][target] after some rounds, word by word."""
    split = [([None, *s.split()], t.split()) for s, t in rows]
    t = defaultdict(lambda: defaultdict(lambda: 1.0))
    for _ in range(rounds):
        counts = defaultdict(lambda: defaultdict(float))
        for sources, targets in split:
            for target in targets:
                whole = sum(t[source][target] for source in sources)
                for source in sources:
                    counts[source][target] += t[source][target] / whole
        t = defaultdict(lambda: defaultdict(float))
        for source, found in counts.items():
            whole = sum(found.values())
            t[source] = defaultdict(float, {w: n / whole for w, n in found.items()})
    return t


def test_it_finds_what_model_1_finds():
    lexicons = [Lexicon("word", [], lower=False, buckets=0) for _ in range(2)]
    texts = [lexicons[at].encode(row[at] for row in ROWS) for at in (0, 1)]
    words = [list(lexicon.table.rows) for lexicon in lexicons]
    best = most_likely(*texts, len(words[0]), len(words[1]))
    slow = model_1(ROWS, dictionary.ROUNDS)
    for source, found in zip(words[0], best.tolist(), strict=True):
        likeliest = max(slow[source].values())
        assert math.isclose(slow[source][words[1][found]], likeliest, rel_tol=1e-9)


def test_it_translates_word_by_word_and_keeps_the_rest():
    found = learn_dictionary(make(ROWS))
    assert found.translate("the book") == "das Buch"
    assert found.translate("a book, the  unknown dog!") == "ein Buch, das  unknown Hund!"
    assert found.translate("") == ""


def test_letters_become_sounds():
    words = {"ab": "A B", "ba": "B A", "abba": "A B B A", "b": "B", "a": "A"}
    found = learn_dictionary(make([*words.items()] * 3))
    assert found.source_unit == "char"
    assert found.translate("aab") == "AAB"  # few sounds a word: they are letters too
    longer = {w * 3: " ".join((w * 3).upper()) for w in words}
    assert learn_dictionary(make([*longer.items()] * 3)).translate("aab") == "A A B"


def test_it_comes_back_from_its_arrays():
    found = learn_dictionary(make(ROWS))
    again = Dictionary.from_arrays(found.arrays(), "here")
    assert again == found
    assert all(array.dtype == np.uint8 for array in found.arrays().values())
    empty = Dictionary({}, "char", "word")
    assert Dictionary.from_arrays(empty.arrays(), "here") == empty


@pytest.mark.parametrize(
    "blob", [b"", b"word\0wort", b"word\0word\0a", b"word\0word\0a\0\xff", None]
)
def test_damage_is_told(blob):
    arrays = {} if blob is None else {"entries": np.frombuffer(blob, np.uint8)}
    with pytest.raises(CheckpointError, match="here: its dictionary is damaged"):
        Dictionary.from_arrays(arrays, "here")


def test_many_pairs_are_sampled(monkeypatch):
    rows = [(f"word{n // 20} is here", f"Wort{n // 20} ist hier") for n in range(3000)]
    whole = learn_dictionary(make(rows))
    monkeypatch.setattr(dictionary, "MOST_MEETINGS", 1000)
    some = learn_dictionary(make(rows))
    assert some.entries["here"] in ("ist", "hier")  # that always come together
    assert len(some.entries) < len(whole.entries) == 152


@pytest.mark.parametrize("text", ["a\0b", "plain"])
def test_odd_characters_do_no_harm(text):
    found = learn_dictionary(make([(f"{text} x y z", "eins zwei drei vier")] * 3))
    assert Dictionary.from_arrays(found.arrays(), "here") == found
