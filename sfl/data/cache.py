"""Decoded images, kept in a safetensors file: where, reading it, writing it.

Its name is a SHA-256 of everything that it depends on, so the cache is never out of date. Knows
nothing of image files.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sfl.data.dataset import Dataset
from sfl.errors import UserError
from sfl.files import atomic_path
from sfl.locks import LEFT_OVER, one_at_a_time, remove_left_over
from sfl.progress import say

LOCK = ".lock"  # of a cache folder, held while something is written there
KEPT = 4  # in one cache folder: enough to switch between a few sizes

Make = Callable[[Tensor, dict[str, str]], Dataset | None]


def lock_path(root: Path) -> Path:
    """A lock beside the cache, so that only one of several processes decodes the images."""
    if os.access(root, os.W_OK):
        return root / ".sfl.lock"
    folder = _folders(root)[-1]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / ".sfl.lock"


def read(root: Path, key: str, make: Make) -> Dataset | None:
    """The cached data set; None if there is none, or only a damaged one (a message says so).

    make: the data set of the decoded images and of what was told of them; None if they don't fit.
    """
    for folder in _folders(root):
        remove_left_over(folder / LOCK)
    for folder in _folders(root):
        path = folder / f"{key}.safetensors"
        if path.is_file():
            dataset = _open(path, make)
            if dataset is not None:
                return dataset
            say(f"{path} is damaged or not readable; decoding the images again")
    return None


def write(images: Tensor, told: dict[str, str], root: Path, key: str) -> None:
    """Caches the decoded images and what is told of them.

    If that fails, it prints a message and raises nothing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for folder in _folders(root):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(folder / LOCK, LEFT_OVER):
                with atomic_path(folder / f"{key}.safetensors") as temporary:
                    save_file({"images": images}, temporary, metadata=told)
                _remove_old(folder)
        except (OSError, UserError, SafetensorError):
            continue
        return
    say("the decoded images could not be cached; the next run will decode them again")


def _remove_old(folder: Path) -> None:
    with contextlib.suppress(OSError):
        caches = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in caches[:-KEPT]:
            path.unlink()


def _open(path: Path, make: Make) -> Dataset | None:
    """The data set in a cache file; None if the file is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told, images = file.metadata() or {}, file.get_tensor("images")
    except (OSError, SafetensorError):
        return None
    if images.dtype != torch.uint8 or images.dim() != 4:
        return None
    return make(images, told)


def _folders(root: Path) -> list[Path]:
    """The folder beside the images, removed with them; then the user's, if that isn't writable."""
    folders = [root / ".sfl-cache"]
    with contextlib.suppress(RuntimeError):  # not every user has a home folder
        user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folders.append(Path(user) / "sfl")
    return folders
