"""The test images of a run, for pictures: only where they are at hand, and the very same."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfl.config.schema import Config
from sfl.errors import Exit, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def called(source: str) -> str:
    """What the images of a source are called where nobody says it better."""
    return {"cifar10": "CIFAR-10", "folder": "image folder"}.get(source, source)


@dataclass(frozen=True, eq=False)
class TestImages:
    """pixels (N, C, H, W) uint8, labels (N,) int64, and the names of the classes."""

    __test__ = False  # it is no test

    pixels: "Tensor"
    labels: "Tensor"
    classes: tuple[str, ...]

    def as_picture(self, place: int) -> "NDArray[np.uint8]":
        """One image as (H, W, 3), however many channels it has."""
        pixels = self.pixels[place]
        picture: NDArray[np.uint8] = (
            (pixels if pixels.shape[0] == 3 else pixels[:1].expand(3, -1, -1))
            .permute(1, 2, 0)
            .numpy()
        )
        return picture


def images_of(config: Config, fingerprint: str) -> TestImages:
    """Raises UserError (exit 3) where the config's images are not here, or are other ones.

    fingerprint: SHA-256 of the test split that is asked for. Nothing is fetched.
    """
    from sfl.data.sources import load_dataset

    data = config.data
    dataset = load_dataset(
        data.source,
        root=Path(data.root).expanduser(),
        resize=data.resize,
        shapes=data.shapes.model_dump(),
        fetch=False,
    )
    if dataset.fingerprints["test"] != fingerprint:
        where = data.root if data.source == "folder" else data.source
        raise UserError(f"{where}: holds other images than the runs were tested on", "", Exit.DATA)
    return TestImages(dataset.test.images, dataset.test.labels, dataset.classes)
