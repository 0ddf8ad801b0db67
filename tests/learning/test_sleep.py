"""Sleep by hand: what it pulls, how far, when; what a run with it says, and how it goes on."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer
from sfl.learning.seeding import generator
from sfl.learning.sleep import Sleep, sleeps
from sfl.nn.feedback.attach import attach
from sfl.nn.spatial import SpatialFeatureLayer

DRAW = partial(generator, 0)


def nothing() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)


def by_loops(weight: Tensor, layer: SpatialFeatureLayer, strength: float, k2: bool) -> Tensor:
    """Each weight (OH, OW, O, kh, kw, C/G) alone: positions whose input exists are looked up."""
    _, height, width = layer.in_dimensions
    oh, ow, _, kh, kw, _ = weight.shape
    (sh, sw), (ph, pw), (dh, dw) = layer.stride, layer.window.padding, layer.dilation
    slept = torch.zeros_like(weight)
    for i in range(kh):
        for j in range(kw):
            there = [
                (p, q)
                for p in range(oh)
                for q in range(ow)
                if 0 <= p * sh + i * dh - ph < height and 0 <= q * sw + j * dw - pw < width
            ]
            for p, q in there:
                pool = [
                    weight[a, b, :, i, j]
                    for a, b in there
                    if not k2 or (a % kh == p % kh and b % kw == q % kw)
                ]
                own, mean = weight[p, q, :, i, j], sum(pool) / len(pool)
                slept[p, q, :, i, j] = own + strength * (mean - own)
    return slept


@pytest.mark.parametrize("kernels", ["one", "k2"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"padding": 2},
        {"stride": (2, 1), "padding": (1, 2)},
        {"groups": 2, "padding": 1, "stride": 2, "dilation": (1, 2)},
    ],
    ids=str,
)
def test_each_weight_by_hand(steps: dict[str, Any], strength: float, kernels: Any) -> None:
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((2, 7, 6), 4, (3, 2), **steps).double()
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    assert Sleep(layer, 1, strength, kernels).after_step(nothing(), 0)
    expected = by_loops(weight, layer, strength, kernels == "k2")
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-12, atol=1e-12)
    mean = bias.mean((1, 2), keepdim=True).expand_as(bias).clone()
    if kernels == "k2":
        for p in range(3):
            for q in range(2):
                pool = bias[:, p::3, q::2]
                mean[:, p::3, q::2] = pool.mean((1, 2), keepdim=True)
    expected = bias + strength * (mean - bias)
    torch.testing.assert_close(layer.bias.detach(), expected, rtol=1e-12, atol=1e-12)


def test_with_strength_1_one_filter_is_shared() -> None:
    layer = SpatialFeatureLayer((3, 8, 8), 4, 3, padding=1)
    assert layer.sharing_distance() > 0.9
    Sleep(layer, 1).after_step(nothing(), 0)
    filters = layer.filters().detach()
    inner = filters[1:-1, 1:-1].flatten(0, 1)
    assert torch.equal(inner, inner[:1].expand_as(inner)) and layer.sharing_distance() < 1e-12
    conv, _ = layer.to_conv()
    torch.testing.assert_close(conv.weight, inner[0])
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)  # the border's, too


def test_k2_keeps_as_many_filters_as_a_kernel_has_weights() -> None:
    layer = SpatialFeatureLayer((1, 14, 14), 1, 3)
    Sleep(layer, 1, kernels="k2").after_step(nothing(), 0)
    filters = layer.filters().detach().flatten(0, 1).flatten(1)
    assert len(filters) == 144 and len(filters.unique(dim=0)) == 9
    assert torch.equal(layer.filters()[0, 1], layer.filters()[9, 4])


def test_it_sleeps_by_the_step_number_alone() -> None:
    sleep = Sleep(SpatialFeatureLayer((1, 4, 4), 1, 3), 3)
    slept = [sleep.after_step(nothing(), step) for step in range(10)]
    assert slept == [False, False, True, False, False, True, False, False, True, False]
    for first in range(10):
        for stop in range(first, 10):
            assert sleeps(3, first, stop) == sum(slept[first:stop])


@pytest.mark.parametrize(
    ("name", "moments"),
    [("sgd", {"momentum_buffer"}), ("adamw", {"exp_avg", "exp_avg_sq"}), ("adam", None)],
)
def test_moments_sleep_too(name: str, moments: set[str] | None) -> None:
    """So two layers that are equal at all positions stay equal, whatever they had learnt before."""
    torch.manual_seed(0)
    model = nn.Sequential(SpatialFeatureLayer((2, 5, 5), 3, 3, padding=1), nn.Flatten())
    model.append(nn.Linear(75, 4))
    layer = model[0]
    assert isinstance(layer, SpatialFeatureLayer)
    optimizer = build_optimizer(model, name=name, momentum=0.9 if name == "sgd" else 0.0)
    loss = nn.CrossEntropyLoss()
    learner = Learner(model, optimizer, loss, sleep=Sleep(model, 3))
    for step in range(3):
        before = {n: m.clone() for n, m in optimizer.state[layer.weight].items() if m.dim() > 0}
        gradient_of = layer.weight.grad
        learner.step(torch.randn(8, 2, 5, 5), torch.arange(8) % 4, lr=0.1, step=step)
    after = optimizer.state[layer.weight]
    assert gradient_of is not None and before
    assert moments is None or before.keys() == moments
    inner = layer.filters()[1:-1, 1:-1].flatten(0, 1)
    assert torch.equal(inner, inner[:1].expand_as(inner))
    for moment in before:
        found = after[moment][1:-1, 1:-1].flatten(0, 1)
        assert torch.equal(found, found[:1].expand_as(found)) and float(found.abs().sum())
        # A moment is linear in the gradient, or in its square: the mean is that of the moments.
        gradient = layer.weight.grad
        assert gradient is not None
        rates = {"momentum_buffer": (0.9, 1.0), "exp_avg": (0.9, 0.1), "exp_avg_sq": (0.999, 0.001)}
        keep, take = rates[moment]
        new = keep * before[moment] + take * gradient ** (2 if moment == "exp_avg_sq" else 1)
        torch.testing.assert_close(after[moment], by_loops(new, layer, 1.0, False))


def test_feedback_weights_of_kp_sleep_with_the_layer() -> None:
    """Their difference to the forward weights shrinks by the decay and by nothing else."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 2, 1), SpatialFeatureLayer((2, 5, 5), 3, 3), nn.Flatten(), nn.Linear(27, 4)
    ).double()
    layer = model[1]
    assert isinstance(layer, SpatialFeatureLayer)
    feedback = attach(model, "kp", DRAW)
    more = feedback.parameters()
    optimizer = build_optimizer(model, more, name="adamw", weight_decay=0.5)
    sleep = Sleep(model, 2, 0.3)
    learner = Learner(model, optimizer, nn.CrossEntropyLoss(), feedback=feedback, sleep=sleep)
    expected = (layer.weight - more[0]).detach()
    for step in range(6):
        x = torch.randn(8, 2, 5, 5, dtype=torch.float64)
        learner.step(x, torch.arange(8) % 4, lr=0.1, step=step)
        expected = (1 - 0.1 * 0.5) * expected
        if step % 2:
            expected = by_loops(expected, layer, 0.3, False)
        torch.testing.assert_close((layer.weight - more[0]).detach(), expected)


def test_what_cannot_sleep() -> None:
    one = SpatialFeatureLayer((1, 4, 4), 1, 3)
    for settings in ({"every": 0}, {"strength": 0}, {"strength": 2}, {"kernels": "k3"}):
        with pytest.raises(ValueError, match=r"every .* must be at least 1, strength .* kernels"):
            Sleep(one, **{"every": 1, **settings})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no local layer"):
        Sleep(nn.Conv2d(3, 4, 3), 1)
    dense = nn.Sequential(SpatialFeatureLayer((1, 4, 4), 1, 3, storage="dense"))
    with pytest.raises(ValueError, match="0: dense storage has no filters"):
        Sleep(dense, 1)
