"""A kernel for given tensors: what it is compiled for, and its start.

Shapes in memory, all contiguous: x (H, W, C, B), y (OH, OW, O, B), weights (OH, OW, O, kh, kw,
C/G). `kernels` says what each kernel reads and writes.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from sfl.nn.engine.gpu import kernels
from sfl.nn.engine.gpu.blocks import WARPS, Blocks, blocks_for
from sfl.nn.window import Window

KERNELS = {
    "forward": kernels.forward,
    "input_gradient": kernels.input_gradient,
    "weight_gradient": kernels.weight_gradient,
}


class Kernel(NamedTuple):
    """All that a kernel is compiled for. Two that are equal are one kernel."""

    name: str
    channels: int
    out_channels: int
    groups: int
    window: Window
    bias: bool
    border: bool
    wide: bool
    dtype: torch.dtype  # of x and y
    weight_dtype: torch.dtype
    batch: str  # "1", "16n" or "any": what Triton compiles a batch for
    precision: str
    blocks: Blocks

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """Writes one of x, weight and y from the other two."""
        batch = x.shape[3]
        rows, columns, _, places = _sizes(self.name, x, weight, self.groups)
        programs = places * -(-rows // self.blocks.rows) * -(-columns // self.blocks.columns)
        with torch.cuda.device_of(x):
            KERNELS[self.name][(programs,)](
                x, weight, x if bias is None else bias, y, batch, *x.shape[:2], *y.shape[:2],
                **self.constants(), num_warps=WARPS, num_stages=self.blocks.stages,
            )  # fmt: skip

    def constants(self) -> dict[str, int | bool | str]:
        """What the kernel is compiled for by name, in the names of `kernels`."""
        (kh, kw), (sh, sw) = self.window.kernel, self.window.stride
        (ph, pw), (dh, dw) = self.window.padding, self.window.dilation
        rows, columns, depth = self.blocks[:3]
        return {
            "C": self.channels, "O": self.out_channels, "G": self.groups, "KH": kh, "KW": kw,
            "SH": sh, "SW": sw, "PH": ph, "PW": pw, "DH": dh, "DW": dw,
            "EH": sh // math.gcd(sh, dh), "EW": sw // math.gcd(sw, dw),
            "BIAS": self.bias, "BORDER": self.border, "WIDE": self.wide,
            "PRECISION": self.precision, "ROWS": rows, "COLUMNS": columns, "DEPTH": depth,
        }  # fmt: skip


def kernel_for(
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    window: Window,
    groups: int,
) -> Kernel:
    """The kernel for such tensors; of the one that is written, nothing but its size is read."""
    height, width, channels, batch = x.shape
    reach, (top, left) = window.reach((y.shape[0], y.shape[1])), window.padding
    # TF32 concerns float32 alone. IEEE and not tf32x3 (three products of TF32): it is the
    # arithmetic of PyTorch's own products and convolutions there, so twins differ in nothing else.
    tf32 = x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return Kernel(
        name, channels, y.shape[2], groups, window,
        bias=bias is not None,
        border=top > 0 or left > 0 or reach[0] > height or reach[1] > width,
        wide=max(x.numel(), weight.numel(), y.numel()) >= 2**31,
        dtype=x.dtype,
        weight_dtype=weight.dtype,
        batch="1" if batch == 1 else "any" if batch % 16 else "16n",
        precision="tf32" if tf32 else "ieee",
        blocks=blocks_for(
            *_sizes(name, x, weight, groups),
            x.dtype,
            _processors(x.device),
            unchanged=name == "weight_gradient",
        ),
    )  # fmt: skip


def _sizes(name: str, x: Tensor, weight: Tensor, groups: int) -> tuple[int, int, int, int]:
    """Rows, columns and depth of the product at one place, and how many places there are."""
    batch, out_channels = x.shape[3], weight.shape[2] // groups
    taps, channels = weight.shape[3] * weight.shape[4], weight.shape[5]
    product = {
        "forward": (out_channels, batch, taps * channels),
        "input_gradient": (channels, batch, taps * out_channels),
        "weight_gradient": (out_channels, taps * channels, batch),
    }[name]
    height, width = (x if name == "input_gradient" else weight).shape[:2]
    return *product, height * width * groups


def ready(tensor: Tensor) -> Tensor:
    """Contiguous, and from an address that 16 divides, as the allocator gives: for others Triton
    would compile another kernel, which nobody has compared.
    """
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":  # Triton's interpreter
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
