"""A config's model, for images of a size."""

import torch
from torch import nn

from sfl.config.schema import Config
from sfl.errors import Exit, UserError
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
