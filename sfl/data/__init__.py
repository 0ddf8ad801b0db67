"""Images in, batches out: CIFAR-10, folders of images, the embedded `shapes`.

Every data set becomes two splits of uint8 images that live on the device as they are; batches are
cut, flipped and normalised there. Knows nothing of models, training or settings files.
"""

from sfl.data.batches import (
    batch_count,
    crop_and_flip,
    draw_crops,
    draw_flips,
    normalize,
    test_batches,
    train_batches,
)
from sfl.data.dataset import Dataset, Split, hold_out, load_dataset
from sfl.data.shapes import draw_shapes

__all__ = [
    "Dataset",
    "Split",
    "batch_count",
    "crop_and_flip",
    "draw_crops",
    "draw_flips",
    "draw_shapes",
    "hold_out",
    "load_dataset",
    "normalize",
    "test_batches",
    "train_batches",
]
