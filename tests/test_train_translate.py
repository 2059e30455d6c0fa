"""From pairs of texts to a model directory, through the real command."""

import json
import random
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
from conftest import error_line

from seqtool.checkpoint import DICTIONARY, load, load_events, load_last
from seqtool.encdec import EncoderDecoder
from seqtool.models import shapes
from seqtool.places import BEST
from seqtool.spelling import Spelling

SMALL = ("--hidden-size", 12, "--embed-size", 8, "--batch-size", 60, "-q")


def make_pairs(
    count: int, seed: int, *, letters: str = "abcdefg", longest: int = 7
) -> list[tuple[str, str]]:
    """Different strings of three letters and more, and what they are from their end."""
    rng = random.Random(seed)
    words = dict[str, str]()
    while len(words) < count:
        word = "".join(rng.choices(letters, k=rng.randint(3, longest)))
        if word != word[::-1]:
            words[word] = word[::-1]
    return [*words.items()]


def write_table(path, pairs):
    lines = [f"{source}\t{target}\n" for source, target in [("source", "target"), *pairs]]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("data") / "pairs.tsv", make_pairs(200, 1))


def train(run, data, out, *options):
    options = (*options, *SMALL)
    if not {"--epochs", "--steps", "--budget"} & {*map(str, options)}:
        options = ("--steps", 12, *options)
    code, _, err = run("train", data, "--task", "translate", "-o", out, *options)
    assert code == 0, err
    return out


def test_a_model_is_all_that_translating_needs(run, table, tmp_path):
    out = train(run, table, tmp_path / "m")
    saved = load(out, "translate")
    spelling = Spelling.from_json(saved.tokenizer_json, str(out))
    assert spelling.joint
    assert saved.card.data.tokenizer == "char"
    assert saved.card.vocab_size == spelling.target.vocab_size == 2 + len("abcdefg")
    sizes = spelling.source.vocab_size, spelling.target.vocab_size
    model = EncoderDecoder(saved.card.model, *sizes, source_unknown=spelling.source.unknown_id)
    assert {name: array.shape for name, array in saved.weights.items()} == shapes(model)
    assert saved.card.source["longest"] == {"ratio": 1.0, "source": 7, "target": 8}
    assert (out / DICTIONARY).exists()
    looks = [event for event in load_events(out) if event["event"] == "eval"]
    assert looks[-1].keys() >= {"val_loss", "val_exact", "best"}


def test_two_files_are_the_same_as_a_table(run, table, tmp_path):
    pairs = make_pairs(200, 1)
    sides = []
    for at, name in enumerate(("from.txt", "to.txt")):
        path = tmp_path / name
        path.write_text("".join(f"{pair[at]}\n" for pair in pairs))
        sides.append(path)
    one = load(train(run, table, tmp_path / "one"))
    two = load(train(run, sides[0], tmp_path / "two", "--target", sides[1]))
    assert all(np.array_equal(one.weights[name], two.weights[name]) for name in one.weights)


PIECES = ("--tokenizer", "bpe", "--vocab-size", 300, "--subword-dropout", 0.3)


@pytest.mark.parametrize("options", [(), PIECES])
def test_a_run_taken_up_again_equals_the_unbroken_one(run, table, tmp_path, monkeypatch, options):
    from seqtool.trainer import Trainer

    steps = ("--steps", 30, "--eval-every", 10, *options)
    whole = train(run, table, tmp_path / "whole", *steps)
    update = Trainer.update

    def stop(self):
        if self.step == 17:
            raise KeyboardInterrupt
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", stop)
        patch.setattr("seqtool.train.SAVE_SECONDS", 0.0)
        args = ("train", table, "--task", "translate", "-o", tmp_path / "broken", *SMALL)
        run(*args, *steps, "--report-every", 5)
    assert load_last(tmp_path / "broken")[1]["now"]["step"] == 15
    train(run, table, tmp_path / "broken", *steps, "--resume")
    one, two = load_last(whole)[0], load_last(tmp_path / "broken")[0]
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)


@pytest.mark.parametrize(
    "options",
    [
        ("--attention", "additive", "--input-feeding", "--cell", "gru"),
        ("--no-attention", "--reverse-source", "--layers", 2),
        ("--tying", "none", "--no-layer-norm", "--separate"),
        ("--cell", "rnn", "--nonlinearity", "relu", "--source-word-dropout", 0.2),
        ("--tokenizer", "bpe", "--vocab-size", 300, "--subword-dropout", 0.3),
        ("--members", 3),
    ],
)
def test_every_shape_can_be_asked_for(run, table, tmp_path, options):
    saved = load(train(run, table, tmp_path / "m", *options))
    asked = dict(zip(options, [*options[1:], None], strict=True))
    model = saved.card.model
    assert model.attention == (
        "none" if "--no-attention" in asked else asked.get("--attention", "dot")
    )
    assert model.input_feeding == ("--input-feeding" in asked)
    assert model.reverse_source == ("--reverse-source" in asked)
    assert model.layer_norm == ("--no-layer-norm" not in asked)
    assert model.tying == asked.get("--tying", "all")
    assert model.subword_dropout == asked.get("--subword-dropout", 0)
    assert model.members == asked.get("--members", 1)


def test_networks_side_by_side_serve_every_command(run, table, tmp_path):
    model = train(run, table, tmp_path / "m", "--members", 2, "--steps", 40)
    again = train(run, table, tmp_path / "again", "--members", 2, "--steps", 40)
    assert (model / BEST).read_bytes() == (again / BEST).read_bytes()
    assert {name.split(".")[0] for name in load(model).weights} == {"0", "1"}
    code, out, err = run("translate", model, "abc", "--json")
    assert code == 0, err
    assert {"text", "score", "alignment"} <= json.loads(out).keys()
    code, out, err = run("evaluate", model, table, "--json")
    assert code == 0, err
    assert json.loads(out)["rows"] == 200
    code, out, err = run("selftest", model)
    assert code == 0, out + err
    code, out, err = run("inspect", model, table, "--health")
    assert code == 0, err
    assert "the first of the 2 networks" in err
    code, out, err = run("inspect", model)
    assert code == 0, err
    assert "the mean of 2 networks" in out


def test_epochs_are_passes_over_the_pairs(run, table, tmp_path):
    out = train(run, table, tmp_path / "m", "--epochs", 2)
    end = load_last(out)[1]["now"]
    assert end["batches"]["num_rows"] == pytest.approx(2 * load(out).card.source["pairs"], rel=0.1)


def test_long_pairs_are_left_out_and_told(run, table, tmp_path):
    command = ("train", table, "--task", "translate", "-o", tmp_path / "m", "--steps", 2)
    code, _, err = run(*command, *SMALL, "--max-length", 5)
    assert code == 0
    assert "pairs have a side of more than 5 tokens and are left out" in err
    assert load(tmp_path / "m").card.source["longest"]["target"] == 6
    code, _, err = run(*command, *SMALL, "--max-length", 1, "--force")
    assert code != 0
    assert "no pair of at most 1 tokens a side is left" in error_line(err.splitlines()[-1] + "\n")


def test_flags_that_contradict_are_refused(run, table, tmp_path):
    asked = ("train", table, "--task", "translate", "-o", tmp_path / "m", "-q", "--steps", 2)
    code, _, err = run(*asked, "--separate", "--tying", "all")
    assert code == 2
    assert "--tying all needs one vocabulary" in error_line(err)
    code, _, err = run(*asked, "--no-attention", "--attention", "dot")
    assert code == 2
    assert "--no-attention contradicts --attention dot" in error_line(err)


def test_pairs_are_known_when_seen(run, tmp_path):
    from seqtool.guessing import guess_task

    samples = Path(__file__).parent.parent / "sample_data"
    assert guess_task(str(samples / "pairs.tsv")) == "translate"
    assert guess_task(str(samples / "reviews.csv")) == "classify"


def test_a_sample_shows_source_translation_and_right_answer(run, table, tmp_path):
    command = ("train", table, "--task", "translate", "-o", tmp_path / "m", "--steps", 4)
    _, out, _ = run(*command, *SMALL, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    text = next(event["text"] for event in events if event["event"] == "sample")
    source, said, right = (line.split(":", 1)[1].strip() for line in text.splitlines())
    assert right == source[::-1]
    assert isinstance(said, str)


def test_advice_on_memory_names_options_that_translators_have(run, table, tmp_path):
    argv = ("train", table, "--task", "translate", "-o", tmp_path / "m", "--steps", 4, "-q")
    code, _, err = run(*argv, "--hidden-size", 10**9)
    line = error_line(err)
    assert (code, "not enough memory to train with --hidden-size 1000000000" in line) == (2, True)
    assert "--batch-size" in line
    assert "--bptt" not in line


@pytest.mark.slow
@pytest.mark.parametrize(("longest", "options"), [(20, ()), (10, ("--no-attention",))])
def test_strings_are_reversed_without_a_fault_within_two_minutes(run, tmp_path, longest, options):
    """Two minutes of two quiet cores, counted in updates."""
    pairs = make_pairs(20_000, 1, letters=ascii_lowercase, longest=longest)
    table = write_table(tmp_path / "pairs.tsv", pairs)
    shape = ("--hidden-size", 192, "--embed-size", 128, "--dropout", 0.15, "--steps", 2300)
    code, _, err = run("train", table, "-o", tmp_path / "m", "-q", *shape, *options)
    assert code == 0, err
    assert load(tmp_path / "m").card.extra["best"]["valid_exact"] == 1.0
