"""What can't follow a rule is refused in words; torch.compile takes the rest in one graph."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sfl.learning.seeding import generator
from sfl.nn.audit import audit
from sfl.nn.feedback.attach import attach
from sfl.nn.feedback.rules import RULES
from sfl.nn.models.networks import build_model

DRAW = partial(generator, 0)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


class Named(nn.Module):
    """Calls its second layer by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(input=self.first(x))
        return y


class Scaled(Named):
    """Has weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Linear(4, 4), "one layer with weights sends no error back"),
        (tied, "1 and 0 have one weight; give each its own"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, padding_mode="circular")),
            "1: padding_mode 'circular', only zeros can be",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4)),
            "1: has no weights yet; call the model once first",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4))),
            "1: its weight is computed from others; remove that first",
        ),
        (Scaled, "the model: what a Scaled does with weights of its own is not known"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4)),
            "1: what a Conv1d does with weights of its own is not known, as it is of Conv2d, Lin",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1)),
            "1: what a MultiheadAttention does with weights of its own",
        ),
    ],
)
def test_what_cant_follow_a_rule_is_refused(make: Any, said: str) -> None:
    model = make()
    before = hooks(model)
    with pytest.raises(ValueError, match=said):
        attach(model, "fa", DRAW)
    assert hooks(model) == before


def hooks(model: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule 'bp' is none of backprop, fa, usf"):
        attach(build_model("SimpleModel"), "bp", DRAW)


@pytest.mark.parametrize(
    ("rule", "options", "said"),
    [
        ("fa", {"scale": "xavie"}, "scale 'xavie' is none of xavier, kaiming"),
        ("usf", {"scale": "xavie"}, "scale 'xavie' is none of xavier, kaiming"),
        ("fa", {"alignment": -1}, "alignment: a cosine from 0 to 1, not -1"),
        ("fa", {"alignment": 2}, "alignment: a cosine from 0 to 1, not 2"),
        ("mirror", {"every": 0}, "every 0, batches 1 and images 64 must be at least 1"),
        ("mirror", {"rate": 1.5}, "rate 1.5 above 0 and at most 1"),
    ],
)
def test_options_out_of_range_are_refused(rule: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        attach(Named(), rule, DRAW, **options)


@pytest.mark.parametrize("second", ["fa", "kp", "backprop"])
def test_a_model_has_one_rule(second: str) -> None:
    model = nn.Sequential(Named())
    attach(model, "fa", DRAW)
    before = hooks(model)
    with pytest.raises(ValueError, match=r"0\.first: has the rule fa already; make the model anew"):
        attach(model, second, DRAW)
    assert hooks(model) == before


def test_a_layer_may_be_called_by_keyword() -> None:
    model = Named()
    (weights,) = attach(model, "fa", DRAW).state().values()
    model(torch.ones(2, 4)).sum().backward()
    assert model.first.bias.grad is not None
    torch.testing.assert_close(model.first.bias.grad, 2 * weights.sum(dim=0))


class Uncalled(Named):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.first(x), self.second.weight)


def test_weights_that_are_used_without_calling_their_layer_are_refused() -> None:
    model = Uncalled()
    feedback = attach(model, "fa", DRAW)
    model(torch.ones(2, 4)).sum().backward()
    with pytest.raises(ValueError, match="second: is used otherwise than by calling it"):
        feedback.take_gradients()


class Backwards(Named):
    """Its readout comes first in the order of its modules."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(self.second(x)[:, [0, 1, 2, 0]])
        return y


@pytest.mark.parametrize(
    "model",
    [
        Backwards(),
        nn.Sequential(*2 * [nn.Linear(4, 4)], nn.Linear(4, 3)),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 3)),
    ],
)
def test_no_error_goes_through_the_weights_of_the_first_layer(model: nn.Module) -> None:
    feedback = attach(model, "fa", DRAW)
    with pytest.raises(ValueError, match="follows no rule, as the first layer with weights in the"):
        model(torch.ones(2, 4))
    with pytest.raises(ValueError, match="follows no rule, as the first layer with weights in the"):
        audit(nn.Sequential(nn.Flatten(), copy.deepcopy(model)), (4, 1, 1), rule="fa")
    with feedback.off():
        model(torch.ones(2, 4)).sum().backward()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_a_normalisation_keeps_its_own_scales(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 3))
    assert list(attach(model, "fa", DRAW).rules) == ["2"]


def test_without_gradients_a_rule_does_nothing() -> None:
    model, x = build_model("SimpleModel").eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        attach(model, "fa", DRAW)
        after = model(x)
    assert torch.equal(before, after) and not after.requires_grad


@pytest.mark.parametrize("layer", ["spatial", pytest.param("conv", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "rule", ["kp", *(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES if rule != "kp")]
)
def test_compiled_in_one_graph_it_learns_the_same(rule: str, layer: str) -> None:
    """Of two steps, as brsf's and mirror's weights change between them."""

    def gradients(compiled: bool) -> Tensor:
        torch.compiler.reset()
        torch.manual_seed(0)
        settings: dict[str, Any] = {"channels": [2], "dropout": 0.0, "dropout2d": 0.0}
        model = build_model("SimpleModel", layer=layer, hidden_sizes=[4], **settings)
        feedback = attach(model, rule, DRAW)
        if compiled:
            model.compile(backend="aot_eager", fullgraph=True)
        found = []
        for step in range(2):
            feedback.before_step(step)
            model.zero_grad()
            model(torch.randn(4, 3, 32, 32, generator=DRAW("x", step))).square().sum().backward()
            feedback.after_step(step)
            found += [weight.grad.flatten() for weight in model.parameters()]  # type: ignore[union-attr]
        return torch.cat(found)

    torch.testing.assert_close(gradients(True), gradients(False))
