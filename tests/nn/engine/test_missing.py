"""Weights of inputs that are padding: whatever they are, nothing comes of them."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from sfl.nn.engine import locally_connected, reference, reference_engine
from sfl.nn.window import field_mask, window_of


@pytest.mark.parametrize(
    ("engine", "product"),
    [
        (contextlib.nullcontext, locally_connected),
        (reference_engine, locally_connected),
        (contextlib.nullcontext, reference.with_all_derivatives),
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_they_may_be_nan(
    engine: Callable[[], AbstractContextManager[None]], product: Callable[..., torch.Tensor],
    value: float,
) -> None:  # fmt: skip
    window, positions = window_of((5, 4), (2, 3), (2, 1), (1, 2), (1, 2))
    x = torch.randn(3, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*positions, 2, 2, 3, 2, dtype=torch.float64)
    missing = ~field_mask((5, 4), window, positions)[:, :, None, :, :, None]
    dy, found = torch.randn(3, 2, *positions, dtype=torch.float64), []
    for there in (0.0, value):
        filters = weight.masked_fill(missing, there).requires_grad_()
        with engine():
            y = product(x, filters, None, window, 2)
            found.append((y, *torch.autograd.grad(y, (x, filters), dy)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert missing.any() and not found[1][2][missing.expand_as(weight)].any()
