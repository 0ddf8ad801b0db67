"""Training the runs that a comparison lacks, when all that could stop one of them was looked for.

Nothing here computes on images; torch is imported when something is trained.
"""

from collections.abc import Sequence
from pathlib import Path

from sfl.compare.plan import Experiment, readable
from sfl.config.load import flat
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.files import check_space
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import Run
from sfl.runs.store import run_name


def complete(experiments: Sequence[Experiment], root: Path, *, training: bool = True) -> None:
    """Trains what is missing, saying so first: goes on with interrupted runs, starts the others.

    All that can be refused is refused before the first is trained. Without `training` anything
    missing is refused (exit 4).
    """
    missing = [(e, config) for e in experiments for config in e.missing]
    if not missing:
        return
    named = ", ".join(run_name(experiment.name, config) for experiment, config in missing)
    if not training:
        near = [line for e in experiments if e.missing and (line := _nearest(e, root))]
        hint = "; ".join([*near, "without --no-train they are trained"])
        raise UserError(f"{root}: no finished run of {named} with these settings", hint, Exit.RUN)
    from sfl.training.start import resume, train

    say(f"to be trained first: {named}")
    _refuse_what_cannot_run(missing, root)
    for experiment, config in missing:
        say(f"training {run_name(experiment.name, config)}")
        run, images = _to_go_on_with(experiment, config), experiment.dataset()
        if run is None:
            result = train(config, root, run_name(experiment.name, config), dataset=images)
            run = Run(root / result["run"])
        else:
            resume(run, config, images)
        experiment.runs[config.train.seed] = Run(run.path)  # anew: it has other files now
        experiment.missing = [other for other in experiment.missing if other is not config]


def _refuse_what_cannot_run(missing: Sequence[tuple[Experiment, Config]], root: Path) -> None:
    """Raises what would stop one of the runs, so that it doesn't after hours of the others."""
    from sfl.training.memory import disk_bytes
    from sfl.training.setup import set_up

    store.check_root(root)
    needed = kept = 0  # at most at one time; by the runs before
    for experiment, config in missing:
        run = _to_go_on_with(experiment, config)
        setup = set_up(config, experiment.dataset())
        stays, most = disk_bytes(setup.summary, config.optimizer, config.train.keep)
        there = run.checkpoint_bytes if run else 0
        needed, kept = max(needed, kept + most - there), kept + stays - there
    check_space(root, needed)


def _nearest(experiment: Experiment, root: Path) -> str | None:
    """Which run differs in the fewest settings, and in which, if they are few."""
    wanted, least = flat(experiment.config.identity()), 4
    found = None
    for run, config in readable(root):
        there = flat(config.identity())
        keys = {*wanted, *there}
        differing = sorted(key for key in keys if wanted.get(key) != there.get(key))
        if len(differing) < least:
            least, found = len(differing), f"{run.name} differs in {', '.join(differing)}"
    return found


def _to_go_on_with(experiment: Experiment, config: Config) -> Run | None:
    """The unfinished run of this seed; refused while another process trains it."""
    run = experiment.runs.get(config.train.seed)
    if run is not None and run.status == "running":
        raise UserError(f"{run.path}: is being trained now", "wait for it", Exit.RUN)
    return run
