"""What is refused before the first of several runs is trained: runs that can't be, and too many.

Torch is imported when something is checked.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfl import host_memory
from sfl.config.load import flat
from sfl.errors import Exit, UserError
from sfl.files import check_folder, check_space
from sfl.jobs.job import Job, ReadImages
from sfl.units import bytes_text

if TYPE_CHECKING:
    from sfl.training.setup import Setup

# Bytes of a process beside its images and what `training_bytes` counts: on a CPU PyTorch and its
# compiler (410 MB measured on Linux, without pages that processes share), on a GPU its context.
PROCESS = 500_000_000


@dataclass(frozen=True)
class Need:
    """The memory of a run in a process of its own, and how much its device has free; in bytes.

    gpu: whether it may be given any GPU of this machine. free: None if unknown. engine: what is
    said of it, see `of_engine`.
    """

    gpu: bool
    bytes: int
    free: int | None
    engine: str = ""


def check_all(jobs: Sequence[Job], root: Path, read_images: ReadImages) -> list[Need]:
    """The need of each job. Raises what would stop one of them now, not after hours of the others.

    UserError: a model that doesn't fit its images (exit 2), images that can't be read (exit 3), a
    folder that can't be written to (exit 4), a model or a disk too large or too small (exit 6).
    """
    free = host_memory.available_bytes()  # first: workers that are starting now will take theirs
    from sfl.training.memory import disk_bytes
    from sfl.training.setup import set_up

    check_folder(root, "--runs")
    needs = []
    needed = kept = 0  # bytes: the most at any time; what the jobs so far leave on the disk
    found: dict[str, tuple[Need, int, int]] = {}  # by settings: runs that differ in the seed alone
    for job in jobs:
        key = str({**flat(job.config.model_dump()), "train.seed": None})
        if key not in found:
            with told_of(job):
                setup = set_up(job.config, read_images(job.config), runs=root)
            found[key] = _need(setup, free), *disk_bytes(setup.summary, job.config)
        need, stays, most = found[key]
        there = job.run.checkpoint_bytes if job.run else 0
        needed, kept = max(needed, kept + most - there), kept + stays - there
        needs.append(need)
    check_space(root, needed)
    return needs


@contextlib.contextmanager
def told_of(job: Job) -> Iterator[None]:
    """A UserError inside begins with the job's name."""
    try:
        yield
    except UserError as error:
        error.message = f"{job.name}: {error.message}"
        raise


def most_at_once(needs: Sequence[Need]) -> int:
    """How many of the jobs fit one device's memory at once, if they are the largest; at least 1."""
    free = min((need.free for need in needs if need.free is not None), default=None)
    if free is None:
        return len(needs)
    fit = taken = 0
    for size in sorted((need.bytes for need in needs), reverse=True):
        taken += size
        if taken > free:
            break
        fit += 1
    return max(1, fit)


def refuse_too_many(needs: Sequence[Need], at_once: int, fit: int) -> None:
    """Raises UserError (exit 6) if that many jobs at once need more memory than there is."""
    if at_once <= fit:
        return
    largest = max(needs, key=lambda need: need.bytes)
    raise UserError(
        f"--jobs {at_once}: a run takes about {bytes_text(largest.bytes)} of memory with its "
        f"process, {bytes_text(largest.free or 0)} are free",
        f"at most --jobs {fit}",
        Exit.RESOURCES,
    )


def _need(setup: "Setup", free: int | None) -> Need:
    """free: bytes of main memory."""
    from sfl.training.memory import available_bytes, training_bytes
    from sfl.training.remarks import of_engine

    images = sum(split.images.nbytes for split in setup.dataset.splits.values())
    training = training_bytes(setup.summary, setup.config, setup.precision)
    on_gpu = setup.device.type == "cuda"
    any_gpu = on_gpu and setup.device.index is None
    free = available_bytes(setup.device) if on_gpu else free
    needed = training + images + PROCESS
    return Need(any_gpu, needed, free, of_engine(setup))
