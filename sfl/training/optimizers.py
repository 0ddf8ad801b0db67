"""Optimizers, and the learning rate as a function of the step."""

import functools
import inspect
import math
from collections.abc import Callable

import torch
from torch import nn

from sfl.config import OptimizerSettings, TrainSettings


def build_optimizer(settings: OptimizerSettings, model: nn.Module) -> torch.optim.Optimizer:
    """torch's own Adam, AdamW or SGD, in its fused form: one pass over the weights a step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    lr, decay, betas = settings.lr, settings.weight_decay, (settings.betas[0], settings.betas[1])
    if settings.name == "sgd":
        form = _without_compiler(torch.optim.SGD)
        return form(parameters, lr, momentum=settings.momentum, weight_decay=decay, fused=True)
    form = _without_compiler(torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW)
    return form(parameters, lr, betas=betas, weight_decay=decay, fused=True)


@functools.cache
def _without_compiler(form: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The same optimizer, whose methods don't import PyTorch's compiler: 160 MB and a second."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(form, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(form.step))
    return type(form.__name__, (form,), methods)


def learning_rate(step: int, steps_per_epoch: int, lr: float, train: TrainSettings) -> float:
    """The learning rate of a step, counted from 0 over the whole run.

    constant: lr after the warm-up. cosine: from lr to 0 along half a cosine (Loshchilov & Hutter
    2017, eq. 5, without restarts). onecycle: up from lr/25 in the first 30 % of the steps, then
    down to lr/250,000, both along half cosines (Smith & Topin 2018, as torch's OneCycleLR has it).
    """
    total = train.epochs * steps_per_epoch
    if train.schedule == "onecycle":
        peak = 0.3 * total - 1
        if step <= peak:
            return _half_cosine(lr / 25, lr, step / peak)
        return _half_cosine(lr, lr / 25e4, (step - peak) / (total - 1 - peak))
    warmup = train.warmup * steps_per_epoch
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if train.schedule == "constant":
        return lr
    return _half_cosine(lr, 0.0, (step - warmup) / (total - warmup))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
