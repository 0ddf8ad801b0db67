"""An epoch: its batches, its learning rates, the sums that its line of metrics is made of."""

import time
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sfl.data.augmentation import Augmentation
from sfl.data.batches import test_batches as batches_of
from sfl.data.batches import train_batches
from sfl.data.dataset import Split
from sfl.learning.learner import Learner
from sfl.learning.optimizers import learning_rate
from sfl.learning.seeding import generator
from sfl.training import epoch as epochs
from sfl.training import looks
from sfl.training.epoch import EpochSoFar, train_epoch
from sfl.training.fit import fit
from sfl.training.setup import Setup, build_learner
from tests.training.tiny import metrics, new_run, tiny_setup


class Silent:
    """A display that remembers how often it was told of steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def step(self, epoch: int, step: int, loss: float, accuracy: float, speed: float) -> None:
        self.steps.append(step)


def epoch_of(setup: Setup, epoch: int = 1) -> dict[str, Any]:
    so_far = EpochSoFar.begin(epoch, setup.device)
    train_epoch(setup, build_learner(setup), so_far, Silent())  # type: ignore[arg-type]
    return so_far.line()


def test_train_loss_is_the_mean_of_the_batch_means(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, float, int]] = []
    original = Learner.step

    def spy(
        learner: Learner, images: Tensor, labels: Tensor, **named: Any
    ) -> tuple[Tensor, Tensor]:
        loss, hits = original(learner, images, labels, **named)
        found.append((len(labels), float(loss), int(hits)))
        return loss, hits

    monkeypatch.setattr(Learner, "step", spy)
    line = epoch_of(tiny_setup("data.batch_size=30"))
    sizes, losses, hits = zip(*found, strict=True)
    assert sizes == (30, 30, 4)  # the last batch is ragged, and counts as much as the others
    assert line["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert line["train_loss"] != pytest.approx(
        sum(s * loss for s, loss in zip(sizes, losses, strict=True)) / 64, rel=1e-4
    )
    assert line["train_accuracy"] == sum(hits) / 64
    assert line["images_per_second"] == pytest.approx(64 / line["seconds"])


def test_images_are_augmented_as_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor] = []
    original = Learner.step

    def spy(learner: Learner, images: Tensor, labels: Tensor, **named: Any) -> Any:
        found.append(images.clone())
        return original(learner, images, labels, **named)

    monkeypatch.setattr(Learner, "step", spy)
    settings: dict[str, Any] = {
        "crop_padding": 2, "crop_fill": "reflect", "flip": "alternate", "policy": "rand",
        "operations": 3, "magnitude": 20, "cutout": 6,
    }  # fmt: skip
    setup = tiny_setup(f"data.augment={settings}")
    epoch_of(setup)
    expected = train_batches(
        setup.train, batch_size=32, classes=10, augment=Augmentation(**settings), mean=setup.mean,
        std=setup.std, draw=partial(generator, setup.config.train.seed), epoch=1,
    )  # fmt: skip
    assert torch.equal(torch.cat(found), torch.cat([images for images, _ in expected]))


def test_loss_and_accuracy_are_those_of_the_model() -> None:
    """With a learning rate that moves nothing, without augmentation and dropout, by hand."""
    changes = ["data.augment={crop_padding: 0, flip: false}", "data.batch_size=64"]
    setup = tiny_setup(*changes, "optimizer={name: sgd, lr: 1.0e-30}")
    model = build_learner(setup).model
    ((images, labels),) = batches_of(setup.train, batch_size=64, mean=setup.mean, std=setup.std)
    logits = model(images).detach()
    line = epoch_of(setup)
    assert line["train_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert line["train_accuracy"] == float((logits.argmax(1) == labels).double().mean())


def test_each_epoch_has_an_order_and_crops_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watch(learner: Any, images: Tensor, *rest: Any, **named: Any) -> Any:
        seen.append(images)
        return torch.tensor(0.0), torch.tensor(0)

    monkeypatch.setattr(Learner, "step", watch)
    setup = tiny_setup("data.batch_size=64", "data.augment={crop_padding: 0, flip: false}")
    for epoch in (1, 2, 1):
        epoch_of(setup, epoch)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    # Of one image 64 times only crops and flips can tell the epochs apart.
    setup = tiny_setup("data.batch_size=64")
    one = Split(setup.train.images[:1].expand(64, -1, -1, -1), setup.train.labels)
    for epoch in (1, 2, 1):
        epoch_of(replace(setup, train=one), epoch)
    assert torch.equal(seen[3], seen[5]) and not torch.equal(seen[3], seen[4])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_the_schedule_runs_over_the_whole_run(
    schedule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates: list[float] = []
    original = Learner.step

    def spy(learner: Learner, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        found = original(learner, *rest, **named)
        rates.extend(group["lr"] for group in learner.optimizer.param_groups)
        return found

    monkeypatch.setattr(Learner, "step", spy)
    setup = tiny_setup(f"train.schedule={schedule}")
    run = new_run(tmp_path)
    fit(setup, run)
    assert rates == [
        learning_rate(step, 2, epochs=3, lr=1e-2, schedule=schedule) for step in range(6)
    ]
    assert [line["lr"] for line in metrics(run)] == rates[1::2]


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a number out of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        name = str(function)
        self.count += "_local_scalar_dense" in name or "is_nonzero" in name or "nonzero" in name
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_no_step_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums and whether it diverged are read twice a second, the latter at the end, too."""
    monkeypatch.setattr(looks, "SECONDS", 1e9)
    setup = tiny_setup("data.batch_size=2", f"optimizer={{name: {name}, clip_norm: 1.0}}")
    assert setup.steps_per_epoch == 32
    learner, display, so_far = build_learner(setup), Silent(), EpochSoFar.begin(1, setup.device)
    with Reads() as reads:
        train_epoch(setup, learner, so_far, display)  # type: ignore[arg-type]
    assert display.steps == [1]  # at once, so that something is seen, and then after that time
    assert reads.count == 3 + 1


def test_the_seconds_in_which_kernels_are_compiled_are_not_trainings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = tiny_setup()
    step, compiled = Learner.step, list[float]()

    def compiling(*given: Any, **more: Any) -> Any:
        if not compiled:
            compiled.append(30.0)
        return step(*given, **more)

    monkeypatch.setattr(Learner, "step", compiling)
    monkeypatch.setattr(epochs, "preparing_seconds", lambda: sum(compiled))
    ticks = count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) / 1000 + sum(compiled))
    assert 0 < epoch_of(setup)["seconds"] < 30
