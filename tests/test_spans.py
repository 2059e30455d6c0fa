"""Spans as conlleval counts them, the schemes that labels follow, and what may follow what."""

import itertools

import numpy as np
import pytest

from seqtool.spans import Found, Span, SpanCounts, allowed, find_scheme, find_spans, misplaced


@pytest.mark.parametrize(
    ("labels", "spans"),
    [
        ("O O", []),
        ("B-x I-x O B-y", [("x", 0, 2), ("y", 3, 4)]),
        ("B-x B-x", [("x", 0, 1), ("x", 1, 2)]),
        ("I-x I-x O I-y", [("x", 0, 2), ("y", 3, 4)]),  # a bare I begins a span
        ("B-x I-y I-y", [("x", 0, 1), ("y", 1, 3)]),  # so does another type
        ("I-x B-x", [("x", 0, 1), ("x", 1, 2)]),
        ("B-x E-x S-x S-y", [("x", 0, 2), ("x", 2, 3), ("y", 3, 4)]),
        ("B-x I-x L-x U-y O", [("x", 0, 3), ("y", 3, 4)]),
        ("E-x I-x", [("x", 0, 1), ("x", 1, 2)]),
        ("E-x E-x", [("x", 0, 1), ("x", 1, 2)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("", []),
    ],
)
def test_spans(labels, spans):
    assert find_spans(labels.split()) == [Span(*span) for span in spans]


def conlleval(truth, guess):
    """The counting loop of the shared task's script, line by line: (there, guessed, right)."""

    def cut(label):
        return ("O", "") if label == "O" else tuple(label.split("-", 1))

    def ends(before, now):
        (a, x), (b, y) = before, now
        pairs = [("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")]
        pairs += [("E", "E"), ("E", "I"), ("E", "O")]
        return (a, b) in pairs or (a != "O" and x != y)

    def starts(before, now):
        (a, x), (b, y) = before, now
        pairs = [("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")]
        pairs += [("E", "E"), ("E", "I"), ("O", "E")]
        return (a, b) in pairs or (b != "O" and x != y)

    there = guessed = right = 0
    inside = False
    last = last_guess = ("O", "")
    for one, other in zip([*truth, "O"], [*guess, "O"], strict=True):
        now, now_guess = cut(one), cut(other)
        ended, ended_guess = ends(last, now), ends(last_guess, now_guess)
        if inside:
            if ended and ended_guess and last[1] == last_guess[1]:
                inside, right = False, right + 1
            elif ended != ended_guess or now[1] != now_guess[1]:
                inside = False
        started, started_guess = starts(last, now), starts(last_guess, now_guess)
        if started and started_guess and now[1] == now_guess[1]:
            inside = True
        there, guessed = there + started, guessed + started_guess
        last, last_guess = now, now_guess
    return there, guessed, right


def test_counts_are_those_of_the_shared_tasks_script():
    rng = np.random.default_rng(1)
    names = ["O", "B-x", "I-x", "B-y", "I-y"]
    for length in [*range(1, 9)] * 60:
        pair = rng.integers(5, size=(2, 1, length))
        near = pair[0] if rng.random() < 0.3 else np.where(rng.random(length) < 0.8, *pair)
        counts = SpanCounts(names)
        counts.add(pair[0], near, np.array([length]))
        lines = [[names[i] for i in row[0]] for row in (pair[0], near)]
        assert counts.total() == Found(*conlleval(*lines)), lines


def test_precision_recall_and_f1_by_hand():
    counts = SpanCounts(["O", "B-x", "I-x", "B-y"])
    truth = np.array([[1, 2, 0, 3, 0], [1, 0, 0, 0, 0]])
    guess = np.array([[1, 2, 0, 1, 3], [1, 0, 0, 9, 9]])
    counts.add(truth, guess, np.array([5, 3]))
    assert counts.by_kind() == {"x": Found(2, 3, 2), "y": Found(1, 1, 0)}
    total = counts.total()
    assert (total.precision, total.recall) == (2 / 4, 2 / 3)
    assert total.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert Found(0, 0, 0).f1 == 0


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["B-x I-x O", "O B-y"], "IOB2"),
        (["I-x I-x O", "O I-y B-y"], "IOB1"),
        (["B-x I-x O", "I-x", "B-x"], "IOB2"),  # one slip is no scheme
        (["B-x E-x S-y"], "IOBES"),
        (["B-x I-x L-x", "U-x"], "IOBES"),
        (["NOUN VERB"], ""),
        (["B-x I-x NOUN"], ""),
        (["O O"], ""),
        (["B-x O"], "IOB2"),  # spans of one token each
        (["B-x S-y"], ""),  # this may mean anything
        (["B I O"], ""),
    ],
)
def test_schemes_are_seen_from_the_labels(sentences, scheme):
    assert find_scheme(map(str.split, sentences)) == scheme


LABELS = ["O", "B-x", "I-x", "B-y", "I-y"]
MORE = [*LABELS, "E-x", "S-x", "E-y", "S-y"]


@pytest.mark.parametrize(
    ("scheme", "labels"), [("IOB1", LABELS), ("IOB2", LABELS), ("IOBES", MORE)]
)
def test_every_set_of_spans_is_written_in_one_way(scheme, labels):
    """What a scheme allows is just what it needs to say where the spans are."""
    after, first, last = allowed(labels, scheme)
    found = set()
    for path in itertools.product(range(len(labels)), repeat=4):
        legal = first[path[0]] and last[path[-1]]
        legal = legal and all(after[i, j] for i, j in itertools.pairwise(path))
        names = [labels[i] for i in path]
        if legal:
            spans = tuple(find_spans(names))
            assert spans not in found, names
            found.add(spans)
        assert legal == (not misplaced(names, scheme) and bool(last[path[-1]]))
    assert len(found) == count(4)


def count(length):
    """In how many ways spans of two types lie in so many tokens."""
    ways = [1]
    for _ in range(length):
        ways.append(ways[-1] + 2 * sum(ways))
    return ways[length]


def test_labels_without_spans_may_follow_each_other():
    assert all(part.all() for part in allowed(["NOUN", "B-x"], ""))
    assert misplaced(["I-x"], "") == []


def test_misplaced_labels_are_named():
    assert misplaced(["I-x", "O", "B-y", "I-x", "I-x", "O"], "IOB2") == [0, 3]
