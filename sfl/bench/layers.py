"""Forward and backward of single layers: ours against other forms, and how the cost grows."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfl.bench import references
from sfl.bench.timing import Timing, added, attempted, clock, interleaved
from sfl.learning.learner import autocast
from sfl.nn.engine import reference, reference_engine
from sfl.nn.engine.choice import choose
from sfl.nn.engine.memory_order import batch_innermost, is_batch_innermost
from sfl.nn.functional import spatial_conv2d
from sfl.training.memory import available_bytes


@dataclass(frozen=True)
class Layer:
    """A layer's sizes: input (C, H, W), O channels out, k×k kernel, padding."""

    in_dimensions: tuple[int, int, int]
    out_channels: int
    k: int
    padding: int = 0

    @property
    def positions(self) -> tuple[int, int]:
        _, height, width = self.in_dimensions
        return height + 2 * self.padding - self.k + 1, width + 2 * self.padding - self.k + 1

    @property
    def weights(self) -> int:
        """Of the local storage, those of missing inputs included."""
        return math.prod(self.positions) * self.out_channels * self.in_dimensions[0] * self.k**2

    @property
    def dense_weights(self) -> int:
        return math.prod(self.in_dimensions) * self.out_channels * math.prod(self.positions)

    @property
    def first(self) -> bool:
        """Whether it sees images, which need no gradient."""
        return self.in_dimensions[0] == 3

    def flops(self, batch: int) -> int:
        """Of forward and backward: two for each multiply-add."""
        return 2 * batch * self.weights * (2 if self.first else 3)


NETWORKS = {
    "six layers of SpatialDenseNet": (
        Layer((3, 32, 32), 10, 3),
        Layer((10, 30, 30), 20, 3),
        Layer((20, 14, 14), 32, 3),
        Layer((32, 12, 12), 64, 3),
        Layer((64, 5, 5), 128, 2),
        Layer((128, 4, 4), 256, 2),
    ),
    "three padded layers of RegularConvNet's twin": (
        Layer((32, 32, 32), 64, 3, 1),
        Layer((128, 16, 16), 128, 3, 1),
        Layer((256, 8, 8), 256, 3, 1),
    ),
}

# What is varied, one at a time, of a layer of 32 channels in and out and a kernel of 3.
AXES: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64, 128, 256),
    "channels in": (8, 16, 32, 64, 128),
    "positions": (6, 10, 16, 24, 34),  # side of the input; there are (side - 2)² positions
}

Form = Callable[..., Tensor]  # (x, weight, padding=…) → y


def measure(
    device: torch.device, batch: int, precision: str, repetitions: int
) -> list[dict[str, Any]]:
    """One entry a network: seconds of each form, summed over its layers, the FLOPs, ours' error."""
    found = []
    for name, layers in NETWORKS.items():
        timings = [_timings(layer, device, batch, precision, repetitions) for layer in layers]
        forms = [form for form in timings[0] if all(form in timing for timing in timings)]
        errors = [_errors(layer, device, batch, precision) for layer in layers]
        found.append(
            {
                "layers": name,
                "batch": batch,
                "precision": precision,
                "flops": sum(layer.flops(batch) for layer in layers),
                "error": _largest([error for error, _ in errors]),
                "same_bits": all(same for _, same in errors),
                "forms": {form: added([timing[form] for timing in timings]) for form in forms},
            }
        )
    return found


def measure_growth(device: torch.device, repetitions: int) -> list[dict[str, Any]]:
    """For each axis its values, and the seconds of forward + backward at each of them."""
    found = []
    for axis, values in AXES.items():
        calls: dict[int, Callable[[], float]] = {}
        for value in values:
            sizes = {"batch": 64, "channels in": 32, "positions": 16, axis: value}
            side = sizes["positions"]
            layer = Layer((sizes["channels in"], side, side), 32, 3)
            call = _call_ours(layer, device, sizes["batch"])
            calls[(side - 2) ** 2 if axis == "positions" else value] = clock(call, device)
        timings = interleaved(calls, repetitions)
        seconds = [timing.median for timing in timings.values()]
        found.append({"axis": axis, "values": list(timings), "seconds": seconds})
    return found


def _call_ours(layer: Layer, device: torch.device, batch: int) -> Callable[[], None]:
    """Forward and backward of our layer, in float32, with the engine that is chosen here."""
    x, dy, local = _tensors(layer, device, batch)
    return _call(spatial_conv2d, batch_innermost(x), local, dy, layer, "float32", plainly=False)


def _tensors(layer: Layer, device: torch.device, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, dy and local weights (OH, OW, O, k, k, C)."""
    channels = layer.in_dimensions[0]
    randn = partial(torch.randn, device=device)
    return (
        randn(batch, *layer.in_dimensions),
        randn(batch, layer.out_channels, *layer.positions),
        randn(*layer.positions, layer.out_channels, layer.k, layer.k, channels),
    )


def _timings(
    layer: Layer, device: torch.device, batch: int, precision: str, repetitions: int
) -> dict[str, Timing]:
    x, dy, local = _tensors(layer, device, batch)
    if device.type == "cuda":  # as within a network; a CPU's local layers compute in float32
        x, dy = (tensor.to(getattr(torch, precision)) for tensor in (x, dy))
    innermost, filters = batch_innermost(x), local.movedim(-1, 3)
    last, shared = (
        t.contiguous(memory_format=torch.channels_last) for t in (x, filters[0, 0].contiguous())
    )
    forms: dict[str, tuple[Form, Tensor, Tensor]] = {
        "ours, compiled": (spatial_conv2d, innermost, local),
        "ours, compiled, contiguous": (spatial_conv2d, x, local),
        "ours, plain": (spatial_conv2d, innermost, local),
        "unfold + bmm": (references.unfold_bmm, x, filters.contiguous()),
        "unfold view + einsum": (references.unfold_einsum, x, filters.contiguous()),
        "Conv2d twin": (F.conv2d, x, filters[0, 0].contiguous()),
        "Conv2d twin, channels_last": (F.conv2d, last, shared),
    }
    if choose(x.device, x.dtype)[0] is reference:
        del forms["ours, compiled"], forms["ours, compiled, contiguous"]
    if device.type == "cuda":
        torch.compiler.reset()  # else later layers are compiled for any size, or not at all
        compiled = torch.compile(references.unfold_einsum)
        forms["unfold view + einsum, torch.compile"] = (compiled, x, filters.contiguous())
    if _dense_fits(layer, device):
        sizes = (*layer.in_dimensions, layer.out_channels, *layer.positions)
        dense = torch.randn(sizes, device=device)
        forms["dense tensordot (notebook)"] = (references.dense_tensordot, x, dense)
    calls = {
        name: _call(*form, dy, layer, precision, plainly=name == "ours, plain")
        for name, form in forms.items()
    }
    clocks = {name: attempted(name, partial(clock, call, device)) for name, call in calls.items()}
    return interleaved({name: each for name, each in clocks.items() if each}, repetitions)


def _call(
    form: Form,
    x: Tensor,
    weight: Tensor,
    dy: Tensor,
    layer: Layer,
    precision: str,
    *,
    plainly: bool,
) -> Callable[[], None]:
    """Forward and backward, as in a training step: float32 weights, autocast for bfloat16."""
    x, weight = x.detach().requires_grad_(not layer.first), weight.requires_grad_()
    if is_batch_innermost(x):
        dy = batch_innermost(dy)
    elif not x.is_contiguous():  # in channels_last
        dy = dy.contiguous(memory_format=torch.channels_last)

    def call() -> None:
        x.grad = weight.grad = None
        with reference_engine() if plainly else contextlib.nullcontext():
            with autocast(x.device, precision):
                y = form(x, weight, padding=layer.padding)
            y.backward(dy.to(y.dtype))

    return call


def _errors(layer: Layer, device: torch.device, batch: int, precision: str) -> tuple[float, bool]:
    """The largest relative error of y and the gradients, in the 2-norm, against the reference in
    float64; and whether the same bits come twice.
    """
    x, dy, weight = _tensors(layer, device, batch)

    def found(dtype: torch.dtype) -> list[Tensor]:
        given, filters = (t.to(dtype).requires_grad_() for t in (batch_innermost(x), weight))
        with autocast(device, precision if dtype == torch.float32 else "float32"):
            y = spatial_conv2d(given, filters, padding=layer.padding)
        return [y.detach(), *torch.autograd.grad(y, (given, filters), dy.to(y.dtype))]

    ours, again = found(torch.float32), found(torch.float32)
    with reference_engine():
        exact = found(torch.float64)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True)]
    return _largest(errors), all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


def _largest(numbers: list[float]) -> float:
    return float(torch.tensor(numbers).max())  # NaN if one is


def _dense_fits(layer: Layer, device: torch.device) -> bool:
    """Dense weights and their gradient, in half of the memory that is free; without padding."""
    free = available_bytes(device)
    return layer.padding == 0 and (free is None or 2 * 4 * layer.dense_weights < free / 2)
