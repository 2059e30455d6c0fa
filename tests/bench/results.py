"""The results file: one JSON object a line, one line a case; and its lines as tables.

``python -m tests.bench.results`` prints the README's table from the committed file.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .measure import OURS

RESULTS = Path(__file__).with_name("results.jsonl")
LIMIT = "limit: "
README_GROUPS = ("generate", "train")
README_PEERS = ("onnxruntime", "torch.nn", "keras")

Row = Mapping[str, Any]


def load(path: Path) -> dict[str, Row]:
    """The lines of a file by case; none if there is no file."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["case"]: row for row in rows}


def store(path: Path, rows: Iterable[Row]) -> None:
    """Put rows into a file, each in place of the old line of its case, if there is one."""
    merged = load(path) | {row["case"]: row for row in rows}
    lines = [json.dumps(row, ensure_ascii=False) for row in merged.values()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def lines(row: Row) -> list[str]:
    """A case for the terminal: a line for each side, medians with quartiles."""
    if row["group"] == "learn":
        return [row["case"], *_learned(row)]
    found = []
    for side, rate in row["rates"].items():
        words = [f"  {side:26}", f"{number(rate['median']):>10} {row['unit']:10}"]
        words.append(f"({number(rate['q1'])} - {number(rate['q3'])})".ljust(24))
        if ratio := row["ratios"].get(side):
            middle, low, high = (ratio[key] for key in ("median", "q1", "q3"))
            if side.startswith(LIMIT):
                words.append(f"ours reaches {middle:.0%} ({low:.0%} - {high:.0%})")
            else:
                words.append(f"ours is {middle:.2f} x ({low:.2f} - {high:.2f})")
        found.append(" ".join(words).rstrip())
    return [row["case"], *found]


def _learned(row: Row) -> list[str]:
    goals = {row["goal"]: row["seconds_to_goal"], row["target"]: row["seconds_to_target"]}
    found = []
    for name, loss in row["final"].items():
        words = [f"  {name:32} {loss:.3f} nats/char at the end"]
        for goal, seconds in goals.items():
            when = f"{seconds[name]:.1f} s" if seconds[name] is not None else "not reached"
            words.append(f"{goal:.3f}: {when}")
        found.append("; ".join(words))
    return found


def best(row: Row, peer: str) -> str | None:
    """The fastest of a peer's sides (it may have one for each number of threads)."""
    sides = [side for side in row["rates"] if side.split(",")[0] == peer]
    return max(sides, key=lambda side: row["rates"][side]["median"], default=None)


def markdown(rows: Iterable[Row], peers: Iterable[str]) -> list[str]:
    """Cases as a table: our rate, how many times that of each peer at its best, our share.

    Args:
        rows: Of one unit and all with a limit.
        peers: Their names without the number of threads.
    """
    peers = list(peers)
    table = [
        "| | seqtool | "
        + " | ".join(f"times {peer}" for peer in peers)
        + " | share of the limit |",
        "|---|---|" + "---|" * (len(peers) + 1),
    ]
    for row in rows:
        cells = [row["case"], f"{number(row['rates'][OURS]['median'])} {row['unit']}"]
        for peer in peers:
            side = best(row, peer)
            cells.append(_times(row["ratios"][side]) if side else "-")
        limits = [side for side in row["ratios"] if side.startswith(LIMIT)]
        cells.append(_share(row["ratios"][limits[0]], limits[0]) if limits else "-")
        table.append(f"| {' | '.join(cells)} |")
    return table


def _times(ratio: Mapping[str, float]) -> str:
    low, middle, high = (number(ratio[key]) for key in ("q1", "median", "q3"))
    return f"**{middle}** ({low} - {high})"


def _share(ratio: Mapping[str, float], limit: str) -> str:
    return f"{ratio['median']:.0%} of {limit.removeprefix(LIMIT)}"


def readme_table() -> list[str]:
    """The README's table of the committed results, group by group, in order of names."""
    rows = [row for row in load(RESULTS).values() if row["group"] in README_GROUPS]
    return markdown(sorted(rows, key=lambda row: (row["group"], row["case"])), README_PEERS)


if __name__ == "__main__":
    print("\n".join(readme_table()))
