"""Tests on copies of the test images: averaged over views, moved by some pixels, corrupted.

They stand beside the test of the images as they are, never in its place. Nothing is chosen by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sfl.data.corrupted import Corrupted
from sfl.data.dataset import Split
from sfl.errors import UserError
from sfl.learning.divergence import refuse_loss
from sfl.progress import say, track
from sfl.runs.directory import BEST, COPIES, Run
from sfl.runs.records import Copies
from sfl.stats import wilson_interval
from sfl.training.evaluate import Evaluation
from sfl.training.setup import Setup
from sfl.training.views import View, Viewed, averaged_views


@dataclass(frozen=True)
class Asked:
    """What is asked for. views: 2, 18 or 50. shifts: the most pixels. corrupted: a folder.

    Raises UserError for another number of views, before images are read.
    """

    views: int | None = None
    shifts: int | None = None
    corrupted: Path | None = None

    def __post_init__(self) -> None:
        if self.views is not None:
            try:
                averaged_views(self.views)
            except ValueError as error:
                raise UserError(f"--views {error}") from None


NOTHING = Asked()


def checked(asked: Asked, setup: Setup) -> Corrupted | None:
    """The corrupted images that are asked for. Raises UserError for all that can't be tested.

    Called before the test, which may take minutes.
    """
    _, height, width = setup.dataset.in_dimensions
    if asked.views is not None:
        most = max(view.down for view in averaged_views(asked.views))
        _check_move(f"--views {asked.views}", most, range(min(height, width)))
    if asked.shifts is not None:
        _check_move(f"--shifts {asked.shifts}", asked.shifts, range(1, min(height, width)))
    if asked.corrupted is None:
        return None
    return Corrupted(asked.corrupted, setup.dataset.in_dimensions, setup.dataset.test.labels)


def _check_move(option: str, pixels: int, can: range) -> None:
    if pixels not in can:
        said = f"{option}: images of {can.stop} pixels can't be moved by {pixels}"
        raise UserError(said, "give fewer than their height and width, and at least 1")


def test_copies(
    asked: Asked, setup: Setup, model: nn.Module, corrupted: Corrupted | None
) -> dict[str, Any]:
    """The fields of `Copies` that are asked for. corrupted: from `checked`."""
    found: dict[str, Any] = {}
    if asked.views is not None:
        found["views"] = _views(setup, model, asked.views)
    if asked.shifts is not None:
        found["shifts"] = _shifts(setup, model, asked.shifts)
    if corrupted is not None:
        found["corrupted"] = _corrupted(setup, model, corrupted)
    return found


def keep(weights: Path, found: dict[str, Any], *, same: bool) -> None:
    """Writes what was found beside the result of the run that the weights are of; says so.

    same: whether these are the settings and images of the run. Of other weights nothing is kept.
    """
    run = Run(weights.parent)
    if weights.name != BEST or run.status != "finished":
        return
    path = run.path / COPIES
    if not same:
        say(f"{path}: not written, because settings or images are not those of the run")
        return
    try:
        before = run.record(COPIES, Copies)
        values = (before.to_dict() if before else {}) | found
        run.write_json(COPIES, Copies.check(values, str(path)).to_dict())
    except UserError as error:  # what was found is printed all the same
        say(f"not kept: {error}")
    else:
        say(f"kept in {path}")


def _test(setup: Setup, model: nn.Module, split: Split, description: str = "") -> Evaluation:
    found = setup.evaluate(model, split, description)
    refuse_loss(found.loss, "test loss of the trained model")
    return found


def _viewed(setup: Setup, model: nn.Module, views: Sequence[View]) -> Viewed:
    # Filled as the training's random crops: with black, where no setting says otherwise.
    return Viewed(model, views, setup.config.data.augment.crop_fill, -setup.mean / setup.std)


def _views(setup: Setup, model: nn.Module, count: int) -> dict[str, Any]:
    viewed = _viewed(setup, model, averaged_views(count))
    found = _test(setup, viewed, setup.test, f"testing with {count} views")
    return {
        "count": count,
        "fill": setup.config.data.augment.crop_fill,
        "accuracy": found.accuracy,
        "accuracy_interval": list(wilson_interval(found.correct, len(found.labels))),
        "loss": found.loss,
    }


def _shifts(setup: Setup, model: nn.Module, pixels: int) -> dict[str, Any]:
    moves = range(-pixels, pixels + 1)
    views = [View(down, right) for down in moves for right in moves]
    accuracy = [
        _test(setup, _viewed(setup, model, [view]), setup.test).accuracy
        for view in track(views, f"testing {len(views)} shifts")
    ]
    rows = [accuracy[first : first + len(moves)] for first in range(0, len(views), len(moves))]
    return {"pixels": pixels, "fill": setup.config.data.augment.crop_fill, "accuracy": rows}


def _corrupted(setup: Setup, model: nn.Module, corrupted: Corrupted) -> dict[str, Any]:
    names, errors = corrupted.names, dict[str, list[float]]()
    for name in track(names, f"testing {len(names)} corruptions"):
        on_device = (split.to(setup.device) for split in corrupted.splits(name))
        errors[name] = [1 - _test(setup, model, split).accuracy for split in on_device]
    chosen = [error for name in corrupted.in_the_mean for error in errors[name]]
    return {
        "error": errors,
        "mean_error": sum(chosen) / len(chosen),
        "in_the_mean": corrupted.in_the_mean,
    }
