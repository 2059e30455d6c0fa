"""Labelled texts from every format: the same table, and one line for what is wrong."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
from pathlib import Path

import pytest

import seqtool.storage as storage
from seqtool.errors import ConfigError, DataError
from seqtool.formats import guess_format
from seqtool.tables import Table, holds_labels, read_table

TEXTS = ["a good film", 'it says "no",\ttwice', "caf\u00e9 \u4e2d, nothing else", "007"]
LABELS = ["pos", "neg", "pos", "neg"]
CUT_SHORT = gzip.compress(b"text,label\n" * 99, mtime=0)[:-9]
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


CONTENTS = {
    "a.csv": "id,text,label\n"
    + "".join(f"{n},{quoted(t)},{y}\n" for n, (t, y) in enumerate(zip(TEXTS, LABELS, strict=True))),
    "a.tsv": "label\ttext\n"
    + "".join(f"{y}\t{quoted(t)}\n" for t, y in zip(TEXTS, LABELS, strict=True)),
    "a.jsonl": "".join(
        json.dumps({"text": t, "label": y}) + "\n" for t, y in zip(TEXTS, LABELS, strict=True)
    ),
    "a.ft": "".join(f"__label__{y} {t}\n" for t, y in zip(TEXTS, LABELS, strict=True)),
}


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def say(source, **options) -> str:
    with pytest.raises(DataError) as error:
        read_table(str(source), **options)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_table(tmp_path, name, packed):
    content = CONTENTS[name].encode()
    table = read_table(write(tmp_path, name + packed, PACKERS[packed](content)))
    assert list(table.texts) == TEXTS
    assert list(table.labels) == LABELS
    assert table.classes == ("neg", "pos")
    assert len(table) == 4
    first = 1 if name in ("a.jsonl", "a.ft") else 2  # after the header
    assert list(table.rows) == [first + n for n in range(4)]
    assert table.where(2) == f"{tmp_path / name}{packed}:{first + 2}"
    assert table.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", CONTENTS)
def test_standard_input_is_read_by_its_content(monkeypatch, name):
    text = CONTENTS[name].replace('"', "").replace("id,", "").replace(",\t", " ")
    if name == "a.csv":
        text = "text,label\n" + "".join(f"{t},{y}\n" for t, y in [("a", "x"), ("b", "y")])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))
    table = read_table("-") if name != "a.jsonl" else None
    if table is not None:
        assert len(table) == (2 if name == "a.csv" else 4)
        assert table.where(0).startswith("standard input:")


def test_json_lines_may_hold_numbers_lists_and_nothing(tmp_path):
    rows = [
        {"text": "a", "label": 1},
        {"text": 2.5, "label": 0.0},
        {"text": None, "label": True},
        {"label": None},
        {"text": "e", "label": ["x"]},
        {"text": "f", "label": float("nan")},
    ]
    source = write(tmp_path, "a.jsonl", "\n\n".join(map(json.dumps, rows)))
    table = read_table(source)
    assert list(table.texts) == ["a", "2.5", "", "", "e", "f"]
    assert list(table.labels) == ["1", "0", "true", "", "x", ""]
    assert list(table.rows) == [1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("__label__a b\n", "fasttext"),
        ("__label__a b\nno mark\n__label__b c\n", "fasttext"),  # a fault of the second line
        ("no mark\n__label__b c\n", "lines"),
        ('{"text": "a"}\n', "jsonl"),
        ("1 a good film\n0 a bad film\n1 fine\n0 poor\n", "labelled-lines"),
        ("HUM:ind Who was he ?\nNUM:date When ?\n" * 4, "labelled-lines"),
        ("a film\tpos\nanother\tneg\n", "tsv"),
        ("A man walks.\nA dog barks.\nTwo men talk.\n" * 10, "lines"),
        ("Well, this is prose,\nwith commas, here and there.\nOr not.\n", "lines"),
        ("1 one\n2 two\n3 three\n", "lines"),  # a list, not labels
        ("1 In the beginning\n2 And the\n3 And\n4 So\n" * 5, "lines"),  # verses
        ("12:30 good day\n12:31 good night\n" * 5, "lines"),  # a log
        ("\n\n", "lines"),
    ],
)
def test_format_without_a_telling_name(tmp_path, content, kind):
    assert guess_format(write(tmp_path, "a.txt", content)) == kind


def test_format_of_directories_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert guess_format("owner/name") == guess_format("owner/name:test") == "hub"
    write(tmp_path, "plain/a.txt", "text")
    assert guess_format("plain") == "lines"
    write(tmp_path, "plain/x/a.txt", "text")
    assert guess_format("plain") == "folder"


def test_label_and_a_space(tmp_path):
    source = write(tmp_path, "a.all", "1 2 films\r\n0 \u0085odd\n1 x\n0 y\n")
    table = read_table(source)
    assert list(table.texts) == ["2 films", "\u0085odd", "x", "y"]
    assert list(table.labels) == ["1", "0", "1", "0"]
    assert "first word" in table.columns.reason


def test_sample_is_taken_from_the_whole_file(tmp_path):
    """A file sorted by label begins with thousands of rows of one class."""
    text = "".join(f"{n >= 3000}\t{n}\twords and more words {n}\n" for n in range(6000))
    table = read_table(write(tmp_path, "a.tsv", text))
    assert table.classes == ("False", "True")
    assert table.columns.texts == ("3",)


def test_folders_are_labels(tmp_path):
    write(tmp_path, "data/neg/b.txt", "two\nlines\n")
    write(tmp_path, "data/neg/deep/a.txt.gz", gzip.compress(b"packed"))
    write(tmp_path, "data/pos/a.txt", "")
    write(tmp_path, "data/pos/.hidden.txt", "no")
    write(tmp_path, "data/pos/readme.md", "no")
    write(tmp_path, "data/empty/x.csv", "no")
    table = read_table(str(tmp_path / "data"))
    assert list(table.texts) == ["two\nlines", "packed", ""]
    assert list(table.labels) == ["neg", "neg", "pos"]
    assert table.where(1) == str(tmp_path / "data/neg/deep/a.txt.gz")
    before = table.sha256
    (tmp_path / "data/pos").rename(tmp_path / "data/positive")
    assert read_table(str(tmp_path / "data")).sha256 != before


def test_files_are_labels_where_there_are_no_folders(tmp_path):
    write(tmp_path, "data/Greek.txt", "Papadakis\n\nPappas\n")
    write(tmp_path, "data/Czech.txt.gz", gzip.compress("Nov\u00e1k\r\nDvo\u0159\u00e1k".encode()))
    write(tmp_path, "data/.hidden.txt", "no")
    write(tmp_path, "data/readme.md", "no")
    table = read_table(str(tmp_path / "data"))
    assert list(table.texts) == ["Nov\u00e1k", "Dvo\u0159\u00e1k", "Papadakis", "Pappas"]
    assert list(table.labels) == ["Czech", "Czech", "Greek", "Greek"]
    assert table.where(3) == f"{tmp_path / 'data/Greek.txt'}:3"
    before = table.sha256
    (tmp_path / "data/Greek.txt").rename(tmp_path / "data/Hellenic.txt")
    assert read_table(str(tmp_path / "data")).sha256 != before


def test_folder_with_a_single_file_is_refused(tmp_path):
    write(tmp_path, "a.txt", "text")
    assert say(tmp_path).endswith("or a .txt file for each with a text on each line")


@pytest.mark.parametrize("mark", ["|", ";", ","])
def test_several_labels_in_a_cell(tmp_path, mark):
    content = f'text,label\na,"x {mark}y{mark}x"\nb,\nc,y\n'
    table = read_table(write(tmp_path, "a.csv", content), multi_label=True)
    assert table.labels == [("x", "y"), (), ("y",)]
    assert table.classes == ("x", "y")
    assert table.multi_label


def test_several_labels_in_lists_and_marks(tmp_path):
    rows = '{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n'
    assert read_table(write(tmp_path, "a.jsonl", rows), multi_label=True).labels == [
        ("x", "y"),
        (),
    ]
    marks = "__label__x __label__y a\n__label__x\tb\n"
    source = write(tmp_path, "a.txt", marks)
    assert read_table(source, multi_label=True).labels == [("x", "y"), ("x",)]
    assert say(source) == f"{source}:1: 2 labels (x, y), but one was expected; use --multi-label"


def test_pairs_are_tuples(tmp_path):
    content = "premise,hypothesis,label\na,b,yes\nc,d,no\n"
    source = write(tmp_path, "a.csv", content)
    assert list(read_table(source).texts) == [("a", "b"), ("c", "d")]
    single = read_table(source, text_columns=["hypothesis"])
    assert list(single.texts) == ["b", "d"]


def test_columns_are_settable_also_by_number(tmp_path):
    source = write(tmp_path, "a.csv", "1,a good one,x\n2,a bad one,y\n1,one,x\n")
    table = read_table(source, text_columns=["2"], label_column="1")
    assert list(table.labels) == ["1", "2", "1"]
    assert table.columns.reason == 'text from "2" (given), label from "1" (given)'


def test_texts_alone(tmp_path):
    lines = read_table(write(tmp_path, "a.txt", "one\r\n\nthree"), labelled=False)
    assert list(lines.texts) == ["one", "", "three"]
    assert (list(lines.rows), lines.labels, lines.classes) == ([1, 2, 3], [], ())
    rows = read_table(write(tmp_path, "a.csv", "text,id\na,1\nb,2\n"), labelled=False)
    assert list(rows.texts) == ["a", "b"]


def test_words_that_pandas_takes_for_nothing_stay(tmp_path):
    content = "text,label\nNA,None\nnull,NA\n1.0,01\n nan , nan \n"
    table = read_table(write(tmp_path, "a.csv", content))
    assert list(table.texts) == ["NA", "null", "1.0", " nan "]
    assert list(table.labels) == ["None", "NA", "01", ""]


def test_numbers_are_ordered_as_numbers(tmp_path):
    content = "text,label\na,10\nb,9\nc,9\n"
    assert read_table(write(tmp_path, "a.csv", content)).classes == ("9", "10")


def test_select_keeps_rows_and_order(tmp_path):
    table = read_table(write(tmp_path, "a.csv", CONTENTS["a.csv"])).select([3, 0])
    assert (list(table.texts), list(table.labels)) == ([TEXTS[3], TEXTS[0]], ["neg", "pos"])
    assert table.where(0).endswith("a.csv:5")
    assert len(table) == 2


def test_a_big_table_is_the_same_from_disk(tmp_path, monkeypatch):
    source = write(tmp_path, "a.csv", CONTENTS["a.csv"])
    small = read_table(source)
    monkeypatch.setattr(storage, "MEMORY_CHARS", 10)
    big = read_table(source)
    assert type(big.texts) is not type(small.texts)
    assert list(big.texts) == list(small.texts)
    assert list(big.select([1]).texts) == [TEXTS[1]]


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", b"", "a.csv: empty, there is nothing to read"),
            ("a.csv", b"text,label\n", "a.csv: only a header (text, label) and no rows below it"),
            ("a.csv", b"text,label\na,b\nc,d,e\n", "a.csv:3: 3 cells, but the header has 2"),
            ("a.csv", b"text,label\na,b\nc\0,d\n", "a.csv:3: NUL byte, so this looks binary"),
            ("a.csv", b"text,label\na,b\ncaf\xe9,d\n", "a.csv:3: not valid UTF-8 (byte 0xe9"),
            ("a.csv", "\ufefftext,l\na,b".encode("utf-16"), "a.csv:1: this is UTF-16 text"),
            ("a.csv.gz", CUT_SHORT, "a.csv.gz: the compressed file"),
            ("a.jsonl", b'{"text": "a"}\n{"text"}\n', "a.jsonl:2: not valid JSON (Expecting"),
            ("a.jsonl", b'{"text": "a"}\n[1]\n', "a.jsonl:2: a JSON list, but each line must"),
            ("a.jsonl", b"[" * 99999, "a.jsonl: one JSON array, but needed is one object a line"),
            ("a.jsonl", b'{"a":' * 99999, "a.jsonl:1: not valid JSON ("),
            ("a.json", b'[{"text": "a"}]', "a.json: one JSON array, but needed is one object"),
            ("a.jsonl", b"{}\n", "a.jsonl: no object with fields in it"),
            ("a.txt", b"just\nsome text\n", "a.txt: no labels found; needed is a CSV, TSV,"),
            ("a.parquet", b"no such thing", "a.parquet: not a Parquet file, or a damaged one ("),
            ("a.parquet", b"PAR1 cut short", "a.parquet: not a Parquet file, or a damaged one ("),
        ],
    )
    def test_is_told_on_one_line(self, tmp_path, name, content, message):
        line = say(write(tmp_path, name, content))
        assert line.removeprefix(f"{tmp_path}/").startswith(message)

    def test_nothing_is_there(self, tmp_path):
        write(tmp_path, "reviews.csv", "x")
        assert say(tmp_path / "review.csv").endswith(f"did you mean {tmp_path / 'reviews.csv'}?")

    def test_wrong_column(self, tmp_path):
        source = write(tmp_path, "a.csv", CONTENTS["a.csv"])
        assert say(source, label_column="lable").endswith('did you mean "label"?')
        source = write(tmp_path, "a.txt", CONTENTS["a.ft"])
        line = say(source, text_columns=["text"])
        assert "has no columns to choose by --text-column text" in line

    def test_text_that_is_none(self, tmp_path):
        source = write(tmp_path, "a.jsonl", '{"text": {"a": 1}, "label": "x"}\n')
        assert say(source).startswith(f"{source}:1: the text is a dict, not a string")
        source = write(tmp_path, "a.jsonl", '{"text": "a", "label": {"a": 1}}\n')
        assert say(source).startswith(f"{source}:1: the label is an object, not a string")

    @pytest.mark.parametrize("name", ["a.csv", "b.csv", "a.jsonl", "neg/a.txt"])
    def test_ten_megabytes_in_one_cell(self, tmp_path, name):
        long = "word " * 2_000_000
        start = {"a": "text,label\nx,y\n", "b": 'text,label\nx,y\n"', "n": ""}[name[0]]
        content = start + long + (",z\n" if name[0] == "a" else '",z\n')
        if name == "a.jsonl":
            content = json.dumps({"text": "x"}) + "\n\n" + json.dumps({"text": long})
        source = write(tmp_path, name, content)
        line = say(source if name != "neg/a.txt" else tmp_path)
        place = source if name == "neg/a.txt" else f"{source}:3"
        assert line.startswith(f"{place}: more than 4,194,304 characters in one text")

    def test_unknown_encoding(self, tmp_path):
        with pytest.raises(ConfigError, match="--encoding 'klingon'"):
            read_table(write(tmp_path, "a.csv", "a,b\n"), encoding="klingon")

    def test_other_encodings_are_read(self, tmp_path):
        content = CONTENTS["a.csv"]
        source = write(tmp_path, "a.csv", content.encode("utf-16"))
        assert list(read_table(source, encoding="utf-16").texts) == TEXTS
        source = write(tmp_path, "b.csv", b"text,label\ncaf\xe9,x\nno,y\n")
        assert read_table(source, encoding="latin-1").texts[0] == "caf\xe9"
        assert read_table(source, encoding="utf-8:replace").texts[0] == "caf\ufffd"


def test_memory_does_not_grow_with_a_table(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(storage, "MEMORY_CHARS", 100_000)
    rows = (f"{n} " + "word " * 200 + f",{n % 7}\n" for n in range(4_000))
    source = write(tmp_path, "a.csv", "text,label\n" + "".join(rows))
    read_table(source)  # loads the library
    tracemalloc.start()
    table = read_table(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(table, Table)
    assert table.texts[3777].startswith("3777 word")
    assert peak < 12_000_000  # blocks and the sample of rows, not 4 MB of text many times


@pytest.mark.parametrize(
    ("name", "text", "labelled"),
    [
        ("a.txt", "".join(f"good soup number {i}\tx\nbad tea {i}\ty\n" for i in range(9)), True),
        ("a.txt", "".join(f"{i}\tand the {i}th day was dry\n" for i in range(40)), False),
        ("a.txt", "".join(f"house {i}\tHaus {i}\n" for i in range(40)), False),
        ("a.txt", "Well, he said.\nNo, she said.\n", False),
        ("a.tsv", "house\tHaus\ndog\tHund\n", True),  # it says that it is a table
        ("a.txt", "__label__x soup\n__label__y tea\n", True),
        ("a.txt", "plain\n", False),
    ],
)
def test_a_file_holds_labels_if_it_says_so_or_values_come_back(tmp_path, name, text, labelled):
    path = tmp_path / name
    path.write_text(text)
    assert holds_labels(str(path)) == labelled
