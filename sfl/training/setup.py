"""What a config stands for on this machine: device, images, model sizes.

All that can be refused is refused here, before a run directory exists.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from sfl.config.schema import Config
from sfl.data.batches import batch_count
from sfl.data.dataset import Dataset, Split, hold_out
from sfl.data.sources import load_dataset
from sfl.data.survey import doubts
from sfl.errors import Exit, UserError
from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer
from sfl.learning.seeding import seed_global
from sfl.learning.world import ALONE, World
from sfl.nn import engine
from sfl.nn.models.networks import build_model
from sfl.nn.summary import ModelSummary, summarize
from sfl.progress import say
from sfl.training.checkpoint import read_checkpoint
from sfl.training.device import pick_device, pick_precision
from sfl.training.memory import check_memory, is_out_of_memory
from sfl.training.tensorboard import check_tensorboard


@dataclass(frozen=True, eq=False)
class Setup:
    """A config and what it needs: splits on the device, mean and std (C,), the model's sizes."""

    config: Config
    device: torch.device
    precision: str
    dataset: Dataset
    train: Split
    validation: Split | None
    test: Split
    mean: Tensor
    std: Tensor
    summary: ModelSummary
    world: World = ALONE

    @property
    def steps_per_epoch(self) -> int:
        return batch_count(len(self.train), self.config.data.batch_size)


def set_up(
    config: Config,
    dataset: Dataset | None = None,
    *,
    precision: str | None = None,
    training: bool = True,
    world: World = ALONE,
) -> Setup:
    """Raises UserError for a device, data, sizes or a model that can't be had here.

    dataset: the config's images, where they have been read already.
    precision: in which a run began; None takes what the config says.
    training: whether there must be memory to train the model, too.
    world: the workers among which each batch is divided.
    """
    device = pick_device(config.train.device)
    if config.train.tensorboard and training:
        check_tensorboard()
    _check_workers(config, device, world)
    precision = precision or pick_precision(config.train.precision, device)
    if dataset is None and config.data.source != "folder":
        check(config, device, precision, *image_shape(config), training=training)  # no download yet
    dataset = dataset or load_images(config)
    sizes = (dataset.in_dimensions, len(dataset.classes))
    summary = check(config, device, precision, *sizes, training=training)
    train, validation = _train_and_validation(config, dataset)
    if training and dataset.source == "folder" and world.is_first:
        for doubt in doubts(dataset):
            say(doubt)
    setup = Setup(
        config=config,
        device=device,
        precision=precision,
        dataset=dataset,
        train=train.to(device),
        validation=None if validation is None else validation.to(device),
        test=dataset.test.to(device),
        mean=torch.tensor(config.data.normalize.mean, device=device),
        std=torch.tensor(config.data.normalize.std, device=device),
        summary=summary,
        world=world,
    )
    _refuse_other_workers(setup)
    return setup


def _train_and_validation(config: Config, dataset: Dataset) -> tuple[Split, Split | None]:
    """Raises UserError (exit 2) where they can't be had."""
    if not config.data.validation:
        if dataset.validation is not None:
            say(f"validation: the {len(dataset.validation):,} images of the folder's own split")
        return dataset.train, dataset.validation
    if dataset.validation is not None:
        raise UserError(
            f"data.validation: {config.data.validation}, but the folder has images for validation",
            "leave it out, or remove that folder",
        )
    return hold_out(dataset.train, config.data.validation, dataset.classes)


def _check_workers(config: Config, device: torch.device, world: World) -> None:
    """Raises UserError (exit 2) for what several workers, or the only one, can't do."""
    if config.data.batch_size < world.size:
        raise UserError(
            f"data.batch_size: {config.data.batch_size} images can't be divided among "
            f"{world.size} workers"
        )
    if config.train.sync_batchnorm and device.type != "cuda":
        raise UserError(
            f"train.sync_batchnorm: PyTorch has it for CUDA devices, not for {device.type}"
        )


def _refuse_other_workers(setup: Setup) -> None:
    """Raises UserError (exit 3) where workers would not train the same thing."""
    config, images = setup.config.to_dict(share=True), setup.dataset.describe()
    told = {"settings": config, "images": images, "precision": setup.precision}
    told |= {"version of sfl": version("sfl")}
    for rank, other in enumerate(setup.world.all_of(told)):
        different = [key for key, value in told.items() if other[key] != value]
        if different:
            raise UserError(
                f"worker {rank} has other {' and '.join(different)} than worker {setup.world.rank}",
                "all machines need the same config, images and train.precision",
                Exit.DATA,
            )


def check(
    config: Config,
    device: torch.device,
    precision: str,
    in_dimensions: tuple[int, int, int],
    classes: int,
    *,
    training: bool,
) -> ModelSummary:
    """The model layer by layer. Raises UserError where it doesn't fit the images or the memory."""
    summary = describe_model(config, in_dimensions, classes)
    if training:
        check_memory(summary, config.data.batch_size, config.optimizer, device, precision)
    return summary


def load_images(config: Config) -> Dataset:
    """The config's images, on the CPU."""
    data = config.data
    dataset = load_dataset(
        data.source,
        root=Path(data.root).expanduser(),
        mirror=data.mirror,
        resize=data.resize,
        shapes=data.shapes.model_dump(),
        skip_broken=data.skip_broken,
    )
    channels, given = dataset.in_dimensions[0], len(data.normalize.mean)
    if channels != given:
        raise UserError(f"data.normalize: {given} channels given, the images have {channels}")
    return dataset


def image_shape(config: Config, weights: Path | None = None) -> tuple[tuple[int, int, int], int]:
    """(C, H, W) and the number of classes of the config's images; only a folder is read for it.

    weights: a run's file of weights, which remembers its images; they need not be there any more.
    """
    if weights is not None and weights.exists():
        images = read_checkpoint(weights, with_tensors=False).images
        channels, height, width = images["in_dimensions"]
        return (channels, height, width), len(images["classes"])
    if config.data.source != "folder":
        return (3, 32, 32), 10
    dataset = load_images(config)
    return dataset.in_dimensions, len(dataset.classes)


def build(config: Config, in_dimensions: tuple[int, int, int], classes: int) -> nn.Module:
    """The config's model, its weights in the order in memory that its layers are fastest with.

    Raises UserError (exit 2) for sizes that don't fit the images.
    """
    settings = config.model.model_dump(exclude_none=True)
    name = settings.pop("name")
    try:
        model = build_model(name, in_dimensions=in_dimensions, classes=classes, **settings)
    except ValueError as error:
        raise UserError(f"model: {name}: {error}") from None
    except RuntimeError as error:  # sizes whose product is no number that a tensor can have
        if is_out_of_memory(error):
            raise
        raise UserError(f"model: {name}: too large", "", Exit.RESOURCES) from error
    if config.model.layer == "conv":
        model.to(memory_format=torch.channels_last)
    return model


def build_learner(setup: Setup) -> Learner:
    """The config's model with first weights drawn from its seed, and what trains it."""
    config = setup.config
    seed_global(config.train.seed, "initialisation")
    model = build(config, setup.dataset.in_dimensions, len(setup.dataset.classes)).to(setup.device)
    optimizer = build_optimizer(model, **config.optimizer.model_dump(exclude={"clip_norm"}))
    if config.train.compile:
        model.compile()
    if config.model.storage == "local":
        say(f"spatial layers: {engine.report(setup.device)}")
    return Learner(
        model,
        optimizer,
        nn.CrossEntropyLoss(label_smoothing=config.train.label_smoothing),
        precision=setup.precision,
        clip_norm=config.optimizer.clip_norm,
        world=setup.world,
        sync_batchnorm=config.train.sync_batchnorm,
    )


def describe_model(
    config: Config, in_dimensions: tuple[int, int, int], classes: int
) -> ModelSummary:
    """The config's model layer by layer, without allocating its weights."""
    with torch.device("meta"):
        model = build(config, in_dimensions, classes)
    return summarize(model, in_dimensions)
