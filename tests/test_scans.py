"""Pictures of lines are read column by column, and translated as texts are."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import error_line, interrupted_at
from numpy.testing import assert_allclose
from PIL import Image

from seqtool.checkpoint import load, load_last
from seqtool.config import BeamConfig, DecodeConfig, TranslatorConfig
from seqtool.encdec import EncoderDecoder
from seqtool.errors import CheckpointError, DataError, SeqtoolError
from seqtool.images import are_names
from seqtool.scans import Scanner, beside, choose_height, measure, scan, survey
from seqtool.sides import choose_sides, looks_like_header, looks_like_pairs
from seqtool.translation import Alignment, Wishes, load_translator
from seqtool.translator import Translator, weight_shapes

D, E, H, V = 3, 5, 6, 11

# Signs of five rows: what stands on the lines drawn here.
SIGNS = {"a": "#...#", "b": ".###.", "c": "##..."}


def draw(path, text, *, height=5, ground=255, ink=0):
    """A line of signs, each two columns wide, a column of ground behind it."""
    columns = [SIGNS[sign] for sign in text for _ in (0, 1)]
    pixels = np.array([[ink if dot == "#" else ground for dot in column] for column in columns])
    wide = np.insert(pixels, range(2, len(pixels) + 1, 2), ground, axis=0).T.astype(np.uint8)
    Image.fromarray(wide).resize((wide.shape[1] * height // 5, height)).save(path)
    return wide


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Forty lines in a table, and the table."""
    root = tmp_path_factory.mktemp("lines")
    rng = np.random.default_rng(1)
    rows = ["image\tsays"]
    for number in range(40):
        text = "".join(rng.choice(list(SIGNS), rng.integers(1, 5)))
        draw(root / f"{number}.png", text)
        rows.append(f"{number}.png\t{text}")
    table = root / "lines.tsv"
    table.write_text("\n".join(rows) + "\n")
    return table


@pytest.fixture(scope="module")
def reader(lines, tmp_path_factory):
    """A model of these lines that has hardly learned."""
    from seqtool.cli import main

    out = tmp_path_factory.mktemp("model") / "m"
    argv = ("train", lines, "-o", out, "--steps", 6, "--hidden-size", 8, "-q", "--seed", 3)
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    assert not stop.value.code
    load_translator(out).translate([str(lines.parent / "0.png")], Wishes())  # compiles now
    return out


@pytest.mark.parametrize(
    "damage", [{"height": 0}, {"channels": 2}, {"deviation": 0.0}, {"mean": None}, {"height": 2.5}]
)
def test_a_damaged_scanner_is_one_line(damage):
    saved = Scanner(5, 1, 0.0, 1.0).as_dict()
    assert Scanner.of({"scanner": saved}, "m") == Scanner(5, 1, 0.0, 1.0)
    for wrong in (saved | damage, {**saved, "more": 1}, {}, []):
        with pytest.raises(SeqtoolError, match=r"^m: scanner"):
            Scanner.of({"scanner": wrong}, "m")


def test_a_step_is_a_column_from_the_left(tmp_path):
    pixels = draw(tmp_path / "a.png", "abc")
    found = Scanner(5, 1, 0.0, 1.0).columns(tmp_path / "a.png")
    assert np.array_equal(found, pixels.T)


def test_widths_follow_the_height_and_colours_stand_side_by_side(tmp_path):
    Image.new("RGB", (90, 60), (1, 2, 3)).save(tmp_path / "c.png")
    found = Scanner(20, 3, 0.0, 1.0).columns(tmp_path / "c.png")
    assert found.shape == (30, 60)
    assert np.array_equal(found[0].reshape(20, 3)[4], [1, 2, 3])


def test_columns_are_of_mean_zero_and_variance_one(tmp_path):
    paths = []
    for number, text in enumerate(["ab", "c", "bba"]):
        paths.append(tmp_path / f"{number}.png")
        draw(paths[-1], text, ground=230)
    scans = scan(paths, 5, 1)
    scanner = measure(scans, 5, 1)
    found = scans.frames(np.arange(len(scans.columns)), scanner)
    assert not found[0].any()  # the column that ends a picture
    assert_allclose([found[1:].mean(), found[1:].std()], [0, 1], atol=1e-5)
    assert scans.texts.lengths.tolist() == [6, 3, 9]


def test_pictures_that_cannot_be_read_are_named_or_left_out(tmp_path):
    draw(tmp_path / "0.png", "ab")
    (tmp_path / "1.png").write_text("no picture")
    paths = beside(str(tmp_path / "t.tsv"), ["0.png", "1.png", "2.png"])
    with pytest.raises(DataError, match=r"row 1: .*1\.png: not an image.*--skip-bad"):
        survey(paths, lambda n: f"row {n}", skip_bad=False)
    assert survey(paths, str, skip_bad=True) == ([0], Counter({5: 1}), False)
    with pytest.raises(DataError, match=r"row 0: .*2\.png: no such image"):
        survey(paths[2:], lambda n: f"row {n}", skip_bad=True)


def test_the_commonest_height_is_kept_if_it_is_not_too_tall():
    assert choose_height(Counter({12: 3, 20: 3, 30: 1})) == 20
    assert choose_height(Counter({300: 1})) == 32


def test_a_table_of_pictures_is_known_by_its_cells():
    rows = [["x/1.png", "some words"], ["x/2.PNG", "more"]]
    assert looks_like_pairs(("file", "line"), rows)
    assert choose_sides(("kept", "file"), [row[::-1] for row in rows], "t").texts == (
        "file",
        "kept",
    )
    assert looks_like_header([["file", "line"], *rows], [])
    assert not looks_like_header(rows, [])
    assert not are_names([])


def make(seed=3, **options):
    """A reader of pictures with weights that matter, and its twin without torch."""
    config = TranslatorConfig(**({"embed_size": E, "hidden_size": H, "tying": "target"} | options))
    torch.manual_seed(seed)
    model = EncoderDecoder(config, D, V, pictures=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    shapes = {name: value.shape for name, value in weights.items()}
    assert shapes == weight_shapes(config, D, V, pictures=True)
    return model, Translator(config, weights)


def draw_pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rng.integers(1, 9), D)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("options", [{}, {"reverse_source": True}, {"attention": "none"}])
def test_without_torch_the_logits_are_the_models(options):
    model, translator = make(**options)
    pictures = draw_pictures(5)
    reading = translator.read(pictures)
    state, tokens = reading.state, np.array([0, 3, 7, 2])
    mine = []
    for token in tokens:
        logits, state = reading.step(np.full(5, token), state)
        mine.append(logits)
    for row, picture in enumerate(pictures):
        turned = picture[::-1].copy() if model.config.reverse_source else picture
        frames = torch.from_numpy(np.concatenate([turned, np.zeros((1, D), np.float32)]))[None]
        with torch.no_grad():
            theirs, memory = model.encode(frames, torch.tensor([frames.shape[1]]))
            for token, logits in zip(tokens, mine, strict=True):
                found, theirs, _ = model.step(torch.tensor([token]), theirs, memory)
                assert_allclose(logits[row], found[0].numpy(), rtol=1e-4, atol=2e-5)


def test_a_picture_is_read_alike_whatever_stands_beside_it():
    _, translator = make()
    pictures = draw_pictures(9)
    beam, most = BeamConfig(beam_size=3), [6] * 9
    together = translator.translate(pictures, beam, most)
    drawn = translator.sample(pictures, DecodeConfig(), most, beam=BeamConfig())
    for row, picture in enumerate(pictures):
        ((alone,),) = translator.translate([picture], beam, [6])
        assert np.array_equal(alone.log_probs, together[row][0].log_probs)
        ((once,),) = translator.sample([picture], DecodeConfig(), [6], beam=BeamConfig())
        assert np.array_equal(once.ids, drawn[row][0].ids)


def test_a_picture_is_worth_its_text_in_a_pipe(run, lines, reader):
    names = [str(lines.parent / f"{number}.png") for number in (4, 1, 9)]
    code, out, err = run("translate", reader, stdin="\n".join([names[0], "", *names[1:]]) + "\n")
    assert (code, err) == (0, "")
    found = out.split("\n")
    translator = load_translator(reader)
    expected = [said[0].text for said in translator.translate(names, Wishes())]
    assert found == [expected[0], "", *expected[1:], ""]
    assert run("translate", reader, names[1])[1] == expected[1] + "\n"


def test_names_in_a_file_are_seen_from_its_folder(run, lines, reader):
    code, out, _ = run("translate", reader, lines)
    assert code == 0
    rows = [row.split("\t") for row in out.splitlines()]
    assert rows[0] == ["image", "says", "translation"]
    assert [row[0] for row in rows[1:]] == [f"{number}.png" for number in range(40)]
    (lines.parent / "some.txt").write_text("7.png\n")
    assert run("translate", reader, lines.parent / "some.txt")[1] == rows[8][2] + "\n"


def test_pictures_before_a_broken_one_are_answered(run, lines, reader, tmp_path):
    (tmp_path / "bad.png").write_text("")
    names = [str(lines.parent / "3.png"), str(tmp_path / "bad.png"), str(lines.parent / "4.png")]
    code, out, err = run("translate", reader, stdin="\n".join(names) + "\n")
    assert (code, out.count("\n")) == (1, 1)
    assert f"line 2: {names[1]}: not an image" in error_line(err)


def test_what_pictures_cannot_have_is_refused(run, lines, reader, tmp_path):
    code, _, err = run("translate", reader, lines.parent)
    assert (code, "name one image" in error_line(err)) == (2, True)
    code, _, err = run("translate", reader, "--replace-unknown", lines.parent / "1.png")
    assert (code, "this model reads images" in error_line(err)) == (2, True)
    code, _, err = run("train", lines, "-o", tmp_path / "m", "--joint", "-q")
    assert (code, "images have no vocabulary" in error_line(err)) == (2, True)


def test_what_a_reader_says_is_scored_and_drawn(run, lines, reader):
    code, out, _ = run("evaluate", reader, lines, "--json")
    report = json.loads(out)
    assert (code, report["sources"], report["baselines"]) == (0, 40, {})
    name = str(lines.parent / "5.png")
    _, out, _ = run("translate", reader, name, "--json")
    said = json.loads(out)
    assert len(said["alignment"]) == len(said["tokens"])
    code, out, _ = run("inspect", reader, lines, "--json", "--length", 20)
    assert code == 0
    assert {len(look["source"]) for look in json.loads(out)["attention"]} <= {*range(1, 31)}


def test_a_drawing_adds_neighbouring_columns_up():
    weights = np.random.default_rng(2).random((2, 70)).astype(np.float32)
    look = Alignment([*map(str, range(70))], ["a", "b"], [weights])
    drawn = look.in_strips(30)
    assert (drawn.weights.shape, drawn.source[:3]) == ((2, 30), ["0", "2", "4"])
    assert_allclose(drawn.weights.sum(axis=1), weights.sum(axis=1), rtol=1e-5)
    assert_allclose(drawn.weights[:, 0], weights[:, :2].sum(axis=1), rtol=1e-5)
    assert look.in_strips(70).source == look.source


def test_a_card_that_does_not_fit_its_vocabulary_is_refused(reader, monkeypatch):
    saved = load(reader, "translate")
    del saved.card.source["scanner"]
    monkeypatch.setattr("seqtool.translation.load", lambda *_: saved)
    with pytest.raises(CheckpointError, match="do not agree whether sources are images"):
        load_translator(reader)


def test_lines_are_learned_to_be_read(run, lines, tmp_path):
    options = ("--steps", 260, "--hidden-size", 24, "--batch-size", 300, "--dropout", 0, "-q")
    code, _, err = run("train", lines, "-o", tmp_path / "m", "--valid", lines, *options)
    assert code == 0, err
    assert load(tmp_path / "m").card.extra["best"]["valid_exact"] > 0.9


def test_a_run_on_pictures_taken_up_again_equals_the_unbroken_one(run, lines, tmp_path):
    argv = ("train", lines, "--steps", 8, "--hidden-size", 8, "-q", "-o")
    assert run(*argv, tmp_path / "whole")[0] == 0
    with interrupted_at(5):
        assert run(*argv, tmp_path / "m")[0] == 130
    assert load_last(tmp_path / "m")[1]["now"]["step"] < 8
    assert run(*argv, tmp_path / "m", "--resume")[0] == 0
    one, two = (load_last(tmp_path / name)[0] for name in ("whole", "m"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)


def test_two_files_of_names_and_texts_are_the_same_as_a_table(run, lines, tmp_path, monkeypatch):
    rows = [row.split("\t") for row in lines.read_text().splitlines()[1:]]
    (tmp_path / "says.txt").write_text("".join(f"{text}\n" for _, text in rows))
    (lines.parent / "names.txt").write_text("".join(f"{name}\n" for name, _ in rows))
    monkeypatch.chdir(tmp_path)
    sources = ("--source", lines.parent / "names.txt", "--target", "says.txt")
    found = []
    for data in ((lines,), sources):
        argv = ("train", *data, "--steps", 2, "--hidden-size", 8, "-q", "-o", f"m{len(data)}")
        code, _, err = run(*argv)
        assert (code, err) == (0, "")
        found.append(load(tmp_path / f"m{len(data)}").weights)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.slow
def test_every_promise_holds_of_a_model_that_reads(run, reader):
    code, shown, err = run("selftest", reader, "-q", "--json")
    assert (code, err) == (0, ""), shown
    promises = json.loads(shown)["promises"]
    assert promises["padding"]
    assert all(promises.values())
