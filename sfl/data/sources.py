"""Loads a data set by the name of its source."""

from collections.abc import Mapping
from pathlib import Path

from sfl.data.dataset import Dataset
from sfl.errors import UserError
from sfl.shell import home


def load_dataset(
    source: str,
    *,
    root: str | Path,
    mirror: str | None = None,
    resize: int | None = None,
    shapes: Mapping[str, int] | None = None,
    fetch: bool = True,
    need_train: bool = True,
    skip_broken: bool = False,
) -> Dataset:
    """Reads, downloads or draws a data set.

    source: "cifar10" (read from `root`, or downloaded into it), "folder" (`root` contains
        train/<class>/* and test/<class>/*) or "shapes" (drawn; needs no files).
    mirror: cifar10: the only URL to download from.
    resize: folder: the side in pixels to which images are scaled; None: not scaled.
    shapes: keyword arguments of `draw_shapes`.
    fetch: whether cifar10 may be downloaded.
    need_train: folder: whether a folder without train is refused.
    skip_broken: folder: whether files that can't be decoded are left out.

    Raises UserError (exit 2) for an unknown source, (exit 3) for missing or damaged data.
    """
    # Imported late: drawing shapes needs no image library.
    if source == "cifar10":
        from sfl.data.cifar10 import load_cifar10

        return load_cifar10(home(root), mirror, fetch=fetch)
    if source == "folder":
        from sfl.data.folder import load_folder

        return load_folder(home(root), resize, skip_broken=skip_broken, need_train=need_train)
    if source == "shapes":
        from sfl.data.shapes import draw_shapes

        return draw_shapes(**(shapes or {}))
    raise UserError(f"data.source: {source!r} is unknown", "choose cifar10, folder or shapes")
