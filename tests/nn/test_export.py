"""A network with the layer is traced and exported as one with convolutions is."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from sfl.nn.engine import BatchNormReLU, ReLUMaxPool2d
from sfl.nn.models.networks import build_model
from sfl.nn.spatial import SpatialFeatureLayer

# What PyTorch's own code calls.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:`torch.jit:FutureWarning",
    "ignore::torch.jit.TracerWarning",
)


class Net(nn.Module):
    """Each of our modules, and a view, as many networks have before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SpatialFeatureLayer((3, 9, 8), 4, (3, 2), stride=(1, 2), padding=(1, 0))
        self.norm = BatchNormReLU(4)
        self.second = SpatialFeatureLayer((4, 9, 4), 4, 3, bias="channel", padding="same", groups=2)
        self.pool = ReLUMaxPool2d()
        self.dense = SpatialFeatureLayer((4, 4, 2), 3, 2, storage="dense")
        self.classifier = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.norm(y.view(y.size(0), -1).view(-1, 4, 9, 4))
        y = self.pool(self.second(y))
        logits: Tensor = self.classifier(self.dense(y).view(-1, 9))
        return logits


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(5, 3, 9, 8))  # statistics of the normalisation
    return net.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 9, 8, generator=torch.Generator().manual_seed(1))


def test_fx_keeps_our_modules_whole(net: Net, x: Tensor) -> None:
    net.first.register_forward_hook(lambda module, inputs, y: 2 * y)  # runs once
    traced = torch.fx.symbolic_trace(net)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["first", "norm", "second", "pool", "dense", "classifier"]
    assert torch.equal(traced(x), net(x))
    trained = traced.train()(x)
    assert torch.equal(trained, net.train()(x))  # the mode isn't fixed, as it isn't PyTorch's


def test_torchvision_extracts_features_by_our_modules_names(net: Net, x: Tensor) -> None:
    assert {"first", "norm", "second", "pool", "dense"} < set(get_graph_node_names(net)[1])
    found = create_feature_extractor(net, ["first", "pool"])(x)
    first = net.first(x)
    assert torch.equal(found["first"], first)
    assert torch.equal(found["pool"], net.pool(net.second(net.norm(first))))


@pytest.mark.parametrize("name", ["first", "norm", "pool"])
def test_scripting_is_refused_in_words(net: Net, name: str) -> None:
    kind = type(net.get_submodule(name)).__name__
    for module in (net.get_submodule(name), nn.Sequential(net.get_submodule(name))):
        with pytest.raises(NotImplementedError, match=rf"script can't read {kind}: .*torch.export"):
            torch.jit.script(module)


def test_a_trace_needs_no_operator_of_ours(net: Net, x: Tensor) -> None:
    file = BytesIO()
    traced = torch.jit.trace(net, x)
    torch.jit.save(traced, file)
    assert "sfl::" not in str(traced.inlined_graph)
    file.seek(0)
    loaded = torch.jit.load(file)
    for batch in (x, torch.cat([x, x])):
        torch.testing.assert_close(loaded(batch), net(batch))


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of all our modules, or one of the command line; and the size of its images."""
    torch.manual_seed(0)
    if name == "net":
        return Net().eval(), (3, 9, 8)
    return build_model(name, layer="spatial", in_dimensions=(3, 12, 12)).eval(), (3, 12, 12)


@pytest.mark.parametrize(
    ("name", "strict"),
    [
        ("net", False),
        ("net", True),
        ("SimpleModel", False),
        pytest.param("SimpleModel", True, marks=pytest.mark.slow),
    ],
)
def test_what_torch_export_writes_needs_no_operator_of_ours(
    name: str, strict: bool, tmp_path: Path
) -> None:
    model, size = made(name)
    x, batch = torch.randn(3, *size), torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=strict)
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2")
    called = [node.target for node in loaded.graph.nodes if node.op == "call_function"]
    assert called
    assert {getattr(target, "namespace", "aten") for target in called} == {"aten"}
    more = torch.randn(7, *size)
    torch.testing.assert_close(loaded.module()(more), model(more))


@pytest.mark.parametrize("name", ["net", pytest.param("SimpleModel", marks=pytest.mark.slow)])
def test_onnx_computes_the_same(name: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, size = made(name)
    x, batch = torch.randn(3, *size), torch.export.Dim("batch", min=2)
    file = tmp_path / "net.onnx"
    torch.onnx.export(model, (x,), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    more = torch.randn(7, *size)
    (found,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(more), rtol=1e-5, atol=1e-5)


Placements = tuple[Any, Any, Any]


@pytest.mark.parametrize(
    "places",
    [(Shard(0), Replicate(), Replicate()), (Replicate(), Shard(2), Shard(0))],
    ids=["batch", "channels out"],
)
def test_distributed_tensors_take_pytorchs_own_operations(places: Placements) -> None:
    layer = SpatialFeatureLayer((4, 6, 6), 4, 3, padding=1, groups=2)
    x = torch.randn(2, 4, 6, 6)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined, no-untyped-call]
    try:
        mesh = init_device_mesh("cpu", (1,))
        tensors = (x, layer.weight, layer.bias)
        input_, *parameters = [
            distribute_tensor(tensor.detach(), mesh, [place]).requires_grad_()  # type: ignore[union-attr]
            for tensor, place in zip(tensors, places, strict=True)
        ]
        named = dict(zip(("weight", "bias"), parameters, strict=True))
        y = torch.func.functional_call(layer, named, (input_,))
        assert isinstance(y, DTensor)
        y.square().sum().backward()
        expected = layer(x)
        expected.square().sum().backward()
        torch.testing.assert_close(y.full_tensor(), expected)
        for ours, theirs in zip(parameters, layer.parameters(), strict=True):
            torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)  # type: ignore[union-attr]
    finally:
        dist.destroy_process_group()
