"""The page in a real browser: it opens from a file, answers to mouse and keys, and does no harm."""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench.browser import Browser, chromium, find_chromium
from test_report import SPELL, make_findings, make_summary

from seqtool.findings import Attended, Belief, Findings, Labelled
from seqtool.neurons import Match, Ranking
from seqtool.report import make_page
from seqtool.summary import Summary

HOSTILE = (
    *("</script><script>window.hit=1</script>", "<img src=x onerror=window.hit=1>", "\x00\x07\x1b"),
    *("'\"><svg onload=window.hit=1>", "\u2028\u202e", "<!--", "&lt;", "\ud800", "]]>", "${1}"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        if os.environ.get("NEEDS_CHROMIUM"):
            pytest.fail("Chromium is not installed")
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def found() -> Findings:
    return make_findings()


def show(browser: Browser, page: str, path: Path, mark: str = "") -> None:
    """Open a page from a file and see that nothing is wrong with it."""
    file = path / "page.html"
    file.write_bytes(page.encode("utf-8", "replace"))
    browser.open(file.as_uri() + (f"#mark={mark}" if mark else ""))
    browser.until("document.documentElement.dataset.ready === 'yes'")
    assert browser.complaints == []


def levels(browser: Browser, text: str = "text") -> list[float]:
    """How high the bar under each token is."""
    script = f"""[...document.querySelectorAll("#{text} span")].map(
        span => Number(getComputedStyle(span).getPropertyValue("--h")))"""
    made: list[float] = browser.run(script)
    return made


def colours(browser: Browser) -> list[str]:
    script = """[...document.querySelectorAll("#text span")].map(
        span => getComputedStyle(span).backgroundColor)"""
    made: list[str] = browser.run(script)
    return made


def choose(browser: Browser, picker: str, value: str) -> None:
    browser.run(f"""{{ const picker = document.getElementById("{picker}");
        picker.value = "{value}"; picker.dispatchEvent(new Event("change")); }}""")


def test_picking_a_unit_recolours_the_text(
    browser: Browser, found: Findings, tmp_path: Path
) -> None:
    show(browser, make_page(make_summary(), found, SPELL), tmp_path, "unit-3")
    assert found.activations is not None
    for unit in (3, 9):
        choose(browser, "unit", f"unit-{unit}")
        values = found.activations[unit // 6][:, unit % 6]
        expected = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(levels(browser), expected, atol=0.5 / 15 + 1e-3)
        before = colours(browser)
    choose(browser, "unit", "series-0")
    assert found.surprises is not None
    bits = np.array([surprise.bits for surprise in found.surprises])
    np.testing.assert_allclose(levels(browser), bits / bits.max(), atol=5e-3)
    assert colours(browser) != before
    assert browser.complaints == []


def test_the_address_names_what_is_marked(
    browser: Browser, found: Findings, tmp_path: Path
) -> None:
    page = make_page(make_summary(), found, SPELL)
    show(browser, page, tmp_path, "unit-9")
    first = levels(browser)
    assert browser.run("document.getElementById('unit').value") == "unit-9"
    browser.run("document.getElementById('after').click()")
    assert browser.run("location.hash") == "#mark=unit-10"
    assert levels(browser) != first


def test_all_of_it_can_be_used_by_keyboard(
    browser: Browser, found: Findings, tmp_path: Path
) -> None:
    show(browser, make_page(make_summary(), found, SPELL), tmp_path)
    seen = []
    for _ in range(40):
        browser.press("Tab")
        name = browser.run("document.activeElement.id || document.activeElement.tagName")
        if name == "BODY":
            break
        seen.append(name)
    assert [name for name in seen if name in ("unit", "before", "after", "text", "when")] == [
        *("unit", "before", "after", "text", "when")
    ]
    # The slider, by arrow.
    browser.run("document.getElementById('when').focus()")
    browser.press("ArrowLeft")
    assert browser.run("document.getElementById('step').textContent") == "step 1: healthy"
    shown = "getComputedStyle(document.getElementById('flow-{}-0')).display"
    assert browser.run(shown.format(0)) != "none"
    assert browser.run(shown.format(1)) == "none"
    # The text, token by token.
    browser.run("document.getElementById('text').focus()")
    browser.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    at = "[...document.querySelectorAll('#text span')].findIndex(s => s.matches('.here'))"
    assert browser.run(at) == 1
    assert "expected here" in browser.run("document.getElementById('reading').textContent")
    # The picker, by its own keys.
    browser.run("document.getElementById('unit').focus()")
    before = levels(browser)
    browser.press("ArrowDown")
    assert levels(browser) != before
    assert browser.complaints == []


def test_a_screen_reader_finds_names(browser: Browser, found: Findings, tmp_path: Path) -> None:
    show(browser, make_page(make_summary(), found, SPELL), tmp_path)
    assert browser.names("combobox") == ["Mark by"]
    assert browser.names("slider") == ["Evaluation"]
    assert browser.names("button") == ["previous", "next"]
    assert all(browser.names("image"))
    assert len(browser.names("image")) == 5
    assert "Gradient through time" in browser.names("heading")


def luminance(colour: str) -> float:
    """Of "rgb(r, g, b)", as WCAG 2.2 defines it."""
    parts = [int(part) / 255 for part in colour.split("(")[1].strip(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_light_and_dark_narrow_and_wide(
    browser: Browser, found: Findings, tmp_path: Path, dark: bool, width: int
) -> None:
    browser.look(dark=dark, width=width)
    show(browser, make_page(make_summary(), found, SPELL), tmp_path)
    assert browser.run("document.documentElement.scrollWidth") <= width
    for place in ("h1", ".soft", "#gates svg text", "th", "summary"):
        property_ = "fill" if "svg" in place else "color"
        found_ = browser.run(f"getComputedStyle(document.querySelector('{place}')).{property_}")
        ground = browser.run("getComputedStyle(document.querySelector('section')).backgroundColor")
        low, high = sorted([luminance(found_), luminance(ground)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (place, found_, ground)
        assert (luminance(ground) < 0.2) == dark
    assert browser.picture().startswith(b"\x89PNG")


def hostile() -> tuple[Summary, Findings]:
    """Findings whose every word comes from someone who means harm."""
    summary = make_summary(
        name=HOSTILE[0], network=HOSTILE[1], source={HOSTILE[3]: HOSTILE[0]}, task=HOSTILE[1]
    )
    found = make_findings(tokens=len(HOSTILE))
    beliefs = [
        Belief(HOSTILE[i], list(HOSTILE), np.full((len(HOSTILE), 2), 0.5), HOSTILE[i])
        for i in (0, 1)
    ]
    match = Match(0, 1, HOSTILE[1], "AUC", 0.9, 1)
    return summary, dataclasses.replace(
        found,
        pieces=list(HOSTILE),
        layers=(HOSTILE[0], HOSTILE[1]),
        ranking=Ranking([match], [match]),
        beliefs=beliefs,
        classes=(HOSTILE[0], HOSTILE[3]),
        notes=list(HOSTILE),
    )


def test_a_hostile_text_stays_text(browser: Browser, tmp_path: Path) -> None:
    summary, found = hostile()
    page = make_page(summary, found, (list(HOSTILE) * 2)[: len(SPELL)])
    show(browser, page, tmp_path)
    picker = "[...document.getElementById('unit').options].map(option => option.value)"
    for value in browser.run(picker):
        choose(browser, "unit", value)
    browser.run("document.getElementById('text').focus()")
    browser.press("Home", *["ArrowRight"] * len(HOSTILE))
    assert browser.run("window.hit") is None
    assert (
        browser.run("document.querySelectorAll('#text img, #text svg, #text script').length") == 0
    )
    shown = browser.run("document.querySelector('#text').textContent")
    assert shown.startswith(HOSTILE[0] + HOSTILE[1] + "\u2400\u2407\u241b")
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE[0]
    assert browser.complaints == []


def test_an_example_is_chosen_and_a_picture_shown(
    browser: Browser, found: Findings, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    beliefs = [
        Belief(
            f"picture {i}",
            [""] * 8,
            rng.dirichlet([1, 1, 1], size=8),
            "b",
            rng.integers(0, 256, (8, 5, channels), np.uint8),
        )
        for i, channels in enumerate((1, 3))
    ]
    shown = Findings(pieces=[""] * 16, beliefs=beliefs, classes=("a", "b", "c"))
    show(browser, make_page(make_summary(), shown, []), tmp_path)
    visible = (
        "[...document.querySelectorAll('.example')].filter(f => f.offsetHeight).map(f => f.id)"
    )
    assert browser.run(visible) == ["example-0"]
    choose(browser, "example", "1")
    assert browser.run(visible) == ["example-1"]
    sizes = "[...document.images].map(image => [image.naturalWidth, image.naturalHeight])"
    assert browser.run(sizes) == [[5, 8], [5, 8]]
    assert browser.complaints == []


def test_attention_follows_the_token_pointed_at(browser: Browser, tmp_path: Path) -> None:
    weights = np.array([[0.9, 0.1, 0.0], [0.0, 0.25, 0.5]], np.float32)
    looks = [
        Attended("line 1", "b B", ["a", "<b>", "c"], ["d", HOSTILE[0]], weights),
        Attended("line 2", "", ["a"], [], np.zeros((0, 1), np.float32)),
    ]
    page = make_page(make_summary(), Findings(pieces=[], attended=looks), [])
    show(browser, page, tmp_path)
    heights = """[...document.querySelectorAll("#example-0 .source span")].map(
        span => Number(span.style.getPropertyValue("--h")))"""
    assert browser.run(heights) == pytest.approx([0.9, 0.1, 0.0])
    browser.run("document.querySelector('#example-0 .target').focus()")
    browser.press("ArrowRight")
    assert browser.run(heights) == pytest.approx([0.0, 0.25, 0.5])
    said = browser.run("document.querySelector('#example-0 .said').textContent")
    assert re.sub("[\u2018\u2019]", "'", said).startswith(
        f"'{HOSTILE[0]}' looks at 'c' 50 %, '<b>' 25 %"
    )
    assert said.endswith("at the end 25 %")
    choose(browser, "example", "1")
    assert browser.run("document.getElementById('example-1').offsetHeight") > 0
    assert browser.run("window.hit") is None
    assert browser.complaints == []


@pytest.mark.parametrize("decoder", [True, False])
def test_both_texts_of_a_translator_are_marked_by_units_of_their_own(
    browser: Browser, tmp_path: Path, decoder: bool
) -> None:
    rng = np.random.default_rng(3)
    source, target = ["a ", "b ", "c\n"], ["d ", "e ", HOSTILE[0], "f ", "g\n"]
    sizes = [(source, 4), (source, 4), (target, 5)][: 2 + decoder]
    units = tuple(rng.normal(size=(len(text), size)) for text, size in sizes)
    looked = Findings(
        pieces=source,
        layers=("encoder onward", "encoder back", "decoder")[: len(sizes)],
        activations=units,
        ranking=Ranking(by_unit=[], by_feature=[Match(len(sizes) - 1, 1, "x", "rho", 0.8, 1)]),
        texts=tuple(text for text, _ in sizes),
    )
    page = make_page(make_summary(), looked, [])
    show(browser, page, tmp_path, "unit-6")
    pickers = ["Mark what is read by", "Mark what is written by"]
    assert browser.names("combobox") == pickers[: 1 + decoder]

    def expected(layer: int, unit: int) -> np.ndarray:
        values = units[layer][:, unit]
        scaled: np.ndarray = (values - values.min()) / (values.max() - values.min())
        return scaled

    bound = 0.5 / 15 + 1e-3
    np.testing.assert_allclose(levels(browser), expected(1, 2), atol=bound)
    if decoder:
        np.testing.assert_allclose(levels(browser, "text-1"), expected(2, 1), atol=bound)
        choose(browser, "unit-1", "unit-11")
        np.testing.assert_allclose(levels(browser, "text-1"), expected(2, 3), atol=bound)
        assert browser.run("location.hash") == "#mark=unit-11"
        browser.run("document.getElementById('text-1').focus()")
        browser.press("Home", "End", "ArrowLeft")
        said = browser.run("document.getElementById('reading-1').textContent")
        assert said.startswith("\u2018f \u2019: unit 3 ")
    np.testing.assert_allclose(levels(browser), expected(1, 2), atol=bound)
    assert browser.run("window.hit") is None
    assert browser.complaints == []


def test_given_labels_stand_beside_those_of_the_model(browser: Browser, tmp_path: Path) -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    sentences = [
        Labelled("line 1", ["see", "it"], ["A", "B"], ["A", "A"], p[:2]),
        Labelled("line 4", ["now"], ["A"], [], p[2:]),
    ]
    looked = Findings(pieces=["see ", "it\n", "now\n"], labelled=sentences, classes=("A", "B"))
    show(browser, make_page(make_summary(), looked, []), tmp_path)
    said = []
    browser.run("document.getElementById('text').focus()")
    for _ in range(3):
        browser.press("ArrowRight")
        said.append(browser.run("document.getElementById('reading').textContent").split("; ")[-1])
    assert said == ["labelled A, truly A", "labelled B, truly A", "labelled A"]
    odd = "[...document.querySelectorAll('#text span')].map(s => s.matches('.odd'))"
    assert browser.run(odd) == [False, True, False]
    cells = "[...document.querySelectorAll('#example-{} td')].map(cell => cell.textContent)"
    assert browser.run(cells.format(0)) == [*("see", "A", "A", "0.90"), *("it", "B", "! A", "0.80")]
    assert browser.run(cells.format(1)) == ["now", "A", "0.70"]
    assert browser.complaints == []
