"""The test images of a run, for pictures. They are never downloaded for that."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfl.config.schema import Config
from sfl.errors import Exit, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def name_of_images(source: str) -> str:
    """What the images of a source are called, unless the user names them."""
    return {"cifar10": "CIFAR-10", "folder": "image folder"}.get(source, source)


@dataclass(frozen=True, eq=False)
class TestImages:
    """pixels (N, C, H, W) uint8, labels (N,) int64, classes: their names."""

    __test__ = False  # for pytest: this is no test

    pixels: "Tensor"
    labels: "Tensor"
    classes: tuple[str, ...]

    def as_picture(self, place: int) -> "NDArray[np.uint8]":
        """An image as (H, W, 3); without three channels, the first one in grey."""
        pixels = self.pixels[place]
        coloured = pixels if pixels.shape[0] == 3 else pixels[:1].expand(3, -1, -1)
        picture: NDArray[np.uint8] = coloured.permute(1, 2, 0).numpy()
        return picture


def load_test_images(config: Config, fingerprint: str) -> TestImages:
    """The test images of a config.

    fingerprint: SHA-256 of the test split. Raises UserError (exit 3) if the images are not on this
    machine, or are others.
    """
    from sfl.data.sources import load_dataset

    data = config.data
    dataset = load_dataset(**data.which(), fetch=False, need_train=False)
    if dataset.fingerprints["test"] != fingerprint:
        where = data.root if data.source == "folder" else data.source
        said = f"{where}: these are not the images that the runs were tested on"
        raise UserError(said, exit_code=Exit.DATA)
    return TestImages(dataset.test.images, dataset.test.labels, dataset.classes)
