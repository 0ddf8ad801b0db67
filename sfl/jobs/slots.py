"""How many runs are trained at once, and what each of them gets of the machine.

Torch is imported when it is asked for GPUs.
"""

import os
from collections.abc import Sequence

from sfl.cores import usable_cores
from sfl.errors import UserError
from sfl.jobs import speed
from sfl.jobs.check import Need, most_at_once, refuse_too_many
from sfl.jobs.job import AtOnce, Job, ReadImages


def slots(
    jobs: Sequence[Job],
    needs: Sequence[Need],
    asked: AtOnce,
    read_images: ReadImages | None = None,
) -> list[dict[str, str]]:
    """The environment of each of the processes that train at once: the GPU that it may use.

    needs: of the jobs, and of what will be trained later.
    read_images: for the processes that are timed; None: each reads them itself.

    Raises UserError for more at once than the GPUs (exit 2) or the memory (exit 6) have room for.
    """
    per_gpu = asked.per_gpu
    gpus = _gpus() if any(need.gpu for need in needs) else []
    fit, room = most_at_once(needs), len(jobs)
    if gpus:
        room = len(gpus) * per_gpu
        fit = len(gpus) * min(fit, per_gpu)
    elif per_gpu > 1:
        raise UserError(f"--jobs-per-gpu {per_gpu}: no run is trained on a GPU", "leave it out")
    if asked.jobs != "auto":
        at_once = min(asked.jobs, len(jobs))
    else:
        at_once = min(fit, room, len(jobs))
        if not gpus and at_once > 1:
            at_once = speed.fastest(jobs[0].config, min(at_once, usable_cores()), read_images)
    # The cells' runs may be more at once than the trials before them.
    most = at_once if asked.jobs == "auto" else min(asked.jobs, len(needs))
    if gpus and most > room:
        raise UserError(
            f"--jobs {most}: GPUs here: {len(gpus)}, for {per_gpu} at once each",
            f"add --jobs-per-gpu {-(-most // len(gpus))}",
        )
    refuse_too_many(needs, most, fit)
    places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    return [places[number % len(places)] for number in range(at_once)]


def _gpus() -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(number) for number in range(count)]
