"""How tensors lie in memory, by hand."""

import torch
from torch import nn

from sfl.nn.engine.memory_order import batch_innermost, empty, is_batch_innermost


def test_which_tensors_have_their_batch_innermost() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert is_batch_innermost(batch_innermost(x)) and torch.equal(batch_innermost(x), x)
    assert not is_batch_innermost(x)
    assert not is_batch_innermost(x.to(memory_format=torch.channels_last))
    assert not is_batch_innermost(x[0])
    assert not is_batch_innermost(batch_innermost(x)[:, :2])
    assert not is_batch_innermost(torch.randn(1, 1, 4, 5))  # both: a usual tensor
    assert not is_batch_innermost(batch_innermost(torch.randn(1, 3, 4, 5)))  # both: channels_last


def test_what_lies_right_already_is_not_copied() -> None:
    x = batch_innermost(torch.randn(2, 3, 4, 5))
    assert batch_innermost(x).data_ptr() == x.data_ptr()


def test_an_empty_tensor_lies_as_another_does() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert is_batch_innermost(empty(batch_innermost(x), 6, 7, 8))
    assert empty(batch_innermost(x), 6, 7, 8).shape == (2, 8, 6, 7)
    assert empty(x, 6, 7, 8).is_contiguous()
    last = empty(x.to(memory_format=torch.channels_last), 6, 7, 8)
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    assert empty(x[..., ::2], 6, 7, 8).is_contiguous()


def test_slices_lie_as_the_whole_does() -> None:
    whole = batch_innermost(torch.randn(4, 6, 8, 8))
    for x in (
        whole[:, :2],
        whole[:3],
        whole[:, :, 1:, ::2],
        batch_innermost(torch.ones(1, 3, 4, 5)),
    ):
        strides = (1, len(x), 7 * 8 * len(x), 8 * len(x))
        assert empty(x, 6, 7, 8).stride() == strides


def test_in_pytorchs_orders_it_lies_as_a_convolutions_output_does() -> None:
    """Slices, crops, one image or channel, a photograph as Pillow and NumPy have it."""
    conv = nn.ModuleDict({str(c): nn.Conv2d(c, 3, 3, padding=1) for c in (1, 2, 3)})
    for shape in (
        (4, 3, 8, 8), (1, 3, 8, 8), (4, 1, 8, 8), (4, 1, 8, 3), (4, 2, 1, 1), (4, 1, 1, 1),
        (1, 1, 3, 8), (1, 3, 1, 1),
    ):  # fmt: skip
        x = torch.randn(shape)
        photograph = torch.randn(*shape[2:], shape[1]).permute(2, 0, 1)[None]
        for given in (x, x.to(memory_format=torch.channels_last), photograph):
            for part in (given, given[:, :2], given[::2], given[..., ::2], given[:, :, 1:, :-1]):
                if part.shape[2:].numel():
                    y = conv[str(part.shape[1])](part)
                    assert empty(part, y.shape[2], y.shape[3], 3).stride() == y.stride()
