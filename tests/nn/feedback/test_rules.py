"""Each rule against plain matrix products, in float64: every gradient, for every kind of layer."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfl.learning.seeding import generator
from sfl.nn.engine import batch_innermost
from sfl.nn.feedback.attach import Feedback, attach
from sfl.nn.feedback.rules import RULES, UniformSigns
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.weighted import Weighted, weighted_layers
from tests.nn.feedback.plain import PlainLayer, gradients

DRAW = partial(generator, 0)
SIZE = (4, 5, 4)  # what the layer in the middle sees
STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"padding": 1},
    "strided": {"stride": (2, 1), "padding": (1, 2)},
    "dilated": {"dilation": (1, 2), "padding": (0, 2), "stride": 2},
    "grouped": {"groups": 2, "padding": 1, "stride": 2},
}


def middle(kind: str, steps: str) -> nn.Module:
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SIZE), 7))
    if kind == "conv":
        return nn.Conv2d(SIZE[0], 4, (3, 2), **STEPS[steps])
    storage: Any = kind
    made = SpatialFeatureLayer(SIZE, 4, (3, 2), storage=storage, **STEPS[steps])
    if storage == "dense":  # as after a step: a weight from every input
        nn.init.normal_(made.weight, std=0.1)
    return made


KINDS = [("linear", "plain"), *((k, s) for k in ("conv", "local", "dense") for s in STEPS)]


class Case:
    """A net of three layers with the kind in the middle, and a batch."""

    def __init__(self, kind: str, steps: str, first: nn.Module | None = None) -> None:
        torch.manual_seed(1)
        self.kind = kind
        start = first or nn.Conv2d(2, SIZE[0], 3, padding=1)
        self.x = torch.randn(3, 2, *SIZE[1:], dtype=torch.float64)
        body = nn.Sequential(start, nn.ReLU(inplace=True), middle(kind, steps)).double()
        with torch.no_grad():
            y = body(self.x)
        readout = nn.Linear(y[0].numel(), 4)
        self.model = nn.Sequential(*body, nn.ReLU(inplace=True), nn.Flatten(), readout).double()
        self.dy = torch.randn(3, 4, dtype=torch.float64)
        kinds = (nn.Conv2d, nn.Linear, SpatialFeatureLayer)
        self.layers = [m for m in self.model.modules() if isinstance(m, kinds)]
        sizes = [(2, *SIZE[1:]), SIZE, (y[0].numel(),)]
        self.plain = [PlainLayer.of(m, s) for m, s in zip(self.layers, sizes, strict=True)]
        if kind == "dense":  # whose forward pass has all weights, and its field only some
            full = self.layers[1].weight.shape
            number = torch.arange(self.layers[1].weight.numel()).view(full)
            self.field, self.plain[1].where = (
                self.plain[1].where >= 0,
                number.flatten(3).flatten(0, 2).t(),
            )

    def gradients(self, x: Tensor | None = None) -> list[Tensor]:
        self.model.zero_grad()
        self.model(self.x if x is None else x).backward(self.dy)
        return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

    def expected(self, feedback: list[Tensor]) -> list[Tensor]:
        return gradients(self.layers, self.plain, [None, *feedback], self.x, self.dy)[0]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def feedback_of(case: Case, feedback: Feedback, rule: str) -> list[Tensor]:
    """B of the last two layers, from the rule's equation and what it has drawn."""
    found = []
    for layer, each in zip(case.layers[1:], feedback.rules.values(), strict=True):
        sign = layer.weight.detach().sign()
        drawn = each.state()
        assert not isinstance(each, UniformSigns) or (each.magnitudes >= 0).all()  # signs are W's
        if rule == "usf":
            found.append(sign * spread(case, layer))
        elif rule == "brsf":
            assert isinstance(each, UniformSigns)
            found.append(sign * each.magnitudes)
        else:
            found.append(sign * drawn["magnitudes"] if rule == "frsf" else drawn["weights"])
    return found


def spread(case: Case, layer: Weighted, scale: str = "xavier") -> Tensor:
    """Of each weight, by its unit's inputs and its input's units as they are in the matrix."""
    assert isinstance(layer.weight, Tensor)
    weight, flat = layer.weight.detach(), case.plain[[*case.layers].index(layer)]
    if isinstance(layer, nn.Conv2d):
        fan_in = torch.tensor(math.prod(weight.shape[1:]), dtype=weight.dtype)
        units = weight.shape[0] // layer.groups * math.prod(weight.shape[2:])
        fan_out = units / torch.tensor(math.prod(layer.stride), dtype=weight.dtype)
    else:
        if case.kind == "dense" and layer is case.layers[1]:
            inside = torch.where(case.field, flat.where, -1)
            flat = PlainLayer(inside, flat.per_unit, flat.size)
        fan_in, fan_out = flat.fans(weight)
    squared = 2 / (fan_in + fan_out) if scale == "xavier" else 1 / (3 * fan_in)
    return torch.where(fan_in > 0, squared, 0).sqrt()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_every_gradient_is_that_of_matrix_products(kind: str, steps: str, rule: str) -> None:
    case = Case(kind, steps)
    before = case.model(case.x)
    assert_same(case.gradients(), case.expected([m.weight.detach() for m in case.layers[1:]]))
    feedback = attach(case.model, rule, DRAW)
    feedback.before_step(3)
    assert torch.equal(case.model(case.x), before)  # forward, a rule changes nothing
    assert_same(case.gradients(), case.expected(feedback_of(case, feedback, rule)))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "usf"])
@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_with_the_layers_own_weights_it_is_backprop(kind: str, steps: str, rule: str) -> None:
    case = Case(kind, steps)
    expected = case.gradients()
    for name, each in attach(case.model, rule, DRAW).rules.items():
        own = weighted_layers(case.model)[name].weight.detach()
        if isinstance(each, UniformSigns):
            each.magnitudes = own.abs()
        else:
            each.state()["weights"].copy_(own)
    assert_same(case.gradients(), expected)


@pytest.mark.parametrize("kind", ["conv", "local"])
def test_other_orders_in_memory_give_the_same(kind: str) -> None:
    case = Case(kind, "strided", nn.Conv2d(2, SIZE[0], 3, padding=1))
    attach(case.model, "fa", DRAW)
    expected = case.gradients()
    for x in (batch_innermost(case.x), case.x.to(memory_format=torch.channels_last)):
        assert_same(case.gradients(x), expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("words", ["same", "valid"])
@pytest.mark.parametrize("kernel", [3, (2, 4)])
def test_padding_in_words(words: str, kernel: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, kernel, padding=words, groups=2, dilation=(1, 2))
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Tanh(), conv).double()
    x = torch.randn(2, 2, 9, 8, dtype=torch.float64)
    model(x).square().sum().backward()
    first = model[0].weight
    assert isinstance(first, nn.Parameter) and first.grad is not None
    expected, first.grad = first.grad, None
    attach(model, "fa", DRAW).state()["2.weights"].copy_(conv.weight.detach())
    model(x).square().sum().backward()
    torch.testing.assert_close(first.grad, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("unbatched", [(6, 5), ()])
def test_linear_layers_take_any_number_of_dimensions(unbatched: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(*unbatched, 3, dtype=torch.float64)
    feedback = attach(model, "fa", DRAW).state()["2.weights"]
    y = model(x)
    y.sum().backward()
    hidden = model[1](model[0](x)).detach().reshape(-1, 4)
    d = torch.ones(len(hidden), 2, dtype=torch.float64) @ feedback * (1 - hidden.square())
    torch.testing.assert_close(model[0].weight.grad, d.t() @ x.reshape(-1, 3))


@pytest.mark.parametrize("kind", ["conv", "local"])
def test_an_image_without_a_batch(kind: str) -> None:
    case = Case(kind, "padded")
    feedback = attach(nn.Sequential(*list(case.model)[:3]), "fa", DRAW)
    assert len(feedback.rules) == 1
    start, _, layer = list(case.model)[:3]

    def first_gradient(x: Tensor) -> Tensor:
        start.zero_grad()
        layer(torch.tanh(start(x))).square().sum().backward()
        assert isinstance(start.weight, nn.Parameter) and start.weight.grad is not None
        return start.weight.grad.clone()

    torch.testing.assert_close(first_gradient(case.x[0]), first_gradient(case.x[:1]))


@pytest.mark.parametrize("scale", ["xavier", "kaiming"])
@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_the_size_of_what_is_drawn(kind: str, steps: str, scale: Any) -> None:
    case = Case(kind, steps)
    drawn = attach(case.model, "fa", DRAW, scale=scale).state().values()
    for layer, weights in zip(case.layers[1:], drawn, strict=True):
        size = spread(case, layer, scale).expand_as(weights)
        assert bool((weights[size == 0] == 0).all())  # no feedback where there is no weight
        units = (weights / size)[size > 0]
        assert float(units.abs().max()) <= math.sqrt(3) and float(units.abs().max()) > 1.5
        assert float(units.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(units)))


@pytest.mark.parametrize("a", [0.3, 1.0])
def test_alignment_is_the_cosine_at_birth(a: float) -> None:
    for kind in ("linear", "conv", "local"):
        case = Case(kind, "plain")
        free = attach(case.model, "fa", DRAW).state()
        case = Case(kind, "plain")
        aligned = attach(case.model, "fa", DRAW, alignment=a).state()
        for layer, name in zip(case.layers[1:], free, strict=True):
            weight, back = layer.weight.detach().flatten(), aligned[name].flatten()
            cosine = torch.nn.functional.cosine_similarity(weight, back, dim=0)
            assert float(cosine) == pytest.approx(a, abs=1e-10)
            assert float(back.norm()) == pytest.approx(float(free[name].norm()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["linear", "conv", "local", "dense"])
def test_other_forward_weights_send_back_the_same(kind: str, rule: str) -> None:
    """They are changed between the forward and the backward pass; with signs, all but those."""

    def sent_back(change: bool) -> list[Tensor]:
        case = Case(kind, "plain")
        attach(case.model, rule, DRAW)
        y = case.model(case.x)
        if change:
            for layer in case.layers[1:]:
                factors = torch.rand_like(layer.weight.data) + 0.5
                layer.weight.data *= factors if rule in ("usf", "frsf", "brsf") else -factors
        y.backward(case.dy)
        return [p.grad for p in case.layers[0].parameters() if p.grad is not None]

    kept, changed = sent_back(False), sent_back(True)
    assert len(kept) == 2 and all(map(torch.equal, kept, changed))


def test_brsf_draws_by_the_steps_number() -> None:
    feedback = attach(Case("local", "plain").model, "brsf", DRAW)
    found = []
    for step in (4, 5, 4):
        feedback.before_step(step)
        found.append([rule.weight() for rule in feedback.rules.values()])
    first, other, again = found
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_backprop_attaches_nothing() -> None:
    model = Case("local", "plain").model
    assert attach(model, "backprop", DRAW).rules == {}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
