"""Convolutions as spatial layers and back, dense weights as local ones, whole networks."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from sfl.nn.conversion import still_shared, without_sharing
from sfl.nn.models.graphs import GRAPHS
from sfl.nn.models.networks import MODELS, build_model
from sfl.nn.spatial import SpatialFeatureLayer
from tests.nn.test_spatial import LAYERS, made

layers = pytest.mark.parametrize("layer", LAYERS, ids=str)
X = torch.randn(2, 2, 5, 6)


@layers
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("storage", ["local", "dense"])
def test_a_convolution_becomes_a_layer_that_does_the_same(
    layer: tuple[Any, ...], bias: bool, storage: Any
) -> None:
    dimensions, out_channels, kernel, keywords = layer
    conv = nn.Conv2d(
        dimensions[0], out_channels, kernel, **keywords, bias=bias, dtype=torch.float64
    )
    ours = SpatialFeatureLayer.from_conv(conv, dimensions, storage)
    x = torch.randn(2, *dimensions, dtype=torch.float64)
    with warnings.catch_warnings(action="ignore"):  # it makes a copy for odd padding
        expected = conv(x)
    torch.testing.assert_close(ours(x), expected)
    assert ours.storage == storage
    if storage == "local":
        assert not ours.weight[
            ~ours.field_mask()[:, :, None, :, :, None].expand_as(ours.weight)
        ].any()
        assert ours.sharing_distance() < 1e-24
        back, distance = ours.to_conv()
        assert distance < 1e-24
        # A place of the field that no position has is lost.
        there = ours.field_mask().any(dim=0).any(dim=0)
        torch.testing.assert_close(back.weight, conv.weight * there)
        assert (back.bias is None) == (conv.bias is None)
        if back.bias is not None:
            torch.testing.assert_close(back.bias, conv.bias)


def test_how_far_from_sharing_by_hand() -> None:
    layer = SpatialFeatureLayer((1, 1, 3), 1, (1, 2), bias="position")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 2.0]]).view_as(layer.weight))
        assert layer.bias is not None
        layer.bias.copy_(torch.tensor([[[1.0, 2.0]]]))
    # The mean is (2, 2), from which the first weights are 1 away: 2 / (1 + 4 + 9 + 4).
    assert layer.sharing_distance() == pytest.approx(2 / 18)
    conv, distance = layer.to_conv()
    assert conv.weight.flatten().tolist() == [2.0, 2.0]
    assert conv.bias is not None and conv.bias.tolist() == [1.5]
    assert distance == pytest.approx(2 / 18)


def test_missing_weights_do_not_count() -> None:
    layer = SpatialFeatureLayer((1, 1, 2), 1, (1, 3), bias=False, padding=(0, 1))
    with torch.no_grad():  # the second number is the only one that both positions have
        layer.weight.copy_(torch.tensor([[7.0, 2.0, 3.0], [1.0, 4.0, 7.0]]).view_as(layer.weight))
    conv, distance = layer.to_conv()
    assert conv.weight.flatten().tolist() == [1.0, 3.0, 3.0]
    assert distance == pytest.approx((1 + 1) / (4 + 9 + 1 + 16))
    nothing = SpatialFeatureLayer((1, 2, 2), 1, 1)
    nn.init.zeros_(nothing.weight)
    assert nothing.sharing_distance() == 0


@layers
def test_dense_weights_and_back(layer: tuple[Any, ...]) -> None:
    local = made(layer, dtype=torch.float64)
    x = torch.randn(2, *local.in_dimensions, dtype=torch.float64)
    dense, nothing = local.with_storage("dense")
    assert (dense.storage, nothing) == ("dense", 0)
    torch.testing.assert_close(dense(x), local(x))
    back, nothing = dense.with_storage("local")
    assert nothing == pytest.approx(0, abs=1e-12) and torch.equal(back.weight, local.weight)
    assert back.weight.requires_grad and back.weight.data_ptr() != local.weight.data_ptr()
    same, nothing = local.with_storage("local")
    assert nothing == 0 and torch.equal(same.weight, local.weight)


def test_what_dense_weights_lose_by_hand() -> None:
    dense = SpatialFeatureLayer((1, 1, 3), 1, (1, 2), bias=False, storage="dense")
    nn.init.ones_(dense.weight)  # 3 inputs × 2 units, of which the fields hold 2 each
    local, lost = dense.with_storage("local")
    assert local.weight.numel() == 4 and lost == pytest.approx(2 / 6)
    for refused in (dense.sharing_distance, dense.to_conv):
        with pytest.raises(ValueError, match="dense storage has no filters"):
            refused()


def test_convolutions_that_cannot_become_layers() -> None:
    transposed: Any = nn.ConvTranspose2d(4, 4, 3)
    with pytest.raises(ValueError, match=r"^ConvTranspose2d isn't known to be a mere convolution"):
        SpatialFeatureLayer.from_conv(transposed, (4, 6, 6))
    circular = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    with pytest.raises(ValueError, match="padding_mode 'circular'"):
        SpatialFeatureLayer.from_conv(circular, (1, 4, 4))
    with pytest.raises(ValueError, match="has 3 channels, the convolution expects 1"):
        SpatialFeatureLayer.from_conv(nn.Conv2d(1, 1, 3), (3, 4, 4))


# --- whole networks


@pytest.mark.parametrize("name", MODELS)
def test_a_network_of_ours_becomes_its_twin(name: str) -> None:
    small: dict[str, Any] = {"channels": [2 + n % 2 for n in range(len(GRAPHS[name]["channels"]))]}
    conv = build_model(name, layer="conv", **small).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    converted = without_sharing(conv, x[:1])
    torch.testing.assert_close(converted(x), conv(x))
    twin = build_model(name, layer="spatial", **small)
    shapes = {name: tensor.shape for name, tensor in twin.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.state_dict().items()} == shapes


def test_a_resnet_18() -> None:
    torch.manual_seed(0)
    model = resnet18(num_classes=10).double()
    for module in model.modules():  # of other numbers than those of birth
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -1, 1)
    model.train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    converted = without_sharing(model, x)
    assert converted.training
    assert not any(isinstance(module, nn.Conv2d) for module in converted.modules())
    assert sum(isinstance(module, SpatialFeatureLayer) for module in converted.modules()) == 20
    torch.testing.assert_close(converted.eval()(x), model.eval()(x))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


class Twice(nn.Module):
    """One convolution in two places, and one that isn't used."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = self.first
        self.unused = nn.Conv2d(9, 9, 9)
        self.between = nn.MaxPool2d(2) if pooled else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.between(self.first(x)))
        return y


def test_a_convolution_in_several_places() -> None:
    x = torch.randn(1, 2, 4, 4)
    model = Twice(pooled=False)
    converted = without_sharing(model, x)
    assert isinstance(converted.first, SpatialFeatureLayer)
    assert converted.first is converted.second
    assert isinstance(converted.unused, nn.Conv2d)
    torch.testing.assert_close(converted(x), model(x))
    with pytest.raises(ValueError, match=r"first is used with inputs of \(2, 4, 4\) and \(2, 2, 2"):
        without_sharing(Twice(pooled=True), x)


def test_subclasses_that_are_convolutions_and_others() -> None:
    class Named(nn.Conv2d):
        pass

    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.conv2d(input, self.weight - self.weight.mean(), self.bias)

    x = torch.randn(1, 2, 4, 4)
    model = nn.Sequential(Named(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3))
    converted = without_sharing(model, x)
    assert all(isinstance(layer, SpatialFeatureLayer) for layer in converted.children())
    torch.testing.assert_close(converted(x), model(x))
    with pytest.raises(ValueError, match=r"^1: Standardised isn't known to be a mere"):
        without_sharing(nn.Sequential(Named(2, 2, 3), Standardised(2, 2, 2)), x)


class Listed(nn.Module):
    """Its convolution stands in a plain list and a dict, too, and is called from there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)
        self.listed = [{"conv": self.conv}]
        self.conv.owner = [self]  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.listed[0]["conv"](x)
        return y


def test_a_convolution_in_a_list() -> None:
    model = Listed()
    converted = without_sharing(model, X)
    layer = converted.conv
    assert isinstance(layer, SpatialFeatureLayer) and converted.listed == [{"conv": layer}]  # type: ignore[comparison-overlap]
    assert layer.owner[0] is converted and model.conv.owner[0] is model  # type: ignore[index]
    converted(X).sum().backward()
    assert layer.weight.grad is not None and model.conv.weight.grad is None


def test_a_convolution_that_is_not_what_it_seems_or_not_given_an_image() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    for given in ([X], (X, X)):
        with pytest.raises(ValueError, match=r"^0 is called with a (list|tuple), not a tensor: "):
            without_sharing(model, given)
    model[0].forward = lambda x: x * 2  # type: ignore[method-assign]
    with pytest.raises(
        ValueError, match=r"^0: Conv2d isn't known to be a mere convolution: its forward is its own"
    ):
        without_sharing(model, X)
    reflecting = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match=r"^0: padding_mode 'reflect': only zeros"):
        without_sharing(reflecting, X)


@pytest.mark.parametrize(
    "make",
    [
        torch.jit.script,
        lambda model: torch.jit.trace(model, X),
        lambda model: torch.export.export(model, (X,)).module(),
    ],
)
def test_a_model_without_convolutions_to_see(make: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    converted = without_sharing(model, X)
    assert torch.equal(without_sharing(converted, X)(X), converted(X))
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        made_of_it = make(model)
    with pytest.raises(ValueError, match=r"no nn\.Conv2d that was seen to run; convert it before"):
        without_sharing(made_of_it, X)


class Reads(nn.Module):
    """What models do with a convolution beside calling it; `use` does something with its output."""

    def __init__(self, use: Callable[[Any, Tensor], Any] = lambda model, y: y) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.tied = nn.Conv2d(2, 4, 3, padding=1)
        self.head, self.scale = nn.Linear(4, 3), nn.Parameter(torch.ones(1))
        self.use = use

    def forward(self, image: Tensor, gain: float = 1.0) -> Any:
        conv, weight = self.conv, self.conv.weight
        assert (conv.in_channels, conv.out_channels, conv.padding_mode) == (2, 4, "zeros")
        y = conv(input=image.to(weight.device, weight.dtype)) * gain * self.scale
        return self.use(self, self.norm(y))


def test_inputs_by_name_attributes_and_outputs_of_any_form() -> None:
    model = Reads(lambda model, y: {"features": [y, y.dim()]})
    model.conv.stage = 3  # type: ignore[assignment]
    converted = without_sharing(model, X, gain=2.0)
    assert isinstance(converted.conv, SpatialFeatureLayer) and converted.conv.stage == 3
    found, expected = (m.eval()(X)["features"][0] for m in (converted, model))
    torch.testing.assert_close(found, expected)


def test_hooks_on_a_convolution_are_carried_over() -> None:
    model, conv = nn.Sequential(nn.Conv2d(2, 3, 3)).eval(), nn.Conv2d(2, 3, 3)
    seen: list[tuple[type, Any]] = []
    model[0] = conv
    conv.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    conv.register_forward_hook(lambda module, inputs, named, y: y + 1, with_kwargs=True)
    conv.register_full_backward_hook(lambda module, dx, dy: seen.append((type(module), dy)))
    conv.register_full_backward_pre_hook(lambda module, dy: (dy[0] * 3,))  # type: ignore[index]
    converted = without_sharing(model, X)
    gradients = []
    for each in (model, converted):
        x = X.clone().requires_grad_()
        y = each(x)
        gradients.append((y, *torch.autograd.grad(y.sum(), x)))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert [kind for kind, _ in seen] == [nn.Conv2d, SpatialFeatureLayer]
    assert torch.equal(seen[0][1][0], seen[1][1][0])
    conv.weight._no_weight_decay = True  # type: ignore[attr-defined]
    assert without_sharing(model, X)[0].weight._no_weight_decay  # type: ignore[index]
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        getattr(conv.weight, register)(lambda gradient: None)
        with pytest.raises(ValueError, match=r"^0.weight has hooks on its gradient"):
            without_sharing(model, X)
        conv.weight = nn.Parameter(conv.weight.detach())
    conv.register_load_state_dict_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^0 has hooks on its state_dict"):
        without_sharing(model, X)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (torch.nn.utils.parametrizations.weight_norm, "parametrizations.weight.original0"),
        (torch.nn.utils.parametrizations.spectral_norm, "parametrizations.weight.original"),
        (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), "weight_orig"),
        (lambda conv: prune.random_unstructured(conv, "bias", 0.5), "bias_orig"),
        (lambda conv: conv.register_parameter("gain", nn.Parameter(torch.ones(3))), "gain"),
    ],
)
def test_weights_that_are_made_of_others(change: Callable[[nn.Conv2d], Any], word: str) -> None:
    conv = nn.Conv2d(2, 3, 3)
    change(conv)
    for model, name in ((nn.Sequential(conv), "0"), (conv, "the model")):
        words = rf"^{name} \(\w*Conv2d\) has .*{word}.* for parameters, not a plain .*: if that is"
        with pytest.raises(ValueError, match=words):
            without_sharing(model, X)


def test_a_lazy_convolution_has_no_weights_to_copy_yet() -> None:
    model = nn.Sequential(nn.LazyConv2d(3, 3), nn.Conv2d(3, 2, 1))
    with pytest.raises(ValueError, match=r"^0.weight has no numbers yet: call the model once"):
        without_sharing(model, X)
    model(X)
    torch.testing.assert_close(without_sharing(model, X)(X), model(X))


def tie(model: Any, y: Tensor) -> Any:
    model.tied.weight = model.conv.weight
    return y + model.tied(X)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (
            lambda m, y: y + F.conv2d(X, m.conv.weight, padding=1),
            r"^conv\.weight is used elsewhere",
        ),
        (
            lambda m, y: y + torch.stack([m.conv.bias])[0][:, None, None],
            r"^conv\.bias is used else",
        ),
        (tie, r"^conv\.weight is used elsewhere"),
        (lambda m, y: y + torch.var_mean(m.conv.weight)[0], r"^conv\.weight is used elsewhere"),
        (
            lambda m, y: y + F.linear(input=X[0, 0, :, :1], weight=m.conv.bias[:, None]).sum(),
            r"^conv\.bias is used elsewhere",
        ),
        # What is not seen by name shows in the output.
        (lambda m, y: y * m.conv.weight.shape[0], "computes something else"),
        (lambda m, y: y * isinstance(m.conv, nn.Conv2d), "computes something else"),
        (lambda m, y: y.new_zeros(m.conv.weight.shape[0]), "computes something else"),
        (lambda m, y: [y] * m.conv.weight.shape[0], "computes something else"),
        (lambda m, y: y + np.random.rand(), "or it computes something else each time"),
        (
            lambda m, y: (isinstance(m.tied, nn.Conv2d) and m.tied(X), y)[1],
            "^tied is called in a way that a layer in its place isn't",
        ),
        (lambda m, y: y[m.conv.reset], "fails when its convolutions share nothing: .*'reset'"),
    ],
)
def test_a_convolution_that_is_not_only_called(use: Any, words: str) -> None:
    model = Reads(use)
    if "reset" in words:
        model.conv = type("WithMethod", (nn.Conv2d,), {"reset": property(lambda self: 0)})(
            2, 4, 3, padding=1
        )
    with pytest.raises(ValueError, match=words):
        without_sharing(model, X)


def test_an_output_that_hides_what_the_model_computes() -> None:
    """A head that is zero, as many are before training; outputs of other forms."""

    def use(model: Any, y: Tensor) -> Tensor:
        head: Tensor = model.head((y / model.conv.weight.shape[0]).mean((2, 3)))
        return head

    model = Reads(use)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match="computes something else"):
        without_sharing(model, X)

    # Of an even image, what goes into the last convolution is rounding alone.
    even = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4))
    even.append(nn.Conv2d(4, 3, 1))
    nn.init.ones_(even[3].bias)  # type: ignore[arg-type]
    without_sharing(even, torch.ones(1, 2, 5, 6))

    @dataclass
    class Output:
        y: Tensor

    with pytest.raises(ValueError, match="computes something else"):
        without_sharing(Reads(lambda model, y: Output(y * model.conv.weight.shape[0])), X)
    assert isinstance(without_sharing(Reads(lambda model, y: Output(y)), X)(X), Output)
    with pytest.raises(ValueError, match="puts out no tensor"):
        without_sharing(Reads(lambda model, y: SimpleNamespace(y=y)), X)


def test_what_takes_a_weights_type_alone_is_no_use_of_it() -> None:
    model = Reads(lambda m, y: y.type_as(m.conv.weight) + m.conv.weight.new_zeros(1))
    torch.testing.assert_close(without_sharing(model, X)(X), model(X))


def test_each_module_is_in_training_or_not_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout()).eval()
    model[2].train()
    for given in (model, create_feature_extractor(model, ["2"]).eval()):
        training = {name: module.training for name, module in given.named_modules()}
        converted = without_sharing(given, X)
        assert {name: module.training for name, module in converted.named_modules()} == training


def test_draws_in_a_forward_pass_are_the_same_and_leave_no_trace() -> None:
    model = Reads(lambda model, y: F.dropout(y, 0.5, training=True))
    state = torch.get_rng_state()
    without_sharing(model, X)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_keeps_what_it_computed() -> None:
    class Keeping(nn.Sequential):
        last: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = super().forward(x)
            return self.last

    model = nn.Sequential(Keeping(nn.Conv2d(2, 3, 3)))
    model(X)
    for convert in (without_sharing, still_shared):
        with pytest.raises(ValueError, match=r"^0\.last is a result of others and can't be copied"):
            convert(model, X)
    with torch.no_grad():
        model(X)
    assert isinstance(without_sharing(model, X)[0][0], SpatialFeatureLayer)  # type: ignore[index]


def set_corner(z: Tensor, x: Tensor) -> None:
    z[:, :, 2:7, 2:8] = x


def padded_by(write: Callable[[Tensor, Tensor], Any], x: Tensor) -> Tensor:
    z = torch.zeros(2, 2, 9, 10)
    write(z, x)
    return z


def test_what_is_still_shared() -> None:
    def use(model: Any, y: Tensor) -> Tensor:
        y = y + F.conv2d(X, model.tied.weight, padding=1)
        y = model.head(y.movedim(1, -1))
        return y

    converted = without_sharing(Reads(use), X)
    assert still_shared(converted, X) == {
        "norm.weight": "batch_norm", "norm.bias": "batch_norm", "tied.weight": "conv2d",
        "head.weight": "linear", "head.bias": "linear",
    }  # fmt: skip
    # One vector or vector of units an image is one place; rows of places are many.
    rows = Reads(lambda m, y: m.head(y.movedim(1, -1).reshape(-1, 4)).view(-1, 3))
    assert still_shared(rows, X)["head.weight"] == "linear"
    units = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(60), nn.Unflatten(1, (60, 1, 1)), nn.Conv2d(60, 4, 1),
        nn.Flatten(), nn.LayerNorm(4),
    )  # fmt: skip
    assert still_shared(units, X) == {}
    # What is computed of a weight alone, as of one that is standardised or has a mask.
    made = Reads(lambda m, y: F.conv2d(X, m.tied.weight - m.tied.weight.mean() * torch.ones(1)))
    assert still_shared(made, X)["tied.weight"] == "conv2d"
    # Of a constant that the image was written into.
    for write in (set_corner, lambda z, x: z.copy_(F.pad(x, (2, 2, 2, 2)))):
        padded = nn.Sequential(nn.Identity(), nn.Conv2d(2, 2, 3, bias=False))
        padded[0].forward = partial(padded_by, write)  # type: ignore[method-assign]
        assert still_shared(padded, X) == {"1.weight": "conv2d"}
    assert still_shared(Reads(lambda m, y: y), X, torch.tensor(1.0))["conv.weight"] == "conv2d"
    layer = SpatialFeatureLayer((2, 5, 6), 2, 3, bias="channel")
    assert still_shared(layer, X) == {"bias": "spatial_conv2d"}
    classifier = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2 * 3 * 4, 5))
    assert still_shared(classifier, X) == {"0.weight": "conv2d", "0.bias": "conv2d"}
    assert still_shared(without_sharing(classifier, X), X) == {}
    attending = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    found = still_shared(attending.train(), torch.randn(2, 6, 4))
    assert found["self_attn.in_proj_weight"] == "multi_head_attention_forward"
    assert found["linear1.weight"] == "linear"
    hidden = nn.Sequential(nn.Identity(), nn.Conv2d(2, 2, 3, bias=False))
    hidden.forward = hidden[0].forward  # type: ignore[method-assign]
    assert still_shared(hidden, X) == {"1.weight": "conv2d, not seen to run"}
