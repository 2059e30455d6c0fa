"""What a classifier learns: a run taken up again is the unbroken one, and opinions stay apart."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import check_each_learns_alone

import seqtool.examples as examples_module
from seqtool.budget import SETTLE, TRIED, Budget, time_run
from seqtool.calibration import nll, pool
from seqtool.checkpoint import Card, ModelDir, load, load_last
from seqtool.classifier import Classifier
from seqtool.config import ClassifierConfig, LabelConfig, TrainConfig
from seqtool.examples import Examples
from seqtool.judging import Judging, Labelled, TextSequences
from seqtool.labelled import read_split
from seqtool.lexicon import Lexicon
from seqtool.linear import ngram_keys
from seqtool.train import Keeper, fit, restore_last
from seqtool.trainer import Trainer

SHAPE = ClassifierConfig(hidden_size=6, embed_size=5, part_buckets=17, word_dropout=0.3)
CONFIG = TrainConfig(steps=30, batch_size=4, lr=0.02, warmup=2, eval_every=10, report_every=5)
TIMING = {"seconds", "tokens_per_s", "seconds_left"}


def some_texts(count, seed):
    """The label is the word that is not "x"."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    names = np.array(["red", "green", "blue"])
    texts = []
    for label in labels:
        words = ["x"] * rng.integers(1, 9)
        words[rng.integers(len(words))] = names[label]
        texts.append(" ".join(words))
    return texts, labels


def objective(config=CONFIG, second=None, class_weights=None, shape=SHAPE, members=1):
    torch.manual_seed(config.seed)
    (train, labels), (valid, truth) = some_texts(50, 1), some_texts(20, 2)
    lexicon = Lexicon.learn(train, "word", lower=True, buckets=shape.part_buckets, size=99)
    parts = [lexicon.encode(train), lexicon.encode(valid)]
    sets = [
        Labelled(TextSequences(texts, lexicon.table), given)
        for texts, given in zip(parts, (labels, truth), strict=True)
    ]
    networks = [Classifier(shape, 3, vocab_size=lexicon.size) for _ in range(members)]
    return Judging(networks, *sets, config, second=second, class_weights=class_weights)


def keeper(path):
    card = Card("classify", SHAPE, LabelConfig(), CONFIG, 4, {})
    return Keeper(ModelDir.create(path), card, "{}")


def timeless(events):
    return [{k: v for k, v in event.items() if k not in TIMING} for event in events]


@pytest.mark.parametrize(("stop", "members"), [(3, 1), (10, 1), (17, 1), (17, 3)])
def test_interrupted_run_equals_the_unbroken_one(stop, members, tmp_path):
    whole = Trainer(objective(members=members), CONFIG)
    events = list(fit(whole, keeper(tmp_path / "whole")))
    first = Trainer(objective(members=members), CONFIG)
    halted = list(
        fit(
            first,
            keeper(tmp_path / "pieces"),
            interrupted=lambda: "SIGINT" if first.step == stop else None,
        )
    )
    torch.manual_seed(99)
    second = Trainer(objective(members=members), CONFIG)
    torch.manual_seed(98)
    good = restore_last(second, *load_last(tmp_path / "pieces"))
    saved = load(tmp_path / "pieces", "classify")
    rest = Keeper(ModelDir.resume(tmp_path / "pieces"), saved.card, saved.tokenizer_json)
    halted = halted[:-1] + list(fit(second, rest, good=good))
    assert timeless(halted) == timeless(events)
    for mine, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, other)
    one, other = load(tmp_path / "pieces"), load(tmp_path / "whole")
    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert one.card == other.card


def test_a_run_ends_early_where_more_would_not_help(tmp_path):
    config = TrainConfig(steps=12, batch_size=4, eval_every=6)
    budget = Budget(3600.0, time.monotonic(), most_steps=12)
    trainer = Trainer(objective(config), config)
    events = list(fit(trainer, keeper(tmp_path / "m"), budget=budget))
    assert (events[-1]["reason"], events[-1]["step"]) == ("done", 12)
    assert trainer.updater.last_lr == 0.0


def test_learns_and_reports_its_scores(tmp_path):
    config = TrainConfig(steps=150, batch_size=8, lr=0.03, warmup=5, eval_every=50, patience=0)
    events = list(fit(Trainer(objective(config), config), keeper(tmp_path / "m")))
    evals = [event for event in events if event["event"] == "eval"]
    assert set(evals[0]) - {"event", "step", "seconds"} == {"val_loss", "val_accuracy", "best"}
    assert evals[-1]["val_accuracy"] == 1.0
    best = load(tmp_path / "m").card.extra["best"]
    assert set(best) == {
        *("step", "valid_nats", "valid_accuracy", "valid_ece", "powers", "set_scores"),
    }
    assert len(best["set_scores"]) == 20


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_networks_side_by_side_learn_what_each_learns_alone(optimizer):
    still = replace(SHAPE, dropout=0.0, embed_dropout=0.0, word_dropout=0.0)
    # So low a limit that every gradient is clipped, and each by another factor.
    config = replace(CONFIG, optimizer=optimizer, clip_norm=0.05)
    together = objective(config, shape=still, members=3)
    with torch.no_grad():
        for p in together.networks[1].output.parameters():
            p.mul_(20)
    ones = [objective(config, shape=still) for _ in range(3)]
    check_each_learns_alone(together, ones, config)


@pytest.mark.parametrize("members", [1, 3])
def test_an_evaluation_pools_both_opinions_with_powers_that_fit(members):
    second = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    judging = objective(second=second, members=members)
    look = judging.evaluate(10**6)
    inputs = judging.held_out.inputs
    batch, lengths = inputs.batch(np.arange(20)), torch.from_numpy(inputs.lengths)
    judging.model.eval()
    with torch.no_grad():
        first = np.mean([network(batch, lengths).numpy() for network in judging.networks], axis=0)
    expected = nll(pool([first, second], look.card["powers"]), judging.held_out.labels)
    assert look.loss == pytest.approx(expected, rel=1e-5)
    assert look.loss == look.scores["val_loss"]


def test_an_evaluation_reads_no_more_than_its_limit():
    judging = objective()
    few = judging.evaluate(30)
    lengths = judging.held_out.inputs.lengths
    count = int(np.searchsorted(np.cumsum(lengths), 30, side="right"))
    assert 1 <= count < 20
    assert len(few.card["set_scores"]) == count


def test_class_weights_count_in_the_loss():
    plain, weighted = objective(), objective(class_weights=np.array([1e6, 1.0, 1.0]))
    plain.model.eval()
    weighted.model.eval()
    rows = plain.batches.next()
    labels = plain.train.labels[rows]
    assert 0 in labels
    assert set(labels) != {0}
    logits = plain._logits(plain._read, plain.train.inputs, rows)[0][labels == 0]
    only = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
    assert weighted.loss().item() == pytest.approx(only.item(), rel=1e-3)


def test_lengths_and_unknown_words_of_texts_are_described(tmp_path):
    train, held = tmp_path / "train.csv", tmp_path / "held.csv"
    train.write_text("text,label\nred red blue,x\nred sky,y\nblue,x\nred green blue,y\n")
    held.write_text("text,label\nred zebra,x\nsky blue,y\n")
    config = LabelConfig(max_length=2)
    examples = Examples(read_split(str(train), str(held), config, 1), config)
    lengths, unknown = (text for _, text in examples.described())
    assert lengths.startswith("from 1 to 3 words, median 2.5; 2 of a text are read")
    # Of red, zebra, sky and blue, zebra is new; only red and blue stood there twice.
    assert "25.0% never occur" in unknown
    assert "50.0% are not among the 2 with" in unknown


def test_a_run_is_timed_by_its_tokens(monkeypatch):
    trainer = Trainer(objective(), CONFIG)
    clock = [0.0]
    update = trainer.update

    def slow_update():
        before = trainer.objective.tokens
        found = update()
        clock[0] += 0.5 * (trainer.objective.tokens - before)
        return found

    monkeypatch.setattr(trainer, "update", slow_update)
    monkeypatch.setattr("seqtool.budget.time.monotonic", lambda: clock[0])
    found = time_run(trainer)
    updates = SETTLE + TRIED
    assert trainer.step == updates
    assert found == pytest.approx(0.5 * trainer.objective.tokens / updates * CONFIG.steps)


def test_the_linear_classifier_of_many_texts_is_that_of_a_sample(tmp_path, monkeypatch):
    lengths = np.array([3, 0, 9, 4, 4] * 40)
    assert examples_module.evenly(lengths, 800).tolist() == [*range(200)]
    rows = examples_module.evenly(lengths, 200)
    assert len(rows) == len({*rows}) == 50
    assert (np.diff(rows) >= 4).all()

    def learned(most: int, at_once: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        texts = "".join(f"{'good' if i % 2 else 'bad'} w{i % 7},{i % 2}\n" for i in range(400))
        (tmp_path / "a.csv").write_text("text,label\n" + texts)
        (tmp_path / "b.csv").write_text("text,label\ngood,1\nbad w1,0\ngood bad,1\n")
        config = LabelConfig(vocab_size=20)
        monkeypatch.setattr(examples_module, "MOST_NGRAMS", 2 * most)
        monkeypatch.setattr(examples_module, "WORDS_AT_ONCE", at_once)
        split = read_split(str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), config, 1)
        examples = Examples(split, config)
        linear = examples.fit_linear(2)
        return linear, examples._opinions(linear)

    linear, opinions = learned(100, 100)  # every eighth text, all of which have one label
    whole, said = learned(10_000, 100)
    assert len(linear["keys"]) < len(whole["keys"])
    assert opinions.shape == said.shape == (3, 2)
    for found, expected in zip(learned(10_000, 7), (whole, said), strict=True):
        np.testing.assert_equal(found, expected)


def test_ngrams_are_found_a_bounded_number_of_words_at_a_time(tmp_path, monkeypatch):
    lengths = [0, 1, 30, 2, 2, 2, 0, 0, 9, 1] * 3
    words = (" ".join(f"w{i}" for i in range(length)) for length in lengths)
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(words))
    )
    split = read_split(str(tmp_path / "a.csv"), None, LabelConfig(valid_fraction=0), 1)
    examples = Examples(split, LabelConfig())
    examples.take_ngrams(2)
    (texts,) = examples.texts
    rows = np.arange(len(texts))[::-1]
    monkeypatch.setattr(examples_module, "WORDS_AT_ONCE", 12)
    parts = [*examples._ngrams(texts, rows)]
    done = 0
    for keys, _, count in parts:
        some = rows[done : done + count]
        sizes = texts.lengths[some] + 2
        assert sizes[1:].sum() <= 12
        expected, _ = ngram_keys(examples._hashes, texts.select(some), 2)
        assert keys.tolist() == expected.tolist()
        done += count
    assert done == len(rows)
    assert len(parts) > 5
    assert [count for *_, count in examples._ngrams(texts, rows[:0])] == [0]
