"""The page of ``cure``: the ranking of remedies, and the course of each."""

from collections.abc import Sequence
from pathlib import Path

from seqtool.figures import races
from seqtool.page import escaped, page, plot, soft, table, write_page
from seqtool.remedies import Outcome

COLOURS_ARE = "Colours and dashes are those of the first plot."


def write_race(
    title: str,
    ranking: tuple[Sequence[str], Sequence[Sequence[str]]],
    facts: Sequence[str],
    commands: Sequence[tuple[str, str]],
    outcomes: Sequence[Outcome],
    path: Path,
) -> None:
    """Write the page.

    Args:
        title: What was tried on what.
        ranking: Heads and rows of the table of outcomes, the best first.
        facts: Sentences that belong to it.
        commands: What each command is for, and the command.
        outcomes: What each remedy achieved, the best first.
        path: Where to.

    Raises:
        SeqtoolError: If it cannot be written.
    """
    best = f"{outcomes[0].remedy.name} is best, with a loss of {outcomes[0].loss:.4f}."
    typed = "".join(
        f"<dt>{escaped(what)}</dt><dd><code>{escaped(command)}</code></dd>"
        for what, command in commands
    )
    made = [
        plot(draw, f"race{number}", f"{name}. {COLOURS_ARE}" if number else f"{name}.")
        for number, (name, draw) in enumerate(races(outcomes).items())
    ]
    sections = [
        ("ranking", "Ranking", table(*ranking) + "".join(map(soft, facts))),
        ("course", "Course", "".join(made)),
        ("commands", "Commands", f"<dl>{typed}</dl>"),
    ]
    write_page(page(title, f'<p class="lead">{escaped(best)}</p>', sections), path)
