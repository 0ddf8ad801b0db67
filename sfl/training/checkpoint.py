"""Weights and optimizer state in safetensors files, with their config inside; no pickle anywhere.

last.safetensors: everything that resuming needs. best.safetensors: weights alone. Each holds a hash
of all that it says, which is looked at when its tensors are read. Knows nothing of run directories.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sfl.config.load import from_text
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.files import atomic_path
from sfl.training import upgrade

FORMAT = "sfl-3"
NAME = "sfl"  # under which a file says what isn't a tensor, as JSON


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by name, the config as YAML text, and

    images: what Dataset.describe said of the images that were trained on.
    metrics: the lines of metrics.jsonl so far; None in a file of weights alone.
    so_far: of an epoch in which it was stopped, what EpochSoFar.saved gave; None between epochs.
    published: of a file of `sfl export`, what it says of itself.
    taught_by: of weights that had a teacher, what `find_teacher` said of it; not in earlier files.
    sha256: of all that a file holds, where it was read.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: str
    images: dict[str, Any]
    metrics: list[dict[str, Any]] | None = None
    so_far: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    taught_by: dict[str, Any] | None = None
    sha256: str | None = None

    @property
    def settings(self) -> Config:
        """Its config, read. Raises UserError (exit 4)."""
        return from_text(self.config, str(self.path))

    @property
    def sizes(self) -> tuple[tuple[int, int, int], int]:
        """(C, H, W) of an image that was trained on, and the number of classes."""
        channels, height, width = self.images["in_dimensions"]
        return (channels, height, width), len(self.images["classes"])


def write_checkpoint(checkpoint: Checkpoint) -> None:
    """Writes the file at its path. Raises UserError (exit 4 or 6)."""
    progress: dict[str, Any] = {"images": checkpoint.images}
    if checkpoint.metrics is not None:
        progress |= {"metrics": checkpoint.metrics, "so_far": checkpoint.so_far}
    for key in ("published", "taught_by"):
        if (said := getattr(checkpoint, key)) is not None:
            progress[key] = said
    metadata = {"format": FORMAT, "config": checkpoint.config, "progress": json.dumps(progress)}
    contiguous = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    metadata["sha256"] = _hash(contiguous, metadata)
    # One text, because safetensors writes several in an order that differs from time to time.
    metadata = {NAME: json.dumps(metadata, sort_keys=True, ensure_ascii=False)}
    needed = sum(map(len, metadata.values())) + sum(t.nbytes for t in contiguous.values())
    with atomic_path(checkpoint.path, needed) as temporary:
        try:
            save_file(contiguous, temporary, metadata)
        except SafetensorError as error:  # its writer tells an OSError in words alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def read_checkpoint(path: Path, *, with_tensors: bool = True) -> Checkpoint:
    """A file's content, or without tensors only what it says beside them.

    Raises UserError (exit 4) where the file is missing, damaged or another program's.
    """
    if path.is_dir():
        raise _unusable(f"{path} is a folder, not a checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _said(file.metadata() or {})
            if metadata.get("format") not in (FORMAT, upgrade.FORMAT):
                raise _unusable(_other_format(path, metadata.get("format")))
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise _unusable(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise _unusable(f"{path}: not a checkpoint, or damaged: {error}") from None
    if with_tensors and metadata.get("sha256") != _hash(tensors, metadata):
        raise _unusable(f"{path}: damaged: its content is not what was written")
    try:
        if tensors and metadata["format"] == upgrade.FORMAT:
            tensors = upgrade.upgraded(tensors, metadata["config"])
        progress = json.loads(metadata["progress"])
        images = progress["images"]
        sizes, classes = images["in_dimensions"], images["classes"]
        if len(sizes) != 3 or not all(type(n) is int and n > 0 for n in sizes) or not classes:
            raise ValueError("no images have such sizes")
        more = {key: progress.get(key) for key in ("metrics", "so_far", "published", "taught_by")}
        more["sha256"] = metadata.get("sha256")
        return Checkpoint(path, tensors, metadata["config"], images, **more)
    except (KeyError, TypeError, ValueError):
        raise _unusable(f"{path}: a damaged checkpoint: no config or no progress in it") from None


def _said(metadata: dict[str, str]) -> dict[str, str]:
    """What a file says beside its tensors. Earlier versions wrote its parts one by one."""
    said = json.loads(metadata[NAME]) if NAME in metadata else metadata
    if not isinstance(said, dict) or not all(isinstance(part, str) for part in said.values()):
        raise ValueError(f"{NAME} holds no texts")
    return said


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Puts the weights into the model. Raises UserError as `check_tensors` does."""
    check_tensors(checkpoint, model=model.state_dict())
    model.load_state_dict(_tensors(checkpoint, "model"))


def check_tensors(checkpoint: Checkpoint, **owners: Mapping[str, Tensor]) -> None:
    """Raises UserError (exit 4) where tensors of those owners (model, feedback, route) differ from
    these in names or shapes.
    """
    for owner, expected in owners.items():
        there, here = (
            {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            for tensors in (_tensors(checkpoint, owner), expected)
        )
        for name in sorted(there.keys() | here.keys()):
            found, own = there.get(name, "none"), here.get(name, "none")
            if found != own:
                raise _unusable(
                    f"{checkpoint.path}: a checkpoint of another {owner}: {name} is {found} there, "
                    f"the config's {owner} has {own}"
                )


def _tensors(checkpoint: Checkpoint, owner: str) -> dict[str, Tensor]:
    named, start = checkpoint.tensors.items(), f"{owner}."
    return {name.removeprefix(start): t for name, t in named if name.startswith(start)}


def _hash(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 over what a file says beside its tensors, and their names, types, shapes, numbers."""
    said = {key: value for key, value in metadata.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unusable(message: str) -> UserError:
    return UserError(message, exit_code=Exit.RUN)


def _other_format(path: Path, found: str | None) -> str:
    if found and found.startswith("sfl-"):
        return f"{path}: of another version of sfl (its format is {found}, this one reads {FORMAT})"
    return f"{path}: not a checkpoint of sfl (its format is {found!r}, expected {FORMAT!r})"
