"""The layer wherever a Conv2d can be: what people do with one, done with ours."""

import inspect
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from sfl.nn.engine import reference_engine
from sfl.nn.functional import spatial_conv2d
from sfl.nn.spatial import SpatialFeatureLayer


@pytest.mark.parametrize("engine", ["chosen", "reference"])
@pytest.mark.parametrize("storage", ["local", "dense"])
def test_an_output_lies_in_memory_as_its_input_does(engine: str, storage: str) -> None:
    layer = SpatialFeatureLayer((3, 6, 5), 4, 3, stride=2, padding=1, storage=storage)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 6, 5)
    with reference_engine() if engine == "reference" else nullcontext():
        y = layer(x)
        assert torch.equal(y.view(2, -1), y.flatten(1))  # as many networks do before a classifier
        if storage == "local":
            last = layer(x.to(memory_format=torch.channels_last))
            assert last.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(last, y)


def test_it_has_conv2ds_names() -> None:
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2)
    layer = SpatialFeatureLayer((4, 6, 5), 6, (3, 2), stride=2, padding=(1, 0), groups=2)
    for name in (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
        "padding_mode",
    ):  # fmt: skip
        assert getattr(layer, name) == getattr(conv, name)
    names = list(inspect.signature(conv.forward).parameters)
    assert list(inspect.signature(layer.forward).parameters) == names == ["input"]
    x = torch.randn(2, 4, 6, 5)
    y = spatial_conv2d(
        input=x, weight=layer.weight, bias=layer.bias, stride=2, padding=(1, 0), groups=2
    )
    assert torch.equal(layer(input=x), y)
