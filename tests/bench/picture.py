"""Draws the README's picture: the live view of a run, replayed from its metrics.jsonl.

python -m tests.bench.picture MODEL tests/bench/training.svg [share of the run, default 0.7]
"""

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console as RichConsole

from seqtool.console import Console
from seqtool.display import TrainingDisplay

WIDTH = 92


def draw(model: Path, share: float) -> str:
    """The view after that share of the run, as SVG without links to fonts elsewhere."""
    lines = (model / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    last = events[-1]["step"] * share
    rich = RichConsole(record=True, file=io.StringIO(), force_terminal=True, width=WIDTH, height=30)
    console = Console(stream=io.StringIO(), terminal=True, size=(WIDTH, 30))
    display = TrainingDisplay(console)
    for event in events:
        if event.get("step", 0) <= last:
            display.show(event)
    rich.print(f"$ seqtool train sample_data --budget 2m -o {model}", highlight=False)
    rich.print(display)
    svg = rich.export_svg(title="seqtool")
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    share = float(sys.argv[3]) if len(sys.argv) > 3 else 0.7
    Path(sys.argv[2]).write_text(draw(Path(sys.argv[1]), share), encoding="utf-8")
