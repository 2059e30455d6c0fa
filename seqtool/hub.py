"""Tables that HF ``datasets`` reads: Parquet files, and data sets by name from the hub.

The library is loaded only here and only when such a source is named; only a name from the hub
touches the network, and not even that with HF_HUB_OFFLINE=1.
"""

import difflib
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqtool.errors import DataError
from seqtool.text import TextFiles

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_FILE = re.compile(r"\.(csv|tsv|tab|txt|dict|jsonl?|ndjson|parquet|gz|xz|bz2|zst)$")
TRANSLATION = "translation"  # a column with one text for each language, by convention
_MAGIC = b"PAR1"
_BATCH = 1000  # rows turned into Python objects at once
Batch = Mapping[str, Sequence[Any]]  # columns of so many rows, by name


@dataclass(frozen=True)
class Rows:
    """A table of HF ``datasets`` as rows that can be read any number of times."""

    names: tuple[str, ...]  # columns of words, numbers, labels and lists of them
    read: Callable[[], Iterator[tuple[int, Sequence[Any]]]]  # row, counted from 1, and its cells
    fingerprint: str


def hub_name(source: str) -> tuple[str, str] | None:
    """(owner/name, split or "") if that is what a source is, and no path."""
    match = _NAME.fullmatch(source)
    if match is None or Path(source).exists() or Path(match[1]).parent.is_dir():
        return None
    if _FILE.search(match[1].lower()):
        return None
    return match[1], match[2] or ""


def open_hub(name: tuple[str, str]) -> Rows:
    """Fetch a data set, or find it in the library's cache.

    Args:
        name: As ``hub_name`` gives it; without a split "train" is taken, or else the first.

    Raises:
        DataError: If it is not there, needs a choice that was not made, or cannot be reached.
    """
    import datasets  # type: ignore[import-untyped]

    _silence()
    title, split = name
    try:
        parts = datasets.load_dataset(title)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as err:
        detail = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise DataError(
            f"{title}: no such file, and not to be had from the Hugging Face hub ({detail}); "
            "check the name and the connection"
        ) from err
    chosen = split or ("train" if "train" in parts else next(iter(parts)))
    if chosen not in parts:
        close = difflib.get_close_matches(chosen, parts, n=1)
        advice = f"did you mean {title}:{close[0]}?" if close else "name one of these"
        raise DataError(f'{title}: no split "{chosen}"; there are {", ".join(parts)}; {advice}')
    part = parts[chosen]

    def batches(names: list[str]) -> Iterator[Batch]:
        # Pictures and sounds are not even decoded.
        yield from part.select_columns(names).iter(batch_size=_BATCH)

    return _rows(part.features, batches, part._fingerprint)


def open_parquet(files: TextFiles) -> Rows:
    """The rows of a Parquet file, read in batches and never held whole.

    Raises:
        DataError: If it is not a Parquet file, or a damaged one; also while reading.
    """
    import datasets
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    path, folder = _plain_file(files)
    refused = (OSError, ValueError, ArrowException, datasets.exceptions.DatasetsError)

    def batches(names: list[str]) -> Iterator[Batch]:
        # One after the other: the library's own stream decodes up to a GB ahead.
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=names, use_threads=False):
                yield batch.to_pydict()

    try:
        features = datasets.Features.from_arrow_schema(parquet.read_schema(path))
        rows = _rows(features, batches, "")
    except refused as err:
        raise _unreadable(files.name, err) from err

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        try:
            yield from rows.read()
        except refused as err:
            raise _unreadable(files.name, err) from err

    if folder:
        weakref.finalize(read, shutil.rmtree, folder, ignore_errors=True)
    return Rows(rows.names, read, rows.fingerprint)


def _plain_file(files: TextFiles) -> tuple[Path, str]:
    """A file to go back and forth in, and the folder of a copy: of what is packed or from a pipe.

    The folder is "" where the file itself will do.
    """
    source = files.paths[0] if files.paths else None
    if source is not None:
        with open(source, "rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                return source, ""
    folder = tempfile.mkdtemp(prefix="seqtool-")
    path = Path(folder, "table.parquet")
    with open(path, "wb") as copy:
        for block in files.blocks(source):
            copy.write(block)
    return path, folder


def _rows(
    features: Mapping[str, Any], batches: Callable[[list[str]], Iterator[Batch]], fingerprint: str
) -> Rows:
    """Rows of a table in batches of some of its columns; class numbers become class names."""
    import datasets

    def simple(kind: Any) -> bool:
        if isinstance(kind, datasets.List | datasets.LargeList):
            return simple(kind.feature)
        return isinstance(kind, datasets.Value | datasets.ClassLabel)

    spread = _languages(features.get(TRANSLATION))
    kinds = {name: kind for name, kind in features.items() if simple(kind)}
    chosen = [*kinds, *([TRANSLATION] if spread else [])]

    def named(kind: Any, cell: Any) -> Any:
        if isinstance(cell, list):
            return [named(kind.feature, part) for part in cell]
        if isinstance(kind, datasets.ClassLabel):  # -1 stands for a label that is kept secret
            return None if cell is None or cell < 0 else kind.int2str(cell)
        return cell

    def read() -> Iterator[tuple[int, Sequence[Any]]]:
        row = 0
        for batch in batches(chosen):
            texts = batch[TRANSLATION] if spread else ()
            columns = [batch[name] for name in kinds]
            columns += [[text[language] for text in texts] for language in spread]
            for cells in zip(*columns, strict=True):
                row += 1
                simples = zip(kinds.values(), cells, strict=False)
                found = [named(kind, cell) for kind, cell in simples]
                yield row, found + list(cells[len(kinds) :])

    names = [*kinds, *(f"{TRANSLATION}.{language}" for language in spread)]
    return Rows(tuple(names), read, fingerprint)


def _languages(kind: Any) -> list[str]:
    """The languages of a column that holds a text for each."""
    import datasets

    if isinstance(kind, datasets.Translation):
        return list(kind.languages)
    return list(kind) if isinstance(kind, dict) else []


def _silence() -> None:
    """One display is enough, and it is ours."""
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    # It tells of every attempt without a network.
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _unreadable(name: str, err: Exception) -> DataError:
    detail = str(err).splitlines()[0] if str(err) else type(err).__name__
    return DataError(f"{name}: not a Parquet file, or a damaged one ({detail})")
