"""Checkpoints of format sfl-2, brought up to date when they are read.

There a local weight and its moments were (OH, OW, O, C/G, kh, kw); now they are
(OH, OW, O, kh, kw, C/G). Everything else is as it was.
"""

from typing import Any

import yaml
from torch import Tensor

FORMAT = "sfl-2"


def upgraded(tensors: dict[str, Tensor], config: str) -> dict[str, Tensor]:
    """A file's tensors as the present version has them. config: the YAML text in the file.

    Raises KeyError or TypeError for a config without a model.
    """
    if not _is_local(yaml.safe_load(config)["model"]):
        return tensors
    # Nothing but local weights and their moments has six dimensions.
    return {
        name: tensor.movedim(3, -1).contiguous() if tensor.dim() == 6 else tensor
        for name, tensor in tensors.items()
    }


def _is_local(model: dict[str, Any]) -> bool:
    """Whether it has local weights; dense ones have six dimensions too and stay as they are."""
    return model["layer"] == "spatial" and model.get("storage") != "dense"
