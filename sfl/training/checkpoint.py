"""Weights and optimizer state in safetensors files, with their config inside; no pickle anywhere.

last.safetensors: everything that resuming needs. best.safetensors: weights alone. Each holds a hash
of all that it says, which is looked at when its tensors are read. Knows nothing of run directories.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sfl.errors import Exit, UserError
from sfl.files import atomic_path
from sfl.training import upgrade

FORMAT = "sfl-3"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by name, the config as YAML text, and

    images: what Dataset.describe said of the images that were trained on.
    metrics: the lines of metrics.jsonl so far; None in a file of weights alone.
    so_far: of an epoch in which it was stopped, what EpochSoFar.saved gave; None between epochs.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: str
    images: dict[str, Any]
    metrics: list[dict[str, Any]] | None
    so_far: dict[str, Any] | None = None


def save_weights(path: Path, model: nn.Module, config: str, images: dict[str, Any]) -> None:
    """The model's weights alone."""
    _write(path, _prefixed("model", model.state_dict()), config, {"images": images})


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: str,
    images: dict[str, Any],
    metrics: list[dict[str, Any]],
    so_far: dict[str, Any] | None = None,
) -> None:
    """Weights, optimizer state and the metrics of the epochs behind them."""
    tensors = _prefixed("model", model.state_dict())
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= _prefixed(f"optimizer.{index}", state)
    _write(path, tensors, config, {"images": images, "metrics": metrics, "so_far": so_far})


def read_checkpoint(path: Path, *, with_tensors: bool = True) -> Checkpoint:
    """A file's content, or without tensors only what it says beside them.

    Raises UserError (exit 4) where the file is missing, damaged or another program's.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint", exit_code=Exit.RUN)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in (FORMAT, upgrade.FORMAT):
                raise UserError(_other_format(path, metadata.get("format")), exit_code=Exit.RUN)
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint", exit_code=Exit.RUN) from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a checkpoint, or damaged: {error}", exit_code=Exit.RUN
        ) from None
    if with_tensors and metadata.get("sha256") != _hash(tensors, metadata):
        raise UserError(f"{path}: damaged: its content is not what was written", exit_code=Exit.RUN)
    try:
        if tensors and metadata["format"] == upgrade.FORMAT:
            tensors = upgrade.upgraded(tensors, metadata["config"])
        progress = json.loads(metadata["progress"])
        images = progress["images"]
        sizes, classes = images["in_dimensions"], images["classes"]
        if len(sizes) != 3 or not all(type(n) is int and n > 0 for n in sizes) or not classes:
            raise ValueError("no images have such sizes")
        return Checkpoint(
            path,
            tensors,
            metadata["config"],
            images,
            progress.get("metrics"),
            progress.get("so_far"),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: a damaged checkpoint: no config or no progress in it", exit_code=Exit.RUN
        ) from None


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Puts the weights into the model; raises UserError (exit 4) where it is another model's."""
    weights = _without_prefix("model", checkpoint.tensors)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else "none"
        if found != expected.get(name, "none"):
            raise UserError(
                f"{checkpoint.path}: a checkpoint of another model: {name} is {found} there, "
                f"the config's model has {expected.get(name, 'none')}",
                exit_code=Exit.RUN,
            )
    model.load_state_dict(weights)


def load_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Puts the saved moments and step counts into an optimizer built from the same config.

    A fused step of PyTorch walks through a weight and its moments as they lie in memory, so moments
    are given the order of their weight, which may be torch.channels_last; a file knows none.
    """
    groups = optimizer.state_dict()["param_groups"]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _without_prefix("optimizer", checkpoint.tensors).items():
        index, key = name.split(".")
        weight = weights[int(index)]
        if tensor.shape == weight.shape:
            tensor = torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _write(path: Path, tensors: dict[str, Tensor], config: str, progress: dict[str, Any]) -> None:
    metadata = {"format": FORMAT, "config": config, "progress": json.dumps(progress)}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata["sha256"] = _hash(contiguous, metadata)
    needed = sum(map(len, metadata.values())) + sum(t.nbytes for t in contiguous.values())
    with atomic_path(path, needed) as temporary:
        try:
            save_file(contiguous, temporary, metadata)
        except SafetensorError as error:  # its writer tells an OSError in words alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _hash(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 over what a file says beside its tensors, and their names, types, shapes, numbers."""
    said = {key: value for key, value in metadata.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _other_format(path: Path, found: str | None) -> str:
    if found and found.startswith("sfl-"):
        return f"{path}: of another version of sfl (its format is {found}, this one reads {FORMAT})"
    return f"{path}: not a checkpoint of sfl (its format is {found!r}, expected {FORMAT!r})"


def _prefixed(prefix: str, tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": t for name, t in tensors.items() if isinstance(t, Tensor)}


def _without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix += "."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
