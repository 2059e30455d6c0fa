"""Products by oneDNN equal torch's own: values, gradients, every layout, what it does not take."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.testing import assert_close

from seqtool import dense
from seqtool.dense import FEWEST_ROWS, MULTIPLE, Embedding, Linear, linear, pad_rows, product

ROWS, K, M = FEWEST_ROWS + 7, 19, 33


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def near(found: Tensor, expected: Tensor) -> None:
    assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, FEWEST_ROWS - 1, ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product_of_any_size_and_layout(rows, dtype):
    a, b, bias = (torch.randn(*shape, dtype=dtype) for shape in ((rows, K), (M, K), (M,)))
    near(product(a, b, bias), a @ b.t() + bias)
    turned = a.t().contiguous().t(), b.t().contiguous().t()
    near(product(*turned), a @ b.t())
    near(product(a, turned[1]), a @ b.t())


def test_values_beyond_the_rounding_are_those_of_float64():
    a, b = torch.randn(ROWS, 300), torch.randn(M, 300)
    exact = a.double() @ b.double().t()
    assert (product(a, b) - exact).abs().max() <= 3 * (a @ b.t() - exact).abs().max()


@pytest.mark.parametrize("shape", [(ROWS, K), (9, FEWEST_ROWS, K), (2, 3, K)])
def test_linear_equals_torch_in_values_and_gradients(shape):
    x = torch.randn(*shape, requires_grad=True)
    weight, bias = torch.randn(M, K, requires_grad=True), torch.randn(M, requires_grad=True)
    ours, theirs = linear(x, weight, bias), functional.linear(x, weight, bias)
    near(ours, theirs)
    scale = torch.randn_like(ours)
    found = torch.autograd.grad((ours * scale).sum(), (x, weight, bias))
    expected = torch.autograd.grad((theirs * scale).sum(), (x, weight, bias))
    for one, other in zip(found, expected, strict=True):
        near(one, other)


def test_gradients_that_nobody_asked_for_are_not_computed():
    x, layer = torch.randn(ROWS, K), Linear(K, M, bias=False)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.weight.grad is not None
    near(layer.weight.grad, x.sum(dim=0).expand(M, K))


def test_large_float32_products_go_to_onednn_and_no_others(monkeypatch):
    taken = []

    def spy(a, b, bias, *_):
        taken.append(tuple(a.shape))
        return functional.linear(a, b, bias)

    monkeypatch.setattr(dense, "_onednn", spy)
    b = torch.randn(M, K)
    product(torch.randn(ROWS, K), b)
    product(torch.randn(FEWEST_ROWS - 1, K), b)
    product(torch.randn(ROWS, K).double(), b.double())
    assert taken == [(ROWS, K)]
    monkeypatch.setattr(dense, "_onednn", None)
    assert product(torch.randn(ROWS, K), b).shape == (ROWS, M)
    assert taken == [(ROWS, K)]


def test_a_layer_asks_for_few_shapes_whatever_the_number_of_rows(monkeypatch):
    shapes = set()

    def spy(a, b, bias, *_):
        shapes.add((*a.shape, *b.shape))
        return functional.linear(a, b, bias)

    monkeypatch.setattr(dense, "_onednn", spy)
    layer = Linear(K, FEWEST_ROWS + 1)  # so many that the weight's gradient is such a product too
    for rows in range(FEWEST_ROWS, FEWEST_ROWS + 2 * MULTIPLE, 5):
        x = torch.randn(rows, K, requires_grad=True)
        layer(x).square().sum().backward()
    assert len(shapes) == 3 * 3  # three products; 64, 128 or 192 rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("there", [True, False])
def test_rows_are_padded_only_for_onednn(monkeypatch, dtype, there):
    monkeypatch.setattr(dense, "_onednn", functional.linear if there else None)
    for count in (0, 1, MULTIPLE, MULTIPLE + 1):
        rows = torch.randn(count, K, dtype=dtype)
        found = pad_rows(rows)
        near(found[:count], rows)
        assert not found[count:].any()
        wanted = there and dtype == torch.float32
        assert len(found) == (-(-count // MULTIPLE) * MULTIPLE if wanted else count)


def test_a_layer_keeps_its_input_and_no_padded_copy(monkeypatch):
    monkeypatch.setattr(dense, "_onednn", lambda a, b, bias, *_: functional.linear(a, b, bias))
    kept = list[Tensor]()
    x, layer = torch.randn(ROWS, K), Linear(K, M)
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
    assert x.data_ptr() in [tensor.data_ptr() for tensor in kept]
    assert {len(tensor) for tensor in kept} == {ROWS, M}


@pytest.mark.parametrize("change", [None, RuntimeError, TypeError])
def test_an_operator_that_is_called_in_another_way_is_left_alone(monkeypatch, change):
    def other(*_):
        raise change("expected at most 5 arguments")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", change and other, raising=False)
    assert dense._find() is None


@pytest.mark.parametrize("still", [None, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_embedding_has_the_bits_of_torchs(still: int | None, threads: int) -> None:
    """Ids that come again, the one without a gradient among them; as they lie in a batch turned."""
    ids = torch.randint(0, 9, (50, 7)).t()
    ours, theirs = Embedding(9, 5, padding_idx=still), torch.nn.Embedding(9, 5, padding_idx=still)
    ours.load_state_dict(theirs.state_dict())
    slope = torch.randn(5).expand(7, 50, 5) * torch.arange(350.0).view(7, 50, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for table in (ours, theirs):
            (table(ids) * slope).sum().backward()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours(ids), theirs(ids))
    assert ours.weight.grad is not None
    assert theirs.weight.grad is not None
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
