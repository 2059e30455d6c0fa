"""Draws the README's first picture: the page of ``inspect``, light and dark, in Chromium.

    seqtool train sample_data --steps 500 --hidden-size 192 --eval-every 50 -o runs/harbour
    seqtool inspect runs/harbour sample_data/play.txt --start 1500 --length 1400 \
        --html harbour.html
    python -m tests.bench.inside harbour.html unit-122 tests/bench/inside

The second argument names what the text is marked by, as the page's address does.
"""

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from .browser import chromium

WIDTH = 1000
COLOURS = 96  # of a picture: enough for smooth letters, and a third of the size
# The text and the gradient flow are enough for a first look.
SHORTENED = """
    #gates, #units, #memory, #training, #model, nav, details, main > p, #reading, .panel + p,
    figcaption { display: none; }
    .text { max-height: 17.5rem; }
    body { padding-bottom: 1rem; }
"""


def draw(page: Path, mark: str, out: str) -> None:
    """Write ``out``-light.png and ``out``-dark.png."""
    with TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        for name in ("light", "dark"):
            browser.look(dark=name == "dark", width=WIDTH)
            browser.open(f"{page.resolve().as_uri()}#mark={mark}")
            browser.until("document.documentElement.dataset.ready === 'yes'")
            browser.run(
                f"document.head.append(Object.assign(document.createElement('style'), "
                f"{{textContent: `{SHORTENED}`}}))"
            )
            browser.run("scrollTo(0, 0)")
            height = browser.run("document.body.getBoundingClientRect().height")
            shot = Image.open(io.BytesIO(browser.picture(clip=(0, 0, WIDTH, height))))
            small = shot.convert("RGB").quantize(COLOURS)
            small.save(f"{out}-{name}.png", optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
