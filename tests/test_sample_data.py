"""The sample data are what their README says, and their scripts make them."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from seqtool.audit import audit
from seqtool.bitext import check_pairs
from seqtool.pairs import guess_pairs, read_pairs
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


def test_pairs_are_different_sound_and_varied():
    pairs = read_pairs(str(FOLDER / "pairs.tsv"))
    assert pairs.columns.texts == ("english", "german")
    assert len(set(pairs.sources)) == len(pairs) == 2400
    assert check_pairs(pairs) == ()
    assert guess_pairs(str(FOLDER / "pairs.tsv"))
    words = Counter(word for text in pairs.targets for word in text.rstrip(".?").split())
    assert len(words) > 500
    assert sum(n for n in words.values() if n == 1) < 0.02 * words.total()


@pytest.mark.parametrize(
    ("english", "german"),
    [
        # The dative, then the accusative.
        (r"(give|send|show)s? the (man|friend|boy) ", r" dem (Mann|Freund|Jungen) "),
        (r" eats? the (apple|cake)\b", r" den (Apfel|Kuchen)\b"),
        (r"^Because .* (sleeps|sleep),", r"^Weil .* (schläft|schlafen), "),  # the verb at the end
        (r" calls? (the|a) \w+\.", r" (ruft|rufen|rufe) .* an\.| anru(ft|fen|fe)\.| anzurufen\."),
        (r" arrived\.", r" angekommen\."),
        (r"does not \w+ an? ", r" keine?[nmr]? "),
        (r" to open ", r" auf(zu)?machen\."),
    ],
)
def test_pairs_follow_the_grammar_of_german(english, german):
    pairs = read_pairs(str(FOLDER / "pairs.tsv"))
    both = zip(pairs.sources, pairs.targets, strict=True)
    found = [target for source, target in both if re.search(english, source)]
    assert len(found) >= 2
    assert [target for target in found if not re.search(german, target)] == []


@pytest.mark.parametrize("name", ["reviews.csv", "tagged.conllu", "pairs.tsv"])
def test_scripts_write_what_is_there(name):
    script = FOLDER / f"make_{name.split('.')[0]}.py"
    made = subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout
    assert made == (FOLDER / name).read_bytes()


def test_samples_stay_small():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) < 800_000
    pictures = [path.stat().st_size for path in FOLDER.glob("shapes/*/*.png")]
    assert len(pictures) == 300
    assert sum(pictures) < 200_000
