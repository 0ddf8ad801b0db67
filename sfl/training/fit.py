"""The experiment, from top to bottom: build, train epoch by epoch, save, test, write down."""

from dataclasses import replace
from typing import Any

from sfl.progress import TrainingDisplay
from sfl.runs.directory import Run
from sfl.runs.records import Epoch
from sfl.training.epoch import EpochSoFar, measure, train_epoch
from sfl.training.memory import Peak
from sfl.training.recorder import Recorder
from sfl.training.remarks import remark
from sfl.training.resume import last_checkpoint, restore
from sfl.training.setup import Setup, build_learner
from sfl.training.stopping import Stopped, asked, signals_noted, stop
from sfl.training.testing import test_best


def fit(setup: Setup, run: Run) -> dict[str, Any]:
    """Trains and tests; resumes from the run's last checkpoint if there is one.

    Returns the result, as written to result.json. The caller must hold the run's lock. Every rank
    calls it; rank 0 writes. Raises Stopped after a signal, when everything is saved. Raises
    UserError for a checkpoint of another model (exit 4) or other images (exit 3), a loss that is
    not finite (exit 5), a failed write (exit 4), no disk space for two checkpoints (exit 6).
    """
    epochs = setup.config.train.epochs
    checkpoint = last_checkpoint(setup, run)
    if checkpoint:  # of an earlier version it doesn't say of which teacher the weights are
        setup = replace(setup, taught_by=checkpoint.taught_by)
    remark(setup, run)
    recorder = Recorder(setup, run)
    recorder.begin(checkpoint)  # first: a run that is stopped while the model is built is listed
    peak = Peak(setup.device)
    learner = build_learner(setup)
    metrics, so_far = restore(checkpoint, learner, setup.device)

    with signals_noted(), recorder.failures_noted():
        with TrainingDisplay(run.name, epochs, setup.steps_per_epoch) as display:
            for epoch in range(len(metrics) + 1, epochs + 1):
                so_far = so_far or EpochSoFar.begin(epoch, setup.device)
                try:
                    peak.begin()
                    train_epoch(setup, learner, so_far, display)
                    sums = so_far.line() | {"peak_memory_bytes": peak.bytes()}
                    line = Epoch(**sums, **measure(setup, learner, epoch)).to_dict()
                except Stopped:
                    recorder.stopped(learner, metrics, so_far)
                    raise
                metrics.append(line)
                recorder.epoch(learner, metrics)
                display.epoch(line)
                so_far = None

        evaluation, result = test_best(setup, run, learner.model, metrics)
        recorder.finish(evaluation, result)
        # After a signal at the test's end the run is finished, but a comparison must stop.
        stop(*setup.world.largest(asked()))
    return result.to_dict()
