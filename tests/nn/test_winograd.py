"""Winograd's convolutions: exact on whole numbers, close on others, used only where they may be."""

import contextlib
import copy
import ctypes
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from sfl.nn import RegularConvNet, kernel, winograd
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
    monkeypatch.setattr(winograd, "LEAST_TILES", 0)
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
    """Within 0.5 % of the exact result, root of the mean square, and a small sample's luck."""
    torch.manual_seed(seed)
    case = (batch, 16 * channels, 16 * outs, height, width, padding)
    x, weight, bias, dy = drawn(case, torch.randn)
    found = results(conv2d, x, weight, bias, dy, padding)
    expected = results(convolved, x, weight, bias, dy, padding)
    for ours, exact in zip(found, expected, strict=True):
        assert (ours - exact).norm() <= 0.006 * exact.norm()


def test_as_exact_as_is_said() -> None:
    torch.manual_seed(0)
    case = (8, 128, 128, 16, 16, (1, 1))
    inputs = drawn(case, torch.randn)
    expected = results(convolved, *inputs, (1, 1))

    def pytorchs(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=padding)

    for form, least, most in ((conv2d, 0.003, 0.005), (pytorchs, 0.0015, 0.003)):
        found = results(form, *inputs, (1, 1))
        for ours, exact in zip(found[:3], expected, strict=False):
            assert least <= (ours - exact).norm() / exact.norm() <= most


def test_the_same_on_any_number_of_threads() -> None:
    """Of four panels of channels, which five threads share: exact, as on one."""
    torch.manual_seed(0)
    x, weight, bias, dy = drawn((6, 208, 80, 7, 6, (1, 1)), whole)
    inputs = (x, weight * 4, bias, dy)
    expected = results(convolved, *inputs, (1, 1))
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 5):
            torch.set_num_threads(threads)
            found = results(conv2d, *inputs, (1, 1))
            for ours, exact in zip(found, expected, strict=True):
                assert torch.equal(ours, exact.to(ours.dtype))
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of other processors")
@pytest.mark.parametrize("flag", ["-march=x86-64", "-mno-avx512bf16"])
def test_exact_where_the_processor_has_no_such_products(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, built = kernel.FOLDER / "winograd.cpp", tmp_path / "kernel.so"
    flags = [*(f for f in kernel.FLAGS if f != "-O3"), "-O1", flag]
    command = [kernel._compiler(), *flags, str(source), *kernel._openmp(), "-o", str(built)]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(built))
    assert not library.sfl_has_pairs()
    monkeypatch.setattr(kernel, "load", lambda: library)
    for case in CASES[:4]:
        test_exact_on_whole_numbers(case)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_stay_none(number: float) -> None:
    x, weight, bias, dy = drawn((1, 16, 16, 8, 8, (1, 1)), whole)
    x[0, 3, 2, 2] = number
    y, _, dweight, _ = results(conv2d, x, weight, bias, dy, (1, 1))
    assert not y[0, :, 1:4, 1:4].isfinite().any()
    assert y[0, :, 6:, 6:].isfinite().all()  # of another tile
    assert not dweight[:, 3].isfinite().any() and dweight[:, 4].isfinite().all()
    dy[0, 5, 2, 2] = number
    _, dx, dweight, dbias = results(
        conv2d, *drawn((1, 16, 16, 8, 8, (1, 1)), whole)[:3], dy, (1, 1)
    )
    assert not dx[0, :, 1:4, 1:4].isfinite().any()
    assert not dbias[5].isfinite() and not dweight[5].isfinite().any()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w, b: (x.float(), w, b, (1, 1)),
        lambda x, w, b: (x[:0], w, b, (1, 1)),
        lambda x, w, b: (x[0], w, b, (1, 1)),
        lambda x, w, b: (x, w[:40], b[:40], (1, 1)),
        lambda x, w, b: (x, w[:, :16], b, (1, 1)),
        lambda x, w, b: (x, w[..., :2], b, (1, 1)),
        lambda x, w, b: (x, w, b[:1], (1, 1)),
        lambda x, w, b: (x, w.bfloat16(), b, (1, 1)),
        lambda x, w, b: (x, w, b.double(), (1, 1)),
        lambda x, w, b: (x, w.to("meta"), b, (1, 1)),
        lambda x, w, b: (x, w, b, (3, 1)),
        lambda x, w, b: (x, w, b, (1, -1)),
        lambda x, w, b: (x[..., :2], w, b, (0, 0)),
    ],
)
def test_tensors_that_it_does_not_take(change: Callable[..., Any]) -> None:
    x, weight, bias, _ = drawn((2, 48, 48, 5, 5, (1, 1)), whole)
    conv2d(x, weight, bias, (1, 1))
    with pytest.raises(ValueError, match="no such convolution"):
        conv2d(*change(x, weight, bias))


# --- the module


def pair_of_layers(last: bool = True, **settings: Any) -> tuple[Conv2d, nn.Conv2d]:
    """Ours and PyTorch's, with the same weights, in torch.channels_last or not."""
    ours = Conv2d(**({"in_channels": 48, "out_channels": 64, "kernel_size": 3} | settings))
    theirs = copy.deepcopy(ours.to(memory_format=LAST) if last else ours)
    theirs.__class__ = nn.Conv2d  # type: ignore[assignment]
    return ours, theirs


def images(*size: int) -> Tensor:
    return torch.randn(*size).to(memory_format=LAST)


@pytest.mark.parametrize("padding", [0, 1, 2, (0, 2), "same", "valid"])
@pytest.mark.parametrize(("bias", "last"), [(True, True), (False, True), (True, False)])
def test_under_autocast_it_computes_convolutions(
    padding: Any, bias: bool, last: bool, used: list[str]
) -> None:
    torch.manual_seed(0)
    ours, theirs = pair_of_layers(padding=padding, bias=bias, last=last)
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
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(ours(x), theirs(x))
        for other in (x.double(), x.long(), x.to(torch.complex64)):
            for layer in (ours, theirs):
                with pytest.raises(RuntimeError):
                    layer(other)
        with FlopCounterMode(display=False) as flops:
            ours(x)
        assert flops.get_total_flops() == 2 * 2 * 36 * 9 * 48 * 64
        with pytest.raises(RuntimeError, match="48 channels, but got 32"):
            ours(images(2, 32, 8, 8))
        with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
            ours(images(2, 48, 2, 8))
        monkeypatch.setattr(winograd, "LEAST_TILES", 19)  # there are 2 · 3 · 3
        assert torch.equal(ours(x), theirs(x))
        monkeypatch.setattr(winograd, "LEAST_TILES", 18)
        monkeypatch.setattr(kernel, "multiplies_pairs", lambda: False)
        assert torch.equal(ours(x), theirs(x))
    assert not used


def test_parameters_that_are_not_the_constructors(used: list[str]) -> None:
    x = images(2, 48, 8, 8)
    pruned, theirs = pair_of_layers()
    for layer in (pruned, theirs):
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(parameter[:40]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pruned(x), theirs(x))
        for broken in ({"device": "meta"}, {"dtype": torch.float64}):
            wrong, _ = pair_of_layers()
            wrong.bias = nn.Parameter(torch.zeros(64, **broken))  # type: ignore[arg-type]
            assert wrong.bias is not None
            with contextlib.suppress(RuntimeError):
                wrong(x)
        wrong.bias = nn.Parameter(torch.zeros(3))
        with pytest.raises(RuntimeError):
            wrong(x)
        negative, _ = pair_of_layers(padding=-1)
        with pytest.raises(RuntimeError, match="negative padding"):
            negative(x)
    assert not used


def test_it_computes_where_the_input_is(used: list[str]) -> None:
    ours, _ = pair_of_layers()
    x = images(2, 48, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        y = ours(x)
    assert y.device.type == "cpu" and used == FUNCTIONS[:1]


def test_what_is_kept_for_the_gradients_may_come_back_in_another_order(used: list[str]) -> None:
    ours, _ = pair_of_layers()
    found = []
    for unpack in (lambda kept: kept, lambda kept: kept.contiguous()):
        x = images(2, 48, 8, 8).copy_(torch.arange(48)[:, None, None]).requires_grad_()
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, unpack)
        with torch.autocast("cpu", torch.bfloat16), hooks:
            y = ours(x)
        found.append(torch.autograd.grad(y.sum(), [x, *ours.parameters()]))
    assert all(map(torch.equal, *found))
    assert used == 2 * FUNCTIONS


def test_compilers_see_pytorchs_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what decides, which asks for the kernel."""
    ours, theirs = pair_of_layers()
    x = images(2, 48, 16, 16)

    def asked() -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(kernel, "multiplies_pairs", asked)
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(ours, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), theirs(x))


def test_recomputed_copied_and_without_gradients(used: list[str], tmp_path: Path) -> None:
    ours, _ = pair_of_layers()
    x = images(2, 48, 8, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        expected = ours(x)
        (dx,) = torch.autograd.grad(expected.sum(), x)
        again = checkpoint(ours, x, use_reentrant=False)
        assert torch.equal(torch.autograd.grad(again.sum(), x)[0], dx)
        for still in (torch.no_grad(), torch.inference_mode()):
            with still:
                assert torch.equal(ours(x), expected)
        assert torch.equal(copy.deepcopy(ours)(x), expected)
        torch.save(ours, tmp_path / "layer.pt")
        assert torch.equal(torch.load(tmp_path / "layer.pt", weights_only=False)(x), expected)
    assert used.count("winograd_forward") == 7 and len(used) == 11


def test_fake_tensors_pass_through(used: list[str]) -> None:
    with torch.autocast("cpu", torch.bfloat16), FakeTensorMode():
        y = Conv2d(48, 64, 3)(images(2, 48, 8, 8))
    assert y.shape == (2, 64, 6, 6) and not used


def test_which_processors_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    library = kernel.load()
    assert library is not None
    monkeypatch.setattr(kernel, "_has_amx", lambda: False)
    assert kernel.multiplies_pairs() == ("avx512_bf16" in kernel._instructions())
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
            assert (one.grad - other.grad).norm() <= 0.01 * other.grad.norm()
    assert len(used) == (1 if "weight" in frozen and len(frozen) == 1 else 2)


@pytest.mark.parametrize("last", [True, False])
def test_gradients_of_gradients_and_many_at_once(last: bool, used: list[str]) -> None:
    torch.manual_seed(0)
    ours, theirs = pair_of_layers(last)
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
