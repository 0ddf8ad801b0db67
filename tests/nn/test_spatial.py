"""The layer without weight sharing, against plain loops, F.conv2d and the notebook's own form."""

import copy
import io
import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.nn.spatial import (
    Pair,
    SpatialFeatureLayer,
    dense_conv2d,
    field_mask,
    local_to_dense,
    output_size,
    pair,
    spatial_conv2d,
)

# (H, W), kernel, stride, padding: even and odd kernels, not square, strides that leave a rest.
GEOMETRIES = [
    ((4, 4), (1, 1), (1, 1), (0, 0)),
    ((5, 6), (3, 3), (1, 1), (0, 0)),
    ((5, 6), (3, 3), (1, 1), (1, 1)),
    ((6, 5), (2, 2), (1, 1), (0, 0)),
    ((6, 5), (2, 2), (2, 2), (1, 1)),
    ((7, 6), (2, 3), (3, 2), (0, 1)),
    ((5, 7), (4, 1), (1, 2), (2, 0)),
    ((3, 3), (5, 5), (2, 1), (2, 2)),
    ((4, 5), (4, 5), (1, 1), (0, 0)),
]
Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
geometries = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def by_loops(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """One unit after the other, one input after the other."""
    positions_h, positions_w, out_channels, channels, kh, kw = weight.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    batch, _, height, width = x.shape
    y = torch.zeros(batch, out_channels, positions_h, positions_w, dtype=x.dtype)
    for b, o, oh, ow in product(*map(range, y.shape)):
        total = 0.0 if bias is None else bias[o, oh, ow].item()
        for c, i, j in product(range(channels), range(kh), range(kw)):
            row, column = oh * sh - ph + i, ow * sw - pw + j
            if 0 <= row < height and 0 <= column < width:
                total += weight[oh, ow, o, c, i, j].item() * x[b, c, row, column].item()
        y[b, o, oh, ow] = total
    return y


def drawn(
    geometry: Geometry, *, channels: int = 2, out_channels: int = 3, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """x, local weights and bias of a geometry in float64."""
    (height, width), (kh, kw), (sh, sw), (ph, pw) = geometry
    oh, ow = output_size(height, kh, sh, ph), output_size(width, kw, sw, pw)
    generator = torch.Generator().manual_seed(height * 100 + width * 10 + kh)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return (
        draw(batch, channels, height, width),
        draw(oh, ow, out_channels, channels, kh, kw),
        draw(out_channels, oh, ow),
    )


# --- the functional forms


def test_a_tiny_layer_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None]
    # Two positions, each with a 2x2 filter of its own.
    weight = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]]])
    weight = weight.view(1, 2, 1, 1, 2, 2)
    bias = torch.tensor([[[0.5, -1.0]]])
    # 1·1 + 1·5 + 0.5, and 1·2 + 2·3 + 3·5 + 4·6 − 1
    assert spatial_conv2d(x, weight, bias).tolist() == [[[[6.5, 46.0]]]]
    # Padded by one: the corner units see one input, through their filter's last weight.
    weight = torch.arange(1.0, 49.0).view(3, 4, 1, 1, 2, 2)
    y = spatial_conv2d(x, weight, padding=1)
    assert y.shape == (1, 1, 3, 4)
    assert y[0, 0, 0, 0] == 4 * 1
    assert y[0, 0, 0, 1] == 7 * 1 + 8 * 2
    assert y[0, 0, 2, 3] == 45 * 6
    # Stride 2 takes every other position's field, with weights of its own.
    assert spatial_conv2d(x, weight[:2, :2], padding=1, stride=2).flatten().tolist() == [
        4 * 1, 7 * 2 + 8 * 3, 18 * 4, 21 * 5 + 22 * 6,
    ]  # fmt: skip


@geometries
@pytest.mark.parametrize("with_bias", [True, False])
def test_forward_equals_plain_loops(geometry: Geometry, with_bias: bool) -> None:
    x, weight, bias = drawn(geometry)
    *_, stride, padding = geometry
    given = bias if with_bias else None
    found = spatial_conv2d(x, weight, given, stride, padding)
    torch.testing.assert_close(found, by_loops(x, weight, given, stride, padding))


@geometries
def test_gradients_are_those_of_the_forward_pass(geometry: Geometry) -> None:
    x, weight, bias = (
        tensor.requires_grad_() for tensor in drawn(geometry, channels=1, out_channels=2)
    )
    *_, stride, padding = geometry
    assert torch.autograd.gradcheck(
        spatial_conv2d,
        (x, weight, bias, stride, padding),  # type: ignore[arg-type]
    )


@geometries
def test_with_shared_weights_it_is_a_convolution(geometry: Geometry) -> None:
    x, weight, bias = drawn(geometry)
    *_, stride, padding = geometry
    shared = weight[:1, :1].expand_as(weight)
    expected = F.conv2d(x, weight[0, 0], bias[:, 0, 0], stride=stride, padding=padding)
    found = spatial_conv2d(x, shared, bias[:, :1, :1].expand_as(bias), stride, padding)
    torch.testing.assert_close(found, expected)


@geometries
def test_local_weights_as_dense_ones_give_the_same(geometry: Geometry) -> None:
    x, weight, bias = drawn(geometry)
    *_, stride, padding = geometry
    dense = local_to_dense(weight, (2, *geometry[0]), stride, padding)
    local = spatial_conv2d(x, weight, bias, stride, padding)
    torch.testing.assert_close(dense_conv2d(x, dense, bias), local)
    # Every weight that exists is in it once, and nothing else.
    exists = field_mask(geometry[0], geometry[1], stride, padding)[:, :, None, None]
    assert dense.count_nonzero() == (weight * exists).count_nonzero()


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


def test_memory_order_of_the_input_does_not_matter() -> None:
    x, weight, bias = drawn(((5, 6), (3, 3), (1, 1), (1, 1)))
    expected = spatial_conv2d(x, weight, bias, 1, 1)
    found = spatial_conv2d(x.to(memory_format=torch.channels_last), weight, bias, 1, 1)
    assert torch.equal(found, expected)


def test_field_mask_by_hand() -> None:
    mask = field_mask((2, 3), (1, 2), (1, 2), (0, 1))
    assert mask.shape == (2, 2, 1, 2)
    # The columns of the two positions are (-1, 0) and (1, 2).
    assert mask[:, :, 0].tolist() == [[[False, True], [True, True]]] * 2


# --- initialisation


@geometries
def test_receptive_field_init_is_bounded_by_each_units_own_inputs(geometry: Geometry) -> None:
    size, kernel, stride, padding = geometry
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((3, *size), 64, kernel, stride=stride, padding=padding)
    exists = field_mask(size, kernel, stride, padding)
    assert layer.bias is not None
    assert not layer.bias.any()
    for oh, ow in product(range(layer.out_dimensions[1]), range(layer.out_dimensions[2])):
        fan_in = 3 * int(exists[oh, ow].sum())
        weights = layer.weight[oh, ow].detach()
        assert not weights[:, :, ~exists[oh, ow]].any()
        if fan_in:
            bound = math.sqrt(6 / fan_in)
            assert 0.9 * bound < weights.abs().max() <= bound


def test_receptive_field_init_has_kaimings_variance() -> None:
    torch.manual_seed(0)
    layer = SpatialFeatureLayer((8, 10, 10), 16, 3, padding=1)
    weights, exists = layer.weight.detach(), layer.field_mask()
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
    assert torch.equal(local_to_dense(local.weight, (2, 5, 6)), dense.weight)
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
    missing = ~layer.field_mask()[:, :, None, None].expand_as(layer.weight)
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
        (3, 6, 5), 4, (2, 3), False, stride=2, padding=(0, 1), storage=storage
    )
    assert layer.bias is None
    assert layer.out_dimensions == (4, 3, 3)
    assert layer(torch.randn(2, 3, 6, 5)).shape == (2, 4, 3, 3)
    if storage == "local":
        assert layer.weight.shape == (3, 3, 4, 3, 2, 3)
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
        ({"kernel_size": (3, 9), "padding": (0, 2)}, ("9", "4", "2·2")),
        ({"kernel_size": 0}, ("at least 1", "0")),
        ({"stride": 0}, ("at least 1", "0")),
        ({"padding": -1}, ("at least 0", "-1")),
        ({"storage": "sparse"}, ("'sparse'", "local, dense")),
        ({"init": "zeros"}, ("'zeros'", "receptive_field, notebook")),
    ],
    ids=str,
)
def test_a_layer_that_cannot_be(given: dict[str, Any], numbers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        SpatialFeatureLayer((2, 4, 4), 3, **{"kernel_size": 3, **given})
    for number in numbers:
        assert number in str(error.value)


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ((1, 3, 4, 4), ("3 channels", "expect 2")),
        ((1, 2, 4, 5), ("4×5", "2×3 positions", "2×2")),
        ((2, 4, 4), ("3 dimensions", "4 of (B, C, H, W)")),
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


def test_local_to_dense_of_another_input() -> None:
    weight = torch.zeros(2, 2, 3, 2, 3, 3)
    with pytest.raises(ValueError, match="5×4 gives 3×2 positions, the weights are for 2×2"):
        local_to_dense(weight, (2, 5, 4))
    with pytest.raises(ValueError, match="1 channels, the weights expect 2"):
        local_to_dense(weight, (1, 4, 4))
