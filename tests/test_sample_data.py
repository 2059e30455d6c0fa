"""The sample data are what their README says, and their scripts make them."""

import subprocess
import sys
from pathlib import Path

import pytest

from seqtool.audit import audit
from seqtool.tables import read_table
from seqtool.text import open_text

FOLDER = Path(__file__).parent.parent / "sample_data"


def test_training_on_the_folder_reads_its_texts_only():
    names = [path.name for path in open_text(str(FOLDER), encoding="utf-8").paths]
    assert names == ["harbour.txt", "play.txt", "verses.txt"]


def test_reviews_are_balanced_and_without_copies():
    table = read_table(str(FOLDER / "reviews.csv"))
    assert table.columns.reason == (
        'text from "review" (by its name), label from "sentiment" (by its name)'
    )
    found = audit(table)
    assert found.classes == {"bad": 330, "good": 330}
    assert found.findings == ()
    about = audit(read_table(str(FOLDER / "reviews.csv"), label_column="about"))
    assert len(about.classes) == 11
    assert about.findings == ()


@pytest.mark.parametrize("name", ["reviews.csv", "tagged.conllu"])
def test_scripts_write_what_is_there(name):
    script = FOLDER / f"make_{name.split('.')[0]}.py"
    made = subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout
    assert made == (FOLDER / name).read_bytes()


def test_samples_stay_small():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) < 600_000
    pictures = [path.stat().st_size for path in FOLDER.glob("shapes/*/*.png")]
    assert len(pictures) == 300
    assert sum(pictures) < 200_000
