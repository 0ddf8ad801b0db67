"""What a network still shares between positions and transports backwards: its audit.

SHARING and TRANSPORT define the grades; there is no other definition. Sharing is about numbers that
the forward pass uses at several positions of an image. Transport is about forward weights that send
errors back. What is local in neither sense, such as labels that reach every layer, is listed.

Not counted as transported: weights that no error passes, as those of the first layer; a
normalisation's scales in its own derivative, which every rule uses (listed as `own_scales`). Nor
that positions began with one kernel (`same_start`): the label says so, see sfl/runs/labels.py.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sfl.nn.feedback.attach import BEFORE_FIRST
from sfl.nn.feedback.drawing import existing
from sfl.nn.feedback.rules import rule_named
from sfl.nn.norm import BATCH_NORMS, UnitBatchNormReLU
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.summary import summarize
from sfl.nn.weighted import Weighted, expect_no_others, passed_by_errors, weighted_layers

# From the strictest grade to the loosest; a network has the loosest one of its layers.
SHARING = {
    "strict": "no weight, scale, shift, bias or statistic is used at more than one position, and "
    "no step makes those of different positions more alike",
    "soft": "every position has weights of its own, but scales, shifts, biases or statistics are "
    "common to positions, or a regulariser compares their weights",
    "in time": "every position has weights of its own, but sleep pulls them towards their mean "
    "over positions between training steps",
    "shared": "one weight is used at several positions in the same forward pass",
}
TRANSPORT = {
    "strict": "errors are sent back through weights that nothing copies from the forward weights, "
    "or not at all",
    "at birth": "errors are sent back through fixed weights that began as a noisy copy of the "
    "forward weights",
    "signs": "errors are sent back through the signs of the forward weights, one bit for each "
    "weight in each step",
    "transports": "errors are sent back through the forward weights themselves",
}
Fields = dict[str, Any]  # of a LayerAudit


@dataclass(frozen=True)
class LayerAudit:
    """One layer with weights, scales or statistics.

    sharing, transport: grades. shared: numbers that several positions have in common; with the
    grade "in time", the numbers of one position's filter. places: how many positions; 1 if nothing
    is shared. statistics: means and variances over the batch, and over `places` positions.
    transported: weights of which a sign or all is used in the backward pass, those of the layer's
    own loss included. bits: of them in a step. own_scales: of a normalisation that errors pass.
    """

    name: str
    kind: str
    sharing: str = "strict"
    shared: int = 0
    places: int = 1
    statistics: int = 0
    transport: str = "strict"
    transported: int = 0
    bits: int = 0
    own_scales: int = 0


@dataclass(frozen=True)
class Audit:
    """All such layers, in the model's order; its last layer with weights is the readout."""

    layers: tuple[LayerAudit, ...]
    remarks: tuple[str, ...]  # what else is not local, a sentence each

    @property
    def sharing(self) -> str:
        return _loosest(SHARING, (layer.sharing for layer in self.layers))

    @property
    def transport(self) -> str:
        return _loosest(TRANSPORT, (layer.transport for layer in self.layers))

    def total(self, field: str) -> int:
        """The sum over all layers of one of their numbers."""
        return sum(getattr(layer, field) for layer in self.layers)

    def in_words(self) -> list[str]:
        """What the network's grades mean, and the remarks."""
        return [
            f"grade of sharing, {self.sharing}: {SHARING[self.sharing]}",
            f"grade of transport, {self.transport}: {TRANSPORT[self.transport]}",
            *self.remarks,
        ]

    def to_dict(self) -> dict[str, object]:
        """Grades, sums and layers as plain values, and all of it in words."""
        sums = ("shared", "statistics", "transported", "bits", "own_scales")
        return {
            "sharing": self.sharing,
            "transport": self.transport,
            **{name: self.total(name) for name in sums},
            "in_words": self.in_words(),
            "layers": [dict(layer.__dict__) for layer in self.layers],
        }


def audit(
    model: nn.Module,
    in_dimensions: tuple[int, int, int],
    *,
    rule: str = "backprop",
    route: str = "chain",
    alignment: float = 0.0,
    sleeps: bool = False,
    loss: str = "",
    clips: bool = False,
    heads: Mapping[str, int] | None = None,
) -> Audit:
    """The audit of a model that is trained so, by one forward pass on the meta device.

    in_dimensions: (C, H, W) of an image. rule, route, alignment, loss: as in `learn:`; loss only
    with the route "local". sleeps: whether it ever sleeps. clips: whether gradients are clipped by
    their global norm. heads: of local losses, how many weights each has that send its error back,
    by the name of the layer that it trains.

    Raises ValueError for an unknown rule, for a model whose first layer would have to follow it,
    and for a module whose weights it can't judge: of an unknown kind, used in another way than by
    calling it, or the same as another module's.
    """
    grade = _grade(rule, alignment)
    expect_no_others(model, (*BATCH_NORMS, UnitBatchNormReLU))
    passed = passed_by_errors(model, in_dimensions) if route == "chain" else {}
    first = next(iter(weighted_layers(model)), None)
    if first in passed and rule != "backprop":
        raise ValueError(f"{first}: {BEFORE_FIRST}")
    runs: dict[str, list[tuple[int, ...]]] = {}
    for run in summarize(model, in_dimensions).layers:
        runs.setdefault(run.name, []).append(run.out_shape)
    owners: dict[nn.Parameter, str] = {}
    layers, behind = [], False  # behind the first layer with weights; no error goes on before it
    for name, module in model.named_modules():
        found = _sharing(name, module, runs.get(name, []), sleeps)
        if found is not None:
            for parameter in module.parameters(recurse=False):
                if (other := owners.setdefault(parameter, name)) != name:
                    raise ValueError(f"{other} and {name} have one parameter; give each its own")
            if name in passed:
                found |= _sent(grade, _served(passed[name], grade), passed[name])
            if number := (heads or {}).get(name):
                found |= _sent("transports", number, module)
            is_norm = isinstance(module, (*BATCH_NORMS, UnitBatchNormReLU))
            if is_norm and behind and route != "frozen":
                found["own_scales"] = _count(module) // 2
            layers.append(LayerAudit(name, type(module).__name__, **found))
        behind |= name == first
    readout = "follows the rule, too" if passed else "sends no error back"
    remarks = (
        f"the readout {readout}",
        *_told(route, loss, clips, heads or {}),
        *_common_in(model, layers),
    )
    return Audit(tuple(layers), remarks)


def _loosest(grades: Mapping[str, str], found: Iterable[str]) -> str:
    order = list(grades)
    return max(found, key=order.index, default=order[0])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


# --- sharing


def _sharing(
    name: str, module: nn.Module, runs: Sequence[tuple[int, ...]], sleeps: bool
) -> Fields | None:
    """None for a module without weights. runs: the shapes of its outputs for an image."""
    if not runs and isinstance(module, (Weighted, UnitBatchNormReLU, *BATCH_NORMS)):
        raise ValueError(f"{name}: no call of it was seen, so what it shares is not known")
    numbers, units = _count(module), sum(math.prod(shape) for shape in runs)
    if isinstance(module, SpatialFeatureLayer):
        return _of_local(module, units // math.prod(module.out_dimensions), sleeps)
    if isinstance(module, UnitBatchNormReLU):
        places = units // math.prod(module.dimensions)
        return {"statistics": numbers} | _common("soft", numbers, places)
    if isinstance(module, nn.Linear):
        return _common("shared", numbers, units // module.out_features)
    if isinstance(module, nn.Conv2d):
        return _common("shared", numbers, units // module.out_channels)
    if isinstance(module, BATCH_NORMS):
        places = units // module.num_features
        return {"statistics": 2 * module.num_features} | _common("soft", numbers, places)
    return None


def _of_local(layer: SpatialFeatureLayer, uses: int, sleeps: bool) -> Fields:
    if uses > 1:  # for several parts of an image, or at several places of the network
        own = 0 if layer.bias is None else layer.bias.numel()
        return _common("shared", layer.weight_count() + own, uses)
    positions = math.prod(layer.out_dimensions[1:])
    biases = 0 if layer.bias is None else layer.out_channels
    if not sleeps:
        shared = biases if biases and layer.bias_per == "channel" else 0
        return _common("soft", shared, positions)
    filters = math.prod((*layer.kernel_size, layer.in_channels // layer.groups, layer.out_channels))
    return _common("in time", filters + biases, positions)  # sleep pulls the biases, too


def _common(grade: str, numbers: int, places: int) -> Fields:
    """Of numbers that so many places have in common; of one place, they are not shared."""
    if places < 2 or not numbers:
        return {}
    return {"sharing": grade, "shared": numbers, "places": places}


# --- transport


def _grade(rule: str, alignment: float) -> str:
    """Of each layer that the rule serves."""
    if rule == "backprop":
        return "transports"
    return "at birth" if alignment else rule_named(rule).transport


def _sent(grade: str, numbers: int, like: nn.Module) -> Fields:
    """Of so many weights that serve the backward pass of a layer; with "strict", of none."""
    bits = {"signs": 1, "transports": 8 * next(like.parameters()).element_size()}.get(grade, 0)
    sent = numbers if grade != "strict" else 0
    return {"transport": grade, "transported": sent, "bits": bits * sent}


def _served(layer: Weighted, grade: str) -> int:
    """How many weights serve the backward pass; with "transports" in dense storage all, else only
    those inside the receptive fields, as feedback weights are.
    """
    if grade == "transports" and isinstance(layer, SpatialFeatureLayer):
        return layer.weight_count()
    return existing(layer)


# --- what else is not local


def _told(route: str, loss: str, clips: bool, heads: Mapping[str, int]) -> Iterator[str]:
    if route == "frozen":
        yield "only the last block learns: the readout and what comes behind it"
    if route == "dfa":
        yield "the error of the output is sent to every layer"
    if route == "local":
        yield "the labels are sent to every layer"
    if any(heads.values()):
        yield "only within the losses of the layers are weights sent back, from their own heads"
    if loss.endswith("sim"):
        yield "the losses of the layers compare the images of a batch with each other"
    if clips:
        yield "all gradients are scaled by one number, their norm over all layers"


def _common_in(model: nn.Module, layers: Sequence[LayerAudit]) -> Iterator[str]:
    if own_scales := sum(layer.own_scales for layer in layers):
        yield f"{own_scales:,} scales of normalisations send errors back in their own derivative"
    if over_batch := sum(layer.statistics for layer in layers):
        yield f"{over_batch:,} means and variances are taken over the images of a batch"
    if over_places := sum(layer.statistics for layer in layers if layer.places > 1):
        yield f"{over_places:,} of these are taken over positions, too"
    if any(isinstance(module, nn.Dropout2d) and module.p for module in model.modules()):
        yield "dropout of whole maps: one draw for all positions of a channel"
