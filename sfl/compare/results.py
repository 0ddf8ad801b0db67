"""What a finished run says of itself, checked: result.json, and which test images it got right."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.runs.directory import LABELS, PREDICTIONS, RESULT, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Provenance(BaseModel):
    """Which images: their source, and the SHA-256 of each split."""

    source: str
    train: str
    test: str


class Result(BaseModel):
    """The fields of result.json that a comparison needs; docs/run-directory.md says what they are.

    Strict, so that a number in quotes is no number; what else the file says is left alone.
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    model: str
    accuracy: Fraction
    accuracy_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    loss: float
    n: Annotated[int, Field(ge=1)]
    per_class: dict[str, Fraction | None]
    confusion: list[list[Count]]
    data: Provenance
    weights: Count
    weight_bytes: Count
    flops_per_image: Count
    training_flops_per_image: Count
    train_images: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(gt=0)]
    peak_memory_bytes: Count | None


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run with its result, and its answers to the test images: predictions, labels (N,) int."""

    run: Run
    result: Result
    predictions: "NDArray[np.int64]"
    labels: "NDArray[np.int64]"

    @property
    def seed(self) -> int:
        return int(self.run.config["train"]["seed"])

    @cached_property
    def correct(self) -> "NDArray[np.bool_]":
        """(N,), whether it got each image right."""
        right: NDArray[np.bool_] = self.predictions == self.labels
        return right


@dataclass(frozen=True)
class Group:
    """One model of a comparison: its name, its config, what its runs ended with."""

    name: str
    config: Config
    results: Sequence[RunResult]


def read_result(run: Run) -> RunResult:
    """Raises UserError (exit 4) where the run has not finished, or a file is missing or odd."""
    if run.result is None:
        raise UserError(f"{run.path}: has not finished", exit_code=Exit.RUN)
    result = checked_result(run.result, run)
    predictions, labels = (_read_classes(run, name, result.n) for name in (PREDICTIONS, LABELS))
    if abs(float((predictions == labels).mean()) - result.accuracy) > 1e-9:
        raise run.damaged(PREDICTIONS)  # not the predictions of this result
    return RunResult(run, result, predictions, labels)


def checked_result(values: dict[str, Any], run: Run) -> Result:
    """Raises UserError (exit 4) that names the fields which are missing or odd."""
    try:
        return Result.model_validate(values)
    except ValidationError as error:
        lacking = dict.fromkeys(str(mistake["loc"][0]) for mistake in error.errors())
        raise UserError(
            f"{run.path / RESULT}: lacks, or is odd in, {', '.join(lacking)}",
            f"written by another version of sfl? {run.name} can be trained again",
            Exit.RUN,
        ) from None


def _read_classes(run: Run, name: str, count: int) -> "NDArray[np.int64]":
    import numpy as np

    path: Path = run.path / name
    try:
        classes = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        hint = f"a comparison needs its answers, image by image; {run.name} can be trained again"
        raise UserError(f"{path}: there is none", hint, Exit.RUN) from None
    except (OSError, ValueError, EOFError):
        raise run.damaged(name) from None
    whole = isinstance(classes, np.ndarray) and classes.dtype.kind in "iu"
    if not whole or classes.shape != (count,):
        raise run.damaged(name)
    found: NDArray[np.int64] = classes
    return found


def logged_by_all(groups: Sequence[Group], key: str) -> bool:
    """Whether each run has it in its metrics, in some epoch."""
    runs = [one.run for group in groups for one in group.results]
    return all(any(key in line for line in run.metrics) for run in runs)
