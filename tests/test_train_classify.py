"""What classifiers can be trained on and from, through the real commands."""

import csv
import gzip
import json
import random

import numpy as np
import pytest
from conftest import error_line

from seqtool.checkpoint import load

SMALL = ("--hidden-size", 8, "--batch-size", 8, "-q")
WORDS = ["the", "a", "soup", "room", "was", "and", "tea"]
TELLING = {"joy": ["happy", "merry"], "fear": ["scared", "afraid"], "rage": ["cross", "furious"]}


def make_sets(count, seed):
    """Sentences, and the labels whose words stand in them: none, one or more."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [rng.choice(WORDS) for _ in range(6)]
        labels = sorted(label for label in TELLING if rng.random() < 0.4)
        for label in labels:
            words.insert(rng.randrange(len(words)), rng.choice(TELLING[label]))
        rows.append((" ".join(words), labels))
    return rows


def write_csv(path, rows, names=("text", "label")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def train(run, data, out, *options):
    argv = ["train", data, "-o", out, *SMALL, *options]
    argv += [] if "--steps" in options else ["--steps", 40]
    code, _, err = run(*argv)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def sets_model(tmp_path_factory):
    """A classifier of several labels; tests only read it."""
    from seqtool.cli import main

    folder = tmp_path_factory.mktemp("sets")
    data = write_csv(folder / "s.csv", [(t, "|".join(ls)) for t, ls in make_sets(240, 1)])
    argv = ["train", data, "-o", folder / "m", *SMALL, "--multi-label", "--steps", 80]
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    assert stop.value.code == 0
    return folder / "m"


def test_several_labels_are_given_at_once(run, sets_model):
    rows = make_sets(40, 2)
    texts = [text for text, _ in rows]
    code, out, err = run("classify", sets_model, stdin="\n".join([*texts, "", texts[0]]) + "\n")
    assert (code, err) == (0, "")
    lines = out.split("\n")
    assert (lines[40], lines[41], lines[42:]) == ("", lines[0], [""])
    found = [line.split("\t")[0] for line in lines[:40]]
    right = sum(
        {*cell.split("|")} - {""} == {*labels}
        for cell, (_, labels) in zip(found, rows, strict=True)
    )
    assert right >= 32
    parsed = [
        json.loads(line)
        for line in run("classify", sets_model, "--json", stdin="\n".join(texts))[1].splitlines()
    ]
    assert ["|".join(answer["labels"]) for answer in parsed] == found
    answer = json.loads(run("classify", sets_model, "--json", "--proba", stdin=texts[0])[1])
    p = answer["probabilities"]
    product = np.prod([p[name] if name in answer["labels"] else 1 - p[name] for name in p])
    assert answer["probability"] == pytest.approx(product)
    assert run("classify", sets_model, "--threshold", 0.999999, stdin=texts[0])[1].startswith("\t")


def test_sets_of_labels_are_scored(run, sets_model, tmp_path):
    rows = [(text, "|".join(labels)) for text, labels in make_sets(60, 3)]
    data = write_csv(tmp_path / "t.csv", rows)
    report = json.loads(run("evaluate", sets_model, data, "--json", "-q")[1])
    assert {"micro_f1", "macro_f1", "accuracy", "ece", "nats"} <= report["scores"].keys()
    assert report["scores"]["micro_f1"] > 0.85
    assert report["baselines"]["majority"]["micro_f1"] < 0.5
    assert report["baselines"]["tfidf_logreg"]["micro_f1"] > 0.8
    best = load(sets_model).card.extra["best"]
    least = [row["threshold"] for row in report["classes"].values()]
    assert least == best["thresholds"]
    answers = run("classify", sets_model, stdin="\n".join(text for text, _ in rows))[1]
    found = [{*line.split("\t")[0].split("|")} for line in answers.splitlines()]
    truth = [{*cell.split("|")} for _, cell in rows]
    exact = np.mean([one == other for one, other in zip(found, truth, strict=True)])
    assert report["scores"]["accuracy"] == pytest.approx(exact)
    there = sum("joy" in labels for labels in truth)
    assert report["classes"]["joy"]["count"] == there
    table = run("evaluate", sets_model, data, "-q")[1]
    assert f"{report['scores']['micro_f1']:.4f}" in table


def test_sets_come_from_every_format(run, tmp_path):
    rows = make_sets(80, 4)
    files = {
        "s.csv": None,
        "s.jsonl": "".join(json.dumps({"text": t, "label": ls}) + "\n" for t, ls in rows),
        "s.ft": "".join(" ".join([*(f"__label__{x}" for x in ls), t]) + "\n" for t, ls in rows),
    }
    weights = []
    for name, content in files.items():
        if content is None:
            write_csv(tmp_path / name, [(t, ";".join(ls)) for t, ls in rows])
        elif name == "s.ft":  # a line of fastText without a label is one of text
            (tmp_path / name).write_text(
                "".join(f"__label__x {line}\n" for line in content.splitlines())
            )
            continue
        else:
            (tmp_path / name).write_text(content)
        out = train(run, tmp_path / name, tmp_path / f"m-{name}", "--multi-label", "--steps", 6)
        weights.append(load(out).weights)
    for name, weight in weights[0].items():
        np.testing.assert_array_equal(weight, weights[1][name])
    out = train(run, tmp_path / "s.ft", tmp_path / "m", "--multi-label", "--steps", 3)
    assert load(out).card.source["classes"] == ["fear", "joy", "rage", "x"]


def test_sets_are_refused_where_they_mean_nothing(run, sets_model, tmp_path):
    assert "--threshold" in error_line(run("classify", sets_model, "a", "--coverage", 0.9)[2])
    data = tmp_path / "s.jsonl"
    data.write_text(
        "".join(json.dumps({"text": t, "label": ls}) + "\n" for t, ls in make_sets(9, 1))
    )
    code, _, err = run("train", data, "-o", tmp_path / "m", *SMALL, "--steps", 3)
    assert code == 1
    assert "--multi-label" in error_line(err)


@pytest.fixture
def moods(tmp_path):
    """Texts of one label: the word that tells."""
    rows = [(text, labels[0]) for text, labels in make_sets(120, 5) if len(labels) == 1]
    return write_csv(tmp_path / "moods.csv", rows)


STILL = ("--steps", 1, "--lr", 1e-9, "--average", 0)  # weights stay where they start


def test_words_start_from_their_vectors(run, moods, tmp_path):
    path = tmp_path / "v.vec.gz"
    rng = np.random.default_rng(1)
    given = {w: rng.normal(0, 2, 5) for w in ["soup", "Happy", "room", "unheard", "of", "merry"]}
    lines = [f"{w} {' '.join(f'{x:.4f}' for x in v)}" for w, v in given.items()]
    path.write_bytes(gzip.compress(("7 5\n" + "\n".join(lines) + "\n").encode()))
    code, _, err = run(
        "train", moods, "-o", tmp_path / "m", *SMALL[:-1], *STILL, "--embeddings", path
    )
    assert code == 0
    assert "6 words of 5 numbers; 4 of the" in err
    assert "its first line announces 7 words" in err
    saved = load(tmp_path / "m")
    assert saved.card.model.embed_size == 5
    ids = json.loads(saved.tokenizer_json)["model"]["vocab"]
    words = saved.weights["vectors.words.weight"]
    for word, vector in given.items():
        np.testing.assert_allclose(words[ids[word.lower()]], vector, atol=1e-3)
    assert words[ids["tea"]].std() > 0.5  # not small among large ones
    assert run("classify", tmp_path / "m", "happy unheard of")[0] == 0
    again = run("train", moods, "-o", tmp_path / "m", "-q", "--resume", "--embeddings", "other.vec")
    assert "--embeddings other.vec contradicts" in error_line(again[2])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--embed-size", 7), "--embed-size 7 does not fit --embeddings"),
        (("--tokenizer", "bpe"), "--tokenizer bpe"),
        (("--task", "generate"), "is not for --task generate"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(run, moods, tmp_path, options, told):
    path = tmp_path / "v.txt"
    path.write_text("soup 1 2 3\ntea 4 5 6\n")
    argv = ("train", moods, "-o", tmp_path / "m", "-q", "--steps", 1, "--embeddings", path)
    assert told in error_line(run(*argv, *options)[2])
    path.write_text("soup 1 2 3\ntea 4 5\n")
    code, _, err = run(*argv)
    assert code == 1
    assert "v.txt:2:" in error_line(err)
    assert not (tmp_path / "m").exists()


def test_a_language_model_lends_its_weights(run, model, moods, tmp_path):
    out = tmp_path / "m"
    code, _, err = run("train", moods, "-o", out, "-q", *STILL, "--init-from", model)
    assert code == 0, err
    parent, saved = load(model), load(out)
    for name, weight in parent.weights.items():
        if name.startswith("stack."):
            for direction in ("onward", "back"):
                mine = saved.weights[name.replace("stack", direction)]
                np.testing.assert_allclose(mine, weight, atol=1e-6)
    words, width = parent.weights["embedding.weight"], parent.card.model.embed_size
    np.testing.assert_allclose(saved.weights["vectors.words.weight"][2:], words[2:], atol=1e-6)
    tables = parent.weights["ngrams.weight"][:, :width]
    np.testing.assert_array_equal(saved.weights["tables.weight"], tables)
    assert run("classify", out, "a merry \u2603 cat")[0] == 0
    argv = ("train", moods, "-o", tmp_path / "n", "-q", "--init-from")
    code, _, err = run(*argv, model, "--hidden-size", 9)
    assert code == 2
    assert "--hidden-size 9 does not fit --init-from" in error_line(err)
    code, _, err = run(*argv, out)
    assert code == 2
    assert "trained to classify" in error_line(err)


@pytest.mark.parametrize("unit", ["byte", "bpe"])
def test_texts_are_read_by_bytes_or_pieces(run, moods, tmp_path, unit):
    out = train(run, moods, tmp_path / "m", "--tokenizer", unit, "--steps", 60, "--lr", 0.01)
    found = run("classify", out, stdin="the happy soup\na scared room\nso furious\n")[1]
    assert [line.split("\t")[0] for line in found.splitlines()] == ["joy", "fear", "rage"]
    trace = json.loads(run("classify", out, "the caf\u00e9", "--trace", "--json")[1])["trace"]
    assert "".join(step["token"] for step in trace).replace(" ", "") == "thecaf\u00e9"


@pytest.mark.parametrize("by", ["pixel", "block"])
def test_colour_images_are_read_pixel_by_pixel_or_in_blocks(run, tmp_path, by):
    from PIL import Image

    rng = np.random.default_rng(1)
    for i in range(40):
        pixels = rng.integers(0, 90, (6, 5, 3)).astype(np.uint8)
        pixels[2:4, 2:4, i % 2] = 250
        folder = tmp_path / "d" / ("green" if i % 2 else "red")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    out = train(run, tmp_path / "d", tmp_path / "m", "--by", by, "--lr", 0.02, "--steps", 60)
    lines = run("classify", out, tmp_path / "d")[1].splitlines()
    right = sum(line.split("\t")[2].split("/")[-2] == line.split("\t")[0] for line in lines)
    assert right >= 38
    assert json.loads(run("evaluate", out, tmp_path / "d", "--json")[1])["scores"]["accuracy"] > 0.9


def test_pairs_of_texts_are_judged_together(run, tmp_path):
    rng = random.Random(1)
    rows = []
    for _ in range(160):
        first, second = rng.choice(["hot", "cold"]), rng.choice(["tea", "ice"])
        rows.append((f"it is {first}", f"here is {second} {rng.choice(WORDS)}", first + second))
    data = write_csv(tmp_path / "p.csv", rows, ("premise", "hypothesis", "label"))
    out = train(run, data, tmp_path / "m", "--lr", 0.02, "--steps", 100)
    assert load(out).card.source["text_columns"] == ["premise", "hypothesis"]
    new = write_csv(tmp_path / "n.csv", [row[:2] for row in rows[:20]], ("premise", "hypothesis"))
    found = list(
        csv.DictReader(
            run("classify", out, new, "--text-column", "premise,hypothesis")[1].splitlines()
        )
    )
    assert [row["label"] for row in found] == [row[2] for row in rows[:20]]
    assert json.loads(run("evaluate", out, data, "--json", "-q")[1])["scores"]["accuracy"] > 0.95


def test_sequences_of_one_element_are_judged(run, tmp_path):
    rows = [
        (sign, "vowel" if sign in "aeiou" else "other") for sign in "abcdefghijklmnopqrstuvwxyz"
    ] * 4
    data = write_csv(tmp_path / "s.csv", rows)
    argv = ("--valid", data, "--lr", 0.05, "--steps", 60)
    out = train(run, data, tmp_path / "m", *argv)
    found = run("classify", out, stdin="a\nb\ne\nz\n")[1]
    assert [line.split("\t")[0] for line in found.splitlines()] == ["vowel", "other"] * 2


def test_the_task_is_guessed_shown_and_kept(run, moods, tmp_path):
    out = tmp_path / "m"
    options = ("-o", out, *SMALL[:-1], "--steps", 2)
    assert "--task classify" in run("train", moods, *options)[2]
    plain = tmp_path / "verses.txt"
    plain.write_text("".join(f"{i}\tand the {i}th day was dry\n" for i in range(200)))
    shown = run("train", plain, "--show-config", "--steps", 2, "-o", tmp_path / "n")
    assert "--task generate" in shown[2]
    again = run("train", moods, "-o", out, "--resume")
    assert "this run is finished" in again[2]


def test_a_broken_image_is_named_and_left_out_only_if_asked(run, tmp_path):
    from PIL import Image

    for i in range(12):
        folder = tmp_path / "d" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 5), 200 * (i % 2) + i).save(folder / f"{i}.png")
    (tmp_path / "d" / "a" / "x.png").write_bytes(b"no image")
    argv = ("train", tmp_path / "d", "-o", tmp_path / "m", *SMALL[:-1], "--steps", 1)
    code, _, err = run(*argv, "-q")
    assert code == 1
    assert "x.png" in error_line(err)
    code, _, err = run(*argv, "--skip-bad")
    assert code == 0
    assert [line for line in err.splitlines() if "left out" in line and "x.png" in line]


def test_bytes_that_are_no_text_are_read_by_bytes(run, tmp_path):
    rows = [(b"\x00\xff odd %d" % i, b"x") for i in range(20)]
    rows += [(b"even %d" % i, b"y") for i in range(20)]
    data = tmp_path / "b.csv"
    data.write_bytes(b"text,label\n" + b"".join(t + b"," + label + b"\n" for t, label in rows))
    argv = ("train", data, "-o", tmp_path / "m", *SMALL, "--task", "classify", "--steps", 60)
    assert "--tokenizer byte" in error_line(run(*argv)[2])
    code, _, err = run(*argv, "--tokenizer", "byte", "--lr", 0.02)
    assert code == 0, err
    report = json.loads(run("evaluate", tmp_path / "m", data, "--json", "-q", "--no-baselines")[1])
    assert report["scores"]["accuracy"] > 0.95


def test_several_networks_are_one_model(run, moods, tmp_path):
    out = train(run, moods, tmp_path / "m", "--members", 3, "--steps", 30, "--lr", 0.02)
    saved = load(out)
    assert saved.card.model.members == 3
    first, second = (saved.weights[f"{k}.onward.weight_hh_l0"] for k in range(2))
    assert not np.array_equal(first, second)
    found = run("classify", out, stdin="the happy soup\na scared room\n")[1]
    assert [line.split("\t")[0] for line in found.splitlines()] == ["joy", "fear"]
    told = run("inspect", out)[1]
    assert "the mean of 3 networks: LSTM" in told
    assert "layers reading onward" in told
    views = run("inspect", out, "the happy soup", "--health")
    assert views[0] == 0
    assert "of the first of the 3 networks" in views[2]
    code, _, err = run("train", moods, "-o", out, "--resume", "--members", 2)
    assert code == 2
    assert "--members 2 (flag) contradicts" in error_line(err)
    code, _, err = run("train", moods, "-o", tmp_path / "n", "--members", 0)
    assert code == 2
    assert "--members must be from 1 to" in error_line(err)


@pytest.mark.parametrize(
    ("options", "seconds", "members"),
    [
        (("--budget", "10h"), 1e-6, 2),
        (("--budget", "10h"), 1e4, 2),
        (("--budget", "10h"), 1e6, 1),
        (("--budget", "10h", "--members", 3), 1e-6, 3),
        ((), 1e-6, 1),
    ],
)
def test_a_budget_is_filled_with_networks(
    run, moods, tmp_path, monkeypatch, options, seconds, members
):
    monkeypatch.setattr("seqtool.plan_classify.most_steps", lambda *sizes: 6)
    monkeypatch.setattr("seqtool.budget.time_run", lambda trainer: seconds)
    code, _, err = run("train", moods, "-o", tmp_path / "m", *SMALL, *options)
    assert code == 0, err
    card = load(tmp_path / "m").card
    assert (card.model.members, card.train.steps) == (members, 6)
    chosen = options[:1] == ("--budget",) and "--members" not in options
    assert (card.extra["origins"]["members"] == "chosen by seqtool") == chosen
