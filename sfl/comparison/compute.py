"""A comparison's numbers, computed from what runs left behind. Needs no torch and no images."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import Any

from sfl import stats
from sfl.comparison import schema
from sfl.comparison.copies import of_copies
from sfl.comparison.methods import Variants, methods
from sfl.comparison.model import ComparedModel, RunResult, label_of
from sfl.comparison.plan import SAME_IMAGES
from sfl.comparison.schema import Comparison, Difference, Model, Target
from sfl.comparison.sentences import conclusion, remarks
from sfl.errors import Exit, UserError
from sfl.plots.measures import mean_over_layers
from sfl.plots.test_images import name_of_images
from sfl.runs.listing import Images, judged_on


def compare(
    compared: Sequence[ComparedModel], target: float | None = None, data_name: str | None = None,
    variants: Variants = (),
) -> Comparison:  # fmt: skip
    """Each model against the first one. The models have their results.

    target: an accuracy, a fraction; what it took to reach it is computed, too.
    data_name: what the images are called; None: a name for their source.
    variants: of each model, by axis, where they are a study's cells.

    Raises UserError if the runs were not made with the same images (exit 3), or if they did not all
    log an accuracy on the same images that the target can be compared with (exit 4).
    """
    _refuse_other_images(compared)
    wanted = None if target is None else (target, _target_images(compared))
    models = [_describe(model, wanted) for model in compared]
    differences = _corrected(
        [
            _difference(compared[0], model, models[0], described)
            for model, described in zip(compared[1:], models[1:], strict=True)
        ]
    )
    data = _images(compared, data_name)
    return Comparison(
        schema_version=schema.SCHEMA_VERSION,
        data=data,
        models=models,
        differences=differences,
        remarks=remarks(compared, models, differences, of_cells=bool(variants)),
        conclusion=[
            conclusion(models[0], model, difference)
            for model, difference in zip(models[1:], differences, strict=True)
        ],
        methods=methods(compared, data, variants),
    )


def _images(compared: Sequence[ComparedModel], name: str | None) -> schema.Images:
    first = compared[0].results[0].result
    return schema.Images(
        name=name or name_of_images(first.data.source),
        source=first.data.source,
        train=first.data.train,
        test=first.data.test,
        train_images=[model.results[0].result.train_images for model in compared],
        test_images=first.n,
        majority_share=stats.majority_share([sum(row) for row in first.confusion]),
    )


def _refuse_other_images(compared: Sequence[ComparedModel]) -> None:
    (first, *others) = (one for model in compared for one in model.results)
    for other in others:
        for split in ("train", "test"):
            if getattr(other.result.data, split) != getattr(first.result.data, split):
                both = f"{other.run.name} and {first.run.name}"
                said = f"{both} were not made with the same {split} images"
                raise UserError(said, SAME_IMAGES, Exit.DATA)
        if (other.labels != first.labels).any():
            raise other.run.damaged("labels.npy")


def _describe(model: ComparedModel, target: tuple[float, Images] | None) -> Model:
    """target: the accuracy to be reached, and on which images."""
    import numpy as np

    results = [one.result for one in model.results]
    last, accuracies = results[-1], [result.accuracy for result in results]
    several = len(results) > 1
    interval = stats.t_interval(accuracies) if several else last.accuracy_interval
    peaks = [result.peak_memory_bytes for result in results]
    known = [peak for peak in peaks if peak is not None]
    seen = [result.train_images * result.epochs for result in results]  # images, over all epochs
    return Model(
        name=model.name,
        model=last.model,
        layer=model.config.model.layer or "conv",
        storage=model.config.model.storage,
        label=label_of(model),
        sharing=last.audit and last.audit.sharing,
        transport=last.audit and last.audit.transport,
        runs=[one.run.name for one in model.results],
        seeds=[one.seed for one in model.results],
        n=len(results),
        accuracy=fmean(accuracies),
        accuracies=accuracies,
        accuracy_sd=stdev(accuracies) if several else None,
        accuracy_interval=interval and [max(0.0, interval[0]), min(1.0, interval[1])],
        interval_covers="seeds" if several else "images",
        loss=fmean([result.loss for result in results]),
        gradient_angle=_last_measured(model, partial(mean_over_layers, "gradient_angle")),
        probe_decrease=_last_measured(model, lambda line: line.get("probe_decrease")),
        **of_copies(model),
        per_class={name: _mean(r.per_class[name] for r in results) for name in model.classes},
        confusion=np.sum([result.confusion for result in results], axis=0).tolist(),
        epochs=[result.epochs for result in results],
        unfinished=[one.run.name for one in model.results if one.run.result is None],
        weights=last.weights,
        weight_bytes=last.weight_bytes,
        peak_memory_bytes=max(known) if len(known) == len(peaks) else None,
        flops_per_image=last.flops_per_image,
        training_flops_per_image=last.training_flops_per_image,
        images_per_second=fmean([n / r.seconds for n, r in zip(seen, results, strict=True)]),
        seconds=fmean([result.seconds for result in results]),
        seconds_each=[result.seconds for result in results],
        training_flops=fmean([float(last.training_flops_per_image * n) for n in seen]),
        target=target and _target(model.results, *target),
    )


def _mean(accuracies: Iterable[float | None]) -> float | None:
    """None for a class without test images."""
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return fmean(known) if known else None


def _last_measured(
    model: ComparedModel, read: Callable[[dict[str, Any]], float | None]
) -> float | None:
    """The mean over the runs of what each measured last; None if one has no such number."""
    measured = [[li for li in one.run.metrics if "measures" in li] for one in model.results]
    known = [value for lines in measured if lines and (value := read(lines[-1])) is not None]
    return fmean(known) if len(known) == len(measured) else None


def _difference(
    first: ComparedModel, second: ComparedModel, one: Model, other: Model
) -> Difference:
    """one, other: what has been computed of the first and of the second model."""
    import numpy as np

    a, b = (np.stack([run.correct for run in model.results]) for model in (first, second))
    share_a, share_b = a.mean(axis=0), b.mean(axis=0)
    welch = stats.welch(one.accuracies, other.accuracies)
    return Difference(
        first=one.name,
        second=other.name,
        accuracy=other.accuracy - one.accuracy,
        welch=welch and schema.Welch(**vars(welch)),
        bootstrap=schema.Bootstrap(
            interval=list(stats.paired_bootstrap(a, b)), resamples=stats.RESAMPLES
        ),
        mcnemar=schema.McNemar(p=stats.mcnemar(a[0], b[0])) if one.n == other.n == 1 else None,
        only_first_count=float((share_a * (1 - share_b)).sum()),
        only_second_count=float((share_b * (1 - share_a)).sum()),
        only_first=np.flatnonzero(a.all(axis=0) & ~b.any(axis=0)).tolist(),
        only_second=np.flatnonzero(b.all(axis=0) & ~a.any(axis=0)).tolist(),
    )


def _corrected(differences: list[Difference]) -> list[Difference]:
    """With the p-values corrected, of several. One without a test counts among them, too."""
    if len(differences) < 2:
        return differences
    ps = stats.holm([1.0 if each.p is None else each.p for each in differences])
    return [
        each.model_copy(update={"p_corrected": None if each.p is None else p})
        for each, p in zip(differences, ps, strict=True)
    ]


def _target_images(compared: Sequence[ComparedModel]) -> Images:
    """On which images the accuracy is looked at; UserError where the runs share no logged one."""
    runs = [one.run for model in compared for one in model.results]
    if images := judged_on(*(run.logged for run in runs)):
        return images
    lacking = next(run for run in runs if "test_accuracy" not in run.logged)
    said = f"--target: {lacking.name} logged no accuracy on validation or test images"
    raise UserError(said, "train with data.validation=N or train.test_every=1", Exit.RUN)


def _target(results: Sequence[RunResult], target: float, images: Images) -> Target:
    """The first epochs that reach the target; seconds and FLOPs of training until their end."""
    reached = []
    for one in results:
        lines = one.run.metrics
        for count, line in enumerate(lines, 1):
            if line.get(f"{images}_accuracy", -1.0) >= target:
                seconds = sum(past["seconds"] for past in lines[:count])
                flops = one.result.training_flops_per_image * one.result.train_images * count
                reached.append((float(count), float(seconds), float(flops)))
                break
    means = [fmean(each) for each in zip(*reached, strict=True)] if reached else [None] * 3
    found: dict[str, Any] = dict(zip(("epoch", "seconds", "training_flops"), means, strict=True))
    return Target(accuracy=target, measured_on=images, reached=len(reached), **found)
