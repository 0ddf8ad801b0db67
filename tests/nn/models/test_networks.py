"""The three networks, against the notebook's own modules, and what each setting does to them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfl.nn.engine import BatchNormReLU, ReLUMaxPool2d
from sfl.nn.engine.memory_order import is_batch_innermost
from sfl.nn.models.graphs import GRAPHS
from sfl.nn.models.networks import MODELS, build_model
from sfl.nn.norm import UnitBatchNormReLU
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.storage import local_to_dense

# --- the notebook's modules, sizes as arguments


class NotebookLayer(nn.Module):
    def __init__(
        self, in_dimensions: tuple[int, int, int], out_channels: int, kernel_size: tuple[int, int]
    ) -> None:
        super().__init__()
        _, height, width = in_dimensions
        out = (out_channels, height - kernel_size[0] + 1, width - kernel_size[1] + 1)
        self.weight = nn.Parameter(torch.empty(*in_dimensions, *out))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tensordot(x, self.weight, dims=([1, 2, 3], [0, 1, 2]))  # type: ignore[no-untyped-call]
        return x + self.bias


class NotebookNet(nn.Module):
    def __init__(self, conv_layer: nn.Sequential, fc_layer: nn.Sequential) -> None:
        super().__init__()
        self.conv_layer, self.fc_layer = conv_layer, fc_layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_layer(x)
        x = x.reshape(x.size(0), -1)
        logits: Tensor = self.fc_layer(x)
        return logits


def notebook_regular() -> NotebookNet:
    conv_layer = nn.Sequential(
        nn.Conv2d(in_channels=3, out_channels=32, kernel_size=3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels=32, out_channels=64, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Conv2d(in_channels=64, out_channels=128, kernel_size=3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels=128, out_channels=128, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Dropout2d(p=0.05),
        nn.Conv2d(in_channels=128, out_channels=256, kernel_size=3, padding=1),
        nn.BatchNorm2d(256),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels=256, out_channels=256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
    )
    fc_layer = nn.Sequential(
        nn.Dropout(p=0.1),
        nn.Linear(4096, 1024),
        nn.ReLU(inplace=True),
        nn.Linear(1024, 512),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.1),
        nn.Linear(512, 10),
    )
    return NotebookNet(conv_layer, fc_layer)


def notebook_spatial(widths: Sequence[int] = (10, 20, 32, 64, 128, 256)) -> NotebookNet:
    a, b, c, d, e, f = widths
    conv_layer = nn.Sequential(
        NotebookLayer((3, 32, 32), a, kernel_size=(3, 3)),
        nn.BatchNorm2d(a),
        nn.ReLU(inplace=True),
        NotebookLayer((a, 30, 30), b, kernel_size=(3, 3)),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        NotebookLayer((b, 14, 14), c, kernel_size=(3, 3)),
        nn.BatchNorm2d(c),
        nn.ReLU(inplace=True),
        NotebookLayer((c, 12, 12), d, kernel_size=(3, 3)),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Dropout2d(p=0.05),
        NotebookLayer((d, 5, 5), e, kernel_size=(2, 2)),
        nn.BatchNorm2d(e),
        nn.ReLU(inplace=True),
        NotebookLayer((e, 4, 4), f, kernel_size=(2, 2)),
        nn.ReLU(inplace=True),
    )
    fc_layer = nn.Sequential(
        nn.Dropout(p=0.1),
        nn.Linear(9 * f, 512),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.1),
        nn.Linear(512, 10),
    )
    return NotebookNet(conv_layer, fc_layer)


def notebook_simple() -> NotebookNet:
    return NotebookNet(
        nn.Sequential(NotebookLayer((3, 32, 32), 5, (3, 3))),
        nn.Sequential(nn.Linear(5 * 30 * 30, 10)),
    )


def copy_weights(model: nn.Module, notebook: nn.Module) -> None:
    """Puts ours into the notebook's; local weights become dense ones."""
    ours = []
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            weights = parameter.detach()
            if (
                isinstance(module, SpatialFeatureLayer)
                and module.storage == "local"
                and parameter is module.weight
            ):
                weights = local_to_dense(weights, module.in_dimensions, module.window)
            ours.append(weights)
    theirs = list(notebook.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    with torch.no_grad():
        for source, target in zip(ours, theirs, strict=True):
            target.copy_(source)


SMALL = (2, 3, 2, 3, 2, 3)


@pytest.mark.parametrize(
    ("name", "settings", "notebook"),
    [
        ("RegularConvNet", {}, notebook_regular),
        ("SimpleModel", {}, notebook_simple),
        ("SimpleModel", {"storage": "dense"}, notebook_simple),
        ("SpatialDenseNet", {"channels": SMALL}, lambda: notebook_spatial(SMALL)),
        (
            "SpatialDenseNet",
            {"channels": SMALL, "storage": "dense", "init": "notebook"},
            lambda: notebook_spatial(SMALL),
        ),
    ],
)
def test_the_graph_is_the_notebooks(name: str, settings: dict[str, Any], notebook: Any) -> None:
    torch.manual_seed(0)
    model, theirs = build_model(name, **settings), notebook()
    copy_weights(model, theirs)
    x = torch.randn(4, 3, 32, 32)
    for training in (True, False):  # training first: it moves the running means of BatchNorm
        outputs = []
        for net in (model, theirs):
            net.train(training)
            torch.manual_seed(1)  # the same dropout
            outputs.append(net(x))
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    x.requires_grad_()
    gradients = [torch.autograd.grad(net(x).square().sum(), x)[0] for net in (model, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def kinds(model: nn.Module) -> list[str]:
    """Kind and settings of each layer; the notebook's and our layer without sharing alike.

    Whether a ReLU works in place changes no number, and isn't told.
    """
    leaves = [m for m in model.modules() if not list(m.children())]
    found = []
    for leaf in leaves:
        if isinstance(leaf, (NotebookLayer, SpatialFeatureLayer)):
            found.append(f"dense {tuple(leaf.weight.shape)}")
        elif isinstance(leaf, BatchNormReLU):
            found += [repr(leaf).replace("BatchNormReLU", "BatchNorm2d"), "ReLU()"]
        elif isinstance(leaf, ReLUMaxPool2d):
            found += ["ReLU()", repr(leaf).replace("ReLUMaxPool2d", "MaxPool2d")]
        elif not isinstance(leaf, nn.Flatten):  # a reshape in the notebook's forward()
            found.append(repr(leaf).replace("ReLU(inplace=True)", "ReLU()"))
    return found


def test_spatial_dense_net_has_the_notebooks_layers_at_full_size() -> None:
    with torch.device("meta"):
        model, notebook = build_model("SpatialDenseNet", storage="dense"), notebook_spatial()
    assert kinds(model) == kinds(notebook)
    assert [tuple(p.shape) for p in model.parameters()] == [
        tuple(p.shape) for p in notebook.parameters()
    ]


@pytest.mark.parametrize("layer", ["conv", "spatial"])
def test_norm_changes_the_normalisation_alone(layer: str) -> None:
    """The other modules keep their names and their weights' shapes."""
    with torch.device("meta"):
        models = {
            norm: build_model("SpatialDenseNet", layer=layer, norm=norm)
            for norm in ("channel", "position", "none")
        }
    places = ("features.1", "features.7", "features.14")
    kinds = {n: {type(m.get_submodule(p)) for p in places} for n, m in models.items()}
    assert kinds == {"channel": {BatchNormReLU}, "position": {UnitBatchNormReLU}, "none": {nn.ReLU}}
    states = [
        {k: v.shape for k, v in m.state_dict().items() if not k.startswith(places)}
        for m in models.values()
    ]
    assert states[0] == states[1] == states[2]
    assert models["position"].get_parameter("features.1.weight").shape == (30, 30, 10)
    normalised = {m(torch.empty(2, 3, 32, 32, device="meta")).shape for m in models.values()}
    assert normalised == {(2, 10)}


@pytest.mark.parametrize("layer", ["conv", "spatial"])
def test_modules_are_named_as_if_nothing_were_fused(layer: str) -> None:
    """So that weights that were saved keep their names."""
    with torch.device("meta"):
        regular = build_model("RegularConvNet", layer=layer)
        spatial = build_model("SpatialDenseNet", layer=layer)
    names = [name for name, _ in regular.features.named_children()]  # type: ignore[union-attr]
    assert names == ["0", "1", "3", "4", "6", "7", "9", "10", "12", "13", "14", "16", "17"]
    names = [name for name, _ in spatial.features.named_children()]  # type: ignore[union-attr]
    assert names == ["0", "1", "3", "4", "6", "7", "9", "10", "12", "13", "14", "16", "17"]
    assert "(1): BatchNormReLU(32" in str(regular) and "(4): ReLUMaxPool2d(" in str(regular)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("RegularConvNet", {}, 5_852_170),
        ("SimpleModel", {"storage": "dense"}, 13_873_510),
        ("SimpleModel", {}, 171_010),
        ("SpatialDenseNet", {"storage": "dense"}, 225_543_622),
        ("SpatialDenseNet", {}, 7_256_446),
    ],
)
def test_parameter_counts(name: str, settings: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = build_model(name, **settings)
    assert sum(p.numel() for p in model.parameters()) == expected


# --- twins


def graph(model: nn.Module) -> list[str]:
    """Every layer with its output's shape; what shares weights and what doesn't, alike."""
    found: list[str] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sharing = isinstance(module, (nn.Conv2d, SpatialFeatureLayer))
        found.append(f"{'layer' if sharing else module} → {tuple(output.shape)}")

    for leaf in model.modules():
        if not list(leaf.children()):
            leaf.register_forward_hook(hook)
    model(torch.empty(2, 3, 32, 32, device="meta"))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_twins_differ_in_sharing_alone(name: str) -> None:
    with torch.device("meta"):
        twins = {layer: build_model(name, layer=layer) for layer in ("conv", "spatial")}
    assert graph(twins["conv"]) == graph(twins["spatial"])
    counts = [sum(isinstance(m, nn.Conv2d) for m in t.modules()) for t in twins.values()]
    assert counts == [len(GRAPHS[name]["channels"]), 0]


@pytest.mark.parametrize("name", ["RegularConvNet", "SpatialDenseNet"])
def test_twins_with_equal_filters_compute_the_same(name: str) -> None:
    settings: dict[str, Any] = {"channels": SMALL, "hidden_sizes": [8]}
    conv = build_model(name, layer="conv", **settings).eval()
    spatial = build_model(name, layer="spatial", **settings).eval()
    with torch.no_grad():
        for ours, theirs in zip(spatial.modules(), conv.modules(), strict=True):
            if isinstance(ours, SpatialFeatureLayer):
                assert isinstance(theirs, nn.Conv2d) and theirs.bias is not None
                assert ours.bias is not None
                ours.weight.copy_(theirs.weight.movedim(1, -1).expand_as(ours.weight))
                ours.bias.copy_(theirs.bias.view(-1, 1, 1).expand_as(ours.bias))
            elif isinstance(ours, nn.Linear):
                ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(spatial(x), conv(x), rtol=1e-4, atol=1e-5)


# --- settings


def layers(model: nn.Module, kind: type) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", ["RegularConvNet", "SpatialDenseNet", "SimpleModel"])
def test_every_setting_has_an_effect(name: str) -> None:
    count = 1 if name == "SimpleModel" else 6
    with torch.device("meta"):
        model = build_model(
            name,
            in_dimensions=(1, 28, 30),
            classes=7,
            layer="spatial",
            storage="dense",
            init="notebook",
            channels=list(range(2, 2 + count)),
            kernel_sizes=[[1, 3]] + [1] * (count - 1),
            hidden_sizes=[11, 12],
            dropout=0.25,
            dropout2d=0.5,
            norm=None if count == 1 else "position",
        )
    spatial = layers(model, SpatialFeatureLayer)
    assert [layer.out_dimensions[0] for layer in spatial] == list(range(2, 2 + count))
    assert spatial[0].in_dimensions == (1, 28, 30)
    assert [layer.kernel_size for layer in spatial] == [(1, 3)] + [(1, 1)] * (count - 1)
    assert {layer.storage for layer in spatial} == {"dense"}
    assert {layer.init for layer in spatial} == {"notebook"}
    assert [linear.out_features for linear in layers(model, nn.Linear)] == [11, 12, 7]
    assert [dropout.p for dropout in layers(model, nn.Dropout)] == [0.25, 0.25]
    assert [dropout.p for dropout in layers(model, nn.Dropout2d)] == [0.5]
    norms = [layer.dimensions for layer in layers(model, UnitBatchNormReLU)]
    assert norms == [layer.out_dimensions for layer in spatial[0:count:2]][: 3 * (count > 1)]
    assert model(torch.empty(2, 1, 28, 30, device="meta")).shape == (2, 7)


def test_a_conv_layer_takes_kernel_sizes_and_channels_too() -> None:
    with torch.device("meta"):
        model = build_model("SimpleModel", layer="conv", channels=[4], kernel_sizes=[(2, 5)])
    (conv,) = layers(model, nn.Conv2d)
    assert conv.weight.shape == (4, 3, 2, 5)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, (3, 1)])
def test_regular_conv_net_pads_so_that_odd_kernels_keep_the_size(kernel_size: Any) -> None:
    with torch.device("meta"):
        for layer in ("conv", "spatial"):
            model = build_model("RegularConvNet", layer=layer, kernel_sizes=[kernel_size] * 6)
            assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
            assert layers(model, nn.Linear)[0].in_features == 256 * 4 * 4


@pytest.mark.parametrize("layer", ["conv", "spatial"])
def test_init_of_twins_is_alike(layer: str) -> None:
    torch.manual_seed(0)
    model = build_model("SimpleModel", layer=layer, channels=[64])
    (made,) = [m for m in model.modules() if isinstance(m, (nn.Conv2d, SpatialFeatureLayer))]
    bound = (6 / 27) ** 0.5
    assert 0.98 * bound < made.weight.abs().max() <= bound
    assert made.bias is not None and not made.bias.any()
    torch.manual_seed(0)
    notebook = build_model("SimpleModel", layer=layer, channels=[64], init="notebook")
    (made,) = [m for m in notebook.modules() if isinstance(m, (nn.Conv2d, SpatialFeatureLayer))]
    bound = (1 / 27) ** 0.5 if layer == "conv" else (6 / 9) ** 0.5  # conv: PyTorch's default
    assert 0.98 * bound < made.weight.abs().max() <= bound
    assert made.bias is not None and made.bias.any()


def test_none_means_the_models_own_default() -> None:
    with torch.device("meta"):
        model = build_model("SimpleModel", layer=None, storage=None, channels=None, dropout=None)
    assert kinds(model)[0] == "dense (30, 30, 5, 3, 3, 3)"


@pytest.mark.parametrize("storage", ["local", "dense", None])
def test_local_layers_are_given_the_order_that_they_are_fastest_with(storage: Any) -> None:
    """From the entrance to the classifier."""
    layer = "conv" if storage is None else "spatial"
    model = build_model("SpatialDenseNet", layer=layer, storage=storage, channels=SMALL)
    found = []
    for module in model.features.children():  # type: ignore[union-attr]
        module.register_forward_hook(
            lambda module, inputs, y: found.append(is_batch_innermost(inputs[0]))
        )
    model(torch.randn(4, 3, 32, 32))
    assert found == [storage == "local"] * 13


# --- errors


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("ResNet", {}, ["'ResNet'", "RegularConvNet, SpatialDenseNet, SimpleModel"]),
        ("SimpleModel", {"channels": [1, 2]}, ["channels: 2 given", "1 layer"]),
        ("SpatialDenseNet", {"kernel_sizes": [3]}, ["kernel_sizes: 1 given", "6 layers"]),
        ("SimpleModel", {"layer": "conv", "storage": "dense"}, ["storage", "layer: spatial"]),
        ("SimpleModel", {"layer": "convolution"}, ["'convolution'", "conv, spatial"]),
        ("SimpleModel", {"layer": "conv", "init": "zeros"}, ["'zeros'", "receptive_field"]),
        ("SimpleModel", {"norm": "position"}, ["norm: position", "normalises nothing"]),
        ("SpatialDenseNet", {"norm": "batch"}, ["'batch'", "channel, position, none"]),
        ("SimpleModel", {"storage": "sparse"}, ["'sparse'", "local, dense"]),
        ("SimpleModel", {"kernel_sizes": [33]}, ["33", "32"]),
        ("SimpleModel", {"layer": "conv", "kernel_sizes": [33]}, ["33", "32"]),
        ("SpatialDenseNet", {"in_dimensions": (3, 6, 6)}, ["3", "1"]),
        ("RegularConvNet", {"in_dimensions": (3, 6, 6)}, ["2×2 pooling", "1×1"]),
    ],
)
def test_a_model_that_cannot_be(name: str, settings: dict[str, Any], words: list[str]) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r".") as error:
        build_model(name, **settings)
    for word in words:
        assert word in str(error.value)


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="chanels"):
        build_model("SimpleModel", chanels=[3])


@pytest.mark.parametrize("name", MODELS)
def test_a_models_keywords_are_its_settings(name: str) -> None:
    """Their defaults are those of GRAPHS, which configs are resolved with, too."""
    with torch.device("meta"):
        own = {"init": "receptive_field", "storage": None, "same_start": False}
        written = build_model(name, **GRAPHS[name], **own)
        assert str(written) == str(build_model(name))
