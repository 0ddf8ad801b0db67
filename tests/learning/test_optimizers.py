"""Optimizers and learning rates, against torch's own."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from sfl.learning.optimizers import build_optimizer, learning_rate

STEPS_PER_EPOCH = 7


def rates(steps_per_epoch: int = STEPS_PER_EPOCH, lr: float = 0.1, **train: Any) -> list[float]:
    total = train["epochs"] * steps_per_epoch
    return [learning_rate(step, steps_per_epoch, lr=lr, **train) for step in range(total)]


def torchs_rates(
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler], total: int
) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9)
    schedule = scheduler(optimizer)
    found = []
    for step in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            schedule.step()
    return found


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(5, 7), (1, 1), (1, 2), (3, 1), (1, 10)])
def test_schedules_are_torchs_step_by_step(epochs: int, steps_per_epoch: int) -> None:
    total = epochs * steps_per_epoch
    cosine = torchs_rates(lambda o: CosineAnnealingLR(o, total), total)
    assert rates(steps_per_epoch, epochs=epochs, schedule="cosine") == pytest.approx(cosine)
    onecycle = torchs_rates(lambda o: OneCycleLR(o, 0.1, total_steps=total), total)
    assert rates(steps_per_epoch, epochs=epochs, schedule="onecycle") == pytest.approx(onecycle)


def test_constant_by_hand() -> None:
    assert rates(epochs=2) == [0.1] * 14


def test_onecycle_by_hand() -> None:
    found = rates(100, epochs=1, schedule="onecycle")
    assert found[0] == pytest.approx(0.1 / 25)
    assert max(found) == found[29] == pytest.approx(0.1)  # after 30 % of the steps
    assert found[-1] == pytest.approx(0.1 / 250_000)


def test_cosine_by_hand() -> None:
    found = rates(4, epochs=1, schedule="cosine")
    half = math.sqrt(0.5)
    assert found == pytest.approx([0.1, 0.05 * (1 + half), 0.05, 0.05 * (1 - half)])


def test_warmup_rises_evenly_and_what_follows_starts_at_the_full_rate() -> None:
    found = rates(4, epochs=3, warmup=1.0)
    assert found == pytest.approx([0.02, 0.04, 0.06, 0.08] + [0.1] * 8)
    found = rates(4, epochs=3, warmup=1.0, schedule="cosine")
    assert found[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert found[4:] == pytest.approx(rates(4, epochs=2, schedule="cosine"))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0.1, 0.5, 1.9, 2.0])
def test_any_warmup_gives_positive_rates(schedule: str, warmup: float) -> None:
    for steps_per_epoch in (1, 3):
        found = rates(steps_per_epoch, epochs=2, warmup=warmup, schedule=schedule)
        assert all(0 < rate <= 0.1 for rate in found)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_few_steps_divide_by_nothing(schedule: str) -> None:
    for total in range(1, 12):
        assert all(0 < rate <= 0.1 for rate in rates(total, epochs=1, schedule=schedule))


# --- optimizers


def trained(make: Callable[[nn.Module], torch.optim.Optimizer]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = make(model)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(6, 4, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("settings", "torchs"),
    [
        ({}, lambda p: torch.optim.Adam(p, 3e-4, foreach=False)),
        (
            {"name": "adam", "lr": 0.02, "weight_decay": 0.1, "betas": [0.8, 0.99]},
            lambda p: torch.optim.Adam(p, 0.02, (0.8, 0.99), weight_decay=0.1, foreach=False),
        ),
        (
            {"name": "adamw", "lr": 0.02, "weight_decay": 0.1},
            lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.1, foreach=False),
        ),
        ({"name": "sgd", "lr": 0.02}, lambda p: torch.optim.SGD(p, 0.02, foreach=False)),
        (
            {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
            lambda p: torch.optim.SGD(p, 0.02, 0.9, weight_decay=0.1, foreach=False),
        ),
    ],
)
def test_optimizers_are_torchs(settings: dict[str, Any], torchs: Any) -> None:
    ours = trained(lambda model: build_optimizer(model, **settings))
    theirs = trained(lambda model: torchs(list(model.parameters())))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_steps_are_fused(name: str) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), name=name)
    assert optimizer.param_groups[0]["fused"]


def test_frozen_weights_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model)
    (parameters,) = (group["params"] for group in optimizer.param_groups)
    assert len(parameters) == 1 and parameters[0] is model.weight


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_order_of_convolutions_in_memory_does_not_matter(name: str) -> None:
    """PyTorch gives a gradient the order of its weight, as its fused steps need it."""
    torch.manual_seed(0)
    usual = nn.Conv2d(3, 4, 3)
    last = copy.deepcopy(usual).to(memory_format=torch.channels_last)
    more: dict[str, Any] = {"momentum": 0.9} if name == "sgd" else {}
    for model in (usual, last):
        torch.manual_seed(1)
        optimizer = build_optimizer(model, name=name, lr=0.01, weight_decay=0.1, **more)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 5, 5)).square().sum().backward()
            optimizer.step()
    assert last.weight.stride() != usual.weight.stride()
    torch.testing.assert_close(last.weight, usual.weight)
