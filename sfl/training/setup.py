"""What a config stands for on this machine: device, images, model sizes.

All that can be refused is refused here, before a run directory exists.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sfl.config.schema import Config
from sfl.data.batches import batch_count, last_batch
from sfl.data.dataset import Dataset, Split
from sfl.errors import UserError
from sfl.learning.average import Average
from sfl.learning.distillation import Teacher
from sfl.learning.learner import Learner
from sfl.learning.local_losses import Loss
from sfl.learning.optimizers import build_optimizer
from sfl.learning.routes import Route
from sfl.learning.seeding import seed_global
from sfl.learning.world import ALONE, World
from sfl.nn.feedback.attach import FeedbackSummary, check
from sfl.nn.summary import ModelSummary, check_batch, summarize
from sfl.training import images
from sfl.training.build import build, build_feedback, build_route, build_sleep
from sfl.training.cuda_graph import check_graph, graphed_steps
from sfl.training.device import pick_device, pick_precision, prepare, refuse_precision
from sfl.training.distributed import check_workers, refuse_other_workers
from sfl.training.evaluate import Evaluation, evaluate
from sfl.training.memory import check_memory
from sfl.training.teacher import find_teacher
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
    teacher: Teacher | None = None
    taught_by: dict[str, Any] | None = None  # as checkpoints say it

    @property
    def steps_per_epoch(self) -> int:
        return batch_count(len(self.train), self.config.data.batch_size)

    def evaluate(self, model: nn.Module, split: Split, description: str = "") -> Evaluation:
        """On one of the splits, or on one like them on the device; see `training.evaluate`."""
        return evaluate(
            model, split, mean=self.mean, std=self.std, precision=self.precision,
            description=description, world=self.world,
        )  # fmt: skip


def set_up(
    config: Config,
    dataset: Dataset | None = None,
    *,
    precision: str | None = None,
    training: bool = True,
    need_train: bool = True,
    world: World = ALONE,
    runs: Path = Path("checkpoints"),
) -> Setup:
    """Raises UserError for a device, data, sizes or a model that can't be had here.

    dataset: the config's images, where they have been read already.
    precision: in which a run began; None takes what the config says.
    training: whether there must be memory to train the model, too.
    need_train: whether a folder without its training images is refused.
    world: the workers among which each batch is divided.
    runs: the folder of run directories, where a teacher may be.
    """
    device = pick_device(config.train.device)
    if config.train.tensorboard and training:
        check_tensorboard()
    check_workers(config, device, world)
    precision = precision or pick_precision(config.train.precision, device)
    prepare(device, precision)
    if training:
        refuse_precision(config.train.precision, device)
        check_graph(config, device, world)
    if dataset is None and config.data.source == "folder":
        dataset = images.load_images(config, need_train=need_train)
    # Of other sources they are known, and looked at before a download.
    sizes = images.Sizes.of(dataset) if dataset else images.image_sizes(config)
    if training:
        summary = check_sizes(config, sizes, world)
        check_memory(summary, config, device, precision, sizes.in_dimensions)
    else:
        summary = describe_model(config, sizes.in_dimensions, sizes.classes)
    dataset = dataset or images.load_images(config, need_train=need_train)
    train, validation = images.train_and_validation(config, dataset)
    refuse_other_workers(config, precision, dataset, world)
    found = find_teacher(config, runs, dataset, device) if training else None
    teacher, taught_by = found or (None, None)
    if teacher is not None:
        answers = summarize(teacher.model, sizes.in_dimensions).flops
        summary = replace(summary, step_flops=summary.training_flops + answers)
    return Setup(
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
        teacher=teacher,
        taught_by=taught_by,
    )


def check_sizes(
    config: Config, sizes: images.Sizes | None = None, world: World = ALONE
) -> ModelSummary:
    """The model layer by layer. Raises UserError (exit 2) for all that can't be trained by sizes.

    sizes: of the images; None: as `image_sizes` finds them.
    """
    sizes = sizes or images.image_sizes(config)
    images.check_channels(config, sizes.in_dimensions)
    count = images.trained_on(config, sizes.train_images)
    with torch.device("meta"):
        model = build(config, sizes.in_dimensions, sizes.classes)
    _check_last_batch(model, config, sizes.in_dimensions, count, world)
    if config.learn.rule != "backprop":
        try:
            check(model)
        except ValueError as error:
            raise UserError(f"learn.rule: {config.learn.rule}: {error}") from None
    return _summarize(model, config, sizes.in_dimensions)


def _summarize(
    model: nn.Module, config: Config, in_dimensions: tuple[int, int, int]
) -> ModelSummary:
    """With what the config's rule or route holds. Raises UserError (exit 2) for its route."""
    loss = nn.CrossEntropyLoss()
    try:
        route = build_route(config, model, in_dimensions, loss)
    except ValueError as error:
        raise UserError(f"learn.route: {config.learn.route}: {error}") from None
    summary = summarize(model, in_dimensions, config.learn.rule)
    if config.learn.rule == "mirror":
        return replace(summary, step_flops=summary.training_flops + _noise_flops(summary, config))
    if not (held := route.state().values()):
        return summary
    weights, size = sum(t.numel() for t in held), sum(t.nbytes for t in held)
    moved = bool(route.parameters())
    name = "weights of the local losses" if moved else "feedback weights"
    return replace(
        summary,
        feedback=FeedbackSummary(weights, size, True, moved, name),
        step_flops=_step_flops(model, route, loss, config.data.batch_size, in_dimensions),
    )


def _noise_flops(summary: ModelSummary, config: Config) -> int:
    """Of the weight mirror, a training image: each layer but the first answers noise, and the
    answers are multiplied with it.
    """
    _, *others = [layer.flops for layer in summary.layers if layer.flops]
    mirror = config.learn.mirror
    images = mirror.batches * mirror.images / (mirror.every * config.data.batch_size)
    return round(2 * sum(others) * images)


def _step_flops(
    model: nn.Module, route: Route, loss: Loss, size: int, in_dimensions: tuple[int, int, int]
) -> int:
    """Of a training step of so many images, an image: counted on the meta device."""
    x = torch.empty(size, *in_dimensions, device="meta")
    labels = torch.zeros(size, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        logits = model.eval()(x)
        route.backward(loss(logits, labels), logits, labels)
    return int(counter.get_total_flops() // size)


def _check_last_batch(
    model: nn.Module, config: Config, in_dimensions: tuple[int, int, int], count: int, world: World
) -> None:
    """Raises UserError (exit 2) if a layer can't be trained on an epoch's last, smallest batch.

    count: of the images of an epoch. The last worker has the fewest of a batch; one without any
    trains on an image of zeros.
    """

    def fewest(batch_size: int) -> int:
        last = last_batch(count, batch_size)
        return max(last, world.size) if config.train.sync_batchnorm else max(1, last // world.size)

    size = config.data.batch_size
    if fewest(size) > 1:
        return  # enough for every layer: a normalisation needs two numbers
    try:
        check_batch(model, in_dimensions, fewest(size))
    except ValueError as error:
        among = f", {world.size} processes" if world.size > 1 else ""
        others = sorted(range(1, 2 * size + 2), key=lambda other: abs(other - size))
        better = [other for other in others if fewest(other) > fewest(size)][:1]
        unit = config.model.norm == "position"  # needs two images whatever the maps' size
        other = "model.norm=channel" if unit else "smaller model.kernel_sizes"
        other = "model.norm=none" if "BatchNorm1d" in str(error) else other
        ways = [f"set data.batch_size={other}" for other in better] or ["take more images"]
        raise UserError(
            f"an epoch's last batch has too few images: {fewest(size)} (of {count:,} training "
            f"images, data.batch_size {size}{among}); {config.model.name}: {error}",
            f"{ways[0]}, or {other}",
        ) from None


def build_learner(setup: Setup) -> Learner:
    """The config's model with first weights drawn from its seed, and what trains it."""
    config = setup.config
    seed_global(config.train.seed, "initialisation")
    model = build(config, setup.dataset.in_dimensions, len(setup.dataset.classes)).to(setup.device)
    loss = nn.CrossEntropyLoss(label_smoothing=config.train.label_smoothing)
    feedback = build_feedback(config, model)
    route = build_route(config, model, setup.dataset.in_dimensions, loss)
    settings = config.optimizer.model_dump(exclude={"clip_norm"})
    more = [*feedback.parameters(), *route.parameters()]
    optimizer = build_optimizer(model, more, **settings)
    if config.train.compile:
        model.compile()
    return Learner(
        model,
        optimizer,
        loss,
        precision=setup.precision,
        clip_norm=config.optimizer.clip_norm,
        feedback=feedback,
        route=route,
        sleep=build_sleep(config, model),
        average=Average(model, config.train.average.decay) if config.train.average.decay else None,
        teacher=setup.teacher,
        world=setup.world,
        sync_batchnorm=config.train.sync_batchnorm,
        graphed=graphed_steps(config, setup.device, setup.world),
    )


def describe_model(
    config: Config, in_dimensions: tuple[int, int, int], classes: int
) -> ModelSummary:
    """The config's model layer by layer, without allocating its weights."""
    with torch.device("meta"):
        model = build(config, in_dimensions, classes)
    return _summarize(model, config, in_dimensions)
