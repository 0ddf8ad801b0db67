"""The experiment: it learns, it repeats itself bit for bit, its best weights are tested."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfl.config.load import load
from sfl.errors import Exit, UserError
from sfl.learning.learner import Learner
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
from sfl.training import epoch as epochs
from sfl.training import fit as fitting
from sfl.training import testing
from sfl.training.fit import fit
from sfl.training.setup import Setup
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
    assert load(run.path / CONFIG) == setup.config
    environment = json.loads((run.path / ENVIRONMENT).read_text())
    assert environment["precision"] == "float32"
    assert [set(line) for line in run.metrics] == [
        {
            "epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
            "lr", "seconds", "images_per_second", "peak_memory_bytes",
        }
    ] * 3  # fmt: skip
    assert [line["epoch"] for line in run.metrics] == [1, 2, 3]
    assert run.result is not None and returned == run.result.to_dict()
    assert returned["run"] == "tiny-s0" and returned["model"] == "SimpleModel"
    assert returned["epochs"] == 3 and returned["n"] == 32
    seconds = [line["seconds"] for line in run.metrics]
    assert returned["seconds"] == pytest.approx(sum(seconds))
    assert returned["seconds_per_epoch"] == pytest.approx(sum(seconds) / 3)


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
    for name in (BEST, PREDICTIONS, LABELS):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()
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
    original = Learner.step

    def disturbed(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        found = original(*arguments, **named)
        torch.rand(7)
        return found

    monkeypatch.setattr(Learner, "step", disturbed)
    other = new_run(tmp_path, "other")
    fit(tiny_setup("train.epochs=2", base=SPATIAL), other)
    assert same(tensors(straight), tensors(other))


# --- which checkpoint is the best


def scripted(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> list[dict[str, Tensor]]:
    """Validation finds these accuracies; returns the weights after each epoch, when there are."""
    weights: list[dict[str, Tensor]] = []

    def look(setup: Setup, learner: Learner, epoch: int) -> dict[str, float]:
        state = learner.model.state_dict().items()
        weights.append({f"model.{name}": value.clone() for name, value in state})
        return {"validation_accuracy": accuracies[epoch - 1]}

    monkeypatch.setattr(fitting, "measure", look)
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
    original = testing.test_model

    def spy(setup: Setup, model: nn.Module) -> Any:
        state = model.state_dict().items()
        tested.append({f"model.{name}": value.clone() for name, value in state})
        return original(setup, model)

    monkeypatch.setattr(testing, "test_model", spy)
    fit(tiny_setup("data.validation=10"), new_run(tmp_path))
    assert len(tested) == 1 and same(tested[0], weights[0])


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
            r"loss or gradients of epoch 2, step 2 are not finite \(lr 1e+30, last finite "
            r"loss \d.*\); last checkpoint: .*run/last.safetensors",
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
    run, look = new_run(tmp_path), fitting.measure  # type: ignore[attr-defined]
    with interrupted_after(1):
        fit(tiny_setup(), run)
    before = (run.path / LAST).read_bytes()

    def looking(setup: Setup, learner: Learner, epoch: int) -> Any:
        with torch.no_grad():
            next(learner.model.parameters()).fill_(torch.inf)
        if stopped:
            raise Stopped(signal.SIGTERM)
        return look(setup, learner, epoch)

    monkeypatch.setattr(fitting, "measure", looking)
    with pytest.raises(UserError, match="the weights after epoch 2 are not finite") as error:
        fit(tiny_setup(), Run(run.path))
    assert error.value.exit_code == Exit.DIVERGED
    assert (run.path / LAST).read_bytes() == before


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
