"""The page and the pictures: self-contained, small, and saying what was measured."""

import base64
import itertools
import json
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from conftest import Run, error_line
from matplotlib.figure import Figure

from seqtool.config import ModelConfig
from seqtool.figures import DPI, SIZE, draw_units, save_plots
from seqtool.findings import VIEWS, Findings
from seqtool.looking import look_language
from seqtool.models import LanguageModel
from seqtool.neurons import Match, Ranking
from seqtool.report import make_page
from seqtool.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLOSED = {"script", "style", "table", "section", "figure", "select", "div", "details"}


class Page(HTMLParser):
    """What a page holds, by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.contents: dict[str, str] = {}
        self.open: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes.append(dict(attrs) | {"tag": tag})
        self.open.append((tag, dict(attrs).get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, name in self.open:
            if name:
                self.contents[name] = self.contents.get(name, "") + data


def make_summary(**changes: object) -> Summary:
    flow = {
        "verdict": "healthy",
        "evidence": "",
        "advice": "",
        "lags": [0, 1, 2],
        "gradient": [[1.0, 0.5, 0.0], [1.0, 0.1, 0.01]],
    }
    values: dict[str, object] = {
        "name": "runs/<b>",
        "task": "generate",
        "network": "LSTM, 2 layers of 6 units",
        "parameters": {"recurrent layers": 10},
        "shapes": {},
        "source": {"name": "text.txt"},
        "settings": {},
        "origins": {},
        "scores": {},
        "train_curve": ((1, 3.0), (2, 2.0)),
        "valid_curve": ((2, 2.5),),
        "flow": ({**flow, "step": 1}, {**flow, "step": 2}),
        "events": {},
        "receipt": {},
        "broken": "",
    }
    return Summary(**(values | changes))  # type: ignore[arg-type]


SPELL = ["", *' <a\nB.c(d"e)']  # of the 12 tokens


def make_findings(hidden: int = 6, tokens: int = 41) -> Findings:
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=hidden, embed_size=4, num_layers=2, ngram_order=1)
    model = LanguageModel(config, 12)
    rng = np.random.default_rng(0)
    text = rng.integers(1, 12, tokens + 301)
    views = frozenset(VIEWS["generate"])
    return look_language(model, text, slice(0, tokens + 1), views, spell=SPELL, window=12)


@pytest.fixture(scope="module")
def found() -> Findings:
    return make_findings()


@pytest.fixture(scope="module")
def page(found: Findings) -> str:
    return make_page(make_summary(), found, SPELL)


def test_nothing_comes_from_elsewhere(page: str) -> None:
    parsed = Page(page)
    for attributes in parsed.attributes:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;")), attributes
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_page_is_whole_and_escapes_what_it_quotes(page: str) -> None:
    parsed = Page(page)
    for tag in CLOSED:
        assert page.count(f"</{tag}>") == parsed.opened.count(tag), tag
    assert "<b>" not in page
    assert "runs/&lt;b&gt;" in page


def test_every_part_has_a_name_for_a_screen_reader(page: str) -> None:
    parsed = Page(page)
    by_tag: dict[str, list[dict[str, str | None]]] = {}
    for attributes in parsed.attributes:
        by_tag.setdefault(str(attributes["tag"]), []).append(attributes)
    assert all(svg["aria-label"] for svg in by_tag["svg"])
    labelled = {label["for"] for label in by_tag["label"]}
    assert {control["id"] for control in by_tag["select"] + by_tag["input"]} == labelled
    assert all(button["aria-label"] for button in by_tag["button"])
    assert any(a.get("aria-live") == "polite" for a in parsed.attributes)
    assert by_tag["html"][0]["lang"] == "en"


def test_ids_are_unique(page: str) -> None:
    ids = [a["id"] for a in Page(page).attributes if a.get("id")]
    assert len(ids) == len(set(ids))


def test_the_text_is_there_token_by_token(page: str, found: Findings) -> None:
    assert Page(page).contents["text"] == "".join(found.pieces)
    ends = sum(piece.startswith("\n") for piece in found.pieces)
    assert page.count('<span class="end">') == ends > 0
    assert page.count("<span>") == len(found.pieces) - ends


def test_peaks_are_the_highest_places_and_lie_apart(page: str, found: Findings) -> None:
    data = json.loads(Page(page).contents["data"])
    assert found.activations is not None
    units = np.concatenate([values.T for values in found.activations])
    assert len(data["peaks"]) == len(units)
    for values, peaks in zip(units, data["peaks"], strict=True):
        assert peaks[0] == values.argmax()
        assert np.diff(sorted(peaks)).min(initial=99) > 8
        near = {place for peak in peaks for place in range(peak - 8, peak + 9)}
        others = [value for place, value in enumerate(values) if place not in near]
        if len(peaks) == 4:
            assert max(others, default=-9) <= values[peaks[-1]]
    (series,) = [each for each in data["panels"][0]["series"] if each["name"] == "surprisal"]
    assert series["peaks"][0] == np.argmax(series["values"])


def test_activations_can_be_unpacked(page: str, found: Findings) -> None:
    contents = Page(page).contents
    packed = zlib.decompress(base64.b64decode(contents["activations"]))
    data = json.loads(contents["data"])
    assert found.activations is not None
    tokens = data["panels"][0]["tokens"]
    values = np.concatenate([part.T for part in found.activations])
    wide = -(-tokens // 2)
    assert len(packed) == len(values) * wide
    assert len(data["units"]) == len(values)
    for unit in (0, 7):
        row = np.frombuffer(packed, np.uint8)[unit * wide : (unit + 1) * wide]
        levels = np.stack([row & 15, row >> 4], axis=1).ravel()[:tokens]
        low, high = values[unit].min(), values[unit].max()
        assert np.abs(levels / 15 - (values[unit] - low) / (high - low)).max() <= 0.5 / 15 + 1e-6


def test_the_slider_has_a_curve_for_each_layer_and_evaluation(page: str) -> None:
    for evaluation in (0, 1):
        for layer in (0, 1):
            assert f'id="flow-{evaluation}-{layer}"' in page
    assert json.loads(Page(page).contents["data"])["history"] == [
        "step 1: healthy",
        "step 2: healthy",
    ]


def test_plots_are_svg_in_the_pages_colours(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 4
    for picture in pictures:
        ET.fromstring(picture)
        assert "currentColor" in picture
        assert "#010203" not in picture


def test_two_layers_of_512_over_2000_characters_stay_below_two_megabytes() -> None:
    found = make_findings(tokens=40)
    rng = np.random.default_rng(0)
    noise = tuple(rng.normal(size=(2000, 512)).astype(np.float32) for _ in range(2))
    big = Findings(
        pieces=["x"] * 2000,
        layers=found.layers,
        flow=found.flow,
        gates=found.gates,
        activations=noise,
        ranking=found.ranking,
        horizon=found.horizon,
        surprises=((found.surprises or []) * 50)[:2000],
    )
    assert len(make_page(make_summary(), big, SPELL).encode()) < 2_000_000


def test_inspect_writes_page_and_picture(
    run: Run, model: Path, text_file: Path, tmp_path: Path
) -> None:
    html, png = tmp_path / "page.html", tmp_path / "plots.png"
    code, out, _ = run("inspect", model, text_file, "-l", 100, "--html", html, "--png", png)
    assert code == 0
    assert out.split() == [str(html), str(png)]
    assert html.read_text("utf-8").startswith("<!DOCTYPE html>")
    blob = png.read_bytes()
    assert blob.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", blob[16:24])
    assert height > width > 500


def test_long_names_at_one_plot_do_not_squeeze_another(tmp_path: Path) -> None:
    drawn: list[Axes] = []

    def wordy(axes: "Axes") -> None:
        axes.barh(range(2), [1, 2])
        axes.set_yticks(range(2), ["a name that is long: layer 1 (onward)", "b"])
        drawn.append(axes)

    def named(axes: "Axes") -> None:
        for name in ("mixed with counts, as the model is used", "the network all by itself"):
            axes.plot([0, 1], [0, 1], label=name)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=1)
        drawn.append(axes)

    title = "Belief, /a/long/way/down/to/a/file/with/a/name/that/never/ends.csv:17"
    save_plots({title: wordy, "Memory": named}, tmp_path / "plots.png")
    for axes in drawn:
        whole, figure = axes.get_tightbbox(), axes.get_figure(root=True)
        assert whole is not None
        assert figure is not None
        assert whole.x0 >= -1  # a pixel
        assert whole.x1 <= figure.bbox.width + 1
    figure = drawn[1].get_figure(root=True)
    assert figure is not None
    assert drawn[1].get_window_extent().width > 0.8 * figure.bbox.width


def test_a_page_that_cannot_be_written(run: Run, model: Path, text_file: Path) -> None:
    for option in ("--html", "--png"):
        argv = ("inspect", model, text_file, "-l", 20, option, "/dev/null/x", "-q")
        code, out, err = run(*argv)
        assert (code, out) == (1, "")
        assert "/dev/null/x" in error_line(err)


def test_a_place_for_no_file_is_seen_before_the_work(
    run: Run, model: Path, text_file: Path, tmp_path: Path
) -> None:
    for place in (tmp_path, tmp_path / "no" / "x"):
        for argv in (
            ("inspect", model, text_file, "--png", place),
            ("inspect", model, text_file, "--html", place),
            ("cure", "--png", place),  # of ten minutes
        ):
            code, out, err = run(*argv)
            assert (code, out) == (1, "")
            assert f"{argv[-2]} {place}: cannot be written" in error_line(err)


def test_cure_writes_a_picture_and_a_page(run: Run, tmp_path: Path) -> None:
    png, html = tmp_path / "race.png", tmp_path / "race.html"
    options = ("--length", 4, "--steps", 3, "--hidden-size", 4, "--batch-size", 2, "-q")
    code, out, err = run("cure", *options, "--png", png, "--html", html)
    assert code == 0, err
    assert png.read_bytes().startswith(b"\x89PNG")
    page = html.read_text("utf-8")
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert page.count("<svg") == page.count('role="img"') == 3
    json_out = json.loads(run("cure", *options, "--json")[1])
    names = re.findall(r"<tr><td>([^<]+)</td>", page)
    assert names == [entry["remedy"] for entry in json_out["ranking"]]
    assert f"<code>{json_out['command']}</code>" in page
    assert "without memory the loss is 0.16" in page
    assert "<script" not in page
    place = tmp_path / "none" / "race.html"
    code, out, err = run("cure", *options, "--html", place)
    assert (code, out) == (1, "")
    assert f"--html {place}" in error_line(err)


@pytest.mark.parametrize("count", [3, 18, 30])
def test_names_of_features_do_not_touch(count: int) -> None:
    matches = [Match(0, unit, f"label {unit}", "AUC", 0.9, 1) for unit in range(count)]
    found = Findings(pieces=["a"], layers=("layer 1",), ranking=Ranking(matches, matches))
    figure = Figure(figsize=SIZE, layout="constrained", dpi=DPI)
    draw_units(found, figure.add_subplot())
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert len(boxes) == count
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
