"""In which numbers products are computed while a model learns or is tested."""

import contextlib
from contextlib import AbstractContextManager

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Products in bfloat16, weights and sums in float32; nothing where precision is float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
