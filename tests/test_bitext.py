"""Pairs checked and split."""

import numpy as np
import pytest

from seqtool.bitext import check_pairs, choose_fraction, find_leaks, odd_lengths, read_split
from seqtool.config import PairConfig
from seqtool.errors import ConfigError, DataError
from seqtool.pairs import read_pairs


def write(path, rows):
    path.write_text("".join(f"{s}\t{t}\n" for s, t in rows))
    return str(path)


def many(count, start=0):
    numbers = range(start, start + count)
    return [(f"sentence number {n} here", f"Satz Nummer {n} hier") for n in numbers]


def test_every_problem_is_named_with_its_rows(tmp_path):
    rows = many(30)
    rows[3] = ("a full source", " ")
    rows[7] = rows[2]
    rows[9] = ("the same words", "the  same words")
    rows[12] = ("short", "lang " * 60)
    rows[20] = ("a word", "schÃ¶n wÃ¤re es")
    found = {f.problem: f for f in check_pairs(read_pairs(write(tmp_path / "a.tsv", rows)))}
    places = {problem: finding.places for problem, finding in found.items()}
    assert places == {
        "empty-side": ("4",),
        "duplicate": ("8",),
        "copied": ("10",),
        "length-ratio": ("13",),
        "wrong-encoding": ("21",),
    }
    assert "the target looks like UTF-8 read in another encoding" in found["wrong-encoding"].message
    assert not any(finding.fatal for finding in found.values())


def test_sound_pairs_have_no_finding(tmp_path):
    assert check_pairs(read_pairs(write(tmp_path / "a.tsv", many(200)))) == ()


def test_lengths_are_judged_beside_those_of_most_pairs():
    sources = ["x" * n for n in range(10, 110)]
    assert not odd_lengths(sources, [s * 4 for s in sources]).any()
    odd = odd_lengths([*sources, "x" * 20], [*(s * 4 for s in sources), "x" * 5])
    assert np.flatnonzero(odd).tolist() == [100]


def test_pairs_with_an_empty_side_are_left_out_and_told(tmp_path):
    rows = [*many(40), ("no answer", " ")]
    split = read_split(write(tmp_path / "a.tsv", rows), None, None, None, PairConfig(), 1)
    assert split.held_out is not None
    assert len(split.train) + len(split.held_out) == 40
    assert [finding.problem for finding in split.findings] == ["empty-side"]
    with pytest.raises(DataError, match="every pair has an empty side"):
        read_split(write(tmp_path / "b.tsv", [("a b", " ")] * 3), None, None, None, PairConfig(), 1)


def test_answers_of_one_source_stay_on_one_side_whatever_the_order(tmp_path):
    rows = [(s, f"{t} {k}") for s, t in many(300) for k in range(3)]
    config = PairConfig(valid_fraction=0.2)
    split = read_split(write(tmp_path / "a.tsv", rows), None, None, None, config, 1)
    held = set(split.held_out.sources)
    assert not held & set(split.train.sources)
    assert 0.15 < len(split.held_out) / len(rows) < 0.25
    again = read_split(write(tmp_path / "b.tsv", rows[::-1]), None, None, None, config, 1)
    assert set(again.held_out.sources) == held
    other = read_split(write(tmp_path / "a.tsv", rows), None, None, None, config, 2)
    assert set(other.held_out.sources) != held
    assert split.source["pairs"] == len(split.train)


@pytest.mark.parametrize(("count", "least", "most"), [(1500, 150, 150), (29_000, 1000, 1500)])
def test_how_many_are_held_out(count, least, most):
    assert least <= choose_fraction(count) * count <= most


def test_more_than_enough_are_never_held_out():
    held = [choose_fraction(n) * n for n in (100, 1000, 10_000, 100_000, 1_000_000)]
    assert held == sorted(held)
    assert held[0] == pytest.approx(10)
    assert held[-1] == pytest.approx(3000)


def test_what_stands_in_both_files_is_told(tmp_path):
    train = write(tmp_path / "a.tsv", many(50))
    valid = write(tmp_path / "b.tsv", [*many(20, 45)[:-1], ("sentence number 3 here", "anders")])
    split = read_split(train, None, valid, None, PairConfig(), 1)
    (leak,) = split.findings
    assert leak.problem == "leak"
    assert leak.count == 6
    assert "5 of them with the same target" in leak.message
    assert find_leaks(split.train, split.train.select([])) == ()


def test_parallel_files_are_a_validation_too(tmp_path):
    for name, rows in (("train", many(30)), ("valid", many(9, 100))):
        for side, at in (("en", 0), ("de", 1)):
            (tmp_path / f"{name}.{side}").write_text("".join(f"{row[at]}\n" for row in rows))
    paths = [str(tmp_path / name) for name in ("train.en", "train.de", "valid.en", "valid.de")]
    split = read_split(*paths, PairConfig(), 1)
    assert sorted(split.held_out.texts) == sorted(many(9, 100))
    assert split.source["valid_target"] == paths[3]
    whole = read_split(*paths[:2], None, None, PairConfig(valid_fraction=0.0), 1)
    assert whole.held_out is None
    assert len(whole.train) == 30


def test_a_joint_vocabulary_needs_one_tokenizer():
    with pytest.raises(ConfigError, match="use --separate"):
        PairConfig(tokenizer="char", target_tokenizer="word")
