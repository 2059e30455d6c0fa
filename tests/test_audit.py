"""What is wrong with labelled data, and where."""

from pathlib import Path

import pytest

from seqtool.audit import audit, compare, count_classes, measure_lengths, unseen_rate
from seqtool.errors import DataError
from seqtool.tables import Table, read_table


@pytest.fixture
def table(tmp_path):
    def make(rows: list[tuple[str, str]], name="a.csv", **options) -> Table:
        path: Path = tmp_path / name
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
        return read_table(str(path), text_columns=["text"], label_column="label", **options)

    return make


FINE = [(f"text {n}", "pos" if n % 3 else "neg") for n in range(30)]


def only(findings):
    (finding,) = findings
    assert "\n" not in finding.message
    return finding


def test_good_data_has_no_findings(table):
    found = audit(table(FINE))
    assert (found.rows, found.findings) == (30, ())
    assert list(found.classes.items()) == [("pos", 20), ("neg", 10)]
    assert found.majority == pytest.approx(2 / 3)
    found.refuse()


def test_missing_labels_are_fatal(table):
    data = table([*FINE, *[(f"more {n}", "nan" if n % 2 else "") for n in range(7)]])
    finding = only(audit(data).findings)
    assert finding.problem == "missing-label"
    assert finding.count == 7
    assert finding.places == ("32", "33", "34", "35", "36")
    assert finding.message == (
        f"{data.name}: no label in 7 rows (32, 33, 34, 35, 36 and 2 more); "
        "fill the label in or delete the row"
    )
    with pytest.raises(DataError, match="no label in 7 rows"):
        audit(data).refuse()


def test_one_class_is_fatal(table):
    finding = only(audit(table([(f"text {n}", "pos") for n in range(9)])).findings)
    assert finding.problem == "one-class"
    assert 'every row has the label "pos", but at least two are needed' in finding.message
    assert finding.fatal


def test_no_label_at_all_is_fatal(table):
    found = audit(table([("a", ""), ("b", "")]))
    assert [finding.problem for finding in found.findings] == ["missing-label", "one-class"]


def test_one_label_or_none_is_two_with_many_labels(table):
    data = table([(f"text {n}", "x" if n % 2 else "") for n in range(20)], multi_label=True)
    assert audit(data).findings == ()
    data = table([(f"text {n}", "x") for n in range(20)], multi_label=True)
    assert only(audit(data).findings).problem == "one-class"


def test_empty_texts_are_named_and_are_no_copies(table):
    finding = only(audit(table([*FINE, ("", "pos"), (" ", "neg")])).findings)
    assert not finding.fatal
    assert (finding.problem, finding.count, finding.places) == ("empty-text", 2, ("32", "33"))


def test_copies_are_named_from_the_second_on(table):
    data = table([*FINE, ("text 4", "pos"), ("text  4", "pos"), ("text 1", "pos")])
    finding = only(audit(data).findings)
    assert (finding.problem, finding.places) == ("duplicate", ("32", "33", "34"))
    assert finding.message.endswith(": the text of an earlier row in 3 rows (32, 33, 34)")


def test_conflicts_are_named_with_all_their_rows(table):
    conflict, copy = audit(table([*FINE, ("text 4", "neg")])).findings
    assert (conflict.problem, conflict.places, conflict.count) == ("conflict", ("6", "32"), 2)
    assert conflict.message.endswith(
        "the same text with different labels in 2 rows (6, 32) (labels pos, neg); "
        "decide which is right"
    )
    assert copy.problem == "duplicate"


def test_rare_classes_are_told(table):
    data = table([*FINE, ("x", "odd"), ("y", "odd"), ("z", "odder")])
    finding = only(audit(data).findings)
    assert finding.problem == "rare-class"
    assert finding.message.endswith("2 classes have fewer than 5 rows (odd, odder): 32, 33, 34")


def test_unseen_labels_are_fatal_and_have_a_nearest(table):
    train = table(FINE)
    test = table([("a", "pos"), ("b", "Neg"), ("c", "mixed"), ("d", "Neg")], "b.csv")
    finding = only(compare(train, test))
    assert finding.fatal
    assert finding.message == (
        f'{test.name}: label "Neg" in 2 rows (3, 5) never occurs in {train.name}, '
        'which has neg, pos, and so do 1 other labels; did you mean "neg"?'
    )
    assert compare(test, train)[0].message.endswith('did you mean "Neg"?')


def test_texts_on_both_sides_are_told(table):
    test = table([("text 7", "pos"), ("new", "neg"), (" text  9", "pos"), ("", "neg")], "b.csv")
    finding = only(compare(table([*FINE, ("", "pos")]), test))
    assert (finding.problem, finding.places) == ("leak", ("2", "4"))
    assert not finding.fatal


def test_findings_of_folders_name_files(tmp_path):
    for name in ("neg/a.txt", "neg/b.txt", "pos/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("same")
    conflict = audit(read_table(str(tmp_path))).findings[0]
    assert conflict.places == tuple(
        str(tmp_path / n) for n in ("neg/a.txt", "neg/b.txt", "pos/c.txt")
    )


def test_counts_lengths_and_unknown_words():
    assert count_classes([("a", "b"), (), ("b",)]) == {"b": 2, "a": 1}
    lengths = measure_lengths([1, 2, 3, 4, 90])
    assert (lengths.shortest, lengths.median, lengths.mean, lengths.longest) == (1, 3, 20, 90)
    assert lengths.most == pytest.approx(72.8)  # 4 + 0.8 * 86
    assert unseen_rate([["a", "b"]], [["a", "c"], ["c", "b"]]) == 0.5
    assert unseen_rate([["a"]], []) == 0
