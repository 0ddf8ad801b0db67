"""A config's images: loading them, their sizes before they are loaded, training and validation."""

from pathlib import Path
from typing import NamedTuple

from sfl.config.schema import Config
from sfl.data.dataset import Dataset, Split, hold_out, subset
from sfl.data.sources import load_dataset
from sfl.errors import Exit, UserError
from sfl.progress import say


class Sizes(NamedTuple):
    """The sizes of a data set; train_images: those that will be held out for validation, too."""

    in_dimensions: tuple[int, int, int]
    classes: int
    train_images: int

    @classmethod
    def of(cls, dataset: Dataset) -> "Sizes":
        return cls(dataset.in_dimensions, len(dataset.classes), len(dataset.train))


def load_images(config: Config, *, need_train: bool = True) -> Dataset:
    """The config's images, on the CPU; need_train: whether a folder without train is refused."""
    dataset = load_dataset(**config.data.which(), need_train=need_train)
    check_channels(config, dataset.in_dimensions)
    return dataset


def images_of(config: Config, images_read: dict[str, Dataset]) -> Dataset:
    """A config's images, from those that have been read, or read now and put there."""
    key = config.data.images_key
    if key not in images_read:
        images_read[key] = load_images(config)
    return images_read[key]


def train_and_validation(config: Config, dataset: Dataset) -> tuple[Split, Split | None]:
    """The images of a run. Raises UserError (exit 2) where they can't be had."""
    count, own = config.data.validation, dataset.validation
    if not len(dataset.train):  # only test images are here
        return dataset.train, None
    if count and own is not None:
        said = f"data.validation: {count}, but the folder has images for validation"
        raise UserError(said, "set data.validation=0, or rename that folder")
    if own is not None:
        say(f"validation: the {len(own):,} images of the folder's own split")
    train, held_out = (
        hold_out(dataset.train, count, dataset.classes) if count else (dataset.train, own)
    )
    if (wanted := config.data.train_images) is not None:
        train = subset(train, wanted, dataset.classes)
    return train, held_out


def trained_on(config: Config, train_images: int) -> int:
    """How many of a data set's training images a run is trained on. Raises UserError (exit 2)."""
    held_out, wanted = config.data.validation, config.data.train_images
    left = train_images - held_out
    if left < 1:
        raise UserError(
            f"data.validation: {held_out} of {train_images} training images would leave none for "
            "training",
            "give a smaller number",
        )
    if wanted is not None and wanted > left:
        after = f" after data.validation: {held_out:,}" if held_out else ""
        said = f"data.train_images: {wanted:,}, but there are {left:,} training images{after}"
        raise UserError(said, f"give {left:,} or less, or leave it out")
    return left if wanted is None else wanted


def refuse_lost_root(where: Path, *configs: Config) -> None:
    """Raises UserError (exit 3) if none of a run's configs says where its images are.

    An absolute data.root is not saved in a run, and the default is another folder.
    """
    if all(c.data.source != "shapes" and "root" not in c.data.model_fields_set for c in configs):
        raise UserError(
            f"{where}: its images were at an absolute path, which is not saved in a run",
            "give their folder: --set data.root=DIR",
            Exit.DATA,
        )


def image_sizes(config: Config) -> Sizes:
    """The sizes of the config's images; only a folder is read for it."""
    if config.data.source == "folder":
        return Sizes.of(load_images(config))
    shapes = config.data.source == "shapes"
    return Sizes((3, 32, 32), 10, config.data.shapes.train if shapes else 50_000)


def check_channels(config: Config, in_dimensions: tuple[int, int, int]) -> None:
    """Raises UserError (exit 2) if the images don't have as many channels as data.normalize."""
    channels, given = in_dimensions[0], len(config.data.normalize.mean)
    if channels != given:
        raise UserError(f"data.normalize: {given} channels given, the images have {channels}")
