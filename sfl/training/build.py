"""A config's model, for images of a size; its backward rule, error route and sleep."""

from functools import partial
from typing import Any

import torch
from torch import nn

from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.learning.local_losses import Loss
from sfl.learning.routes import Chain, DirectFeedback, Frozen, LocalLosses, Route
from sfl.learning.seeding import generator
from sfl.learning.sleep import Sleep
from sfl.nn.feedback.attach import Feedback, attach
from sfl.nn.models.networks import build_model
from sfl.training.memory import is_out_of_memory


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


def build_feedback(config: Config, model: nn.Module) -> Feedback:
    """The config's backward rule for the model, which has its first weights."""
    learn = config.learn
    options: dict[str, Any] = {"fa": {"alignment": learn.alignment}, "mirror": dict(learn.mirror)}
    draw = partial(generator, config.train.seed)
    return attach(model, learn.rule, draw, scale=learn.scale, **options.get(learn.rule, {}))


def build_route(
    config: Config, model: nn.Module, in_dimensions: tuple[int, int, int], loss: Loss
) -> Route:
    """The config's error route for the model, whose optimizer is made afterwards."""
    draw = partial(generator, config.train.seed)
    match config.learn.route:
        case "dfa":
            return DirectFeedback(model, in_dimensions, draw)
        case "local":
            return LocalLosses(model, in_dimensions, draw, config.learn.loss, loss)
        case "frozen":
            return Frozen(model, in_dimensions)
    return Chain()


def build_sleep(config: Config, model: nn.Module) -> Sleep | None:
    """None where the config has none."""
    sleep = config.learn.sleep
    if not sleep.every:
        return None
    return Sleep(model, sleep.every, sleep.strength, sleep.kernels)
