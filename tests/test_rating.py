"""Translators scored: every number by hand, files as a user has them."""

import json
import shutil

import numpy as np
import pytest

from seqtool.bitext import read_split
from seqtool.checkpoint import DICTIONARY, Card, ModelDir
from seqtool.config import PairConfig, TrainConfig, TranslatorConfig
from seqtool.console import Console
from seqtool.dictionary import learn_dictionary
from seqtool.errors import ConfigError, DataError
from seqtool.pairs import read_pairs
from seqtool.rating import RateRequest, compare, describe, judge, rate, set_exam, worst

ROWS = [
    ("the dog sleeps", "der Hund schläft"),
    ("a cat eats", "eine Katze isst"),
    ("a cat eats", "eine Katze frisst"),
    ("it rains", "es regnet"),
    ("Berlin", "Berlin"),
]
ANSWERS = {
    "the dog sleeps": "der Hund schläft",
    "a cat eats": "eine Katze frisst",
    "it rains": "es schneit",
    "Berlin": "Berlin",
}


def write(path, rows, header=""):
    path.write_text(header + "".join(f"{s}\t{t}\n" for s, t in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def exam(tmp_path):
    return set_exam(read_pairs(write(tmp_path / "pairs.tsv", ROWS)))


def translations(exam, answers=None):
    return [(answers or ANSWERS)[source] for source in exam.answers.sources]


def test_rows_and_sources_are_told_apart(exam):
    assert exam.answers.sources == [*ANSWERS]
    assert exam.source_of == [0, 1, 1, 2, 3]
    assert exam.answers.references[1] == ("eine Katze isst", "eine Katze frisst")
    assert exam.rows[2] == ("eine Katze frisst",)


def test_scores_are_those_of_a_hand_count(exam):
    scores = judge(translations(exam), exam, lower=False)["scores"]
    assert scores["exact"] == 3 / 4  # of sources, any right answer
    assert scores["edit_distance"] == 1 / 9  # words of the nearest answers: 3 + 3 + 2 + 1
    assert scores["exact_low"] < 3 / 4 < scores["exact_high"]
    perfect = [exam.answers.references[i][0] for i in range(4)]
    assert judge(perfect, exam, lower=False)["scores"]["exact"] == 1


SOUNDS = [("read", "R IY D"), ("read", "R EH D"), ("cat", "K AE T"), ("ox", "AA K S"), ("a", "AH")]


def test_letters_to_sounds_are_judged_by_word_and_phoneme_error_rate(tmp_path):
    spelled = set_exam(read_pairs(write(tmp_path / "sounds.tsv", SOUNDS)))
    assert spelled.unit == "sound"
    found = ["R EH D", "K AE D S", "AA K S", "EY"]
    scores = judge(found, spelled, lower=False)["scores"]
    assert scores["wer"] == 2 / 4  # the second right answer of "read" is as good as the first
    assert scores["per"] == 3 / 10  # one and two of 3 + 3 + 3 + 1 sounds
    assert scores["wer_low"] <= scores["wer"] <= scores["wer_high"]
    other = ["R IY D", "K AE T", "K S", "AH"]
    gaps = compare(found, other, spelled, lower=False)
    assert gaps["wer"]["value"] == pytest.approx(1 / 4)
    assert gaps["per"]["value"] == pytest.approx(2 / 10)


def test_the_unit_of_edits_is_seen_from_the_data(tmp_path):
    def unit(*rows):
        return set_exam(read_pairs(write(tmp_path / "pairs.tsv", rows))).unit

    assert unit(*ROWS) == "word"
    assert unit(("5 May 1999", "1999-05-05"), ("1.2.03", "2003-02-01")) == "character"
    assert unit(("λάδι", "l a ð i"), ("τσάι", "t͡s a i")) == "sound"
    # Sentences of short words are no sounds.
    assert unit(("I am at it", "ich bin da ja"), ("so do we", "so tun wir")) == "word"


def test_two_models_are_compared_on_the_same_rows(exam):
    other = translations(exam, ANSWERS | {"the dog sleeps": "Hund", "it rains": "es regnet"})
    found = compare(translations(exam), other, exam, lower=False)
    assert found.keys() == {"bleu", "chrf", "exact", "edit_distance"}
    assert found["exact"]["value"] == 0
    same = compare(translations(exam), translations(exam), exam, lower=False)
    assert {gap["p"] for gap in same.values()} == {1}
    mine, theirs = (judge(x, exam, lower=False)["scores"] for x in (translations(exam), other))
    for name in found:
        assert found[name]["value"] == pytest.approx(mine[name] - theirs[name])


def test_what_goes_wrong_as_a_whole_is_counted(exam):
    found = describe(["der der der", "a cat eats", "", "Berlin"], exam)
    assert found["copied"] == 0.5
    assert found["copied_right"] == 0.25
    assert found["empty"] == 0.25
    assert found["repeating"] == 0.25
    assert found["ratio"] == pytest.approx((11 + 10 + 0 + 6) / (16 + 15 + 9 + 6))


def test_the_worst_come_first_and_right_ones_not_at_all(exam, tmp_path):
    pairs = read_pairs(str(tmp_path / "pairs.tsv"))
    found = worst(["Hund", "eine Katze frisst", "es schneit", "Berlin"], exam, pairs)
    assert [mistake["source"] for mistake in found] == ["the dog sleeps", "it rains"]
    assert found[0]["row"].endswith("pairs.tsv:1")
    assert found[1]["edits"] == 0.5


@pytest.fixture
def trained(tmp_path):
    """A model directory of a translator, with pairs to learn from, without a network."""
    rows = [(f"the dog sees {n} cats", f"der Hund sieht {n} Katzen") for n in range(60)]
    data = write(tmp_path / "train.tsv", rows, "en\tde\n")
    split = read_split(data, None, None, None, PairConfig(), 1)
    card = Card(
        task="translate",
        model=TranslatorConfig(),
        data=PairConfig(),
        train=TrainConfig(seed=1),
        vocab_size=9,
        source=split.source,
    )
    place = ModelDir.create(tmp_path / "model")
    weights = {"w": np.zeros(1, np.float32)}
    place.begin(card, "{}", weights, {DICTIONARY: learn_dictionary(split.train).arrays()})
    return tmp_path


@pytest.fixture
def run(trained, capsys):
    """Score a translator on a file: the report."""

    def scored(data, **options):
        assert score(trained, data, **options) == 0
        said = capsys.readouterr().out
        return json.loads(said) if options.get("json", True) else said

    return scored


def score(trained, data, **options):
    """Score a translator that knows four words; another one writes m for n."""
    values = {
        **{"target": None, "held_out": False, "baselines": True, "lower": False},
        **{"compare": None, "encoding": None, "json": True},
    } | options
    request = RateRequest(model=trained / "model", data=str(data), **values)

    def open_translator(path):
        table = str.maketrans({}) if path == request.model else {ord("n"): "m"}

        def translate(texts):
            said = []
            for text in texts:
                words = {"the": "der", "dog": "Hund", "sees": "sieht", "cats": "Katzen"}
                said.append(" ".join(words.get(w, w) for w in text.split()).translate(table))
            return said

        return translate

    return rate(request, Console(quiet=True), open_translator)


def test_a_table_is_scored_beside_baselines(trained, run):
    report = run(trained / "train.tsv")
    assert report["task"] == "translate"
    assert report["rows"] == report["sources"] == 60
    assert report["scores"]["exact"] == 1
    assert report["scores"]["bleu"] == pytest.approx(100)
    assert report["baselines"]["copy"]["exact"] == 0
    assert report["baselines"]["dictionary"]["chrf"] > report["baselines"]["copy"]["chrf"]
    assert report["mistakes"] == []


def test_what_was_held_out_is_found_again(trained, run):
    report = run(trained / "train.tsv", held_out=True, baselines=False)
    assert report["rows"] == 6
    assert report["baselines"] == {}
    other = write(trained / "other.tsv", ROWS, "en\tde\n")
    with pytest.raises(DataError, match="not the pairs that"):
        run(other, held_out=True)


def test_parallel_files_and_other_column_names_are_taken(trained, run):
    rows = [("the dog", "der Hund"), ("cats", "Katzen")]
    named = write(trained / "named.tsv", rows, "source\ttarget\n")
    assert run(named)["scores"]["exact"] == 1
    for side, at in (("en", 0), ("de", 1)):
        (trained / side).write_text("".join(row[at] + "\n" for row in rows))
    report = run(trained / "en", target=str(trained / "de"))
    assert report["scores"]["exact"] == 1


def test_another_model_is_compared(trained, run):
    report = run(trained / "train.tsv", compare=trained / "other")
    assert report["compare"]["scores"]["exact"] == 0
    found = report["compare"]["difference"]["exact"]
    assert found["value"] == found["low"] == found["high"] == 1
    assert found["p"] < 0.01
    text = run(trained / "train.tsv", compare=trained / "other", json=False)
    lines = text.splitlines()
    rows = lines[2 : lines.index("", 2)]
    assert len({len(line) for line in rows}) == 1  # columns stand below each other
    assert [row[: len(row) - 40].strip() for row in rows[1:]] == [
        *("model", "95% low", "95% high", str(trained / "other"), "model minus other"),
        *("p (bootstrap)", "copy", "dictionary"),
    ]


def test_the_table_names_what_the_field_knows(trained, run):
    text = run(write(trained / "sounds.tsv", SOUNDS), json=False, baselines=False)
    assert text.splitlines()[2].split() == ["WER", "PER"]
    assert all(len(line) <= 120 for line in text.splitlines())
    assert "of several right answers of a source the nearest counts" in text
    text = run(write(trained / "few.tsv", [("7 May 05", "2005-05-07")] * 2), json=False)
    assert text.splitlines()[2].split() == ["BLEU", "chrF", "exact", "CER"]
    assert "nearest" not in text


def test_the_table_is_for_people(trained, run):
    rows = [("the dog", "der Hund"), ("sees cats", "Katzen sehen"), ("Berlin", "Bärlin")]
    text = run(write(trained / "few.tsv", rows, "en\tde\n"), json=False, lower=True)
    assert "case:lc" in text
    assert "should be  Katzen sehen" in text
    assert "is         sieht Katzen" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_model_of_another_task_says_which_command_it_is_for(model, trained):
    shutil.copytree(model, trained / "model", dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="use seqtool generate"):
        score(trained, "x")
