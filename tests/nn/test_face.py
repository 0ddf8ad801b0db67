"""The layer wherever a Conv2d can be: what people do with one, done with ours."""

import copy
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import prune

from sfl.nn.engine import batch_innermost, reference_engine
from sfl.nn.functional import spatial_conv2d
from sfl.nn.spatial import SpatialFeatureLayer


@pytest.mark.parametrize("engine", ["chosen", "reference"])
@pytest.mark.parametrize("storage", ["local", "dense"])
def test_an_output_lies_in_memory_as_its_input_does(engine: str, storage: str) -> None:
    layer = SpatialFeatureLayer((3, 6, 5), 4, 3, stride=2, padding=1, storage=storage)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 6, 5)
    with reference_engine() if engine == "reference" else nullcontext():
        y = layer(x)
        assert torch.equal(y.view(2, -1), y.flatten(1))  # as many networks do before a classifier
        if storage == "local":
            last = layer(x.to(memory_format=torch.channels_last))
            assert last.is_contiguous(memory_format=torch.channels_last)
            innermost = layer(batch_innermost(x))
            assert innermost.permute(2, 3, 1, 0).is_contiguous()
            for found in (last, innermost):
                torch.testing.assert_close(found, y)


@pytest.mark.parametrize("engine", ["chosen", "reference"])
def test_a_photograph_and_slices_lie_as_after_a_convolution(engine: str) -> None:
    """As Pillow and NumPy have one, a crop, a half of the channels: PyTorch goes by the steps."""
    conv = nn.Conv2d(3, 4, 3)
    photograph = torch.from_numpy(np.ones((6, 5, 3), np.float32)).permute(2, 0, 1)
    last = torch.randn(4, 6, 8, 9).to(memory_format=torch.channels_last)
    step_0 = torch.from_numpy(np.ones((6, 5, 3), np.float32)[None]).permute(0, 3, 1, 2)
    assert step_0.stride(0) == 0  # of NumPy
    given = (photograph[None], photograph, step_0, last[:, :3, 1:7, 2:7], last[::2, 3:, :6, :5])
    with reference_engine() if engine == "reference" else nullcontext():
        for x in given:
            layer = SpatialFeatureLayer.from_conv(conv, (3, 6, 5))
            assert layer(x).stride() == conv(x).stride()
            torch.testing.assert_close(layer(x), conv(x))


def test_it_has_conv2ds_names() -> None:
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2)
    layer = SpatialFeatureLayer((4, 6, 5), 6, (3, 2), stride=2, padding=(1, 0), groups=2)
    for name in (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
        "padding_mode",
    ):  # fmt: skip
        assert getattr(layer, name) == getattr(conv, name)
    names = list(inspect.signature(conv.forward).parameters)
    assert list(inspect.signature(layer.forward).parameters) == names == ["input"]
    x = torch.randn(2, 4, 6, 5)
    y = spatial_conv2d(
        input=x, weight=layer.weight, bias=layer.bias, stride=2, padding=(1, 0), groups=2
    )
    assert torch.equal(layer(input=x), y)


def test_it_takes_conv2ds_arguments_in_its_order() -> None:
    ours = list(inspect.signature(SpatialFeatureLayer).parameters)
    theirs = list(inspect.signature(nn.Conv2d).parameters)
    assert ours[1:9] == theirs[1:9]  # before them in_dimensions, in place of in_channels
    given: tuple[Any, ...] = (6, (3, 2), 2, (1, 0), 1, 2, False, "zeros")
    layer, x = SpatialFeatureLayer((4, 6, 5), *given), torch.randn(2, 4, 6, 5)
    assert layer(x).shape == nn.Conv2d(4, *given)(x).shape and layer.bias is None


@pytest.mark.parametrize("size", [torch.Size([3, 6, 5]), torch.tensor([3, 6, 5]), [3, 6, 5]])
def test_numbers_of_other_libraries(size: Any) -> None:
    three, one = np.int64(3), np.int64(1)
    for bias in (None, 0, False, np.bool_(False), True, np.bool_(True)):
        layer = SpatialFeatureLayer(size, 4, three, [one, 1], (one, (0, one)), one, bias=bias)  # type: ignore[arg-type]
        assert (layer.bias is None) == (not bias)
        settings = (layer.in_dimensions, layer.kernel_size, layer.stride, layer.padding)
        assert settings == ((3, 6, 5), (3, 3), (1, 1), (1, (0, 1)))
        assert {type(number) for each in settings[:3] for number in each} == {int}
        assert layer(torch.randn(2, 3, 6, 5)).shape == (2, 4, *layer.out_dimensions[1:])


@pytest.mark.parametrize("storage", ["local", "dense"])
def test_what_is_no_image(storage: Any) -> None:
    layer = SpatialFeatureLayer((3, 6, 5), 4, 3, storage=storage)
    with pytest.raises(TypeError, match=r"^input is a list, expected a tensor"):
        layer([torch.randn(2, 3, 6, 5)])
    with pytest.raises(ValueError, match=r"^input is torch.sparse_coo, .* give input.to_dense()"):
        layer(torch.randn(2, 3, 6, 5).to_sparse())


# --- what people do with a Conv2d's weights


def made(**settings: Any) -> SpatialFeatureLayer:
    torch.manual_seed(0)
    return SpatialFeatureLayer((3, 6, 5), 4, 3, **settings)


def test_parameters_as_one_vector_and_back() -> None:
    layer, other = made(padding=1), made(padding=1)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    assert vector.shape == (layer.weight.numel() + 4 * 6 * 5,)
    nn.utils.vector_to_parameters(vector * 2, other.parameters())
    assert torch.equal(other.weight, layer.weight * 2)


@pytest.mark.parametrize("method", [prune.l1_unstructured, prune.random_unstructured])
def test_pruning(method: Callable[..., Any]) -> None:
    layer, x = made(), torch.randn(2, 3, 6, 5)
    largest = layer.weight.abs().max()
    method(layer, "weight", amount=0.75)
    kept = layer.weight != 0
    assert kept.sum() == layer.weight.numel() // 4
    layer(x).sum().backward()
    assert layer.weight_orig.grad[kept].all() and not layer.weight_orig.grad[~kept].any()  # type: ignore[index, union-attr, operator]
    prune.remove(layer, "weight")
    assert torch.equal(layer.weight != 0, kept) and layer.weight.is_leaf
    assert method is prune.random_unstructured or layer.weight.abs().max() == largest


def test_lbfgs_finds_weights_that_solve_a_linear_problem() -> None:
    layer, x, y = made(), torch.randn(2, 3, 6, 5), torch.randn(2, 4, 4, 3)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = (layer(x) - y).square().mean()
        value.backward()
        return value

    assert loss() > 1
    optimizer.step(loss)
    assert loss() < 1e-4


def test_sparse_adam_says_that_gradients_are_dense() -> None:
    layer = made()
    layer(torch.randn(2, 3, 6, 5)).sum().backward()
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        torch.optim.SparseAdam(layer.parameters()).step()


def test_init_functions_take_the_weights_of_one_position() -> None:
    """(O, kh, kw, C) of weight, (O, C, kh, kw) of filters(): both are views."""
    layer = made()
    for weight in layer.weight.flatten(0, 1):
        nn.init.orthogonal_(weight)
    rows = layer.filters()[3, 2].flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(4))
    for filters in layer.filters().flatten(0, 1):
        nn.init.kaiming_uniform_(filters, nonlinearity="relu")
    bound = (6 / 27) ** 0.5
    assert 0.95 * bound < layer.weight.abs().max() <= bound


def test_safetensors_keep_it(tmp_path: Path) -> None:
    layer = made(padding=1)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    with torch.device("meta"):
        other = made(padding=1)
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    x = torch.randn(2, 3, 6, 5)
    assert torch.equal(other(x), layer(x))


def test_fully_shard_with_one_process(tmp_path: Path) -> None:
    model = nn.Sequential(made(padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(120, 2))
    plain, x = copy.deepcopy(model), torch.randn(2, 3, 6, 5)
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for module in (model[0], model):
            fully_shard(module, mesh=mesh)
        for each in (model, plain):
            optimizer = torch.optim.SGD(each.parameters(), 0.1, momentum=0.9)
            for _ in range(2):
                optimizer.zero_grad()
                each(x).square().sum().backward()
                optimizer.step()
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert isinstance(ours, DTensor)
            torch.testing.assert_close(ours.full_tensor(), theirs.data)
    finally:
        dist.destroy_process_group()
