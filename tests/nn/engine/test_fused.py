"""Normalisation with ReLU and ReLU with pooling: the numbers of PyTorch's own modules."""

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

from sfl.nn.engine import BatchNormReLU, ReLUMaxPool2d, reference_engine, synchronized
from sfl.nn.engine.choice import choose
from sfl.nn.engine.cpu import build, kernel
from sfl.nn.engine.memory_order import batch_innermost, is_batch_innermost
from sfl.nn.spatial import SpatialFeatureLayer

compiled = pytest.mark.skipif(
    choose(torch.device("cpu"), torch.float32)[0] is not kernel,
    reason="there is no C++ compiler here",
)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


# What PyTorch's own code calls.
torchs_own = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
Called = list[str]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """The names of the library's functions, as they are called."""
    names: Called = []
    call = build.call

    def listening(name: str, *rest: Any) -> None:
        names.append(name)
        call(name, *rest)

    monkeypatch.setattr(build, "call", listening)
    return names


def fused(channels: int) -> tuple[BatchNormReLU, ReLUMaxPool2d]:
    """Both modules; a normalisation that isn't the identity."""
    norm = BatchNormReLU(channels)
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    return norm, ReLUMaxPool2d()


def as_two(module: nn.Module) -> nn.Sequential:
    """PyTorch's own modules for one of ours, with the same weights and statistics."""
    if isinstance(module, ReLUMaxPool2d):
        return nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 2))
    assert isinstance(module, BatchNormReLU)
    norm = nn.BatchNorm2d(module.num_features, dtype=module.weight.dtype)
    norm.load_state_dict(module.state_dict())
    return nn.Sequential(norm, nn.ReLU()).train(module.training)


def gradients(model: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The output and the gradients of the input and the parameters."""
    x = x.detach().requires_grad_()
    y = model(x)
    return (y.detach(), *torch.autograd.grad(y, [x, *model.parameters()], dy))


Order = Callable[[Tensor], Tensor]
ORDERS: list[Order] = [batch_innermost, channels_last, lambda x: x.contiguous()]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(ORDERS), st.integers(1, 40), st.integers(1, 5), st.integers(2, 7),
    st.integers(2, 5), st.integers(0, 99),
)  # fmt: skip
def test_they_equal_pytorchs_modules(
    order: Order, batch: int, channels: int, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    for module in fused(channels):
        for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            ours = module.to(dtype)
            theirs = as_two(ours)
            x = order(torch.randn(batch, channels, height, width, dtype=dtype)) + 3
            dy = order(torch.randn_like(theirs(x)))
            found, expected = gradients(ours, x, dy), gradients(theirs, x, dy)
            torch.testing.assert_close(found, expected, atol=bound, rtol=bound)
            if order is batch_innermost and batch > 1 and channels * height * width > 4:
                assert is_batch_innermost(found[0]) or found[0].is_contiguous()


@pytest.mark.parametrize("plainly", [False, True])
def test_evaluation_and_running_statistics_are_batch_norms(plainly: bool) -> None:
    ours = fused(3)[0]
    theirs = as_two(ours)
    assert ours.state_dict().keys() == theirs[0].state_dict().keys()
    x = batch_innermost(torch.randn(5, 3, 6, 7))
    if plainly:
        with reference_engine():
            ours(x), theirs(x)
    for _ in range(2):
        ours(x), theirs(x)
    for key, value in theirs[0].state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    y = ours.eval()(x)
    assert is_batch_innermost(y)
    torch.testing.assert_close(y, theirs.eval()(x))


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": 0.1, "momentum": 0.3}, {"momentum": None}, {"affine": False},
        {"track_running_stats": False}, {"dtype": torch.float64},
    ],
    ids=str,
)  # fmt: skip
def test_the_normalisation_takes_batch_norms_arguments(settings: dict[str, Any]) -> None:
    ours, theirs = BatchNormReLU(3, **settings), nn.BatchNorm2d(3, **settings)
    for _ in range(2):
        x = batch_innermost(torch.randn(5, 3, 6, 7, dtype=settings.get("dtype")))
        torch.testing.assert_close(ours(x), theirs(x).relu())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        BatchNormReLU(3)(torch.randn(2, 3, 4))


@compiled
def test_in_training_with_the_batch_innermost_they_are_one_pass(called: Called) -> None:
    x = batch_innermost(torch.randn(5, 3, 6, 7))
    for module, name in zip(fused(3), ("norm", "pool"), strict=True):
        module(x.clone().requires_grad_()).sum().backward()
        assert called == [f"{name}_forward", f"{name}_backward"]
        called.clear()


@compiled
def test_everything_else_is_pytorchs(called: Called) -> None:
    x = batch_innermost(torch.randn(4, 3, 6, 6))
    norm, pool = fused(3)
    plain: list[Callable[[], Tensor]] = [
        lambda: fused(3)[0].eval()(x),
        lambda: torch.func.vmap(pool)(x[None])[0],
        *(
            lambda module=module, other=other: module(other)  # type: ignore[misc]
            for module in (norm, pool)
            for other in (x.contiguous(), channels_last(x), channels_last(x).bfloat16())
        ),
    ]
    with reference_engine():
        norm(x), pool(x)
    for call in plain:
        call()
    assert called == []


@compiled
@pytest.mark.parametrize("index", [0, 1])
def test_second_derivatives_are_refused_in_one_pass_and_the_references(index: int) -> None:
    torch.manual_seed(0)
    module = fused(2)[index].double()
    x = (batch_innermost(torch.randn(3, 2, 4, 5, dtype=torch.float64)) * 3).requires_grad_()
    inputs = (x, *module.parameters())

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(module.named_parameters()), parameters, strict=True))
        y: Tensor = torch.func.functional_call(module, named, x)
        return y

    assert torch.autograd.gradcheck(forward, inputs)
    (first,) = torch.autograd.grad(forward(*inputs).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        first.sum().backward()
    with reference_engine():
        assert torch.autograd.gradgradcheck(forward, inputs)


@compiled
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_forward_mode_is_pytorchs() -> None:
    x, tangent = batch_innermost(torch.randn(4, 3, 6, 6)), torch.randn(4, 3, 6, 6)
    for module in fused(3):
        expected = torch.func.jvp(as_two(module).eval(), (x,), (tangent,))
        torch.testing.assert_close(torch.func.jvp(module.eval(), (x,), (tangent,)), expected)
        with torch.autograd.forward_ad.dual_level():
            y = module.train()(torch.autograd.forward_ad.make_dual(x, tangent))
            assert torch.autograd.forward_ad.unpack_dual(y).tangent is not None


def test_not_a_number_goes_through_and_its_gradient_back() -> None:
    x = batch_innermost(torch.randn(4, 2, 4, 4))
    x[1, 0, 2, 3] = torch.nan
    norm, pool = fused(2)
    y, dx, *_ = gradients(norm, x, torch.ones_like(x))
    assert y[:, 0].isnan().all() and dx[:, 0].isnan().all() and dx[:, 1].isfinite().all()
    y, dx = gradients(pool, x, torch.ones(4, 2, 2, 2))
    assert y[1, 0, 1, 1].isnan() and y.isnan().sum() == 1
    assert dx[1, 0, 2, 3] == 1 and dx[1, 0, 2:, 2:].sum() == 1


@pytest.mark.parametrize("order", ORDERS)
def test_the_input_stays_as_it_is(order: Order) -> None:
    x = order(torch.randn(4, 3, 4, 4))
    before = x.clone()
    for module in fused(3):
        module(x)
        assert torch.equal(x, before)


@compiled
def test_what_stands_behind_one_pass_may_change_it_in_place() -> None:
    x = batch_innermost(torch.randn(4, 3, 4, 4))
    for module in fused(3):
        dy = torch.randn_like(module(x))
        model = nn.Sequential(module, nn.ReLU(inplace=True))
        assert torch.equal(gradients(model, x, dy)[1], gradients(module, x, dy)[1])


@compiled
def test_parameters_as_pytorch_takes_them(called: Called) -> None:
    """Strided ones are read as they are; what PyTorch refuses is left to it."""
    x, norm = batch_innermost(torch.randn(4, 3, 4, 4)), fused(3)[0]
    theirs = as_two(norm)
    for weight in (torch.randn(6)[::2], torch.randn(1).expand(3)):
        found = torch.func.functional_call(norm, {"weight": weight}, x)
        torch.testing.assert_close(
            found, torch.func.functional_call(theirs, {"0.weight": weight}, x)
        )
    assert len(called) == 2
    for wrong in (torch.ones(3).double(), torch.ones(2), torch.ones(3, device="meta")):
        with pytest.raises(RuntimeError):
            torch.func.functional_call(norm, {"weight": wrong}, x)
    assert len(called) == 2


@compiled
def test_they_compute_where_the_input_is() -> None:
    x = batch_innermost(torch.randn(4, 3, 4, 4))
    for module in fused(3):
        dy = torch.randn_like(module(x))
        expected = gradients(module, x, dy)
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous())
        with torch.device("meta"), hooks:
            found = gradients(module, x, dy)
        assert all(map(torch.equal, found, expected))


def test_threads_do_not_show() -> None:
    threads, x = torch.get_num_threads(), batch_innermost(torch.randn(20, 3, 9, 8))
    found = []
    try:
        for many in (1, 3):
            torch.set_num_threads(many)
            torch.manual_seed(0)
            dy = (torch.randn(20, 3, 9, 8), torch.randn(20, 3, 4, 4))
            each = [gradients(m, x, d) for m, d in zip(fused(3), dy, strict=True)]
            found.append([tensor for tensors in each for tensor in tensors])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@compiled
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilers_tracers_and_batched_gradients() -> None:
    model = nn.Sequential(
        SpatialFeatureLayer((3, 8, 8), 4, 3), BatchNormReLU(4),
        SpatialFeatureLayer((4, 6, 6), 4, 3, padding=1), ReLUMaxPool2d(),
    )  # fmt: skip
    x = torch.randn(5, 3, 8, 8)
    expected = model(x)
    compiled_model = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled_model(x), expected)
    for mode in (copy.deepcopy(model).eval(), copy.deepcopy(model)):
        traced = make_fx(copy.deepcopy(mode))(x)
        torch.testing.assert_close(traced(x + 1), copy.deepcopy(mode)(x + 1))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert model(fake.from_tensor(x)).shape == expected.shape
    y = model(x)
    pushes = torch.randn(3, *y.shape)
    weights = list(model.parameters())
    batched = torch.autograd.grad(y, weights, pushes, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, weights, push, retain_graph=True) for push in pushes]
    for together, *apart in zip(batched, *one_by_one, strict=True):
        torch.testing.assert_close(together, torch.stack(apart), rtol=1e-4, atol=1e-4)


@compiled
@torchs_own
@pytest.mark.parametrize("order", ORDERS[:2])
def test_pytorchs_own_checks_of_the_operators(order: Order) -> None:
    """Schema, autograd registration, fake tensors and their strides, torch.compile's tracing."""
    x = order(torch.randn(4, 3, 5, 6))
    dy, halved = torch.randn_like(x), order(torch.randn(4, 3, 2, 3))
    weight, bias, mean, scale = torch.randn(4, 3)
    operators = torch.ops.sfl
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (operators.batch_norm_relu, (x, weight, bias, 1e-5)),
        (operators.batch_norm_relu_backward, (dy, x, weight, bias, mean, scale)),
        (operators.relu_max_pool, (x,)),
        (operators.relu_max_pool_backward, (halved, x)),
    ]
    for operator, arguments in calls:
        torch.library.opcheck(operator.default, arguments)
        if "backward" not in str(operator):  # whose own gradients are refused
            tensors = (
                a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments
            )
            torch.library.opcheck(operator.default, tuple(tensors))


def test_synchronized_norms_keep_their_relu_weights_and_names() -> None:
    apart = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormReLU(4), nn.BatchNorm2d(4))
    for tensor in (*apart.parameters(), *(apart.get_buffer(f"{n}.running_mean") for n in (1, 2))):
        nn.init.uniform_(tensor, -1, 0)  # not as they are born; biases below 0: the ReLU is seen
    before = copy.deepcopy(apart.state_dict())
    model = synchronized(apart).eval()
    assert isinstance(model, nn.Sequential)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [isinstance(module, nn.SyncBatchNorm) for module in model] == [False, True, True]
    x = torch.randn(2, 3, 4, 4)
    assert model[:2](x).min() == 0


@compiled
def test_a_backward_pass_is_computed_as_its_forward_pass_was() -> None:
    """Also where plain PyTorch is asked for in between."""
    model, x = BatchNormReLU(4), batch_innermost(torch.randn(8, 4, 3, 3)).requires_grad_()
    y = model(x).square()
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    with reference_engine():
        (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(found, expected)
