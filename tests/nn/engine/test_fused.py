"""Normalisation and pooling with the batch innermost: the numbers of PyTorch's own modules."""

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
from sfl.nn.engine.fused import BatchNorm2d, MaxPool2d, Sequential, is_batch_innermost
from sfl.nn.spatial import SpatialFeatureLayer

compiled = pytest.mark.skipif(kernel.load() is None, reason="there is no C++ compiler here")


def innermost(x: Tensor) -> Tensor:
    return x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


Order = Callable[[Tensor], Tensor]
in_both_orders = pytest.mark.parametrize("order", [innermost, channels_last])


def test_which_tensors_have_their_batch_innermost() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert is_batch_innermost(innermost(x))
    assert not is_batch_innermost(x)
    assert not is_batch_innermost(x.to(memory_format=torch.channels_last))
    assert not is_batch_innermost(x[0])
    assert not is_batch_innermost(innermost(x)[:, :2])
    assert not is_batch_innermost(torch.randn(1, 1, 4, 5))  # both: a usual tensor
    assert not is_batch_innermost(innermost(torch.randn(1, 3, 4, 5)))  # both: channels_last


@pytest.mark.parametrize(
    "module",
    [BatchNorm2d(3), BatchNorm2d(3, momentum=None), MaxPool2d(2, 2), MaxPool2d(3, 2, padding=1)],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_they_equal_pytorchs(module: nn.Module, training: bool) -> None:
    ours = copy.deepcopy(module).double().train(training)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = type(module).__mro__[1]  # nn.BatchNorm2d, nn.MaxPool2d
    x = torch.randn(4, 3, 7, 6, dtype=torch.float64)
    for order in (innermost(x), x):
        given, same = order.detach().requires_grad_(), x.clone().requires_grad_()
        y, expected = ours(given), theirs(same)
        assert is_batch_innermost(y) == is_batch_innermost(given)
        torch.testing.assert_close(y, expected)
        dy = torch.randn_like(expected)
        y.backward(dy)
        expected.backward(dy)
        torch.testing.assert_close(given.grad, same.grad)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert not ours.state_dict().keys() ^ theirs.state_dict().keys()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        BatchNorm2d(3)(torch.randn(2, 3, 4))


# --- pairs of modules as one operation

Called = list[str]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """The names of the kernel's functions, as they are called."""
    names: Called = []
    call = kernel.call_exact

    def listening(name: str, *rest: Any) -> None:
        names.append(name)
        call(name, *rest)

    monkeypatch.setattr(kernel, "call_exact", listening)
    return names


def pairs(channels: int) -> list[tuple[Sequential, str]]:
    """Each pair, and what the kernel calls it; a normalisation that isn't the identity."""
    norm = BatchNorm2d(channels)
    with torch.no_grad():
        assert norm.weight is not None and norm.bias is not None
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    return [
        (Sequential(norm, nn.ReLU(inplace=True)), "norm"),
        (Sequential(nn.ReLU(inplace=True), MaxPool2d(2, 2)), "pool"),
    ]


def gradients(model: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The output and the gradients of the input and the parameters."""
    x = x.detach().requires_grad_()
    y = model(x + 0)  # a ReLU in place may not touch a leaf
    return (y.detach(), *torch.autograd.grad(y, [x, *model.parameters()], dy))


@compiled
@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([innermost, channels_last]), st.integers(2, 40), st.integers(1, 5),
    st.integers(2, 7), st.integers(2, 5), st.integers(0, 99),
)  # fmt: skip
def test_pairs_equal_their_modules(
    order: Order, batch: int, channels: int, height: int, width: int, seed: int
) -> None:
    if order is channels_last:
        channels = 2 + 7 * channels  # more than a vector, and not whole ones
    torch.manual_seed(seed)
    for pair, _ in pairs(channels):
        ours = pair.double()
        theirs = nn.Sequential(*copy.deepcopy(ours))
        for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            x = order(torch.randn(batch, channels, height, width, dtype=torch.float64)) + 3
            dy = order(torch.randn_like(theirs(x.clone())))
            ours, theirs, x, dy = ours.to(dtype), theirs.to(dtype), x.to(dtype), dy.to(dtype)
            with kernel.without():
                expected = gradients(theirs, x, dy)
            found = gradients(ours, x, dy)
            torch.testing.assert_close(found, expected, atol=bound, rtol=bound)


@compiled
@pytest.mark.parametrize("batch", [1, 9])
def test_pairs_in_bfloat16_are_rounded_once(batch: int) -> None:
    """Statistics and parameters are float32, as with PyTorch's own modules under autocast."""
    torch.manual_seed(0)
    for pair, _ in pairs(20):
        theirs = nn.Sequential(*copy.deepcopy(pair)).double()
        x = channels_last(torch.randn(batch, 20, 5, 6) + 1).bfloat16()
        dy = channels_last(torch.randn_like(pair(x.clone())))
        y, dx, *parameters = gradients(pair, x, dy)
        assert y.dtype == dx.dtype == torch.bfloat16
        assert all(parameter.dtype == torch.float32 for parameter in parameters)
        expected = gradients(theirs, x.double(), dy.double())
        for ours, exact in zip((y, dx), expected[:2], strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-5)
        for ours, exact in zip(parameters, expected[2:], strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@compiled
def test_tensors_without_an_order_of_ours_are_pytorchs(called: Called) -> None:
    for x in (
        torch.randn(4, 3, 6, 6),
        channels_last(torch.randn(4, 1, 6, 6)),
        channels_last(torch.randn(4, 3, 6, 6)).half(),
        innermost(torch.randn(4, 3, 6, 6)).bfloat16(),
    ):
        for pair, _ in pairs(x.shape[1]):
            theirs = nn.Sequential(*copy.deepcopy(pair))
            assert torch.equal(pair(x.clone()), theirs(x.clone()))
    assert called == []


@compiled
@in_both_orders
def test_pairs_are_one_operation_with_the_same_running_statistics(
    order: Order, called: Called
) -> None:
    x = order(torch.randn(5, 3, 6, 7))
    for pair, name in pairs(3):
        theirs = nn.Sequential(*copy.deepcopy(pair))
        for _ in range(2):
            pair(x.clone().requires_grad_()).sum().backward()
            theirs(x.clone())
        last = "last_" if order is channels_last and name == "norm" else ""
        assert called == [f"{name}_{way}_{last}float32" for way in ("forward", "backward")] * 2
        called.clear()
        assert pair.state_dict().keys() == theirs.state_dict().keys()
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(pair.state_dict()[key], value)


@compiled
def test_modules_that_are_watched_or_do_more_are_called_one_by_one(called: Called) -> None:
    x = innermost(torch.randn(5, 3, 6, 7))
    norm, relu = BatchNorm2d(3), nn.ReLU()
    plain: list[Callable[[], Tensor]] = [
        lambda: Sequential(norm.eval(), relu)(x),
        lambda: Sequential(BatchNorm2d(3, affine=False), relu)(x),
        lambda: Sequential(BatchNorm2d(3, momentum=None), relu)(x),
        lambda: Sequential(BatchNorm2d(3, track_running_stats=False), relu)(x),
        lambda: Sequential(relu, MaxPool2d(3, 2))(x),
        lambda: Sequential(relu, MaxPool2d(2, 2, ceil_mode=True))(x),
        lambda: Sequential(relu, MaxPool2d(2, 2))(x.contiguous()),
        lambda: torch.func.vmap(Sequential(relu, MaxPool2d(2, 2)))(x[None])[0],
    ]
    for call in plain:
        call()
    seen: list[nn.Module] = []
    relu.register_forward_hook(lambda module, inputs, output: seen.append(module))
    Sequential(relu, MaxPool2d(2, 2))(x)
    assert seen == [relu]
    replaced = nn.ReLU()
    replaced.forward = lambda x: x * 0 - 7  # type: ignore[method-assign, assignment]
    assert (Sequential(replaced, MaxPool2d(2, 2))(x) == -7).all()
    assert called == []


@compiled
@in_both_orders
@pytest.mark.parametrize("index", [0, 1])
def test_pairs_have_second_derivatives(index: int, order: Order) -> None:
    torch.manual_seed(0)
    pair = pairs(2)[index][0].double()
    x = (order(torch.randn(3, 2, 4, 5, dtype=torch.float64)) * 3).requires_grad_()
    forward = lambda x, *parameters: torch.func.functional_call(  # noqa: E731
        pair, dict(zip(dict(pair.named_parameters()), parameters, strict=True)), x + 0
    )
    inputs = (x, *pair.parameters())
    assert torch.autograd.gradcheck(forward, inputs)
    assert torch.autograd.gradgradcheck(forward, inputs)


@compiled
@in_both_orders
def test_not_a_number_goes_through_and_its_gradient_back(order: Order) -> None:
    x = order(torch.randn(4, 2, 4, 4))
    x[1, 0, 2, 3] = torch.nan
    norm, pool = (pair for pair, _ in pairs(2))
    y, dx, *_ = gradients(norm, x, torch.ones_like(x))
    assert y[:, 0].isnan().all() and dx[:, 0].isnan().all() and dx[:, 1].isfinite().all()
    y, dx = gradients(pool, x, torch.ones(4, 2, 2, 2))
    assert y[1, 0, 1, 1].isnan() and y.isnan().sum() == 1
    assert dx[1, 0, 2, 3] == 1 and dx[1, 0, 2:, 2:].sum() == 1


@compiled
@in_both_orders
def test_what_stands_behind_a_pair_may_change_it_in_place(order: Order) -> None:
    x, dy = order(torch.randn(4, 3, 4, 4)), torch.randn(4, 3, 2, 2)
    pool = pairs(3)[1][0]
    model = Sequential(*pool, nn.ReLU(inplace=True))
    assert torch.equal(gradients(model, x, dy)[1], gradients(pool, x, dy)[1])


@compiled
@in_both_orders
def test_parameters_as_pytorch_takes_them(order: Order, called: Called) -> None:
    """Strided ones are read as they are; what PyTorch refuses is left to it."""
    x, norm = order(torch.randn(4, 3, 4, 4)), pairs(3)[0][0]
    theirs = nn.Sequential(*copy.deepcopy(norm))
    for weight in (torch.randn(6)[::2], torch.randn(1).expand(3)):
        given = {"0.weight": weight}
        found = [torch.func.functional_call(each, given, x.clone()) for each in (norm, theirs)]
        torch.testing.assert_close(*found)
    assert len(called) == 2
    for wrong in (torch.ones(3).double(), torch.ones(2), torch.ones(3, device="meta")):
        with pytest.raises(RuntimeError):
            torch.func.functional_call(norm, {"0.weight": wrong}, x.clone())
    assert len(called) == 2


@compiled
@in_both_orders
def test_pairs_compute_where_the_input_is_in_the_order_that_it_had(order: Order) -> None:
    x = order(torch.randn(4, 3, 4, 4))
    for pair, _ in pairs(3):
        dy = torch.randn_like(pair(x.clone()))
        expected = gradients(pair, x, dy)
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous())
        with torch.device("meta"), hooks:
            found = gradients(pair, x, dy)
        assert all(map(torch.equal, found, expected))


@compiled
@in_both_orders
def test_threads_do_not_show_in_pairs(order: Order) -> None:
    threads, x = torch.get_num_threads(), order(torch.randn(20, 3, 9, 8))
    found = []
    try:
        for many in (1, 3):
            torch.set_num_threads(many)
            torch.manual_seed(0)
            dy = (torch.randn(20, 3, 9, 8), torch.randn(20, 3, 4, 4))
            each = [gradients(p, x, d) for (p, _), d in zip(pairs(3), dy, strict=True)]
            found.append([tensor for tensors in each for tensor in tensors])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@compiled
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilers_tracers_and_batched_gradients_see_plain_operations() -> None:
    model = Sequential(
        SpatialFeatureLayer((3, 8, 8), 4, 3), BatchNorm2d(4), nn.ReLU(inplace=True),
        SpatialFeatureLayer((4, 6, 6), 4, 3, padding=1), nn.ReLU(inplace=True), MaxPool2d(2, 2),
    )  # fmt: skip
    x = torch.randn(5, 3, 8, 8)
    expected = model(x)
    compiled_model = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled_model(x), expected)
    traced = make_fx(copy.deepcopy(model).eval())(x)
    torch.testing.assert_close(traced(x + 1), copy.deepcopy(model).eval()(x + 1))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == expected.shape
    y = model(x)
    pushes = torch.randn(3, *y.shape)
    weights = list(model.parameters())
    batched = torch.autograd.grad(y, weights, pushes, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, weights, push, retain_graph=True) for push in pushes]
    for together, *apart in zip(batched, *one_by_one, strict=True):
        torch.testing.assert_close(together, torch.stack(apart), rtol=1e-4, atol=1e-4)


@compiled
def test_subclasses_and_global_hooks_are_respected(called: Called) -> None:
    class Sevens(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0 + 7

    x = innermost(torch.randn(4, 3, 6, 6))
    assert (Sequential(Sevens(), MaxPool2d(2, 2))(x) == 7).all()
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(m))
    try:
        Sequential(nn.ReLU(), MaxPool2d(2, 2))(x)
    finally:
        handle.remove()
    assert len(seen) == 3 and called == []
