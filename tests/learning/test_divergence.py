"""Divergence: noted without waiting, and no weight changes from the first bad step on."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sfl.errors import Exit, UserError
from sfl.learning.divergence import Guard, refuse_weights
from sfl.learning.optimizers import build_optimizer


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_no_weight_changes_from_the_first_bad_step_on(name: str, bad: float, where: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, name=name)
    guard, kept = Guard(optimizer), []
    for step in range(4):
        optimizer.zero_grad()
        loss = model(torch.ones(5, 3)).square().mean()
        loss.backward()
        if step == 2:
            if where == "loss":
                loss = loss * bad
            else:
                assert model.bias.grad is not None
                model.bias.grad[1] = bad
        guard.note(loss)
        optimizer.step()
        kept.append(model.weight.detach().clone())
        if step < 2:
            guard.refuse(7, 0.1, step + 1)
            good = loss.item()
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(kept[1], kept[2]) and torch.equal(kept[1], kept[3])
    with pytest.raises(UserError) as error:
        guard.refuse(7, 0.1, 4)
    assert error.value.exit_code == Exit.DIVERGED
    said = str(error.value)
    assert "epoch 7, step 3" in said and f"last finite loss {good:g}" in said
    assert "lr 0.1" in said


@pytest.mark.parametrize("fused", [(False,), (True, False)])
def test_an_optimizer_that_it_cannot_stop_is_refused(fused: tuple[bool, ...]) -> None:
    """Unfused, it knows no flag."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "fused": one} for one in fused]
    with pytest.raises(ValueError, match="must be fused"):
        Guard(torch.optim.SGD(groups, 0.1))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("spoilt", ["weight", "bias"])
def test_all_groups_are_watched_and_stopped(name: str, spoilt: str) -> None:
    """The bad gradient is in one group; no weight of any group is moved by that step or a later."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = build_optimizer(model, name=name, decay="weights", lr=0.1)
    assert len(optimizer.param_groups) == 2
    guard = Guard(optimizer)
    kept: list[list[Tensor]] = []
    for step in range(4):
        optimizer.zero_grad()
        loss = model(torch.randn(5, 3)).square().mean()
        loss.backward()
        if step == 1:
            model.get_parameter(spoilt).grad.fill_(torch.nan)  # type: ignore[union-attr]
        guard.note(loss)
        optimizer.step()
        kept.append([parameter.detach().clone() for parameter in model.parameters()])
    for one, after in zip(kept[0], kept[3], strict=True):
        assert torch.equal(one, after) and after.isfinite().all()
    with pytest.raises(UserError, match="step 2"):
        guard.refuse(1, 0.1, 4)


def watched_steps(watched: bool) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = build_optimizer(model)
    guard = Guard(optimizer) if watched else None
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(5, 3)).square().mean()
        loss.backward()
        if guard is not None:
            guard.note(loss)
        optimizer.step()
    return list(model.parameters())


def test_watching_changes_nothing() -> None:
    assert all(map(torch.equal, watched_steps(True), watched_steps(False)))


@pytest.mark.parametrize("name", ["weight", "running_var"])
def test_weights_and_statistics_that_are_no_numbers(name: str) -> None:
    model = nn.BatchNorm1d(3)
    refuse_weights(model, 2)
    getattr(model, name).data[1] = math.nan
    with pytest.raises(UserError, match="the weights after epoch 2 are not finite") as error:
        refuse_weights(model, 2)
    assert error.value.exit_code == Exit.DIVERGED


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_where_the_optimizers_ignore_the_flag_it_is_read(device: str) -> None:
    """On tensors that hold nothing, where reading one is an error."""
    with FakeTensorMode():
        weight = nn.Parameter(torch.empty(3, device=device))
        guard = Guard(torch.optim.Adam([weight], fused=True))
        guard.note(torch.empty((), device=device))
        if device == "cuda":
            assert guard.allows_step()
        else:
            with pytest.raises(DataDependentOutputException):
                guard.allows_step()
