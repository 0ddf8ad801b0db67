"""The layer without weight sharing, against plain loops, F.conv2d and the notebook's own form."""

import copy
import io
import math
import warnings
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from sfl.nn.functional import dense_conv2d, spatial_conv2d
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.storage import dense_to_local, local_to_dense

# (C, H, W), out_channels, kernel and Conv2d's keywords: even and odd kernels, not square, strides
# that leave a rest, padding beyond the field, dilation, groups.
LAYERS: list[tuple[tuple[int, int, int], int, Any, dict[str, Any]]] = [
    ((2, 4, 4), 3, 1, {}),
    ((2, 5, 6), 3, 3, {}),
    ((2, 5, 6), 3, 3, {"padding": 1}),
    ((2, 5, 6), 3, (2, 4), {"padding": "same", "dilation": (1, 2)}),
    ((3, 6, 5), 3, 2, {"stride": 2, "padding": 1, "groups": 3}),
    ((4, 7, 6), 6, (2, 3), {"stride": (3, 2), "padding": (0, 1), "groups": 2}),
    ((2, 5, 7), 3, (4, 1), {"stride": (1, 2), "padding": (2, 0)}),
    ((4, 3, 3), 2, 5, {"stride": (2, 1), "padding": 2, "groups": 2}),
    ((2, 7, 8), 3, (3, 2), {"dilation": (3, 2), "padding": (3, 1)}),
]
layers = pytest.mark.parametrize("layer", LAYERS, ids=str)


def made(layer: tuple[Any, ...], **more: Any) -> SpatialFeatureLayer:
    dimensions, out_channels, kernel, keywords = layer
    return SpatialFeatureLayer(dimensions, out_channels, kernel, **keywords, **more)


# --- the functional forms


def test_a_tiny_layer_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None]
    # Two positions, each with a 2x2 filter of its own.
    weight = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]]])
    weight = weight.view(1, 2, 1, 2, 2, 1)
    bias = torch.tensor([[[0.5, -1.0]]])
    # 1·1 + 1·5 + 0.5, and 1·2 + 2·3 + 3·5 + 4·6 − 1
    assert spatial_conv2d(x, weight, bias).tolist() == [[[[6.5, 46.0]]]]
    # Padded by one: the corner units see one input, through their filter's last weight.
    weight = torch.arange(1.0, 49.0).view(3, 4, 1, 2, 2, 1)
    y = spatial_conv2d(x, weight, padding=1)
    assert y.shape == (1, 1, 3, 4)
    assert y[0, 0, 0, 0] == 4 * 1
    assert y[0, 0, 0, 1] == 7 * 1 + 8 * 2
    assert y[0, 0, 2, 3] == 45 * 6
    # Stride 2 takes every other position's field, with weights of its own.
    assert spatial_conv2d(x, weight[:2, :2], padding=1, stride=2).flatten().tolist() == [
        4 * 1, 7 * 2 + 8 * 3, 18 * 4, 21 * 5 + 22 * 6,
    ]  # fmt: skip


@layers
def test_with_conv2ds_weights_everywhere_it_is_conv2d(layer: tuple[Any, ...]) -> None:
    """The same arguments mean the same."""
    (channels, height, width), out_channels, kernel, keywords = layer
    with warnings.catch_warnings(action="ignore"):  # it makes a copy for odd padding
        conv = nn.Conv2d(channels, out_channels, kernel, **keywords, dtype=torch.float64)
        x = torch.randn(2, channels, height, width, dtype=torch.float64)
        expected = conv(x)
    ours = made(layer, dtype=torch.float64)
    weight = conv.weight.movedim(1, -1).expand_as(ours.weight)
    assert conv.bias is not None
    found = spatial_conv2d(x, weight, conv.bias, **keywords)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(spatial_conv2d(x[0], weight, conv.bias, **keywords), expected[0])


@layers
def test_local_weights_as_dense_ones_give_the_same(layer: tuple[Any, ...]) -> None:
    local = made(layer, dtype=torch.float64)
    assert local.bias is not None
    nn.init.normal_(local.bias)
    x = torch.randn(2, *local.in_dimensions, dtype=torch.float64)
    dense = local_to_dense(local.weight, local.in_dimensions, local.window, local.groups)
    torch.testing.assert_close(dense_conv2d(x, dense, local.bias), local(x))
    # Every weight that exists is in it once, and nothing else.
    assert dense.count_nonzero() == local.weight.count_nonzero() == local.weight_count()
    assert torch.equal(dense_to_local(dense, local.window, local.groups), local.weight)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_dense_form_is_the_notebooks_expression(with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 4, 5, 3, 2, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    expected = torch.tensordot(x, weight, dims=([1, 2, 3], [0, 1, 2]))  # type: ignore[no-untyped-call]
    if with_bias:
        expected = expected + bias
    torch.testing.assert_close(dense_conv2d(x, weight, bias if with_bias else None), expected)


def test_gradients_of_the_dense_form() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 1, 3, 2), (1, 3, 2, 2, 2, 1), (2, 2, 1)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    assert torch.autograd.gradcheck(dense_conv2d, [t.requires_grad_() for t in tensors])


@pytest.mark.parametrize("storage", ["local", "dense"])
def test_one_image_without_a_batch(storage: Any) -> None:
    layer = SpatialFeatureLayer((2, 4, 5), 3, 2, bias="channel", storage=storage)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(layer(x), layer(x[None])[0])
    assert layer(x[None][:0]).shape == (0, 3, 3, 4)


@pytest.mark.parametrize("storage", ["local", "dense"])
def test_a_bias_a_channel_or_a_unit(storage: Any) -> None:
    x = torch.randn(2, 2, 4, 5)
    shapes = {"channel": (3,), "position": (3, 3, 4), True: (3, 3, 4)}
    for bias, shape in shapes.items():
        layer = SpatialFeatureLayer((2, 4, 5), 3, 2, bias=bias, storage=storage)  # type: ignore[arg-type]
        assert layer.bias is not None and layer.bias.shape == shape
        before = layer(x)
        values = torch.randn(shape)
        with torch.no_grad():
            layer.bias.copy_(values)
        added = values if values.dim() == 3 else values[:, None, None]
        torch.testing.assert_close(layer(x), before + added)
        layer(x).sum().backward()
        assert layer.bias.grad is not None
        images_and_places = 2.0 if values.dim() == 3 else 2.0 * 3 * 4
        assert (layer.bias.grad == images_and_places).all()


def test_filters_are_convolutions_weights_at_each_position() -> None:
    layer = SpatialFeatureLayer((4, 5, 6), 3 * 2, (2, 3), groups=2)
    x = torch.randn(7, 4, 5, 6)
    for oh, ow in ((0, 0), (3, 2)):
        field = x[:, :, oh : oh + 2, ow : ow + 3]
        y = nn.functional.conv2d(field, layer.filters()[oh, ow], groups=2)
        torch.testing.assert_close(layer(x)[:, :, oh, ow], y[:, :, 0, 0])
    assert torch.equal(layer.with_storage("dense")[0].filters(), layer.filters())


def test_local_weights_lie_in_memory_as_their_shape_says() -> None:
    """As every optimizer and serializer expects."""
    layer = SpatialFeatureLayer((4, 5, 6), 3, (2, 3))
    layer(torch.randn(7, 4, 5, 6)).sum().backward()
    assert layer.weight.shape == (4, 4, 3, 2, 3, 4) and layer.weight.is_contiguous()
    assert layer.weight.grad is not None and layer.weight.grad.is_contiguous()


# --- initialisation


def test_a_seed_gives_the_weights_that_it_always_gave() -> None:
    """Drawn in the order of filters(), each scaled by its fan-in: 2 · 2, and 2 · 1 at the edges."""
    torch.manual_seed(7)
    layer = SpatialFeatureLayer((2, 1, 3), 2, (1, 2), padding=(0, 1))
    torch.manual_seed(7)
    drawn = torch.empty(1, 4, 2, 2, 1, 2).uniform_(-1, 1)
    drawn[0, [0, 3]] *= 3**0.5
    drawn[0, 1:3] *= 1.5**0.5
    drawn[0, 0, ..., 0] = drawn[0, 3, ..., 1] = 0  # padding
    torch.testing.assert_close(layer.filters(), drawn)


@layers
def test_receptive_field_init_is_bounded_by_each_units_own_inputs(layer: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    dimensions, _, kernel, keywords = layer
    wide = SpatialFeatureLayer(dimensions, 60, kernel, **keywords)
    exists = wide.field_mask()
    assert wide.bias is not None
    assert not wide.bias.any()
    for oh, ow in product(range(wide.out_dimensions[1]), range(wide.out_dimensions[2])):
        fan_in = dimensions[0] // wide.groups * int(exists[oh, ow].sum())
        weights = wide.filters()[oh, ow].detach()
        assert not weights[:, :, ~exists[oh, ow]].any()
        if fan_in:
            bound = math.sqrt(6 / fan_in)
            assert 0.9 * bound < weights.abs().max() <= bound


def test_receptive_field_init_has_kaimings_variance() -> None:
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((8, 10, 10), 16, 3, padding=1)
    weights, exists = layer.filters().detach(), layer.field_mask()
    for oh, ow, inputs in ((5, 5, 9), (0, 5, 6), (0, 0, 4)):
        drawn_there = weights[oh, ow][:, :, exists[oh, ow]]  # (16, 8, inputs)
        expected = 2 / (8 * inputs)
        assert drawn_there.var().item() == pytest.approx(expected, rel=0.15)
        assert drawn_there.mean().item() == pytest.approx(0, abs=4 * (expected / 512) ** 0.5)
    # So that variances pass through: each output has twice its inputs' (a ReLU halves it again).
    y = layer(torch.randn(500, 8, 10, 10))
    assert y[:, :, 5, 5].var().item() == pytest.approx(2, rel=0.1)
    assert y[:, :, 0, 0].var().item() == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("storage", ["local", "dense"])
def test_notebook_init_takes_the_kernel_without_the_channels_for_fan_in(storage: Any) -> None:
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((4, 6, 7), 32, (2, 3), storage=storage, init="notebook")
    bound = math.sqrt(6 / (2 * 3))  # what the notebook's own call gives for a (4, 2, 3) slice:
    slice_ = torch.zeros(4, 2, 3)
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(slice_)
    assert bound == math.sqrt(6 / fan_in)
    weights = layer.weight.detach()
    assert 0.99 * bound < weights.abs().max() <= bound
    nonzero = weights[weights != 0]
    assert nonzero.numel() == 5 * 5 * 32 * 4 * 2 * 3
    assert nonzero.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    assert layer.bias is not None
    reference = nn.init.kaiming_uniform_(torch.empty(32, 5, 5), a=math.sqrt(5))
    bias_bound = 1 / 5  # 1/√(OH·OW)
    for bias in (layer.bias.detach(), reference):
        assert 0.98 * bias_bound < bias.abs().max() <= bias_bound


@pytest.mark.parametrize("init", ["receptive_field", "notebook"])
def test_both_storages_are_born_equal(init: Any) -> None:
    layers = []
    for storage in ("local", "dense"):
        torch.manual_seed(3)
        layers.append(SpatialFeatureLayer((2, 5, 6), 3, (3, 2), storage=storage, init=init))  # type: ignore[arg-type]
    local, dense = layers
    assert torch.equal(local_to_dense(local.weight, (2, 5, 6), local.window), dense.weight)
    x = torch.randn(4, 2, 5, 6)
    torch.testing.assert_close(local(x), dense(x))


def test_a_unit_that_sees_only_padding_has_no_weights_and_harms_nothing() -> None:
    layer = SpatialFeatureLayer((1, 2, 2), 3, 1, padding=1)
    assert layer.weight.isfinite().all()
    assert layer.weight_count() == 4 * 3
    assert layer(torch.randn(2, 1, 2, 2)).isfinite().all()


def test_reset_parameters_draws_anew_from_the_global_generator() -> None:
    torch.manual_seed(1)
    layer = SpatialFeatureLayer((2, 4, 4), 3, 2)
    first = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, first)
    torch.manual_seed(1)
    layer.reset_parameters()
    assert torch.equal(layer.weight, first)


# --- training


def steps(layer: SpatialFeatureLayer, count: int = 3) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(count):
        optimizer.zero_grad()
        layer(torch.randn(4, *layer.in_dimensions)).square().sum().backward()
        optimizer.step()


def test_weights_of_missing_inputs_stay_zero_while_it_learns() -> None:
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((2, 4, 5), 3, (3, 4), padding=(1, 2), stride=(2, 1))
    missing = ~layer.field_mask()[:, :, None, :, :, None].expand_as(layer.weight)
    before = layer.weight.detach().clone()
    steps(layer)
    assert missing.any()
    assert not layer.weight[missing].any()
    assert (layer.weight[~missing] != before[~missing]).all()


def test_dense_storage_becomes_fully_connected_with_the_first_step() -> None:
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((1, 4, 4), 2, 2, storage="dense")
    assert layer.weight.count_nonzero() == 9 * 2 * 4
    steps(layer, 1)
    assert layer.weight.count_nonzero() == layer.weight.numel()


# --- the module


@pytest.mark.parametrize("storage", ["local", "dense"])
def test_shapes_counts_and_no_bias(storage: Any) -> None:
    layer = SpatialFeatureLayer(
        (3, 6, 5), 4, (2, 3), bias=False, stride=2, padding=(0, 1), storage=storage
    )
    assert layer.bias is None
    assert layer.out_dimensions == (4, 3, 3)
    assert layer(torch.randn(2, 3, 6, 5)).shape == (2, 4, 3, 3)
    if storage == "local":
        assert layer.weight.shape == (3, 3, 4, 2, 3, 3)
        # Columns: (-1, 0, 1), (1, 2, 3), (3, 4, 5); the first and the last lie partly outside.
        assert layer.weight_count() == 3 * (2 + 3 + 2) * 2 * 3 * 4
    else:
        assert layer.weight.shape == (3, 6, 5, 4, 3, 3)
        assert layer.weight_count() == layer.weight.numel()
    assert layer.dense_count() == 3 * 6 * 5 * 4 * 3 * 3
    assert "bias=False" in repr(layer) and f"storage={storage}" in repr(layer)


def test_state_dict_and_deepcopy_carry_everything() -> None:
    layer = SpatialFeatureLayer((2, 4, 4), 3, 2)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = SpatialFeatureLayer((2, 4, 4), 3, 2)
    assert not torch.equal(other.weight, layer.weight)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(other(x), layer(x))
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer(x))
    steps(twin, 1)
    assert not torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("storage", ["local", "dense"])
def test_device_and_dtype(storage: Any) -> None:
    layer = SpatialFeatureLayer((2, 4, 4), 3, 2, padding=1, storage=storage, device="meta")
    assert layer.weight.is_meta and layer(torch.empty(5, 2, 4, 4, device="meta")).is_meta
    assert layer.weight_count() > 0
    layer.to_empty(device="cpu").reset_parameters()
    assert layer.weight.any() and layer.weight.isfinite().all()
    double = SpatialFeatureLayer((2, 4, 4), 3, 2, dtype=torch.float64, storage=storage)
    assert double(torch.randn(1, 2, 4, 4, dtype=torch.float64)).dtype == torch.float64


# --- errors: each names what was given and what would be right


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({"kernel_size": 5}, ("5", "4")),
        ({"kernel_size": (3, 9), "padding": (0, 2)}, ("9", "4 + 4 padding")),
        ({"kernel_size": 0}, ("at least 1", "0")),
        ({"groups": 3}, ("2 and 3", "divided by 3")),
        ({"stride": False}, ("stride is False", "a whole number or a pair")),
        ({"stride": "channel"}, ("stride is 'channel'", "a whole number or a pair")),
        ({"kernel_size": 3.0}, ("kernel_size is 3.0", "a whole number or a pair")),
        ({"dilation": (1, 1, 1)}, ("dilation is (1, 1, 1)", "a whole number or a pair")),
        ({"padding": (1, (1, None))}, ("padding is (1, (1, None))", "a whole number or a pair")),
        ({"padding_mode": "reflect"}, ("padding_mode 'reflect'", "only zeros")),
        ({"dtype": torch.complex64}, ("dtype is torch.complex64", "real numbers")),
        ({"in_dimensions": (2, 4)}, ("in_dimensions is (2, 4)", "(C, H, W)")),
        ({"in_dimensions": 4}, ("in_dimensions is 4", "(C, H, W)")),
        ({"in_dimensions": (2, 4.5, 4)}, ("in_dimensions is (2, 4.5, 4)", "(C, H, W)")),
        ({"bias": "unit"}, ("'unit'", "channel, position")),
        ({"stride": 0}, ("at least 1", "0")),
        ({"padding": -1}, ("at least 0", "-1")),
        ({"storage": "sparse"}, ("'sparse'", "local, dense")),
        ({"init": "zeros"}, ("'zeros'", "receptive_field, notebook")),
    ],
    ids=str,
)
def test_a_layer_that_cannot_be(given: dict[str, Any], numbers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        SpatialFeatureLayer(
            **{"in_dimensions": (2, 4, 4), "out_channels": 3, "kernel_size": 3, **given}
        )
    for number in numbers:
        assert number in str(error.value)


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ((1, 3, 4, 4), ("3 channels", "expect 2")),
        ((1, 2, 4, 5), ("4×5", "2×3 positions", "2×2")),
        ((4, 4), ("2 dimensions", "4 of (B, C, H, W)")),
        ((1, 2, 2, 4), ("kernel of 3", "input of 2")),
    ],
)
def test_an_input_that_does_not_fit(shape: tuple[int, ...], numbers: tuple[str, ...]) -> None:
    layer = SpatialFeatureLayer((2, 4, 4), 3, 3)
    with pytest.raises(ValueError, match=r".") as error:
        layer(torch.zeros(shape))
    for number in numbers:
        assert number in str(error.value)


def test_an_input_that_does_not_fit_dense_weights() -> None:
    layer = SpatialFeatureLayer((2, 4, 4), 3, 3, storage="dense")
    with pytest.raises(ValueError, match=r"input is \(2, 4, 5\), the weights expect \(2, 4, 4\)"):
        layer(torch.zeros(1, 2, 4, 5))


def test_a_bias_or_weights_that_do_not_fit() -> None:
    x, weight = torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3, 3, 2)
    with pytest.raises(ValueError, match=r"bias is \(3, 2\), expected \(3,\) or \(3, 2, 2\)"):
        spatial_conv2d(x, weight, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="weight has 4 dimensions, expected the 6"):
        spatial_conv2d(x, weight[0, 0])


def test_the_share_outside_the_fields_by_hand() -> None:
    """Dense: 0 at birth; then by how much is put there."""
    dense = SpatialFeatureLayer((1, 2, 2), 1, 1, storage="dense")
    assert dense.outside_share() == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        dense.weight.zero_()
        for y in range(2):
            for x in range(2):
                dense.weight[0, y, x, 0, y, x] = 3.0  # what each unit should see
        dense.weight[0, 0, 0, 0, 1, 1] = 2.0
    assert dense.outside_share() == pytest.approx(4 / (4 * 9 + 4))
    assert SpatialFeatureLayer((1, 2, 2), 1, 1).outside_share() == 0
