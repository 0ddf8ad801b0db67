"""How a kernel lies over its input, against Conv2d and by hand."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.window import Window, field_mask, pair, window_of

small = st.integers(1, 4)


@given(st.tuples(small, small), st.tuples(small, small), st.tuples(small, small), st.data())
def test_positions_are_conv2ds(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], data: st.DataObject
) -> None:
    paddings = [st.tuples(small, small), st.integers(0, 3), st.just("valid")]
    padding = data.draw(st.one_of(*paddings, *([st.just("same")] if stride == (1, 1) else [])))
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    with warnings.catch_warnings(action="ignore"):  # it makes a copy for odd padding
        conv = nn.Conv2d(1, 1, kernel, stride, padding, dilation, device="meta")
        try:
            expected = conv(torch.empty(1, 1, *size, device="meta")).shape[2:]
        except RuntimeError:
            expected = None
    if expected is None:
        with pytest.raises(ValueError, match="larger than its input"):
            window_of(size, kernel, stride, padding, dilation)
    else:
        assert window_of(size, kernel, stride, padding, dilation)[1] == tuple(expected)


def test_padding_by_words() -> None:
    window, positions = window_of((5, 6), (2, 3), 1, "same", (3, 2))
    assert positions == (5, 6)
    assert window.padding == (1, 2)  # of 3 and 4 in all: what is odd goes to the end
    assert window_of((5, 6), 3, 1, "valid") == window_of((5, 6), 3)


def test_pairs() -> None:
    assert pair(3) == (3, 3) and pair((1, 2)) == (1, 2)


def test_field_mask_by_hand() -> None:
    window, positions = window_of((2, 3), (1, 2), (1, 2), (0, 1))
    mask = field_mask((2, 3), window, positions)
    assert mask.shape == (2, 2, 1, 2)
    # The columns of the two positions are (-1, 0) and (1, 2).
    assert mask[:, :, 0].tolist() == [[[False, True], [True, True]]] * 2
    window, positions = window_of((1, 3), (1, 2), 1, (0, 1), (1, 3))
    # Dilated by 3: (-1, 2) and (0, 3).
    assert field_mask((1, 3), window, positions)[0, :, 0].tolist() == [[False, True], [True, False]]


def test_reach_by_hand() -> None:
    assert Window((3, 2), (2, 1), (0, 0), (1, 3)).reach((4, 5)) == (9, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, 1, 0, 3), "a kernel of 3, dilated to 7, is larger than its input of 4"),
        (((3, 10), 1, (0, 2)), r"a kernel of 10 is larger than its input of 5 \+ 4 padding"),
        ((0,), "at least 1, not 0, 1 and 1"),
        ((3, (1, 0)), "at least 1, not 3, 1×0 and 1"),
        ((3, 1, -1), "padding must be at least 0, not -1"),
        ((3, 1, "full"), "padding 'full' is none of same, valid"),
        ((3, 2, "same"), "padding 'same' keeps the size at stride 1 only, not 2"),
    ],
    ids=str,
)
def test_what_cannot_be(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        window_of((4, 5), *arguments)  # type: ignore[arg-type]


def test_padding_of_its_own_at_each_end() -> None:
    """As padding before a layer that has none; in local and dense weights."""
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    layer = SpatialFeatureLayer(
        (2, 4, 5), 3, (2, 3), stride=(1, 2), padding=(1, (2, 0)), dtype=torch.float64
    )
    bare = SpatialFeatureLayer((2, 6, 7), 3, (2, 3), stride=(1, 2), dtype=torch.float64)
    with torch.no_grad():
        bare.weight.copy_(layer.weight)
    torch.testing.assert_close(layer(x), bare(nn.functional.pad(x, (2, 0, 1, 1))))
    torch.testing.assert_close(layer(x), layer.with_storage("dense")[0](x))
    assert layer.padding == (1, (2, 0))
    with pytest.raises(ValueError, match=r"padding is \(1, \(2, 0\)\), a Conv2d's is alike"):
        layer.to_conv()
    even = SpatialFeatureLayer((2, 4, 5), 3, (3, 5), padding=((1, 1), (2, 2)))
    assert even.to_conv()[0].padding == (1, 2)
    with pytest.raises(ValueError, match=r"at least 0, not \(\(1, -1\), 0\)"):
        window_of((4, 5), 2, 1, ((1, -1), 0))
