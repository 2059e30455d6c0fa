"""A self-contained page without network: sections, tables and plots, for eyes and ears.

Plots are SVG made by matplotlib (figures): text stays text, they take the page's colours, and they
print. A plotting library in the page would add from 50 kB to 4 MB and draw on canvases that a
screen reader cannot see.
"""

import html
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from seqtool.errors import SeqtoolError
from seqtool.figures import Draw, svg
from seqtool.files import write_whole


def write_page(page: str, path: Path) -> None:
    """Write a page.

    Raises:
        SeqtoolError: If it cannot be written.
    """
    try:
        write_whole(path, page.encode("utf-8", "replace"))
    except OSError as err:
        raise SeqtoolError(
            f"--html {path}: cannot be written ({err.strerror}); choose another place"
        ) from err


def page(
    title: str, head: str, sections: Sequence[tuple[str, str, str]], foot: str = "", data: str = ""
) -> str:
    """A page as text.

    Args:
        title: Heading, as plain text.
        head: HTML below it.
        sections: Name, title and HTML of each part; one without HTML is left out.
        foot: HTML below them.
        data: Elements that page.js reads; without them it is not in the page.
    """
    kept = [section for section in sections if section[2]]
    links = " ".join(f'<a href="#{name}">{escaped(title)}</a>' for name, title, _ in kept)
    body = "\n".join(
        f'<section id="{name}"><h2>{escaped(title)}</h2>{inside}</section>'
        for name, title, inside in kept
    )
    script = f"{data}\n<script>{asset('page.js')}</script>\n" if data else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escaped(f"{title}, seen by seqtool")}</title>
<style>{asset("page.css")}</style>
</head>
<body>
<header>
<h1>{escaped(title)}</h1>
{head}
<nav aria-label="Parts of this page">{links}</nav>
</header>
<main>
{body}
{foot}
</main>
{script}</body>
</html>
"""


def escaped(value: object) -> str:
    """For HTML, with what it forbids shown as the sign for it."""
    shown = "".join(chr(0x2400 + ord(c)) if c < " " and c not in "\t\n" else c for c in str(value))
    return html.escape(shown)


def soft(text: str) -> str:
    """A paragraph that explains."""
    return f'<p class="soft">{escaped(text)}</p>'


def asset(name: str) -> str:
    """A file of the package that goes into pages."""
    return files("seqtool").joinpath(name).read_text(encoding="utf-8")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under heads; wide ones can be moved."""
    head = "".join(f'<th scope="col">{escaped(cell)}</th>' for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{inside}</table></div>'


def details(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that opens when it is asked for."""
    return f"<details><summary>as a table</summary>{table(heads, rows)}</details>"


def plot(draw: Draw, name: str, caption: str) -> str:
    """A picture, with what it shows in words.

    Args:
        draw: What draws it.
        name: No two plots of a page may share one.
        caption: The words.
    """
    picture = svg(draw, name).replace("<svg", f'<svg role="img" aria-label="{escaped(caption)}"', 1)
    return f"<figure>{picture}<figcaption>{escaped(caption)}</figcaption></figure>"
