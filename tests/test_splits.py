"""What is held out: the share of each class, copies together, the same choice every time."""

import random
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import seqtool.splits as splits_module
from seqtool.audit import find_copies
from seqtool.bitext import read_split as read_pair_split
from seqtool.config import LabelConfig, PairConfig
from seqtool.errors import DataError
from seqtool.labelled import read_split
from seqtool.splits import fit_memory, hold_out, text_keys
from seqtool.tables import read_table


def data(count=1000, copies=1):
    texts = [f"text number {n // copies}" for n in range(count)]
    labels = ["rare" if n // copies % 10 == 0 else "common" for n in range(count)]
    return texts, labels


def held(texts, labels, fraction=0.2, seed=1):
    return hold_out(text_keys(texts), labels, fraction, seed, "x.csv")


def test_keys_see_content_and_overlook_white_space():
    same = text_keys(["a  b", " a\nb ", "a b"])
    assert len(set(same.tolist())) == 1
    assert len(set(text_keys(["a b", "ab", "A b", ("a", "b"), ("a b", "")]).tolist())) == 5
    assert text_keys(["", " \n", ("", " "), "x"]).tolist()[:3] == [0, 0, 0]


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_fraction_is_kept_in_each_class(fraction):
    texts, labels = data()
    train, valid = held(texts, labels, fraction)
    assert sorted([*train, *valid]) == list(range(1000))
    for label, count in (("rare", 100), ("common", 900)):
        assert abs(sum(labels[i] == label for i in valid) - fraction * count) <= 1
    assert list(valid) == sorted(valid)


@pytest.mark.parametrize("copies", [2, 7])
def test_copies_stay_on_one_side(copies):
    texts, labels = data(copies=copies)
    train, valid = held([f"{text} " for text in texts], labels)
    assert not {texts[i] for i in train} & {texts[i] for i in valid}
    assert abs(len(valid) - 200) <= copies


def test_choice_does_not_depend_on_the_order_of_rows():
    texts, labels = data()
    chosen = {texts[i] for i in held(texts, labels)[1]}
    order = random.Random(3).sample(range(1000), 1000)
    again = held([texts[i] for i in order], [labels[i] for i in order])[1]
    assert {texts[order[i]] for i in again} == chosen


def test_another_seed_gives_another_choice():
    texts, labels = data()
    first, second = held(texts, labels, seed=1)[1], held(texts, labels, seed=2)[1]
    assert 10 < len({*first} & {*second}) < 90  # 40 expected of 200


def test_hardly_anything_moves_when_rows_are_added():
    texts, labels = data()
    before = {texts[i] for i in held(texts, labels)[1]}
    texts, labels = [*texts, *(f"new {n}" for n in range(10))], [*labels, *["common"] * 10]
    after = {texts[i] for i in held(texts, labels)[1]}
    assert len(before - after) <= 10


def test_every_class_is_met_in_training():
    texts = [f"text {n}" for n in range(30)]
    labels = [f"class {n // 2}" for n in range(30)]
    train, valid = held(texts, labels, 0.5)
    assert {labels[i] for i in train} == set(labels)
    assert len(valid) == 15


def test_many_small_classes_still_give_their_share():
    texts = [f"text {n}" for n in range(400)]
    valid = held(texts, [f"class {n // 4}" for n in range(400)], 0.1)[1]
    assert abs(len(valid) - 40) <= 1


def test_several_labels_are_stratified_by_the_rarest():
    texts, labels = data()
    sets = [("common", "rare") if label == "rare" else ("common",) for label in labels]
    assert sum("rare" in sets[i] for i in held(texts, sets)[1]) == 20
    assert len(held(texts, [])[1]) == 200


def slow_hold_out(keys, labels, fraction, seed):
    """Group by group, each class to itself, in the order of mixed keys."""
    groups = {}
    for row, key in enumerate(keys.tolist()):
        groups.setdefault(key, []).append(row)
    sets = {key: labels[rows[0]] for key, rows in groups.items()}
    counts = Counter(label for found in sets.values() for label in found)
    classes = {}
    for key, found in sets.items():
        rarest = min(found, key=lambda label: (counts[label], label), default="")
        classes.setdefault(rarest, []).append(key)
    valid, owed = [], 0.0
    for _, members in sorted(classes.items()):
        places = splits_module.mixed(np.array(members, np.uint64), seed)
        members = [members[at] for at in np.argsort(places)]
        wanted, taken = fraction * sum(len(groups[key]) for key in members) + owed, 0
        for key in members[:-1]:
            if taken + len(groups[key]) / 2 <= wanted:
                valid += groups[key]
                taken += len(groups[key])
        owed = wanted - taken
    return sorted(valid)


def slow_copies(keys, labels):
    rows = {}
    for row, key in enumerate(keys.tolist()):
        rows.setdefault(key, []).append(row)
    rows.pop(0, None)
    copies = sorted(row for found in rows.values() for row in found[1:])
    differ = [found for found in rows.values() if len({labels[row] for row in found}) > 1]
    return copies, sorted(row for found in differ for row in found)


def test_the_choice_and_the_copies_are_those_of_a_slow_loop():
    rng = random.Random(5)
    for _ in range(200):
        count = rng.randint(30, 80)
        kinds = [0, *(rng.getrandbits(64) for _ in range(rng.randint(9, 99)))]
        keys = np.array(rng.choices(kinds, k=count), np.uint64)
        labels = [tuple(sorted(rng.sample("abc", rng.randint(0, 2)))) for _ in range(count)]
        fraction, seed = rng.choice([0.1, 0.3, 0.5, 0.9]), rng.randrange(9)
        assert find_copies(keys, labels) == slow_copies(keys, labels)
        valid = slow_hold_out(keys, labels, fraction, seed)
        if valid:
            train, found = hold_out(keys, labels, fraction, seed, "x")
            assert found.tolist() == valid
            assert sorted([*train, *valid]) == [*range(count)]


def test_a_row_takes_few_bytes(table, monkeypatch):
    """A table of 2 GB may have 100 million rows; here are 200 thousand."""
    few = read_table(str(table), encoding="utf-8")
    keys = np.random.default_rng(0).integers(0, 2**63, 200_000).astype(np.uint64)
    labels = ["rare", *["common"] * 9] * 20_000
    many = replace(few, texts=["abcdefghij"] * len(keys), labels=labels, rows=range(len(keys)))
    monkeypatch.setattr(type(many), "keys", lambda data: keys)
    monkeypatch.setattr(splits_module, "MOST_CHARACTERS", 20_000)

    def most(work):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / len(keys)

    assert most(lambda: find_copies(keys, labels)) < 12
    assert most(lambda: fit_memory(many, labels, 1)) < 45
    assert most(lambda: hold_out(keys, labels, 0.1, 1, "x")) < 90


@pytest.mark.parametrize("texts", [["a"], ["a"] * 50, ["a", "b"]])
def test_too_few_texts_are_refused(texts):
    with pytest.raises(DataError, match=r"^x.csv: \d+ rows with \d different texts are too few"):
        held(texts, ["x", "y"] * (len(texts) // 2) or ["x"], 0.1)


def test_the_choice_is_the_same_on_every_machine():
    """Computed once by hand from the published constants, on Python integers."""
    keys = text_keys(str(n) for n in range(50))

    def mixed(key: int, seed: int) -> int:
        key = (key + 0x9E3779B97F4A7C15 * (seed + 1)) % 2**64
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB % 2**64
        return key ^ (key >> 31)

    first = sorted(range(50), key=lambda n: mixed(int(keys[n]), 9))[:10]
    valid = hold_out(keys, [], 0.2, 9, "x")[1]
    assert valid.tolist() == sorted(first)
    assert np.all(np.diff(valid) > 0)


@pytest.fixture
def table(tmp_path):
    """A file of 1000 labelled texts of about 16 characters; a tenth of them are rare."""
    texts, labels = data()
    path = tmp_path / "x.csv"
    rows = [f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)]
    path.write_text("text,label\n" + "".join(rows))
    return path


def test_rows_that_memory_has_room_for_are_all_taken(table):
    rows = read_table(str(table), encoding="utf-8")
    assert fit_memory(rows, rows.labels, 1) == (rows, "")


def test_of_more_rows_a_share_of_each_class_is_drawn(table, monkeypatch):
    rows = read_table(str(table), encoding="utf-8")
    monkeypatch.setattr(splits_module, "MOST_CHARACTERS", sum(map(len, rows.texts)) // 5)
    drawn, note = fit_memory(rows, rows.labels, 1)
    assert 195 <= len(drawn) <= 205
    assert abs(list(drawn.labels).count("rare") - 20) <= 1
    assert note == f"{len(drawn)} of 1,000 rows drawn, as many as one run learns from; "
    again, other = fit_memory(rows, rows.labels, 1)[0], fit_memory(rows, rows.labels, 2)[0]
    assert list(again.texts) == list(drawn.texts) != list(other.texts)
    monkeypatch.setattr(splits_module, "MOST_CHARACTERS", 64)  # four texts: still one of each
    assert set(fit_memory(rows, rows.labels, 1)[0].labels) == {"rare", "common"}


def test_training_takes_what_fits_and_says_so(table, monkeypatch):
    monkeypatch.setattr(splits_module, "MOST_CHARACTERS", 4000)
    split = read_split(str(table), None, LabelConfig(), 1)
    assert split.held_out is not None
    count = len(split.train) + len(split.held_out)
    assert 200 < count < 300
    assert split.note.startswith(f"{count} of 1,000 rows drawn")
    assert split.classes == ("common", "rare")
    pairs = table.with_name("pairs.tsv")
    pairs.write_text("".join(f"word {n} here\tWort {n} hier\n" for n in range(1000)))
    found = read_pair_split(str(pairs), None, None, None, PairConfig(), 1)
    assert found.held_out is not None
    assert 100 < len(found.train) + len(found.held_out) < 200
    assert "of 1,000 rows drawn" in found.note
