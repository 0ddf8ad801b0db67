"""Predictions, loss, accuracy and its interval, on logits by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

from sfl.data.dataset import Split
from sfl.stats import wilson_interval
from sfl.training import evaluate as evaluating
from sfl.training.evaluate import Evaluation, evaluate

MEAN, STD = torch.tensor([0.5]), torch.tensor([0.5])


class Given(nn.Module):
    """Answers each image, which carries its number as its brightness, with given logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        numbers = (x[:, 0, 0, 0] * 0.5 + 0.5).mul(255).round().long()
        return self.logits[numbers]


def numbered(labels: list[int]) -> Split:
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
    return Split(images.expand(-1, 1, 2, 2).contiguous(), torch.tensor(labels))


LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
LABELS = [0, 1, 2, 2]


def by_hand(logits: Tensor, labels: list[int]) -> float:
    """Mean of log Σ exp − the right logit."""
    losses: list[float] = [
        math.log(sum(math.exp(v) for v in row)) - row[label]
        for row, label in zip(logits.tolist(), labels, strict=True)
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch_size", [500, 4, 3, 1])
def test_logits_by_hand(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "BATCH_SIZE", batch_size)
    model = Given(LOGITS)
    found = evaluate(model, numbered(LABELS), mean=MEAN, std=STD, precision="float32")
    assert found.predictions.tolist() == [0, 1, 1, 2]
    assert found.labels.tolist() == LABELS
    assert (found.correct, found.accuracy) == (3, 0.75)
    assert found.loss == pytest.approx(by_hand(LOGITS, LABELS))
    assert found.confusion(3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert len(model.modes) == -(-4 // batch_size) and not any(model.modes)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_in_its_mode_and_without_gradients(training: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).train(training)
    first = evaluate(model, numbered(LABELS), mean=MEAN, std=STD, precision="float32")
    again = evaluate(model, numbered(LABELS), mean=MEAN, std=STD, precision="float32")
    assert first.loss == again.loss  # no dropout
    assert model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_rounds_products_and_sums_the_loss_in_full() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    full, half = (
        evaluate(model, numbered(LABELS), mean=MEAN, std=STD, precision=precision).loss
        for precision in ("float32", "bfloat16")
    )
    assert full != half
    assert full == pytest.approx(half, rel=0.02)


def test_the_loss_of_many_images_is_summed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "BATCH_SIZE", 1)
    logits = torch.tensor([[20.0, 0.0], [0.0, 0.0]]).repeat(100, 1)
    labels = [1, 0] * 100
    found = evaluate(Given(logits), numbered(labels), mean=MEAN, std=STD, precision="float32").loss
    exact = F.cross_entropy(logits[:2], torch.tensor([1, 0]), reduction="none").double().mean()
    assert found == pytest.approx(float(exact), rel=1e-12)


def test_confusion_counts_classes_that_never_occur() -> None:
    found = Evaluation(torch.tensor([0, 0]), torch.tensor([0, 1]), 0.0, torch.ones(2)).confusion(4)
    assert found.shape == (4, 4) and found.sum() == 2
    assert found[1, 0] == 1  # row: what it is; column: what it was taken for


@pytest.mark.parametrize(
    ("correct", "n"), [(0, 10), (10, 10), (1, 1), (1, 2), (5273, 10_000), (9, 32), (31, 32)]
)
def test_wilson_interval_is_scipys(correct: int, n: int) -> None:
    expected = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_by_hand() -> None:
    # Half of 4: the centre is 1/2, the half width z/2 · √(1/(n + z²)).
    z = 1.96
    low, high = wilson_interval(2, 4)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert (high - low) / 2 == pytest.approx(z / 2 / math.sqrt(4 + z * z), rel=1e-3)
    # None of n: the upper end is z² / (n + z²); both ends stay within [0, 1].
    low, high = wilson_interval(0, 10)
    assert low == 0 and high == pytest.approx(z * z / (10 + z * z), rel=1e-3)
    for n in range(1, 200):
        assert wilson_interval(0, n)[0] >= 0
        assert 1 - 1e-12 < wilson_interval(n, n)[1] <= 1


def test_the_ends_of_wilsons_interval_are_exact() -> None:
    for n in range(1, 200):
        assert wilson_interval(0, n)[0] == 0.0 and wilson_interval(n, n)[1] == 1.0
