"""Text to ids and ids to batches, each against a slow hand-written way to the same thing."""

import gzip
import hashlib
import io
import json
import lzma
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seqtool.idfiles as idfiles
import seqtool.text as text_module
from seqtool.config import DataConfig
from seqtool.data import (
    Streams,
    Tally,
    encode_documents,
    fit_shape,
    let_go,
    load_corpus,
    text_stats,
)
from seqtool.errors import CheckpointError, DataError
from seqtool.text import open_text
from seqtool.tokenizer import Tokenizer

KINDS = ["char", "byte", "word", "bpe"]
WORDS = "the sea was calm, the sea was gr\u00e9y\nand the boat \U0001f6a3 was small\r\n\n"


@pytest.fixture
def text_file(tmp_path):
    """Write a text, give its path."""

    def write(content: str | bytes, name: str = "a.txt") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def say(data, config=None, **options) -> str:
    """The line a user sees when this text cannot be used."""
    with pytest.raises(DataError) as error:
        load_corpus(data, config or DataConfig(), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Files to ids


@pytest.mark.parametrize(
    ("characters", "fraction", "train"),
    [(1_115_394, 0.1, 1_003_854), (10, 0.1, 9), (11, 0.1, 9), (7, 0.5, 3), (9, 0.25, 6), (5, 0, 5)],
)
def test_split_is_a_cut_by_characters(text_file, characters, fraction, train):
    text = ("to be, or not to b\u00e9:\n" * (characters // 20 + 1))[:characters]
    corpus = load_corpus(text_file(text), DataConfig(valid_fraction=fraction))
    valid = characters - train
    assert (corpus.train_chars, corpus.valid_chars) == (train, valid)
    assert len(corpus.train) == train + 1
    assert len(corpus.valid) == (valid + 1 if valid else 0)
    assert corpus.tokenizer.decode(corpus.train) == text[:train]
    assert corpus.tokenizer.decode(corpus.valid) == text[train:]
    assert corpus.train_bytes == len(text[:train].encode())
    assert corpus.valid_bytes == len(text[train:].encode())
    assert corpus.train.dtype == corpus.valid.dtype == np.uint8
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert (corpus.valid_sha256, corpus.unknown) == (None, {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5])
def test_each_document_of_a_part_follows_a_start_id(
    text_file, tmp_path, monkeypatch, kind, fraction
):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 7)
    texts = {"a": WORDS * 5, "b": "", "c": WORDS * 2, "d": "x", "e": WORDS * 4}
    for name, text in texts.items():
        text_file(text, f"docs/{name}.txt")
    config = DataConfig(tokenizer=kind, valid_fraction=fraction, vocab_size=300)
    corpus = load_corpus(str(tmp_path / "docs"), config)

    cut = int(sum(map(len, texts.values())) * (1 - fraction))
    expected = ([], [])
    position = 0
    for text in texts.values():
        inside = max(0, min(len(text), cut - position))
        for part, piece in zip(expected, (text[:inside], text[inside:]), strict=True):
            if piece:
                part += [corpus.tokenizer.start_id, *corpus.tokenizer.encode(piece).tolist()]
        position += len(text)
    assert corpus.train.tolist() == expected[0]
    assert corpus.valid.tolist() == expected[1]
    assert corpus.train.dtype == corpus.tokenizer.dtype
    assert corpus.stats.documents == 4


def test_cut_between_documents_leaves_no_lone_start_id(text_file, tmp_path):
    text_file("ab", "docs/1.txt")
    text_file("cd", "docs/2.txt")
    corpus = load_corpus(str(tmp_path / "docs"), DataConfig(valid_fraction=0.5))
    assert corpus.train.tolist() == [0, 2, 3]
    assert corpus.valid.tolist() == [0, 4, 5]


@pytest.mark.parametrize("form", ["plain", "gz", "xz", "stdin", "directory"])
def test_every_form_of_a_text_gives_the_same_corpus(text_file, tmp_path, monkeypatch, form):
    text = WORDS * 20
    packed = {"gz": gzip.compress, "xz": lzma.compress}.get(form, bytes)(text.encode())
    data = text_file(packed, "d/a.txt" + (f".{form}" if form in ("gz", "xz") else ""))
    if form == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed), "utf-8"))
        data = "-"
    elif form == "directory":
        data = str(tmp_path / "d")
    corpus = load_corpus(data, DataConfig())
    plain = load_corpus(text_file(text, "plain.txt"), DataConfig())
    assert corpus.train.tobytes() == plain.train.tobytes()
    assert corpus.valid.tobytes() == plain.valid.tobytes()
    assert (corpus.sha256, corpus.stats) == (plain.sha256, plain.stats)
    assert corpus.name == {"stdin": "standard input"}.get(form, data)


def test_alphabet_comes_from_the_held_out_part_too(text_file):
    corpus = load_corpus(text_file("ab" * 9 + "cd"), DataConfig(valid_fraction=0.1))
    assert corpus.tokenizer.vocab_size == 2 + 4
    assert corpus.unknown == {}
    assert corpus.tokenizer.unknown_id not in corpus.valid


def test_validation_file_adds_nothing_to_the_alphabet(text_file):
    data, valid = text_file("ab\n" * 9), text_file("abz\nz", "valid.txt")
    corpus = load_corpus(data, DataConfig(), valid=valid)
    assert (corpus.train_chars, corpus.valid_chars) == (27, 5)
    assert corpus.unknown == {"z": 2}
    assert corpus.valid.tolist().count(corpus.tokenizer.unknown_id) == 2
    assert corpus.valid_sha256 == hashlib.sha256(b"abz\nz").hexdigest()


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_words_are_learned_from_the_training_part_only(text_file, kind):
    data = text_file("sea boat " * 50 + "quay " * 30)
    config = DataConfig(tokenizer=kind, valid_fraction=0.25)
    both = load_corpus(data, config).tokenizer
    train = load_corpus(text_file("sea boat " * 50, "train.txt"), config, valid=data).tokenizer
    assert len(both.encode(" quay")) == len(train.encode(" quay")) == 5
    assert len(both.encode(" boat")) == 1


def test_given_tokenizer_is_used_as_it_is(text_file):
    known = Tokenizer.train("char", lambda: iter(["ab"]), vocab_size=300)
    corpus = load_corpus(text_file("abca" * 5), DataConfig(tokenizer="bpe"), tokenizer=known)
    assert corpus.tokenizer is known
    assert corpus.unknown == {"c": 5}
    assert corpus.train.tolist()[:5] == [0, *known.encode("abca").tolist()]


def test_byte_takes_any_bytes(text_file):
    content = bytes(range(256)) * 4
    data = text_file(content)
    corpus = load_corpus(data, DataConfig(tokenizer="byte"))
    parts = corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.valid)
    assert parts.encode("utf-8", "surrogateescape") == content
    assert (corpus.train_bytes, corpus.valid_bytes) == (
        corpus.train.size - 1,
        corpus.valid.size - 1,
    )
    assert corpus.stats.bytes == len(content)
    given = load_corpus(data, DataConfig(), tokenizer=corpus.tokenizer)
    assert given.train.tobytes() == corpus.train.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_mapped_ids_equal_those_in_memory(text_file, tmp_path, monkeypatch, kind):
    data = text_file(WORDS * 40)
    config = DataConfig(tokenizer=kind, vocab_size=300)
    in_memory = load_corpus(data, config)
    monkeypatch.setattr(idfiles, "MEMORY_NUMBERS", 100)
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 64)
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    mapped = load_corpus(data, config)
    assert isinstance(mapped.train, np.memmap)
    assert not isinstance(in_memory.train, np.memmap)
    for part in ("train", "valid"):
        ids, same = getattr(in_memory, part), getattr(mapped, part)
        assert ids.dtype == same.dtype
        assert ids.tobytes() == same.tobytes()
    assert (in_memory.train_chars, in_memory.stats) == (mapped.train_chars, mapped.stats)
    assert list(cache.iterdir()) == []  # a kill leaves nothing behind

    settings = {"batch_size": 3, "bptt": 5, "restart": 0.2, "start_id": 0, "seed": 4}
    line_ends = mapped.tokenizer.line_end_ids()
    streams = [Streams(c.train, line_ends=line_ends, **settings) for c in (in_memory, mapped)]
    for _ in range(200):
        for one, other in zip(*(stream.next() for stream in streams), strict=True):
            assert type(other) is np.ndarray
            np.testing.assert_array_equal(one, other)


def test_memory_does_not_grow_with_the_text(text_file, monkeypatch):
    monkeypatch.setattr(idfiles, "MEMORY_NUMBERS", 1 << 14)
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 1 << 14)
    text = "all work and no play\n"
    peaks = []
    for repeats in (2_000, 100_000):
        data = text_file(text * repeats)
        tracemalloc.start()
        corpus = load_corpus(data, DataConfig())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert corpus.train_chars + corpus.valid_chars == len(text) * repeats
    assert peaks[1] < peaks[0] + 200_000  # the text itself is 2 million characters longer


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is asked for there")
def test_mapped_ids_that_were_read_are_let_go(text_file, monkeypatch):
    monkeypatch.setattr(idfiles, "MEMORY_NUMBERS", 1000)
    corpus = load_corpus(text_file("sea " * 1_000_000), DataConfig(valid_fraction=0))

    def megabytes() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) / 1024

    before = megabytes()
    read = corpus.train.copy()
    between = megabytes()
    let_go(np.asarray(corpus.train)[5:])
    assert megabytes() < before + 1 < between - 1
    np.testing.assert_array_equal(corpus.train, read)
    let_go(read)  # nothing is mapped


def test_full_disk_is_named(text_file, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(idfiles, "MEMORY_NUMBERS", 10)
    monkeypatch.setattr(idfiles, "_append", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert say(text_file(WORDS)) == (
        f"{tmp_path}: no place for the token ids (No space left on device); "
        "set TMPDIR to a directory with more room"
    )
    missing = tmp_path / "missing"
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    assert say(text_file(WORDS)).startswith(f"{missing}: no place for")


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("x", "char", "1 character, of which 0 to train on, make 0 tokens"),
        ("xy", "char", "2 characters, of which 1 to train on, make 1 token"),
        ("\ufeff", "char", "0 characters, of which 0 to train on, make 0 tokens"),
        ("xy", "byte", "2 characters, of which 1 to train on, make 1 token"),
        ("xyxyxy", "word", "6 characters, of which 5 to train on, make 1 token"),
    ],
)
def test_too_short_text_is_refused(text_file, text, kind, found):
    data = text_file(text)
    tokenizer = None
    if kind == "word":
        tokenizer = Tokenizer.train("word", lambda: iter(["xyxyx\n" * 9]), vocab_size=300)
    config = DataConfig(tokenizer=kind)
    assert say(data, config, tokenizer=tokenizer) == (
        f"{data}: {found}; at least 2 are needed: give more text, or --valid-fraction 0"
    )


def test_three_characters_are_enough(text_file):
    corpus = load_corpus(text_file(" \n "), DataConfig())
    assert (corpus.train_chars, corpus.valid_chars) == (2, 1)


def test_validation_file_without_text_is_refused(text_file):
    valid = text_file("\ufeff", "valid.txt")
    line = f"{valid}: no text to validate with; name another --valid FILE"
    assert say(text_file(WORDS), valid=valid) == line
    empty = text_file("", "empty.txt")
    assert say(text_file(WORDS), valid=empty) == f"{empty}: empty, there is nothing to read"


def test_errors_of_reading_come_through(text_file):
    assert "use --encoding utf-16" in say(text_file(WORDS.encode("utf-16")))
    assert "byte 0xe9" in say(text_file(b"caf\xe9"))


# What is in a text


def test_stats_count_what_is_there(text_file, tmp_path):
    texts = ["ab\r\n\nb", "", "caf\u00e9 \u4e2d\U0001f600\n", "\ufeff\n"]
    for number, text in enumerate(texts):
        text_file(text, f"docs/{number}.txt")
    stats = text_stats(open_text(str(tmp_path / "docs"), encoding="utf-8"))
    joined = "".join(texts).replace("\ufeff", "")
    assert stats.documents == 3
    assert stats.characters == len(joined)
    assert stats.bytes == len(joined.encode())
    assert stats.lines == 3 + 1 + 1
    assert stats.character_counts == {char: joined.count(char) for char in sorted(set(joined))}
    assert list(stats.character_counts) == sorted(set(joined))


def test_rare_and_strange_characters_are_listed(text_file):
    strange = "\0\x0c\x1b\u00a0\u00ad\u200b\u2028\u202e\ue000\ufeff\ufffd\U000e0001\u0378"
    usual = "az09 ~\n\t\r\u00e9\u0301\u4e2d\U0001f600\u2019\u2014"
    data = text_file((strange + usual) * 5 + "q\ufffdz" * 4)
    stats = text_stats(open_text(data, encoding="utf-8", binary_ok=True))
    assert stats.strange == dict.fromkeys(strange, 5) | {"\ufffd": 9}
    assert stats.rare == {"q": 4}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=4))
def test_encoded_documents_equal_encoding_each(documents):
    tokenizer = Tokenizer.train("byte", lambda: iter([]), vocab_size=300)
    tally = Tally()
    chunks = encode_documents((iter([d[:3], d[3:]]) for d in documents), tokenizer, tally)
    ids = [int(token) for chunk in chunks for token in chunk]
    assert ids == [x for d in documents if d for x in (0, *tokenizer.encode(d).tolist())]
    assert tally == Tally(len("".join(documents)), len("".join(documents).encode()))


# Streams


START, END = 0, 1


def make_ids(num_ids: int, *, line: int = 0, seed: int = 3) -> np.ndarray:
    """A text of START and then other ids, with an END about every `line` tokens."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, 40, num_ids).astype(np.uint16)
    if line:
        ids[rng.random(num_ids) < 1 / line] = END
    ids[0] = START
    return ids


def make_streams(ids: np.ndarray, batch_size: int, bptt: int, restart: float, seed: int = 1):
    return Streams(
        ids,
        batch_size=batch_size,
        bptt=bptt,
        restart=restart,
        line_ends=np.array([END], np.uint16),
        start_id=START,
        seed=seed,
    )


def slow_streams(ids, batch_size, bptt, restart, seed=1):
    """The definition of Streams, one token at a time."""
    rng = np.random.default_rng(seed)
    ids = [int(token) for token in ids]
    share = len(ids) // batch_size
    while True:
        offset = int(rng.integers(len(ids)))
        positions = [offset + b * len(ids) // batch_size for b in range(batch_size)]
        read = 0
        while read < share:
            chance = rng.random(batch_size) / (restart + 1e-300 if read else 1)
            fresh, begins = chance < 1, chance < 0.5
            inputs, targets = [], []
            for b in range(batch_size):
                if begins[b]:
                    for step in range(min(512, share)):
                        if ids[(positions[b] + step) % len(ids)] in (START, END):
                            positions[b] += step
                            break
                row = [ids[(positions[b] + t) % len(ids)] for t in range(bptt + 1)]
                targets.append(row[1:])
                inputs.append([START if begins[b] else row[0], *row[1:-1]])
                positions[b] += bptt
            read += bptt
            yield inputs, targets, fresh


@pytest.mark.parametrize("restart", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("num_ids", "batch_size", "bptt", "line"),
    [
        (5000, 4, 7, 30),
        (5000, 3, 64, 900),
        (97, 3, 5, 0),
        (97, 1, 97, 9),
        (11, 5, 2, 3),
        (3, 1, 1, 0),
    ],
)
def test_streams_equal_the_slow_loop(num_ids, batch_size, bptt, line, restart):
    ids = make_ids(num_ids, line=line)
    streams = make_streams(ids, batch_size, bptt, restart)
    slow = slow_streams(ids, batch_size, bptt, restart)
    for _ in range(1500 // (batch_size * bptt + 10) + 30):
        batch, (inputs, targets, fresh) = streams.next(), next(slow)
        np.testing.assert_array_equal(batch.inputs, inputs)
        np.testing.assert_array_equal(batch.targets, targets)
        np.testing.assert_array_equal(batch.restart, fresh)
        assert batch.inputs.dtype == batch.targets.dtype == np.int64
        assert batch.restart.dtype == bool


def test_targets_follow_inputs_and_chunks_follow_chunks():
    streams = make_streams(make_ids(2000, line=40), 5, 8, 0.1)
    last = streams.next()
    assert last.restart.all()
    restarts = begins = 0
    for _ in range(500):
        batch = streams.next()
        np.testing.assert_array_equal(batch.targets[:, :-1], batch.inputs[:, 1:])
        on = ~batch.restart
        np.testing.assert_array_equal(batch.inputs[on, 0], last.targets[on, -1])
        begins += int((batch.inputs[batch.restart, 0] == START).sum())
        restarts += int(batch.restart.sum())
        last = batch
    # 10 % by chance and, every 50 chunks, all by a new epoch; sqrt(2500 * .1 * .9) is 15.
    assert abs(restarts - (2500 * 0.98 * 0.1 + 2500 * 0.02)) < 60
    assert abs(begins - restarts / 2) < 40


def test_every_epoch_reads_the_whole_ring_and_offsets_are_even():
    ids = np.arange(2, 99, dtype=np.uint8)  # every id tells its place; no line ends
    streams = make_streams(ids, 3, 5, 0.0)
    begins = np.zeros(97, dtype=np.int64)
    for _ in range(800):
        seen = np.zeros(97, dtype=np.int64)
        for chunk in range(7):  # 97 // 3 = 32 tokens take 7 chunks of 5
            batch = streams.next()
            assert batch.restart.all() == batch.restart.any() == (chunk == 0)
            if chunk == 0:
                begins[batch.targets[0, 0] - 2] += 1
            np.add.at(seen, batch.targets - 2, 1)
        assert seen.min() == 1
        assert seen.max() == 2
    expected = 800 / 97
    assert abs(begins - expected).max() < 6 * expected**0.5
    assert streams.epoch == pytest.approx(800 * 105 / 97)


def test_streams_of_an_epoch_begin_at_different_places():
    ids = np.arange(600, dtype=np.uint16) + 2
    ids[0] = START  # the only line end: without the limit every stream would run to it
    batch = make_streams(ids, 6, 4, 0.0).next()
    assert len(set(batch.targets[:, 0].tolist())) == 6


def test_line_ends_beyond_reach_do_not_move_a_stream():
    ids = np.full(4000, 9, dtype=np.uint16)
    ids[3000] = END
    ids[3001:] = 7
    moved = 0
    for seed in range(200):
        streams = make_streams(ids, 1, 3, 0.0, seed=seed)
        rng = np.random.default_rng(seed)
        offset = int(rng.integers(4000))
        near = 3000 - 512 < offset <= 3000 and rng.random() < 0.5
        expected = ids[(np.arange(3) + 1 + (3000 if near else offset)) % 4000]
        np.testing.assert_array_equal(streams.next().targets[0], expected)
        moved += near
    assert 0 < moved < 200


@pytest.mark.parametrize("steps", [0, 1, 9, 40])
def test_resumed_streams_go_on_exactly(steps):
    ids = make_ids(500, line=20)
    streams = make_streams(ids, 4, 6, 0.2)
    for _ in range(steps):
        streams.next()
    saved = json.loads(json.dumps(streams.state_dict()))
    resumed = make_streams(ids, 4, 6, 0.2, seed=99)
    resumed.load_state_dict(saved)
    assert resumed.epoch == streams.epoch
    for _ in range(60):
        for one, other in zip(streams.next(), resumed.next(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert resumed.state_dict() == streams.state_dict()


@pytest.mark.parametrize(("num_ids", "batch_size"), [(501, 4), (500, 5)])
def test_cursor_of_another_run_is_refused(num_ids, batch_size):
    saved = make_streams(make_ids(500), 4, 6, 0.2).state_dict()
    other = make_streams(make_ids(num_ids), batch_size, 6, 0.2)
    with pytest.raises(CheckpointError, match=r"read 500 tokens in 4 streams.*--batch-size$"):
        other.load_state_dict(saved)


@given(st.integers(2, 5000), st.integers(1, 300), st.integers(1, 300))
def test_fitted_shape_is_the_largest_that_fits(num_tokens, batch_size, bptt):
    fitted_batch, fitted_bptt = fit_shape(num_tokens, batch_size, bptt)
    assert 1 <= fitted_batch <= batch_size
    assert 1 <= fitted_bptt <= bptt
    assert fitted_batch * fitted_bptt <= num_tokens
    if batch_size * bptt <= num_tokens:
        assert (fitted_batch, fitted_bptt) == (batch_size, bptt)
    elif bptt <= num_tokens:
        assert fitted_bptt == bptt
        assert (fitted_batch + 1) * bptt > num_tokens
    else:
        assert (fitted_batch, fitted_bptt) == (1, num_tokens)
