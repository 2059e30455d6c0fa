"""From tagged sentences to labels in a pipe, through the real commands."""

import json
import random
import subprocess

import numpy as np
import pytest
from conftest import error_line, interrupted_at, start
from test_imports import command, loaded

from seqtool.appraising import bootstrap
from seqtool.checkpoint import load, load_last
from seqtool.plan_tag import choose_tagger, most_steps

SMALL = ("--hidden-size", 12, "--embed-size", 12, "--part-buckets", 256, "--batch-size", 8, "-q")
SCORES = ("accuracy", "macro_f1", "span_precision", "span_recall", "span_f1")
NAMES = ["Ann", "Bo Derek", "Cy Dee Young", "Di"]
PLACES = ["Rome", "New York", "Oslo"]


def make_sentences(count, seed):
    """Sentences with people and places in them, as words and labels of the scheme IOB2."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        words, labels = [], []
        for kind, names in rng.sample([("PER", NAMES), ("LOC", PLACES)], 2):
            name = rng.choice(names).split()
            words += [rng.choice(["then", "and", "so"]), "in" if kind == "LOC" else "saw", *name]
            labels += ["O", "O", f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
        found.append(([*words, "."], [*labels, "O"]))
    return found


def write(path, sentences):
    blocks = ["".join(map("{} {}\n".format, *pair)) for pair in sentences]
    path.write_text("\n".join(blocks))
    return path


@pytest.fixture(scope="session")
def spans(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "spans.conll", make_sentences(150, 1))


def train(data, out, *options):
    from seqtool.cli import main

    argv = ["train", data, "-o", out, *SMALL, *options]
    argv += [] if {"--epochs", "--steps"} & {*map(str, options)} else ["--steps", 80]
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="session")
def tagger(spans, tmp_path_factory):
    """A trained tagger of spans; tests only read it."""
    return train(spans, tmp_path_factory.mktemp("models") / "spans", "--lr", 0.02)


NEW = make_sentences(20, 2)
LINES = "".join(" ".join(words) + "\n" for words, _ in NEW)
ANSWER = "".join("".join(map("{}\t{}\n".format, *pair)) + "\n" for pair in NEW)


def test_spans_are_seen_learned_and_given(run, tagger):
    card = load(tagger).card
    assert (card.task, card.model.crf, card.source["scheme"]) == ("tag", True, "IOB2")
    assert run("tag", tagger, stdin=LINES) == (0, ANSWER, "")


@pytest.mark.parametrize("size", [1, 3])
def test_sentences_tagged_together_change_no_answer(run, tagger, size):
    assert run("tag", tagger, "-b", size, stdin=LINES)[1] == ANSWER


def test_an_empty_line_stays_an_empty_line(run, tagger):
    assert run("tag", tagger, stdin="\n \nsaw Ann")[1] == "\n\nsaw\tO\nAnn\tB-PER\n\n"
    assert run("tag", tagger, "--inline", stdin="\nsaw Ann\r\n")[1] == "\nsaw/O Ann/B-PER\n"
    assert json.loads(run("tag", tagger, "--json", stdin="\n")[1])["tokens"] == []
    assert run("tag", tagger, stdin="") == (0, "", "")


def test_shapes_of_answers(run, tagger):
    text = "so saw Bo Derek."
    code, out, _ = run("tag", tagger, text, "--json", "--tokenize")
    found = json.loads(out)
    assert code == 0
    assert found["tokens"] == ["so", "saw", "Bo", "Derek", "."]
    assert found["labels"] == ["O", "O", "B-PER", "I-PER", "O"]
    assert found["spans"] == [{"kind": "PER", "start": 2, "end": 4}]
    assert all(0.3 < p <= 1 for p in found["probabilities"])
    assert run("tag", tagger, text, "--inline")[1].count("/") == 4
    code, _, err = run("tag", tagger, text, "--inline", "--json")
    assert code == 2
    assert "exclude each other" in error_line(err)


def test_conll_keeps_its_lines_and_gets_labels(run, tagger, tmp_path):
    text = "# a comment\n-DOCSTART- X\n\nsaw  X\nAnn  X\n\n\n\nin X\r\nRome X"
    path = tmp_path / "new.conll"
    path.write_bytes(text.encode())
    expected = "# a comment\n-DOCSTART- X\n\nsaw  O\nAnn  B-PER\n\n\n\nin O\r\nRome B-LOC\n"
    assert run("tag", tagger, path)[:2] == (0, expected)
    assert run("tag", tagger, "--conll", stdin=text)[1] == expected
    added = run("tag", tagger, "--conll", stdin="saw\nAnn\n\nin\nRome\n")[1]
    assert added == "saw O\nAnn B-PER\n\nin O\nRome B-LOC\n"
    moved = ("--token-column", 2, "--label-column", 1)
    assert run("tag", tagger, "--conll", *moved, stdin="X Ann\n")[1] == "B-PER Ann\n"


def test_conllu_in_a_pipe_is_seen_and_filled(run, tmp_path):
    rows = ["# sent_id = 1"]
    rows += ["1-2\tcan't\t_\t_" + 6 * "\t_", "1\tcan\t_\tAUX" + 6 * "\t_"]
    rows += ["2\tnot\t_\tPART" + 6 * "\t_", "3\trun\t_\tVERB" + 6 * "\t_", "", ""]
    data = tmp_path / "a.conllu"
    data.write_text("\n".join(rows) * 20)
    options = ("--steps", 40, "--valid", data, "--lr", 0.02)
    model = train(data, tmp_path / "m", *options)
    text = "\n".join(rows)
    bare = text.replace("\tAUX", "\t_").replace("\tPART", "\t_").replace("\tVERB", "\t_")
    assert run("tag", model, stdin=bare) == (0, text, "")
    code, _, err = run("tag", model, "--conll", stdin="a b c d e\n")
    assert code == 1
    assert "5 columns, but in training words were in column 2" in error_line(err)


def test_what_stands_before_a_broken_line_is_answered(run, tagger, tmp_path):
    code, out, err = run("tag", tagger, "--conll", stdin="saw X\n\nAnn X\nRome X Y\n")
    assert (code, out) == (1, "saw O\n\n")
    assert "standard input:4: 3 columns, but 2 are needed" in error_line(err)
    code, out, err = run("tag", tagger, stdin=b"saw Ann\ncaf\xe9\n")
    assert (code, out) == (1, "saw\tO\nAnn\tB-PER\n\n")
    assert "standard input:2: not utf-8 (byte 0xe9)" in error_line(err)
    assert run("tag", tagger, "--encoding", "latin-1", stdin=b"caf\xe9\n")[0] == 0
    code, _, err = run("tag", tagger, tmp_path / "none.txt")
    assert code == 1
    assert "no such file" in error_line(err)


def test_a_line_that_comes_alone_is_answered_at_once(tagger):
    with start("tag", tagger, "--inline", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text, answer in (("saw Ann", b"saw/O Ann/B-PER"), ("", b""), ("in Rome", b"in/O")):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().strip().startswith(answer)
    assert process.returncode == 0


def test_an_interrupted_run_resumes_to_the_bit(run, spans, tmp_path):
    whole, part = train(spans, tmp_path / "whole", "--steps", 12), tmp_path / "part"
    with interrupted_at(5):
        assert run("train", spans, "-o", part, *SMALL, "--steps", 12)[0] == 130
    assert load_last(part)[1]["now"]["step"] == 5
    assert run("train", spans, "-o", part, "--resume", "-q")[0] == 0
    one, other = load(whole), load(part)
    assert one.card == other.card
    for name, array in one.weights.items():
        np.testing.assert_array_equal(array, other.weights[name])


def test_what_is_chosen_follows_the_data_and_the_budget():
    def chosen(sentences, seconds=None, **given):
        plan = choose_tagger(
            sentences=sentences, tokens=16 * sentences, seconds=seconds, gflops=50, given=given
        )
        return plan.model | plan.train

    assert chosen(400)["hidden_size"] < chosen(12_000)["hidden_size"]
    assert chosen(12_000, 20)["hidden_size"] < chosen(12_000, 600)["hidden_size"]
    assert chosen(400)["batch_size"] < chosen(12_000)["batch_size"]
    assert chosen(400, cell="rnn")["lr"] < chosen(400)["lr"]
    assert chosen(400, hidden_size=7, lr=1.0, batch_size=3) == {}
    assert most_steps(12_000, 32) == 15 * 12_000 / 32
    assert most_steps(1000, 10) == 40 * 1000 / 10  # more often, if the sentences are few
    assert most_steps(10, 5) == 60 * 10 / 5


def evaluate(run, *argv):
    code, out, err = run("evaluate", *argv, "--json")
    assert code == 0, err
    return json.loads(out), err


def test_scores_are_those_of_the_answers(run, tagger, tmp_path):
    wrong = [(words, ["O"] * len(words)) for words, _ in NEW[:5]]
    path = write(tmp_path / "test.conll", [*NEW[5:], *wrong])
    found, _ = evaluate(run, tagger, path)
    truth = [label for _, labels in [*NEW[5:], *wrong] for label in labels]
    guess = [line.split("\t")[1] for line in ANSWER.split("\n") if line]
    first = sum(len(words) for words, _ in NEW[:5])
    guess = guess[first:] + guess[:first]  # the model answers as before
    right = [a == b for a, b in zip(truth, guess, strict=True)]
    scores = found["scores"]
    assert found["tokens"] == len(truth)
    assert scores["accuracy"] == pytest.approx(np.mean(right))
    assert scores["accuracy_low"] < scores["accuracy"] < scores["accuracy_high"]
    assert scores["span_recall"] == 1
    assert scores["span_precision"] == pytest.approx(30 / 40)
    assert found["classes"]["O"]["precision"] == 1
    assert found["spans"]["PER"]["count"] == 15
    assert found["confusions"][0]["label"] == "O"
    assert found["baselines"].keys() == {"most_frequent", "logreg"}
    # Here a word never has two labels, and the model is right: it says what is most frequent.
    assert found["baselines"]["most_frequent"] == {k: scores[k] for k in SCORES}
    assert found["baselines"]["logreg"]["accuracy"] > 0.9
    assert "logreg" not in evaluate(run, tagger, path, "--no-baselines")[0]["baselines"]


def test_columns_of_other_files_can_be_named(run, tagger, tmp_path):
    path = tmp_path / "test.conll"
    path.write_text("O X saw\nB-PER X Ann\n")
    named = ("--token-column", 3, "--label-column", 1, "--no-baselines")
    assert evaluate(run, tagger, path, *named)[0]["scores"]["accuracy"] == 1
    conllu = tmp_path / "test.conllu"
    conllu.write_text("1\tsaw\t_\tO" + 6 * "\t_" + "\n")
    code, _, err = run("evaluate", tagger, conllu, "-q")
    assert code == 1
    assert "CoNLL-U, but" in error_line(err)
    named = ("--token-column", "form", "--label-column", "upos", "--no-baselines")
    assert evaluate(run, tagger, conllu, *named)[0]["scores"]["accuracy"] == 1


def test_words_never_seen_and_labels_never_met(run, tagger, tmp_path):
    path = write(tmp_path / "test.conll", [(["saw", "Eve", "."], ["O", "B-PER", "B-DAY"])])
    found, err = evaluate(run, tagger, path, "--no-baselines")
    assert found["unseen_tokens"] == 1
    assert found["classes"]["B-DAY"] == {"precision": 0, "recall": 0, "f1": 0, "count": 1}
    assert "label 'B-DAY' was never met in training" in err


def test_the_held_out_part_is_scored(run, tagger, spans, tmp_path):
    found, _ = evaluate(run, tagger, spans, "--held-out")
    assert found["rows"] == load(tagger).card.source["valid_rows"]
    assert found["scores"]["accuracy"] == pytest.approx(
        load(tagger).card.extra["best"]["valid_accuracy"]
    )
    other = write(tmp_path / "other.conll", NEW)
    code, _, err = run("evaluate", tagger, other, "--held-out", "-q")
    assert code == 1
    assert "not the data that" in error_line(err)
    code, out, _ = run("evaluate", tagger, spans, "--held-out")
    assert code == 0
    assert "span F1" in out


def test_an_interval_of_sentences_is_wider_than_one_of_words():
    right = np.repeat([True, False], [800, 200])  # mistakes all in the last of 20 sentences
    low, high = bootstrap(right, np.full(20, 50), seed=0)
    words_low, words_high = bootstrap(right, np.ones(1000, np.int64), seed=0)
    assert low < words_low < 0.8 < words_high < high


def test_what_cannot_be_learned_is_refused(run, tmp_path):
    one = write(tmp_path / "one.conll", [(["a", "b"], ["X", "X"])])
    code, _, err = run("train", one, "-o", tmp_path / "m", "-q")
    assert code == 1
    assert "every word has the label 'X'" in error_line(err)
    ragged = tmp_path / "ragged.conll"
    ragged.write_text("a X\nb\n\n")
    assert ":2: 1 columns, but 2 are needed" in error_line(run("train", ragged, "-q")[2])
    code, _, err = run("train", one, "--label-column", "7", "-o", tmp_path / "m", "-q")
    assert "no column --label-column 7; there are 1, 2" in error_line(err)
    assert not (tmp_path / "m").exists()


def test_labels_of_the_held_out_alone_are_told_and_never_given(run, spans, tmp_path):
    valid = write(tmp_path / "valid.conll", [*NEW, (["so", "."], ["O", "B-DAY"])])
    argv = ("--valid", valid, "--steps", 4, "-o", tmp_path / "m", *SMALL[:-1])
    code, _, err = run("train", spans, *argv)
    assert code == 0
    assert "label 'B-DAY' never met in" in err
    assert "B-DAY" not in load(tmp_path / "m").card.source["classes"]


def test_tag_and_evaluate_load_no_torch(tagger, spans):
    for argv in (("tag", tagger, "saw Ann"), ("evaluate", tagger, spans, "--no-baselines")):
        assert loaded(command(*argv), "torch", "sklearn", "datasets", "tokenizers") == []


def test_options_of_texts_are_refused(run, tagger, spans):
    code, _, err = run("evaluate", tagger, spans, "--per-token", "-q")
    assert code == 2
    assert "--per-token is for models that generate" in error_line(err)
    code, _, err = run("generate", tagger, "-q")
    assert code == 2
    assert "use seqtool tag" in error_line(err)
