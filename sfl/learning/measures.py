"""How a network learns, measured on a fixed batch; nothing that training depends on is changed.

Batch normalisation takes the batch's statistics, as in training; dropout is off. Nothing is drawn.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from sfl.learning.learner import Learner
from sfl.learning.routes import Chain, Route
from sfl.nn.feedback.drawing import inside
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.storage import sharing_distance
from sfl.nn.weighted import Weighted, weighted_layers

ByLayer = dict[str, dict[str, float]]


@dataclass
class Measures:
    """What `measure` finds. What doesn't exist, or isn't finite, is left out.

    layers: by layer and name:
        gradient_angle, degrees, and gradient_ratio: the gradient that the layer's weights learn
            from, by rule and route, against the true gradient of the network's loss. The angle
            between them; the norm of the first over that of the second.
        error_rank: the effective rank of dL/dy of the layer's output y over the batch.
        feedback_angle, feedback_ratio, feedback_distance: feedback weights B against the layer's
            own W. The angle, ‖B‖ / ‖W‖, ‖W − B‖.
        sharing_distance, of local layers: Σ‖w − w̄‖² / Σ‖w‖², see sfl.nn.storage.
    probe_decrease: how much the batch's loss falls in one step of size lr along the gradient that
        is learnt from, of all parameters together, scaled to the norm of the true gradient. So
        rules can be compared: what differs is the direction. None if it isn't finite.
    """

    layers: ByLayer = field(default_factory=dict)
    probe_decrease: float | None = None


def measure(learner: Learner, images: Tensor, labels: Tensor, *, lr: float, step: int) -> Measures:
    """Measures on images (B, C, H, W) and labels (B,), after the training step of that number.

    lr: the step size of probe_decrease. Clears the gradients, as a step does when it begins. Costs
    six to seven steps on B images, a B×B eigenvalue problem a layer, and memory for the weights
    three times: their values and both gradients. Collective with several workers, who must give
    the same images.
    """
    weighted = weighted_layers(learner.model)
    with _unchanged(learner), torch.compiler.set_stance("force_eager"):
        learner.feedback.before_step(step)
        with learner.feedback.off(), learner.route.off():
            true, _ = _gradients(learner, Chain(), images, labels)
        with _errors(weighted) as errors:
            learnt, loss = _gradients(learner, learner.route, images, labels)
        decrease = loss - _loss_after(learner, images, labels, learnt, _scaled(lr, learnt, true))
        found: ByLayer = {name: {} for name in weighted}
        for name, layer in weighted.items():
            key = f"{name}.weight"
            found[name] |= _compared("gradient", learnt.get(key), true.get(key))
            if name in errors:
                found[name]["error_rank"] = effective_rank(errors[name])
            if name in learner.feedback.rules:
                own, back = _existing(layer), learner.feedback.rules[name].weight()
                found[name] |= _compared("feedback", back, own)
                found[name]["feedback_distance"] = float((own - back).norm())
            if isinstance(layer, SpatialFeatureLayer):
                found[name]["sharing_distance"] = _sharing(layer)
    finite = {
        name: {what: value for what, value in values.items() if math.isfinite(value)}
        for name, values in found.items()
    }
    return Measures(finite, decrease if math.isfinite(decrease) else None)


def angle(one: Tensor, other: Tensor) -> float:
    """The angle between two tensors as vectors, in degrees; not a number if one is zero."""
    one, other = (t.detach().flatten().cpu().double() for t in (one, other))
    one, other = one / one.norm(), other / other.norm()
    # 2 atan(|a − b| / |a + b|) is exact for small angles, where the arc cosine isn't (Kahan).
    return math.degrees(2 * math.atan2(float((one - other).norm()), float((one + other).norm())))


def effective_rank(error: Tensor) -> float:
    """exp(H(σ / Σσ)) of a matrix (B, …), its rows flattened (Roy & Vetterli 2007).

    σ: its singular values. H: the entropy, in nats. Between 1 and B; 0 for zeros.
    """
    rows = error.detach().flatten(1).cpu().double()
    gram = rows @ rows.t()
    if not gram.isfinite().all():
        return math.nan
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if not singular.any():
        return 0.0
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


@contextlib.contextmanager
def _unchanged(learner: Learner) -> Iterator[None]:
    """Batch normalisation in training mode and the rest not; all as before afterwards."""
    model = learner.model
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for module, _ in modes:
        module.training = hasattr(module, "running_mean")
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)
        _clear(learner)


def _clear(learner: Learner) -> None:
    for weight in [*learner.model.parameters(), *learner.weights]:
        weight.grad = None


def _gradients(
    learner: Learner, route: Route, images: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor], float]:
    """The gradients of the model's parameters by name, and the loss."""
    _clear(learner)
    loss, logits = learner.forward(images, labels)
    route.backward(loss, logits, labels)
    named = learner.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}, float(loss.detach())


@contextlib.contextmanager
def _errors(layers: dict[str, Weighted]) -> Iterator[dict[str, Tensor]]:
    """Takes the gradient of each layer's output in the backward pass inside."""
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module, inputs: object, y: Tensor) -> None:
        if y.requires_grad:
            y.register_hook(partial(found.__setitem__, name))

    handles = [layer.register_forward_hook(partial(watch, n)) for n, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _scaled(lr: float, learnt: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    """The factor that makes the gradient learnt from a step as long as lr times the true one."""
    length = _norm(list(learnt.values()))
    return lr * _norm(list(true.values())) / length if length else 0.0


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(nn.utils.get_total_norm(tensors))


@torch.no_grad()
def _loss_after(
    learner: Learner, images: Tensor, labels: Tensor, gradients: dict[str, Tensor], size: float
) -> float:
    """The loss after w ← w − size · gradient; then the weights are put back."""
    moved = [(p, gradients[n]) for n, p in learner.model.named_parameters() if n in gradients]
    before = [parameter.clone() for parameter, _ in moved]
    try:
        for parameter, gradient in moved:
            parameter.sub_(gradient, alpha=size)
        loss, _ = learner.forward(images, labels)
        return float(loss)
    finally:
        for (parameter, _), value in zip(moved, before, strict=True):
            parameter.copy_(value)


def _compared(what: str, one: Tensor | None, other: Tensor | None) -> dict[str, float]:
    """Angle and ratio of norms of two tensors; a missing one is zero."""
    if other is None or not other.any():
        return {}
    if one is None:
        return {f"{what}_ratio": 0.0}
    return {f"{what}_angle": angle(one, other), f"{what}_ratio": float(one.norm() / other.norm())}


def _existing(layer: Weighted) -> Tensor:
    """The layer's weights, zero where there is no feedback: outside the fields of dense storage."""
    weight = layer.weight.detach()
    if not isinstance(layer, SpatialFeatureLayer) or layer.storage == "local":
        return weight
    return weight * inside(layer)


def _sharing(layer: SpatialFeatureLayer) -> float:
    exists = layer.field_mask().to(layer.weight.device)
    return sharing_distance(layer.filters().detach().movedim(3, -1), exists)
