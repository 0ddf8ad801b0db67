"""The precision in which a model computes."""

import contextlib
from contextlib import AbstractContextManager

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bfloat16: products in bfloat16, weights and sums in float32. float32: changes nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
