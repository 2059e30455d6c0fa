"""Padding changes nothing, and the labels given without torch are those of the model."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from seqtool.annotating import TaggedSentences
from seqtool.annotator import Annotator, weight_shapes
from seqtool.config import TaggerConfig
from seqtool.lexicon import TokenLexicon
from seqtool.models import shapes, to_arrays
from seqtool.tagger import Tagger

SMALL: dict[str, Any] = {"hidden_size": 5, "embed_size": 4, "part_buckets": 31}
CONFIGS = {
    "lstm": TaggerConfig(**SMALL),
    "two layers": TaggerConfig(**SMALL, num_layers=2),
    "gru": TaggerConfig(**SMALL, cell="gru"),
    "relu": TaggerConfig(**SMALL, cell="rnn", nonlinearity="relu"),
    "chain": TaggerConfig(**SMALL, crf=True),
    "no parts": TaggerConfig(**(SMALL | {"part_buckets": 0})),
}
LABELS = ("O", "B-x", "I-x")
SENTENCES = [line.split() for line in ("a b c d e f g", "b", "The 1st cat", "b b b b", "c 3,000 A")]


def build(config, seed=0):
    torch.manual_seed(seed)
    buckets = config.part_buckets
    lexicon = TokenLexicon("token", list("abcdefg"), lower=True, buckets=buckets)
    model = Tagger(config, len(LABELS), vocab_size=lexicon.size)
    with torch.no_grad():  # biases and the like start at zero, which could hide a mistake
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        model.vectors.words.weight[0] = 0
    return model.eval(), lexicon


def tagged(lexicon):
    texts = lexicon.encode_words(SENTENCES)
    labels = np.random.default_rng(0).integers(3, size=len(texts.words))
    return TaggedSentences(texts, labels, lexicon.table)


def run(model, data, rows):
    words, lengths, labels = data.batch(np.array(rows))
    scores = model(words, torch.from_numpy(lengths))
    return scores, torch.from_numpy(lengths), torch.from_numpy(labels)


@pytest.mark.parametrize("name", CONFIGS)
def test_company_in_a_batch_changes_no_score_and_no_loss(name):
    model, lexicon = build(CONFIGS[name])
    data = tagged(lexicon)
    together = run(model, data, range(5))
    total = 0
    for row in range(5):
        scores, lengths, labels = run(model, data, [row])
        assert_close(together[0][row, : lengths[0]], scores[0])
        total += model.nll(scores, lengths, labels) * lengths[0]
    assert_close(model.nll(*together), total / together[1].sum())


@pytest.mark.parametrize("name", CONFIGS)
def test_labels_without_torch_are_those_of_the_model(name):
    config = CONFIGS[name]
    model, lexicon = build(config)
    assert weight_shapes(config, 3, lexicon.size) == shapes(model)
    scores, lengths, _ = run(model, tagged(lexicon), range(5))
    fresh = TokenLexicon.from_json(
        lexicon.to_json(), "here", buckets=config.part_buckets, size=lexicon.size
    )
    for size in (1, 2, 64):
        annotator = Annotator(config, fresh, to_arrays(model), LABELS, scheme="", batch_size=size)
        for rows, found, found_lengths in annotator.emissions(SENTENCES):
            for row, part, length in zip(rows, found, found_lengths, strict=True):
                assert length == lengths[row]
                expected = scores[row, :length].detach()
                assert_close(torch.from_numpy(part[:length]), expected, rtol=1e-4, atol=1e-5)
    answers = annotator.annotate(SENTENCES, chances=True)
    assert [len(labels) for labels, _ in answers] == [*map(len, SENTENCES)]
    if not config.crf:
        p = scores.softmax(2).amax(2).detach()
        for row, (labels, chances) in enumerate(answers):
            assert [LABELS.index(label) for label in labels] == scores[row].argmax(1).tolist()[
                : len(labels)
            ]
            assert_close(
                torch.from_numpy(chances).float(), p[row, : len(labels)], rtol=1e-4, atol=1e-5
            )
    assert annotator.annotate([]) == []


def test_the_power_makes_probabilities_milder_and_changes_no_label():
    config = CONFIGS["chain"]
    model, lexicon = build(config)

    def answers(power):
        made = Annotator(config, lexicon, to_arrays(model), LABELS, scheme="IOB2", power=power)
        return made.annotate(SENTENCES, chances=True)

    for (labels, sure), (others, mild) in zip(answers(1.0), answers(0.3), strict=True):
        assert labels == others
        assert mild.max() < sure.max()


def test_labels_that_a_scheme_forbids_are_not_given():
    model, lexicon = build(CONFIGS["lstm"])
    with torch.no_grad():
        model.output.bias[2] = 50  # I-x everywhere
    made = Annotator(model.config, lexicon, to_arrays(model), LABELS, scheme="IOB2")
    assert made.annotate([["a", "b", "c"]])[0][0] == ["B-x", "I-x", "I-x"]


def test_dropped_words_are_known_by_their_parts_alone():
    model, lexicon = build(TaggerConfig(**SMALL, word_dropout=0.999, embed_dropout=0, dropout=0))
    data = tagged(lexicon)
    model.train()
    words, _, _ = data.batch(np.array([0]))
    vectors = model.vectors(words)
    assert_close(vectors[..., :4], torch.zeros(1, 7, 4))
    assert (vectors[..., 4:] != 0).any(2).all()
