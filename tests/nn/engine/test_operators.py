"""The product and its gradients: equal to plain loops whatever the shapes, in every form."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfl.nn.engine import locally_connected, reference, reference_engine
from sfl.nn.engine.choice import choose
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.storage import dense_to_local
from sfl.nn.window import Window, window_of
from tests.nn.oracle import by_loops

# What PyTorch's own code calls.
torchs_own = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
small, tiny = st.integers(1, 4), st.integers(1, 3)


@pytest.fixture(scope="module", autouse=True, params=["compiled", "reference"])
def form(request: Any) -> Iterator[str]:
    """All that follows holds for both forms."""
    if request.param not in ("reference", choose(torch.device("cpu"), torch.float32)[0].NAME):
        pytest.skip("there is no C++ compiler here")
    with reference_engine() if request.param == "reference" else contextlib.nullcontext():
        yield request.param


@dataclass(frozen=True)
class Case:
    """Sizes of a product, and how its tensors lie in memory."""

    batch: int
    channels: int
    out_channels: int
    size: tuple[int, int]
    window: Window
    positions: tuple[int, int]
    groups: int

    def drawn(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        """x, weight and bias."""
        generator = torch.Generator().manual_seed(self.batch + 10 * self.channels)
        field = (*self.window.kernel, self.channels // self.groups)
        shapes = (
            (self.batch, self.channels, *self.size),
            (*self.positions, self.out_channels, *field),
            (self.out_channels, *self.positions),
        )
        x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
        return x.to(dtype), weight.to(dtype), bias.to(dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any kernel, stride, padding, dilation and number of groups that fit."""
    kernel, stride, dilation = (draw(st.tuples(tiny, tiny)) for _ in range(3))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    extents = [(k - 1) * d + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(max(1, extent) + draw(st.integers(0, 3)) for extent in extents)
    groups = draw(tiny)
    window, positions = window_of(size, kernel, stride, padding, dilation)
    channels, out_channels = groups * draw(tiny), groups * draw(small)
    return Case(draw(st.integers(0, 5)), channels, out_channels, size, window, positions, groups)  # type: ignore[arg-type]


def gradients(y: Tensor, dy: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs, dy)


def close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], bound: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=bound, atol=bound)


@settings(deadline=None)
@given(cases(), st.booleans())
def test_it_equals_plain_loops(case: Case, with_bias: bool) -> None:
    """Forward, and the gradients of the input, the weights and the bias, to 1e-10."""
    x, weight, bias = (tensor.requires_grad_() for tensor in case.drawn())
    inputs = (x, weight, bias) if with_bias else (x, weight)
    given_bias = bias if with_bias else None
    y = locally_connected(x, weight, given_bias, case.window, case.groups)
    expected = by_loops(x, weight, given_bias, case.window, case.groups)
    dy = torch.randn_like(expected)
    close((y, *gradients(y, dy, *inputs)), (expected, *gradients(expected, dy, *inputs)), 1e-10)


@settings(deadline=None, max_examples=30)
@given(cases())
def test_the_form_with_all_derivatives_is_the_same(case: Case) -> None:
    x, weight, bias = case.drawn()
    found = reference.with_all_derivatives(x, weight, bias, case.window, case.groups)
    expected = locally_connected(x, weight, bias, case.window, case.groups)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


CASES = {
    "plain": Case(2, 2, 3, (4, 5), *window_of((4, 5), (2, 3)), 1),
    "all at once": Case(2, 4, 2, (5, 4), *window_of((5, 4), (2, 3), (2, 1), (1, 2), (1, 2)), 2),
    "depthwise": Case(1, 3, 3, (4, 4), *window_of((4, 4), 2, 1, "same"), 3),
}
some = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@some
def test_first_and_second_derivatives(case: Case) -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in case.drawn())

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return locally_connected(x, weight, bias, case.window, case.groups)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@some
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
def test_smaller_floats_stay_within_bounds(case: Case, dtype: torch.dtype, bound: float) -> None:
    """Sums of up to 18 products of numbers of about 1."""
    x, weight, bias = (tensor.requires_grad_() for tensor in case.drawn(dtype))
    x64, weight64, bias64 = exact = [
        tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)
    ]
    y = locally_connected(x, weight, bias, case.window, case.groups)
    expected = by_loops(x64, weight64, bias64, case.window, case.groups)
    dy = torch.randn_like(y)
    found = (y, *gradients(y, dy, x, weight, bias))
    assert all(tensor.dtype == dtype for tensor in found)
    close(found, (expected, *gradients(expected, dy.double(), *exact)), bound)


@some
def test_shared_weights_make_a_convolution(case: Case) -> None:
    x, weight, _ = case.drawn()
    filters = weight[0, 0]
    shared = filters.expand_as(weight)  # no memory of its own
    found = locally_connected(x, shared, None, case.window, case.groups)
    window = case.window
    (top, left), (height, width) = window.padding, window.reach(case.positions)
    padded = F.pad(x, (left, width, top, height))
    expected = F.conv2d(
        padded, filters.movedim(-1, 1), None, window.stride, 0, window.dilation, case.groups
    )
    torch.testing.assert_close(found, expected[:, :, : case.positions[0], : case.positions[1]])


@some
def test_memory_order_does_not_matter(case: Case) -> None:
    x, weight, bias = case.drawn()
    expected = locally_connected(x, weight, bias, case.window, case.groups)
    twice = torch.stack([x, x], dim=4)[..., 0]
    assert not twice.is_contiguous()
    for order in (
        x.contiguous(memory_format=torch.channels_last),
        twice,
        x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
    ):
        given_weight = weight.mT.contiguous().mT
        assert torch.equal(order, x)
        found = locally_connected(order, given_weight, bias, case.window, case.groups)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_only_the_gradients_that_are_asked_for(wanted: tuple[int, ...]) -> None:
    case = CASES["all at once"]
    inputs = case.drawn()
    for index in wanted:
        inputs[index].requires_grad_()
    locally_connected(*inputs, case.window, case.groups).sum().backward()
    assert [t.grad is not None for t in inputs] == [index in wanted for index in range(3)]


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of positions at a time, or all at once."""
    case = CASES["all at once"]
    x, weight, bias = (tensor.requires_grad_() for tensor in case.drawn())
    found = []
    for size in (1, 1 << 30):
        monkeypatch.setattr(reference, "CPU_BAND", size)
        y = locally_connected(x, weight, bias, case.window, case.groups)
        found.append((y, *gradients(y, torch.ones_like(y), x, weight)))
    close(found[0], found[1], 1e-12)


@torchs_own
@pytest.mark.parametrize("needs", [True, False])
def test_pytorchs_own_checks_of_an_operator(needs: bool) -> None:
    """Schema, autograd registration, fake tensors and their strides, torch.compile's tracing."""
    case = CASES["all at once"]
    x, weight, bias = (tensor.requires_grad_(needs) for tensor in case.drawn(torch.float32))
    rest = ([*case.window.numbers], case.groups)
    dy = torch.randn(case.batch, case.out_channels, *case.positions, requires_grad=needs)
    operators = torch.ops.sfl
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (operators.spatial_conv2d, (x, weight, bias, *rest)),
        (operators.spatial_conv2d_input_gradient, (dy, weight, x, *rest)),
        (operators.spatial_conv2d_weight_gradient, (x, dy, torch.float32, *rest)),
        (operators.batch_innermost, (x,)),
    ]
    if not needs:  # it is for where nobody wants gradients of it
        calls.append((operators.spatial_conv2d_gradients, (dy, weight, x, *rest)))
    for operator, arguments in calls:
        torch.library.opcheck(operator.default, arguments)


@torchs_own
def test_torch_compile_takes_it_whole() -> None:
    case = CASES["all at once"]
    x, weight, bias = (tensor.requires_grad_() for tensor in case.drawn())

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return locally_connected(x, weight, bias, case.window, case.groups).relu().sum()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    expected = gradients(function(x, weight, bias), torch.tensor(1.0), x, weight, bias)
    found = gradients(compiled(x, weight, bias), torch.tensor(1.0), x, weight, bias)
    close(found, expected, 1e-12)


def test_threads_and_tiles_do_not_show(form: str) -> None:
    """Sizes that fill no vector and no tile of the kernel, over several of them."""
    window, positions = window_of((5, 4), (3, 2), 1, 1)
    case = Case(37, 6, 14, (5, 4), window, positions, 2)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3, 16):
        torch.set_num_threads(count)
        x, weight, bias = (tensor.requires_grad_() for tensor in case.drawn())
        y = locally_connected(x, weight, bias, window, 2)
        found.append((y, *gradients(y, torch.ones_like(y), x, weight, bias)))
    torch.set_num_threads(threads)
    x, weight, bias = (tensor.requires_grad_() for tensor in case.drawn())
    expected = by_loops(x, weight, bias, window, 2)
    close(
        found[0],
        (expected, *gradients(expected, torch.ones_like(expected), x, weight, bias)),
        1e-10,
    )
    for other in found[1:]:
        assert form == "reference" or all(map(torch.equal, found[0], other))
        close(other, found[0], 1e-12)


def test_autocast() -> None:
    """On a CPU it computes in float32; float64 stays what it is."""
    case = CASES["all at once"]
    x, weight, bias = (tensor.requires_grad_() for tensor in case.drawn(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            y = locally_connected(given, weight, bias, case.window, case.groups)
            assert y.dtype == torch.float32
        exact = locally_connected(x.double(), weight.double(), bias, case.window, case.groups)
        assert exact.dtype == torch.float64
    expected = locally_connected(x, weight, bias, case.window, case.groups)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    for gradient in gradients(y, torch.ones_like(y), x, weight, bias):
        assert gradient.dtype == torch.float32  # of float32 weights
    half_x, half_weight, half_bias = (each.detach().bfloat16() for each in (x, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        y = locally_connected(half_x, half_weight, half_bias, case.window, case.groups)
    assert y.dtype == torch.bfloat16  # which a BatchNorm of theirs takes
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


# --- torch.func and forward mode: they take the form that PyTorch has every rule for


@torchs_own
def test_forward_mode_and_the_transforms_of_torch_func() -> None:
    case = CASES["all at once"]
    x, weight, bias = case.drawn()

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return locally_connected(x, weight, bias, case.window, case.groups)

    def loss(weight: Tensor) -> Tensor:
        return function(x, weight).square().sum()

    tangent = torch.randn_like(weight)
    # The product is linear in its weights.
    along = locally_connected(x, tangent, None, case.window, case.groups)
    y = function(x, weight)
    found = torch.func.jvp(lambda weight: function(x, weight), (weight,), (tangent,))
    close(found, (y, along), 1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight, tangent)
        unpacked = torch.autograd.forward_ad.unpack_dual(function(x, dual))
        assert unpacked.tangent is not None
        close((unpacked.primal, unpacked.tangent), (y, along), 1e-12)
    leaf = weight.clone().requires_grad_()
    expected = torch.autograd.grad(loss(leaf), leaf)
    close((torch.func.grad(loss)(weight),), expected, 1e-12)
    second = torch.func.jvp(torch.func.grad(loss), (weight,), (tangent,))
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    close(second, (first, *torch.autograd.grad(first, leaf, tangent)), 1e-10)
    each = torch.func.vmap(lambda image: function(image[None], weight)[0])(x)
    close((each,), (y,), 1e-12)


# --- the layer over them


@settings(deadline=None)
@given(cases(), st.sampled_from([False, True, "channel", "position"]))
def test_the_layer_equals_plain_loops_in_both_storages(case: Case, bias: Any) -> None:
    """Forward, and the gradients of the input, the weights and the bias, to 1e-10."""
    window, x = case.window, case.drawn()[0].requires_grad_()
    local = SpatialFeatureLayer(
        (case.channels, *case.size), case.out_channels, window.kernel, bias=bias,
        stride=window.stride, padding=window.padding, dilation=window.dilation,
        groups=case.groups, dtype=torch.float64,
    )  # fmt: skip
    if local.bias is not None:
        torch.nn.init.normal_(local.bias)
    units: Tensor | None = local.bias
    if units is not None and units.dim() == 1:
        units = units[:, None, None]
    expected = by_loops(x, local.weight, units, window, case.groups)
    dy = torch.randn_like(expected)
    dx, dw, *db = gradients(expected, dy, x, *local.parameters())
    y = local(x)
    close((y, *gradients(y, dy, x, *local.parameters())), (expected, dx, dw, *db), 1e-10)

    dense = local.with_storage("dense")[0]
    y = dense(x)
    by_dense = gradients(y, dy, x, *dense.parameters())
    full = torch.einsum("bchw,boyx->chwoyx", x, dy)  # every input feeds every unit
    close((y, *by_dense), (expected, dx, full, *db), 1e-10)
    inside = dense_to_local(by_dense[1], window, case.groups)
    exists = local.field_mask()[:, :, None, :, :, None]
    close((inside,), (dw * exists,), 1e-10)


def test_no_call_of_a_matrix_product_is_of_more_than_cublas_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch, "bmm", lambda first, second, out: calls.append(len(first)))
    first, second = torch.empty(140_000, 1, 2), torch.empty(140_000, 2, 1)
    reference._multiply(first, second, torch.empty(140_000, 1, 1))
    assert sum(calls) == 140_000 and max(calls) <= 65_535
