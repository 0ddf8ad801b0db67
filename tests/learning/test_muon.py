"""Muon: its matrices against singular values, torch's own, and each position by itself."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sfl.learning.learner import Learner
from sfl.learning.muon import Muon, orthogonalized
from sfl.learning.optimizers import build_optimizer, is_weight
from sfl.learning.seeding import generator
from sfl.nn.feedback.attach import attach
from sfl.nn.models.networks import build_model
from sfl.nn.spatial import SpatialFeatureLayer

DRAW = partial(generator, 0)


@pytest.mark.parametrize("size", [(6, 6), (4, 9), (9, 4)])
def test_singular_values_become_about_one(size: tuple[int, int]) -> None:
    matrices = torch.randn(5, *size, generator=DRAW("m"))
    found = torch.linalg.svdvals(orthogonalized(matrices))
    assert found.max() < 1.3 and found.median() > 0.6
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    nearest = u @ v
    like = (orthogonalized(matrices) * nearest).sum((1, 2)) / nearest.square().sum((1, 2))
    assert (like > 0.6).all()


def test_on_matrices_it_is_torchs_own() -> None:
    """With torch's match_rms_adamw, up to the rounding of its bfloat16."""
    weights = [torch.randn(6, 9, generator=DRAW("w")).requires_grad_() for _ in range(2)]
    group = {"params": weights[:1], "orthogonal": True}
    ours = Muon([group], 0.02, weight_decay=0.1)
    theirs = torch.optim.Muon(weights[1:], 0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        gradient = torch.randn(6, 9, generator=DRAW("g", step))
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(*weights, rtol=0.02, atol=2e-3)


def test_a_position_moves_as_a_linear_layer_of_its_own() -> None:
    layer = SpatialFeatureLayer((2, 4, 4), 5, 3, bias=False)
    alone = nn.Parameter(layer.weight[1, 0].detach().clone().flatten(1))
    group = {"params": [layer.weight, alone], "orthogonal": True}
    optimizer = Muon([group], 0.1)
    for step in range(2):
        gradient = torch.randn(layer.weight.shape, generator=DRAW("g", step))
        layer.weight.grad, alone.grad = gradient, gradient[1, 0].flatten(1)
        optimizer.step()
    torch.testing.assert_close(layer.weight[1, 0].flatten(1), alone)


def test_weights_of_padding_stay_zero() -> None:
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((2, 4, 4), 3, 3, padding=1)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(48, 2))
    optimizer = build_optimizer(model, name="muon", lr=0.1, weight_decay=0.1, momentum=0.95)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(6, 2, 4, 4)).square().sum().backward()
        optimizer.step()
    missing = ~layer.field_mask()
    assert missing.any() and not layer.weight.movedim(2, 0).movedim(-1, 0)[:, :, missing].any()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_decay_is_for_weights_alone(name: str) -> None:
    model = build_model("DeepNet", channels=[2, 3], strides=[1, 2], kernel_sizes=[3, 3],
                        hidden_sizes=[4], in_dimensions=(3, 4, 4), norm="position")  # fmt: skip
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    nn.init.ones_(model.get_parameter("classifier.6.bias"))
    before["classifier.6.bias"].fill_(1)
    optimizer = build_optimizer(model, name=name, decay="weights", lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter_name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[parameter_name])
        assert moved is is_weight(parameter), parameter_name


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), SpatialFeatureLayer((4, 6, 6), 3, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(108, 4),
    )  # fmt: skip


OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "muon", "momentum": 0.95},
    {"name": "muon", "momentum": 0.95, "decay": "weights"},
    {"name": "sgd", "momentum": 0.9, "nesterov": True, "decay": "weights"},
]


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_kp_gives_both_sides_the_same_step(settings: dict[str, Any]) -> None:
    """W − B shrinks by 1 − ηλ in each step with decoupled decay, and not at all without decay."""
    eta, steps, weight_decay = 0.05, 4, 0.0 if settings["name"] == "sgd" else 0.3
    model = net()
    feedback = attach(model, "kp", DRAW)
    optimizer = build_optimizer(
        model, feedback.parameters(), lr=eta, weight_decay=weight_decay, **settings
    )
    learner = Learner(model, optimizer, nn.CrossEntropyLoss(), feedback=feedback)

    def apart() -> list[Tensor]:
        rules = feedback.rules.values()
        return [(rule.layer.weight - rule.weight()).detach().clone() for rule in rules]

    before = apart()
    for step in range(steps):
        images = torch.randn(8, 3, 8, 8, generator=DRAW("images", step))
        learner.step(images, torch.arange(8) % 4, lr=eta, step=step)
    for one, other in zip(before, apart(), strict=True):
        expected = one * (1 - eta * weight_decay) ** steps
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_its_state_goes_on_as_if_it_had_never_stopped(settings: dict[str, Any]) -> None:
    def made() -> Learner:
        model = net()
        optimizer = build_optimizer(model, lr=0.05, weight_decay=0.1, **settings)
        return Learner(model, optimizer, nn.CrossEntropyLoss())

    def steps(one: Learner, numbers: range) -> Learner:
        for step in numbers:
            images = torch.randn(8, 3, 8, 8, generator=DRAW("images", step))
            one.step(images, torch.arange(8) % 4, lr=0.05, step=step)
        return one

    straight, first, second = steps(made(), range(5)), steps(made(), range(2)), made()
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    steps(second, range(2, 5))
    one, other = straight.state(), second.state()
    assert one.keys() == other.keys() and any("momentum_buffer" in name for name in one)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_nesterov_is_torchs() -> None:
    """v ← μ v + g; w ← w − η (g + μ v)."""
    layer = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(layer, name="sgd", lr=0.1, momentum=0.5, nesterov=True)
    expected, v = layer.weight.detach().clone(), torch.zeros(1, 2)
    for step in range(3):
        gradient = torch.randn(1, 2, generator=DRAW("g", step))
        layer.weight.grad = gradient.clone()
        optimizer.step()
        v = 0.5 * v + gradient
        expected -= 0.1 * (gradient + 0.5 * v)
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_on_a_gpu_it_never_waits() -> None:
    """In FakeTensorMode reading a number is an error."""
    with FakeTensorMode():
        weights = [torch.empty(size, device="cuda") for size in ((3, 3, 4, 2, 2, 5), (6, 4))]
        optimizer = Muon([{"params": weights, "orthogonal": True}], 0.1)
        optimizer.found_inf = torch.zeros((), device="cuda")
        for weight in weights:
            weight.grad = torch.empty_like(weight)
        optimizer.step()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_its_products_are_in_the_runs_precision(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def seen(matrices: Tensor) -> Tensor:
        found.append(orthogonalized(matrices))
        return found[-1]

    monkeypatch.setattr("sfl.learning.muon.orthogonalized", seen)
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = build_optimizer(model, name="muon", lr=0.1)
    learner = Learner(model, optimizer, nn.CrossEntropyLoss(), precision=precision)
    learner.step(torch.randn(8, 6), torch.arange(8) % 4, lr=0.1)
    assert [each.dtype for each in found] == [getattr(torch, precision)]
    assert all(weight.dtype == torch.float32 for weight in learner.weights)
