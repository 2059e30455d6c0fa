"""Vectors of words are read as their makers write them, and what is broken is named."""

import gzip
import lzma

import numpy as np
import pytest

from seqtool.embeddings import read_vectors
from seqtool.errors import DataError

GLOVE = "the 0.1 -0.2 3e-1\nof 1 2 3\nThe 7 7 7\nat name.org 4 5 6\nking 8 9 10\n"
SETS = {"the", "king", "at name.org", "absent"}


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        GLOVE,
        "5 3\n" + GLOVE,  # word2vec
        "5 3\n" + GLOVE.replace("\n", " \n"),  # fastText ends its lines so
        GLOVE.replace("\n", "\r\n").removesuffix("\r\n"),
    ],
)
def test_every_maker_s_file_gives_the_same_vectors(tmp_path, text):
    found = read_vectors(write(tmp_path / "v.txt", text), SETS)
    assert list(found.rows) == ["the", "at name.org", "king"]
    np.testing.assert_allclose(found.values, [[0.1, -0.2, 0.3], [4, 5, 6], [8, 9, 10]], rtol=1e-6)
    assert (found.total, found.width) == (5, 3)
    assert found.announced == (5 if text.startswith("5 3") else None)


def test_compressed_and_tabbed_files_are_read(tmp_path):
    plain = read_vectors(write(tmp_path / "v.txt", GLOVE), SETS)
    names = {"v.gz": gzip.compress, "v.vec.xz": lzma.compress}
    for name, pack in names.items():
        found = read_vectors(write(tmp_path / name, pack(GLOVE.encode())), SETS)
        np.testing.assert_array_equal(found.values, plain.values)
        assert found.sha256 == plain.sha256
    tabbed = "\n".join(line.replace(" ", "\t") for line in ("the 1 2", "king 3 4"))
    assert read_vectors(write(tmp_path / "t.txt", tabbed), SETS).values.tolist() == [[1, 2], [3, 4]]


def test_the_first_others_are_kept_too_and_small_letters_come_first(tmp_path):
    path = write(tmp_path / "v.txt", "King 1 1\nof 2 2\nking 3 3\nKING 4 4\nIn 5 5\nat 6 6\n")
    found = read_vectors(path, {"king"}, others=2, lower=True)
    assert list(found.rows) == ["king", "of", "in"]
    assert found.values.tolist() == [[3, 3], [2, 2], [5, 5]]
    cased = read_vectors(path, {"king"})
    assert list(cased.rows) == ["king"]


def test_places_of_words_and_their_vectors(tmp_path):
    found = read_vectors(write(tmp_path / "v.txt", GLOVE), SETS)
    places, values = found.rows_of(["king", "nothing", "the"])
    assert places.tolist() == [0, 2]
    np.testing.assert_allclose(values, [[8, 9, 10], [0.1, -0.2, 0.3]], rtol=1e-6)
    places, values = found.rows_of(["nothing"])
    assert (places.shape, values.shape) == ((0,), (0, 3))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the 1 2 3\nof 1 2\n", ":2: 2 numbers"),
        ("the 1 2 3\nof 1 2 3 4\n", ":2: 4 numbers"),
        ("the 1 2 3\n\nof 1 2 3\n", ":2: nothing"),
        ("of 1 2 3\nthe 1 x 3\n", ":2: 'x'"),
        ("of 1 2 3\nthe 1 nan 3\n", ":2: a number that is not finite"),
        ("2 3\nthe 1 2\n", ":2: 2 numbers, but needed is a word and 3 numbers"),
        ("2 0\n", ":1: 0 numbers"),
        ("word\nother\n", ":1: 0 numbers"),
        (b"2 3\nthe \x00\x01\xff\xfe\n", ":2: bytes that are no text"),
        (b"2 3\nthe \xff\xfe\xf0 1 2\n", ":2: bytes that are no text"),
        ("2 3\n", "no vectors"),
    ],
)
def test_a_broken_line_is_named(tmp_path, text, told):
    with pytest.raises(DataError) as caught:
        read_vectors(write(tmp_path / "v.txt", text), {"the"})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.vec"):
        read_vectors(str(tmp_path / "none.vec"), {"the"})
