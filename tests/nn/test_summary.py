"""What a model holds and costs, against counts by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sfl.nn.models.networks import build_model
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.summary import LayerSummary, summarize


def only_layer(module: nn.Module, in_dimensions: tuple[int, int, int]) -> LayerSummary:
    (layer,) = summarize(nn.Sequential(module), in_dimensions).layers
    return layer


def test_a_convolution_by_hand() -> None:
    layer = only_layer(nn.Conv2d(3, 4, (2, 3), padding=1), (3, 5, 6))
    assert layer.out_shape == (4, 6, 6)
    assert layer.weights == 4 * 3 * 2 * 3 + 4
    assert layer.dense == (3 * 5 * 6 + 1) * (4 * 6 * 6)
    assert layer.flops == 2 * (3 * 2 * 3) * (4 * 6 * 6)
    assert (layer.name, layer.kind, layer.sharing) == ("0", "Conv2d", "each weight at 36 places")


@pytest.mark.parametrize("bias", [True, False])
def test_a_local_layer_by_hand(bias: bool) -> None:
    layer = only_layer(SpatialFeatureLayer((3, 5, 6), 4, (2, 3), bias=bias, padding=1), (3, 5, 6))
    # Rows: 6 positions of 2, the outermost see 1; columns: 6 of 3, the outermost see 2.
    exist = (6 * 2 - 2) * (6 * 3 - 2) * 3 * 4
    assert layer.weights == exist + bias * 4 * 6 * 6
    assert layer.dense == (3 * 5 * 6 + bias) * (4 * 6 * 6)
    assert layer.flops == 2 * (3 * 2 * 3) * (4 * 6 * 6)  # padding is multiplied, too: as for conv
    assert layer.sharing == "none, local"


def test_a_dense_layer_by_hand() -> None:
    layer = only_layer(SpatialFeatureLayer((2, 4, 5), 3, 2, storage="dense"), (2, 4, 5))
    assert layer.weights == layer.dense == (2 * 4 * 5 + 1) * (3 * 3 * 4)
    assert layer.flops == 2 * (2 * 4 * 5) * (3 * 3 * 4)
    assert layer.sharing == "none, dense"


def test_the_rest_of_a_network_by_hand() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    summary = summarize(model, (2, 4, 4))
    found = [(layer.weights, layer.dense, layer.flops) for layer in summary.layers]
    assert found == [(4, None, 0), (0, None, 0), (0, None, 0), (0, None, 0), (27, 27, 2 * 24)]
    assert [layer.out_shape for layer in summary.layers] == [
        (2, 4, 4), (2, 4, 4), (2, 2, 2), (8,), (3,),
    ]  # fmt: skip
    assert (summary.weights, summary.flops) == (31, 48)
    # The in-place ReLU and Flatten put out nothing that was not there.
    assert summary.activations == 2 * 16 + 2 * 4 + 3


def test_frozen_weights_get_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 3), nn.Linear(3, 2))
    counts = [2 * 8 * 4, 2 * 4 * 3, 2 * 3 * 2]
    assert summarize(model, (1, 1, 8)).training_flops == 3 * sum(counts) - counts[0]
    model[0].requires_grad_(False), model[1].requires_grad_(False)
    summary = summarize(model, (1, 1, 8))
    assert (summary.learning, summary.learning_bytes) == (8, 4 * 8)
    assert summary.training_flops == sum(counts) + counts[2]


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"name": "RegularConvNet"}, 5_852_170),
        ({"name": "SimpleModel"}, 171_010),
        ({"name": "SpatialDenseNet"}, 7_256_446),
        ({"name": "SpatialDenseNet", "storage": "dense"}, 225_543_622),
    ],
)
def test_whole_models(settings: dict[str, Any], weights: int) -> None:
    with torch.device("meta"):
        summary = summarize(build_model(**settings), (3, 32, 32))
    assert summary.weights == weights
    assert summary.layers[0].name == "features.0"
    assert summary.layers[-1].out_shape == (10,)


def test_regular_conv_net_without_sharing() -> None:
    with torch.device("meta"):
        summary = summarize(build_model("RegularConvNet", layer="spatial"), (3, 32, 32))
    dense = sum(layer.dense or layer.weights for layer in summary.layers)
    assert round(dense / 1e9, 1) == 4.3
    convs = [layer for layer in summary.layers if layer.sharing.startswith("none, local")]
    # 32 rows and columns of 3 give 94 that exist, 16 give 46, 8 give 22.
    channels = (3, 32, 64, 128, 128, 256, 256)
    pairs = zip(channels, channels[1:], (94, 94, 46, 46, 22, 22), strict=False)
    biases = [32 * 32**2, 64 * 32**2, 128 * 16**2, 128 * 16**2, 256 * 8**2, 256 * 8**2]
    expected = [i * o * side**2 + b for (i, o, side), b in zip(pairs, biases, strict=True)]
    assert [layer.weights for layer in convs] == expected


def test_the_model_itself_is_left_alone() -> None:
    model = build_model("SimpleModel").train()
    before = copy.deepcopy(model.state_dict())
    summarize(model, (3, 32, 32))
    assert model.training and next(model.parameters()).device.type == "cpu"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
