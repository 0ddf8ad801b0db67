"""The experiment: it learns, it repeats itself bit for bit, it goes on where it was stopped."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sfl.config import load as configs
from sfl.data.batches import test_batches as batches_of
from sfl.data.dataset import Split
from sfl.errors import Exit, UserError
from sfl.learning.divergence import Guard
from sfl.learning.optimizers import build_optimizer, learning_rate
from sfl.learning.seeding import seed_global
from sfl.runs.directory import (
    BEST,
    CONFIG,
    ENVIRONMENT,
    LABELS,
    LAST,
    METRICS,
    PREDICTIONS,
    RESULT,
    Run,
)
from sfl.runs.store import find
from sfl.training import epoch as epochs
from sfl.training import fit as fitting
from sfl.training import testing as results
from sfl.training.epoch import EpochSoFar, forward, train_epoch, train_step
from sfl.training.fit import fit, is_best
from sfl.training.setup import Setup, build
from sfl.training.stopping import Stopped
from tests.training.tiny import (
    SPATIAL,
    interrupted_after,
    metrics,
    new_run,
    result,
    same,
    tensors,
    tiny_setup,
)


class Silent:
    """A display that remembers how often it was told of steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def step(self, epoch: int, step: int, loss: float, accuracy: float, speed: float) -> None:
        self.steps.append(step)


def ready(setup: Setup) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer as fit() makes them."""
    seed_global(setup.config.train.seed, "initialisation")
    model = build(setup.config, setup.dataset.in_dimensions, len(setup.dataset.classes))
    return model.to(setup.device), build_optimizer(
        model, **setup.config.optimizer.model_dump(exclude={"clip_norm"})
    )


# --- a run from begin to end


def test_it_learns_the_shapes(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=12", "data.augment={crop_padding: 0, flip: false}"), run)
    lines = metrics(run)
    assert lines[-1]["train_loss"] < 0.7 * lines[0]["train_loss"]
    assert lines[-1]["train_accuracy"] > 0.5 > 0.25 > lines[0]["train_accuracy"]


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    setup = tiny_setup("data.validation=20")
    run = new_run(tmp_path, "tiny-s0")
    returned = fit(setup, run)
    written = {path.name for path in run.path.iterdir()}
    assert written == {CONFIG, ENVIRONMENT, METRICS, LAST, BEST, RESULT, PREDICTIONS, LABELS}
    assert configs.load(run.path / CONFIG) == setup.config
    environment = json.loads((run.path / ENVIRONMENT).read_text())
    assert environment["precision"] == "float32"
    assert [set(line) for line in run.metrics] == [
        {
            "epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
            "lr", "seconds", "images_per_second", "peak_memory_bytes",
        }
    ] * 3  # fmt: skip
    assert [line["epoch"] for line in run.metrics] == [1, 2, 3]
    assert run.result is not None and returned == run.result.to_json()
    assert returned["run"] == "tiny-s0" and returned["model"] == "SimpleModel"
    assert returned["epochs"] == 3 and returned["n"] == 32
    seconds = [line["seconds"] for line in run.metrics]
    assert returned["seconds"] == pytest.approx(sum(seconds))
    assert returned["seconds_per_epoch"] == pytest.approx(sum(seconds) / 3)


def test_keep_weights_drops_what_only_resuming_needs(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.keep=weights", "train.epochs=1"), run)
    written = {path.name for path in run.path.iterdir()}
    assert written == {CONFIG, ENVIRONMENT, METRICS, BEST, RESULT, PREDICTIONS, LABELS}


def test_checkpoints_come_when_they_are_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[str, int]] = []
    for name in ("save_weights", "save_checkpoint"):
        original = getattr(fitting, name)

        def spy(path: Path, *rest: Any, original: Any = original) -> None:
            saved.append((path.name, len(Run(path.parent).metrics) + 1))
            original(path, *rest)

        monkeypatch.setattr(fitting, name, spy)
    fit(tiny_setup("train.epochs=5", "train.checkpoint_every=2"), new_run(tmp_path))
    assert saved == [(name, epoch) for epoch in (2, 4, 5) for name in (BEST, LAST)]

    saved.clear()  # the epoch of the best weights is never lost to a run that is gone on with
    monkeypatch.setattr(fitting, "is_best", lambda metrics: len(metrics) == 3)
    few = ["train.epochs=5", "train.checkpoint_every=4", "data.validation=10"]
    fit(tiny_setup(*few), new_run(tmp_path, "validated"))
    assert saved == [(BEST, 3), (LAST, 3), (LAST, 4), (LAST, 5)]


# --- same seed, same run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_seed_same_run_other_seed_other_run(precision: str, tmp_path: Path) -> None:
    changes = ["train.epochs=2", f"train.precision={precision}"]
    made: list[Run] = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run = new_run(tmp_path, name)
        torch.manual_seed(99 + len(made))  # what others drew before must not matter
        fit(tiny_setup(*changes, f"train.seed={seed}", base=SPATIAL), run)
        made.append(run)
    one, two, three = made
    assert same(tensors(one), tensors(two)) and same(tensors(one, BEST), tensors(two, BEST))
    assert metrics(one) == metrics(two) and result(one) == result(two)
    assert metrics(one) != metrics(three)
    weights = [tensors(run)["model.features.0.weight"] for run in (one, three)]
    assert not torch.equal(*weights)


def test_draws_between_the_steps_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any step can be repeated by itself: dropout depends on (seed, epoch, step) alone."""
    straight = new_run(tmp_path, "straight")
    fit(tiny_setup("train.epochs=2", base=SPATIAL), straight)
    original = epochs.train_step

    def disturbed(*arguments: Any) -> tuple[Tensor, Tensor]:
        found = original(*arguments)
        torch.rand(7)
        return found

    monkeypatch.setattr(epochs, "train_step", disturbed)
    other = new_run(tmp_path, "other")
    fit(tiny_setup("train.epochs=2", base=SPATIAL), other)
    assert same(tensors(straight), tensors(other))


# --- resumed, same run

# Of the six kernels the first has three channels, the last two are 2×2.
WINOGRAD = ["model.layer=conv", f"model.channels={6 * [48]}", "train.precision=bfloat16"]
RECIPES: dict[str, list[str]] = {
    "everything": [],
    "conv, channels last": ["model.layer=conv"],
    "conv, Winograd": WINOGRAD,
    "dense, notebook": [
        "model={name: SimpleModel, storage: dense, init: notebook, channels: [1], dropout: 0.3}"
    ],
    "sgd with momentum, cosine": [
        "optimizer={name: sgd, lr: 0.01, momentum: 0.9}",
        "train.schedule=cosine",
        "train.warmup=1",
    ],
    "adamw, no validation": ["optimizer.name=adamw", "data.validation=0"],
    "few checkpoints": ["train.checkpoint_every=2"],
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES.keys())
def test_resumed_at_any_epoch_it_is_the_same_run(changes: list[str], tmp_path: Path) -> None:
    setup = tiny_setup(*changes, base=SPATIAL)
    straight = new_run(tmp_path, "straight")
    fit(setup, straight)
    for stopped_after in (0, 1, 2):
        run = new_run(tmp_path, f"stopped-{stopped_after}")
        with interrupted_after(stopped_after):
            fit(setup, run)
        assert len(Run(run.path).metrics) == stopped_after
        assert not (run.path / RESULT).exists()
        fit(setup, Run(run.path))
        for name in (LAST, BEST):
            assert same(tensors(straight, name), tensors(run, name))
        assert metrics(straight) == metrics(run)
        assert result(straight) == result(run)


def test_where_it_went_on_stands_behind_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, run = tiny_setup(), new_run(tmp_path)
    with interrupted_after(1):
        fit(setup, run)
    assert run.environment is not None
    began = run.environment.to_json()
    assert "resumed" not in began
    monkeypatch.setattr(fitting, "environment", lambda *_: {**began, "device": "another"})
    fit(setup, run)
    assert run.environment.to_json() == {**began, "resumed": [{**began, "device": "another"}]}


def test_a_run_that_is_stopped_before_its_first_step_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "build", stop)
    run = new_run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_setup(), run)
    assert find(tmp_path, run.name) == run


def test_more_epochs_of_a_finished_run_are_those_of_a_longer_one(tmp_path: Path) -> None:
    changes = ("train.schedule=constant", "train.warmup=0.5", "train.checkpoint_every=2")
    straight, run = new_run(tmp_path, "straight"), new_run(tmp_path, "longer")
    fit(tiny_setup(*changes, "train.epochs=4", base=SPATIAL), straight)
    fit(tiny_setup(*changes, "train.epochs=1", base=SPATIAL), run)
    fit(tiny_setup(*changes, "train.epochs=4", base=SPATIAL), Run(run.path))
    for file in (LAST, BEST):
        assert same(tensors(straight, file), tensors(run, file))
    assert metrics(straight) == metrics(run) and result(straight) == result(run)
    assert (straight.path / CONFIG).read_text() == (run.path / CONFIG).read_text()


def test_a_missing_best_checkpoint_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    with interrupted_after(1):
        fit(tiny_setup(base=SPATIAL), run)
    (run.path / BEST).unlink()
    monkeypatch.delattr(fitting, "train_epoch")  # not reached
    with pytest.raises(UserError, match=rf"{BEST}: no such checkpoint"):
        fit(tiny_setup(base=SPATIAL), Run(run.path))


def test_a_run_that_is_made_longer_has_no_result_meanwhile(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1"), run)
    with interrupted_after(1):
        fit(tiny_setup("train.epochs=3"), Run(run.path))
    assert run.status == "interrupted" and not (run.path / RESULT).exists()


@pytest.mark.parametrize(
    "changes", [("train.schedule=cosine", "train.epochs=4"), ("train.epochs=2",)], ids=str
)
def test_a_schedule_over_the_whole_run_and_fewer_epochs_are_refused(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    run, schedule = new_run(tmp_path), changes[0] if len(changes) > 1 else "train.epochs=3"
    with interrupted_after(1):
        fit(tiny_setup(schedule), run)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(UserError, match="says other settings than the run was begun with"):
        fit(tiny_setup(*changes), Run(run.path))
    assert before == {path: path.read_bytes() for path in run.path.iterdir()}


def test_resumed_in_another_process_it_is_the_same_run(tmp_path: Path) -> None:
    straight, run = new_run(tmp_path, "straight"), new_run(tmp_path, "stopped")
    fit(tiny_setup(base=SPATIAL), straight)
    with interrupted_after(1):
        fit(tiny_setup(base=SPATIAL), run)
    code = f"""
import torch
from pathlib import Path
from sfl.config.load import load
from sfl.runs.directory import Run
from sfl.training.fit import fit
from sfl.training.setup import set_up
torch.set_num_threads({torch.get_num_threads()})
fit(set_up(load({str(run.path / CONFIG)!r})), Run(Path({str(run.path)!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert same(tensors(straight), tensors(run))
    assert metrics(straight) == metrics(run) and result(straight) == result(run)


def test_stopped_before_the_test_it_only_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    returned = fit(tiny_setup(), run)
    (run.path / RESULT).unlink()
    monkeypatch.setattr(fitting, "train_epoch", lambda *a: pytest.fail("trained"))
    again = fit(tiny_setup(), Run(run.path))
    assert again == returned


def test_checkpoints_it_does_not_go_on_from(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1"), run)
    last, best = run.path / LAST, (run.path / BEST).read_bytes()
    refused = [
        (tiny_setup("optimizer.lr=1"), "says other settings than the run was begun", Exit.RUN),
        (tiny_setup("train.seed=8"), "says other settings than the run was begun", Exit.RUN),
        (tiny_setup("data.shapes.jitter=1"), "trained on other images than shapes", Exit.DATA),
    ]
    for setup, message, code in refused:
        with pytest.raises(UserError, match=message) as error:
            fit(setup, run)
        assert error.value.exit_code == code
    for content, message in ((best, "weights alone"), (best[:99], "not a checkpoint, or damaged")):
        last.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            fit(tiny_setup(), run)
        assert error.value.exit_code == Exit.RUN


def test_a_run_whose_checkpoint_was_taken_away_is_not_begun_anew(tmp_path: Path) -> None:
    """That would throw its best weights and its metrics away."""
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1", "train.keep=weights"), run)
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with pytest.raises(UserError, match=r"has no last\.safetensors to go on from") as error:
        fit(tiny_setup("train.epochs=1", "train.keep=weights"), Run(run.path))
    assert error.value.exit_code == Exit.RUN
    after = {file.name: file.read_bytes() for file in run.path.iterdir()}
    assert after | {"environment.json": b""} == before | {"environment.json": b""}


# --- which checkpoint is the best


def scripted(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> list[dict[str, Tensor]]:
    """Validation finds these accuracies; returns the weights after each epoch, when there are."""
    weights: list[dict[str, Tensor]] = []

    def look(setup: Setup, model: nn.Module, epoch: int) -> dict[str, float]:
        state = model.state_dict().items()
        weights.append({f"model.{name}": value.clone() for name, value in state})
        return {"validation_accuracy": accuracies[epoch - 1]}

    monkeypatch.setattr(fitting, "look", look)
    return weights


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [([0.1, 0.5, 0.5, 0.2], 2), ([0.3, 0.2, 0.1, 0.3], 1), ([0.1, 0.2, 0.3, 0.4], 4)],
)
def test_the_best_has_the_highest_validation_accuracy_the_earliest_on_ties(
    accuracies: list[float], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = scripted(monkeypatch, accuracies)
    run = new_run(tmp_path)
    fit(tiny_setup("data.validation=10", "train.epochs=4", "train.checkpoint_every=9"), run)
    assert same(tensors(run, BEST), weights[best - 1])
    assert not same(tensors(run, BEST), weights[best % 4])


def test_without_validation_the_best_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = scripted(monkeypatch, [0.9, 0.1, 0.2])
    run = new_run(tmp_path)
    fit(tiny_setup(), run)
    assert same(tensors(run, BEST), weights[2])


def test_the_test_set_is_read_once_on_the_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = scripted(monkeypatch, [0.5, 0.2, 0.1])
    tested: list[dict[str, Tensor]] = []
    original = results.test_model

    def spy(setup: Setup, model: nn.Module) -> Any:
        state = model.state_dict().items()
        tested.append({f"model.{name}": value.clone() for name, value in state})
        return original(setup, model)

    monkeypatch.setattr(fitting, "test_model", spy)
    fit(tiny_setup("data.validation=10"), new_run(tmp_path))
    assert len(tested) == 1 and same(tested[0], weights[0])


def test_is_best_by_hand() -> None:
    def newest(*accuracies: float) -> bool:
        return is_best([{"validation_accuracy": accuracy} for accuracy in accuracies])

    assert newest(0.0) and newest(0.1, 0.2)
    assert not newest(0.2, 0.2) and not newest(0.3, 0.1, 0.2)


def test_test_every_logs_and_changes_nothing(tmp_path: Path) -> None:
    plain, logged = new_run(tmp_path, "plain"), new_run(tmp_path, "logged")
    changes = ["train.epochs=4", "data.validation=14"]
    fit(tiny_setup(*changes, base=SPATIAL), plain)
    fit(tiny_setup(*changes, "train.test_every=2", base=SPATIAL), logged)
    assert ["test_accuracy" in line for line in metrics(logged)] == [False, True, False, True]
    assert same(tensors(plain), tensors(logged)) and same(
        tensors(plain, BEST), tensors(logged, BEST)
    )
    without = [{k: v for k, v in line.items() if k != "test_accuracy"} for line in metrics(logged)]
    assert without == metrics(plain)
    assert not any("test_accuracy" in line for line in metrics(plain))


def test_the_logged_test_accuracy_is_that_of_the_test_images(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    returned = fit(tiny_setup("train.test_every=1", base=SPATIAL.replace("14", "0")), run)
    assert metrics(run)[-1]["test_accuracy"] == returned["accuracy"]  # validation 0: of the last


# --- divergence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["train.epochs=2"],
            r"loss or gradients of epoch 2, step 2 are no finite numbers \(lr 1e+30, last finite "
            r"loss \d.*\); the last good checkpoint: .*run/last.safetensors",
        ),
        # One step an epoch: its loss is still finite, and the weights behind it, but huge.
        (["train.epochs=1", "data.batch_size=64"], "test loss of the trained model is (nan|inf)"),
        (
            ["train.epochs=1", "data.batch_size=64", "data.validation=10"],
            "validation loss after epoch 1 is (nan|inf)",
        ),
    ],
)
def test_divergence_is_told_and_nothing_good_is_lost(
    changes: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    setup = tiny_setup(*changes, "optimizer={name: sgd, lr: 1.0e+30}")
    if "train.epochs=2" in changes:  # one good epoch first
        with interrupted_after(1), monkeypatch.context() as patch:
            patch.setattr(epochs, "learning_rate", lambda *_, **__: 1e-3)
            fit(setup, run)
        before = (run.path / LAST).read_bytes()
    with pytest.raises(UserError, match=message.replace("+", r"\+")) as error:
        fit(setup, Run(run.path))
    assert error.value.exit_code == Exit.DIVERGED
    assert "optimizer.lr" in str(error.value) and "\n" not in str(error.value)
    assert not (run.path / RESULT).exists()
    if "train.epochs=2" in changes:
        assert (run.path / LAST).read_bytes() == before


@pytest.mark.parametrize("stopped", [False, True], ids=["at an epoch's end", "by a signal"])
def test_weights_that_are_no_numbers_replace_no_checkpoint(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a last step leaves them whose gradients were still finite."""
    run, look = new_run(tmp_path), fitting.look
    with interrupted_after(1):
        fit(tiny_setup(), run)
    before = (run.path / LAST).read_bytes()

    def looking(setup: Setup, model: nn.Module, epoch: int) -> Any:
        with torch.no_grad():
            next(model.parameters()).fill_(torch.inf)
        if stopped:
            raise Stopped(signal.SIGTERM)
        return look(setup, model, epoch)

    monkeypatch.setattr(fitting, "look", looking)
    with pytest.raises(UserError, match="the weights after epoch 2 are no finite numbers") as error:
        fit(tiny_setup(), Run(run.path))
    assert error.value.exit_code == Exit.DIVERGED
    assert (run.path / LAST).read_bytes() == before


# --- an epoch


def epoch_of(setup: Setup, epoch: int = 1) -> dict[str, Any]:
    (model, optimizer), so_far = ready(setup), EpochSoFar.begin(epoch, setup.device)
    train_epoch(setup, model, optimizer, Guard(optimizer), so_far, Silent())  # type: ignore[arg-type]
    return so_far.line()


def test_train_loss_is_the_mean_of_the_batch_means(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, float, int]] = []
    original = epochs.train_step

    def spy(*arguments: Any) -> tuple[Tensor, Tensor]:
        loss, hits = original(*arguments)
        found.append((len(arguments[4]), float(loss), int(hits)))
        return loss, hits

    monkeypatch.setattr(epochs, "train_step", spy)
    line = epoch_of(tiny_setup("data.batch_size=30"))
    sizes, losses, hits = zip(*found, strict=True)
    assert sizes == (30, 30, 4)  # the last batch is ragged, and counts as much as the others
    assert line["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert line["train_loss"] != pytest.approx(
        sum(s * loss for s, loss in zip(sizes, losses, strict=True)) / 64, rel=1e-4
    )
    assert line["train_accuracy"] == sum(hits) / 64
    assert line["images_per_second"] == pytest.approx(64 / line["seconds"])


def test_loss_and_accuracy_are_those_of_the_model() -> None:
    """With a learning rate that moves nothing, without augmentation and dropout, by hand."""
    changes = ["data.augment={crop_padding: 0, flip: false}", "data.batch_size=64"]
    setup = tiny_setup(*changes, "optimizer={name: sgd, lr: 1.0e-30}")
    model, _ = ready(setup)
    ((images, labels),) = batches_of(setup.train, batch_size=64, mean=setup.mean, std=setup.std)
    logits = model(images).detach()
    line = epoch_of(setup)
    assert line["train_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert line["train_accuracy"] == float((logits.argmax(1) == labels).double().mean())


def test_each_epoch_has_an_order_and_crops_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watch(setup: Any, model: Any, optimizer: Any, images: Tensor, *rest: Any) -> Any:
        seen.append(images)
        return torch.tensor(0.0), torch.tensor(0)

    monkeypatch.setattr(epochs, "train_step", watch)
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
    original = epochs.train_step

    def spy(setup: Setup, model: Any, optimizer: Any, *rest: Any) -> tuple[Tensor, Tensor]:
        rates.extend(group["lr"] for group in optimizer.param_groups)
        return original(setup, model, optimizer, *rest)

    monkeypatch.setattr(epochs, "train_step", spy)
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
    monkeypatch.setattr(epochs, "SECONDS_PER_LOOK", 1e9)
    setup = tiny_setup("data.batch_size=2", f"optimizer={{name: {name}, clip_norm: 1.0}}")
    assert setup.steps_per_epoch == 32
    model, optimizer = ready(setup)
    display, guard, so_far = Silent(), Guard(optimizer), EpochSoFar.begin(1, setup.device)
    with Reads() as reads:
        train_epoch(setup, model, optimizer, guard, so_far, display)  # type: ignore[arg-type]
    assert display.steps == [1]  # at once, so that something is seen, and then after that time
    assert reads.count == 3 + 1


# --- a step


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    setup = tiny_setup()
    return next(iter(batches_of(setup.train, batch_size=16, mean=setup.mean, std=setup.std)))


def test_a_step_by_hand(batch: tuple[Tensor, Tensor]) -> None:
    setup = tiny_setup("optimizer={name: sgd, lr: 0.5}")
    model, optimizer = ready(setup)
    images, labels = batch
    logits = model(images)
    expected = F.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    moved = [p.detach() - 0.5 * g for p, g in zip(model.parameters(), gradients, strict=True)]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)  # of an earlier step: forgotten
    loss, hits = train_step(setup, model, optimizer, images, labels)
    assert torch.equal(loss, expected.detach()) and not loss.requires_grad
    assert int(hits) == int((logits.argmax(1) == labels).sum())
    for parameter, value in zip(model.parameters(), moved, strict=True):
        torch.testing.assert_close(parameter.detach(), value)


def test_clip_norm_bounds_the_step(batch: tuple[Tensor, Tensor]) -> None:
    lengths = []
    for clip in ("null", "0.01", "1000.0"):
        setup = tiny_setup(f"optimizer={{name: sgd, lr: 1.0, clip_norm: {clip}}}")
        model, optimizer = ready(setup)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        train_step(setup, model, optimizer, *batch)
        after = [parameter.detach() for parameter in model.parameters()]
        moves = [(one - other).flatten() for one, other in zip(after, before, strict=True)]
        lengths.append(float(torch.cat(moves).norm()))
    free, clipped, wide = lengths
    assert clipped == pytest.approx(0.01, rel=1e-2)
    assert free == wide > 0.1


def test_label_smoothing_by_hand(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    setup = tiny_setup("train.label_smoothing=0.1")
    model, _ = ready(setup)
    loss, logits = forward(setup, model, images, labels)
    log_p = logits.log_softmax(dim=1)
    right = log_p.gather(1, labels[:, None]).mean()
    expected = -(0.9 * right + 0.1 * log_p.mean())  # 0.1 is spread over all ten classes
    torch.testing.assert_close(loss, expected)
    plain, _ = forward(tiny_setup(), model, images, labels)
    torch.testing.assert_close(plain, -right)


def test_bfloat16_products_and_float32_weights(batch: tuple[Tensor, Tensor]) -> None:
    setup = tiny_setup("train.precision=bfloat16")
    model, optimizer = ready(setup)
    loss, logits = forward(setup, model, *batch)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    train_step(setup, model, optimizer, *batch)
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32


# --- compile


def test_compile_compiles_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = new_run(tmp_path, "plain"), new_run(tmp_path, "compiled")
    fit(tiny_setup("train.epochs=1"), plain)
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: original(self, backend=backend))
    fit(tiny_setup("train.epochs=1", "train.compile=true"), compiled)
    assert graphs >= 1
    assert same(tensors(plain), tensors(compiled))  # names and all: a file of either suits both


@pytest.mark.slow
def test_torchs_own_compiler_takes_the_models(tmp_path: Path) -> None:
    plain, compiled = new_run(tmp_path, "plain"), new_run(tmp_path, "compiled")
    fit(tiny_setup("train.epochs=1"), plain)
    fit(tiny_setup("train.epochs=1", "train.compile=true"), compiled)
    assert metrics(compiled)[0]["train_loss"] == pytest.approx(metrics(plain)[0]["train_loss"])


# --- what is left of a run that failed


def test_a_failure_is_noted_and_goes_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    with interrupted_after(1):
        fit(tiny_setup(), run)
    assert run.status == "interrupted" and run.failure is None

    def fail(*_: object) -> None:
        raise UserError(f"{run.path}/x: no space", "free some", Exit.RESOURCES)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train_epoch", fail)
        with pytest.raises(UserError):
            fit(tiny_setup(), run)
    assert Run(run.path).status == "failed"
    assert run.failure == "run/x: no space (free some)\n"  # no path of this machine
    with interrupted_after(1):
        fit(tiny_setup(), run)
    assert Run(run.path).status == "interrupted"
    fit(tiny_setup(), run)
    assert Run(run.path).status == "finished" and run.failure is None


def test_of_a_failure_that_is_a_bug_only_its_kind_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/cache_of_somebody/x")

    monkeypatch.setattr(fitting, "train_epoch", fail)
    with pytest.raises(PermissionError):
        fit(tiny_setup(), run)
    assert run.failure == "PermissionError\n"


def test_the_cost_of_training(tmp_path: Path) -> None:
    """SimpleModel with 2 channels: 3·3·3·2·30·30 products, then 1800·10; the images have none."""
    run = new_run(tmp_path)
    result = fit(tiny_setup("data.validation=20"), run)
    layer, linear = 2 * 27 * 2 * 900, 2 * 1800 * 10
    assert result["flops_per_image"] == layer + linear
    assert result["training_flops_per_image"] == 2 * layer + 3 * linear
    assert result["train_images"] == 44
    peaks = [line["peak_memory_bytes"] for line in Run(run.path).metrics]
    assert result["peak_memory_bytes"] == (None if None in peaks else max(peaks))
