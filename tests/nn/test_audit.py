"""What is shared and transported: each grade by a model that has it, and counts by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn.audit import SHARING, TRANSPORT, Audit, LayerAudit, audit
from sfl.nn.feedback.rules import RULES
from sfl.nn.models.networks import build_model
from sfl.nn.norm import UnitBatchNormReLU
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.summary import summarize

SIZE = (3, 6, 5)


def local(**settings: Any) -> nn.Sequential:
    """Two local layers with padding and a readout: 3×6×5 → 4×6×5 → 2×4×3 → 7."""
    return nn.Sequential(
        SpatialFeatureLayer(SIZE, 4, 3, padding=1, **settings),
        UnitBatchNormReLU((4, 6, 5)),
        SpatialFeatureLayer((4, 6, 5), 2, 3, padding=0, groups=2, **settings),
        nn.Flatten(),
        nn.Linear(2 * 4 * 3, 7),
    )


def conv() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, groups=2),
        nn.Flatten(), nn.Linear(24, 7),
    )  # fmt: skip


def found(audited: Audit, *fields: str) -> dict[str, tuple[Any, ...]]:
    return {
        layer.name: tuple(getattr(layer, field) for field in fields) for layer in audited.layers
    }


# --- sharing


def test_a_net_whose_units_have_all_to_themselves_is_strict() -> None:
    audited = audit(local(), SIZE)
    assert audited.sharing == "strict" and audited.total("shared") == 0
    assert {layer.sharing for layer in audited.layers} == {"strict"}
    statistics = 2 * 4 * 6 * 5
    assert audited.total("statistics") == statistics
    assert audited.remarks[1:] == (
        "120 scales of normalisations send errors back in their own derivative",
        f"{statistics} means and variances are taken over the images of a batch",
    )


def test_a_convolution_shares_its_weights_at_every_position() -> None:
    audited = audit(conv(), SIZE)
    assert audited.sharing == "shared"
    assert found(audited, "sharing", "shared", "places", "statistics") == {
        "0": ("shared", 4 * 3 * 9 + 4, 30, 0),
        "1": ("soft", 8, 30, 8),
        "2": ("shared", 2 * 2 * 9 + 2, 12, 0),
        "4": ("strict", 0, 1, 0),
    }
    assert audited.remarks[-1] == "8 of these are taken over positions, too"


def test_a_convolution_with_one_position_shares_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, (6, 5)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 7))
    audited = audit(model, SIZE)
    assert audited.sharing == "strict" and audited.total("shared") == 0
    assert audited.total("statistics") == 8  # over the batch alone
    assert "over the images of a batch" in audited.remarks[-1]


@pytest.mark.parametrize("norm", ["channel", "position", "none"])
def test_norm_decides_whether_a_local_net_is_strict(norm: str) -> None:
    with torch.device("meta"):
        model = build_model("SpatialDenseNet", norm=norm)
    audited = audit(model, (3, 32, 32))
    assert audited.sharing == ("soft" if norm == "channel" else "strict")
    units = {"channel": 10 + 32 + 128, "position": 10 * 900 + 32 * 144 + 128 * 16, "none": 0}[norm]
    assert audited.total("statistics") == 2 * units
    assert audited.total("shared") == (2 * units if norm == "channel" else 0)
    assert audited.total("own_scales") == units
    assert "dropout of whole maps" in audited.remarks[-1]


def test_a_bias_a_channel_is_soft() -> None:
    assert found(audit(local(bias="channel"), SIZE), "sharing", "shared", "places") == {
        "0": ("soft", 4, 30), "1": ("strict", 0, 1), "2": ("soft", 2, 12), "4": ("strict", 0, 1),
    }  # fmt: skip


@pytest.mark.parametrize(("bias", "more"), [(False, (0, 0)), ("channel", (4, 2)), (True, (4, 2))])
def test_what_sleeps_shares_in_time(bias: Any, more: tuple[int, int]) -> None:
    audited = audit(local(bias=bias), SIZE, sleeps=True)
    assert audited.sharing == "in time"
    shares = found(audited, "sharing", "shared", "places")
    assert shares["0"] == ("in time", 9 * 3 * 4 + more[0], 30)
    assert shares["2"] == ("in time", 9 * 2 * 2 + more[1], 12)
    assert audit(conv(), SIZE, sleeps=True).sharing == "shared"  # the loosest grade is the net's


def test_one_linear_layer_at_several_places() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Linear(30, 5), nn.Flatten(), nn.Linear(15, 2))
    shares = found(audit(model, SIZE), "sharing", "shared", "places")
    assert shares == {"1": ("shared", 30 * 5 + 5, 3), "3": ("strict", 0, 1)}


def test_one_layer_that_is_run_twice() -> None:
    layer = SpatialFeatureLayer(SIZE, 3, 3, padding=1, bias=False)
    shares = found(audit(nn.Sequential(layer, layer), SIZE), "sharing", "shared", "places")
    assert shares == {"0": ("shared", layer.weight_count(), 2)}


class Tiles(nn.Module):
    """Puts 2×2 tiles of the image beside each other as images, which one layer sees in turn."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        tiles = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5)  # (B, 3, 2, 3, 2, 2)
        y: Tensor = self.layer(tiles.reshape(-1, *tiles.shape[3:]))
        return y.reshape(len(x), -1)


@pytest.mark.parametrize(
    ("layer", "grade", "numbers", "places"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), "shared", 12 * 5 + 5, 6),
        (SpatialFeatureLayer((3, 2, 2), 5, 2), "shared", 12 * 5 + 5, 6),
        (nn.Conv2d(3, 5, 2), "shared", 12 * 5 + 5, 6),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12)), "soft", 24, 6),
        (UnitBatchNormReLU((3, 2, 2)), "soft", 24, 6),
    ],
)
def test_places_that_are_images_of_a_batch(
    layer: nn.Module, grade: str, numbers: int, places: int
) -> None:
    (shares,) = audit(Tiles(layer), SIZE).layers
    assert (shares.sharing, shares.shared, shares.places) == (grade, numbers, places)
    flops = sum(each.flops for each in summarize(Tiles(layer), SIZE).layers)
    assert flops == (0 if grade == "soft" else 2 * 12 * 5 * 6)


class Backwards(nn.Module):
    """Its readout comes first in the order of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(4, 7), nn.Linear(90, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x.flatten(1)))
        return y


def test_what_is_transported_goes_by_the_calls_not_by_the_order_of_the_modules() -> None:
    assert found(audit(Backwards(), SIZE), "transported") == {"last": (28,), "first": (0,)}


class Uncalled(nn.Module):
    """Uses a layer's weights without calling it, as nn.MultiheadAttention does."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight)


class SharedAfterAll(SpatialFeatureLayer):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight[0, 0].permute(0, 3, 1, 2))


def test_modules_that_it_cannot_judge_are_refused() -> None:
    with pytest.raises(ValueError, match="1: what a GroupNorm does with weights of its own"):
        audit(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), SIZE)
    called, other = nn.Linear(90, 90), nn.Linear(90, 90)
    tied = nn.Sequential(nn.Flatten(), called, other)
    other.weight = called.weight
    with pytest.raises(ValueError, match="1 and 2 have one parameter; give each its own"):
        audit(tied, SIZE)
    unseen = nn.Sequential(nn.Flatten(), nn.Linear(90, 4))
    unseen.add_module("other", Uncalled(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"other\.layer: no call of it was seen"):
        audit(unseen, SIZE)
    other_by_class, other_by_hand = SharedAfterAll(SIZE, 4, 3), nn.Conv2d(3, 4, 3)
    other_by_hand.forward = torch.relu  # type: ignore[method-assign, assignment]
    for layer, kind in ((other_by_class, "SpatialFeatureLayer"), (other_by_hand, "Conv2d")):
        with pytest.raises(ValueError, match=f"0: a {kind} with a forward of its own; what that"):
            audit(nn.Sequential(layer), SIZE)
    with pytest.raises(ValueError, match="rule 'bp' is none of backprop, fa"):
        audit(local(), SIZE, rule="bp")


# --- transport

SECOND, READOUT = 2 * 2 * 9 * 12, 24 * 7  # weights; the second layer has no padding


@pytest.mark.parametrize(
    ("rule", "alignment", "grade", "bits"),
    [
        ("backprop", 0.0, "transports", 32),
        ("fa", 0.0, "strict", 0),
        ("fa", 0.5, "at birth", 0),
        ("usf", 0.0, "signs", 1),
        ("brsf", 0.0, "signs", 1),
        ("frsf", 0.0, "signs", 1),
        ("kp", 0.0, "strict", 0),
        ("mirror", 0.0, "strict", 0),
    ],
)
def test_what_each_rule_transports(rule: str, alignment: float, grade: str, bits: int) -> None:
    """All layers but the first, which sends nothing back; the readout's weights, too."""
    audited = audit(local(), SIZE, rule=rule, alignment=alignment)
    sent = grade != "strict"
    assert found(audited, "transport", "transported", "bits") == {
        "0": ("strict", 0, 0),
        "1": ("strict", 0, 0),
        "2": (grade, SECOND * sent, SECOND * bits),
        "4": (grade, READOUT * sent, READOUT * bits),
    }
    assert audited.transport == grade
    assert audited.remarks[0] == "the readout follows the rule, too"
    assert found(audited, "own_scales")["1"] == (4 * 6 * 5,)  # whichever rule


def test_every_rule_has_a_grade() -> None:
    assert {rule.transport for rule in RULES.values()} <= TRANSPORT.keys()


def test_weights_of_padding_and_outside_the_field_are_not_transported_unless_they_are_used() -> (
    None
):
    for storage in ("local", "dense"):
        layer = SpatialFeatureLayer(SIZE, 2, 3, padding=1, storage=storage)  # type: ignore[arg-type]
        model = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
        inside = (3 * 6 - 2) * (3 * 5 - 2) * 3 * 2  # rows and columns that exist, by hand
        assert audit(model, SIZE, rule="usf").total("transported") == inside
        every = {"local": inside, "dense": 90 * 60}[storage]  # dense weights leave their fields
        assert audit(model, SIZE).total("transported") == every


@pytest.mark.parametrize("route", ["dfa", "local", "frozen"])
def test_a_route_that_cuts_sends_nothing_through_a_layer(route: str) -> None:
    audited = audit(local(), SIZE, route=route)
    assert audited.transport == "strict" and audited.total("transported") == 0
    assert audited.remarks[0] == "the readout sends no error back"
    assert audited.total("own_scales") == (0 if route == "frozen" else 120)
    first = {"dfa": "the error of the output", "local": "the labels", "frozen": "only the last"}[
        route
    ]
    assert audited.remarks[1].startswith(first)


def test_the_weights_of_a_local_losss_head_are_transported_within_it() -> None:
    audited = audit(local(), SIZE, route="local", loss="predsim", heads={"0": 120 * 7, "2": 0})
    assert found(audited, "transport", "transported", "bits") == {
        "0": ("transports", 840, 840 * 32), "1": ("strict", 0, 0), "2": ("strict", 0, 0),
        "4": ("strict", 0, 0),
    }  # fmt: skip
    assert audited.transport == "transports"
    assert audited.remarks[2].startswith("only within the losses of the layers")
    assert "compare the images of a batch" in audited.remarks[3]


def test_one_norm_for_all_gradients_is_not_local() -> None:
    assert "their norm over all layers" in audit(local(), SIZE, clips=True).remarks[1]


# --- the whole


def test_a_net_has_the_loosest_grade_of_its_layers() -> None:
    layers = [
        LayerAudit(str(n), "", sharing, transport=transport)
        for n, (sharing, transport) in enumerate(zip(SHARING, TRANSPORT, strict=True))
    ]
    for number in range(1, 5):
        audited = Audit(tuple(layers[number - 1 :: -1]), ())
        assert audited.sharing == list(SHARING)[number - 1]
        assert audited.transport == list(TRANSPORT)[number - 1]


def test_as_plain_values() -> None:
    values = audit(conv(), SIZE, rule="usf").to_dict()
    assert (values["sharing"], values["transport"]) == ("shared", "signs")
    sharing, transport, *_ = audit(conv(), SIZE, rule="usf").in_words()
    assert sharing == f"grade of sharing, shared: {SHARING['shared']}"
    assert transport == f"grade of transport, signs: {TRANSPORT['signs']}"
    sums = {key: values[key] for key in ("shared", "statistics", "transported", "bits")}
    weights = 2 * 2 * 9 + READOUT
    assert sums == {"shared": 158, "statistics": 8, "transported": weights, "bits": weights}
    assert isinstance(values["layers"], list)
    first = values["layers"][0]
    assert first["name"] == "0" and first["kind"] == "Conv2d" and first["shared"] == 112
