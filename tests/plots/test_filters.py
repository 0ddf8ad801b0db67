"""What a network has learnt: similarity, fields and activations against slow ways and by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from sfl.nn.models.networks import build_model
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.plots.filters import (
    Filters,
    activations,
    conv_layers,
    layer_outputs,
    read_filters,
    receptive_fields,
    similarity,
    similarity_by_distance,
)


def slow_similarity(weight: Tensor, dy: int, dx: int) -> float:
    """The mean of the cosines of all pairs, one by one."""
    height, width, units = weight.shape[:3]
    cosines = []
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                for unit in range(units):
                    one, other = (
                        weight[y, x, unit].flatten(),
                        weight[y + dy, x + dx, unit].flatten(),
                    )
                    cosines.append(float(one @ other / (one.norm() * other.norm())))
    return sum(cosines) / len(cosines)


@pytest.mark.parametrize("memory", [1, 2**24])
def test_similarity_is_the_mean_cosine_of_all_pairs(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.plots.filters.MEMORY", memory)  # all units at once, or one by one
    weight = torch.randn(4, 5, 3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    cosine = similarity(Filters("a", weight, (4, 5)))
    assert cosine.shape == (7, 9)
    for dy in range(-3, 4):
        for dx in range(-4, 5):
            expected = slow_similarity(weight, dy, dx)
            assert float(cosine[3 + dy, 4 + dx]) == pytest.approx(expected, abs=1e-5)


def test_similarity_by_distance() -> None:
    """Two filters in turn along a row, orthogonal: alike at even distances, not at odd ones."""
    weight = torch.zeros(1, 5, 1, 1, 1, 2)
    weight[0, ::2, ..., 0] = 1
    weight[0, 1::2, ..., 1] = 3
    found = similarity_by_distance(Filters("a", weight, (1, 5)))
    assert found.distances == [1, 2, 3, 4]
    assert found.means == pytest.approx([0, 1, 0, 1], abs=1e-6)
    # Four, three, two pairs and one of K = 2.
    assert found.by_chance == pytest.approx([2 / math.sqrt(2 * n) for n in (4, 3, 2, 1)])


def test_independent_filters_are_alike_by_chance_alone() -> None:
    layer = SpatialFeatureLayer((3, 12, 12), 8, 3)
    found = similarity_by_distance(read_filters("a", layer, (10, 10)))
    assert all(
        abs(mean) < 2.5 * chance for mean, chance in zip(found.means, found.by_chance, strict=True)
    )


def test_shared_filters_are_one() -> None:
    found = read_filters("a", nn.Conv2d(3, 4, 3), (6, 7))
    assert found.is_shared and found.weight.shape == (1, 1, 4, 3, 3, 3)
    assert similarity(found).shape == (11, 13) and bool((similarity(found) == 1).all())
    assert set(similarity_by_distance(found).means) == {1.0} and set(
        similarity_by_distance(found).by_chance
    ) == {0.0}
    same = read_filters("b", SpatialFeatureLayer.from_conv(nn.Conv2d(3, 4, 3), (3, 8, 8)), (6, 6))
    assert not same.is_shared
    assert similarity(same).min() > 1 - 1e-5


def test_filters_of_dense_storage_are_those_inside_the_fields() -> None:
    local = SpatialFeatureLayer((2, 6, 6), 3, 3)
    dense = local.with_storage("dense")[0]
    assert torch.equal(read_filters("a", dense, (4, 4)).weight, local.filters())


@pytest.mark.parametrize("layer", ["conv", "spatial"])
def test_receptive_fields_end_where_units_see_nothing(layer: str) -> None:
    """SpatialDenseNet, by hand: 3 and 5 pixels across before the pool, then 2 · 2 + 2 · 2 more."""
    torch.manual_seed(0)
    model = build_model("SpatialDenseNet", layer=layer, channels=[4] * 6).eval()
    found = receptive_fields(model, torch.randn(4, 3, 32, 32), [0, 3, 4])
    names = [name for name, _ in conv_layers(model)]
    assert list(found) == names and len(names) == 6
    assert all(fields.shape == (2, 32, 32) for fields in found.values())  # there is no unit 4
    spans = [_span(found[name][1]) for name in names[:4]]
    assert spans == [3, 5, 10, 14]
    assert float(found[names[0]].max()) == 1.0


def _span(field: Tensor) -> int:
    rows = field.sum(dim=1).nonzero().flatten()
    return int(rows.max() - rows.min()) + 1


def test_a_dense_unit_sees_everything_once_its_weights_have_left_their_field() -> None:
    model = build_model("SimpleModel", storage="dense").eval()
    (name,) = (name for name, _ in conv_layers(model))
    x = torch.randn(2, 3, 32, 32)
    assert _span(receptive_fields(model, x, [0])[name][0]) == 3
    with torch.no_grad():
        model.get_parameter(f"{name}.weight").add_(0.01)
    assert _span(receptive_fields(model, x, [0])[name][0]) == 32


def test_outputs_are_those_before_a_relu_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(inplace=True))
    x = torch.tensor([[[[-1.0, 2.0]]]])
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    assert torch.equal(layer_outputs(model, x, {"a": model[0]})["a"], x)


def test_activations_are_those_behind_the_normalisation() -> None:
    """Of the second layer, which no ReLU follows, what is above 0."""
    norm = nn.BatchNorm2d(1).eval()
    norm.bias.data.fill_(3.0)
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), norm, nn.ReLU(), nn.Conv2d(1, 2, 1, bias=False)
    ).eval()
    for layer, weights in ((model[0], [1.0]), (model[3], [-1.0, 1.0])):
        layer.weight.data.copy_(torch.tensor(weights).view(-1, 1, 1, 1))  # type: ignore[operator]
    first, second = activations(model, torch.tensor([[[[-1.0, 2.0, -9.0]]]])).values()
    assert torch.allclose(first, torch.tensor([[[2.0, 5.0, 0.0]]]), atol=1e-4)
    assert torch.allclose(second, torch.tensor([[[1.0, 2.5, 0.0]]]), atol=1e-4)


def test_activations_are_those_behind_units_normalised_by_themselves() -> None:
    model = build_model("SpatialDenseNet", channels=[2] * 6, hidden_sizes=[4], norm="position")
    for name, parameter in model.named_parameters():
        if name.split(".")[1] in ("1", "7", "14"):
            nn.init.constant_(parameter, 3.0 if name.endswith("bias") else 0.0)
    maps = list(activations(model.eval(), torch.randn(3, 3, 32, 32)).values())
    assert all(torch.equal(maps[n], torch.full_like(maps[n], 3.0)) for n in (0, 2, 4))


def test_activations_of_pooled_layers_have_their_places() -> None:
    """RegularConvNet's last layer is pooled; the next ReLU is the classifier's."""
    model = build_model("RegularConvNet", channels=[2] * 6, hidden_sizes=[5, 4]).eval()
    found = activations(model, torch.randn(3, 3, 32, 32))
    sizes = [32, 32, 16, 16, 8, 8]
    assert [tuple(maps.shape) for maps in found.values()] == [(3, side, side) for side in sizes]
