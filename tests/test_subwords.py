"""Segmentations drawn at random: against a recursion written down, and the rate asked for."""

import numpy as np
import pytest

from seqtool.lexicon import Texts
from seqtool.spelling import Side
from seqtool.subwords import Splitter
from seqtool.tokenizer import Tokenizer

WORDS = ["low", "lower", "lowest", "new", "newer", "newest", "wide", "wider", "widest", "slow"]
WORDS += ["slower", "slowest"]


@pytest.fixture(scope="module")
def side() -> Side:
    text = " ".join(WORDS * 5)
    return Side(Tokenizer.train("bpe", lambda: iter([text]), vocab_size=300))


@pytest.fixture(scope="module")
def texts(side) -> Texts:
    rng = np.random.default_rng(0)
    return side.encode_all([" ".join(rng.choice(WORDS, n)) for n in (3, 0, 7, 1, 12, 5, 40)])


def row(texts: Texts, index: int) -> list[int]:
    return texts.words[texts.offsets[index] : texts.offsets[index + 1]].tolist()


def test_ids_that_were_merged_know_from_what(side):
    tokenizer = side.tokenizer
    merged = tokenizer.merged_from()
    assert merged.shape == (tokenizer.vocab_size, 2)
    assert (merged[:257] == 0).all()  # the boundary and the bytes
    for token in range(257, tokenizer.vocab_size):
        assert tokenizer.decode(merged[token]) == tokenizer.decode([token])


@pytest.mark.parametrize("kind", ["char", "byte", "word"])
def test_tokens_of_other_kinds_are_whole(kind):
    tokenizer = Tokenizer.train(kind, lambda: iter([" ".join(WORDS * 2)]), vocab_size=300)
    assert not tokenizer.merged_from().any()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_the_text_stays_and_each_token_only_becomes_parts_of_itself(side, texts, rate):
    merged = side.tokenizer.merged_from()

    def is_cut(token: int, parts: list[int]) -> bool:
        """Whether parts are a token's, split where it was merged, again and again."""
        if parts == [token]:
            return True
        left, right = merged[token]
        cuts = range(1, len(parts))
        return bool(left) and any(
            is_cut(left, parts[:k]) and is_cut(right, parts[k:]) for k in cuts
        )

    rows = np.array([4, 0, 1, 2, 6, 4])
    drawn = Splitter(merged, rate, 3).draw(texts, rows, 5)
    assert len(drawn) == len(rows)
    for at, index in enumerate(rows):
        found = row(drawn, at)
        assert side.decode(found) == side.decode(row(texts, index))
        for token in row(texts, index):
            size = next(n for n in range(1, len(found) + 1) if covers(side, token, found[:n]))
            assert is_cut(token, found[:size])
            found = found[size:]
        assert found == []
    if rate == 0:
        assert (drawn.words == texts.select(rows).words).all()


def covers(side, token, parts) -> bool:
    return side.tokenizer.decode(parts) == side.tokenizer.decode([token])


def test_tokens_and_their_parts_are_split_as_often_as_asked_for(side, texts):
    merged, rate = side.tokenizer.merged_from(), 0.3
    expected = np.ones(len(merged))
    for token in range(257, len(merged)):  # what it is merged from comes before it
        expected[token] = 1 - rate + rate * expected[merged[token]].sum()
    rows, splitter = np.arange(len(texts)), Splitter(merged, rate, 1)
    draws = [splitter.draw(texts, rows, epoch).lengths.sum() for epoch in range(400)]
    wanted = expected[texts.words].sum()
    assert np.mean(draws) == pytest.approx(wanted, abs=5 * np.std(draws) / 20)
    assert len({*draws}) > 10


def test_a_row_is_spelled_the_same_whatever_is_read_beside_it(side, texts):
    splitter = Splitter(side.tokenizer.merged_from(), 0.4, 7)
    together = splitter.draw(texts, np.arange(len(texts)), 2)
    for index in range(len(texts)):
        assert row(splitter.draw(texts, np.array([index]), 2), 0) == row(together, index)


def test_epochs_seeds_and_places_differ(side, texts):
    merged, rows = side.tokenizer.merged_from(), np.array([6])
    seen = {
        tuple(row(Splitter(merged, 0.5, seed).draw(texts, rows, epoch), 0))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(seen) == 16
    same = side.encode_all(["slowest"] * 50)
    drawn = Splitter(merged, 0.5, 1).draw(same, np.arange(50), 0)
    assert len({tuple(row(drawn, at)) for at in range(50)}) > 3
