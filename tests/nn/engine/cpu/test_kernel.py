"""The compiled kernel where it works in parts: many images, many channels, several threads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfl.nn.engine.choice import choose
from sfl.nn.engine.cpu import kernel
from sfl.nn.engine.memory_order import batch_innermost
from sfl.nn.window import window_of

ORDERS: list[Callable[[Tensor], Tensor]] = [
    Tensor.contiguous,
    lambda x: x.contiguous(memory_format=torch.channels_last),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 5, 64, 131])
@pytest.mark.parametrize(("channels", "out_channels", "groups"), [(3, 2, 1), (40, 70, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_order_in_memory_has_the_same_bits(
    threads: int, batch: int, channels: int, out_channels: int, groups: int, dtype: torch.dtype
) -> None:
    """Results whose batch isn't innermost are made some places and images at a time."""
    if choose(torch.device("cpu"), dtype)[0] is not kernel:
        pytest.skip("no compiler here")
    window, positions = window_of((7, 6), 3, 1, 1)  # 42 places: no whole number of lines
    x = torch.randn(batch, channels, 7, 6, dtype=dtype)
    dy = torch.randn(batch, out_channels, *positions, dtype=dtype)
    weight = torch.randn(*positions, out_channels, 3, 3, channels // groups, dtype=dtype)
    bias = torch.randn(out_channels, *positions, dtype=dtype)

    def products(order: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        given = order(x)
        y = kernel.forward(given, weight, bias, window, groups)
        dx = kernel.input_gradient(order(dy), weight, given, window, groups)
        return y, dx

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = products(batch_innermost)
        for order in ORDERS:
            for found, right in zip(products(order), expected, strict=True):
                lies = order(right.contiguous()).stride()  # of one image, in one order alone
                assert torch.equal(found, right) and found.stride() == lies
    finally:
        torch.set_num_threads(before)
