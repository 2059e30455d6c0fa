"""The encoder-decoder: teacher forcing, steps and a hand loop agree; padding changes nothing."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from seqtool.config import TranslatorConfig
from seqtool.encdec import EncoderDecoder

V = 11
SMALL = {"hidden_size": 6, "embed_size": 5, "dropout": 0.0, "source_word_dropout": 0.0}
SHAPES = [
    {},
    {"attention": "additive", "num_layers": 2, "tying": "target"},
    {"attention": "none", "cell": "gru", "tying": "none"},
    {"input_feeding": True, "layer_norm": False},
    {"input_feeding": True, "attention": "additive", "cell": "gru", "num_layers": 2},
    {"cell": "rnn", "nonlinearity": "relu"},
]


def make(**options) -> EncoderDecoder:
    torch.manual_seed(3)
    config = TranslatorConfig(**(SMALL | options))
    model = EncoderDecoder(config, V, V, source_unknown=1).eval()
    with torch.no_grad():  # what starts at zero must count as well
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def draw(*lengths: int) -> tuple[Tensor, Tensor]:
    """Padded random ids, boundary last, and their lengths."""
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(2, V, (len(lengths), max(lengths)), generator=generator)
    sizes = torch.tensor(lengths)
    return ids.masked_fill(torch.arange(ids.shape[1]) >= sizes[:, None] - 1, 0), sizes


SOURCE, SOURCE_LENGTHS = draw(5, 1, 7, 3)
TARGET, TARGET_LENGTHS = draw(4, 6, 1, 2)


@pytest.mark.parametrize("options", SHAPES)
def test_steps_equal_teacher_forcing(options):
    model = make(**options)
    logits, weights = model(SOURCE, SOURCE_LENGTHS, TARGET)
    state, memory = model.encode(SOURCE, SOURCE_LENGTHS)
    before = torch.zeros(len(SOURCE), dtype=torch.int64)
    for t in range(TARGET.shape[1]):
        scores, state, looks = model.step(before, state, memory)
        assert_close(scores, logits[:, t])
        assert_close(looks, weights[:, t])
        before = TARGET[:, t]


@pytest.mark.parametrize("options", SHAPES)
def test_padding_company_and_order_change_nothing(options):
    model = make(**options)
    logits, _ = model(SOURCE, SOURCE_LENGTHS, TARGET)
    order = torch.tensor([2, 0, 3, 1])
    shuffled, _ = model(SOURCE[order], SOURCE_LENGTHS[order], TARGET[order])
    padded = functional.pad(SOURCE, (0, 3), value=9), functional.pad(TARGET, (0, 2), value=9)
    wider, _ = model(padded[0], SOURCE_LENGTHS, padded[1])
    for row, place in enumerate(order.argsort()):
        size, length = SOURCE_LENGTHS[row], TARGET_LENGTHS[row]
        alone, _ = model(SOURCE[row : row + 1, :size], size[None], TARGET[row : row + 1, :length])
        for other in (logits[row], shuffled[place], wider[row]):
            assert_close(other[:length], alone[0])


@pytest.mark.parametrize("options", SHAPES)
def test_loss_is_the_mean_over_what_is_no_padding(options):
    model = make(label_smoothing=0.0, **options)
    loss, count = model.loss(SOURCE, SOURCE_LENGTHS, TARGET, TARGET_LENGTHS)
    logits, _ = model(SOURCE, SOURCE_LENGTHS, TARGET)
    costs = [
        functional.cross_entropy(logits[row, :length], TARGET[row, :length], reduction="sum")
        for row, length in enumerate(TARGET_LENGTHS)
    ]
    assert count == TARGET_LENGTHS.sum()
    assert_close(loss, torch.stack(costs).sum() / count)


def test_loss_is_smoothed():
    model = make(label_smoothing=0.3)
    inside = torch.arange(TARGET.shape[1]) < TARGET_LENGTHS[:, None]
    logits, _ = model(SOURCE, SOURCE_LENGTHS, TARGET)
    smooth = functional.cross_entropy(logits[inside], TARGET[inside], label_smoothing=0.3)
    assert_close(model.loss(SOURCE, SOURCE_LENGTHS, TARGET, TARGET_LENGTHS)[0], smooth)


def test_a_hand_loop_gives_the_same_scores():
    """One LSTM encoder-decoder with dot attention, written out for one sequence."""
    model = make()
    weights = dict(model.named_parameters())

    def lstm(name, suffix, x, h, c):
        ih, hh, bias_ih, bias_hh = (
            weights[f"{name}.{part}_l0{suffix}"]
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        i, f, g, o = (ih @ x + hh @ h + bias_ih + bias_hh).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def norm(name, x):
        deviation = ((x - x.mean()) ** 2).mean().add(1e-5).sqrt()
        return (x - x.mean()) / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    row, length, steps = 2, 7, 1
    ids, said = SOURCE[row, :length], [0, *TARGET[0, :3].tolist()]
    vectors = weights["source_embedding.weight"][ids]
    onward, back = [torch.zeros(6)] * length, [torch.zeros(6)] * length
    h, c = torch.zeros(6), torch.zeros(6)
    for t in range(length):
        onward[t], c = lstm("encoder", "", vectors[t], h, c)
        h = onward[t]
    h, c = torch.zeros(6), torch.zeros(6)
    for t in reversed(range(length)):
        back[t], c = lstm("encoder", "_reverse", vectors[t], h, c)
        h = back[t]
    summary = torch.cat([onward[-1], back[0]])
    memory = [norm("memory_norm", torch.cat(pair)) for pair in zip(onward, back, strict=True)]
    keys = [weights["attention.key.weight"] @ m for m in memory]
    values = [weights["attention.value.weight"] @ m for m in memory]
    start = weights["bridge.weight"] @ summary + weights["bridge.bias"]
    h, h2, c, c2 = start.chunk(4)  # h of both layers, then c
    h, h2 = h.tanh(), h2.tanh()
    logits = []
    for token in said:
        h, c = lstm("query", "", weights["source_embedding.weight"][token], h, c)
        looks = torch.stack([h @ key / 6**0.5 for key in keys]).softmax(0)
        context = sum(look * value for look, value in zip(looks, values, strict=True))
        h2, c2 = lstm("reader", "", torch.cat([h, context]), h2, c2)
        read = weights["deep.weight"] @ torch.cat([h2, context, h]) + weights["deep.bias"]
        output = norm("deep_norm", read).tanh()
        logits.append(weights["source_embedding.weight"] @ output + weights["output.bias"])
    target = torch.tensor([[*said[1:], steps]])
    ours, _ = model(SOURCE[row : row + 1], torch.tensor([length]), target)
    assert_close(ours[0], torch.stack(logits))


@pytest.mark.parametrize("options", SHAPES[:5])
def test_gradients_equal_finite_differences(options):
    options = {"hidden_size": 3, "embed_size": 2, "label_smoothing": 0.2} | options
    model = make(**options).double().train()
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters):
        batch = (SOURCE, SOURCE_LENGTHS, TARGET, TARGET_LENGTHS)
        swapped = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(Loss(model), prefixed(swapped), batch)

    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


class Loss(torch.nn.Module):
    """The loss as a module's forward, which is what torch can call with other parameters."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> Tensor:
        return self.model.loss(*batch)[0]


def prefixed(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": value for name, value in parameters.items()}


@pytest.mark.parametrize("options", [{}, {"cell": "gru", "attention": "additive"}])
def test_compiled_layers_give_the_gradients_of_the_equations(options):
    model = make(hidden_size=16, **options).train()
    found = []
    for path in ("compiled", "plain"):
        for stack in (model.encoder, model.query, model.reader):
            stack.path = path
        loss, _ = model.loss(SOURCE, SOURCE_LENGTHS, TARGET, TARGET_LENGTHS)
        found.append((loss, torch.autograd.grad(loss, [*model.parameters()])))
    assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("tying", ["all", "target", "none"])
def test_an_unknown_source_token_stays_nothing(tying, options):
    model = make(**options | {"tying": tying, "dropout": 0.1, "source_word_dropout": 0.5}).train()
    updates = torch.optim.SGD(model.parameters(), lr=1.0)
    source = SOURCE.masked_fill(SOURCE == 4, 1)
    assert source.eq(1).any()
    loss, _ = model.loss(source, SOURCE_LENGTHS, TARGET.masked_fill(TARGET == 4, 1), TARGET_LENGTHS)
    loss.backward()
    updates.step()
    assert model.source_embedding.weight[1].eq(0).all()


def test_every_weight_learns():
    for options in SHAPES:
        model = make(**options).train()
        model.loss(SOURCE, SOURCE_LENGTHS, TARGET, TARGET_LENGTHS)[0].backward()
        idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert idle == []


def test_selected_rows_go_on_as_they_would_have():
    for options in SHAPES:
        model = make(**options)
        state, memory = model.encode(SOURCE, SOURCE_LENGTHS)
        _, state, _ = model.step(torch.zeros(4, dtype=torch.int64), state, memory)
        rows = torch.tensor([3, 0, 3])
        ids = torch.tensor([5, 6, 7, 8])
        expected, _, _ = model.step(ids, state, memory)
        found, _, _ = model.step(ids[rows], *model.select(state, memory, rows))
        assert_close(found, expected[rows])


def test_words_of_the_source_are_hidden_in_training_only():
    model = make(source_word_dropout=0.9)
    before = model.encode(SOURCE, SOURCE_LENGTHS)[1].values
    assert model.encode(SOURCE, SOURCE_LENGTHS)[1].values.equal(before)
    torch.manual_seed(1)
    assert not model.train().encode(SOURCE, SOURCE_LENGTHS)[1].values.equal(before)
