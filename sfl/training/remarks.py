"""What is said before a run is trained: what computes it, and what would surprise of its result."""

import contextlib
import os
import time

import torch

from sfl import torchrun
from sfl.cores import usable_cores
from sfl.data.survey import doubts, pictures_of
from sfl.nn import engine
from sfl.progress import say
from sfl.runs.directory import Run
from sfl.training.device import local_dtype, local_precision
from sfl.training.environment import device_name
from sfl.training.setup import Setup


def remark(setup: Setup, run: Run) -> None:
    """Says each remark that holds, in a line, then what computes its local layers.

    The run's environment must be that of its start.
    """
    remarks = [one_class(setup.dataset.classes)]
    if setup.dataset.source == "folder":
        remarks += doubts(setup.dataset, pictures_of(setup.dataset))
    if setup.device.type == "cpu":
        now = torch.get_num_threads()
        began = run.environment
        remarks.append(None if began is None else other_threads(began.threads, now))
        cores, load = usable_cores(), load_of_others(now)
        remarks.append(too_many_threads(cores, now))
        if load is not None and torchrun.count() == 1 and now <= cores:
            remarks.append(busy(load, cores, now))
    else:
        remarks.append(f"on {device_name(setup.device)}, {setup.precision}")
    for line in filter(None, remarks):
        say(f"{run.name}: {line}")
    if line := of_engine(setup):
        say(line)


def of_engine(setup: Setup) -> str:
    """What computes the run's local layers, in a line; "" if it has none."""
    if setup.config.model.storage != "local":
        return ""
    precision = local_precision(setup.device, setup.precision)
    said = engine.report(setup.device, local_dtype(setup.device, setup.precision))
    if precision != setup.precision:
        said += f", in {precision}"
    if said.startswith("Triton kernels"):
        said += ", compiled at their first use"
    return f"spatial layers: {said}"


def one_class(classes: tuple[str, ...]) -> str | None:
    """For images of a single class: its accuracy says nothing."""
    if len(classes) > 1:
        return None
    return f"all images are of one class, {classes[0]}: every answer is right, nothing is learnt"


def other_threads(began: int, now: int) -> str | None:
    """For a run that began with another number of threads."""
    if began == now:
        return None
    return (
        f"began with {began} thread{'s' * (began > 1)} and goes on with {now}: the last bits of "
        f"its numbers may differ (the same again: --set train.threads={began})"
    )


def too_many_threads(cores: int, threads: int) -> str | None:
    """For a container that may use fewer cores than it sees: threads beyond them hold up all."""
    if threads <= cores:
        return None
    may = f"{cores} core{'s' * (cores > 1)}"
    return f"{threads} threads for the {may} that it may use (--set train.threads={cores})"


def busy(load: float, cores: int, threads: int) -> str | None:
    """For a machine whose cores are taken: by `load` processes of others, on average.

    A quarter of the cores may be; a desktop always does something.
    """
    taken = min(round(load), cores)
    free = max(1, cores - taken)
    if load < cores / 4 or threads <= free:
        return None
    return (
        f"other processes keep about {taken} of {cores} cores busy, and waiting for "
        f"one thread holds up all {threads}; perhaps faster: --set train.threads={free}"
    )


def load_of_others(threads: int) -> float | None:
    """The machine's load average over a minute without what is ours; None if unknown.

    What this process, of so many threads, has computed adds at most its seconds / 60.
    """
    with contextlib.suppress(OSError):
        return max(0.0, os.getloadavg()[0] - min(time.process_time() / 60, threads))
    return None
