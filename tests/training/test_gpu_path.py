"""What would break on a GPU, on a machine without one.

FakeTensorMode computes shapes, dtypes and devices alone. There, as on a GPU, it is an error to mix
devices, and reading a number out of a tensor (which would make the host wait) is one too. The
autograd engine can't run there; a whole step runs on meta tensors.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.cuda.amp.common
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from sfl.data.augmentation import Augmentation
from sfl.data.batches import test_batches as batches_of
from sfl.data.batches import train_batches
from sfl.data.dataset import Split
from sfl.learning.learner import Learner
from sfl.learning.optimizers import build_optimizer
from sfl.learning.seeding import generator
from sfl.nn.models.networks import MODELS, build_model
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.training.evaluate import predict
from sfl.training.setup import Setup
from tests.training.tiny import SPATIAL, tiny_setup

CUDA = torch.device("cuda")
LAYERS: list[dict[str, Any]] = [
    {"layer": "conv"},
    {"layer": "spatial", "storage": "local"},
    {"layer": "spatial", "storage": "dense"},
]
LARGE = pytest.param("RegularConvNet", marks=pytest.mark.slow)  # the same modules, more of them
every_model = pytest.mark.parametrize(
    "name", [LARGE if name == "RegularConvNet" else name for name in MODELS]
)
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: " ".join(layer.values()))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors on "cuda" that hold nothing; autocast as on a GPU that knows bfloat16."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *arguments, **keywords: True)
    with FakeTensorMode():
        yield


def on_gpu(model: nn.Module) -> nn.Module:
    """A meta model with fake weights on the GPU, where drawing dense ones would take a minute."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
            setattr(module, name, nn.Parameter(empty))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA))
    return model


def meta_model(name: str, layer: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, **layer)


def images_on_gpu(count: int) -> Split:
    images = torch.empty(count, 3, 32, 32, dtype=torch.uint8, device=CUDA)
    return Split(images, torch.zeros(count, dtype=torch.int64, device=CUDA))


def setup_on(device: torch.device, precision: str, *changes: str, base: str = SPATIAL) -> Setup:
    """What a step reads of a Setup, for a device that isn't there."""
    return replace(tiny_setup(*changes, base=base), device=device, precision=precision)


def test_the_net_has_no_holes(gpu: None) -> None:
    """Mixed devices and host syncs do raise here: else the tests below would say nothing."""
    x = torch.empty(4, 10, device=CUDA)
    with pytest.raises(Exception, match="same device"):
        x + torch.ones(10)
    for read in (lambda: float(x.sum()), lambda: bool((x > 0).any()), lambda: x.sum().item()):
        with pytest.raises(DataDependentOutputException):
            read()
    with pytest.raises(DynamicOutputShapeException):
        x[x > 0]


@every_layer
@every_model
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_forward_and_loss(name: str, layer: dict[str, Any], precision: str, request: Any) -> None:
    setup, model = setup_on(CUDA, precision), meta_model(name, layer)
    request.getfixturevalue("gpu")
    model = on_gpu(model)
    split = images_on_gpu(4)
    mean = torch.tensor([0.5] * 3, device=CUDA)
    ((images, labels),) = batches_of(split, batch_size=4, mean=mean, std=mean)
    loss, logits = learner_of(setup, model).forward(images, labels)
    assert loss.device.type == logits.device.type == "cuda"
    assert loss.dtype == torch.float32
    assert logits.dtype == (torch.float32 if precision == "float32" else torch.bfloat16)
    assert logits.shape == (4, 10)


@pytest.mark.parametrize(
    "augment", [{"crop_padding": 4, "flip": True}, {"crop_padding": 0, "flip": False}]
)
def test_augmentation(gpu: None, augment: dict[str, Any]) -> None:
    mean, std = torch.tensor([0.5] * 3), torch.tensor([0.2] * 3, device=CUDA)
    batches = train_batches(
        images_on_gpu(70),
        batch_size=32,
        mean=mean,
        std=std,
        classes=10,
        augment=Augmentation(**augment),
        draw=partial(generator, 0),
        epoch=1,
    )
    found = [
        (tuple(images.shape), images.device.type, labels.device.type) for images, labels in batches
    ]
    assert found == [((size, 3, 32, 32), "cuda", "cuda") for size in (32, 32, 6)]


@every_layer
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_evaluation(layer: dict[str, Any], precision: str, request: Any) -> None:
    model = meta_model("SimpleModel", layer)
    request.getfixturevalue("gpu")
    mean = torch.tensor([0.5] * 3, device=CUDA)
    batches = batches_of(images_on_gpu(70), batch_size=32, mean=mean, std=mean)
    predictions, _, loss = predict(on_gpu(model), batches, CUDA, precision)
    assert predictions.shape == (70,) and predictions.device.type == "cuda"
    assert loss.device.type == "cuda" and loss.dtype == torch.float64


@pytest.mark.parametrize("init", ["receptive_field", "notebook"])
@pytest.mark.parametrize("storage", ["local", "dense"])
def test_initialisation(gpu: None, storage: Any, init: Any) -> None:
    layer = SpatialFeatureLayer((2, 5, 4), 3, 3, padding=1, storage=storage, init=init, device=CUDA)
    assert layer.weight.device.type == "cuda"
    assert layer(torch.empty(4, 2, 5, 4, device=CUDA)).device.type == "cuda"


# --- a whole step, on meta tensors


def learner_of(setup: Setup, model: nn.Module) -> Learner:
    """As for a run on the setup's device, of a model that holds nothing."""
    optimizer = build_optimizer(model, **setup.config.optimizer.model_dump(exclude={"clip_norm"}))
    learner = Learner(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        precision=setup.precision,
        clip_norm=setup.config.optimizer.clip_norm,
    )
    for group in optimizer.param_groups:
        group["fused"] = False  # there is no fused form for meta tensors
    # Only fused forms skip by it.
    optimizer.found_inf = None  # type: ignore[attr-defined]
    return learner


def meta_step(setup: Setup, model: nn.Module) -> None:
    learner = learner_of(setup, model)
    with torch.device("meta"):
        images, labels = torch.empty(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
    model.train()
    loss, hits = learner.step(images, labels, lr=0.1)
    assert loss.is_meta and hits.is_meta
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.is_meta
        assert parameter.grad.shape == parameter.shape


@every_layer
@every_model
def test_a_whole_step(name: str, layer: dict[str, Any]) -> None:
    setup = setup_on(torch.device("meta"), "float32")
    meta_step(setup, meta_model(name, layer))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("clip_norm", ["null", "1.0"])
def test_a_whole_step_of_every_optimizer(optimizer: str, clip_norm: str) -> None:
    changes = [f"optimizer.name={optimizer}", f"optimizer.clip_norm={clip_norm}"]
    setup = setup_on(torch.device("meta"), "float32", *changes)
    meta_step(setup, meta_model("SimpleModel", {}))


class Asking(nn.Module):
    """Looks at its numbers on the host, as no layer may."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3072, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        if float(x.max()) > 0:
            x = x + 1
        logits: torch.Tensor = self.linear(x)
        return logits


def test_a_layer_that_waits_for_its_device_is_noticed(request: Any) -> None:
    with torch.device("meta"):
        model = Asking()
    setup = setup_on(torch.device("meta"), "float32")
    with pytest.raises(RuntimeError, match="meta"):
        meta_step(setup, model)
    request.getfixturevalue("gpu")
    images, labels = torch.empty(4, 3, 32, 32, device=CUDA), torch.zeros(4, device=CUDA).long()
    with pytest.raises(DataDependentOutputException):
        learner_of(replace(setup, device=CUDA), on_gpu(model)).forward(images, labels)
