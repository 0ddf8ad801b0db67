"""DeepNet: D-LOCAL's graph, its pooling and shortcuts, and one first kernel for all positions."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.learning.blocks import find_blocks
from sfl.learning.seeding import generator
from sfl.nn.audit import audit
from sfl.nn.engine import batch_innermost
from sfl.nn.engine.memory_order import is_batch_innermost
from sfl.nn.feedback.attach import attach
from sfl.nn.models.deep import Shortcut, average_pool
from sfl.nn.models.networks import build_model
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.summary import check_batch, summarize
from sfl.nn.weighted import weighted_layers

SMALL: dict[str, Any] = {
    "channels": [4, 6, 6, 9], "strides": [1, 2, 1, 2], "kernel_sizes": [3, 3, 3, 3],
    "hidden_sizes": [8], "in_dimensions": (3, 8, 8),
}  # fmt: skip
VARIANTS: list[dict[str, Any]] = [
    {},
    {"shortcut": "identity"},
    {"pool": "max"},
    {"pool": "average", "shortcut": "identity"},
    {"norm": "position"},
    {"norm": "none", "shortcut": "identity"},
    {"norm": "none", "init": "notebook"},
    {"dropout2d": 0.5},
]


def deep(**settings: Any) -> nn.Module:
    torch.manual_seed(3)
    return build_model("DeepNet", **(SMALL | settings))


def test_the_default_is_d_local() -> None:
    """9 s² a² (1/2 + 1 + 1/2 + 1 + 1/2 + 1 + 1/2) + 27 s² a + (1024 a + 640) a, s = 32, a = 15."""
    with torch.device("meta"):
        local, conv = (build_model("DeepNet", layer=layer) for layer in ("spatial", "conv"))
    weighted = weighted_layers(local)
    counts = [layer.weight.numel() for layer in weighted.values()]
    assert sum(counts) == 11_713_920 and sum(counts[:8]) == 10_782_720
    assert all(layer.bias is None for layer in list(weighted.values())[:-1])
    # D-CONV, a = 15: 6382 a² + 667 a, of which its fc1 and fc2 are 4096 a² + 640 a.
    convs = [layer.weight.numel() for layer in weighted_layers(conv).values()]
    assert sum(convs) == 6382 * 15**2 + 667 * 15
    shapes = [layer.out_shape for layer in summarize(local, (3, 32, 32)).layers]
    assert [s[1] for s in shapes if len(s) == 3][::2] == [32, 16, 16, 8, 8, 4, 4, 2]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_with_the_same_start_twins_compute_the_same(settings: dict[str, Any]) -> None:
    """At the borders, too: the weights of padding, which don't exist, would be given zeros."""
    x = torch.randn(6, 3, 8, 8)
    conv, spatial = deep(layer="conv", **settings), deep(same_start=True, **settings)
    for training in (True, False):
        conv.train(training), spatial.train(training)
        results = []
        for model in (conv, spatial):
            torch.manual_seed(5)  # of dropout
            results.append(model(x))
        if not (training and "dropout2d" in settings):  # whose masks lie otherwise in memory
            torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_the_same_start_is_one_kernel_that_does_not_stay_one() -> None:
    model = deep(same_start=True)
    layers = [m for m in model.modules() if isinstance(m, SpatialFeatureLayer)]
    assert len(layers) == 4
    assert all(layer.sharing_distance() < 1e-12 for layer in layers)
    assert deep().get_submodule("features.3").sharing_distance() > 0.5  # type: ignore[operator]
    model(torch.randn(6, 3, 8, 8)).square().sum().backward()
    with torch.no_grad():
        for layer in layers:
            assert layer.weight.grad is not None
            layer.weight.sub_(layer.weight.grad)
    assert all(layer.sharing_distance() > 1e-6 for layer in layers)


@pytest.mark.parametrize("name", ["SpatialDenseNet", "SimpleModel", "RegularConvNet"])
def test_other_networks_have_the_same_start_too(name: str) -> None:
    small: dict[str, Any] = {"channels": [2, 3, 2, 3, 2, 3], "hidden_sizes": [8]}
    small = {} if name == "SimpleModel" else small
    with torch.no_grad():
        outputs = []
        for settings in ({"layer": "conv"}, {"layer": "spatial", "same_start": True}):
            torch.manual_seed(2)
            chosen: dict[str, Any] = {**small, **settings}
            model = build_model(name, init="notebook", dropout=0.0, **chosen).eval()
            outputs.append(model(torch.ones(2, 3, 32, 32)))
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)


def test_dense_storage_begins_as_local_does() -> None:
    local, dense = deep(same_start=True).eval(), deep(same_start=True, storage="dense").eval()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(local(x), dense(x), rtol=1e-3, atol=1e-4)


def test_whole_channels_are_dropped_in_front_of_the_last_layer() -> None:
    kinds = [type(module) for module in deep(dropout2d=0.5).get_submodule("features").children()]
    at = kinds.index(nn.Dropout2d)
    assert kinds.count(nn.Dropout2d) == 1
    assert kinds[at + 1] is SpatialFeatureLayer and SpatialFeatureLayer not in kinds[at + 2 :]


@pytest.mark.parametrize("pool", ["stride", "max", "average"])
def test_pooling_has_the_factor_of_the_stride(pool: str) -> None:
    model = deep(pool=pool)
    strides = [m.stride[0] for m in model.modules() if isinstance(m, SpatialFeatureLayer)]
    assert strides == ([1, 2, 1, 2] if pool == "stride" else [1, 1, 1, 1])
    assert model.get_submodule("features")(torch.randn(2, 3, 8, 8)).shape == (2, 9, 2, 2)


def test_a_shortcut_adds_what_came_out_of_the_block_before() -> None:
    """By hand, for layers that put out nothing: all that is left is the first layer's output."""
    model = deep(layer="conv", shortcut="identity", norm="none")
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs[1:]:
        nn.init.zeros_(conv.weight)
    x = torch.randn(2, 3, 8, 8)
    seen: list[Tensor] = []
    shortcut = next(m for m in model.modules() if isinstance(m, Shortcut))
    shortcut.register_forward_hook(lambda module, inputs, y: seen.append(y.clone()))
    model(x)
    expected = F.pad(F.avg_pool2d(convs[0](x), 2), (0, 0, 0, 0, 0, 2))
    torch.testing.assert_close(seen, [expected])


@pytest.mark.parametrize("order", [torch.clone, batch_innermost])
def test_the_gradients_of_a_shortcut(order: Any) -> None:
    shortcut = Shortcut((2, 4, 4), (3, 2, 2))
    y, x = (torch.randn(2, *size, dtype=torch.float64) for size in ((3, 2, 2), (2, 4, 4)))
    given = (order(y).detach().requires_grad_(), order(x).detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda y, x: shortcut(y.clone(), x), given)


def test_a_rule_with_the_forward_weights_is_backpropagation_with_shortcuts_too() -> None:
    """What a shortcut adds in place comes behind a layer whose errors a rule sends back."""
    plain, ruled = (deep(shortcut="identity").double() for _ in range(2))
    feedback = attach(ruled, "fa", partial(generator, 0))
    with torch.no_grad():
        for rule in feedback.rules.values():
            rule.weight().copy_(rule.layer.weight)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    for model in (plain, ruled):
        model(x).square().sum().backward()
    for one, other in zip(plain.parameters(), ruled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_average_pooling_leaves_the_order_in_memory(size: tuple[int, int]) -> None:
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    innermost = batch_innermost(x.clone()).detach().requires_grad_()
    expected = F.avg_pool2d(x, 2)
    torch.testing.assert_close(average_pool(innermost, 2), expected)
    assert is_batch_innermost(average_pool(innermost, 2))
    torch.testing.assert_close(average_pool(x, 2), expected)
    assert torch.autograd.gradcheck(lambda given: average_pool(given, 2), innermost)


@pytest.mark.parametrize("settings", VARIANTS[:5], ids=str)
def test_between_local_layers_the_order_in_memory_stays(settings: dict[str, Any]) -> None:
    model = deep(**settings)
    found: list[bool] = []
    for module in model.features.children():  # type: ignore[union-attr]
        module.register_forward_hook(
            lambda module, inputs, y: found.append(is_batch_innermost(inputs[0]))
        )
    model(torch.randn(4, 3, 8, 8))
    assert all(found) and len(found) >= 8


def test_blocks_are_found_and_a_shortcut_leaves_none() -> None:
    blocks = find_blocks(deep(), SMALL["in_dimensions"])
    assert [block.layer for block in blocks] == list(weighted_layers(deep()))
    with pytest.raises(ValueError, match="left by more than one way"):
        find_blocks(deep(shortcut="identity"), SMALL["in_dimensions"])


def test_strictly_local_with_norms_by_position() -> None:
    assert audit(deep(norm="position"), SMALL["in_dimensions"]).sharing == "strict"
    assert audit(deep(), SMALL["in_dimensions"]).sharing == "soft"


def test_one_image_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="BatchNorm1d"):
        check_batch(deep(), SMALL["in_dimensions"], 1)
    check_batch(deep(norm="none"), SMALL["in_dimensions"], 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strides": [1, 2]}, "strides: 2 given, this model has 4 layers"),
        ({"kernel_sizes": [3]}, "kernel_sizes: 1 given, this model has 4 layers"),
        ({"channels": [], "strides": [], "kernel_sizes": []}, "at least one layer"),
        ({"pool": "max", "strides": [1, 3, 1, 1]}, "only for strides of 1 and 2, not 3"),
        ({"pool": "average", "strides": [2, 2, 2, 2]}, "leaves nothing of 1×1"),
        ({"strides": [1, 64, 1, 1]}, "strides: 64 leaves one corner of"),
        ({"pool": "sum"}, "stride, max, average"),
        ({"shortcut": "conv"}, "none, identity"),
        ({"shortcut": "identity", "channels": [6, 4, 4, 4]}, "must not become fewer"),
        ({"shortcut": "identity", "strides": [1, 3, 1, 1]}, "one whole number"),
        ({"layer": "conv", "same_start": True}, "same_start is for layer: spatial"),
    ],
)
def test_a_deep_net_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words), torch.device("meta"):
        deep(**settings)
