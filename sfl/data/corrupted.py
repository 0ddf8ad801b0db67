"""CIFAR-10-C: the test images with corruptions of five severities (Hendrycks, Dietterich 2019).

A folder holds `labels.npy` (5 n,) and for each corruption `<its name>.npy` (5 n, H, W, C) uint8:
the n test images with severity 1, then with 2, to 5. Other sets of this form can be read, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfl.data.dataset import Split
from sfl.errors import Exit, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEVERITIES = 5
LABELS = "labels"
# Made for choosing by; the benchmark's mean leaves them out.
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")


class Corrupted:
    """The corruptions in a folder, by name. All is checked at once; pixels are read when needed.

    Raises UserError (exit 3) where the folder holds none, or other images than the run's.
    """

    def __init__(self, folder: Path, in_dimensions: tuple[int, int, int], labels: Tensor) -> None:
        """in_dimensions: (C, H, W) of the run's test images; labels: theirs (n,), in any order."""
        channels, height, width = in_dimensions
        paths = {path.stem: path for path in sorted(folder.glob("[!.]*.npy"))}
        if LABELS not in paths or len(paths) < 2:
            lacks = "no labels.npy" if LABELS not in paths else "no corruption"
            lacks = lacks if folder.is_dir() else "no such folder"
            hint = "give a folder with labels.npy and, for example, fog.npy, as CIFAR-10-C has them"
            raise UserError(f"{folder}: {lacks} there", hint, Exit.DATA)
        read = {name: _read(path) for name, path in paths.items()}
        self._labels = read.pop(LABELS)
        self._pixels = read
        count = SEVERITIES * len(labels)
        if self._labels.shape != (count,) or self._labels.dtype.kind not in "iu":
            expected = f"whole numbers, {SEVERITIES} × {len(labels):,} of them"
            raise _wrong(paths[LABELS], self._labels, expected)
        own = torch.from_numpy(self._labels.astype("int64")).view(SEVERITIES, -1)
        same = torch.equal(own[0].sort().values, labels.cpu().sort().values)
        if not same or (own != own[0]).any():
            expected = f"{SEVERITIES} times the test images' classes, in one order"
            raise _wrong(paths[LABELS], self._labels, expected)
        for name, pixels in read.items():
            if pixels.shape != (count, height, width, channels) or pixels.dtype.name != "uint8":
                expected = f"uint8 ({count}, {height}, {width}, {channels})"
                raise _wrong(paths[name], pixels, expected)

    @property
    def names(self) -> list[str]:
        return list(self._pixels)

    @property
    def in_the_mean(self) -> list[str]:
        """Those that the benchmark's mean is over; of a folder with extra ones alone, all."""
        return [name for name in self.names if name not in EXTRA] or self.names

    def splits(self, name: str) -> Iterator[Split]:
        """The images with a corruption, of severity 1 to 5, on the CPU."""
        size = len(self._labels) // SEVERITIES
        for first in range(0, len(self._labels), size):
            pixels = torch.from_numpy(self._pixels[name][first : first + size].copy())
            labels = torch.from_numpy(self._labels[first : first + size].astype("int64"))
            yield Split(pixels.permute(0, 3, 1, 2).contiguous(), labels)


def _read(path: Path) -> "NDArray[np.generic]":
    import numpy as np

    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error}", "", Exit.DATA) from None
    except (ValueError, EOFError):  # NumPy's own words advise to unpickle it
        found = None
    if not isinstance(found, np.ndarray):  # or an archive of several
        raise UserError(f"{path}: not one array of numbers, as NumPy saves it", "", Exit.DATA)
    array: NDArray[np.generic] = found
    return array


def _wrong(path: Path, found: "NDArray[np.generic]", expected: str) -> UserError:
    said = f"{path}: {found.dtype} {found.shape}, expected {expected}"
    return UserError(said, "these are not corruptions of the run's test images", Exit.DATA)
