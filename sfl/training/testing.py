"""Tests trained weights on the test images: a run's best weights, or any file of weights.

A run reads its test set once, at the end. Writes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from sfl.config.load import override
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.learning.divergence import refuse_loss
from sfl.progress import say
from sfl.runs.directory import BEST, RESULT, Run
from sfl.runs.labels import label
from sfl.runs.records import Published, Result
from sfl.stats import majority_share, wilson_interval
from sfl.training.audit import audit_model
from sfl.training.checkpoint import Checkpoint, load_weights, read_checkpoint
from sfl.training.copies import NOTHING, Asked, checked, keep, test_copies
from sfl.training.device import threads
from sfl.training.evaluate import Evaluation
from sfl.training.images import refuse_lost_root
from sfl.training.load import restore
from sfl.training.setup import Setup, set_up


def test_model(setup: Setup, model: nn.Module) -> tuple[Evaluation, dict[str, Any]]:
    """The evaluation on the test set, and its fields of result.json."""
    evaluation = setup.evaluate(model, setup.test, "testing")
    refuse_loss(evaluation.loss, "test loss of the trained model")
    classes, feedback = setup.dataset.classes, setup.summary.feedback
    confusion = evaluation.confusion(len(classes))
    audited = audit_model(setup.config, setup.dataset.in_dimensions, len(classes))
    # None for a class without test images: JSON has no NaN.
    per_class = [
        row[label] / sum(row) if sum(row) else None for label, row in enumerate(confusion.tolist())
    ]
    return evaluation, {
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(wilson_interval(evaluation.correct, len(evaluation.labels))),
        "loss": evaluation.loss,
        "n": len(evaluation.labels),
        "majority_share": majority_share(confusion.sum(dim=1).tolist()),
        "per_class": dict(zip(classes, per_class, strict=True)),
        "confusion": confusion.tolist(),
        "data": setup.dataset.provenance(),
        "weights": setup.summary.weights,
        "weight_bytes": setup.summary.bytes,
        **({} if feedback is None else {"feedback_weights": feedback.weights}),
        "flops_per_image": setup.summary.flops,
        "training_flops_per_image": setup.summary.training_flops,
        "audit": audited.to_dict(),
        "label": label(setup.config, audited.sharing, setup.taught_by),
    }


def test_best(
    setup: Setup, run: Run, model: nn.Module, metrics: list[dict[str, Any]]
) -> tuple[Evaluation, Result]:
    """Tests the run's best weights: the evaluation, and all of result.json."""
    if setup.world.is_first:
        load_weights(read_checkpoint(run.path / BEST), model)
    setup.world.copy_first(model)
    evaluation, result = test_model(setup, model)
    named = {"run": run.name, "model": setup.config.model.name}
    values = {**named, **result, **cost(setup, metrics)}
    return evaluation, Result.check(values, RESULT)


class Tested(NamedTuple):
    """The result of a test: its setup, the evaluation, and its fields of result.json."""

    setup: Setup
    evaluation: Evaluation
    values: dict[str, Any]

    def rows(self) -> Iterator[dict[str, object]]:
        """For each test image: its file or its number, what it is, and what it is taken for."""
        test, classes, found = self.setup.dataset.test, self.setup.dataset.classes, self.evaluation
        columns = (found.labels, found.predictions, found.confidences)
        answers = zip(*(column.tolist() for column in columns), strict=True)
        for place, (true, predicted, confidence) in enumerate(answers):
            yield {
                "file": test.files[place] if test.files else place,
                "class": classes[true],
                "prediction": classes[predicted],
                "confidence": confidence,
                "correct": int(true == predicted),
            }


def cost(setup: Setup, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The cost of training for result.json: images an epoch, epochs, seconds, peak memory."""
    seconds = [line["seconds"] for line in metrics]
    peaks: list[Any] = [line.get("peak_memory_bytes") for line in metrics]
    return {
        "train_images": len(setup.train),
        "epochs": len(metrics),
        "seconds": sum(seconds),
        "seconds_per_epoch": sum(seconds) / len(seconds),
        "peak_memory_bytes": None if None in peaks else max(peaks),
    }


def test_weights(
    path: Path, overrides: Sequence[str], *, need_train: bool,
    asked: Asked = NOTHING,  # noqa: PT028 - a function that tests, none of pytest's
) -> Tested:  # fmt: skip
    """Tests a file of weights, which has its config inside; its tensors may be float16 or bfloat16.

    overrides: `a.b=v` settings, such as this machine's data root or device.
    need_train: whether a folder without its training images is refused.
    asked: tests on copies of the images, which are made, too, and kept beside a run's result.

    Raises UserError (exit 4) if the file is not a checkpoint of its model, (exit 3) if the images
    have other classes or another shape than the training images, and as `checked` does.
    """
    checkpoint = read_checkpoint(path)
    own = checkpoint.settings
    config = override(own, overrides)
    refuse_lost_root(path, config)
    with threads(config.train.threads):
        return _test(checkpoint, own, config, need_train, asked)


def _test(
    checkpoint: Checkpoint, own: Config, config: Config, need_train: bool, asked: Asked
) -> Tested:
    path = checkpoint.path
    setup = set_up(config, training=False, need_train=need_train)
    setup = replace(setup, taught_by=checkpoint.taught_by)
    trained_on, given = checkpoint.images, setup.dataset.describe()
    for key, what in (("classes", "classes"), ("in_dimensions", "images of the shape")):
        if trained_on[key] != given[key]:
            raise UserError(
                f"{path}: was trained on {what} {_listed(trained_on[key])}; "
                f"data.source {config.data.source} has {_listed(given[key])}",
                exit_code=Exit.DATA,
            )
    seen, known = setup.dataset.fingerprints, trained_on["fingerprints"]
    if not len(setup.train):  # only its test images are here
        seen = known | {"test": seen["test"]}
    corrupted = checked(asked, setup)
    model = restore(checkpoint, config)
    if known != seen:
        say(f"{path}: these are not the images of its run")
    evaluation, result = test_model(setup, model.to(setup.device))
    copies = test_copies(asked, setup, model, corrupted)
    if copies:
        keep(path, copies, same=known == seen and own.identity() == config.identity())
    data = {"source": setup.dataset.source, **seen}
    values = {"model": config.model.name, **result, "data": data, **copies}
    if checkpoint.published is not None:
        values["published"] = Published.check(checkpoint.published, str(path))
    return Tested(setup, evaluation, values)


def _listed(values: object) -> str:
    assert isinstance(values, list)
    return ", ".join(map(str, values))
