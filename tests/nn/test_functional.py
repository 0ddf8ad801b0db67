"""What the functional form refuses before it reads memory."""

import pytest
import torch

from sfl.nn.functional import spatial_conv2d
from sfl.nn.spatial import SpatialFeatureLayer

X, WEIGHT = torch.randn(2, 3, 6, 6), torch.randn(4, 4, 5, 3, 3, 3)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        (X, WEIGHT.double(), None, "input is torch.float32, weight is torch.float64"),
        (X.double(), WEIGHT, None, "input is torch.float64, weight is torch.float32"),
        (X, WEIGHT, torch.ones(5).double(), "input is torch.float32, bias is torch.float64"),
        (X, WEIGHT.to("meta"), None, "input is on cpu, weight on meta"),
        (X + 0j, WEIGHT + 0j, None, "complex numbers are not supported"),
    ],
)
def test_tensors_of_different_kinds(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        spatial_conv2d(x, weight, bias)


def test_autocast_brings_types_together_but_leaves_float64() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        spatial_conv2d(X.bfloat16(), WEIGHT)
        assert spatial_conv2d(X.double(), WEIGHT.double()).dtype == torch.float64


def test_a_stride_hides_no_other_size() -> None:
    layer = SpatialFeatureLayer((2, 7, 7), 3, 3, padding=1, stride=2)
    with pytest.raises(ValueError, match="input is 2×8×8, the layer's weights are for 2×7×7"):
        layer(torch.zeros(1, 2, 8, 8))
