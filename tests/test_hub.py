"""Parquet files and data sets by name: what HF datasets reads, as rows with their numbers."""

import gzip
import tracemalloc
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import huggingface_hub
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from seqtool.errors import DataError
from seqtool.guessing import guess_task
from seqtool.hub import hub_name, open_hub, open_parquet
from seqtool.tables import read_table
from seqtool.text import open_text

ROWS = {
    "text": ["a good film", None, "NA", "last"],
    "label": [1, 0, -1, None],
    "tags": [["x", "y"], [], ["x"], None],
    "score": [1.0, 2.0, float("nan"), None],
}
FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["neg", "pos"]),
        "tags": datasets.List(datasets.Value("string")),
        "score": datasets.Value("float64"),
        "picture": datasets.Image(),
    }
)


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    """Rows of many kinds, one column of pictures that nobody may decode."""
    return datasets.Dataset.from_dict(ROWS | {"picture": [None] * 4}, features=FEATURES)


@pytest.fixture(scope="module")
def parquet(data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "odd [name].parquet"
    data.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def packed(parquet) -> Path:
    path = parquet.with_name("packed.parquet.gz")
    path.write_bytes(gzip.compress(parquet.read_bytes()))
    return path


def test_parquet_gives_names_of_classes_and_missing_values(parquet, packed):
    for path in (parquet, packed):
        table = read_table(str(path))
        assert list(table.texts) == ["a good film", "", "NA", "last"]
        assert list(table.labels) == ["pos", "neg", "", ""]
        assert list(table.rows) == [1, 2, 3, 4]
        assert table.where(1) == f"{path}:2"
    assert read_table(str(packed)).sha256 == read_table(str(parquet)).sha256


def test_parquet_columns_are_settable(parquet):
    table = read_table(str(parquet), label_column="tags", multi_label=True)
    assert list(table.labels) == [("x", "y"), (), ("x",), ()]
    assert list(read_table(str(parquet), label_column="score").labels) == ["1", "2", "", ""]
    with pytest.raises(DataError, match=r'no column "lable"; there are text, label, tags, score;'):
        read_table(str(parquet), label_column="lable")


def test_a_data_set_by_name(data, monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return datasets.DatasetDict({"test": data.select([0]), "train": data})

    monkeypatch.setattr(datasets, "load_dataset", load)
    table = read_table("owner/films")
    assert asked == ["owner/films"]
    assert (len(table), table.where(3), table.classes) == (4, "owner/films:4", ("neg", "pos"))
    part = read_table("owner/films:test")
    assert len(part) == 1
    assert part.sha256 != table.sha256
    with pytest.raises(DataError, match=r'no split "tets"; .* did you mean owner/films:test\?'):
        read_table("owner/films:tets")


@pytest.mark.parametrize("kind", ["hub", "parquet"])
def test_a_data_set_is_never_held_whole(kind, tmp_path, monkeypatch):
    """From the library's cache, or a file: batch by batch, any number of times."""
    large = datasets.Dataset.from_dict({"text": [f"{n} " + "x" * 1000 for n in range(20_000)]})
    if kind == "hub":
        large.save_to_disk(tmp_path / "cached")  # as the library keeps what it has fetched
        large = datasets.load_from_disk(tmp_path / "cached")
        monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": large})
        rows = open_hub(("owner/films", ""))
    else:
        pyarrow.parquet.write_table(large.data.table, tmp_path / "x.parquet", row_group_size=1000)
        rows = open_parquet(
            open_text(str(tmp_path / "x.parquet"), encoding="utf-8", binary_ok=True)
        )
    for _ in range(2):
        before, most, count = pyarrow.total_allocated_bytes(), 0, 0
        tracemalloc.start()
        for row, (text,) in rows.read():
            count += 1
            assert row == count
            assert text.startswith(f"{row - 1} x")
            most = max(most, pyarrow.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 20_000
        assert peak < 8_000_000  # of 20 MB of text
        assert most < 8_000_000


def test_without_a_network_the_name_is_told():
    with pytest.raises(DataError) as error:  # conftest sets HF_HUB_OFFLINE=1
        read_table("nobody-at-all/nothing-here")
    line = str(error.value)
    assert line.startswith("nobody-at-all/nothing-here: no such file, and not to be had from the")
    assert guess_task("nobody-at-all/nothing-here") == "classify"
    assert guess_task("nobody-at-all/nothing-here.txt") == "generate"
    assert "\n" not in line


def test_attempts_to_reach_the_hub_are_not_told(monkeypatch, capfd):
    def load(name):
        hub.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    hub = huggingface_hub.logging
    monkeypatch.setattr(datasets, "load_dataset", load)
    before = hub.get_verbosity()
    hub.set_verbosity_warning()
    try:
        with pytest.raises(DataError, match="check the name and the connection"):
            read_table("owner/films")
    finally:
        hub.set_verbosity(before)
    assert capfd.readouterr().err == ""


def test_paths_are_no_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert hub_name("owner/name") == ("owner/name", "")
    assert hub_name("owner/name:test") == ("owner/name", "test")
    for source in (
        "data/name",
        "a.csv",
        "x/a.csv",
        "x/a.txt.gz",
        "/a/b",
        "./a/b",
        "a/b/c",
        "-",
        "x/a.tsv.zst",
    ):
        assert hub_name(source) is None
