"""The commands that train what a study lacks, for xargs, GNU parallel or a cluster's queue."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfl.comparison.plan import images_reader
from sfl.config.grid import Grid, as_override
from sfl.config.load import flat, load
from sfl.jobs.job import Job, locate
from sfl.runs.store import data_root_option
from sfl.shell import command


def commands(jobs: Sequence[Job], grid: Grid, root: Path) -> list[str]:
    """For each job that no process is training the command that does, in a folder where the study's
    base and `root` mean the same.

    Its settings: those in which it differs from the base.
    """
    under = flat(load(grid.base).model_dump())
    free = (job for job in jobs if not (job.run and job.run.is_locked()))
    return [_command(job, grid, under, root) for job in free]


def _command(job: Job, grid: Grid, under: Mapping[str, Any], root: Path) -> str:
    if job.run is not None:
        return command("train", "--resume", job.run.path, *data_root_option(job.config))
    own = flat(job.config.model_dump())
    differing = [key for key, value in own.items() if value != under[key]]
    settings = [word for key in differing for word in ("--set", as_override(key, own[key]))]
    # Another name where there is another experiment of its own.
    name = locate(job, root, images_reader(grid.images_read)).name
    return command("train", "--config", grid.base, *settings, "--name", name, "--runs", root)
