"""The teacher of a run: another run that has finished, and was trained on the same images."""

from pathlib import Path
from typing import Any

import torch

from sfl.config.schema import Config
from sfl.data.dataset import Dataset
from sfl.errors import Exit, UserError
from sfl.learning.distillation import Teacher
from sfl.runs import store
from sfl.runs.directory import BEST
from sfl.shell import home
from sfl.training.checkpoint import read_checkpoint
from sfl.training.load import restore


def find_teacher(
    config: Config, runs: Path, dataset: Dataset, device: torch.device
) -> tuple[Teacher, dict[str, Any]] | None:
    """The teacher, and what the student's checkpoints say of it: its label and a hash.

    None where the config has none. runs: the folder where a teacher of that name may be.

    Raises UserError (exit 4) where there is no such finished run, (exit 3) where it was trained on
    other images or another part of them, or takes them otherwise normalised.
    """
    train = config.train
    if train.teacher is None:
        return None
    try:
        run = store.find(runs, str(home(train.teacher)))
    except UserError as error:
        raise UserError(f"train.teacher: {error.message}", error.hint, Exit.RUN) from None
    if run.result is None:
        raise UserError(f"train.teacher: {run.path}: has not finished", exit_code=Exit.RUN)
    checkpoint = read_checkpoint(run.path / BEST)
    own = checkpoint.settings
    now = dataset.describe()
    for key, what in (
        ("classes", "classes"), ("in_dimensions", "sizes of images"), ("fingerprints", "images"),
    ):  # fmt: skip
        if checkpoint.images[key] != now[key]:
            raise UserError(
                f"train.teacher: {run.path}: was trained on other {what}", exit_code=Exit.DATA
            )
    if own.data.normalize != config.data.normalize:
        raise UserError(
            f"train.teacher: {run.path}: was trained with another data.normalize",
            exit_code=Exit.DATA,
        )
    for key in ("validation", "train_images"):
        theirs, mine = getattr(own.data, key), getattr(config.data, key)
        if theirs != mine:
            raise UserError(
                f"train.teacher: {run.path}: was trained on other images: data.{key} is {theirs} "
                f"there, {mine} here",
                "train a teacher on the same images",
                Exit.DATA,
            )
    model = restore(checkpoint, own).to(device)
    teacher = Teacher(model, train.teacher_temperature, train.teacher_share)
    return teacher, {"label": run.result.label, "sha256": checkpoint.sha256}
