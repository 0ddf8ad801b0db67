"""Weights of Keras 2's LocallyConnected2D: what Keras itself computed, and its rules as loops."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfl.nn.spatial import SpatialFeatureLayer

# Made by tf_keras 2.21: for each case kernel, bias and input times 4, and its output times 16, all
# whole numbers. A case's name: implementation, data_format, padding, kernel_size, strides.
FILE = np.load(Path(__file__).parent / "keras.npz")
CASES = sorted({name.split("/")[0] for name in FILE})


def pair(text: str) -> tuple[int, int]:
    first, second = text.split("x")
    return int(first), int(second)


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_keras_computed(case: str) -> None:
    _, data_format, padding, kernel_size, strides = case.split("-")
    kernel, bias, x = (FILE[f"{case}/{part}"] / 4 for part in ("kernel", "bias", "x"))
    layer = SpatialFeatureLayer.from_keras(
        kernel, bias, x.shape[1:], pair(kernel_size),
        strides=pair(strides), padding=padding, data_format=data_format,
    )  # fmt: skip
    assert torch.equal(layer(torch.from_numpy(x)), torch.from_numpy(FILE[f"{case}/y"] / 16))
    assert layer.weight.count_nonzero() <= layer.weight_count()
    assert layer.weight.requires_grad and layer.weight.is_contiguous()


def connected(size: int, kernel: int, stride: int, padding: str, position: int) -> range:
    """The inputs along an axis that Keras connects with an output: around its centre."""
    centre = position * stride + (kernel // 2 if padding == "valid" else 0)
    return range(max(0, centre - kernel // 2), min(size, centre + kernel - kernel // 2))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kernel_size", [(1, 1), (2, 3), (4, 2), (3, 4)])
@pytest.mark.parametrize("strides", [(1, 1), (1, 3), (2, 2)])
def test_the_three_implementations_by_loops(padding: str, kernel_size: Any, strides: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    channels, *size = dimensions = (2, 5, 6)
    reach = kernel_size if padding == "valid" else (1, 1)  # of one output, without its padding
    positions = [(s - k) // step + 1 for s, k, step in zip(size, reach, strides, strict=True)]
    dense = torch.zeros(*size, channels, *positions, 3, dtype=torch.float64)  # channels_last
    for oh, ow in product(*map(range, positions)):
        fields = [
            connected(s, k, step, padding, o)
            for s, k, step, o in zip(size, kernel_size, strides, (oh, ow), strict=True)
        ]
        for h, w in product(*fields):
            dense[h, w, :, oh, ow] = torch.randn(channels, 3, generator=generator)
    x = torch.randn(4, *dimensions, generator=generator, dtype=torch.float64)
    expected = torch.einsum("bchw,hwcyxo->boyx", x, dense)
    mask = dense != 0
    noise = torch.randn(dense.shape, generator=generator, dtype=torch.float64)
    outputs_first, first = (3, 4, 5, 0, 1, 2), (2, 0, 1, 5, 3, 4)
    kernels = {
        "channels_last": [
            torch.where(mask, dense, noise),
            dense.permute(outputs_first)[mask.permute(outputs_first)],
        ],
        "channels_first": [
            torch.where(mask, dense, noise).permute(first),
            dense.permute(5, 3, 4, 2, 0, 1)[mask.permute(5, 3, 4, 2, 0, 1)],
        ],
    }
    for data_format, both in kernels.items():
        for kernel in both:
            layer = SpatialFeatureLayer.from_keras(
                kernel, None, dimensions, kernel_size,
                strides=strides, padding=padding, data_format=data_format,
            )  # fmt: skip
            torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("kernel", "given", "words"),
    [
        ((12, 19, 3), {}, r"kernel is \(12, 19, 3\), which no implementation .* 4×3 positions"),
        ((5, 6, 3, 2, 4, 3), {}, r"kernel is \(5, 6, 3, 2, 4, 3\)"),
        ((12 * 18 * 2 + 1,), {}, r"kernel is \(433,\)"),
        ((12, 18, 3), {"data_format": "NCHW"}, "'NCHW' is none of channels_first, channels_last"),
        ((12, 18, 3), {"padding": "causal"}, "'causal' is none of valid, same"),
    ],
)
def test_kernels_that_do_not_fit(kernel: Any, given: dict[str, Any], words: str) -> None:
    assert SpatialFeatureLayer.from_keras(torch.ones(12, 18, 3), None, (2, 6, 5), 3)
    with pytest.raises(ValueError, match=words):
        SpatialFeatureLayer.from_keras(torch.ones(kernel), None, (2, 6, 5), 3, **given)
    with pytest.raises(ValueError, match=r"bias is \(3,\), expected \(OH, OW, O\)"):
        SpatialFeatureLayer.from_keras(torch.ones(12, 18, 3), torch.ones(3), (2, 6, 5), 3)
