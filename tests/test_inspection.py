"""The ``inspect`` command: views for people and as JSON, one line for each thing that is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, error_line, train_tiny
from PIL import Image

from seqtool import checkpoint
from seqtool.checkpoint import Card, ModelDir, load
from seqtool.cli import main
from seqtool.sheet import Sheet

VIEWS = ("health", "gates", "units", "memory", "surprisal")
SMALL = ("--hidden-size", 8, "--embed-size", 8, "--part-buckets", 64, "--batch-size", 8, "-q")


@pytest.fixture(scope="session")
def gru_model(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "gru"
    return train_tiny(text_file, out, "--cell", "gru", "--layers", 2)


def make_reviews(path: Path, count: int, seed: int) -> Path:
    """Sentences of ten words, one of which tells the label."""
    rng = np.random.default_rng(seed)
    words = ["the", "a", "soup", "room", "was", "and", "tea"]
    telling = {"good": ["lovely", "fine", "great"], "bad": ["awful", "dull", "grim"]}
    with open(path, "w", encoding="utf-8") as file:
        file.write("text,label\n")
        for _ in range(count):
            label = str(rng.choice(["good", "bad"]))
            said = [str(word) for word in rng.choice(words, 9)]
            said.insert(int(rng.integers(10)), str(rng.choice(telling[label])))
            file.write(f"{' '.join(said)},{label}\n")
    return path


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reviews(tmp_path_factory.mktemp("data") / "reviews.csv", 160, 1)


@pytest.fixture(scope="session")
def judge(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "judge"
    with pytest.raises(SystemExit) as stop:
        main(["train", str(reviews), "-o", str(out), "--steps", "60", *map(str, SMALL)])
    assert stop.value.code == 0
    return out


def values_of(run: Run, *argv: object) -> dict[str, Any]:
    code, out, err = run("inspect", *argv, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def rewritten(model: Path, out: Path, /, **changes: Any) -> Path:
    """A copy of a model with another card or other weights, and no events."""
    saved = load(model)
    weights = dict(saved.weights)
    weights |= changes.pop("weights", {})
    card = Card(**{**vars(saved.card), "seal": {}, **changes})
    ModelDir.create(out).begin(card, saved.tokenizer_json, weights)
    return out


def test_a_model_alone_is_described(run: Run, model: Path) -> None:
    code, out, err = run("inspect", model)
    assert code == 0
    assert err == ""
    for part in ("generate", "LSTM, 1 layer of 16 units", "train chars", "stack.weight_hh_l0"):
        assert part in out
    assert re.search(r"bptt +16 +flag", out)
    assert re.search(r"optimizer +adam +default", out)


def test_a_model_alone_as_json(run: Run, model: Path) -> None:
    found = values_of(run, model)
    saved = load(model)
    assert found["task"] == "generate"
    assert found["trained"] is True
    assert sum(found["parameters"].values()) == sum(w.size for w in saved.weights.values())
    assert found["origins"]["hidden_size"] == "flag"
    assert [step for step, _ in found["valid_curve"]] == [15, 30]
    assert found["broken"] == ""


def test_a_model_alone_loads_no_torch(model: Path) -> None:
    from test_imports import command, loaded

    assert "torch" not in loaded(command("inspect", model), "torch")


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_alone(run: Run, model: Path, text_file: Path, view: str) -> None:
    found = values_of(run, model, text_file, f"--{view}", "--length", 300)
    assert {*VIEWS} & found.keys() == {view}


def test_all_views_fit_a_narrow_terminal(
    run: Run, gru_model: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = run("inspect", gru_model, text_file, "--length", 200)
    assert code == 0
    assert "200 of" in err
    for head in ("Gradient through time", "Gates", "Hidden units", "Memory:", "Surprisal"):
        assert head in out
    assert "memory 1/(1-update)" in out
    assert max(map(len, out.splitlines())) <= 60
    assert "\x1b" not in out


def test_health_measures_what_the_window_asks_for(run: Run, model: Path, text_file: Path) -> None:
    found = values_of(run, model, text_file, "--health", "--window", 5)["health"]
    assert found["window"] == 5
    assert len(found["layers"][0]["gradient"]) == 6
    assert found["verdict"]["judgement"] in ("healthy", "vanishing", "exploding")


def test_gates_of_a_gru(run: Run, gru_model: Path, text_file: Path) -> None:
    layers = values_of(run, gru_model, text_file, "--gates", "--length", 100)["gates"]
    assert [layer["layer"] for layer in layers] == [0, 1]
    assert [gate["name"] for gate in layers[0]["gates"]][:2] == ["reset", "update"]
    assert len(layers[0]["memory"]) == 16


def test_surprisal_adds_up_to_the_score(run: Run, model: Path, text_file: Path) -> None:
    found = values_of(run, model, text_file, "--surprisal", "--length", 10_000)["surprisal"]
    code, out, _ = run("evaluate", model, text_file, "--json", "--no-baselines")
    assert code == 0
    scores = json.loads(out)
    assert "".join(token["token"] for token in found) == text_file.read_text()
    for key, part in (("bits", "scores"), ("network_bits", "network")):
        mean = sum(token[key] for token in found) / len(found)
        assert mean == pytest.approx(scores[part]["bits_per_char"], rel=1e-4)
    for token in found[:50]:
        chances = [chance for _, chance in token["expected"]]
        assert chances == sorted(chances, reverse=True)


def test_a_unit_marks_the_text(run: Run, gru_model: Path, text_file: Path) -> None:
    options = ("--unit", 3, "--layer", 1, "--length", 40)
    found = values_of(run, gru_model, text_file, *options)
    (unit,) = found["activations"]
    assert (unit["layer"], unit["unit"], len(unit["values"])) == (1, 3, 40)
    code, out, _ = run("inspect", gru_model, text_file, *options)
    assert code == 0
    assert "Unit 3 of layer 1" in out
    levels = np.array(unit["values"])
    blocks = "".join(c for line in out.splitlines()[3:] for c in line if c in "▁▂▃▄▅▆▇█")
    assert len(blocks) == 40
    assert blocks[int(levels.argmax())] == "█"
    assert blocks[int(levels.argmin())] == "▁"


def test_without_data_the_kept_text_is_read(run: Run, model: Path) -> None:
    code, _, err = run("inspect", model, "--gates")
    assert code == 0
    assert "the text" in err


def test_a_text_can_be_given_in_place_of_a_file(run: Run, model: Path, tmp_path: Path) -> None:
    text = "the cat sat on the mat"
    (tmp_path / "text").write_text(text)
    given = values_of(run, model, text, "--surprisal")
    assert (
        given["surprisal"] == values_of(run, model, tmp_path / "text", "--surprisal")["surprisal"]
    )
    code, out, err = run("inspect", model, "the", "--surprisal")
    assert (code, out) == (1, "")
    assert "the: no such file" in error_line(err)


def test_start_and_length_choose_the_window(run: Run, model: Path, text_file: Path) -> None:
    found = values_of(run, model, text_file, "--surprisal", "--start", 7, "--length", 4)
    text = text_file.read_text()
    assert [token["token"] for token in found["surprisal"]] == list(text[7:11])


def test_colour_only_repeats_the_blocks() -> None:
    plain, coloured = Sheet(width=50, colour=False), Sheet(width=50, colour=True)
    for sheet in (plain, coloured):
        sheet.shaded(list("ab\ncd"), [0, 0.5, 1, 0.2, 0.9], "low", "high")
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured._text.getvalue())
    assert without == plain._text.getvalue()
    assert "\x1b[" in coloured._text.getvalue()


def test_a_table_moves_together_before_it_is_cut(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    row = ["name", *["1234567"] * 5]
    for width, fits in ((51, True), (45, True), (44, False)):
        sheet = Sheet(width=width, colour=False)
        sheet.table(row, [row])
        sheet.flush()
        for line in capsysbinary.readouterr().out.decode().splitlines():
            assert len(line) <= width
            assert (line.split() == row) == fits
            assert line.endswith("…") != fits


def test_curves_leave_out_what_cannot_be_drawn(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    sheet = Sheet(width=60, colour=False)
    sheet.curves([("a", [1, 2, 3], [1.0, float("nan"), 0.0])], x="x", y="y", log=True)
    sheet.curves([("a", [1], [float("inf")])], x="x", y="y")
    sheet.flush()
    out = capsysbinary.readouterr().out.decode()
    assert "nothing to draw" in out


def test_a_view_of_another_task_is_refused_in_one_line(
    run: Run, judge: Path, model: Path, reviews: Path, text_file: Path
) -> None:
    code, out, err = run("inspect", judge, reviews, "--surprisal", "-q")
    assert (code, out) == (2, "")
    assert "--surprisal: nothing to see in a model to classify" in error_line(err)
    assert "--belief" in err
    code, out, err = run("inspect", model, text_file, "--belief", "-q")
    assert (code, out) == (2, "")
    assert "nothing to see in a model to generate" in error_line(err)


def test_a_diverged_model_says_since_when(
    run: Run, model: Path, text_file: Path, tmp_path: Path
) -> None:
    spoilt = load(model).weights["stack.weight_hh_l0"].copy()
    spoilt[:2] = np.nan
    broken = rewritten(model, tmp_path / "broken", weights={"stack.weight_hh_l0": spoilt})
    events = [
        {"event": "report", "step": 10, "loss": 2.0},
        {"event": "report", "step": 20, "loss": float("nan")},
    ]
    lines = "".join(map(checkpoint.event_line, events))
    (broken / "metrics.jsonl").write_text(lines)
    code, out, err = run("inspect", broken, text_file)
    assert (code, out) == (1, "")
    message = error_line(err)
    assert "32 of" in message
    assert "not finite from step 20 on" in message
    code, out, _ = run("inspect", broken)
    assert code == 0
    assert "BROKEN" in out


def test_a_model_that_never_trained_is_said_to_be_one(
    run: Run, model: Path, text_file: Path, tmp_path: Path
) -> None:
    fresh = rewritten(model, tmp_path / "fresh")
    code, out, err = run("inspect", fresh, text_file, "--gates", "-q")
    assert code == 0
    assert "Gates" in out
    assert err.count("\n") == 1
    assert "no update" in err
    assert "none: no update" in run("inspect", fresh)[1]


def test_unknown_characters(run: Run, model: Path) -> None:
    code, _, err = run("inspect", model, "-", "--gates", "-q", stdin="the cat Ω sat")
    assert code == 0
    assert err.count("\n") == 1
    assert "Ω" in err
    code, out, err = run(
        "inspect", model, "-", "--gates", "--on-unknown", "error", stdin="the cat Ω sat"
    )
    assert (code, out) == (2, "")
    assert "U+03A9" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--unit", 16), "--unit must be from 0 to 15, got 16"),
        (("--unit", 1, "--layer", 2), "--layer must be from 1 to 1, got 2"),
        (("--layer", 1), "--layer says where --unit N is"),
        (("--gates", "--start", 10**6), "--start must be below the length of the text"),
    ],
)
def test_bad_options(
    run: Run, model: Path, text_file: Path, options: tuple[object, ...], message: str
) -> None:
    code, out, err = run("inspect", model, text_file, *options, "-q")
    assert (code, out) == (2, "")
    assert message in error_line(err)


def test_a_text_of_one_character_has_what_it_can_have(run: Run, model: Path) -> None:
    code, out, err = run("inspect", model, "-", stdin="t")
    assert code == 0, err
    assert "health: needs 3 tokens" in out
    code, _, err = run("inspect", model, "-", "-q", stdin="")
    assert code == 1
    assert "empty" in error_line(err)


def test_memory_tells_of_the_model_as_it_is_used_and_of_the_network(
    run: Run, model: Path, text_file: Path
) -> None:
    found = values_of(run, model, text_file, "--memory")["memory"]
    assert found["mixed"]["lengths"] == found["lengths"]
    assert found["mixed"]["losses"] != found["losses"]
    code, out, err = run("inspect", model, text_file, "--memory")
    assert code == 0
    assert "mixed with counts" in err
    assert "with counts" in out


def test_units_of_a_language_model_are_matched_with_labels(
    run: Run, model: Path, reviews: Path, text_file: Path, tmp_path: Path
) -> None:
    found = values_of(run, model, reviews, "--units", "-l", 300)["units"]
    labels = [match for match in found["by_feature"] if match["feature"] == "label good"]
    assert [match["measure"] for match in labels] == ["AUC"]
    plain = values_of(run, model, text_file, "--units", "-l", 300)["units"]
    assert not any(match["feature"].startswith("label") for match in plain["by_feature"])
    other = tmp_path / "verses.csv"  # a table by its name, without labels
    other.write_text("The cat sat on a mat.\nThe hens saw rain.\n" * 9)
    code, _, err = run("inspect", model, other, "--units", "-l", 50)
    assert code == 0
    assert "read as plain text" in err


def test_belief_is_what_classify_says(run: Run, judge: Path, reviews: Path) -> None:
    text = "the soup was lovely and the tea awful"
    (belief,) = values_of(run, judge, text, "--belief")["belief"]
    traced = json.loads(run("classify", judge, text, "--trace", "--json")[1])
    assert belief["label"] == traced["label"]
    assert [step["token"].strip() for step in belief["trace"]] == text.split()
    for mine, theirs in zip(belief["trace"], traced["trace"], strict=True):
        assert mine["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)
    found = values_of(run, judge, reviews, "--belief", "--start", 3, "-l", 25)["belief"]
    assert [belief["truth"] for belief in found] == [
        line.rsplit(",")[1] for line in reviews.read_text().splitlines()[4:7]
    ]
    assert [len(belief["trace"]) for belief in found] == [10, 10, 5]


@pytest.mark.parametrize("view", ["health", "gates", "units", "belief"])
def test_each_view_of_a_classifier_alone(run: Run, judge: Path, reviews: Path, view: str) -> None:
    found = values_of(run, judge, reviews, f"--{view}", "-l", 100)
    assert {"health", "gates", "units", "belief"} & found.keys() == {view}
    if view == "health":
        assert [layer["name"] for layer in found["health"]["layers"]] == [
            *("layer 1 (onward)", "layer 2 (back)")
        ]
        assert found["health"]["window"] == 9
        assert "--bptt" not in found["health"]["verdict"]["advice"]
    if view == "units":  # trained to tell the labels, so its units do
        assert "label good" in {match["feature"] for match in found["units"]["by_feature"]}


def test_all_views_of_a_classifier_fit_a_narrow_terminal(
    run: Run, judge: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"lovely soup and tea {i}" for i in range(30)))
    for data in (reviews, lines):
        code, out, err = run("inspect", judge, data, "-l", 60)
        assert code == 0, err
        for head in ("Gradient through time", "Gates", "Belief"):
            assert head in out
        assert max(map(len, out.splitlines())) <= 60
        assert "\x1b" not in out
    assert "own answers" in err
    page = tmp_path / "page.html"
    code, out, _ = run("inspect", judge, reviews, "-l", 60, "--html", page)
    assert (code, out) == (0, f"{page}\n")
    assert "belief in good" in page.read_text("utf-8")


def test_a_classifier_has_no_text_of_its_own(run: Run, judge: Path) -> None:
    assert run("inspect", judge)[0] == 0
    code, out, err = run("inspect", judge, "--units", "-q")
    assert (code, out) == (2, "")
    assert "name DATA" in error_line(err)
    code, out, err = run("inspect", judge, "missing/file.csv", "-q")
    assert (code, out) == (1, "")
    assert "no such file" in error_line(err)
    code, out, err = run("inspect", judge, "one text only", "--start", 1, "-q")
    assert (code, out) == (2, "")
    assert "--start must be below the number of examples, 1" in error_line(err)


def draw_pictures(out: Path) -> Path:
    """Dark and bright pictures of six rows of five pixels."""
    rng = np.random.default_rng(0)
    for label in ("dark", "bright"):
        (out / label).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 90, (6, 5)) + 160 * (label == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(out / f"{label}/{i}.png")
    return out


def test_a_classifier_of_pictures(run: Run, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "data")
    out = tmp_path / "model"
    train = ("--steps", 60, "--hidden-size", 8, "--batch-size", 8, "-q")
    assert run("train", tmp_path / "data", "-o", out, *train)[0] == 0
    found = values_of(run, out, tmp_path / "data", "-l", 200)
    belief = found["belief"][0]
    assert len(belief["trace"]) == 6
    said = run("classify", out, tmp_path / "data" / belief["name"], "--json")[1]
    assert belief["label"] == json.loads(said)["label"]
    probability = belief["trace"][-1]["probabilities"][belief["label"]]
    assert probability == pytest.approx(json.loads(said)["probability"], abs=1e-6)
    units = found["units"]
    told = {*(match["feature"] for match in units["by_feature"]), *units["unfollowed"]}
    assert told >= {"row of the picture"}
    code, shown, _ = run("inspect", out, tmp_path / "data", "-l", 12, "--belief")
    assert code == 0
    assert shown.count("1.00") + shown.count("0.") >= 12


@pytest.mark.parametrize(("by", "steps", "ends"), [("pixel", 30, 5), ("block", 9, 3)])
def test_pictures_read_by_pixel_or_block(
    run: Run, tmp_path: Path, by: str, steps: int, ends: int
) -> None:
    data, out = draw_pictures(tmp_path / "data"), tmp_path / "model"
    train = ("--steps", 2, "--hidden-size", 4, "--by", by, "--members", 1, "-q")
    assert run("train", data, "-o", out, *train)[0] == 0
    found = values_of(run, out, data, "-l", 30)
    assert found["health"]["element"] == by
    belief = found["belief"][0]
    assert len(belief["trace"]) == steps
    code, shown, _ = run("inspect", out, data, "-l", 30, "--belief", "-q")
    assert code == 0
    assert f"after each {by}" in shown
    # Beside each of the six rows stands what is believed at the end of its pixels or its blocks.
    lines = re.findall(r"(dark|bright) +(\d\.\d\d) ", shown.split("truly")[1])
    rows = belief["trace"][ends - 1 :: ends]
    rows = [row for row in rows for _ in range(6 // len(rows))]
    best = [max(row["probabilities"].items(), key=lambda item: item[1]) for row in rows]
    assert lines == [(label, f"{p:.2f}") for label, p in best]


def test_a_classifier_of_characters_tells_of_characters(run: Run, tmp_path: Path) -> None:
    data, out = tmp_path / "names.csv", tmp_path / "model"
    names = [f"{'aeiou'[i % 5]}{'bdf'[i % 3]}o,{'xy'[i % 2]}\n" for i in range(60)]
    data.write_text("text,label\n" + "".join(names))
    train = ("--tokenizer", "char", "--steps", 2, "--hidden-size", 4, "-q")
    assert run("train", data, "-o", out, *train)[0] == 0
    assert values_of(run, out, data, "-l", 12)["health"]["element"] == "character"
    assert "after each character" in run("inspect", out, data, "--belief", "-q")[1]


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A translator of letters to capitals, and its pairs."""
    rng = np.random.default_rng(0)
    data = tmp_path_factory.mktemp("data") / "pairs.tsv"
    words = ["".join(rng.choice(list("abcd"), int(rng.integers(2, 6)))) for _ in range(120)]
    data.write_text("small\tlarge\n" + "".join(f"{w} {w}\t{w.upper()} X\n" for w in words))
    out = data.parent / "model"
    options = ("--hidden-size", "8", "--embed-size", "8", "--batch-size", "8", "--steps", "8", "-q")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(data), "-o", str(out), "--task", "translate", *options])
    assert stop.value.code == 0
    return out, data


def test_attention_of_a_translator(
    run: Run, translator: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = translator
    assert run("inspect", model)[0] == 0
    (look,) = values_of(run, model, "abc da", "--attention")["attention"]
    weights = np.array(look["weights"])
    assert weights.shape == (len(look["target"]), len(look["source"]))
    assert (weights >= 0).all()
    assert (weights.sum(axis=1) <= 1 + 1e-3).all()
    said = json.loads(run("translate", model, "abc da", "--attention", "--json")[1])
    assert look["translation"] == said["text"]
    assert weights.tolist() == pytest.approx(np.array(said["attention"]), abs=1e-3)
    monkeypatch.setenv("COLUMNS", "60")
    page, picture = tmp_path / "page.html", tmp_path / "look.png"
    code, out, err = run("inspect", model, data, "-l", 30, "--html", page, "--png", picture)
    assert code == 0, err
    assert out.split() == [str(page), str(picture)]
    assert "shown for" in err
    code, out, _ = run("inspect", model, data, "-l", 30)
    assert code == 0
    assert "Attention" in out
    assert max(map(len, out.splitlines())) <= 60
    code, out, err = run("inspect", model, data, "--memory", "-q")
    assert (code, out) == (2, "")
    assert "its views are --health, --gates, --units, --attention" in error_line(err)
    code, out, err = run("inspect", model, "--attention", "-q")
    assert (code, out) == (2, "")
    assert "name DATA" in error_line(err)


def test_a_translator_guesses_the_column_of_another_table(
    run: Run, translator: tuple[Path, Path], tmp_path: Path
) -> None:
    model, data = translator
    lines = data.read_text("utf-8").splitlines()[1:4]
    other = tmp_path / "other.csv"
    other.write_text(
        "number,sentence\n"
        + "".join(f'{n},"{n} {line.split(chr(9))[0]} again"\n' for n, line in enumerate(lines))
    )
    looks = values_of(run, model, other, "--attention")["attention"]
    assert [look["name"] for look in looks] == [f"{other}:{n} (sentence)" for n in (2, 3, 4)]


def test_layers_of_a_translator(run: Run, translator: tuple[Path, Path]) -> None:
    model, data = translator
    found = values_of(run, model, data, "-l", 400)
    names = [*(f"layer {n} (encoder {way})" for n, way in ((1, "onward"), (2, "back")))]
    names += [f"layer {n} (decoder {place})" for n, place in ((3, "below"), (4, "above"))]
    assert [layer["name"] for layer in found["health"]["layers"]] == names
    assert [layer["name"] for layer in found["gates"]] == names
    sides = {match["feature"].split(":")[0] for match in found["units"]["by_feature"]}
    assert sides == {"source", "target"}
    for match in found["units"]["by_feature"]:
        assert (match["layer"] < 2) == match["feature"].startswith("source")
    assert "so the verdict is on the decoder" in "".join(found["notes"])
    read, written = (
        sum(len(look[side]) for look in found["attention"]) for side in ("source", "target")
    )
    for layer, tokens in ((2, read), (3, written)):
        unit = values_of(run, model, data, "-l", 400, "--unit", 1, "--layer", layer)
        assert len(unit["activations"][0]["values"]) == tokens
    code, out, err = run("inspect", model, data, "--unit", 1, "--layer", 5, "-q")
    assert (code, out) == (2, "")
    assert "--layer must be from 1 to 4" in error_line(err)


def make_sentences(path: Path, count: int) -> Path:
    """Words that are tagged by what they are, but for one that the word before it decides."""
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            before = "DET"
            for word in rng.choice(["the", "run", "fast", "sings"], int(rng.integers(4, 9))):
                tags = {"the": "DET", "fast": "ADV", "sings": "VERB"}
                before = tags.get(word, "NOUN" if before == "DET" else "VERB")
                file.write(f"{word} {before}\n")
            file.write("\n")
    return path


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tagger and its sentences."""
    data = make_sentences(tmp_path_factory.mktemp("data") / "words.conll", 80)
    out = data.parent / "model"
    with pytest.raises(SystemExit) as stop:
        main(["train", str(data), "-o", str(out), "--steps", "40", *map(str, SMALL)])
    assert stop.value.code == 0
    return out, data


def test_belief_of_a_tagger_is_what_tag_says(run: Run, tagger: tuple[Path, Path]) -> None:
    model, data = tagger
    text = "the run sings fast"
    (belief,) = values_of(run, model, text, "--belief")["belief"]
    said = json.loads(run("tag", model, text, "--json")[1])
    assert [step["token"] for step in belief["trace"]] == text.split()
    assert [step["label"] for step in belief["trace"]] == said["labels"]
    assert belief["truth"] is None
    for step, probability in zip(belief["trace"], said["probabilities"], strict=True):
        assert sum(step["probabilities"].values()) == pytest.approx(1)
        assert step["probabilities"][step["label"]] == pytest.approx(probability, abs=1e-6)
    found = values_of(run, model, data, "--belief", "--start", 2, "-l", 1)["belief"]
    first = data.read_text("utf-8").split("\n\n")[2].split("\n")
    assert found[0]["truth"] == [line.split()[1] for line in first]


def test_sentences_in_a_pipe_are_those_of_the_file(
    run: Run, tagger: tuple[Path, Path], tmp_path: Path
) -> None:
    model, data = tagger
    argv = ("--belief", "-l", 12, "--json", "-q")
    of_file = json.loads(run("inspect", model, data, *argv)[1])["belief"]
    of_pipe = json.loads(run("inspect", model, "-", *argv, stdin=data.read_text("utf-8"))[1])
    assert len(of_file) > 1
    for piped, filed in zip(of_pipe["belief"], of_file, strict=True):
        assert piped.pop("name").split(":")[1] == filed.pop("name").split(":")[1]
        assert piped == filed
    plain = run("inspect", model, "-", *argv, stdin="the run\n\nsings fast the\n")[1]
    assert [[step["token"] for step in line["trace"]] for line in json.loads(plain)["belief"]] == [
        *(["the", "run"], ["sings", "fast", "the"])
    ]


def test_views_of_a_tagger(
    run: Run, tagger: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = tagger
    found = values_of(run, model, data)
    assert [layer["name"] for layer in found["health"]["layers"]] == [
        *("layer 1 (onward)", "layer 2 (back)")
    ]
    assert found["health"]["element"] == "word"
    assert {"label DET", "label NOUN"} & {m["feature"] for m in found["units"]["by_feature"]}
    lines = tmp_path / "lines.txt"
    lines.write_text("the run\n\nsings fast the run\n")
    page = tmp_path / "page.html"
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = run("inspect", model, lines)
    assert code == 0, err
    assert "UNSURE: too little to judge by" in out
    assert max(map(len, out.splitlines())) <= 60
    assert "truly" not in out
    code, out, err = run("inspect", model, data, "--belief", "-l", 1)
    assert max(map(len, out.splitlines())) <= 60
    (belief,) = values_of(run, model, data, "--belief", "-l", 1)["belief"]
    tokens = [step["token"] for step in belief["trace"]]
    rows = [
        line.split() for line in out.splitlines() if line.split()[:1] and line.split()[0] in tokens
    ]
    assert [row[2 + (row[2] == "!")] for row in rows] == belief["truth"]
    for row in rows:
        assert (row[2] == "!") == (row[1] != row[2 + (row[2] == "!")])
    code, out, err = run("inspect", model, data, "-l", 30, "--html", page)
    assert (code, out) == (0, f"{page}\n"), err
    text = page.read_text("utf-8")
    assert "belief in NOUN" in text
    assert "single examples are shown for" in text
    code, out, err = run("inspect", model, data, "--surprisal", "-q")
    assert (code, out) == (2, "")
    assert "its views are --health, --gates, --units, --belief" in error_line(err)
    code, out, err = run("inspect", model, "--belief", "-q")
    assert (code, out) == (2, "")
    assert "name DATA" in error_line(err)
