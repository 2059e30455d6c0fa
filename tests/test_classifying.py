"""From labelled texts to judgements in a pipe, through the real commands."""

import csv
import gzip
import io
import json
import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import error_line, interrupted_at, start
from examples import make_rows, write_csv

from seqtool.checkpoint import load, load_last
from seqtool.grading import _tfidf, bootstrap
from seqtool.scorecard import confusion_matrix, macro_f1, precision_recall_f1

SMALL = ("--hidden-size", 8, "--embed-size", 8, "--part-buckets", 64, "--batch-size", 8, "-q")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", make_rows(160, 1))


def train(data, out, *options):
    from seqtool.cli import main

    argv = ["train", data, "-o", out, *SMALL, *options]
    argv += [] if {"--epochs", "--steps"} & {*map(str, options)} else ["--steps", 60]
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="session")
def judge(reviews, tmp_path_factory):
    """A trained classifier; tests only read it."""
    return train(reviews, tmp_path_factory.mktemp("models") / "reviews")


def test_a_table_is_judged_and_lines_are_answered_in_order(run, judge):
    texts = [text for text, _ in make_rows(40, 2)]
    truth = [label for _, label in make_rows(40, 2)]
    texts[3:3] = ["", "   "]
    truth[3:3] = ["", ""]
    code, out, err = run("classify", judge, stdin="\n".join(texts) + "\n")
    assert (code, err) == (0, "")
    answers = [line.split("\t") for line in out.split("\n")[:-1]]
    assert len(answers) == 42
    assert [cells[0] for cells in answers] == truth
    assert all(0.5 <= float(cells[1]) <= 1 for cells in answers if cells != [""])


@pytest.mark.parametrize("size", [1, 3, 512])
def test_lines_judged_together_change_no_answer(run, judge, size):
    text = "".join(text + "\n" for text, _ in make_rows(20, 3))
    expected = run("classify", judge, stdin=text)
    assert run("classify", judge, "-b", size, stdin=text) == expected


def test_no_line_end_windows_line_ends_and_strange_bytes(run, judge):
    code, out, _ = run("classify", judge, stdin="lovely soup\r\n\x00\r\n\u2603\r\nawful tea")
    assert code == 0
    assert [line.split("\t")[0] for line in out.split("\n")[::3]] == ["good", "bad"]
    assert out.count("\n") == 4


def test_shapes_of_answers(run, judge):
    text = "lovely soup"
    code, out, _ = run("classify", judge, text)
    label, p = out.rstrip("\n").split("\t")
    assert (code, label) == (0, "good")
    all_of_them = run("classify", judge, text, "--proba")[1].rstrip("\n").split("\t")
    assert all_of_them[::2] == ["bad", "good"]
    assert sum(map(float, all_of_them[1::2])) == pytest.approx(1, abs=2e-4)
    assert run("classify", judge, text, "-k", 2)[1].split("\t")[::2] == ["good", "bad"]
    found = json.loads(run("classify", judge, text, "--json", "-k", 2)[1])
    assert found["label"] == "good"
    assert found["probability"] == pytest.approx(float(p), abs=1e-4)
    assert list(found["probabilities"]) == ["good", "bad"]
    assert json.loads(run("classify", judge, "--json", stdin="\n")[1]) == {"label": None}
    assert run("classify", judge, text, "--threshold", 0.9999)[1].startswith("unsure\t")


def test_sets_of_labels_grow_with_their_coverage(run, judge):
    text = "".join(text + "\n" for text, _ in make_rows(30, 4)) + "tea and tea\n"
    unsure = [
        run("classify", judge, "--coverage", share, stdin=text)[1].count("unsure")
        for share in (0.05, 0.8, 0.99)
    ]
    assert unsure[1] <= unsure[2] == 31  # 16 held out are too few for 99 %


def test_a_table_keeps_its_columns_and_gets_two(run, judge, tmp_path):
    rows = [(str(i), text, "x,y") for i, (text, _) in enumerate(make_rows(5, 5))]
    path = write_csv(tmp_path / "new.csv", rows, ("id", "text", "label"))
    code, out, _ = run("classify", judge, path)
    found = list(csv.reader(io.StringIO(out)))
    assert code == 0
    assert found[0] == ["id", "text", "label", "label_2", "probability"]
    assert [tuple(row[:3]) for row in found[1:]] == rows
    assert [row[3] for row in found[1:]] == [label for _, label in make_rows(5, 5)]
    piped = run("classify", judge, "--text-column", "text", stdin=path.read_text())
    assert piped[1] == out


def test_rows_before_a_broken_one_are_answered(run, judge, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,text\n1,lovely\n2,awful\n3,a,b\n")
    code, out, err = run("classify", judge, path)
    assert (code, out.count("\n")) == (1, 3)
    assert ":4:" in error_line(err)


def test_a_line_that_comes_alone_is_answered_at_once(judge):
    with start("classify", judge, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text, label in (("lovely soup", b"good"), ("", b""), ("awful tea", b"bad")):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().strip().split(b"\t")[0] == label
    assert process.returncode == 0  # leaving the block has closed its input


def test_ctrl_c_while_waiting_for_lines_ends_at_once_and_silently(judge):
    with start("classify", judge, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"lovely soup\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b""


def test_bytes_that_are_no_text_are_named_with_their_line(run, judge):
    code, out, err = run("classify", judge, stdin=b"lovely\n\xff\xfe\n")
    assert (code, out.count("\n")) == (1, 1)
    assert error_line(err).startswith("standard input:2: not utf-8")
    assert run("classify", judge, "--encoding", "latin-1", stdin=b"\xff\n")[0] == 0


def test_trace_shows_every_word_and_where_belief_turns(run, judge):
    code, out, _ = run("classify", judge, "lovely soup awful dull grim", "--trace")
    lines = [line.split("\t") for line in out.rstrip("\n").split("\n")]
    assert code == 0
    assert [line[2] for line in lines] == ["lovely", "soup", "awful", "dull", "grim"]
    assert (lines[0][0], lines[-1][0]) == ("good", "bad")
    assert sum(line[3:] == ["*"] for line in lines) % 2 == 1
    whole = run("classify", judge, "lovely soup awful dull grim")[1].split("\t")
    assert lines[-1][1] == whole[1].strip()
    trace = json.loads(run("classify", judge, "lovely soup", "--trace", "--json")[1])
    assert [step["token"] for step in trace["trace"]] == ["lovely", "soup"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--threshold", 1.5), "--threshold"),
        (("--coverage", 0), "--coverage"),
        (("nothere/x.csv",), "no such file"),
        (("--top", 0), "--top"),
    ],
)
def test_impossible_requests_are_refused(run, judge, options, told):
    code, _, err = run("classify", judge, *options)
    assert code != 0
    assert told in error_line(err)


def test_a_writer_does_not_judge_and_a_judge_does_not_write(run, judge, model):
    code, _, err = run("classify", model, "text")
    assert code == 2
    assert "trained to generate" in error_line(err)
    code, _, err = run("generate", judge)
    assert code == 2
    assert "use seqtool classify" in error_line(err)


def test_evaluate_reports_scores_and_baselines(run, judge, reviews, tmp_path):
    data = write_csv(tmp_path / "test.csv", make_rows(50, 6))
    code, out, _ = run("evaluate", judge, data, "--json")
    report = json.loads(out)
    assert code == 0
    assert {"task", "tokens", "scores", "baselines"} <= report.keys()
    assert {"accuracy", "macro_f1", "ece"} <= report["scores"].keys()
    assert report["scores"]["accuracy"] > 0.9
    assert report["scores"]["accuracy_low"] <= report["scores"]["accuracy"]
    assert set(report["baselines"]) == {"majority", "nb_linear", "tfidf_logreg"}
    assert report["baselines"]["tfidf_logreg"]["accuracy"] > 0.8
    assert sum(map(sum, report["confusion"])) == report["rows"] == 50
    code, table, _ = run("evaluate", judge, data)
    assert code == 0
    assert f"{report['scores']['accuracy']:.4f}" in table
    code, out, _ = run("evaluate", judge, reviews, "--held-out", "--json", "--no-baselines")
    held_out = json.loads(out)
    assert held_out["rows"] == 16
    card = load(judge).card.extra["best"]
    assert held_out["scores"]["accuracy"] == pytest.approx(card["valid_accuracy"])
    assert held_out["scores"]["ece"] == pytest.approx(card["valid_ece"], abs=1e-4)


def test_the_baseline_of_a_model_that_reads_letters_reads_letters():
    names, labels = ["Korhonen", "Virtanen", "Novak", "Dvorak"] * 5, np.array([0, 0, 1, 1] * 5)
    p = _tfidf(names, labels, ["Heikkinen", "Horak"], 2, letters=True)
    assert p.argmax(axis=1).tolist() == [0, 1]
    words = _tfidf(names, labels, ["Heikkinen", "Horak"], 2, letters=False)
    np.testing.assert_allclose(words, 0.5, atol=1e-6)  # they know nothing of new words


def test_a_label_never_seen_is_named_with_its_row(run, judge, tmp_path):
    data = write_csv(tmp_path / "test.csv", [("fine", "good"), ("so so", "medium")])
    code, _, err = run("evaluate", judge, data, "-q")
    assert code == 1
    assert "test.csv:3" in error_line(err)
    assert "medium" in err


def test_scores_of_a_worked_example():
    truth, guess = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 0])
    confusion = confusion_matrix(truth, guess, 4)
    assert confusion[:3, :3].tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    precision, recall, f1 = precision_recall_f1(confusion)
    assert precision.tolist() == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert recall.tolist() == pytest.approx([2 / 3, 1, 0, 0])
    assert macro_f1(confusion) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert f1[3] == 0
    low, high = bootstrap(np.arange(1000) < 900, seed=1)
    assert (low, high) == pytest.approx((0.881, 0.919), abs=0.005)  # 1.96 sqrt(.9 .1 / 1000)


def test_a_run_taken_up_again_equals_the_unbroken_one(run, reviews, tmp_path):
    whole = train(reviews, tmp_path / "whole", "--steps", 24)
    stopped = tmp_path / "stopped"
    options = ("-o", stopped, *SMALL, "--steps", 24)
    with interrupted_at(9):
        assert run("train", reviews, *options)[0] == 130
    assert load_last(stopped)[1]["now"]["step"] == 9
    assert run("train", reviews, "-o", stopped, "--resume", "-q")[0] == 0
    one, other = load(stopped), load(whole)
    assert one.weights.keys() == other.weights.keys()
    for name in one.weights:
        np.testing.assert_array_equal(one.weights[name], other.weights[name])
    assert one.card == other.card


def test_short_texts_are_read_by_characters(run, tmp_path):
    rng = random.Random(1)
    ends = {"it": ["ini", "ello"], "pl": ["ski", "wicz"]}
    rows = []
    for _ in range(80):
        label = rng.choice(["it", "pl"])
        stem = "".join(rng.choice("abdkmors") for _ in range(4)).capitalize()
        rows.append((stem + rng.choice(ends[label]), label))
    out = train(write_csv(tmp_path / "names.csv", rows, ("name", "language")), tmp_path / "m")
    card = load(out).card
    assert (card.data.tokenizer, card.data.lower, card.model.part_buckets) == ("char", True, 64)
    found = run("classify", out, stdin="Kowalski\nRossini\n")[1]
    assert [line.split("\t")[0] for line in found.splitlines()] == ["pl", "it"]


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """Images of 14 x 14 with a bright bar, "flat" or "upright", in a folder for each label."""
    from PIL import Image

    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("images") / "bars"
    for i in range(40):
        label = "upright" if i % 2 else "flat"
        pixels = rng.integers(0, 60, (14, 14)).astype(np.uint8)
        at = rng.integers(2, 11)
        if label == "flat":
            pixels[at : at + 2] = 250
        else:
            pixels[:, at : at + 2] = 250
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def seer(bars):
    return train(bars, bars.parent / "m", "--lr", 0.01)


def test_images_are_judged_row_by_row(run, bars, seer):
    code, text, _ = run("classify", seer, bars)
    lines = [line.split("\t") for line in text.splitlines()]
    assert code == 0
    assert sum(Path(file).parent.name == label for label, _, file in lines) >= 38
    first = lines[0]
    assert run("classify", seer, stdin=first[2] + "\n\n")[1] == "\t".join(first[:2]) + "\n\n"
    report = json.loads(run("evaluate", seer, bars, "--json")[1])
    assert report["scores"]["accuracy"] >= 0.9
    assert set(report["baselines"]) == {"majority"}


def test_trace_shows_every_row_of_an_image(run, bars, seer):
    image = bars / "flat" / "0.png"
    answer = json.loads(run("classify", seer, image, "--json")[1])
    traced = json.loads(run("classify", seer, image, "--trace", "--json")[1])
    steps = traced["trace"]
    assert [step["token"] for step in steps] == [f"row {row}" for row in range(1, 15)]
    assert steps[-1]["probabilities"][answer["label"]] == pytest.approx(answer["probability"])
    # The belief after a row is that in the part of the image above.
    best = [max(step["probabilities"], key=step["probabilities"].get) for step in steps]
    lines = [line.split("\t") for line in run("classify", seer, image, "--trace")[1].splitlines()]
    assert lines.pop() == [""]
    assert [line[0] for line in lines] == best
    assert [len(line) == 4 for line in lines] == [False, *(a != b for a, b in pairwise(best))]
    several = run("classify", seer, bars / "flat", "--trace")[1].split("\n\n")
    assert several[0].splitlines() == [str(image), *("\t".join(line) for line in lines)]
    assert len(several) == 21
    assert run("classify", seer, "--trace", "--json", stdin=f"\n{image}\n")[1].startswith("{}\n")


def test_broken_images_are_named_and_left_out_only_on_demand(run, bars, seer, tmp_path):
    good = (bars / "flat" / "0.png").read_bytes()
    for name, blob in (("a", good), ("b", good[:60]), ("c", good)):
        (tmp_path / f"{name}.png").write_bytes(blob)
    code, out, err = run("classify", seer, tmp_path)
    assert (code, out) == (1, "")
    assert "b.png: not an image, or a broken one" in error_line(err)
    assert "--skip-bad" in error_line(err)
    code, out, err = run("classify", seer, tmp_path, "--skip-bad")
    assert code == 0
    assert [line.split("\t")[2] for line in out.splitlines()] == [
        str(tmp_path / f"{name}.png") for name in "ac"
    ]
    assert "left out: " in err
    assert "b.png" in err
    names = "".join(f"{tmp_path / name}.png\n" for name in "abc")
    code, out, err = run("classify", seer, stdin=names)
    assert (code, out.count("\n")) == (1, 1)  # those before it are answered
    code, out, err = run("classify", seer, "--skip-bad", stdin=names)
    first, second, third = out.splitlines()
    assert (code, second) == (0, "")
    assert first == third != ""
    assert "b.png" in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text,label\na b c,x\nd e f,x\n", "same|two"),
        ("text,label\na b c,x\nd e f,\n", "label"),
        ("text,label\na b c,x\nd e f,y,z\n", ":3"),
    ],
)
def test_data_that_cannot_be_learned_are_refused(run, tmp_path, text, told):
    path = tmp_path / "d.csv"
    path.write_text(text)
    code, _, err = run("train", path, "-o", tmp_path / "m", *SMALL, "--steps", 3)
    assert code == 1
    assert any(part in error_line(err) for part in told.split("|"))
    assert not (tmp_path / "m").exists()


def test_flags_that_do_not_apply_or_mean_nothing_are_refused(run, reviews, tmp_path):
    out = ("-o", tmp_path / "m")
    code, _, err = run("train", reviews, *out, "--tied")
    assert code == 2
    assert "--tied" in error_line(err)
    code, _, err = run("train", reviews, *out, "--class-weights", "goood=2", *SMALL, "--steps", 3)
    assert code == 2
    assert "goood=2" in error_line(err)


def test_show_config_of_a_classifier_asks_for_the_same(run, reviews, tmp_path):
    code, shown, _ = run("train", reviews, "--steps", 5, "--show-config", "-q")
    assert code == 0
    path = tmp_path / "c.toml"
    path.write_text(shown)
    again = run("train", reviews, "--config", path, "--show-config", "-q")
    assert again[0] == 0, again[2]
    values = [line.split(" #")[0].rstrip() for line in shown.splitlines()]
    assert sorted(line.split(" #")[0].rstrip() for line in again[1].splitlines()) == sorted(values)


def test_classify_loads_no_torch(judge):
    script = (
        "import sys\nfrom seqtool.cli import main\n"
        f"try: main(['classify', {str(judge)!r}, 'lovely soup'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'tokenizers', 'sklearn', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "txt"])
def test_rows_that_are_no_plain_lines_are_read_for_their_texts(run, judge, tmp_path, kind):
    texts = ["lovely soup", "the grim room was stale", "lovely soup"]
    data = tmp_path / f"new.{kind}"
    objects = [json.dumps({"text": text, "label": "bad"}) for text in texts]
    if kind == "parquet":
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict({"text": texts, "label": ["bad"] * 3}).to_parquet(data)
    elif kind == "txt":
        data.write_text("".join(f"__label__bad {text}\n" for text in texts))
    else:
        content = "\n".join([objects[0], "", *objects[1:]]) + "\n"
        packed = gzip.compress(content.encode()) if kind.endswith("gz") else content.encode()
        data.write_bytes(packed)
    if kind.startswith("jsonl"):
        texts.insert(1, "")  # an empty line has an empty answer
    expected = run("classify", judge, stdin="\n".join(texts) + "\n")[1]
    code, out, err = run("classify", judge, data)
    assert (code, out, err) == (0, expected, "")
    if kind == "jsonl":
        assert run("classify", judge, data, "--text-column", "label")[1] != expected
        err = error_line(run("classify", judge, data, "--text-column", "txt")[2])
        assert 'did you mean "text"?' in err
