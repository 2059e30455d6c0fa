"""From lines to their translations in a pipe, through the real command."""

import csv
import io
import json
import random
import re
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest
import torch
from conftest import error_line, start
from hypothesis import given
from hypothesis import strategies as st
from test_imports import LIBRARIES, command, loaded

from seqtool.batches import padded
from seqtool.checkpoint import Card, ModelDir
from seqtool.config import BeamConfig, DecodeConfig, PairConfig, TrainConfig, TranslatorConfig
from seqtool.encdec import EncoderDecoder
from seqtool.errors import ConfigError
from seqtool.models import to_arrays
from seqtool.spelling import Side, Spelling
from seqtool.tokenizer import Tokenizer
from seqtool.translation import Alignment, Wishes, cut, load_translator, open_translator

LETTERS = "abcdef"
WORDS = {"red": "rot", "big": "gross", "cat": "Katze", "dog": "Hund", "old": "alt", "new": "neu"}


def make_side(kind, texts, vocab_size=4000):
    lead = " " if kind in ("word", "bpe") else ""
    return Side(
        Tokenizer.train(
            kind, lambda: iter(["\n".join(lead + t for t in texts)]), vocab_size=vocab_size
        )
    )


SIGNS = make_side("char", ['abcF .!?\u3000\u3002\u300d"'])


def learn(spelling, sources, targets, config, steps):
    """A model that has learned to say targets for sources."""
    torch.manual_seed(5)
    model = EncoderDecoder(
        config,
        spelling.source.vocab_size,
        spelling.target.vocab_size,
        source_unknown=spelling.source.unknown_id,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sides = [spelling.source.encode_all(sources), spelling.target.encode_all(targets)]
    rng = np.random.default_rng(1)
    for _ in range(steps):
        rows = rng.integers(0, len(sources), 32)
        batch = [
            torch.from_numpy(part) for side in sides for part in padded(side, rows, boundary=0)
        ]
        loss, _ = model.loss(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def save(out, model, spelling, **source):
    card = Card(
        task="translate",
        model=model.config,
        data=PairConfig(tokenizer=spelling.source.kind, joint=spelling.joint, max_length=12),
        train=TrainConfig(),
        vocab_size=spelling.target.vocab_size,
        source={"name": "pairs.csv", "sha256": "0" * 64, **source},
    )
    ModelDir.create(out).begin(card, spelling.to_json(), to_arrays(model))
    load_translator(out).translate(["a"], Wishes())  # compiles now, which would be announced
    return out


def letters(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, 6))) for _ in range(count)]


@pytest.fixture(scope="session")
def shouter(tmp_path_factory):
    """A translator from small letters to capital ones; tests only read it."""
    sources = letters(300, 1) + [text + "." for text in letters(300, 7)]
    side = make_side("char", [LETTERS + LETTERS.upper() + " ."])
    spelling = Spelling(side, side)
    config = TranslatorConfig(
        hidden_size=24, embed_size=16, dropout=0, source_word_dropout=0, label_smoothing=0
    )
    model = learn(spelling, sources, [text.upper() for text in sources], config, 200)
    out = tmp_path_factory.mktemp("models") / "shouter"
    return save(out, model, spelling, source_column="small")


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A translator of words, two vocabularies; words that are in none are spelled by bytes."""
    rng = random.Random(3)
    drawn = [rng.choices(list(WORDS), k=rng.randint(1, 4)) for _ in range(300)]
    sources = [" ".join(line) for line in drawn]
    targets = [" ".join(WORDS[word] for word in line) for line in drawn]
    spelling = Spelling(make_side("word", sources), make_side("word", targets))
    config = TranslatorConfig(
        hidden_size=24, embed_size=16, dropout=0, source_word_dropout=0, tying="target"
    )
    model = learn(spelling, sources, targets, config, 120)
    return save(tmp_path_factory.mktemp("models") / "words", model, spelling)


def test_lines_are_answered_in_order(run, shouter):
    sources = letters(30, 2)
    sources[4:4] = ["", "  "]
    code, out, err = run("translate", shouter, stdin="\n".join(sources) + "\n")
    assert (code, err) == (0, "")
    assert out.split("\n")[:-1] == [text.strip().upper() for text in sources]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batch_and_threads_change_nothing(run, shouter, size):
    sources = letters(20, 3)
    expected = run("translate", shouter, "--json", stdin="\n".join(sources))
    options = "--json", "-b", size, "--threads", 1 + size % 2
    assert run("translate", shouter, *options, stdin="\n".join(sources)) == expected
    turned = run("translate", shouter, *options, stdin="\n".join(sources[::-1]))[1]
    assert turned.split("\n")[-2::-1] == expected[1].split("\n")[:-1]


def test_empty_input_gives_empty_output(run, shouter, tmp_path):
    assert run("translate", shouter, stdin="") == (0, "", "")
    (tmp_path / "empty.txt").write_text("")
    code, out, err = run("translate", shouter, tmp_path / "empty.txt")
    assert (code, out, "nothing to read" in error_line(err)) == (1, "", True)
    assert run("translate", shouter, stdin="\n\n") == (0, "\n\n", "")


def test_no_torch_is_loaded(shouter):
    found = loaded(command("translate", shouter, "abc", "--json"), *LIBRARIES)
    assert set(found) == {"numpy", "numba", "safetensors"}


def test_a_text_in_place_of_a_file_and_line_ends(run, shouter, tmp_path):
    assert run("translate", shouter, "abc de")[1].startswith("ABC")
    path = tmp_path / "in.txt"
    path.write_bytes(b"abc\r\nfed")
    assert run("translate", shouter, path) == (0, "ABC\nFED\n", "")


def test_a_line_that_comes_alone_is_answered_at_once(shouter):
    process = start("translate", shouter, stdin=subprocess.PIPE)
    answers = []
    with process:
        for line in (b"abc\n", b"fade\n"):
            process.stdin.write(line)
            process.stdin.flush()
            reader = threading.Thread(target=lambda: answers.append(process.stdout.readline()))
            reader.start()
            reader.join(60)
        process.stdin.close()
    assert answers == [b"ABC\n", b"FADE\n"]
    assert process.returncode == 0


@pytest.mark.parametrize("from_file", [False, True])
def test_ctrl_c_ends_translating_at_once_and_silently(shouter, tmp_path, from_file):
    """What was answered is whole lines; a pipe that waits ends too."""
    sources = letters(200_000, 3) if from_file else ["abc"]
    (tmp_path / "in.txt").write_text("\n".join(sources) + "\n")
    argv = ("translate", shouter, *([tmp_path / "in.txt"] if from_file else []))
    with start(*argv, stdin=subprocess.PIPE) as process:
        if not from_file:
            process.stdin.write(b"abc\n")
            process.stdin.flush()
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, b"")
    lines = (said + out).decode().splitlines(keepends=True)
    assert 0 < len(lines) <= len(sources)
    assert all(line.endswith("\n") for line in lines)
    if from_file:
        assert len(lines) < len(sources)


def test_several_translations_stand_on_one_line(run, shouter):
    code, out, _ = run("translate", shouter, "-n", 3, stdin="abc\n\nfed\n")
    lines = [line.split("\t") for line in out.split("\n")[:-1]]
    assert code == 0
    assert [line[0] for line in lines] == ["ABC", "", "FED"]
    assert len(set(lines[0])) == len(lines[0]) == 3


def test_objects_tell_scores_and_alignment(run, shouter):
    code, out, _ = run("translate", shouter, "--json", "-n", 2, stdin="abc\n\n")
    found, empty = map(json.loads, out.split("\n")[:-1])
    assert code == 0
    assert empty == {"text": "", "n_best": [{"text": "", "score": 0.0, "log_probs": []}]}
    assert (found["text"], found["tokens"], found["source_tokens"]) == ("ABC", [*"ABC"], [*"abc"])
    assert len(found["log_probs"]) == 4
    assert found["score"] == pytest.approx(np.mean(found["log_probs"]))
    assert len(found["alignment"]) == len(found["tokens"]) == 3
    assert found["n_best"][0]["text"] == "ABC"
    weights = json.loads(run("translate", shouter, "abc", "--json", "--attention")[1])["attention"]
    assert np.array(weights).shape == (3, 3)
    assert np.array(weights).argmax(1).tolist() == found["alignment"]


def test_a_drawing_fits_into_sixty_columns(run, shouter, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run("translate", shouter, "abcdef", "--attention")
    lines = out.rstrip("\n").split("\n")
    assert code == 0
    assert lines[0] == "ABCDEF"
    assert lines[1].split() == [*"abcdef"]
    assert [line.split()[0] for line in lines[2:]] == [*"ABCDEF"]
    assert all(len(line) <= 60 for line in lines)
    assert "\x1b" not in out


def test_a_table_keeps_its_columns_and_gets_one(run, shouter, tmp_path):
    rows = [(str(i), text, "x,y") for i, text in enumerate(letters(5, 5))]
    path = tmp_path / "new.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("id", "small", "note"), *rows])
    code, out, _ = run("translate", shouter, path)
    found = list(csv.reader(io.StringIO(out)))
    assert code == 0
    assert found[0] == ["id", "small", "note", "translation"]
    assert [tuple(row[:3]) for row in found[1:]] == rows
    assert [row[3] for row in found[1:]] == [row[1].upper() for row in rows]
    piped = run("translate", shouter, "--text-column", "small", stdin=path.read_text())
    assert piped[1] == out
    wide = list(csv.reader(io.StringIO(run("translate", shouter, path, "-n", 2)[1])))
    assert wide[0][3:] == ["translation", "translation_2"]
    assert all(len(row) == 5 for row in wide)
    objects = run("translate", shouter, path, "--json")[1].split("\n")[:-1]
    assert [json.loads(line)["text"] for line in objects] == [row[3] for row in found[1:]]


def test_a_table_without_a_header_loses_no_row(run, shouter, tmp_path):
    nameless = tmp_path / "nameless"
    shutil.copytree(shouter, nameless)
    card = Card.from_json((nameless / "config.json").read_text(), "it")
    card.source["source_column"] = "1"
    (nameless / "config.json").write_text(card.to_json())
    path = tmp_path / "new.tsv"
    path.write_text("abc\tx y\nfed\tz\nbad\ty\n")
    code, out, _ = run("translate", nameless, path)
    assert (code, out) == (0, "abc\tx y\tABC\nfed\tz\tFED\nbad\ty\tBAD\n")
    alone = tmp_path / "alone.csv"
    alone.write_text("word\nabc\n")
    assert run("translate", nameless, alone)[1] == "word,translation\nabc,ABC\n"
    alone.write_text("bad\nabc\n")
    assert run("translate", nameless, alone)[1] == "bad,BAD\nabc,ABC\n"


def test_lines_of_white_space_are_empty_and_not_remarked_on(run, shouter):
    assert run("translate", shouter, stdin="abc\n \t\u3000\n") == (0, "ABC\n\n", "")


def test_a_long_line_is_translated_piece_by_piece(run, shouter):
    sentences = letters(40, 6)
    text = " ".join(sentence + "." for sentence in sentences)
    code, out, err = run("translate", shouter, stdin=f"abc\n{text}\nfed\n")
    assert code == 0
    assert "longer than training's 12 tokens" in err
    assert err.rstrip().endswith(": 2")
    found = json.loads(run("translate", shouter, "--json", stdin=text)[1])
    assert len(found["alignment"]) == len(found["tokens"])
    assert found["alignment"][-1] > len(found["source_tokens"]) - 12  # in the last piece
    assert len(found["source_tokens"]) < len(text) == sum(map(len, sentences)) + 2 * 40 - 1
    first, long, last = out.split("\n")[:-1]
    assert (first, last) == ("ABC", "FED")
    found = re.findall(r"[A-F]+", long)
    assert len(found) == len(sentences)
    assert sum(a == b.upper() for a, b in zip(found, sentences, strict=True)) > 30


@pytest.mark.parametrize("line", ["abcdef" * 50, "abc " * 300, "." * 500])
def test_lines_without_sentences_do_no_harm(run, shouter, line):
    code, out, err = run("translate", shouter, "--beam-size", 1, stdin=line + "\nabc\n")
    assert (code, out.count("\n"), out.split("\n")[1]) == (0, 2, "ABC")
    assert "piece by piece" in err


def test_strange_lines_do_no_harm(run, shouter):
    line = "\x00\t\x1b[31m\u2028\U0001f600\u202e abc\n"
    code, out, err = run("translate", shouter, stdin=line + "fed\n")
    assert (code, out.split("\n")[1:]) == (0, ["FED", ""])
    assert "training never saw, read as near forms, or as unknown" in err


def test_unknown_characters_can_be_refused_or_left_out(run, shouter):
    code, out, err = run("translate", shouter, "--on-unknown", "error", stdin="abc\na\u00e9\n")
    assert (code, out) == (2, "")
    assert "line 2" in error_line(err)
    code, out, _ = run("translate", shouter, "--on-unknown", "skip", stdin="a\u00e9bc\n\u00e9\n")
    assert (code, out) == (0, "ABC\n\n")
    code, out, err = run("translate", shouter, stdin="\u00e4bc\n")
    assert (code, out) == (0, "ABC\n")
    assert "near forms" in err
    assert open_translator(shouter)(["\u00e4bc"]) == ["ABC"]  # evaluate reads the same


def test_samples_depend_on_seed_and_source_alone(run, shouter):
    options = "--sample", "-t", 3, "-n", 2
    first = run("translate", shouter, *options, stdin="abc\nfed\n")[1]
    assert run("translate", shouter, *options, stdin="abc\nfed\n")[1] == first
    turned = run("translate", shouter, *options, stdin="fed\nabc\n")[1]
    assert turned.split("\n")[:2] == first.split("\n")[1::-1]
    assert run("translate", shouter, *options, "--seed", 2, stdin="abc\nfed\n")[1] != first


def test_options_without_effect_are_refused(run, shouter):
    assert "--sample" in error_line(run("translate", shouter, "-t", 1, stdin="a")[2])
    code, _, err = run("translate", shouter, "--sample", "--beam-size", 3, stdin="a")
    assert (code, "--beam-size" in error_line(err)) == (2, True)
    code, _, err = run("translate", shouter, "--replace-unknown", stdin="a")
    assert (code, "vocabulary of words" in error_line(err)) == (2, True)


def test_other_models_are_refused_by_name(run, model):
    code, out, err = run("translate", model, stdin="abc\n")
    assert (code, out) == (2, "")
    assert "seqtool generate" in error_line(err)


def test_bad_input_is_one_line(run, shouter, tmp_path):
    assert "no such file" in error_line(run("translate", shouter, "no/such.txt")[2])
    code, out, err = run("translate", shouter, stdin=b"abc\nfed\n\xe9\n")
    assert (code, out) == (1, "ABC\nFED\n")
    assert "standard input:3: not utf-8" in error_line(err)
    assert run("translate", shouter, "--encoding", "latin-1", stdin=b"abc\n")[1] == "ABC\n"
    code, _, err = run("translate", tmp_path, stdin="abc\n")
    assert (code, bool(error_line(err))) == (1, True)


def test_words_outside_the_vocabulary_are_copied(run, words):
    assert run("translate", words, stdin="big old dog\n")[1] == "gross alt Hund\n"
    plain = run("translate", words, stdin="big Zyx dog\n")[1]
    copied = run("translate", words, "--replace-unknown", stdin="big Zyx dog\n")[1]
    known = {*WORDS.values()}
    for mine, other in zip(copied.split(), plain.split(), strict=True):
        assert mine == other if other in known else mine in ("big", "Zyx", "dog")


def test_spelled_words_are_those_looked_at(words):
    translator = load_translator(words)
    source_side, target_side = translator.spelling.source, translator.spelling.target
    source, target = source_side.encode("big Zyx dog"), target_side.encode("gross Qq, Hund")
    (weights,) = translator.translator.align([source], [target])
    text = translator._copied(source, target)
    first, middle, last = text.split()
    assert (first, last) == ("gross", "Hund")
    letters_of = [i for i, piece in enumerate(target_side.pieces(target)) if i > 0][:4]
    assert weights.shape[0] > max(letters_of)
    assert middle in ("big", "Zyx", "dog")


def test_python_gives_texts_and_attention(shouter):
    translator = load_translator(shouter)
    found = translator.translate(["abc", " ", "fed"], Wishes(beam=BeamConfig(beam_size=2)))
    assert [several[0].text for several in found] == ["ABC", "", "FED"]
    assert open_translator(shouter)(["abc", " ", "fed"]) == ["ABC", "", "FED"]
    look = translator.attention("abc")
    assert (look.source, look.target, look.weights.shape) == ([*"abc"], [*"ABC"], (3, 3))
    assert translator.attention("").weights.shape == (0, 0)
    drawn = translator.translate(["abc"], Wishes(sample=DecodeConfig(greedy=True)))
    assert drawn[0][0].text == "ABC"
    with pytest.raises(ConfigError, match="words"):
        translator.translate(["abc"], Wishes(replace_unknown=True))


def test_a_piece_looks_at_itself_alone():
    parts = [np.array([[0.75, 0.25]], np.float32), np.array([[0.5], [1.0]], np.float32)]
    look = Alignment([*"abc"], [*"ABC"], parts)
    assert look.weights.tolist() == [[0.75, 0.25, 0], [0, 0, 0.5], [0, 0, 1]]
    assert look.looked_at == [0, 2, 2]
    assert Alignment([*"abc"], [*"A"], [np.zeros((1, 0), np.float32)]).looked_at == []


@given(text=st.text('abcF .!\u3000\u3002\u300d"', max_size=80), limit=st.integers(1, 12))
def test_pieces_put_together_are_the_text(text, limit):
    pieces = list(cut(text, SIGNS, limit))
    assert all(0 < len(piece.ids) <= limit for piece in pieces)
    assert "".join(piece.before + SIGNS.decode(piece.ids) for piece in pieces) == text.strip()


def test_long_texts_are_cut_at_the_ends_of_sentences():
    text = 'abc a. "Fab! Fac?" ab\u3002\u300dcab. abcabcabc'
    pieces = [SIGNS.decode(piece.ids) for piece in cut(text, SIGNS, 12)]
    assert pieces == ["abc a.", '"Fab!', 'Fac?"', "ab\u3002\u300d", "cab.", "abcabcabc"]
    assert len(list(cut(text, SIGNS, len(text)))) == 1


@pytest.mark.parametrize(("given", "most"), [({}, 16), ({"ratio": 2.0, "target": 9}, 18)])
def test_the_most_tokens_follow_from_training(shouter, given, most):
    translator = load_translator(shouter)
    translator._ratio, translator._most = given.get("ratio"), given.get("target")
    assert translator._room(3) == most


def test_int8_says_the_same(run, shouter):
    sources = "\n".join(letters(20, 9)) + "\n"
    assert run("translate", shouter, "--precision", "int8", stdin=sources)[1] == sources.upper()


def test_evaluate_scores_the_translations_that_translate_writes(run, shouter, words, tmp_path):
    sources = letters(20, 5)
    translated = run("translate", shouter, stdin="\n".join(sources))[1].splitlines()
    right = [text.upper() for text in sources]
    right[3] = "WRONG"
    table = tmp_path / "pairs.csv"
    rows = [f"{s},{t}\n" for s, t in zip(sources, right, strict=True)]
    table.write_text("small,large\n" + "".join(rows))
    code, out, err = run("evaluate", shouter, table, "--json")
    assert code == 0
    assert "no dictionary baseline" in err
    report = json.loads(out)
    same = [a == b for a, b in zip(translated, right, strict=True)]
    assert report["scores"]["exact"] == sum(same) / len(same)
    assert report["scores"]["exact"] > 0.8
    assert report["mistakes"][0]["row"] == f"{table}:5"
    for name, lines in (("a", sources), ("b", right)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    options = ("--source", tmp_path / "a", "--target", tmp_path / "b", "--no-baselines", "--json")
    again = json.loads(run("evaluate", shouter, *options)[1])
    assert again["scores"] == report["scores"]
    compared = run("evaluate", shouter, table, "--compare", words, "--beam-size", 1, "--lowercase")
    assert compared[0] == 0
    assert "model minus other" in compared[1]


def test_evaluate_refuses_what_is_for_another_task(run, shouter, model, tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("small,large\na,A\n")
    code, out, err = run("evaluate", shouter, table, "--per-token")
    assert (code, out) == (2, "")
    assert "--per-token is for models that generate" in err
    code, out, err = run("evaluate", model, table, "--lowercase")
    assert (code, out) == (2, "")
    assert "--lowercase is for models that translate" in err
    for options, message in (
        ((), "nothing to score"),
        ((table, "--source", table), "stands in place of DATA"),
        ((table, "--beam-size", 0), "at least 1"),
    ):
        code, out, err = run("evaluate", shouter, *options)
        assert (code, out) == (2, "")
        assert message in err
