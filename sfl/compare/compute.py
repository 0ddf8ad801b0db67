"""Finished runs side by side: reads what they left behind, needs no torch and no images."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

from sfl import stats
from sfl.compare.results import Group, RunResult, logged_by_all
from sfl.compare.schema import (
    SCHEMA_VERSION,
    Bootstrap,
    Comparison,
    Difference,
    Images,
    McNemar,
    Model,
    Target,
    Welch,
)
from sfl.compare.sentences import conclusion, remarks
from sfl.errors import Exit, UserError
from sfl.plots.test_images import called

Measured = Literal["validation", "test"]


def compare(
    groups: Sequence[Group], target: float | None = None, data_name: str | None = None
) -> Comparison:
    """Each group against the first one.

    target: an accuracy whose price is asked for, too.
    data_name: what the images are called; None: after their source.

    Raises UserError where runs were not made with the same images (exit 3) or no run logged what
    the target needs (exit 4).
    """
    _refuse_other_images(groups)
    measured_on = None if target is None else _logged(groups)
    models = [_model(group, target, measured_on) for group in groups]
    differences = [
        _difference(groups[0], group, models[0], model)
        for group, model in zip(groups[1:], models[1:], strict=True)
    ]
    first = groups[0].results[0].result
    return Comparison(
        schema_version=SCHEMA_VERSION,
        data=Images(
            name=data_name or called(first.data.source),
            **first.data.model_dump(),
            train_images=[group.results[0].result.train_images for group in groups],
            test_images=first.n,
        ),
        models=models,
        differences=differences,
        remarks=[
            *remarks([group.config for group in groups], models, differences),
            *_other_machines(groups),
        ],
        conclusion=[
            conclusion(models[0], model, difference)
            for model, difference in zip(models[1:], differences, strict=True)
        ],
    )


def _refuse_other_images(groups: Sequence[Group]) -> None:
    (first, *others) = (one for group in groups for one in group.results)
    for other in others:
        for split in ("train", "test"):
            if getattr(other.result.data, split) != getattr(first.result.data, split):
                raise UserError(
                    f"{other.run.name} and {first.run.name} were not made with the same {split} "
                    "images",
                    "compare runs of one data set: keep others in another folder, with --runs",
                    Exit.DATA,
                )
        if (other.labels != first.labels).any():
            raise other.run.damaged("labels.npy")


def _other_machines(groups: Sequence[Group]) -> list[str]:
    """Where runs were made with unlike things that change how long they take, or their numbers."""
    runs = [one.run for group in groups for one in group.results]
    found = []
    for key in ("device", "threads", "precision"):
        values = dict.fromkeys(str((run.environment or {}).get(key, "unknown")) for run in runs)
        if len(values) > 1:
            found.append(f"not the same {key}: {', '.join(values)}")
    return found


def _model(group: Group, target: float | None, measured_on: Measured | None) -> Model:
    results = [one.result for one in group.results]
    last, accuracies = results[-1], [result.accuracy for result in results]
    several = len(results) > 1
    interval = stats.t_interval(accuracies) if several else last.accuracy_interval
    peaks = [result.peak_memory_bytes for result in results]
    known = [peak for peak in peaks if peak is not None]
    steps = [result.train_images * result.epochs for result in results]  # images, all epochs
    return Model(
        name=group.name,
        model=last.model,
        layer=group.config.model.layer or "conv",
        storage=group.config.model.storage,
        runs=[one.run.name for one in group.results],
        seeds=[one.seed for one in group.results],
        n=len(results),
        accuracy=fmean(accuracies),
        accuracies=accuracies,
        accuracy_sd=stdev(accuracies) if several else None,
        accuracy_interval=interval and [max(0.0, interval[0]), min(1.0, interval[1])],
        interval_covers="seeds" if several else "images",
        loss=fmean([result.loss for result in results]),
        per_class=_mean_per_class(group.results),
        confusion=_sum_of_matrices([result.confusion for result in results]),
        epochs=[result.epochs for result in results],
        unfinished=[one.run.name for one in group.results if one.run.result is None],
        weights=last.weights,
        weight_bytes=last.weight_bytes,
        peak_memory_bytes=max(known) if len(known) == len(peaks) else None,
        flops_per_image=last.flops_per_image,
        training_flops_per_image=last.training_flops_per_image,
        images_per_second=fmean([n / r.seconds for n, r in zip(steps, results, strict=True)]),
        seconds=fmean([result.seconds for result in results]),
        seconds_each=[result.seconds for result in results],
        training_flops=fmean([float(last.training_flops_per_image * n) for n in steps]),
        target=(
            None
            if target is None or measured_on is None
            else _target(group.results, target, measured_on)
        ),
    )


def _mean_per_class(results: Sequence[RunResult]) -> dict[str, float | None]:
    """None: no test image of this class."""
    means: dict[str, float | None] = {}
    for name in results[0].result.per_class:
        each = [one.result.per_class[name] for one in results]
        known = [accuracy for accuracy in each if accuracy is not None]
        means[name] = fmean(known) if known else None
    return means


def _sum_of_matrices(matrices: Sequence[list[list[int]]]) -> list[list[int]]:
    return [
        [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)
    ]


def _difference(first: Group, second: Group, one: Model, other: Model) -> Difference:
    import numpy as np

    a, b = (np.stack([one.correct for one in group.results]) for group in (first, second))
    share_a, share_b = a.mean(axis=0), b.mean(axis=0)
    welch = stats.welch(one.accuracies, other.accuracies)
    alone = one.n == other.n == 1
    return Difference(
        first=one.name,
        second=other.name,
        accuracy=other.accuracy - one.accuracy,
        welch=welch
        and Welch(
            interval=list(welch.interval), degrees_of_freedom=welch.degrees_of_freedom, p=welch.p
        ),
        bootstrap=Bootstrap(interval=list(stats.paired_bootstrap(a, b)), resamples=stats.RESAMPLES),
        mcnemar=McNemar(p=stats.mcnemar(a[0], b[0])) if alone else None,
        only_first_count=float((share_a * (1 - share_b)).sum()),
        only_second_count=float((share_b * (1 - share_a)).sum()),
        only_first=np.flatnonzero(a.all(axis=0) & ~b.any(axis=0)).tolist(),
        only_second=np.flatnonzero(b.all(axis=0) & ~a.any(axis=0)).tolist(),
    )


# --- the price of a given accuracy


def _logged(groups: Sequence[Group]) -> Measured:
    """On which accuracy all runs can be asked for a target: validation's where they have it."""
    images: Measured
    for images in ("validation", "test"):
        if logged_by_all(groups, f"{images}_accuracy"):
            return images
    runs = [one.run for group in groups for one in group.results]
    silent = next(r for r in runs if not any("test_accuracy" in line for line in r.metrics))
    raise UserError(
        f"--target: {silent.name} logged no accuracy on validation or test images",
        "train with data.validation=N or train.test_every=1",
        Exit.RUN,
    )


def _target(results: Sequence[RunResult], target: float, measured_on: Measured) -> Target:
    """The first epochs that reach it, and what had been spent by then."""
    reached = []
    for one in results:
        lines = one.run.metrics
        for place, line in enumerate(lines, 1):
            if line.get(f"{measured_on}_accuracy", -1.0) >= target:
                seconds = sum(past["seconds"] for past in lines[:place])
                flops = one.result.training_flops_per_image * one.result.train_images * place
                reached.append((float(place), float(seconds), float(flops)))
                break
    means = [fmean(each) for each in zip(*reached, strict=True)] if reached else [None] * 3
    return Target(
        accuracy=target,
        measured_on=measured_on,
        reached=len(reached),
        epoch=means[0],
        seconds=means[1],
        training_flops=means[2],
    )
