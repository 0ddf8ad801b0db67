"""Predicts the classes of image files by a file of weights; needs no images of its training."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sfl.config.load import override
from sfl.config.schema import Config
from sfl.data.dataset import Split
from sfl.data.decoding import Unreadable, decode_scaled, image_suffixes
from sfl.data.passed_over import NO_IMAGE, is_hidden, say_first
from sfl.errors import Exit, UserError
from sfl.learning.divergence import refuse_loss
from sfl.progress import say, track
from sfl.training.checkpoint import Checkpoint, read_checkpoint
from sfl.training.device import pick_device, pick_precision, prepare, threads
from sfl.training.evaluate import BATCH_SIZE, evaluate
from sfl.training.images import check_channels
from sfl.training.load import restore


class Prediction(NamedTuple):
    """Of one file: its class, and the softmax probability of that class."""

    file: str
    label: str
    confidence: float


class Predicted(NamedTuple):
    """model: its name. predictions: in the order of the files. unreadable: (file, why)."""

    model: str
    predictions: list[Prediction]
    unreadable: list[tuple[str, str]]


def predict_files(weights: Path, given: Sequence[Path], overrides: Sequence[str]) -> Predicted:
    """Predicts image files as a run saw its test images: in its size, normalisation and precision.

    given: image files, and folders of which all images are taken. A file that can't be read is
    named and left out.
    overrides: `a.b=v` settings, such as this machine's device.

    Raises UserError (exit 4) if the file of weights can't be used, (exit 3) if there is no image.
    """
    checkpoint = read_checkpoint(weights)
    config = override(checkpoint.settings, overrides)
    with threads(config.train.threads):
        return _predict(checkpoint, config, _image_files(given))


def _predict(checkpoint: Checkpoint, config: Config, files: Sequence[Path]) -> Predicted:
    (in_dimensions, _), classes = checkpoint.sizes, checkpoint.images["classes"]
    check_channels(config, in_dimensions)
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    prepare(device, precision)
    scale = config.data.normalize
    model = restore(checkpoint, config).to(device)
    batches = [files[start : start + BATCH_SIZE] for start in range(0, len(files), BATCH_SIZE)]
    predicted, scaled = Predicted(config.model.name, [], []), 0
    for batch in track(batches, "predicting"):
        images = list(_read(batch, in_dimensions[1:], predicted.unreadable))
        if not images:
            continue
        scaled += sum(image.scaled for image in images)
        pixels = torch.stack([image.pixels for image in images])
        found = evaluate(
            model,
            Split(pixels, torch.zeros(len(images), dtype=torch.int64)).to(device),  # no labels
            mean=torch.tensor(scale.mean),
            std=torch.tensor(scale.std),
            precision=precision,
        )
        refuse_loss(float(found.confidences.sum()), "sum of the confidences")
        names = [classes[label] for label in found.predictions.tolist()]
        answers = zip((i.file for i in images), names, found.confidences.tolist(), strict=True)
        predicted.predictions.extend(Prediction(*answer) for answer in answers)
    if scaled:
        total, shape = len(predicted.predictions), f"{in_dimensions[2]}x{in_dimensions[1]}"
        say(f"{scaled:,} of {total:,} images were scaled to {shape}, the size of the run's images")
    return predicted


class _Image(NamedTuple):
    file: str
    pixels: Tensor
    scaled: bool


def _read(
    files: Sequence[Path], size: tuple[int, int], unreadable: list[tuple[str, str]]
) -> Iterator[_Image]:
    """The images of size (H, W); adds to `unreadable`."""
    for path in files:
        try:
            if path.exists() and not path.is_file():  # a pipe: reading might never end
                raise UserError(f"{path} is not a regular file", "leave it out", Exit.DATA)
            yield _Image(str(path), *decode_scaled(path, size))
        except UserError as error:
            say(str(error))
            unreadable.append((str(path), error.message))


def _image_files(given: Sequence[Path]) -> list[Path]:
    """The given files, and the images in the given folders and in theirs; says what is no image."""
    suffixes, files, others = image_suffixes(), list[Path](), list[Path]()
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        for folder, inner, names in os.walk(path, onerror=_refuse):
            inner[:] = sorted(name for name in inner if not is_hidden(name))
            for found in (Path(folder, name) for name in sorted(names) if not is_hidden(name)):
                (files if found.suffix.lower() in suffixes else others).append(found)
    say_first(NO_IMAGE, others)
    if not files:
        what = ", ".join(map(str, given))
        raise UserError(f"{what}: no images there", "give image files, or folders", Exit.DATA)
    return files


def _refuse(error: OSError) -> None:
    raise Unreadable(Path(error.filename), error) from error
