"""Optimizers, and the learning rate as a function of the step."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def build_optimizer(
    model: nn.Module,
    *,
    name: str = "adam",
    lr: float = 3e-4,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """torch's own Adam, AdamW or SGD ("adam", "adamw", "sgd"), fused: one pass over the weights.

    momentum: of sgd alone; betas: of adam and adamw. Weights that need no gradient are left out.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if name == "sgd":
        return SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    form = Adam if name == "adam" else AdamW
    return form(parameters, lr, betas=tuple(betas), weight_decay=weight_decay, fused=True)


def _lighter(form: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The same optimizer, whose methods don't import PyTorch's compiler: 160 MB and a second.

    And Adam sees memory as it lies: a fused step copies weights that are not contiguous first.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(form, name)) for name in names}
    step, load = inspect.unwrap(form.step), methods["load_state_dict"]

    @torch.no_grad()
    def lay_and_step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        _lay_gradients(self)
        return step(self, closure)

    def load_and_lay(self: torch.optim.Optimizer, state: Any) -> None:
        load(self, state)
        _lay_moments(self)

    methods |= {"step": lay_and_step, "load_state_dict": load_and_lay}
    if issubclass(form, torch.optim.Adam):
        methods["_init_group"] = _init_group
    return type(form.__name__, (form,), methods | {"__module__": __name__})  # for pickle


def _init_group(self: torch.optim.Adam, group: dict[str, Any], *lists: list[Tensor]) -> bool:
    """Adam's own fills the lists (weights, gradients, moments); then each is turned as it lies."""
    has_complex: bool = torch.optim.Adam._init_group(self, group, *lists)
    weights = lists[0]
    for i, weight in enumerate(weights):
        if weight.is_contiguous():
            continue
        strides = weight.stride()
        order = sorted(range(weight.dim()), key=strides.__getitem__, reverse=True)
        for tensors in lists:
            if len(tensors) == len(weights) and tensors[i].dim() == len(order):
                tensors[i] = tensors[i].permute(order)
    return has_complex


def _lay_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Gradients in their weight's order in memory, through which a fused step walks.

    It would pair the wrong numbers; they differ where somebody set them by hand.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            gradient = weight.grad
            if gradient is not None and gradient.stride() != weight.stride():
                weight.grad = torch.empty_like(weight).copy_(gradient)


def _lay_moments(optimizer: torch.optim.Optimizer) -> None:
    """The same for moments that were loaded."""
    for weight, state in optimizer.state.items():
        for name, moment in state.items():
            if isinstance(moment, Tensor) and moment.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=moment.dtype).copy_(moment)


SGD, Adam, AdamW = map(_lighter, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW))


def learning_rate(
    step: int,
    steps_per_epoch: int,
    *,
    epochs: int,
    lr: float,
    schedule: str = "constant",
    warmup: float = 0.0,
) -> float:
    """The learning rate of a step, counted from 0 over the whole run; `warmup` in epochs.

    constant: lr after the warm-up. cosine: from lr to 0 along half a cosine (Loshchilov & Hutter
    2017, eq. 5, without restarts). onecycle: up from lr/25 in the first 30 % of the steps, then
    down to lr/250,000, both along half cosines (Smith & Topin 2018, as torch's OneCycleLR has it).
    """
    total = epochs * steps_per_epoch
    if schedule == "onecycle":
        peak = 0.3 * total - 1
        if step <= peak:
            return _half_cosine(lr / 25, lr, step / peak)
        return _half_cosine(lr, lr / 25e4, (step - peak) / (total - 1 - peak))
    rising = warmup * steps_per_epoch
    if step < rising:
        return lr * (step + 1) / (rising + 1)
    if schedule == "constant":
        return lr
    return _half_cosine(lr, 0.0, (step - rising) / (total - rising))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
