"""A step by hand; its state, put back into another learner, makes it go on as the same."""

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer


def learner(name: str = "sgd", smoothing: float = 0.0, lr: float = 0.5, **settings: Any) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4))
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    return Learner(model, build_optimizer(model, name=name, lr=lr), loss, **settings)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(16, 3, 8, 8, generator=drawn), torch.arange(16) % 4


def test_a_step_by_hand() -> None:
    one, (images, labels) = learner(), batch()
    logits = one.model(images)
    expected = F.cross_entropy(logits, labels)
    weights = list(one.model.parameters())
    gradients = torch.autograd.grad(expected, weights)
    moved = [w.detach() - 0.25 * g for w, g in zip(weights, gradients, strict=True)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 9.0)  # of an earlier step: forgotten
    loss, hits = one.step(images, labels, lr=0.25)
    assert torch.equal(loss, expected.detach()) and not loss.requires_grad
    assert int(hits) == int((logits.argmax(1) == labels).sum())
    for weight, value in zip(weights, moved, strict=True):
        torch.testing.assert_close(weight.detach(), value)


def test_clip_norm_bounds_the_step() -> None:
    lengths = []
    for clip_norm in (None, 0.01, 1000.0):
        one = learner(clip_norm=clip_norm)
        before = [weight.detach().clone() for weight in one.model.parameters()]
        one.step(*batch(), lr=1.0)
        after = [weight.detach() for weight in one.model.parameters()]
        moves = [(new - old).flatten() for new, old in zip(after, before, strict=True)]
        lengths.append(float(torch.cat(moves).norm()))
    free, clipped, wide = lengths
    assert clipped == pytest.approx(0.01, rel=1e-2)
    assert free == wide > 0.1


def test_label_smoothing_by_hand() -> None:
    images, labels = batch()
    loss, logits = learner(smoothing=0.1).forward(images, labels)
    log_p = logits.log_softmax(dim=1)
    right = log_p.gather(1, labels[:, None]).mean()
    expected = -(0.9 * right + 0.1 * log_p.mean())  # 0.1 is spread over all classes
    torch.testing.assert_close(loss, expected)
    plain, _ = learner().forward(images, labels)
    torch.testing.assert_close(plain, -right)


def test_bfloat16_products_and_float32_weights() -> None:
    one = learner(precision="bfloat16")
    loss, logits = one.forward(*batch())
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    one.step(*batch(), lr=0.1)
    for weight in one.model.parameters():
        assert weight.dtype == torch.float32
        assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_its_state_put_back_goes_on_as_the_same(name: str) -> None:
    one, other = learner(name), learner(name)
    for seed in range(3):
        one.step(*batch(seed), lr=0.01)
    other.load_state({key: tensor.clone() for key, tensor in one.state().items()})
    for each in (one, other):
        each.step(*batch(9), lr=0.01)
    ours, theirs = one.state(), other.state()
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("optimizer.0.") for key in ours) == (name != "sgd")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_from_the_first_step_without_finite_numbers_on_nothing_changes() -> None:
    one = learner("adam")
    one.step(*batch(), lr=0.1)
    before = [weight.detach().clone() for weight in one.model.parameters()]
    images, labels = batch()
    one.step(images * torch.inf, labels, lr=0.1)
    one.step(images, labels, lr=0.1)
    assert all(map(torch.equal, before, one.model.parameters()))
    with pytest.raises(Exception, match="epoch 1, step 2 are not finite"):
        one.guard.refuse(1, 0.1, 3)


def test_it_is_freed_when_it_is_done_with() -> None:
    """Without waiting for the garbage collector: its memory is the next run's."""
    model = nn.Linear(3, 2)
    one = Learner(
        model, build_optimizer(model), nn.CrossEntropyLoss(), graphed=lambda f: lambda *t: f(*t)
    )
    one.step(torch.randn(4, 3), torch.arange(4) % 2, lr=0.1)
    gone = weakref.ref(one)
    gc.disable()
    try:
        del one
        assert gone() is None
    finally:
        gc.enable()
