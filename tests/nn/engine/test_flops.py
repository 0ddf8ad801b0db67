"""PyTorch's own FLOP counter counts the layer, as the summary of a model does."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sfl.nn.functional import spatial_conv2d
from sfl.nn.models.networks import build_model
from sfl.nn.summary import summarize

# What PyTorch's own code calls.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def test_forward_and_both_gradients_by_hand() -> None:
    x, weight = torch.randn(5, 2, 4, 4), torch.randn(3, 2, 6, 2, 3, 2)
    with FlopCounterMode(display=False) as counter:
        spatial_conv2d(x.requires_grad_(), weight.requires_grad_()).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 5 * (3 * 2 * 6 * 2 * 2 * 3)


def test_right_after_the_layer_is_imported() -> None:
    program = """
import sfl, torch
from torch.utils.flop_counter import FlopCounterMode
layer = sfl.SpatialFeatureLayer((2, 4, 4), 6, 3)
with FlopCounterMode(display=False) as counter:
    layer(torch.ones(5, 2, 4, 4))
print(counter.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == str(2 * 5 * (2 * 2 * 6 * 3 * 3 * 2)), done.stderr


@pytest.mark.parametrize("name", ["RegularConvNet", "SpatialDenseNet", "SimpleModel"])
@pytest.mark.parametrize("layer", ["conv", "spatial"])
def test_a_models_summary_counts_the_same(name: str, layer: str) -> None:
    with torch.device("meta"):
        model = build_model(name, layer=layer, in_dimensions=(3, 16, 16), **SMALL.get(name, {}))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, 16, 16, device="meta"))
    assert summarize(model, (3, 16, 16)).flops == counter.get_total_flops()


@pytest.mark.parametrize("name", ["RegularConvNet", "SpatialDenseNet", "SimpleModel"])
@pytest.mark.parametrize("layer", ["conv", "spatial"])
def test_a_models_training_flops_are_those_of_a_step(name: str, layer: str) -> None:
    model = build_model(name, layer=layer, in_dimensions=(3, 16, 16), **SMALL.get(name, {}))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert 2 * summarize(model, (3, 16, 16)).training_flops == counter.get_total_flops()


SMALL: dict[str, dict[str, object]] = {
    "SpatialDenseNet": {"kernel_sizes": [3, 3, 2, 2, 1, 1], "hidden_sizes": [7]}
}
