"""Each unit normalised by itself, against PyTorch's BatchNorm1d of the flattened units."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sfl.nn.engine.choice import choose
from sfl.nn.engine.cpu import kernel
from sfl.nn.engine.memory_order import batch_innermost, is_batch_innermost
from sfl.nn.norm import UnitBatchNormReLU

ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "batch innermost": batch_innermost,
}


def flat(x: Tensor) -> Tensor:
    """(…, C, H, W) → (…, H·W·C): the order of the module's own tensors."""
    return x.movedim(-3, -1).flatten(-3)


@pytest.mark.parametrize("batch", [6, 37])
@pytest.mark.parametrize("order", ORDERS)
def test_it_is_batch_norm_of_the_flattened_units(order: str, batch: int) -> None:
    torch.manual_seed(0)
    ours, theirs = UnitBatchNormReLU((3, 4, 5)).double(), nn.BatchNorm1d(60).double()
    for scales, given in zip(ours.parameters(), theirs.parameters(), strict=True):
        nn.init.normal_(scales)
        given.data.copy_(scales.detach().flatten())
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x = ORDERS[order](torch.randn(batch, 3, 4, 5, dtype=torch.double)).requires_grad_()
        inputs = flat(x.detach()).requires_grad_()
        y, expected = ours(x), theirs(inputs).relu()
        assert y.stride() == x.stride()
        assert is_batch_innermost(y) == (order == "batch innermost")
        torch.testing.assert_close(flat(y), expected, rtol=0, atol=1e-12)
        back = torch.randn_like(x)
        own = torch.autograd.grad(y, (x, *ours.parameters()), back)
        other = torch.autograd.grad(expected, (inputs, *theirs.parameters()), flat(back))
        torch.testing.assert_close(flat(own[0]), other[0], rtol=0, atol=1e-12)
        for mine, found in zip(own[1:], other[1:], strict=True):
            torch.testing.assert_close(mine.flatten(), found, rtol=0, atol=1e-12)
        for name in ("running_mean", "running_var"):
            mine, found = getattr(ours, name).flatten(), getattr(theirs, name)
            torch.testing.assert_close(mine, found, rtol=0, atol=1e-12)


@pytest.mark.skipif(
    choose(torch.device("cpu"), torch.float32)[0] is not kernel, reason="no C++ compiler"
)
def test_it_is_one_pass_where_the_batch_is_innermost(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = UnitBatchNormReLU((2, 3, 3)), batch_innermost(torch.randn(5, 2, 3, 3))
    norm(x).sum().backward()
    monkeypatch.delattr("torch.nn.functional.batch_norm")
    norm(x).sum().backward()
    with pytest.raises(AttributeError):
        norm(x.contiguous())


def test_no_unit_depends_on_another_position() -> None:
    """Of the output's gradient and of the statistics; BatchNorm2d's depend on all positions."""
    norm = UnitBatchNormReLU((2, 3, 3)).double()
    x = torch.randn(5, 2, 3, 3, dtype=torch.double)
    x[0, 0, 1, 1] = 3  # so that the ReLU lets it through
    x.requires_grad_()
    (slope,) = torch.autograd.grad(norm(x)[0, 0, 1, 1], x)
    other = torch.ones(5, 2, 3, 3, dtype=torch.bool)
    other[:, 0, 1, 1] = False
    assert not slope[other].any() and slope[~other].any()


def test_the_state_lies_as_the_activations_do() -> None:
    state = UnitBatchNormReLU((2, 3, 4)).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == dict.fromkeys(
        ("weight", "bias", "running_mean", "running_var"), (3, 4, 2)
    )


def test_half_precision_keeps_its_statistics_in_float32() -> None:
    norm = UnitBatchNormReLU((2, 3, 3))
    y = norm(torch.randn(8, 2, 3, 3, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32


def test_what_it_cannot_normalise_is_refused() -> None:
    norm = UnitBatchNormReLU((2, 3, 3))
    with pytest.raises(ValueError, match="input is 2×3×4, the units are 2×3×3"):
        norm(torch.randn(8, 2, 3, 4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.randn(1, 2, 3, 3))
    for images in (torch.randn(1, 2, 3, 3), torch.randn(0, 2, 3, 3)):
        for turn in ORDERS.values():
            assert norm.eval()(turn(images)).shape == images.shape
