"""Normalisation and pooling with their ReLU: the numbers of PyTorch's own modules, in any order."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from sfl.nn.engine.cpu import kernel
from sfl.nn.engine.fused import BatchNormReLU2d, ReLUMaxPool2d, is_batch_innermost
from sfl.nn.spatial import SpatialFeatureLayer

compiled = pytest.mark.skipif(kernel.load() is None, reason="there is no C++ compiler here")
Called = list[str]


def innermost(x: Tensor) -> Tensor:
    return x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


in_every_order = pytest.mark.parametrize("order", [innermost, channels_last, contiguous])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """The names of the kernel's functions, as they are called."""
    names: Called = []
    call = kernel.call

    def listening(name: str, *rest: Any) -> None:
        names.append(name)
        call(name, *rest)

    monkeypatch.setattr(kernel, "call", listening)
    return names


def ours(channels: int) -> list[nn.Module]:
    """Both modules; the normalisation isn't the identity."""
    norm = BatchNormReLU2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    return [norm, ReLUMaxPool2d()]


def theirs(module: nn.Module) -> nn.Module:
    """The same of PyTorch's own modules, with copies of the weights."""
    if isinstance(module, ReLUMaxPool2d):
        return nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    norm = copy.deepcopy(module)
    norm.__class__ = nn.BatchNorm2d
    return nn.Sequential(norm, nn.ReLU())


def gradients(model: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The output and the gradients of the input and the parameters."""
    x = x.detach().requires_grad_()
    y = model(x)
    return (y.detach(), *torch.autograd.grad(y, [x, *model.parameters()], dy))


def test_which_tensors_have_their_batch_innermost() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert is_batch_innermost(innermost(x))
    assert not is_batch_innermost(x)
    assert not is_batch_innermost(channels_last(x))
    assert not is_batch_innermost(x[0])
    assert not is_batch_innermost(innermost(x)[:, :2])
    assert not is_batch_innermost(torch.randn(1, 1, 4, 5))  # both: a usual tensor
    assert not is_batch_innermost(innermost(torch.randn(1, 3, 4, 5)))  # both: channels_last


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([innermost, channels_last, contiguous]), st.booleans(), st.integers(2, 40),
    st.integers(1, 5), st.integers(2, 7), st.integers(2, 5), st.integers(0, 99),
)  # fmt: skip
def test_they_equal_pytorchs(
    order: Callable[[Tensor], Tensor], training: bool, batch: int, channels: int, height: int,
    width: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    for module in ours(channels):
        module.double().train(training)
        other = theirs(module)
        for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            x = order(torch.randn(batch, channels, height, width, dtype=torch.float64)) + 3
            dy = order(torch.randn_like(other(x)))
            module, other, x, dy = module.to(dtype), other.to(dtype), x.to(dtype), dy.to(dtype)
            expected = gradients(other, x, dy)
            found = gradients(module, x, dy)
            torch.testing.assert_close(found, expected, atol=bound, rtol=bound)
            with kernel.without():
                plain = gradients(module, x, dy)
            torch.testing.assert_close(plain, expected, atol=bound, rtol=bound)


@in_every_order
def test_running_statistics_are_pytorchs(order: Callable[[Tensor], Tensor]) -> None:
    module = ours(3)[0]
    other = theirs(module)
    for seed in range(2):
        torch.manual_seed(seed)
        x = order(torch.randn(5, 3, 6, 7))
        torch.testing.assert_close(module(x), other(x))
    expected = {key.removeprefix("0."): value for key, value in other.state_dict().items()}
    assert module.state_dict().keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(module.state_dict()[key], value)


@in_every_order
def test_the_order_in_memory_stays(order: Callable[[Tensor], Tensor]) -> None:
    x = order(torch.randn(4, 3, 6, 6))
    for module in ours(3):
        y = module(x.clone().requires_grad_())
        assert is_batch_innermost(y) == is_batch_innermost(x)
        assert torch.equal(x, order(x))  # and the input is left as it was


@compiled
def test_one_pass_where_the_engine_serves(called: Called) -> None:
    x = innermost(torch.randn(5, 3, 6, 7))
    for module, name in zip(ours(3), ("norm", "pool"), strict=True):
        module(x.clone().requires_grad_()).sum().backward()
        assert called == [f"{name}_forward", f"{name}_backward"]
        called.clear()


@compiled
def test_pytorchs_operations_elsewhere(called: Called) -> None:
    x = innermost(torch.randn(5, 3, 6, 7))
    norm, pool = ours(3)
    calls: list[Callable[[], Tensor]] = [
        lambda: norm.eval()(x),
        lambda: BatchNormReLU2d(3, affine=False)(x),
        lambda: BatchNormReLU2d(3, momentum=None)(x),
        lambda: BatchNormReLU2d(3, track_running_stats=False)(x),
        lambda: pool(x.contiguous()),
        lambda: pool(channels_last(x)),
        lambda: pool(x.bfloat16()),
        lambda: torch.func.vmap(pool)(x[None])[0],
    ]
    for call in calls:
        assert (call() >= 0).all()
    assert called == []


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        BatchNormReLU2d(3)(torch.randn(2, 3, 4))


@compiled
@pytest.mark.parametrize("place", [0, 1], ids=["norm", "pool"])
def test_first_derivatives_in_one_pass_second_ones_of_pytorchs_operations(place: int) -> None:
    torch.manual_seed(0)
    module = ours(2)[place].double()
    x = (innermost(torch.randn(3, 2, 4, 5, dtype=torch.float64)) * 3).requires_grad_()
    forward = lambda x, *parameters: torch.func.functional_call(  # noqa: E731
        module, dict(zip(dict(module.named_parameters()), parameters, strict=True)), x
    )
    inputs = (x, *module.parameters())
    assert torch.autograd.gradcheck(forward, inputs)
    (dx,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
    with kernel.without():
        assert torch.autograd.gradgradcheck(forward, inputs)


@compiled
def test_a_nan_goes_through_and_its_gradient_back() -> None:
    x = innermost(torch.randn(4, 2, 4, 4))
    x[1, 0, 2, 3] = torch.nan
    norm, pool = ours(2)
    y, dx, *_ = gradients(norm, x, torch.ones_like(x))
    assert y[:, 0].isnan().all() and dx[:, 0].isnan().all() and dx[:, 1].isfinite().all()
    y, dx = gradients(pool, x, torch.ones(4, 2, 2, 2))
    assert y[1, 0, 1, 1].isnan() and y.isnan().sum() == 1
    assert dx[1, 0, 2, 3] == 1 and dx[1, 0, 2:, 2:].sum() == 1


def test_what_comes_next_may_change_the_output_in_place() -> None:
    x, dy = innermost(torch.randn(4, 3, 4, 4)), torch.randn(4, 3, 2, 2)
    pool = ReLUMaxPool2d()
    model = nn.Sequential(pool, nn.ReLU(inplace=True))
    assert torch.equal(gradients(model, x, dy)[1], gradients(pool, x, dy)[1])


@compiled
def test_parameters_as_pytorch_takes_them(called: Called) -> None:
    """Strided ones are read as they are; what PyTorch refuses is left to it."""
    x, norm = innermost(torch.randn(4, 3, 4, 4)), ours(3)[0]
    for weight in (torch.randn(6)[::2], torch.randn(1).expand(3)):
        found = torch.func.functional_call(norm, {"weight": weight}, x)
        expected = torch.func.functional_call(theirs(norm), {"0.weight": weight}, x)
        torch.testing.assert_close(found, expected)
    assert len(called) == 2
    for wrong in (torch.ones(3).double(), torch.ones(2), torch.ones(3, device="meta")):
        with pytest.raises(RuntimeError):
            torch.func.functional_call(norm, {"weight": wrong}, x)
    assert len(called) == 2


@compiled
def test_they_compute_where_the_input_is() -> None:
    x = innermost(torch.randn(4, 3, 4, 4))
    for module in ours(3):
        dy = torch.randn_like(module(x))
        expected = gradients(module, x, dy)
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous())
        with torch.device("meta"), hooks:
            found = gradients(module, x, dy)
        assert all(map(torch.equal, found, expected))


@compiled
def test_threads_do_not_show() -> None:
    threads, x = torch.get_num_threads(), innermost(torch.randn(20, 3, 9, 8))
    found = []
    try:
        for many in (1, 3):
            torch.set_num_threads(many)
            torch.manual_seed(0)
            dy = (torch.randn(20, 3, 9, 8), torch.randn(20, 3, 4, 4))
            each = [gradients(module, x, d) for module, d in zip(ours(3), dy, strict=True)]
            found.append([tensor for tensors in each for tensor in tensors])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@compiled
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilers_and_tracers_see_plain_operations() -> None:
    model = nn.Sequential(
        SpatialFeatureLayer((3, 8, 8), 4, 3), BatchNormReLU2d(4),
        SpatialFeatureLayer((4, 6, 6), 4, 3, padding=1), ReLUMaxPool2d(),
    )  # fmt: skip
    x = torch.randn(5, 3, 8, 8)
    expected = model(x)
    compiled_model = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled_model(x), expected)
    traced = make_fx(copy.deepcopy(model).eval())(x)
    torch.testing.assert_close(traced(x + 1), copy.deepcopy(model).eval()(x + 1))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == expected.shape
