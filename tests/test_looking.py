"""Looking in batches sees what looking at one text after the other sees."""

from functools import partial

import numpy as np
import pytest
import torch

from seqtool.cells import RecurrentStack, State
from seqtool.classifier import Classifier
from seqtool.config import ClassifierConfig, ModelConfig, TaggerConfig, TranslatorConfig
from seqtool.encdec import BOUNDARY, EncoderDecoder
from seqtool.findings import Belief, Findings, Labelled, View
from seqtool.judging import ImageSequences, TextSequences
from seqtool.lexicon import Lexicon
from seqtool.look_translate import Pair, look_translator
from seqtool.looking import Labels, look_classifier, look_language, look_tagger
from seqtool.models import LanguageModel
from seqtool.tagger import Tagger

TEXTS = ["a b c d e", "b", "c c a", "e d", "a b", "d d d d d d", "b a"] * 8
CLASSES = ("x", "y")


def make_classifier(layers: int = 1) -> tuple[Classifier, TextSequences]:
    torch.manual_seed(1)
    config = ClassifierConfig(
        hidden_size=4, embed_size=3, num_layers=layers, part_buckets=0, cell="gru"
    )
    lexicon = Lexicon("word", list("abcde"), lower=True, buckets=0)
    model = Classifier(config, 2, vocab_size=lexicon.size)
    return model.eval(), TextSequences(lexicon.encode(TEXTS), lexicon.table)


def beliefs(count: int) -> list[Belief]:
    return [
        Belief(f"{row}", TEXTS[row].split(), np.full((len(TEXTS[row].split()), 2), 0.5), "")
        for row in range(count)
    ]


def outputs(model: Classifier, row: int) -> tuple[np.ndarray, np.ndarray]:
    """What both directions say at each word of one text, in its order, each (T, H)."""
    _, sequences = make_classifier()
    with torch.no_grad():
        assert model.vectors is not None
        x = model.vectors(sequences.batch(np.array([row])))
        onward, back = model.onward(x)[0], model.back(x.flip(1))[0].flip(1)
    return onward[0].numpy(), back[0].numpy()


def test_units_stand_at_the_words_they_have_read() -> None:
    model, sequences = make_classifier()
    labels = Labels(np.arange(len(TEXTS)) % 2, CLASSES)
    found = look_classifier(
        model,
        sequences,
        beliefs(3),
        frozenset({"units"}),
        many=sequences,
        windows=sequences,
        labels=labels,
    )
    assert found.activations is not None
    assert found.layers == ("layer 1 (onward)", "layer 2 (back)")
    assert "".join(found.pieces) == "abcde\nb\ncca\n"
    for layer in (0, 1):
        expected = np.concatenate([outputs(model, row)[layer] for row in range(3)])
        np.testing.assert_allclose(found.activations[layer], expected, rtol=1e-4, atol=1e-6)


def test_units_are_matched_on_more_than_is_shown() -> None:
    model, sequences = make_classifier()
    everything = beliefs(len(TEXTS))
    look = partial(
        look_classifier,
        model,
        sequences,
        views=frozenset({"units"}),
        many=sequences,
        windows=sequences,
        labels=Labels(np.arange(len(TEXTS)) % 2, CLASSES),
    )
    few, whole = look(beliefs(2)), look(everything)
    more = look(beliefs(2), more=(sequences, everything))
    assert more.ranking == whole.ranking != few.ranking
    assert more.pieces == few.pieces
    for found, expected in zip(more.activations or (), few.activations or (), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_labels_are_matched_with_means_over_whole_texts() -> None:
    model, sequences = make_classifier()
    means = np.array([outputs(model, row)[1].mean(axis=0) for row in range(len(TEXTS))])
    # What unit 2 of the layer that reads back says is the label.
    numbers = (means[:, 2] > np.median(means[:, 2])).astype(np.int64)
    rows = np.random.default_rng(0).permutation(len(TEXTS) * 4) % len(TEXTS)
    lexicon = Lexicon("word", list("abcde"), lower=True, buckets=0)
    many = TextSequences(lexicon.encode([TEXTS[row] for row in rows]), lexicon.table)
    found = look_classifier(
        model,
        sequences,
        beliefs(2),
        frozenset({"units"}),
        many=many,
        windows=sequences,
        labels=Labels(numbers[rows], CLASSES),
    )
    assert found.ranking is not None
    (match,) = [match for match in found.ranking.by_feature if match.feature == "label y"]
    assert match.strength == 1.0
    (planted,) = [m for m in found.ranking.by_unit if (m.layer, m.unit) == (1, 2)]
    assert planted.feature == "label y"


def test_documents_of_a_language_model_are_labelled() -> None:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(hidden_size=6, embed_size=4, ngram_order=1), 8)
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 8, rng.integers(2, 9)) for _ in range(120)]
    with torch.no_grad():
        means = np.array(
            [
                model.stack(model.embedding(torch.from_numpy(ids))[None])[0][0, :, 3].mean()
                for ids in documents
            ]
        )
    numbers = (means > np.median(means)).astype(np.int64)
    text = np.concatenate(documents)
    found = look_language(
        model,
        text,
        slice(0, 50),
        frozenset({"units"}),
        spell="x" * 8,
        window=4,
        documents=documents,
        labels=Labels(numbers, CLASSES),
    )
    assert found.ranking is not None
    (match,) = [match for match in found.ranking.by_feature if match.feature == "label y"]
    # The state h and what is looked at, tanh(c), rise together.
    assert match.strength > 0.9


def test_a_view_begins_in_the_state_that_the_text_has_led_to() -> None:
    torch.manual_seed(3)
    model = LanguageModel(ModelConfig(hidden_size=6, embed_size=4), 8)
    text = np.random.default_rng(3).integers(1, 8, 60)
    views = frozenset[View]({"units", "surprisal"})

    def look(first: int) -> Findings:
        return look_language(model, text, slice(first, 60), views, spell="x" * 8, window=4)

    whole, later = look(0), look(25)
    assert whole.activations is not None
    assert later.activations is not None
    assert whole.surprises is not None
    assert later.surprises is not None
    np.testing.assert_allclose(later.activations[0], whole.activations[0][25:], atol=1e-6)
    np.testing.assert_allclose(
        [surprise.bits for surprise in later.surprises],
        [surprise.bits for surprise in whole.surprises[25:]],
        rtol=1e-5,
    )


@pytest.mark.parametrize("layers", [1, 2])
def test_the_gradient_flow_of_a_classifier_equals_autograds(layers: int) -> None:
    torch.manual_seed(2)
    config = ClassifierConfig(hidden_size=4, num_layers=layers, cell="rnn", ngram_order=0)
    model = Classifier(config, 3, width=6).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 1), np.uint8)
    sequences = ImageSequences(pixels, "row", 128.0, 60.0)
    shown = [Belief("0", [""] * 5, np.full((5, 3), 1 / 3), "", pixels[0])]
    found = look_classifier(
        model,
        sequences,
        shown,
        frozenset({"health"}),
        many=sequences,
        windows=sequences,
        labels=Labels(np.zeros(3, np.int64), ("a", "b", "c")),
    )
    assert found.flow is not None
    assert len(found.flow.layers) == 2 * layers
    inputs = sequences.batch(np.arange(3))
    grads: list[torch.Tensor] = []

    def keep(x: torch.Tensor, state: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, object]:
        output, after = model.onward(x, state)
        output.retain_grad()
        grads.append(output)
        return output, after

    logits = model.through(inputs, torch.full((3,), 5), keep, model.back)  # type: ignore[arg-type]
    torch.nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    # At lag 0 nothing has passed through time: dC/ds_T of the top layer is that of its output.
    last = grads[0].grad
    assert last is not None
    expected = np.median(last[:, -1].norm(dim=-1).numpy())
    top = found.flow.layers[layers - 1]
    assert top.gradient[0] == pytest.approx(expected, rel=1e-4)


def test_the_gradient_flow_of_a_tagger_begins_where_each_direction_ends() -> None:
    torch.manual_seed(3)
    config = TaggerConfig(hidden_size=4, embed_size=3, part_buckets=0, cell="gru")
    lexicon = Lexicon("word", list("abcde"), lower=True, buckets=0)
    model = Tagger(config, 3, vocab_size=lexicon.size).eval()
    words = [["a", "b", "c", "d"], ["e", "b", "a", "c"]]
    sequences = TextSequences(lexicon.encode_words(words), lexicon.table)
    given = [Labelled("0", text, ["x"] * 4, [], np.full((4, 3), 1 / 3)) for text in words]
    found = look_tagger(
        model, sequences, given, frozenset({"health"}), windows=sequences, classes=("x", "y", "z")
    )
    assert found.flow is not None
    h, _ = model.stack(model.vectors(sequences.batch(np.arange(2))))
    scores = model.output(h.detach().requires_grad_())
    for layer, word, part in ((0, -1, slice(4)), (1, 0, slice(4, 8))):
        there = scores[:, word]
        cost = torch.nn.functional.cross_entropy(there, there.argmax(1), reduction="sum")
        (p,) = torch.autograd.grad(cost, scores, retain_graph=True)
        norms = (p[:, word] @ model.output.weight)[:, part].norm(dim=1).numpy(force=True)
        gradient = found.flow.layers[layer].gradient
        assert gradient[0] == pytest.approx(np.median(norms), rel=1e-4)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("fed", [False, True])
def test_units_of_a_translator_stand_at_their_tokens(turned: bool, fed: bool) -> None:
    torch.manual_seed(5)
    config = TranslatorConfig(
        hidden_size=4, embed_size=3, cell="gru", reverse_source=turned, input_feeding=fed
    )
    model = EncoderDecoder(config, 7, 7).eval()
    source, target = np.array([3, 1, 2]), np.array([4, 5])
    pair = Pair(source, target, list("cab"), list("xy"))
    views: frozenset[View] = frozenset({"units", "gates"})
    found = look_translator(model, [pair, pair], [], views, windows=([0], 2))
    assert found.activations is not None
    assert len(found.layers) == 4
    read = torch.tensor([[*(source[::-1] if turned else source), BOUNDARY]])
    with torch.no_grad():
        h, _ = model.encoder(model.source_embedding(read))
        onward, back = h[0, :-1].numpy(), h[0, :-1].numpy()
        onward, back = onward[:, :4], back[:, 4:]
        if turned:
            onward, back = onward[::-1], back[::-1]
        np.testing.assert_allclose(found.activations[0][:3], onward, atol=1e-6)
        np.testing.assert_allclose(found.activations[1][3:], back, atol=1e-6)
        state, memory = model.encode(read, torch.tensor([4]))
        for place, token in enumerate([BOUNDARY, *target]):
            _, state, _ = model.step(torch.tensor([token]), state, memory)
            for layer in (0, 1) if place else ():
                values = found.activations[2 + layer][place - 1]
                np.testing.assert_allclose(values, state[layer][0, 0], atol=1e-6)
    assert "".join(found.text_of(0)) == "cab\ncab\n"
    assert "".join(found.text_of(3)) == "xy\nxy\n"


class Nudged:
    """A plain layer of four units with a zero added to each state, of one sequence."""

    def __init__(self, stack: RecurrentStack) -> None:
        self.stack = stack
        self.nudges: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        outputs = []
        for now in x.split(1, dim=1):
            output, (h,) = self.stack(now, state)
            self.nudges.append(torch.zeros(1, 1, 4, requires_grad=True))
            state = (h + self.nudges[-1],)
            outputs.append(output + self.nudges[-1])
        return torch.cat(outputs, dim=1), state


@pytest.mark.parametrize("fed", [False, True])
def test_the_gradient_flow_of_a_decoder_equals_autograds(fed: bool) -> None:
    torch.manual_seed(6)
    config = TranslatorConfig(hidden_size=4, embed_size=3, cell="rnn", input_feeding=fed)
    model = EncoderDecoder(config, 7, 7).eval()
    source, target = np.array([3, 1, 2]), np.array([4, 5, 6, 1])
    pair = Pair(source, target, list("cabd"), list("wxyz"))
    found = look_translator(model, [pair], [], frozenset({"health"}), windows=([0], 4))
    assert found.flow is not None
    below, above = Nudged(model.query), Nudged(model.reader)
    read, said = torch.tensor([[*source, BOUNDARY]]), torch.from_numpy(target)[None]
    logits = model.through(read, said, model.encoder, (below, above))[:, -1]
    cost = torch.nn.functional.cross_entropy(logits, logits.argmax(1))
    for layer, stack in ((2, below), (3, above)):
        gradients = torch.autograd.grad(cost, stack.nudges, retain_graph=True)
        norms = [float(gradient.norm()) for gradient in reversed(gradients)]
        np.testing.assert_allclose(found.flow.layers[layer].gradient, norms, rtol=1e-4)
