"""Pairs from every format: the same ones, and one line for what is wrong."""

import bz2
import gzip
import io
import json
import lzma
import sys

import numpy as np
import pytest

from seqtool import storage
from seqtool.errors import ConfigError, DataError
from seqtool.guessing import guess_task
from seqtool.pairs import answers, find_shift, guess_pairs, read_pairs

SOURCES = ["The dog sleeps.", 'She says "no"\tand goes.', "It rains, again.", "007 is late."]
TARGETS = ["Der Hund schläft.", "Sie sagt „nein“.", "Es regnet, wieder.", "007 kommt zu spät."]
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


def quoted(cell):
    return '"' + cell.replace('"', '""') + '"'


ROWS = list(zip(SOURCES, TARGETS, strict=True))
CONTENTS = {
    "a.csv": "en,de\n" + "".join(f"{quoted(s)},{quoted(t)}\n" for s, t in ROWS),
    "b.csv": "".join(f"{quoted(s)},{quoted(t)}\n" for s, t in ROWS),
    "a.tsv": "n\ttarget\tsource\n" + "".join(f"1\t{quoted(t)}\t{quoted(s)}\n" for s, t in ROWS),
    "a.jsonl": "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in ROWS),
    "b.jsonl": "".join(json.dumps({"translation": {"en": s, "de": t}}) + "\n" for s, t in ROWS),
}


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def say(*names, **options):
    with pytest.raises((DataError, ConfigError)) as error:
        read_pairs(*names, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_pairs(tmp_path, name, packed):
    content = PACKERS[packed](CONTENTS[name].encode())
    pairs = read_pairs(write(tmp_path / (name + packed), content))
    assert list(pairs.sources) == SOURCES
    assert list(pairs.targets) == TARGETS
    assert pairs.sources[1:3][1] == SOURCES[2]


@pytest.mark.parametrize("packed", PACKERS)
def test_parallel_files_give_them_too(tmp_path, packed, monkeypatch):
    sources = "\n".join(s.replace("\t", " ") for s in SOURCES).encode()
    targets = "\r\n".join(TARGETS).encode() + b"\r\n"
    first = write(tmp_path / ("a" + packed), PACKERS[packed](sources))
    second = write(tmp_path / ("b" + packed), PACKERS[packed](targets))
    pairs = read_pairs(first, target=second)
    assert list(pairs.targets) == TARGETS
    assert pairs.rows[3] == 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sources)))
    assert list(read_pairs("-", target=second).texts) == list(pairs.texts)


def test_a_headerless_table_of_short_words_loses_no_row(tmp_path):
    rows = [("Go.", "Va !"), ("Hi", "Salut"), ("Run", "Cours")]
    path = write(tmp_path / "a.txt", "".join(f"{s}\t{t}\n" for s, t in rows))
    assert list(read_pairs(path).texts) == rows
    assert guess_pairs(path) == "the only two texts"


def test_many_pairs_are_mapped_from_disk(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", CONTENTS["a.csv"])
    whole = list(read_pairs(path, target_column="de").texts)
    monkeypatch.setattr(storage, "MEMORY_CHARS", 30)
    pairs = read_pairs(path)
    assert not isinstance(pairs.texts, list)
    assert list(zip(pairs.sources, pairs.targets, strict=True)) == whole
    assert pairs.select([2, 0]).targets[1] == TARGETS[0]
    assert pairs.select([2, 0]).where(0) == f"{path}:4"


def test_several_right_answers(tmp_path):
    path = write(
        tmp_path / "a.tsv", "word\tipa\nread\tri\u02d0d | rɛd\nlead\tli\u02d0d\nread\trɛd\n"
    )
    pairs = read_pairs(path, separator="|")
    assert list(pairs.targets) == ["ri\u02d0d", "rɛd", "li\u02d0d", "rɛd"]
    assert list(pairs.rows) == [2, 2, 3, 4]
    found = answers(pairs)
    assert found.sources == ["read", "lead"]
    assert found.references == [("ri\u02d0d", "rɛd"), ("li\u02d0d",)]
    assert found.first.tolist() == [0, 2]
    columns = write(tmp_path / "b.csv", "word,ref1,ref2\na b,c d,\ne f,g h,i j\n")
    assert list(read_pairs(columns).targets) == ["c d", "g h", "i j"]
    assert list(read_pairs(columns, target_column="ref2").targets) == ["", "i j"]


SPOKEN = """;;; a dictionary
READ  R IY1 D
READ(2)  R EH1 D # the past
DEED  D IY1 D
RED D EH1 R
(  P ER EH N

DEER\tD IH1 R
DREAD\t\tD R EH1 D
"""


def test_a_dictionary_of_pronunciations_is_known_by_its_look(tmp_path):
    path = write(tmp_path / "spoken.dict", SPOKEN)
    assert guess_task(path) == "translate"
    pairs = read_pairs(path)
    assert pairs.columns.texts == ("word", "pronunciation")
    found = list(zip(pairs.rows, pairs.texts, strict=True))
    assert found[:3] == [
        (2, ("READ", "R IY1 D")),
        (3, ("READ", "R EH1 D")),
        (4, ("DEED", "D IY1 D")),
    ]
    assert ("(", "P ER EH N") in pairs.texts
    assert ("DREAD", "D R EH1 D") in pairs.texts


@pytest.mark.parametrize(
    "text",
    [
        "So it is as we go on\nIt is as he is so\nNo one is as it is\n",
        "a b c d\na c d b\nb c d a\n" * 9,  # first words that come back
        "red 12 13 14\ndeer 15 16 13\ndeed 14 15 16\n" * 3,
        "It rains again today\nThe dog sleeps\nWe watch the rain\n" * 3,
    ],
)
def test_prose_and_figures_are_no_pronunciations(tmp_path, text):
    assert guess_task(write(tmp_path / "text.txt", text)) == "generate"


def test_files_out_of_step_are_refused_with_the_line(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["x" * n for n in rng.integers(5, 90, 200)]
    first = write(tmp_path / "a", "\n".join(lines) + "\n")
    second = write(tmp_path / "b", "\n".join(lines[:120] + lines[123:]) + "\n")
    line = say(first, target=second)
    assert f"{first} has 200 lines and {second} 197" in line
    assert "from about line 121 on" in line
    assert "from about line 121 on" in say(second, target=first)


def test_the_shift_is_found_at_either_end():
    sizes = np.log(np.random.default_rng(1).integers(5, 90, 300).astype(float))
    assert find_shift(sizes, sizes[1:]) == 1
    assert find_shift(sizes, sizes[:-1]) == 300
    assert find_shift(np.delete(sizes, 77), sizes) == 78


def test_bad_input_is_told_in_one_line(tmp_path):
    good = write(tmp_path / "good", "a b\nc d\n")
    latin = write(tmp_path / "latin", "gut\nschön\n".encode("latin-1"))
    assert f"{latin}:2: not valid UTF-8" in say(good, target=latin)
    assert list(read_pairs(good, target=latin, target_encoding="latin-1").targets)[1] == "schön"
    assert "needed are two files" in say(good, target=good)
    assert "no columns to choose 'x'" in say(good, target=latin, source_column="x")
    assert "given with --target" in say(good, target_encoding="latin-1")
    assert "no such file" in say(good, target=str(tmp_path / "none"))
    assert "empty, there is nothing" in say(good, target=write(tmp_path / "empty", ""))
    assert "or two files of lines, with --source and --target" in say(good)
    one = write(tmp_path / "one.csv", "text\nhello\n")
    assert "cannot tell which two columns" in say(one)
    ragged = write(tmp_path / "r.tsv", "a b\tc d\ne f\n")
    assert f"{ragged}:2: 1 cells" in say(ragged)
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "1.png").touch()
    assert "needed is a table with a column of their names" in say(str(tmp_path / "lines"))


def test_tables_with_labels_are_not_taken_for_pairs(tmp_path):
    rows = "".join(f"text number {n},{'yes' if n % 3 else 'no'}\n" for n in range(30))
    assert guess_pairs(write(tmp_path / "a.csv", "text,label\n" + rows)) == ""
    assert guess_pairs(write(tmp_path / "a.txt", "just\nlines of\ntext\n")) == ""
    assert guess_pairs(write(tmp_path / "b.csv", CONTENTS["a.csv"])) != ""


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_gives_the_same_pairs(tmp_path, nested):
    import datasets

    columns = {"de": TARGETS, "en": SOURCES}
    if nested:
        rows = [{"de": t, "en": s} for s, t in ROWS]
        data = datasets.Dataset.from_dict({"n": [1, 2, 3, 4], "translation": rows})
    else:
        data = datasets.Dataset.from_dict(columns)
    path = str(tmp_path / "a.parquet")
    data.to_parquet(path)
    names = ("translation.en", "translation.de") if nested else ("en", "de")
    pairs = read_pairs(path, source_column=names[0], target_column=names[1])
    assert list(pairs.texts) == ROWS
    assert len(guess_pairs(path)) > 0


def test_the_task_follows_from_data_and_named_columns(tmp_path):
    latin = write(
        tmp_path / "a.csv", "".join(f"über {n},grün {n}\n" for n in range(9)).encode("latin-1")
    )
    assert guess_task(latin, encoding="latin-1") == "translate"
    assert guess_task(latin, encoding="latin-1", labelled=True) == "classify"
    with pytest.raises(DataError, match="--encoding latin-1"):
        guess_task(latin)
