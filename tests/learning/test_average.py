"""The running average of weights: its numbers by hand, what is tested with it, its state."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sfl.learning.average import Average
from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer
from sfl.learning.sleep import Sleep
from sfl.nn.spatial import SpatialFeatureLayer

DECAY = 0.3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def learner(decay: float = DECAY) -> Learner:
    model = net()
    average = Average(model, decay)
    return Learner(model, build_optimizer(model, lr=0.1), nn.CrossEntropyLoss(), average=average)


def take_step(one: Learner, step: int) -> None:
    images = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    one.step(images, torch.arange(8) % 2, lr=0.1, step=step)


def floats(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: t.clone() for name, t in state.items() if t.is_floating_point()}


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_by_hand(decay: float) -> None:
    """With the first steps' smaller decay (1 + t) / (10 + t); statistics are averaged, too."""
    one = learner(decay)
    expected = floats(one.model)
    for step in range(5):
        take_step(one, step)
        share = min(decay, (2 + step) / (11 + step))
        now = floats(one.model)
        expected = {n: share * t + (1 - share) * now[n] for n, t in expected.items()}
    before = floats(one.model)
    with one.tested():
        torch.testing.assert_close(floats(one.model), expected)
    assert all(torch.equal(t, before[n]) for n, t in floats(one.model).items())
    assert "1.running_var" in expected and not torch.equal(expected["0.weight"], before["0.weight"])


def test_after_an_error_inside_the_weights_are_back() -> None:
    one = learner()
    take_step(one, 0)
    before = floats(one.model)
    with pytest.raises(KeyError), one.tested():
        raise KeyError
    assert all(torch.equal(t, before[n]) for n, t in floats(one.model).items())


def test_its_state_goes_on_as_if_it_had_never_stopped() -> None:
    straight, first, second = learner(), learner(), learner()
    for step in range(6):
        take_step(straight, step)
    for step in range(3):
        take_step(first, step)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for step in range(3, 6):
        take_step(second, step)
    one, other = straight.state(), second.state()
    assert one.keys() == other.keys() and "average.model.0.weight" in one
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_without_one_the_model_itself_is_tested() -> None:
    model = net()
    one = Learner(model, build_optimizer(model), nn.CrossEntropyLoss())
    before = floats(model)
    with one.tested():
        assert all(torch.equal(t, before[n]) for n, t in floats(model).items())
    assert not any(name.startswith("average") for name in one.state())


def test_a_step_that_diverged_leaves_the_averaged_weights_finite() -> None:
    one = learner()
    take_step(one, 0)
    with one.tested():
        good = floats(one.model)["0.weight"]
    one.step(torch.full((8, 3), torch.nan), torch.arange(8) % 2, lr=0.1, step=1)
    with one.tested():
        after = floats(one.model)["0.weight"]
    assert after.isfinite().all() and good.isfinite().all()


def test_on_a_gpu_it_never_waits() -> None:
    """In FakeTensorMode reading a number is an error."""
    with FakeTensorMode():
        model = nn.Linear(3, 4, device="cuda")
        average = Average(model, DECAY)
        average.after_step()
        assert all(tensor.is_cuda for tensor in average.state().values())


def test_of_weights_that_have_slept() -> None:
    """A decay of 0 averages over the last step alone."""
    model = nn.Sequential(SpatialFeatureLayer((1, 4, 4), 2, 3), nn.Flatten(), nn.Linear(8, 2))
    optimizer = build_optimizer(model, lr=0.1)
    one = Learner(
        model, optimizer, nn.CrossEntropyLoss(), sleep=Sleep(model, 1), average=Average(model, 0.0)
    )
    one.step(torch.randn(8, 1, 4, 4), torch.arange(8) % 2, lr=0.1)
    assert one.average is not None and int(one.average.state()["steps"]) == 1
    slept = floats(model)
    with one.tested():
        assert all(torch.equal(t, slept[name]) for name, t in floats(model).items())
