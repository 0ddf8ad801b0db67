"""Finished runs side by side. Reads result files; needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from sfl.config import Config
from sfl.errors import Exit, UserError
from sfl.rundir import RESULT, Run

NUMBER = (int, float)
NEEDED: dict[str, type | tuple[type, ...]] = {
    "model": str, "accuracy": NUMBER, "accuracy_interval": list, "loss": NUMBER, "data": dict,
    "weights": int, "weight_bytes": int, "flops_per_image": int, "seconds_per_epoch": NUMBER,
    "epochs": int,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One model of a comparison: means over its n runs. Accuracies are fractions.

    accuracy_interval: 95 %; of one run Wilson's, which covers the test images alone; of several
    Student's t over the runs, which covers seeds too.
    """

    name: str
    model: str
    runs: tuple[str, ...]
    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    loss: float
    weights: int
    weight_bytes: int
    flops_per_image: int
    seconds_per_epoch: float
    epochs: int
    difference: float  # of accuracy, to the first model

    def to_dict(self) -> dict[str, Any]:
        interval, runs = list(self.accuracy_interval), list(self.runs)
        return {**self.__dict__, "accuracy_interval": interval, "runs": runs}


def compare(groups: Sequence[tuple[str, Config, Sequence[Run]]]) -> dict[str, Any]:
    """Rows and remarks for (name, config, finished runs) of each model.

    Raises UserError (exit 3) where the runs were not tested on the same images.
    """
    results = [(name, runs, [_result(run) for run in runs]) for name, _, runs in groups]
    _same_images([(run, _result(run)) for _, _, runs in groups for run in runs])
    first = fmean([result["accuracy"] for result in results[0][2]])
    rows = [_row(name, runs, found, first) for name, runs, found in results]
    remarks = _differences([config for _, config, _ in groups])
    if any(row.n == 1 for row in rows):
        remarks.append("one seed says little: these intervals cover the test images, not the seed")
    return {"models": [row.to_dict() for row in rows], "remarks": remarks}


def _row(name: str, runs: Sequence[Run], results: list[dict[str, Any]], first: float) -> Row:
    accuracies = [result["accuracy"] for result in results]
    accuracy, newest = fmean(accuracies), results[-1]
    low, high = newest["accuracy_interval"] if len(results) == 1 else _t_interval(accuracies)
    return Row(
        name=name,
        model=newest["model"],
        runs=tuple(run.name for run in runs),
        n=len(results),
        accuracy=accuracy,
        accuracy_interval=(low, high),
        loss=fmean([result["loss"] for result in results]),
        weights=newest["weights"],
        weight_bytes=newest["weight_bytes"],
        flops_per_image=newest["flops_per_image"],
        seconds_per_epoch=fmean([result["seconds_per_epoch"] for result in results]),
        epochs=newest["epochs"],
        difference=accuracy - first,
    )


def _result(run: Run) -> dict[str, Any]:
    if run.result is None:
        raise UserError(f"{run.path}: has not finished", exit_code=Exit.RUN)
    lacking = [key for key, kind in NEEDED.items() if not isinstance(run.result.get(key), kind)]
    interval, data = run.result.get("accuracy_interval"), run.result.get("data")
    if isinstance(interval, list) and [isinstance(n, NUMBER) for n in interval] != [True, True]:
        lacking.append("accuracy_interval")
    if isinstance(data, dict) and not {"train", "test"} <= data.keys():
        lacking.append("data")
    if lacking:
        raise UserError(
            f"{run.path / RESULT}: lacks {', '.join(lacking)}",
            f"written by another version of sfl? {run.name} can be trained again",
            Exit.RUN,
        )
    return run.result


def _same_images(results: Sequence[tuple[Run, dict[str, Any]]]) -> None:
    (first, expected), *others = results
    for run, result in others:
        for split in ("train", "test"):
            if result["data"][split] != expected["data"][split]:
                raise UserError(
                    f"{run.name} and {first.name} were not made with the same {split} images",
                    "compare runs of one data set: keep others in another folder, with --runs",
                    Exit.DATA,
                )


def _differences(configs: Sequence[Config]) -> list[str]:
    """What differs besides sharing: the graphs, and the settings that the models share."""
    flat = [_flat(config.identity()) for config in configs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    differing = [key for key in keys if any(s.get(key) != flat[0].get(key) for s in flat)]
    if not differing:
        return ["one experiment under several names"]
    remarks = []
    graph = [key for key in differing if key.startswith("model.") and key not in DRAWN_OR_SHARED]
    dense = {settings.get("model.storage") == "dense" for settings in flat}
    if graph or len(dense) > 1:
        remarks.append("not twins: other graphs")
    settings = [key for key in differing if not key.startswith("model.")]
    settings += [key for key in ("model.init",) if key in differing]
    for key in settings:
        values = ", ".join(str(settings.get(key, "none")) for settings in flat)
        remarks.append(f"not the same {key}: {values}")
    return remarks


# What twins may differ in, and what draws their first weights.
DRAWN_OR_SHARED = ("model.layer", "model.storage", "model.init")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{key}": value} if inner is None else inner
    return flat


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean accuracy, which lies in [0, 1]."""
    from scipy.stats import t  # scipy takes a while to import

    mean, n = fmean(values), len(values)
    half = float(t.ppf(0.975, n - 1)) * stdev(values) / n**0.5
    return max(0.0, mean - half), min(1.0, mean + half)
