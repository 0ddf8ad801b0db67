"""Joins a backward rule to each layer of a model; the forward pass stays the layer's own.

A layer is given x.detach(), so that autograd computes the gradients of its weights and bias alone.
Behind it x is joined again: forward nothing happens, backward x gets what the rule sends back.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sfl.nn.engine import batch_innermost
from sfl.nn.feedback.drawing import Draw, Scale, existing
from sfl.nn.feedback.products import input_gradient
from sfl.nn.feedback.rules import Rule, rule_named
from sfl.nn.norm import BATCH_NORMS, UnitBatchNormReLU
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.weighted import Weighted, claim, expect_no_others, weighted_layers

BEFORE_FIRST = (
    "follows no rule, as the first layer with weights in the model's order, but is given what "
    "needs a gradient: the output of another layer, its own, or images that do"
)
NORMS = (*BATCH_NORMS, UnitBatchNormReLU, nn.GroupNorm, nn.LayerNorm)


class Feedback:
    """The rules of a model's layers, by the layers' names; none with backprop."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.rules = dict(rules)

    def parameters(self) -> list[Tensor]:
        """What the optimizer moves beside the model's weights, with the gradients of those."""
        return [weight for rule in self.rules.values() for weight in rule.parameters()]

    def before_step(self, step: int) -> None:
        """Before a step's forward pass. step: its number, counted from 0 over the whole run."""
        for rule in self.rules.values():
            rule.before_step(step)

    def take_gradients(self) -> None:
        """After a step's backward pass and clipping, before the optimizer's step.

        Raises ValueError, with its name, for a layer whose weights were used without calling it.
        """
        for name, rule in self.rules.items():
            if rule.layer.weight.grad is not None and not rule.size:
                raise ValueError(
                    f"{name}: is used otherwise than by calling it, so follows no rule"
                )
            rule.take_gradients()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """After the optimizer's step."""
        for rule in self.rules.values():
            rule.after_step(step)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, each layer sends errors back through its own weights."""
        self._set_active(False)
        try:
            yield
        finally:
            self._set_active(True)

    def _set_active(self, active: bool) -> None:
        for rule in self.rules.values():
            rule.active = active

    def state(self) -> dict[str, Tensor]:
        """What resuming needs, as `<layer>.<name>`: the tensors themselves, to be copied into."""
        return {
            f"{layer}.{name}": tensor
            for layer, rule in self.rules.items()
            for name, tensor in rule.state().items()
        }


def attach(
    model: nn.Module, rule: str, draw: Draw, *, scale: Scale = "xavier", **options: Any
) -> Feedback:
    """Gives all layers with weights but the first, which sends nothing back, a rule of that name.

    rule: one of rules.RULES, or "backprop", with which the model stays as it is.
    draw: gives generators, as partial(sfl.learning.seeding.generator, seed) does.
    scale, options: of the rule.

    The model must be on its device already, with the weights that it begins with. Raises
    ValueError for an unknown rule or scale, options out of range, a model that has a rule or a
    route already, and as `check` does. The model raises it later if its first layer is given what
    needs a gradient, which would be sent back through that layer's own weights.
    """
    claim(weighted_layers(model), "")
    if rule == "backprop":
        return Feedback({})
    kind = rule_named(rule)
    check(model)
    rules = {
        name: kind(layer, scale, draw, place, **options)
        for place, (name, layer) in enumerate(followers(model).items(), 1)
    }
    claim(weighted_layers(model), f"the rule {rule}")
    for each in rules.values():
        _Joined(each)
    name, first = next(iter(weighted_layers(model).items()))
    refuse = partial(_refuse_error, name, next(iter(rules.values())))
    first.register_forward_pre_hook(refuse, with_kwargs=True)
    return Feedback(rules)


def followers(model: nn.Module) -> dict[str, Weighted]:
    """The layers that follow a rule: all with weights but the first."""
    return dict(list(weighted_layers(model).items())[1:])


def check(model: nn.Module) -> None:
    """Raises ValueError, with its name, for a layer that can't follow a rule, and for weights of
    other modules, through which a rule would not send the errors.
    """
    if not followers(model):
        raise ValueError("one layer with weights sends no error back, so a rule would do nothing")
    owners: dict[int, str] = {}
    for name, layer in weighted_layers(model).items():
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is None:
            raise ValueError(f"{name}: its weight is computed from others; remove that first")
        if is_lazy(weight):
            raise ValueError(f"{name}: has no weights yet; call the model once first")
        if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode {layer.padding_mode!r}, only zeros can be")
        other = owners.setdefault(id(weight), name)
        if other != name:
            raise ValueError(f"{name} and {other} have one weight; give each its own")
    expect_no_others(model, NORMS)


def _refuse_error(
    name: str, rule: Rule, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
) -> None:
    """In front of the first layer, which follows no rule. rule: another layer's."""
    (x,) = (*inputs, *named.values())
    if x.requires_grad and rule.active:
        raise ValueError(f"{name}: {BEFORE_FIRST}")


@dataclass(frozen=True)
class FeedbackSummary:
    """The weights that a rule or an error route has beside the model's own.

    weights: those that exist, drawn or learnt. bytes: of memory that they take. saved: whether
    they are in a checkpoint. moved: whether the optimizer moves them and keeps moments of each.
    name: what they are.
    """

    weights: int
    bytes: int
    saved: bool
    moved: bool
    name: str = "feedback weights"


def summarize_feedback(model: nn.Module, rule: str) -> FeedbackSummary | None:
    """What `attach` would make, without making it; None with backprop."""
    if rule == "backprop":
        return None
    kind, layers = rule_named(rule), followers(model).values()
    size = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    exist = sum(map(existing, layers))
    return FeedbackSummary(exist * kind.keeps, size * kind.keeps, bool(kind.holds), kind.moves)


class _Joined:
    """The two hooks of a layer: x is taken away before it, and joined again behind it."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.x: Tensor | None = None
        rule.layer.register_forward_pre_hook(self.part, with_kwargs=True)
        rule.layer.register_forward_hook(self.join)

    def part(
        self, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> tuple[tuple[Tensor], dict[str, Tensor]] | None:
        if not self.rule.active:
            return None
        (self.x,) = (*inputs, *named.values())
        self.rule.size = tuple(self.x.shape[1:])
        return (self.x.detach(),), {}

    def join(self, layer: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor:
        x, self.x = self.x, None
        if x is None or not x.requires_grad or not torch.is_grad_enabled():
            return y
        joined: Tensor = Join.apply(y, x, self.rule)  # type: ignore[no-untyped-call]
        return joined


class Join(torch.autograd.Function):
    """(y, x, rule) → y. Backward, y gets its gradient, and x what the rule makes of it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, rule: Rule) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(x)  # which the layer keeps for the gradient of its weights
        ctx.mark_dirty(y)  # it is y itself that comes out, so that a ReLU may change it in place
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        (x,), layer = ctx.saved_tensors, ctx.rule.layer
        if isinstance(layer, SpatialFeatureLayer) and layer.storage == "local" and dy.dim() == 4:
            dy = batch_innermost(dy)  # once for both gradients
        dx = input_gradient(layer, ctx.rule.weight(), dy, x)
        return dy, dx.to(x.dtype), None
