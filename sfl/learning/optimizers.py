"""Optimizers, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfl.learning.muon import Muon


def build_optimizer(
    model: nn.Module,
    more: Iterable[Tensor] = (),
    *,
    name: str = "adam",
    lr: float = 3e-4,
    weight_decay: float = 0.0,
    decay: str = "all",
    momentum: float = 0.0,
    nesterov: bool = False,
    betas: Sequence[float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """torch's own Adam, AdamW or SGD ("adam", "adamw", "sgd"), fused: one pass over the weights; or
    Muon ("muon").

    more: what it moves beside the model's weights. decay: what weight_decay is for, "all" or, see
    `is_weight`, "weights". momentum: of sgd and muon; nesterov: of sgd; betas: of the others.
    Weights of the model that need no gradient are left out.
    """
    parameters = [*(p for p in model.parameters() if p.requires_grad), *more]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if decay == "weights" or name == "muon":
        weights, others = ([p for p in parameters if is_weight(p) is one] for one in (True, False))
        of_others = {} if decay == "all" else {"weight_decay": 0.0}
        of_weights = {"orthogonal": True} if name == "muon" else {}
        groups = [{"params": weights, **of_weights}, {"params": others, **of_others}]
        groups = [group for group in groups if group["params"]]
    rates = (betas[0], betas[1])
    match name:
        case "sgd":
            options: Any = {"momentum": momentum, "nesterov": nesterov}
            return torch.optim.SGD(groups, lr, weight_decay=weight_decay, fused=True, **options)
        case "muon":
            return Muon(groups, lr, momentum=momentum, weight_decay=weight_decay, betas=rates)
        case "adam":
            return torch.optim.Adam(groups, lr, rates, weight_decay=weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr, rates, weight_decay=weight_decay, fused=True)


def is_weight(parameter: Tensor) -> bool:
    """Whether it holds weights between units: those of a linear layer have two dimensions, of a
    convolution four, of a SpatialFeatureLayer six; scales, shifts and biases have one or three.
    """
    return parameter.dim() in (2, 4, 6)


def keep_rate_on_device(optimizer: torch.optim.Optimizer) -> None:
    """For a CUDA graph, in which a number would be frozen: the learning rate becomes a tensor on
    the device of its weights, where Adam keeps its step, too.
    """
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)
        if "capturable" in group:  # SGD always is
            group["capturable"] = True


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of all weights from now on. Never waits."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


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
