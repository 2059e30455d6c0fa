"""Delimited files: how they are written, where a bad row stands, and rows with answers added."""

import csv
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seqtool.delimited as delimited
from seqtool.delimited import Layout, RowStream, find_layout, format_row, read_rows
from seqtool.errors import DataError


def lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline="\n"))


def read(text: str, **options) -> tuple[Layout, list[tuple[int, list[str]]]]:
    layout = find_layout(lines(text), "x.csv", **options)
    return layout, list(read_rows(lines(text), layout, "x.csv"))


def say(text: str, **options) -> str:
    with pytest.raises(DataError) as error:
        read(text, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_delimiter_is_found(mark):
    text = "text,label\nfine, no\nworse\n".replace("fine, no", "fine,yes").replace(
        "worse", "bad,no"
    )
    layout, rows = read(text.replace(",", mark))
    assert layout == Layout(mark, mark != "\t", ("text", "label"), True)
    assert rows == [(2, ["fine", "yes"]), (3, ["bad", "no"])]


def test_commas_in_prose_do_not_beat_a_tab():
    layout, rows = read("text\tlabel\nWell, well\tyes\nNo, no, never\tno\n")
    assert layout.delimiter == "\t"
    assert rows[1] == (3, ["No, no, never", "no"])


def test_row_numbers_are_lines_of_the_file():
    text = 'text,label\n"two\nlines",a\n\n"a ""quote"", a comma",b\r\nlast,c'
    _, rows = read(text)
    assert rows == [
        (2, ["two\nlines", "a"]),
        (4, []),
        (5, ['a "quote", a comma', "b"]),
        (6, ["last", "c"]),
    ]


@pytest.mark.parametrize(
    ("text", "quoted", "cell"),
    [
        ('text\tlabel\n"Up" is a film\tpos\nNo\tneg\n', False, '"Up" is a film'),
        ('text\tlabel\n"He said ""no"""\tpos\nNo\tneg\n', True, 'He said "no"'),
        ('text\tlabel\n"two\nlines"\tpos\nNo\tneg\n', True, "two\nlines"),
    ],
)
def test_quotes_in_tsv_are_text_unless_they_come_in_pairs(text, quoted, cell):
    layout, rows = read(text, delimiter="\t")
    assert layout.quoted == quoted
    assert rows[0][1][0] == cell


def test_csv_without_quoting_is_read_if_it_fits():
    layout, rows = read('text,label\n"Up" is a film,pos\nNo,neg\n')
    assert not layout.quoted
    assert rows[0] == (2, ['"Up" is a film', "pos"])


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("text,label\na,b\n", True),
        ("Review Text,Stars\ngood,5\n", True),
        (",text,label\n0,a,b\n", True),  # as pandas writes its index
        ("wording,verdict\ngood,yes\nbad,no\n", True),
        ("good film,pos\nbad film,neg\nfine film,pos\n", False),  # "pos" comes back
        ("0,a fine film\n1,a bad film\n", False),
        ("good,good\nbad,bad\n", False),
        ("x" * 61 + ",pos\nshort,neg\n", False),
        ("one\ntwo\n", False),
        ("sentence\ntwo\n", True),
    ],
)
def test_header_is_told_from_data(text, header):
    layout, rows = read(text)
    assert layout.header == header
    assert len(rows) == text.count("\n") - header
    if not header:
        assert layout.names == tuple(str(n + 1) for n in range(len(rows[0][1])))


def test_wanted_names_make_a_header():
    assert not read("1,2\n3,4\n")[0].header
    assert read("1,2\n3,4\n", wanted=["2"])[0].header


def test_unnamed_columns_are_numbered():
    assert read(",text,\n0,a,b\n")[0].names == ("1", "text", "3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text,label\na,b\nc,d,e\n",
            "x.csv:3: 3 cells, but the header has 2 (text, label); "
            "put a cell that contains ',' in double quotes",
        ),
        (
            "text,label\n\na,b\nc\n",
            "x.csv:4: 1 cells, but the header has 2 (text, label); "
            "add what is missing, an empty cell if nothing",
        ),
        ('text,label\na,b\n"never closed,c\nd,e\n', "x.csv:3: a quote opens in this row and never"),
        (
            'text,label\n"a, b" c,d\n',
            "x.csv:2: text goes on after a closing quote; write a quote inside a cell as two",
        ),
        (
            'text,label\na,b\n"a,\nb" c,d\n',
            "x.csv:3: text goes on after a closing quote (noticed in line 4); write",
        ),
        ("text,label\na\rb,c\nd\n", "x.csv:2: a carriage return stands alone inside a row"),
        ("text,label\n", "x.csv: only a header (text, label) and no rows below it"),
        ("\n\n", "x.csv: only empty lines, there is nothing to read"),
    ],
)
def test_bad_rows_are_named(text, message):
    assert say(text).startswith(message)


def test_ragged_tsv_says_what_a_tab_may_not_do():
    line = say("text\tlabel\na\tb\nc\td\te\n", delimiter="\t")
    assert line.endswith("replace a tab inside a cell by something else")


@pytest.mark.parametrize("row", [1, 999, 1500])
def test_ragged_row_is_found_wherever_it_stands(row):
    text = "".join(f"text {n},label\n" if n != row else "a,b,c\n" for n in range(2000))
    assert say("text,label\n" + text).startswith(f"x.csv:{row + 2}: 3 cells")


def test_a_cell_as_long_as_a_library_is_refused(monkeypatch):
    monkeypatch.setattr(delimited, "LONGEST", 1000)
    rows = 'text,label\na,b\n"' + "word \n" * 300 + '",c\n'
    assert say(rows).startswith("x.csv:3: more than 1,000 characters in one text")
    assert csv.field_size_limit(131_072) == 1000  # the library's own default, for other tests


cells = st.text(st.characters(exclude_characters="\r\0", codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1), st.sampled_from([",", ";", "\t"]))
def test_what_is_written_quoted_is_read_back(rows, mark):
    layout = Layout(mark, True, ("a", "b"), True)
    text = "".join(format_row(row, layout) for row in [("a", "b"), *rows])
    back = [tuple(cells) for _, cells in read_rows(io.StringIO(text, newline="\n"), layout, "x")]
    assert back == rows


@pytest.mark.parametrize("cell", ["\r", "a\rb", "\r\n", "a\n", 'q"', ""])
def test_what_is_written_with_quotes_is_sound_for_others(cell):
    line = format_row([cell], Layout(",", True, ("a",), True))
    rows = csv.reader(io.StringIO(line, newline="\n").readlines(), strict=True)
    assert [*rows] == [[cell]]


def test_without_quotes_a_tab_cannot_be_written():
    layout = Layout("\t", False, ("a", "b"), True)
    assert format_row(['"a"', "b"], layout) == '"a"\tb\n'
    for cell in ("a\tb", "a\nb"):
        with pytest.raises(DataError, match="cannot write"):
            format_row([cell, "b"], layout)


class TestRowStream:
    def test_keeps_columns_and_adds_two(self):
        text = 'id,review,label\n1,"good, really",x\n\n2,"two\nlines",y\n'
        stream = RowStream(lines(text), "x.csv", text_columns=["review"])
        out = stream.header(["label", "probability"])
        for record in stream:
            out += stream.answer(record, ["pos", "0.9"])
        assert out == (
            "id,review,label,label_2,probability\n"
            '1,"good, really",x,pos,0.9\n\n2,"two\nlines",y,pos,0.9\n'
        )

    def test_gives_texts_and_lines(self):
        text = "premise\thypothesis\na\tb\n\nc\td\n"
        stream = RowStream(lines(text), "x.tsv", delimiter="\t")
        assert stream.columns.texts == ("premise", "hypothesis")
        found = [(record.number, record.texts) for record in stream]
        assert found == [(2, ("a", "b")), (3, ("", "")), (4, ("c", "d"))]

    def test_without_a_header_adds_none(self):
        stream = RowStream(lines("7,a good one\n8,a bad one\n"), "x.csv")
        assert stream.header(["label"]) == ""
        assert [record.texts for record in stream] == [("a good one",), ("a bad one",)]

    def test_gives_the_rows_before_a_bad_one(self):
        text = 'text,label\na,b\nc,"d"e"\n'
        stream = RowStream(lines(text), "x.csv", text_columns=["text"])
        rows = iter(stream)
        assert next(rows).texts == ("a",)
        with pytest.raises(DataError, match=r"^x.csv:3: text goes on"):
            next(rows)

    def test_missing_column_is_named_with_the_nearest(self):
        with pytest.raises(DataError, match=r'no column "txt"; .* did you mean "text"\?$'):
            RowStream(lines("text,label\na,b\n"), "x.csv", text_columns=["txt"])

    def test_live_reads_no_line_too_early(self):
        taken = []

        def typed() -> Iterator[str]:
            for line in lines("id,text\n1,first\n2,second\n"):
                taken.append(line)
                yield line

        stream = RowStream(typed(), "standard input", text_columns=["text"], live=True)
        assert len(taken) == 1
        for number, record in enumerate(stream, 2):
            assert len(taken) == number == record.number
