"""Winograd's convolutions: exact on whole numbers, close on others, used only where they may be."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sfl.nn import RegularConvNet, kernel
from sfl.nn.winograd import Conv2d, conv2d

pytestmark = pytest.mark.skipif(kernel.load() is None, reason="there is no C++ compiler here")

LAST = torch.channels_last
FUNCTIONS = [f"winograd_{name}" for name in ("forward", "input_gradient", "weight_gradient")]
# batch, C, O, H, W, padding: sizes that are no multiple of a tile, channels that are no multiple of
# a panel, more tiles than a chunk, fewer than a pair
CASES = [
    (2, 16, 16, 4, 4, (1, 1)),
    (1, 16, 32, 3, 3, (0, 0)),
    (3, 48, 80, 7, 6, (1, 1)),
    (2, 80, 48, 5, 8, (0, 2)),
    (1, 64, 128, 1, 1, (1, 1)),
    (7, 32, 16, 17, 15, (2, 1)),
    (40, 16, 16, 8, 8, (1, 1)),
]
Case = tuple[int, int, int, int, int, tuple[int, int]]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernel's functions as they are called, on a processor with such products."""
    names: list[str] = []
    call = kernel.call_exact

    def listening(name: str, *rest: Any) -> None:
        if name in FUNCTIONS:  # not what stands between the layers
            names.append(name)
        call(name, *rest)

    monkeypatch.setattr(kernel, "call_exact", listening)
    monkeypatch.setattr(kernel, "multiplies_pairs", lambda: True)
    return names


def whole(*size: int, most: int = 4, step: int = 1) -> Tensor:
    """Whole numbers, multiples of `step`."""
    return torch.randint(-most, most + 1, size).float() * step


def convolved(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
    return F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)


def results(
    form: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, *rest: Any
) -> list[Tensor]:
    """The output and the gradients of the three."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    y = form(*inputs, *rest)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


def drawn(case: Case, number: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """x, weight, bias and dy, of numbers that bfloat16 has."""
    batch, channels, out_channels, height, width, padding = case
    size = (height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
    x, dy = number(batch, channels, height, width), number(batch, out_channels, *size)
    weight, bias = number(out_channels, channels, 3, 3), number(out_channels)
    return x.bfloat16().to(memory_format=LAST), weight, bias, dy.bfloat16()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_on_whole_numbers(case: Case) -> None:
    """Transformed, kernels that are multiples of four are whole, and all sums are exact."""
    torch.manual_seed(0)
    x, weight, bias, dy = drawn(case, whole)
    weight = weight * 4
    found = results(conv2d, x, weight, bias, dy, case[5])
    expected = results(convolved, x, weight, bias, dy, case[5])
    for ours, exact in zip(found, expected, strict=True):
        assert torch.equal(ours, exact.to(ours.dtype))
    assert found[0].is_contiguous(memory_format=LAST) and found[1].dtype == torch.bfloat16
    assert found[2].dtype == found[3].dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(3, 12),
    st.integers(3, 12), st.tuples(st.integers(0, 2), st.integers(0, 2)), st.integers(0, 99),
)  # fmt: skip
def test_close_on_others(
    batch: int, channels: int, outs: int, height: int, width: int, padding: tuple[int, int],
    seed: int,
) -> None:  # fmt: skip
    """Within 1 % of the exact result, root of the mean square: bfloat16 has 8 bits."""
    torch.manual_seed(seed)
    case = (batch, 16 * channels, 16 * outs, height, width, padding)
    x, weight, bias, dy = drawn(case, torch.randn)
    found = results(conv2d, x, weight, bias, dy, padding)
    expected = results(convolved, x, weight, bias, dy, padding)
    for ours, exact in zip(found, expected, strict=True):
        assert (ours - exact).norm() <= 0.01 * exact.norm()


def test_the_same_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    inputs = drawn((40, 48, 80, 9, 9, (1, 1)), torch.randn)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(conv2d, *inputs, (1, 1)))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_numbers_that_are_none_stay_none() -> None:
    x, weight, bias, _ = drawn((1, 16, 16, 8, 8, (1, 1)), whole)
    x[0, 3, 2, 2] = float("nan")
    y = conv2d(x, weight, bias, (1, 1))
    assert y[0, :, 1:4, 1:4].isnan().all()
    assert y[0, :, 6:, 6:].isfinite().all()  # of another tile


# --- the module


def pair_of_layers(**settings: Any) -> tuple[Conv2d, nn.Conv2d]:
    """Ours and PyTorch's, with the same weights."""
    ours = Conv2d(**({"in_channels": 48, "out_channels": 64, "kernel_size": 3} | settings))
    theirs = copy.deepcopy(ours.to(memory_format=LAST))
    theirs.__class__ = nn.Conv2d  # type: ignore[assignment]
    return ours, theirs


def images(*size: int) -> Tensor:
    return torch.randn(*size).to(memory_format=LAST)


@pytest.mark.parametrize("padding", [0, 1, 2, (0, 2), "same", "valid"])
@pytest.mark.parametrize("bias", [True, False])
def test_under_autocast_it_computes_convolutions(padding: Any, bias: bool, used: list[str]) -> None:
    torch.manual_seed(0)
    ours, theirs = pair_of_layers(padding=padding, bias=bias)
    x, found = images(3, 48, 6, 9), []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(given)
        torch.manual_seed(1)
        y.backward(torch.randn_like(y))
        found.append([y, given.grad, *(p.grad for p in layer.parameters())])
    assert used == FUNCTIONS
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one.float() - other.float()).norm() <= 0.01 * other.float().norm()


OTHERS: dict[str, dict[str, Any]] = {
    "another kernel": {"kernel_size": 5},
    "a kernel that isn't square": {"kernel_size": (3, 1)},
    "stride": {"stride": 2},
    "dilation": {"dilation": (1, 2)},
    "groups": {"groups": 2},
    "more padding": {"padding": 3},
    "padding that isn't zeros": {"padding": 1, "padding_mode": "reflect"},
    "channels in": {"in_channels": 40},
    "channels out": {"out_channels": 40},
    "few channels": {"in_channels": 16, "out_channels": 64},
    "weights of another type": {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
def test_other_layers_are_pytorchs(settings: dict[str, Any], used: list[str]) -> None:
    ours, theirs = pair_of_layers(**settings)
    x = images(2, settings.get("in_channels", 48), 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), theirs(x))
    assert not used


def test_other_inputs_are_pytorchs(used: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair_of_layers()
    x = images(2, 48, 8, 8)
    assert torch.equal(ours(x), theirs(x))  # no autocast
    with torch.autocast("cpu", torch.float16):
        assert ours(x).dtype == torch.float16
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x[0], x[:0], x.contiguous(), images(2, 48, 3, 8)):
            assert torch.equal(ours(given), theirs(given))
            assert ours(given).stride() == theirs(given).stride()
        with FlopCounterMode(display=False) as flops:
            ours(x)
        assert flops.get_total_flops() == 2 * 2 * 36 * 9 * 48 * 64
        with pytest.raises(RuntimeError, match="48 channels, but got 32"):
            ours(images(2, 32, 8, 8))
        with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
            ours(images(2, 48, 2, 8))
        monkeypatch.setattr(kernel, "multiplies_pairs", lambda: False)
        assert torch.equal(ours(x), theirs(x))
    assert not used


def test_fake_tensors_pass_through(used: list[str]) -> None:
    with torch.autocast("cpu", torch.bfloat16), FakeTensorMode():
        y = Conv2d(48, 64, 3)(images(2, 48, 8, 8))
    assert y.shape == (2, 64, 6, 6) and not used


def test_which_processors_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    library = kernel.load()
    assert library is not None
    monkeypatch.setattr(kernel, "_has_amx", lambda: False)
    assert kernel.multiplies_pairs() == bool(library.sfl_has_pairs())
    with kernel.without():
        assert not kernel.multiplies_pairs()
    monkeypatch.setattr(kernel, "_has_amx", lambda: True)
    assert not kernel.multiplies_pairs()


@pytest.mark.parametrize("frozen", [("weight",), ("bias",), ("weight", "bias")])
def test_only_what_is_asked_for_has_a_gradient(frozen: tuple[str, ...], used: list[str]) -> None:
    ours, theirs = pair_of_layers()
    given = images(2, 48, 8, 8)
    for layer in (ours, theirs):
        for name in frozen:
            layer.get_parameter(name).requires_grad_(False)
        x = given.clone().requires_grad_(len(frozen) == 2)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        y.sum().backward()  # a gradient of one number, expanded
        assert (x.grad is not None) == (len(frozen) == 2)
        for name, parameter in layer.named_parameters():
            assert (parameter.grad is None) == (name in frozen)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=0.02, atol=0.05)
    assert len(used) == 2


def test_gradients_of_gradients_and_many_at_once(used: list[str]) -> None:
    torch.manual_seed(0)
    ours, theirs = pair_of_layers()
    x, found = images(2, 48, 5, 5), []
    for layer in (ours, theirs):
        given = x.bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(given)
        (dx,) = torch.autograd.grad(y.square().sum(), given, create_graph=True)
        second = torch.autograd.grad(dx.float().square().sum(), layer.weight, retain_graph=True)
        many = torch.autograd.grad(y, given, torch.stack([y, -y]).detach(), is_grads_batched=True)
        found.append([dx, *second, *many])
    for one, other in zip(*found, strict=True):
        assert (one.float() - other.float()).norm() <= 0.02 * other.float().norm()
    # The second goes once through the first pass itself, and there it asks for no third.
    assert used == FUNCTIONS


def test_transforms_see_pytorchs_convolution(used: list[str]) -> None:
    ours, theirs = pair_of_layers()
    x = images(3, 48, 5, 5)

    def loss(weight: Tensor, layer: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = torch.func.functional_call(layer, {"weight": weight}, x)
        return y.float().square().sum()

    for layer in (ours, theirs):
        layer.requires_grad_(False)
    found = [torch.func.grad(loss)(ours.weight, layer, x) for layer in (ours, theirs)]
    assert torch.equal(*found) and not used


def test_a_network_learns_from_it_as_from_pytorchs(used: list[str]) -> None:
    """RegularConvNet's gradient is about as far from float32's as PyTorch's bfloat16 takes it."""
    torch.manual_seed(0)
    model = RegularConvNet(dropout=0, dropout2d=0).to(memory_format=LAST)
    x, labels = images(8, 3, 32, 32), torch.arange(8)

    def loss_and_gradient(model: nn.Module, bfloat16: bool) -> tuple[float, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(model(x).float(), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])

    exact_loss, exact = loss_and_gradient(copy.deepcopy(model), bfloat16=False)
    assert not used
    loss, ours = loss_and_gradient(copy.deepcopy(model), bfloat16=True)
    assert used.count("winograd_forward") == 5  # all but the first, which has 3 channels
    for module in model.modules():
        if type(module) is Conv2d:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    _, theirs = loss_and_gradient(model, bfloat16=True)
    assert loss == pytest.approx(exact_loss, rel=0.005)
    assert (ours - exact).norm() < 1.5 * (theirs - exact).norm()
