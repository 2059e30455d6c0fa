"""Text to ids and back: agreement with the library, round trips, chunks, streams, unknowns."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtool.config import TokenizerKind
from seqtool.errors import CheckpointError, ConfigError
from seqtool.tokenizer import BYTE_SYMBOLS, START, Tokenizer
from seqtool.unseen import apply_unknown_policy, nearest_known

KINDS: tuple[TokenizerKind, ...] = ("char", "byte", "word", "bpe")
SPELL_ALL = ("byte", "word", "bpe")  # the kinds without unknown characters

# A busy machine must not fail a test; what is random here is small and cheap.
FUZZ = settings(max_examples=30, deadline=None)

TEXT = (
    "The cat sat on the mat, and the cat's hat sat on the cat.\n\n"
    "\tDon't say 'never' in 1984!  The  mat\u2019s flat \u2026 \u201cthat\u201d \u2014 so.\r\n"
    "Der K\u00e4fer l\u00e4uft \u00fcber die Br\u00fccke; die Br\u00fccke h\u00e4lt.\n"
    "\u041a\u043e\u0442 \u0438 \u043a\u0438\u0442, \u043a\u043e\u0442 \u0438 \u043a\u0438\u0442.\n"
    "\u732b\u304c\u597d\u304d\u3002\u732b\u304c\u597d\u304d\u3002\n"
    "cafe\u0301 caf\u00e9 \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f600\n"
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u05e9\u05c1\u05dc\u05d5\u05dd "
    "<s> <unk> \x00\x1c\x85\u3000.   \n"
) * 3

TRAINED = {
    kind: Tokenizer.train(kind, lambda: iter([TEXT]), vocab_size=330 if kind == "bpe" else 300)
    for kind in KINDS
}
LIBRARY = {kind: tokenizers.Tokenizer.from_str(TRAINED[kind].to_json()) for kind in KINDS}

known_text = st.text(st.sampled_from(sorted(set(TEXT))), max_size=60)
words = st.sampled_from(["the", "cat's", "''", "'ll", "\u2019", " ", "\n", "\r\n", "\t", "19842"])
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
mixed_text = st.lists(st.one_of(words, known_text, any_text), max_size=8).map("".join)
with_surrogates = st.lists(st.one_of(mixed_text, st.characters(categories=["Cs"])), max_size=8).map(
    "".join
)


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(text=known_text)
def test_decode_gives_back_the_text(kind, text):
    assert TRAINED[kind].decode(TRAINED[kind].encode(text)) == text


@pytest.mark.parametrize("kind", SPELL_ALL)
@FUZZ
@given(text=mixed_text)
def test_text_never_seen_round_trips_without_unknowns(kind, text):
    tokenizer = TRAINED[kind]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.unknown_id is None
    assert tokenizer.unknown(text) == {}


@pytest.mark.parametrize("kind", SPELL_ALL)
@FUZZ
@given(data=st.one_of(st.binary(max_size=60), mixed_text.map(str.encode)))
def test_any_bytes_round_trip(kind, data):
    text = data.decode("utf-8", "surrogateescape")
    back = TRAINED[kind].decode(TRAINED[kind].encode(text))
    assert back.encode("utf-8", "surrogateescape") == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "a", "\n", "\U0001f600", "\r\n", "e\u0301", TEXT])
def test_named_texts_round_trip(kind, text):
    alphabet = TRAINED[kind].extend(text)
    assert alphabet.decode(alphabet.encode(text)) == text


@FUZZ
@given(data=st.binary(max_size=30))
def test_byte_ids_are_the_bytes_plus_one(data):
    ids = TRAINED["byte"].encode(data.decode("utf-8", "surrogateescape"))
    assert ids.tolist() == [byte + 1 for byte in data]


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(text=mixed_text)
def test_ids_and_text_are_those_of_the_library(kind, text):
    ids = TRAINED[kind].encode(text)
    assert ids.tolist() == LIBRARY[kind].encode(text).ids
    if kind != "char":  # the library leaves "<unk>" in the text
        assert LIBRARY[kind].decode(ids.tolist(), skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", KINDS)
def test_library_saves_the_same_vocabulary(kind):
    saved = json.loads(TRAINED[kind].to_json())["model"]
    again = json.loads(LIBRARY[kind].to_str())["model"]
    assert again["vocab"] == saved["vocab"]
    assert LIBRARY[kind].get_vocab_size() == TRAINED[kind].vocab_size


def is_no_byte(character):
    return "\ud800" <= character < "\udc80" or "\udcff" < character <= "\udfff"


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(text=with_surrogates)
def test_lone_surrogates_never_fail(kind, text):
    tokenizer = TRAINED[kind]
    if kind == "char":
        expected = "".join(c if c in tokenizer.characters else "\ufffd" for c in text)
    else:  # surrogates stand for bytes, which together may be characters, or for nothing
        bytes_ = "".join("\ufffd" if is_no_byte(c) else c for c in text)
        expected = bytes_.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    apply_unknown_policy(text, tokenizer, "nearest", "text")


@pytest.mark.parametrize("kind", KINDS)
def test_start_is_never_text_and_decodes_to_nothing(kind):
    tokenizer = TRAINED[kind]
    ids = tokenizer.encode(START + TEXT + START)
    assert tokenizer.start_id == 0
    assert 0 not in ids
    assert tokenizer.decode([0, *ids, 0]) == START + TEXT + START


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [-1, 70_000])
def test_decode_refuses_ids_outside_the_vocabulary(kind, bad):
    with pytest.raises(ValueError, match="ids must be"):
        TRAINED[kind].decode([1, bad])


@pytest.mark.parametrize(
    ("characters", "dtype"),
    [(254, "uint8"), (255, "uint16"), (65_534, "uint16"), (65_535, "uint32")],
)
def test_dtype_is_the_smallest_that_holds_every_id(characters, dtype):
    text = "".join(map(chr, range(0x20000, 0x20000 + characters)))
    tokenizer = Tokenizer.train("char", lambda: iter([text]), vocab_size=1)
    assert tokenizer.dtype == np.dtype(dtype)
    assert tokenizer.encode(text).dtype == tokenizer.dtype
    assert tokenizer.encode(text).tolist() == list(range(2, tokenizer.vocab_size))


def cut_up(text, cuts):
    """The text in pieces that end at the given places, empty pieces included."""
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(data=st.data())
def test_chunks_give_the_ids_of_the_whole(kind, data):
    unbroken = st.sampled_from(["a", "\u732b", "\n", " ", "\t", ".", "7", "'s", "\udc80", "\u3000"])
    lengths = st.sampled_from([1, 2, 8, 63, 64, 65, 66, 130, 300])  # pieces end at 16 and 64
    runs = st.tuples(unbroken, lengths).map(lambda run: run[0] * run[1])
    text = data.draw(st.lists(st.one_of(runs, mixed_text, st.just(TEXT)), max_size=6).map("".join))
    chunks = cut_up(text, data.draw(st.lists(st.integers(0, 10_000), max_size=6)))
    whole = TRAINED[kind].encode(text)  # shorter than one segment
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqtool.tokenizer.SEGMENT", 150)
        parts = [np.empty(0, whole.dtype), *TRAINED[kind].encode_chunks(chunks)]
    assert np.array_equal(np.concatenate(parts), whole)
    if "\udc80" not in text:
        assert whole.tolist() == LIBRARY[kind].encode(text).ids


@pytest.mark.parametrize("kind", ["word", "bpe"])
@pytest.mark.parametrize("last", ["7", "\x1c", "\n", "x", " ", "\u3000"])
@pytest.mark.parametrize("length", [1, 54, 55, 56, 57, 63, 64, 65, 66, 127, 128, 129])
def test_long_white_space_is_cut_where_its_pieces_stay_the_same(kind, last, length, monkeypatch):
    # Long enough behind the white space for it to be settled, too short for what follows it.
    text = " " * 8 + "\u3000" * length + last + "7" * 63 + "\u2019" * 63
    whole = TRAINED[kind].encode(text)
    monkeypatch.setattr("seqtool.tokenizer.SEGMENT", len(text))
    parts = TRAINED[kind].encode_chunks([text])
    assert np.concatenate(list(parts)).tolist() == whole.tolist()


@pytest.mark.parametrize("kind", SPELL_ALL)
@pytest.mark.parametrize("unit", ["\u732b", " ", "word ", "\n", "\udc80"])
def test_chunks_are_encoded_as_they_come(kind, unit, monkeypatch):
    """Constant memory: what has been read but not yet encoded stays bounded."""
    monkeypatch.setattr("seqtool.tokenizer.SEGMENT", 1000)
    read = encoded = 0

    def chunks():
        nonlocal read
        for _ in range(50):
            read += 1000
            assert read - encoded <= 10_000  # eight segments side by side, and what is left over
            yield unit * (1000 // len(unit))

    for ids in TRAINED[kind].encode_chunks(chunks()):
        encoded += len(TRAINED[kind].decode(ids))
    assert encoded == read == 50_000


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(text=mixed_text, starts=st.lists(st.integers(0, 200), max_size=3))
def test_stream_equals_decode_and_holds_half_characters_back(kind, text, starts):
    ids = TRAINED[kind].encode(text).tolist()
    for start in starts:
        ids.insert(start % (len(ids) + 1), 0)
    stream = TRAINED[kind].stream()
    pieces = [stream.push(token) for token in ids]
    assert stream.flush() == ""
    assert "".join(pieces) == TRAINED[kind].decode(ids)
    assert not any("\ud800" <= c <= "\udfff" for piece in pieces for c in piece)


@FUZZ
@given(data=st.binary(max_size=30))
def test_stream_of_damaged_bytes_equals_decode(data):
    ids = [byte + 1 for byte in data]
    stream = TRAINED["byte"].stream()
    text = "".join(map(stream.push, ids)) + stream.flush()
    assert text == TRAINED["byte"].decode(ids)


def test_stream_gives_a_character_with_its_last_byte():
    stream = TRAINED["byte"].stream()
    pieces = [stream.push(token) for token in TRAINED["byte"].encode("a\u20ac\U0001f600").tolist()]
    assert pieces == ["a", "", "", "\u20ac", "", "", "", "\U0001f600"]
    assert stream.push(0xE2 + 1) == ""
    assert stream.flush() == "\udce2"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_is_the_same(kind):
    saved = TRAINED[kind].to_json()
    loaded = Tokenizer.from_json(saved, "m/tokenizer.json")
    assert loaded.kind == kind
    assert loaded.to_json() == saved
    assert loaded.vocab_size == TRAINED[kind].vocab_size
    assert loaded.unknown_id == TRAINED[kind].unknown_id
    assert np.array_equal(loaded.encode(TEXT), TRAINED[kind].encode(TEXT))
    assert loaded.decode(loaded.encode(TEXT)) == TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_that_learned_nothing_load_as_their_kind(kind):
    empty = Tokenizer.train(kind, lambda: iter(()), vocab_size=300)
    loaded = Tokenizer.from_json(empty.to_json(), "m")
    assert (loaded.kind, loaded.vocab_size) == (kind, 2 if kind == "char" else 257)
    assert loaded.encode("").size == 0
    assert loaded.encode("ab").size == 2


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(data=st.data())
def test_cut_short_file_is_refused(kind, data):
    saved = TRAINED[kind].to_json().rstrip()
    length = data.draw(st.integers(0, len(saved) - 1))
    with pytest.raises(CheckpointError, match=r"^runs/m/tokenizer\.json: damaged"):
        Tokenizer.from_json(saved[:length], "runs/m/tokenizer.json")


def _without_start(model):
    del model["vocab"][START]


def _with_gap(model):
    model["vocab"]["\u00e9\u00e9"] = len(model["vocab"]) + 1


def _with_double(model):
    model["vocab"]["\u00e9\u00e9"] = 2


def _with_text_id(model):
    model["vocab"]["\u00e9\u00e9"] = "9"


def _with_long_entry(model):
    model["vocab"]["a \u20ac"] = len(model["vocab"])


def _with_surrogate(model):
    model["vocab"]["\ud800"] = len(model["vocab"])


def _with_swapped_ids(model):
    model["vocab"]["a"], model["vocab"][START] = 0, model["vocab"]["a"]


def _with_foreign_merge(model):
    model["merges"] = ["q z"]


def _with_no_list(model):
    model["merges"] = None


def _with_numbers(model):
    model["merges"] = [1, 2]


def _of_another_type(model):
    model["type"] = "Unigram"


DAMAGE = [
    _without_start,
    _with_gap,
    _with_double,
    _with_text_id,
    _with_long_entry,
    _with_surrogate,
    _with_swapped_ids,
    _with_foreign_merge,
    _with_no_list,
    _with_numbers,
    _of_another_type,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_changed_file_is_refused(kind, damage):
    saved = json.loads(TRAINED[kind].to_json())
    damage(saved["model"])
    with pytest.raises(CheckpointError, match=r"^m: damaged") as caught:
        Tokenizer.from_json(json.dumps(saved), "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "3", "[]", "{}", '{"model": 3}', "[" * 100_000, '"'])
def test_file_that_is_no_tokenizer_is_refused(text):
    with pytest.raises(CheckpointError, match=r"^m: damaged, or not a tokenizer"):
        Tokenizer.from_json(text, "m")


def test_tokenizer_of_another_program_is_refused():
    other = tokenizers.Tokenizer(tokenizers.models.BPE())
    with pytest.raises(CheckpointError, match="not a tokenizer that seqtool wrote"):
        Tokenizer.from_json(other.to_str(), "m")


@pytest.mark.parametrize("kind", KINDS)
@settings(FUZZ, max_examples=5)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=5))
def test_training_does_not_depend_on_chunks(kind, cuts):
    chunks = cut_up(TEXT, cuts)
    again = Tokenizer.train(kind, lambda: iter(chunks), vocab_size=330 if kind == "bpe" else 300)
    assert again.to_json() == TRAINED[kind].to_json()


@pytest.mark.parametrize("kind", SPELL_ALL)
def test_training_on_damaged_bytes_is_possible(kind):
    text = "the cat \udcff\udcfe the cat \ud800 the cat"
    tokenizer = Tokenizer.train(kind, lambda: iter([text]), vocab_size=300)
    assert tokenizer.decode(tokenizer.encode("the cat \udcff")) == "the cat \udcff"


def test_char_vocabulary_is_the_sorted_characters():
    tokenizer = Tokenizer.train("char", lambda: iter(["banana", "\nb"]), vocab_size=300)
    assert tokenizer.encode("\nabn").tolist() == [2, 3, 4, 5]
    assert (tokenizer.vocab_size, tokenizer.unknown_id, tokenizer.dtype) == (6, 1, np.uint8)
    assert tokenizer.encode("xa").tolist() == [1, 3]
    assert tokenizer.decode([1, 3]) == "\ufffda"


def test_word_vocabulary_is_the_most_frequent_words_seen_twice():
    text = "the cat the dog the cat a a once"
    tokenizer = Tokenizer.train("word", lambda: iter([text]), vocab_size=300)
    vocab = list(json.loads(tokenizer.to_json())["model"]["vocab"])
    space = BYTE_SYMBOLS[ord(" ")]
    # Each twice, so by spelling; the first "the" has no space before it and is seen once.
    assert vocab[257:] == [f"{space}a", f"{space}cat", f"{space}the"]
    assert Tokenizer.train("word", lambda: iter([text]), vocab_size=258).vocab_size == 258
    assert len(tokenizer.encode(" cat")) == 1
    assert tokenizer.encode(" dog").tolist() == [byte + 1 for byte in b" dog"]


def test_bpe_merges_frequent_pairs_up_to_the_size_asked_for():
    for size in (257, 260, 300):
        tokenizer = Tokenizer.train("bpe", lambda: iter([TEXT]), vocab_size=size)
        assert tokenizer.vocab_size == size
    assert len(TRAINED["bpe"].encode(TEXT)) < len(TRAINED["byte"].encode(TEXT)) / 2
    first = Tokenizer.train("bpe", lambda: iter(["abab abab"]), vocab_size=258)
    assert first.encode("ab").tolist() == [257]


@pytest.mark.parametrize("kind", KINDS)
def test_line_end_ids_are_those_whose_text_ends_a_line(kind):
    tokenizer = TRAINED[kind]
    ends = tokenizer.line_end_ids()
    assert ends.dtype == tokenizer.dtype
    assert set(ends.tolist()) == {
        token for token in range(tokenizer.vocab_size) if tokenizer.decode([token]).endswith("\n")
    }
    assert tokenizer.encode("the cat\n")[-1] in ends


def test_extended_char_keeps_old_ids_and_appends_new_ones_sorted():
    old = Tokenizer.train("char", lambda: iter(["cab"]), vocab_size=300)
    new = old.extend("zeca\ud800")
    assert new.encode("abcez").tolist() == [2, 3, 4, 5, 6]
    assert old.vocab_size == 5
    assert Tokenizer.from_json(new.to_json(), "m").to_json() == new.to_json()
    assert new.extend("abc").to_json() == new.to_json()


@pytest.mark.parametrize("kind", SPELL_ALL)
def test_kinds_that_spell_everything_have_nothing_to_extend(kind):
    assert TRAINED[kind].extend("\u4e00") is TRAINED[kind]


@FUZZ
@given(text=with_surrogates)
def test_unknown_counts_every_missing_character(text):
    char = TRAINED["char"]
    missing = Counter(c for c in text if c not in char.characters)
    assert char.unknown(text) == missing
    assert list(char.unknown(text)) == sorted(missing)


@pytest.mark.parametrize(
    ("character", "known", "form"),
    [
        ("a", "ab", "a"),
        ("\u2019", "'\"", "'"),
        ("'", "\u2019", "\u2019"),
        ("\u201c", "'\"", '"'),
        ("\u201d", "'", "'"),
        ("\u2014", "-", "-"),
        ("-", "\u2013", "\u2013"),
        ("\u2026", ".", "..."),
        ("\u00a0", " ", " "),
        ("\u2005", " ", " "),
        ("\t", " ", " "),
        ("\r", "\n", "\n"),
        ("\ufb01", "fi", "fi"),
        ("\uff21", "A", "A"),
        ("\u00bd", "12/", "1/2"),
        ("\u00e9", "e\u0301", "e\u0301"),
        ("\u00e9", "eE", "e"),
        ("\u0142", "l", "l"),
        ("\u00d8", "O", "O"),
        ("\u00df", "s", "ss"),
        ("\u00c6", "AE", "AE"),
        ("\u00e6", "ae", "ae"),
        ("\u0663", "3", "3"),
        ("A", "a", "a"),
        ("a", "A", "A"),
        ("\u00c9", "e", "e"),
        ("\u200b", "x", ""),
        ("\ufeff", "x", ""),
        ("\u0301", "x", ""),
        ("\u2603", "abc", None),
        ("\x07", "abc", None),
        ("\ud800", "abc", None),
    ],
)
def test_nearest_known_form(character, known, form):
    assert nearest_known(character, known) == form


@FUZZ
@given(
    character=st.characters(), known=st.frozensets(st.sampled_from(sorted(map(chr, range(256)))))
)
def test_nearest_form_is_always_known(character, known):
    form = nearest_known(character, known)
    assert form is None or known.issuperset(form)


SMALL = Tokenizer.train("char", lambda: iter(["abcdefi .\n'\u00e9"]), vocab_size=300)


@pytest.mark.parametrize(
    ("policy", "result"),
    [
        ("skip", " b\n e"),
        ("replace", "\u00e1 b\r\n\u2603\ufb01 e\u0301"),
        ("nearest", "a b\n\u2603fi \u00e9"),
    ],
)
def test_unknown_policy_changes_the_text(policy, result):
    text = "\u00e1 b\r\n\u2603\ufb01 e\u0301"
    changed, counts = apply_unknown_policy(text, SMALL, policy, "--prompt")
    assert changed == result
    assert counts == Counter("\u00e1\r\u2603\ufb01\u0301")


def test_unknown_policy_leaves_known_text_alone():
    text = "a \u00e9.\n"
    for policy in ("error", "skip", "replace", "nearest"):
        assert apply_unknown_policy(text, SMALL, policy, "--prompt") == (text, Counter())


@pytest.mark.parametrize("kind", SPELL_ALL)
def test_unknown_policy_never_touches_kinds_that_spell_everything(kind):
    text = "\u2603\ud800 \U0001f600"
    assert apply_unknown_policy(text, TRAINED[kind], "error", "--prompt") == (text, Counter())


def test_unknown_error_names_each_character_on_one_line():
    with pytest.raises(ConfigError) as caught:
        apply_unknown_policy("\u00e0\u2603\r\u0301\ud800", SMALL, "error", "--prompt")
    message = str(caught.value)
    assert message.startswith("--prompt: not in the model's vocabulary of 12 characters: ")
    assert "'\u00e0' (U+00E0 LATIN SMALL LETTER A WITH GRAVE, nearest 'a')" in message
    assert "'\u2603' (U+2603 SNOWMAN, nothing near it)" in message
    assert "(U+000D control, nearest '\\n')" in message
    assert "(U+0301 COMBINING ACUTE ACCENT, can be left out)" in message
    assert "(U+D800 lone surrogate, nothing near it)" in message
    assert "--on-unknown nearest, skip or replace" in message
    assert message.isprintable()
    assert caught.value.exit_code == 2


def test_unknown_error_stays_readable_for_another_script():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 70)))
    with pytest.raises(ConfigError, match=r"U\+4E31 .*, and 20 more; use"):
        apply_unknown_policy(text, SMALL, "error", "--prompt")


def python(code, *arguments):
    """Run code in a fresh interpreter; gives its exit code."""
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_char_and_byte_do_without_the_library_and_torch(kind, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(TRAINED[kind].to_json(), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from seqtool.tokenizer import Tokenizer\n"
        "t = Tokenizer.from_json(Path(sys.argv[1]).read_text(encoding='utf-8'), 'm')\n"
        "assert t.decode(t.encode('the cat')) == 'the cat'\n"
        "sys.exit(bool({'tokenizers', 'torch'} & set(sys.modules)))"
    )
    assert python(code, str(path)) == 0


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_training_is_the_same_in_another_process(kind, tmp_path):
    path = tmp_path / "tokenizer.json"
    (tmp_path / "text").write_text(TEXT, encoding="utf-8", newline="")
    code = (
        "import sys; from pathlib import Path; from seqtool.tokenizer import Tokenizer\n"
        "text = (Path(sys.argv[1]).parent / 'text').read_bytes().decode()\n"
        "made = Tokenizer.train(sys.argv[2], lambda: iter([text]), vocab_size=int(sys.argv[3]))\n"
        "Path(sys.argv[1]).write_text(made.to_json(), encoding='utf-8')"
    )
    assert python(code, str(path), kind, "330" if kind == "bpe" else "300") == 0
    assert path.read_text(encoding="utf-8") == TRAINED[kind].to_json()
