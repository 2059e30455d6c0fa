"""Generated inputs through the reader of every command: an answer or one clear line, nothing lost.

The inputs are near to what people have: lines, tables, CoNLL, JSON, images, each with something odd
in it, in several encodings, packed, cut, or any bytes at all.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, Trained, error_line, within
from examples import SAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_safety import STEERING

from seqtool.delimited import LONGEST, find_layout, read_rows
from seqtool.formats import guess_format
from seqtool.images import read_images
from seqtool.pairs import read_pairs
from seqtool.tables import sample_rows
from seqtool.text import open_text
from seqtool.treebank import read_treebank

FEW, MANY = 25, 10_000
SECONDS = 120  # for one input, the first of which has to be compiled for

WORDS = [
    *("a", "the soup", "was", "good", "bad", "lovely", "1", "-3", "007", "NA", "null", "label"),
    *(
        "é",
        "Straße",
        "漢字",
        "😀",
        "e\u0301",
        "\u202egnp",
        "\x1b[2J\x07",
        "\ud800",
        "text",
        "source",
    ),
    *("\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\ufeff", "\xa0", "x" * 300, "../../etc"),
    *("__label__good ", "__label__", "HUM:ind ", "{", "}", "[]", '{"text": "a", "label": "b"}'),
    *('"', '""', "'", "#", "# text = a", "-DOCSTART-", "1-2", "2.1", "_", "B-X", "I-X", "O", "\\"),
]
ENDS = ["\n", "\n", "\n", "\r\n", "\r", "\n\n", "\n \n", ""]
MARKS = [",", ";", "\t", "|", " ", "", "\t\t", '","']

words = st.sampled_from(WORDS) | st.text(max_size=5)
loose = st.lists(words | st.sampled_from(ENDS) | st.sampled_from(MARKS), max_size=30).map("".join)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Rows of about as many cells."""
    mark, end, width = (
        draw(st.sampled_from(MARKS)),
        draw(st.sampled_from(ENDS)),
        draw(st.integers(1, 11)),
    )
    rows = draw(
        st.lists(st.lists(words, min_size=width, max_size=width) | st.lists(words, max_size=3))
    )
    quoted = draw(st.booleans())
    lines = [mark.join(f'"{cell}"' if quoted else cell for cell in row) for row in rows]
    return end.join(lines) + draw(st.sampled_from(ENDS))


def idx(shape: Sequence[int], values: bytes, kind: int = 8) -> bytes:
    head = bytes([0, 0, kind, len(shape)])
    return head + b"".join(side.to_bytes(4, "big") for side in shape) + values


SOUND = [
    *(
        (SAMPLES / name).read_bytes()[:700]
        for name in ("reviews.csv", "tagged.conllu", "pairs.tsv")
    ),
    b'{"text": "lovely soup", "label": "good"}\n{"text": "grim", "label": "bad"}\n' * 8,
    b"__label__good lovely soup\n__label__bad grim\n" * 8,
    "The cat sat.\nOn the mät.\n\n".encode() * 8,
    b"the DET\ncat NOUN\n\nsits VERB\n\n" * 8,
    idx((6, 3, 2), bytes(range(36))),
    idx((3037390391, 3036610659, 2), bytes(3722)),  # as many bytes, modulo 2^64
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file with some bytes changed, lost or doubled."""
    blob = draw(st.sampled_from(SOUND))
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(st.integers(0, len(blob))), draw(st.integers(0, 40))
        put = draw(st.sampled_from([b"", blob[at : at + size] * 2]) | st.binary(max_size=4))
        blob = blob[:at] + put + blob[at + size :]
    return blob


def encoded(text: str) -> st.SearchStrategy[bytes]:
    utf8 = text.encode("utf-8", "surrogatepass")
    sound = text.encode("utf-8", "replace")
    others = [sound, b"\xef\xbb\xbf" + sound, text.encode("latin-1", "replace"), utf8]
    others += [
        text.encode("utf-16", "surrogatepass"),
        gzip.compress(sound),
        gzip.compress(sound)[:-5],
    ]
    return st.sampled_from([sound, sound, sound, *others])


INPUTS = (loose | tables()).flatmap(encoded) | damaged() | st.binary(max_size=200)


@dataclass(frozen=True)
class Reader:
    """One way in.

    Attributes:
        task: Of the model that is used; "" to train one.
        words: The command; M is the model, D the data, OUT where a model would go.
        name: Of the file with the data; "-" sends them through a pipe.
        check: Asked whether nothing is lost: gets the file, and what was said, when all went well.
    """

    task: str
    words: tuple[object, ...]
    name: str
    check: Callable[[Path, str], None]


def count_lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and text != "")


def text_of(path: Path) -> str:
    return "".join("".join(chunks) for chunks in open_text(str(path), encoding="utf-8").documents())


def nothing_more(path: Path, said: str) -> None:
    """What is said has no lines that answer lines."""


def one_for_each(path: Path, said: str) -> None:
    blob = path.read_bytes()
    text = text_of(path) if path.name != "-" else blob.decode()
    assert said.count("\n") == count_lines(text)


def sentence_for_each(path: Path, said: str) -> None:
    """A line of JSON for every line."""
    one_for_each(path, said)
    given = text_of(path) if path.name != "-" else path.read_bytes().decode()
    for line, answer in zip(given.split("\n"), said.split("\n"), strict=False):
        if answer:
            found = json.loads(answer)
            assert found["tokens"] == line.split()
            assert len(found["labels"]) == len(found["tokens"])


def columns_stay(path: Path, said: str) -> None:
    """CoNLL comes back line for line; only the lines of tokens have changed."""
    given = text_of(path).split("\n")
    answered = said.split("\n")
    assert len(answered) in (len(given), len(given) + 1)  # a missing line end may be put there
    for line, answer in zip(given, answered, strict=False):
        if not line.strip() or line.startswith("#"):
            assert answer == line
        else:
            assert answer.split()[:1] == line.split()[:1]


def rows_stay(added: int) -> Callable[[Path, str], None]:
    def check(path: Path, said: str) -> None:
        """A table comes back row for row with columns added."""
        text = text_of(path)
        layout = find_layout(split(text), "x", delimiter=",")
        rows = [cells for _, cells in read_rows(split(text), layout, "x")]
        if layout.quoted:
            found = [*csv.reader(split(said), strict=True)]
        else:
            found = [line.split(",") if line != "\n" else [] for line in split(said)]
        assert [cells[:-added] for cells in found[layout.header :]] == rows

    return check


def split(text: str) -> list[str]:
    """The lines, each with its line feed; the last one may lack it."""
    return io.StringIO(text, newline="\n").readlines()


def all_is_read(path: Path, said: str) -> None:
    """Training would see all of a file, told from the file in another way."""
    name = str(path)
    match path.suffix:
        case ".jsonl":
            lines = [line for line in text_of(path).split("\n") if line.strip()]
            assert len(sample_rows(name)[1]) == len(lines)
        case ".csv":
            text = text_of(path)
            layout = find_layout(split(text), "x")
            read = [[*cells] for cells in sample_rows(name)[1] if [*cells] != [""]]
            mine = [line.rstrip("\r\n").split(layout.delimiter) for line in split(text)]
            if layout.quoted:
                mine = [*csv.reader(split(text), delimiter=layout.delimiter, strict=True)]
            mine = [cells for cells in mine if cells not in ([], [""])]
            assert len(mine) - len(read) in (0, 1)  # one may be a header
            assert mine[len(mine) - len(read) :] == read
        case ".conllu":
            bank = read_treebank(name)
            kept = [line for line in text_of(path).split("\n") if line.strip()]
            assert 0 < bank.num_tokens <= len(kept)
        case ".txt" if guess_format(name) == "lines":
            lines = [*open_text(name, encoding="utf-8").lines(LONGEST)]
            assert "".join(lines) == text_of(path)


def pixels_are_read(path: Path, said: str) -> None:
    images, blob = read_images(str(path)), path.read_bytes()
    blob = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
    assert len(images) == int.from_bytes(blob[4:8], "big")
    if images.pixels.size == len(blob) - 4 - 4 * blob[3]:
        np.testing.assert_array_equal(images.pixels.reshape(-1), [*blob[4 + 4 * blob[3] :]])


def pairs_read(path: Path, said: str) -> None:
    found = read_pairs(str(path))
    assert 0 < len(found) <= count_lines(text_of(path).replace("\r", "\n"))


SHOW = ("-o", "OUT", "--steps", 2, "--hidden-size", 4, "--show-config", "-q")
EVALUATE = ("evaluate", "M", "D", "--no-baselines")
INSPECT = ("inspect", "M", "D", "--json")
BEAM = ("-k", 1, "--max-length", 3)
READERS = {
    "generate": Reader("generate", ("generate", "M", "-l", 1, "-p", "-"), "-", nothing_more),
    "train text": Reader("", ("train", "D", *SHOW), "x.txt", all_is_read),
    "train CSV": Reader("", ("train", "D", *SHOW), "x.csv", all_is_read),
    "train JSON": Reader("", ("train", "D", *SHOW), "x.jsonl", all_is_read),
    "train CoNLL": Reader("", ("train", "D", *SHOW), "x.conllu", all_is_read),
    "train images": Reader("", ("train", "D", *SHOW), "x-idx3-ubyte", pixels_are_read),
    "train pairs": Reader("", ("train", "D", *SHOW, "--task", "translate"), "x.tsv", pairs_read),
    "classify": Reader("classify", ("classify", "M", "D"), "-", one_for_each),
    "classify a file": Reader("classify", ("classify", "M", "D"), "x.txt", one_for_each),
    "classify CSV": Reader("classify", ("classify", "M", "D"), "x.csv", rows_stay(2)),
    "tag": Reader("tag", ("tag", "M", "D", "--lines", "--json"), "-", sentence_for_each),
    "tag CoNLL": Reader("tag", ("tag", "M", "D"), "x.conllu", columns_stay),
    "translate": Reader("translate", ("translate", "M", "D", *BEAM), "-", one_for_each),
    "translate CSV": Reader("translate", ("translate", "M", "D", *BEAM), "x.csv", rows_stay(1)),
    "evaluate text": Reader("generate", EVALUATE, "x.txt", nothing_more),
    "evaluate CSV": Reader("classify", EVALUATE, "x.csv", nothing_more),
    "evaluate CoNLL": Reader("tag", EVALUATE, "x.conllu", nothing_more),
    "evaluate pairs": Reader("translate", EVALUATE, "x.tsv", nothing_more),
    "inspect text": Reader("generate", INSPECT, "x.txt", nothing_more),
    "inspect lines": Reader("classify", INSPECT, "x.txt", nothing_more),
    "inspect pairs": Reader("translate", INSPECT, "x.tsv", nothing_more),
}


def feed(run: Run, trained: Trained, place: Path, reader: Reader, blob: bytes) -> None:
    """One input through one reader."""
    path = place / reader.name
    path.write_bytes(blob)
    source = "-" if reader.name == "-" else path
    model = trained(reader.task)[0] if reader.task else None
    files = {"M": model, "D": source, "OUT": place / "out"}
    argv = [files.get(str(word), word) for word in reader.words]
    with within(SECONDS):
        code, out, err = run(*argv, stdin=blob if source == "-" else "")
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    assert not STEERING & {*err}, err
    if code:
        error_line("".join(err.splitlines(keepends=True)[-1:]))
        if source == "-" and "standard input:" in err and reader.check is not nothing_more:
            # Lines before the fault are answered.
            assert out.count("\n") == int(err.split("standard input:")[1].split(":")[0]) - 1
    else:
        reader.check(path, out)
    assert not (place / "out").exists()


LENIENT = settings(
    deadline=None,
    database=None,
    # The fixtures keep nothing from one input to the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", READERS)
@settings(LENIENT, max_examples=FEW, derandomize=True)
@given(blob=INPUTS)
def test_a_reader_answers_or_says_why(
    run: Run, trained: Trained, tmp_path: Path, name: str, blob: bytes
) -> None:
    feed(run, trained, tmp_path, READERS[name], blob)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@settings(LENIENT, max_examples=MANY)
@given(blob=INPUTS)
def test_a_reader_answers_ten_thousand_inputs_or_says_why(
    run: Run, trained: Trained, tmp_path: Path, name: str, blob: bytes
) -> None:
    feed(run, trained, tmp_path, READERS[name], blob)
