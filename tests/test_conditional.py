"""Writing for a label: rows stand for themselves, and labels tell what is written."""

import json

import numpy as np
import pytest
import torch
from conftest import error_line
from torch.testing import assert_close

from seqtool.checkpoint import Card, ModelDir, load, load_last
from seqtool.conditional import RowWriting, chunks, row_costs
from seqtool.config import DataConfig, ModelConfig, TrainConfig
from seqtool.engine import build_engine
from seqtool.lexicon import Texts
from seqtool.models import build_model, to_arrays
from seqtool.rowscoring import row_nll
from seqtool.rowtexts import spell
from seqtool.tokenizer import Tokenizer
from seqtool.train import Keeper, fit, restore_last
from seqtool.trainer import Trainer

SHAPE = ModelConfig(hidden_size=12, embed_size=5, ngram_order=3, ngram_buckets=31)
CONFIG = TrainConfig(
    steps=24, batch_size=3, bptt=4, lr=0.02, warmup=2, eval_every=8, report_every=4, restart=0
)
WORDS = {"vowels": "aeiou", "others": "bcdfg"}


def make_rows(count, seed):
    """Words of letters that only their label has, longer and shorter than a chunk."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = str(rng.choice([*WORDS]))
        rows.append(("".join(rng.choice([*WORDS[label]], rng.integers(1, 12))), label))
    return rows


def make(seed=1):
    torch.manual_seed(seed)
    rows = make_rows(40, 3)
    tokenizer = Tokenizer.train("char", lambda: (text for text, _ in rows), vocab_size=99)
    labels = np.array([[*WORDS].index(label) for _, label in rows])
    texts = spell([text for text, _ in rows], labels, tokenizer)
    model = build_model(SHAPE, tokenizer.vocab_size + 2, unknown_id=tokenizer.unknown_id)
    return model, texts, tokenizer


def test_a_row_is_its_label_and_its_tokens():
    _, _, tokenizer = make()
    rows = spell(["ab", ""], np.array([1, 0]), tokenizer)
    size = tokenizer.vocab_size
    assert rows.words.tolist() == [size + 1, *tokenizer.encode("ab"), size]
    assert rows.lengths.tolist() == [3, 1]


def test_chunks_put_together_are_the_rows_with_their_ends():
    _, texts, _ = make()
    chosen = np.array([4, 0, 7])
    parts = [*chunks(texts, chosen, 4)]
    inputs, targets, counted = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    for i, row in enumerate(chosen):
        ids = texts.words[texts.offsets[row] : texts.offsets[row + 1]].tolist()
        assert inputs[i][counted[i]].tolist() == ids
        assert targets[i][counted[i]].tolist() == [*ids[1:], 0]


def test_costs_are_those_of_a_row_alone_with_torch_and_without(monkeypatch):
    model, texts, tokenizer = make()
    monkeypatch.setattr("seqtool.conditional.STEPS", 3)
    together = row_costs(model, texts, len(texts))
    model.eval()
    alone = []
    for begin, end in zip(texts.offsets[:-1], texts.offsets[1:], strict=True):
        ids = torch.from_numpy(texts.words[begin:end].astype(np.int64))[None]
        with torch.no_grad():
            logits, _ = model(ids)
        targets = torch.cat([ids[0, 1:], torch.tensor([0])])
        alone.append(torch.nn.functional.cross_entropy(logits[0], targets, reduction="sum").item())
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    engine = build_engine(SHAPE, model.vocab_size, to_arrays(model))
    np.testing.assert_allclose(row_nll(engine, texts, tokenizer), alone, rtol=1e-5)


def test_what_is_behind_an_end_counts_for_nothing():
    model, texts, _ = make()
    objective = RowWriting(model, texts, texts, CONFIG, tokens_per_char=1.0)
    loss = objective.loss()
    rows = objective.rows
    chunk = next(chunks(texts, rows, CONFIG.bptt))
    logits, _ = model(chunk.inputs)
    expected = torch.nn.functional.cross_entropy(
        logits[chunk.counted], chunk.targets[chunk.counted]
    )
    assert_close(loss, expected)


@pytest.mark.parametrize("stop", [5, 8])
def test_interrupted_run_equals_the_unbroken_one(stop, tmp_path):
    def trainer():
        model, texts, _ = make(CONFIG.seed)
        held_out = Texts(texts.words[: texts.offsets[9]], texts.offsets[:10])
        return Trainer(RowWriting(model, texts, held_out, CONFIG, tokens_per_char=1.0), CONFIG)

    def keeper(path):
        card = Card("generate", SHAPE, DataConfig(), CONFIG, 14, {})
        return Keeper(ModelDir.create(path), card, "{}")

    whole, first = trainer(), trainer()
    list(fit(whole, keeper(tmp_path / "whole")))
    halt = {"interrupted": lambda: "SIGINT" if first.step == stop else None}
    list(fit(first, keeper(tmp_path / "pieces"), **halt))
    second = trainer()
    good = restore_last(second, *load_last(tmp_path / "pieces"))
    saved = load(tmp_path / "pieces", "generate")
    rest = Keeper(ModelDir.resume(tmp_path / "pieces"), saved.card, saved.tokenizer_json)
    list(fit(second, rest, good=good))
    for mine, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A model that writes for labels, and its data."""
    from seqtool.cli import main

    place = tmp_path_factory.mktemp("rows")
    data, out = place / "words.csv", place / "m"
    lines = [f"{text},{label}\n" for text, label in make_rows(300, 5)]
    data.write_text("word,kind\n" + "".join(lines))
    small = ["--hidden-size", "16", "--embed-size", "8", "--ngram-buckets", "64", "-q"]
    argv = ["train", str(data), "--task", "generate", "--label-column", "kind", "-o", str(out)]
    with pytest.raises(SystemExit) as stop:
        main([*argv, *small, "--steps", "80", "--lr", "0.02"])
    assert stop.value.code == 0
    return out, data


def test_a_label_tells_what_is_written(run, writer):
    out, _ = writer
    for label, letters in WORDS.items():
        code, text, _ = run("generate", out, "--label", label, "-n", 8, "-t", 0.5, "-q")
        assert code == 0
        assert len(text.splitlines()) == 8
        assert set(text) - {"\n"} <= set(letters)
        one = run("generate", out, "--label", label, "-t", 0.5, "-q")[1]
        assert one == text.splitlines(keepends=True)[0]


def test_labels_that_are_wrong_missing_or_in_vain_are_told(run, writer, model):
    out, _ = writer
    code, _, err = run("generate", out, "--label", "Vowel")
    assert code == 2
    assert "did you mean 'vowels'?" in error_line(err)
    assert "one of others, vowels" in error_line(run("generate", out)[2])
    assert "trained without labels" in error_line(run("generate", model, "--label", "x")[2])


def test_evaluate_scores_texts_given_labels_and_labels_given_texts(run, writer):
    out, data = writer
    code, text, _ = run("evaluate", out, data, "--held-out", "--json")
    report = json.loads(text)
    assert code == 0
    assert report["rows"] == report["tokens"] - report["characters"] == 30
    assert report["labels"]["accuracy"] > 0.9 > report["labels"]["majority"]
    assert report["baselines"]["ngram"]["bits_per_char"] > 0
    valid = load(out).card.extra["best"]["valid_nats_per_token"]
    assert report["scores"]["nats_per_token"] == pytest.approx(valid, rel=1e-4)
    assert "given their labels" in run("evaluate", out, data, "-q")[1]
    assert run("evaluate", out, data, "--dynamic")[0] == 2


def test_resume_knows_what_was_trained(run, writer):
    out, data = writer
    before = (out / "model.safetensors").read_bytes()
    code, text, err = run("train", data, "-o", out, "--resume")
    assert (code, text) == (0, f"{out}\n"), err
    assert (out / "model.safetensors").read_bytes() == before
    assert run("train", data, "-o", out, "--resume", "--task", "classify")[0] == 2
    assert run("inspect", out)[0] == 0
