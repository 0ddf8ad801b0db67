"""What the runs of a comparison ended with: reads each result and its answers, and checks them.

Torch is imported only where an unfinished run is tested.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfl.comparison.model import ComparableResult, ComparedModel, RunResult
from sfl.comparison.names import changeable
from sfl.errors import Exit, UserError
from sfl.progress import say
from sfl.runs.directory import BEST, LABELS, PREDICTIONS, RESULT, Run
from sfl.shell import command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_results(
    models: Sequence[ComparedModel], overrides: Sequence[str] = (), *, unfinished: bool = False
) -> None:
    """Fills in the results of all models; says which runs have not finished.

    unfinished: if True, those are tested now, with their best weights so far; otherwise they are
        left out. overrides: where the images are, for that.

    Raises UserError (exit 4) for a model without results, and for damaged files.
    """
    for model in models:
        found = []
        for _, run in sorted(model.runs.items()):
            if run.status == "finished":
                found.append(read_result(run))
                continue
            epochs = f"{len(run.metrics)} of {model.config.train.epochs} epochs"
            if not unfinished:
                say(f"{run.path}: not finished ({epochs}); left out (--unfinished includes it)")
            elif run.has_weights:
                say(f"{run.path}: not finished ({epochs}); tested as it is")
                found.append(_test_unfinished(run, overrides))
            else:
                say(f"{run.path}: not finished ({epochs}); left out: it has no weights yet")
        if not found:
            raise _nothing_finished(model, unfinished=unfinished)
        model.results = found


def _nothing_finished(model: ComparedModel, *, unfinished: bool) -> UserError:
    run = next(iter(model.runs.values()))
    goes_on = run.status == "running"
    hint = "" if unfinished else "include it: --unfinished; or "
    hint += "wait" if goes_on else "go on with it"
    then = "" if goes_on else command("train", "--resume", run.path)
    return UserError(f"{model.name}: no run has finished", hint, Exit.RUN, then)


def read_result(run: Run) -> RunResult:
    """Raises UserError (exit 4) if the run has not finished, or a file is missing or damaged."""
    result = run.record(RESULT, ComparableResult)
    if result is None:
        raise UserError(f"{run.path}: has not finished", exit_code=Exit.RUN)
    predictions, labels = (_read_classes(run, name, result.n) for name in (PREDICTIONS, LABELS))
    if abs(float((predictions == labels).mean()) - result.accuracy) > 1e-9:
        raise run.damaged(PREDICTIONS)  # not the predictions of this result
    return RunResult(run, result, predictions, labels)


def _test_unfinished(run: Run, overrides: Sequence[str]) -> RunResult:
    """An unfinished run's best weights so far, on the test images."""
    from sfl.training.testing import cost, test_weights

    tested = test_weights(run.path / BEST, changeable(overrides), need_train=True)
    # The images that it was trained on, whichever are there now.
    data = run.provenance and run.provenance.to_dict()
    values = {"run": run.name, **tested.values, **cost(tested.setup, run.metrics), "data": data}
    result = ComparableResult.check(values, str(run.path))
    answers, labels = tested.evaluation.predictions.numpy(), tested.evaluation.labels.numpy()
    return RunResult(run, result, answers, labels)


def _read_classes(run: Run, name: str, count: int) -> "NDArray[np.int64]":
    """An array (count,) of classes."""
    import numpy as np

    try:
        classes = np.load(run.path / name, allow_pickle=False)
    except FileNotFoundError:
        hint = f"a comparison needs the answer to each image; {run.name} can be trained again"
        raise UserError(f"{run.path / name}: not found", hint, Exit.RUN) from None
    except (OSError, ValueError, EOFError):
        raise run.damaged(name) from None
    if getattr(classes, "shape", None) != (count,) or classes.dtype.kind not in "iu":
        raise run.damaged(name)
    found: NDArray[np.int64] = classes
    return found
