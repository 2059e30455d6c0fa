"""Padding changes nothing, and the answers without torch are those of the model that learned."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from seqtool.classifier import Classifier, Words, build_classifier
from seqtool.config import ClassifierConfig, ModelConfig
from seqtool.judge import TextJudge, weight_shapes
from seqtool.judging import TextSequences
from seqtool.lexicon import Lexicon
from seqtool.models import LanguageModel, shapes, to_arrays
from seqtool.trainer import side_by_side

SMALL: dict[str, Any] = {"hidden_size": 5, "embed_size": 4, "part_buckets": 31, "ngram_order": 0}
CONFIGS = {
    "lstm": ClassifierConfig(**SMALL),
    "two layers": ClassifierConfig(**SMALL, num_layers=2),
    "gru": ClassifierConfig(**SMALL, cell="gru"),
    "rnn": ClassifierConfig(**SMALL, cell="rnn"),
    "relu": ClassifierConfig(**SMALL, cell="rnn", nonlinearity="relu"),
    "no parts": ClassifierConfig(**(SMALL | {"part_buckets": 0})),
    "attention": ClassifierConfig(**SMALL, pool="attention,max"),
    "attention alone": ClassifierConfig(**SMALL, cell="gru", pool="attention"),
    "tables": ClassifierConfig(**SMALL, table_order=3, table_buckets=13),
}
TEXTS = ["a b c d e f g", "b", "", "the cat sat", "b b b b", "c the a", "\t", "g f e d c b a a"]


def build(config, seed=0):
    torch.manual_seed(seed)
    buckets = config.part_buckets
    lexicon = Lexicon("word", list("abcdefg"), lower=True, buckets=buckets)
    model = Classifier(config, 3, vocab_size=lexicon.size)
    with torch.no_grad():  # biases and the like start at zero, which could hide a mistake
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        assert model.vectors is not None
        model.vectors.words.weight[0] = 0
    return model.eval(), lexicon


def sequences(lexicon, texts):
    rows = lexicon.encode(texts)
    return TextSequences(rows, lexicon.table)


def run(model, inputs, rows):
    rows = np.array(rows)
    return model(inputs.batch(rows), torch.from_numpy(inputs.lengths[rows]))


@pytest.mark.parametrize("name", CONFIGS)
def test_company_in_a_batch_changes_no_answer_and_no_gradient(name):
    model, lexicon = build(CONFIGS[name])
    inputs = sequences(lexicon, TEXTS)
    rng = np.random.default_rng(0)
    alone = torch.cat([run(model, inputs, [i]) for i in range(len(TEXTS))])
    for _ in range(5):
        rows = rng.permutation(len(TEXTS))[: rng.integers(2, len(TEXTS) + 1)]
        assert_close(run(model, inputs, rows), alone[rows])
    target = torch.randn(len(TEXTS), 3)
    gradients = []
    for batches in ([range(len(TEXTS))], [[i] for i in range(len(TEXTS))]):
        model.zero_grad()
        for rows in batches:
            (run(model, inputs, list(rows)) * target[list(rows)]).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    assert_close(gradients[0], gradients[1])


def test_what_stands_in_the_padding_is_not_read():
    model, lexicon = build(CONFIGS["lstm"])
    inputs = sequences(lexicon, TEXTS)
    rows = np.array([1, 0])
    words = inputs.batch(rows)
    lengths = torch.from_numpy(inputs.lengths[rows])
    places = words.places.clone()
    places[0, 1:] = places[1, 0]
    assert_close(model(words, lengths), model(words._replace(places=places), lengths))


def test_rows_of_numbers_are_read_like_words():
    torch.manual_seed(1)
    model = Classifier(CONFIGS["gru"], 3, width=6).eval()
    x = torch.randn(4, 9, 6)
    lengths = torch.tensor([9, 3, 1, 7])
    together = model(x, lengths)
    for i, length in enumerate(lengths):
        assert_close(model(x[i : i + 1, :length], length[None])[0], together[i])


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_without_torch_are_those_of_the_model(name, monkeypatch):
    config = CONFIGS[name]
    model, lexicon = build(config)
    expected = run(model, sequences(lexicon, TEXTS), range(len(TEXTS))).detach().numpy()
    found = []
    for size in (1, 3, 64):
        monkeypatch.setattr("seqtool.judge.BATCH", size)
        fresh = Lexicon("word", list("abcdefg"), lower=True, buckets=config.part_buckets)
        judge = TextJudge(config, fresh, to_arrays(model), [1.0], max_length=50)
        for _ in range(2):  # a second time from the words it knows by then
            found += judge.opinions(TEXTS)
        found.append(np.concatenate([judge.opinions([text])[0] for text in TEXTS]))
        p = judge.probabilities(TEXTS)
        np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    for logits in found[1:]:  # whatever they are judged with, to the bit
        np.testing.assert_array_equal(logits, found[0])


def test_a_judge_that_forgets_words_answers_the_same(monkeypatch):
    monkeypatch.setattr("seqtool.lexicon.MAX_CACHED", 2)
    model, lexicon = build(CONFIGS["lstm"])
    judge = TextJudge(CONFIGS["lstm"], lexicon, to_arrays(model), [1.0], max_length=50)
    first = [judge.probabilities([text])[0] for text in TEXTS]
    again = [judge.probabilities([text])[0] for text in reversed(TEXTS)]
    np.testing.assert_array_equal(first, again[::-1])


def test_what_several_networks_say_is_averaged():
    config = ClassifierConfig(**SMALL, members=3)
    lexicon = build(config)[1]
    networks = [build(config, seed)[0] for seed in range(3)]
    weights = to_arrays(side_by_side(networks))
    inputs = sequences(lexicon, TEXTS)
    each = [run(model, inputs, range(len(TEXTS))).detach().numpy() for model in networks]
    judge = TextJudge(config, lexicon, weights, [1.0], max_length=50)
    found = judge.opinions(TEXTS)[0]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)
    alone = np.concatenate([judge.opinions([text])[0] for text in TEXTS])
    np.testing.assert_array_equal(alone, found)  # to the bit
    shape = {"vocab_size": lexicon.size}
    assert weight_shapes(config, 3, **shape) == shapes(side_by_side(networks))
    again = build_classifier(config, 3, **shape, weights=weights)
    for mine, other in zip(again, networks, strict=True):
        assert_close(mine.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_file_holds_what_the_model_has(name):
    model, lexicon = build(CONFIGS[name])
    assert shapes(model) == weight_shapes(CONFIGS[name], 3, vocab_size=lexicon.size)
    assert shapes(Classifier(CONFIGS[name], 3, width=6)) == weight_shapes(CONFIGS[name], 3, width=6)


def test_a_word_outside_the_vocabulary_is_known_by_its_parts():
    model, lexicon = build(CONFIGS["lstm"])
    texts = ["wonderful", "wonderfully", "xyz"]
    inputs = sequences(lexicon, texts)
    logits = run(model, inputs, range(3))
    assert not torch.equal(logits[0], logits[2])
    plain, lexicon = build(CONFIGS["no parts"])
    logits = run(plain, sequences(lexicon, texts), range(3))
    assert_close(logits[0], logits[2])


def test_dropped_words_keep_their_parts():
    config = ClassifierConfig(**SMALL, word_dropout=0.999999, embed_dropout=0.0)
    model, lexicon = build(config)
    assert model.vectors is not None
    model.vectors.train()
    batch = sequences(lexicon, ["a b"]).batch(np.array([0]))
    assert isinstance(batch, Words)
    dropped = model.vectors(batch)
    with torch.no_grad():
        model.vectors.words.weight.zero_()
    assert_close(dropped, model.vectors.eval()(batch))


def test_attention_weighs_what_stands_in_one_place():
    config = ClassifierConfig(**SMALL, pool="attention")
    model, lexicon = build(config)
    assert model.attention is not None
    inputs = sequences(lexicon, ["a b c d"])
    words, lengths = inputs.batch(np.array([0])), torch.tensor([4])
    assert model.vectors is not None
    x = model.vectors(words)
    h = torch.cat([model.onward(x)[0], model.back(x.flip(1))[0].flip(1)], dim=2)[0]  # (T, 2H)
    pool = model.attention
    scores = torch.stack([torch.tanh(pool.weight @ row + pool.bias) @ pool.query for row in h])
    expected = (scores.softmax(0)[:, None] * h).sum(0)
    assert_close(model(words, lengths)[0], model.output(expected))


def test_tables_add_what_a_language_model_s_tables_add():
    config = CONFIGS["tables"]
    model, lexicon = build(config)
    language = ModelConfig(
        hidden_size=5, embed_size=4, ngram_order=3, ngram_buckets=13, ngram_output=False
    )
    other = LanguageModel(language, lexicon.size)
    assert model.vectors is not None
    assert model.tables is not None
    assert other.ngrams is not None
    with torch.no_grad():
        other.ngrams.weight.copy_(model.tables.weight)
        other.embedding.weight.copy_(model.vectors.words.weight)
    words = sequences(lexicon, ["a b c a b c"]).batch(np.array([0]))
    ids = words.ids[words.places]
    added, _, _ = other.ngrams(ids, other.init_state(1)[-1], drop=False)
    assert_close(model._read(words) - model.vectors(words), added)
