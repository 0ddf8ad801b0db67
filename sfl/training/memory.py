"""Whether a training run fits into memory and onto the disk, before it is tried.

And what it took, and knowing it when it didn't fit into memory.
"""

import torch

from sfl import host_memory
from sfl.config.schema import OptimizerSettings
from sfl.errors import Exit, UserError
from sfl.nn.summary import ModelSummary

GB = 1e9


def training_bytes(
    summary: ModelSummary, batch_size: int, optimizer: OptimizerSettings, precision: str
) -> int:
    """What a step holds at least, at the larger of its two peaks.

    Always the weights and the optimizer's moments; at the end of the forward pass the
    activations that wait for the backward pass, at the end of that the gradients.
    """
    activation_bytes = 2 if precision == "bfloat16" else 4
    activations = activation_bytes * summary.activations * batch_size
    return checkpoint_bytes(summary, optimizer) + max(summary.bytes, activations)


def checkpoint_bytes(summary: ModelSummary, optimizer: OptimizerSettings) -> int:
    """What last.safetensors holds: the weights and the optimizer's moments of them."""
    moments = 2 if optimizer.name.startswith("adam") else 1 if optimizer.momentum else 0
    return summary.bytes * (1 + moments)


def disk_bytes(summary: ModelSummary, optimizer: OptimizerSettings, keep: str) -> tuple[int, int]:
    """What a run leaves on the disk, and the most that it takes: a new checkpoint beside the old.

    keep: train.keep.
    """
    last = checkpoint_bytes(summary, optimizer)
    return summary.bytes + (last if keep == "all" else 0), summary.bytes + 2 * last


class Peak:
    """The most memory that training took at a time, beside what there was when this was made.

    So the images and PyTorch itself are not counted: weights, gradients, the optimizer's moments,
    activations and what the operators need for themselves are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.begin()
        self._before = self._most()

    def begin(self) -> None:
        """What was taken until now doesn't count any more, unless it is still held."""
        self._known = True
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._known = self._device.type == "cpu" and host_memory.forget_peak()

    def bytes(self) -> int | None:
        """The peak since `begin`; None where it can't be known."""
        most = self._most()
        return None if most is None or self._before is None else max(0, most - self._before)

    def _most(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return host_memory.peak_bytes() if self._known else None


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device; None where it can't be known."""
    if device.type == "cuda":
        # What torch keeps of earlier models is free for this one.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return host_memory.available_bytes()


def check_memory(
    summary: ModelSummary,
    batch_size: int,
    optimizer: OptimizerSettings,
    device: torch.device,
    precision: str,
) -> None:
    """Raises UserError (exit 6) for a model that can't be trained here."""
    needed = training_bytes(summary, batch_size, optimizer, precision)
    free = available_bytes(device)
    if free is not None and needed > free:
        raise UserError(
            f"training this model takes at least {needed / GB:.1f} GB "
            f"({summary.weights:,} weights, batch {batch_size}), {device.type} has "
            f"{free / GB:.1f} GB free",
            "choose storage: local, fewer channels or a smaller batch",
            Exit.RESOURCES,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory: CPU allocations raise a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
    )
