"""The Triton kernels against the reference in float64, in Triton's interpreter: a program.

`python interpreted.py products SHAPES SEED` computes the fixed shapes, or with a number so many
random ones, `python interpreted.py norm` batch normalisation. Prints the errors as JSON: of each
shape {"case", "dtype", "y", "dx", …}, relative in the 2-norm. Outputs of products are filled with
NaN before. To be run with TRITON_INTERPRET=1.
"""

import json
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfl.nn.engine import reference
from sfl.nn.engine.gpu import launch, norm, products, trust
from sfl.nn.engine.memory_order import batch_innermost
from sfl.nn.window import field_mask, window_of

Case = dict[str, Any]
# What each is for; the rest is small.
FIXED: tuple[Case, ...] = (
    {"batch": 5, "channels": 3, "out_channels": 10},  # a net's first layer
    {"batch": 1},
    {"batch": 0},
    {"batch": 33, "size": (3, 3), "padding": 1},  # ragged blocks of images
    {"channels": 17, "out_channels": 20, "size": (3, 4)},  # of outputs and of the field
    {"stride": (2, 2), "padding": (1, 1), "size": (6, 5)},
    {"stride": (3, 1), "kernel": (2, 1), "size": (7, 2)},  # inputs that no position sees
    {"padding": "same", "kernel": (2, 3)},
    {"padding": (3, 2), "kernel": (2, 2), "size": (2, 1)},  # positions that see padding alone
    {"dilation": (2, 3), "padding": (1, 2), "size": (5, 6)},
    {"dilation": (2, 2), "stride": (4, 3), "padding": 2, "size": (6, 6)},
    {"dilation": 2, "stride": 2, "kernel": (2, 3), "padding": 1, "size": (5, 6)},
    {"padding": "same", "kernel": (1, 2)},  # of which the end alone is padded
    {"wide": True, "padding": 1, "groups": 2, "out_channels": 6, "stride": (1, 2)},
    {"groups": 3, "channels": 6, "out_channels": 9, "stride": (2, 1), "padding": 1},
)
NORMS = ((7, 3, 5, 4), (64, 5, 9, 8), (33, 2, 17, 16), (1300, 2, 3, 3))
USUAL: Case = {
    "batch": 4, "channels": 4, "out_channels": 5, "size": (4, 4), "kernel": (3, 3),
    "stride": (1, 1), "padding": 0, "dilation": (1, 1), "groups": 1, "wide": False,
}  # fmt: skip


def drawn(seed: int) -> Iterator[Case]:
    """Random shapes without end."""
    draw = random.Random(seed)
    while True:
        groups = draw.choice([1, 1, 1, 2, 3])
        case = {
            "batch": draw.choice([0, 1, 2, 5, 16, 17, 33]),
            "channels": groups * draw.choice([1, 2, 3, 5, 10, 16]),
            "out_channels": groups * draw.choice([1, 2, 3, 7, 10, 17, 20]),
            "size": (draw.randint(1, 7), draw.randint(1, 7)),
            "kernel": (draw.randint(1, 4), draw.randint(1, 3)),
            "stride": (draw.randint(1, 4), draw.randint(1, 3)),
            "padding": (draw.randint(0, 3), draw.randint(0, 3)),
            "dilation": (draw.choice([1, 1, 2, 4]), draw.choice([1, 1, 2, 3])),
            "groups": groups,
            "wide": draw.random() < 0.1,
        }
        if draw.random() < 0.15:
            case |= {"padding": "same", "stride": (1, 1)}
        try:
            _, positions = window(case)
        except ValueError:  # a kernel larger than its input
            continue
        if positions[0] * positions[1] <= 30:
            yield case


def window(case: Case) -> Any:
    names = ("size", "kernel", "stride", "padding", "dilation")
    return window_of(*(case[name] for name in names))


def errors(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """Of the three products; the weights are float32, and NaN where they are those of padding."""
    over, positions = window(case)
    groups, generator = case["groups"], torch.Generator().manual_seed(0)
    field = (*case["kernel"], case["channels"] // groups)
    shapes = (
        (case["batch"], case["channels"], *case["size"]),
        (*positions, case["out_channels"], *field),
        (case["out_channels"], *positions),
        (case["batch"], case["out_channels"], *positions),
    )
    x, weight, bias, dy = (torch.randn(shape, generator=generator) for shape in shapes)
    x, dy = x.to(dtype), dy.to(dtype)
    exist = field_mask(case["size"], over, positions)[:, :, None, :, :, None]
    spoilt = weight.masked_fill(~exist, torch.nan)
    kernel_for = launch.kernel_for
    setattr(products, "kernel_for", lambda *given: kernel_for(*given)._replace(wide=case["wide"]))  # noqa: B010
    found = (
        products.forward(x, spoilt, bias, over, groups),
        products.input_gradient(dy, spoilt, x, over, groups),
        products.weight_gradient(x, dy, torch.float32, over, groups),
    )
    x, dy, rounded = x.double(), dy.double(), weight.to(dtype).double()
    exact = (
        reference.forward(x, rounded, bias.double(), over, groups),
        reference.input_gradient(dy, rounded, x, over, groups),
        reference.weight_gradient(x, dy, torch.float64, over, groups),
    )
    assert [tensor.dtype for tensor in found] == [dtype, dtype, torch.float32]
    return dict(zip(("y", "dx", "dw"), map(relative, found, exact), strict=True))


def relative(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    norm = exact.norm()
    return float((found.double() - exact).norm() / (norm if norm else 1))


def norm_errors(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, float]:
    """Of batch normalisation with ReLU, forward and backward; `check`: what its own check finds."""
    x, dy = (batch_innermost(torch.randn(shape).to(dtype)) for _ in range(2))
    x = x * 2 + 5
    weight, bias = 1 + torch.rand(shape[1]), torch.rand(shape[1]) - 0.5
    y, (mean, variance, scale) = norm.norm_forward(x, weight, bias, 1e-5)
    found = (y, *norm.norm_backward(dy, x, weight, bias, mean, scale), mean, variance)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    right = F.relu(F.batch_norm(exact[0], None, None, exact[1], exact[2], True, 0.0, 1e-5))
    gradients = torch.autograd.grad(right, exact, dy.double())
    statistics = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), unbiased=False)
    names = ("y", "dx", "dw", "db", "mean", "variance")
    errors = zip(names, map(relative, found, (right, *gradients, *statistics)), strict=True)
    with torch.no_grad():  # a first forward pass may be one
        assert norm.serves(x, weight, bias)
    return {**dict(errors), "check": norm.error_of(x)}


def all_products(count: int, seed: int) -> list[dict[str, Any]]:
    trust.trusts = lambda *given: True  # it would compute all of it twice
    torch.use_deterministic_algorithms(True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # noqa: B010 - with NaN
    endless = drawn(seed)
    cases = [next(endless) for _ in range(count)] or [USUAL | case for case in FIXED]
    # Each shape once, one in three in bfloat16: what matters to it is not the shape.
    kinds = [torch.bfloat16 if i % 3 == 2 else torch.float32 for i in range(len(cases))]
    return [
        {"case": case, "dtype": str(kind), **errors(case, kind)}
        for case, kind in zip(cases, kinds, strict=True)
    ]


def all_norms() -> list[dict[str, Any]]:
    norm.TILE = 1024  # so that a channel has several parts, of several tiles
    return [
        {"case": shape, "dtype": str(dtype), **norm_errors(shape, dtype)}
        for shape in NORMS
        for dtype in (torch.float32, torch.bfloat16)
    ]


if __name__ == "__main__":
    kernels, *given = sys.argv[1:]
    print(json.dumps(all_norms() if kernels == "norm" else all_products(*map(int, given))))
