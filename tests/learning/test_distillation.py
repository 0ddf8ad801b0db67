"""Distillation: its loss by hand; labels as probabilities."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfl.learning.distillation import Teacher
from sfl.learning.learner import Learner
from sfl.learning.local_losses import LocalLoss
from sfl.learning.optimizers import build_optimizer

IMAGES, LABELS = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4


def learner(teacher: Teacher | None = None) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))
    return Learner(model, build_optimizer(model), nn.CrossEntropyLoss(), teacher=teacher)


def teacher(temperature: float, share: float) -> Teacher:
    torch.manual_seed(9)
    return Teacher(nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4)), temperature, share)


def test_the_loss_by_hand() -> None:
    """Hinton et al.: (1 − s) CE + s T² KL; the teacher is in evaluation mode and stays as it is."""
    one = teacher(3.0, 0.7)
    student = learner(one)
    loss, logits = student.forward(IMAGES, LABELS)
    p = (one.model[1](IMAGES) / 3).softmax(1)  # type: ignore[index]
    q = (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.3 * F.cross_entropy(logits, LABELS) + 0.7 * 9 * divergence
    torch.testing.assert_close(loss, expected)
    before = [tensor.clone() for tensor in one.model.state_dict().values()]
    student.step(IMAGES, LABELS, lr=0.1)
    after = one.model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_student_of_its_own_answers_learns_nothing() -> None:
    student = learner()
    loss, _ = learner(Teacher(student.model, share=1.0)).forward(IMAGES, LABELS)
    assert loss.abs() < 1e-6


@pytest.mark.parametrize("taught", [None, teacher(2.0, 0.5)])
def test_labels_as_probabilities_are_those_labels(taught: Teacher | None) -> None:
    one, other = learner(taught), learner(taught)
    found = one.step(IMAGES, LABELS, lr=0.1)
    same = other.step(IMAGES, F.one_hot(LABELS, 4).float(), lr=0.1)
    torch.testing.assert_close(found, same)
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict())


@pytest.mark.parametrize("kind", ["pred", "sim", "predsim"])
def test_local_losses_take_probabilities_too(kind: str) -> None:
    layer, h = nn.Linear(3, 5), torch.randn(6, 5)
    draw = torch.Generator().manual_seed(0)
    loss = LocalLoss(layer, (5,), 4, kind, nn.CrossEntropyLoss(), draw)  # type: ignore[arg-type]
    torch.testing.assert_close(loss(h, LABELS), loss(h, F.one_hot(LABELS, 4).float()))
