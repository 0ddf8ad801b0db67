"""A data set by the name of its source: read, fetched or drawn."""

from collections.abc import Mapping
from pathlib import Path

from sfl.data.dataset import Dataset
from sfl.errors import UserError


def load_dataset(
    source: str,
    *,
    root: Path,
    mirror: str | None = None,
    resize: int | None = None,
    shapes: Mapping[str, int] | None = None,
    fetch: bool = True,
) -> Dataset:
    """Reads, fetches or draws a data set.

    source: "cifar10" (read from `root`, or fetched into it), "folder" (`root` holds
        train/<class>/* and test/<class>/*) or "shapes" (drawn; needs no files).
    mirror: where cifar10 is fetched from, instead of its authors' server.
    resize: the side in pixels to which folder scales its images; None leaves them as they are.
    shapes: keyword arguments of `draw_shapes`.
    fetch: whether cifar10 may be fetched where it isn't here.

    Raises UserError: an unknown source (exit 2), or (exit 3) whatever is wrong with the data.
    """
    # Imported here: drawing shapes needs no image library.
    if source == "cifar10":
        from sfl.data.cifar10 import load_cifar10

        return load_cifar10(root, mirror, fetch=fetch)
    if source == "folder":
        from sfl.data.folder import load_folder

        return load_folder(root, resize)
    if source == "shapes":
        from sfl.data.shapes import draw_shapes

        return draw_shapes(**(shapes or {}))
    raise UserError(f"data.source: {source!r} is unknown", "choose cifar10, folder or shapes")
