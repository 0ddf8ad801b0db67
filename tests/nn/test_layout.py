"""Normalisation and pooling with the batch innermost: the numbers of PyTorch's own modules."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sfl.nn.layout import BatchNorm2d, MaxPool2d, is_batch_innermost


def innermost(x: Tensor) -> Tensor:
    return x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def test_which_tensors_have_their_batch_innermost() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert is_batch_innermost(innermost(x))
    assert not is_batch_innermost(x)
    assert not is_batch_innermost(x.to(memory_format=torch.channels_last))
    assert not is_batch_innermost(x[0])
    assert not is_batch_innermost(innermost(x)[:, :2])
    assert not is_batch_innermost(torch.randn(1, 1, 4, 5))  # both: a usual tensor


@pytest.mark.parametrize(
    "module",
    [BatchNorm2d(3), BatchNorm2d(3, momentum=None), MaxPool2d(2, 2), MaxPool2d(3, 2, padding=1)],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_they_equal_pytorchs(module: nn.Module, training: bool) -> None:
    ours = copy.deepcopy(module).double().train(training)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = type(module).__mro__[1]  # nn.BatchNorm2d, nn.MaxPool2d
    x = torch.randn(4, 3, 7, 6, dtype=torch.float64)
    for order in (innermost(x), x):
        given, same = order.detach().requires_grad_(), x.clone().requires_grad_()
        y, expected = ours(given), theirs(same)
        assert is_batch_innermost(y) == is_batch_innermost(given)
        torch.testing.assert_close(y, expected)
        dy = torch.randn_like(expected)
        y.backward(dy)
        expected.backward(dy)
        torch.testing.assert_close(given.grad, same.grad)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert not ours.state_dict().keys() ^ theirs.state_dict().keys()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        BatchNorm2d(3)(torch.randn(2, 3, 4))
