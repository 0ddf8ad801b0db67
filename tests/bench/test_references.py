"""What we measure against computes what we compute: else a ratio would say nothing."""

import pytest
import torch
import torch.nn.functional as F

from sfl.bench import references
from sfl.nn.functional import spatial_conv2d
from sfl.nn.models.networks import build_model
from sfl.nn.storage import local_to_dense
from sfl.nn.window import window_of


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("form", [references.unfold_bmm, references.unfold_einsum])
def test_other_forms_of_the_layer(form: object, padding: int) -> None:
    _, positions = window_of((6, 5), 3, 1, padding)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    weight = torch.randn(*positions, 4, 3, 3, 2, dtype=torch.float64)
    expected = spatial_conv2d(x, weight, padding=padding)
    torch.testing.assert_close(form(x, weight.movedim(-1, 3), padding), expected)  # type: ignore[operator]


def test_the_dense_form() -> None:
    window, positions = window_of((6, 5), 3)
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    weight = torch.randn(*positions, 4, 3, 3, 2, dtype=torch.float64)
    dense = local_to_dense(weight, (2, 6, 5), window)
    torch.testing.assert_close(references.dense_tensordot(x, dense, 0), spatial_conv2d(x, weight))


@pytest.mark.parametrize("name", ["SimpleModel", "RegularConvNet"])
def test_the_notebooks_networks(name: str) -> None:
    """As many weights, in the same order, and the same numbers from the same ones."""
    layer = {"layer": "spatial", "storage": "dense"} if name == "SimpleModel" else {}
    ours, theirs = build_model(name, **layer).eval(), references.notebook_model(name).eval()
    state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-4)


def test_the_notebooks_dense_network_has_its_weights() -> None:
    with torch.device("meta"):
        model = references.notebook_model("SpatialDenseNet")
        assert F.relu(model(torch.empty(1, 3, 32, 32))).shape == (1, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 225_543_622
