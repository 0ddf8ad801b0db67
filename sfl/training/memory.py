"""Memory and disk space of a run: estimated before it starts, and measured while it trains."""

import torch

from sfl import host_memory
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.nn.summary import ModelSummary
from sfl.units import bytes_text, listed


def training_bytes(
    summary: ModelSummary, config: Config, precision: str, images: int | None = None
) -> int:
    """The least memory that a training step takes, at the higher of its two peaks.

    Weights, those of a rule or a route and the optimizer's moments are always held. The first peak
    adds the activations, at the end of the forward pass, the second one the gradients, at the end
    of the backward pass; where learning is measured, too, the true gradient, that learnt from, and
    a copy of what learns. images: of a step; None: data.batch_size.
    """
    images = config.data.batch_size if images is None else images
    activation_bytes = 2 if precision == "bfloat16" else 4
    activations = activation_bytes * summary.activations * images
    feedback = summary.feedback
    beside = 0 if feedback is None or feedback.saved else feedback.bytes
    gradients = summary.learning_bytes
    if config.train.measure_every:
        gradients = summary.bytes + 2 * summary.learning_bytes
    return checkpoint_bytes(summary, config) + beside + max(gradients, activations)


def checkpoint_bytes(summary: ModelSummary, config: Config) -> int:
    """The size of last.safetensors: weights, also of a rule or a route, moments, the average."""
    optimizer, averaged = config.optimizer, config.train.average.decay > 0
    moments = 1 if optimizer.name == "muon" or optimizer.momentum else 0
    moments = 2 if optimizer.name.startswith("adam") else moments
    feedback = summary.feedback
    own = summary.bytes * (1 + averaged) + moments * summary.learning_bytes
    if feedback is None or not feedback.saved:
        return own
    return own + feedback.bytes * (1 + moments * feedback.moved)


def disk_bytes(summary: ModelSummary, config: Config) -> tuple[int, int]:
    """The bytes of a finished run, and its largest size: while a checkpoint replaces another."""
    last = checkpoint_bytes(summary, config)
    stays = summary.bytes + (last if config.train.keep == "all" else 0)
    return stays, summary.bytes + 2 * last


class Peak:
    """The peak memory of training, minus the memory in use when this object was made.

    So it counts weights, gradients, the optimizer's moments, activations and the operators'
    temporary memory, but not the images and PyTorch itself.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.begin()
        self._before = self._most()

    def begin(self) -> None:
        """Resets the peak to the memory that is in use now."""
        self._known = True
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._known = self._device.type == "cpu" and host_memory.forget_peak()

    def bytes(self) -> int | None:
        """The peak since `begin`; None if unknown."""
        most = self._most()
        return None if most is None or self._before is None else max(0, most - self._before)

    def _most(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return host_memory.peak_bytes() if self._known else None


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device; None if unknown."""
    if device.type == "cuda":
        # Memory that torch keeps from earlier models can be used again.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return host_memory.available_bytes()


def check_memory(
    summary: ModelSummary,
    config: Config,
    device: torch.device,
    precision: str,
    in_dimensions: tuple[int, int, int],
) -> None:
    """Raises UserError (exit 6) if training the model needs more memory than is free.

    in_dimensions: (C, H, W) of the images. What would save most is named first.
    """
    needed = training_bytes(summary, config, precision)
    free = available_bytes(device)
    if free is not None and needed > free:
        raise UserError(
            f"training this model takes at least {bytes_text(needed)} "
            f"({summary.weights:,} weights, batch {config.data.batch_size}), {device.type} has "
            f"{bytes_text(free)} free",
            f"choose {_ways_to_save(summary, config, precision, in_dimensions)}",
            Exit.RESOURCES,
        )


def _ways_to_save(
    summary: ModelSummary, config: Config, precision: str, in_dimensions: tuple[int, int, int]
) -> str:
    """Settings that lower the memory of training, first those that lower it most."""
    _, height, width = in_dimensions
    one, whole = (training_bytes(summary, config, precision, images) for images in (1, None))
    batch = [f"a data.batch_size below {config.data.batch_size}"] if one < whole else []
    ways = ["fewer model.channels"]
    if config.data.source == "folder":
        ways = [f"a data.resize below their {height}×{width} pixels", *ways]
    if config.model.storage == "dense":
        ways = ["model.storage=local", *ways]
    ways = [*batch, *ways] if one < whole / 2 else [*ways, *batch]
    return listed(ways, "or")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory; on the CPU, torch raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
    )
