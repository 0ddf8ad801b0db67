"""What long training needs, in whole runs: an average, Muon, a teacher; resuming is exact."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfl.errors import Exit, UserError
from sfl.runs.directory import BEST, CONFIG, LAST, Run
from sfl.training import testing
from sfl.training.export import export
from sfl.training.fit import fit
from sfl.training.load import load_run
from sfl.training.memory import checkpoint_bytes
from sfl.training.setup import Setup, build_learner, set_up
from tests.training.tiny import (
    interrupted_after,
    metrics,
    new_run,
    random_dataset,
    result,
    same,
    tensors,
    tiny_config,
    tiny_setup,
)

DEEP = """
model:
  name: DeepNet
  channels: [2, 3, 3]
  strides: [2, 2, 2]
  kernel_sizes: [3, 3, 3]
  hidden_sizes: [4]
  same_start: true
data: {source: shapes, batch_size: 32, validation: 14, shapes: {train: 64, test: 32}}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01, decay: weights}
train: {epochs: 3, schedule: cosine, average: {decay: 0.5}, precision: float32, device: cpu}
"""
MUON = "optimizer={name: muon, lr: 0.01, weight_decay: 0.1}"
ADAM = "optimizer={name: adam, weight_decay: 0.01, decay: weights}"


@pytest.fixture(scope="module")
def taught_by(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the same images."""
    run = new_run(tmp_path_factory.mktemp("runs"), "teacher")
    fit(tiny_setup("train.epochs=1", base=DEEP), run)
    return run.path


@pytest.mark.parametrize(
    "changes",
    [[], [MUON, "data.validation=0"], [MUON, "learn.rule=kp"], [ADAM, "model.layer=conv",
     "model.same_start=false"], ["teacher"]],
    ids=["sgd", "muon, no validation", "muon, kp", "adam, conv", "teacher"],
)  # fmt: skip
def test_resumed_it_is_the_same_run(changes: list[str], tmp_path: Path, taught_by: Path) -> None:
    changes = [f"train.teacher={taught_by}" if one == "teacher" else one for one in changes]
    setup = tiny_setup(*changes, base=DEEP)
    straight = new_run(tmp_path, "straight")
    fit(setup, straight)
    run = new_run(tmp_path, "stopped")
    with interrupted_after(1):
        fit(setup, run)
    fit(setup, Run(run.path))
    for name in (LAST, BEST):
        assert same(tensors(straight, name), tensors(run, name))
    assert metrics(straight) == metrics(run) and result(straight) == result(run)


def accuracy(setup: Setup, model: torch.nn.Module) -> float:
    return setup.evaluate(model, setup.validation or setup.test).accuracy


def test_the_average_is_what_is_measured_tested_and_saved_as_the_best(tmp_path: Path) -> None:
    setup, run = tiny_setup("data.validation=0", base=DEEP), new_run(tmp_path)
    fit(setup, run)
    best, last = tensors(run, BEST), tensors(run, LAST)
    for name, tensor in best.items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, last[f"average.{name}"])
    assert not torch.equal(best["model.features.0.weight"], last["model.features.0.weight"])
    found = Run(run.path).result
    assert found is not None and found.accuracy == accuracy(setup, load_run(run.path).model)


def test_validation_is_measured_with_the_average(tmp_path: Path) -> None:
    """After one step of a large lr: the training loss is the same, the validation loss isn't."""
    changes = ("train.epochs=1", "data.batch_size=64", "optimizer.lr=5.0")
    logged = []
    for decay in (0.0, 0.5):
        run = new_run(tmp_path)
        fit(tiny_setup(*changes, f"train.average.decay={decay}", base=DEEP), run)
        logged.append(Run(run.path).metrics[0])
    assert logged[0]["train_loss"] == logged[1]["train_loss"]
    assert logged[0]["validation_loss"] != logged[1]["validation_loss"]


@pytest.mark.parametrize("changes", [[], [MUON], [ADAM]])
def test_the_size_of_a_checkpoint_is_known_before(changes: list[str]) -> None:
    """But for statistics, counters, and the two moments of the few that Muon gives to AdamW."""
    setup = tiny_setup(*changes, base=DEEP)
    learner = build_learner(setup)
    images = torch.randn(4, 3, 32, 32)
    learner.step(images, torch.arange(4), lr=0.1)
    size = sum(tensor.nbytes for tensor in learner.state().values())
    plain = tiny_config(*changes, "train.average.decay=0", base=DEEP)
    known, without = (checkpoint_bytes(setup.summary, each) for each in (setup.config, plain))
    assert known == without + setup.summary.bytes
    assert known <= size < 1.05 * known


# --- a teacher


def test_a_teacher_changes_the_loss_and_its_path_is_not_saved(
    tmp_path: Path, taught_by: Path
) -> None:
    losses = []
    for changes in ([], [f"train.teacher={taught_by}"]):
        run = new_run(tmp_path)
        fit(tiny_setup("train.epochs=1", *changes, base=DEEP), run)
        losses.append(Run(run.path).metrics[0]["train_loss"])
    assert losses[0] != losses[1]
    text = (run.path / CONFIG).read_text()
    assert "teacher: teacher\n" in text and str(taught_by.parent) not in text


def test_a_teacher_by_name_lies_beside_the_run(taught_by: Path) -> None:
    config = tiny_config("train.teacher=teacher", base=DEEP)
    setup = set_up(config, runs=taught_by.parent)
    assert setup.teacher is not None and setup.teacher.temperature == 4
    alone = set_up(tiny_config(base=DEEP)).summary  # the teacher answers each image, too
    assert setup.summary.training_flops == alone.training_flops + alone.flops
    moved = tiny_config(f"train.teacher={taught_by}", base=DEEP)
    assert moved.identity() == config.identity() and moved.continues(config)
    other = tiny_config("train.teacher=teacher", "train.teacher_share=0.5", base=DEEP)
    assert other.identity() != config.identity()


def test_a_teacher_stays_the_same_and_its_label_counts(tmp_path: Path) -> None:
    deep = DEEP.replace("same_start: true", "same_start: false")
    teacher, student = new_run(tmp_path, "teacher"), new_run(tmp_path, "student")
    fit(tiny_setup("train.epochs=1", base=deep), teacher)
    config = tiny_config("train.teacher=teacher", base=deep)
    with interrupted_after(1):
        fit(set_up(config, runs=tmp_path), student)
    teacher.path.rename(tmp_path / "first")
    fit(tiny_setup("train.epochs=1", "train.seed=1", base=deep), new_run(tmp_path, "teacher"))
    with pytest.raises(UserError, match="teacher: teacher is not what it was") as error:
        fit(set_up(config, runs=tmp_path), Run(student.path))
    assert error.value.exit_code == Exit.RUN
    shutil.rmtree(tmp_path / "teacher")
    (tmp_path / "first").rename(tmp_path / "teacher")
    fit(set_up(config, runs=tmp_path), Run(student.path))
    found = Run(student.path).result
    assert found is not None and found.label == "student of a pure teacher"
    tested = testing.test_weights(student.path / BEST, [], need_train=True)
    assert tested.values["label"] == found.label
    published = export(student, tmp_path / "w.safetensors", "bfloat16", "shapes")
    assert published.label == found.label


def test_of_a_student_of_an_earlier_version_nobody_knows_the_teacher(tmp_path: Path) -> None:
    deep = DEEP.replace("same_start: true", "same_start: false")
    fit(tiny_setup("train.epochs=1", base=deep), new_run(tmp_path, "teacher"))
    setup = set_up(tiny_config("train.teacher=teacher", base=deep), runs=tmp_path)
    student = new_run(tmp_path, "student")
    with interrupted_after(1):
        fit(replace(setup, taught_by=None), student)  # what it didn't write
    fit(setup, Run(student.path))
    found = Run(student.path).result
    assert found is not None and found.label == "student of a sharing teacher"


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        ("train.teacher=nobody", "train.teacher: nobody: no such run", Exit.RUN),
        ("data.validation=4", "other images: data.validation is 14 there, 4 here", Exit.DATA),
        ("data.train_images=10", "other images: data.train_images is None there, 10", Exit.DATA),
        ("data.shapes.train=96", "was trained on other images", Exit.DATA),
        ("data.normalize.std=[0.3, 0.3, 0.3]", "another data.normalize", Exit.DATA),
    ],
)
def test_a_teacher_that_cannot_teach(change: str, said: str, code: Exit, taught_by: Path) -> None:
    config = tiny_config("train.teacher=teacher", change, base=DEEP)
    with pytest.raises(UserError, match=said) as error:
        set_up(config, runs=taught_by.parent)
    assert error.value.exit_code == code


def test_a_teacher_of_other_classes_or_that_has_not_finished(
    tmp_path: Path, taught_by: Path
) -> None:
    config = tiny_config("train.teacher=teacher", base=DEEP)
    with pytest.raises(UserError, match="other classes"):
        set_up(config, random_dataset(classes=7), runs=taught_by.parent)
    run = new_run(tmp_path, "teacher")
    with interrupted_after(1):
        fit(tiny_setup(base=DEEP), run)
    with pytest.raises(UserError, match="has not finished"):
        set_up(config, runs=tmp_path)


# --- what can't be trained


def test_a_last_batch_of_one_image_is_refused_with_what_helps() -> None:
    with pytest.raises(UserError, match=r"BatchNorm1d: .*more than 1 value") as error:
        tiny_setup("data.validation=31", base=DEEP)
    assert error.value.hint == "set data.batch_size=31, or model.norm=none"
