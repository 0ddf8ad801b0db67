"""A network without weight sharing from one that has it: its convolutions become spatial layers."""

import copy
import math
from collections import Counter
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.watched import Uses, note_inputs, outputs, scratch_copy, tensors

Size = tuple[int, int, int]


def without_sharing(model: nn.Module, example: Any, *more: Any, **named: Any) -> nn.Module:
    """A copy of the model with a SpatialFeatureLayer in place of each of its `nn.Conv2d`.

    It computes the same as the model did, until it is trained. example, more, named: an input of
    the model, mostly one tensor (B, C, H, W). A forward pass with it finds the size of each layer's
    input, to which the layer is tied from then on; another one checks that the outputs are the
    same; if they are zero, as of a head that begins so, that what goes into each module is. A
    convolution that isn't used stays as it is. Forward and backward hooks on a convolution, and
    attributes that were set on it, are carried over; `still_shared` says what remains shared.

    Raises ValueError, with its name, for a convolution
      that is used with inputs of different sizes;
      whose padding isn't of zeros;
      of a subclass of `nn.Conv2d`, or with a forward put on it, that computes something of its own;
      that is parametrized, pruned or normalised by weight, or has hooks on its state_dict or on
      the gradient of its weight or bias;
      whose weight or bias is used elsewhere, too, or is that of another one;
      in whose place a layer would not be called;
    and for a model that has yet to make parameters (LazyConv2d), that keeps results of a forward
    pass, in which no convolution is seen to run, that puts out no tensor, or that would compute
    something else or fail.
    """
    _expect_plain(model)
    sizes: dict[str, Size] = {}
    calls: Counter[str] = Counter()
    scratch = scratch_copy(model)
    for name, module in scratch.named_modules():
        if isinstance(module, nn.Conv2d):
            note = partial(_note_size, sizes, calls, name)
            module.register_forward_pre_hook(note, with_kwargs=True)
    uses = Uses(scratch, *tensors([example, *more, named]))
    inputs = note_inputs(scratch)
    before = outputs(scratch, uses, example, *more, **named)
    if not sizes and not any(isinstance(each, SpatialFeatureLayer) for each in model.modules()):
        raise ValueError(
            "the model has no nn.Conv2d that was seen to run; convert it before it is scripted or "
            "exported, and call convolutions, not their forward"
        )
    converted = _converted(model, sizes)
    for name in sizes:
        _expect_no_other_use(name, scratch.get_submodule(name), uses, calls[name])

    scratch, idle = scratch_copy(converted), set(sizes)
    for name in sizes:
        scratch.get_submodule(name).register_forward_pre_hook(partial(_ran, idle, name))
    inputs_after = note_inputs(scratch)
    try:
        after = outputs(scratch, nullcontext(), example, *more, **named)
    except Exception as error:
        raise ValueError(f"the model fails when its convolutions share nothing: {error}") from error
    if idle:
        raise ValueError(f"{min(idle)} is called in a way that a layer in its place isn't")
    _expect_alike(before, after)
    if not any(x.is_meta or x.any() for x in before):  # a head that begins with zeros says nothing
        _expect_alike(inputs, inputs_after)
    return converted


def still_shared(model: nn.Module, example: Any, *more: Any, **named: Any) -> dict[str, str]:
    """The parameters that are used at several places of an image, and the functions that do so.

    example, more, named: an input of the model, mostly one tensor (B, C, H, W), with which one
    forward pass finds out. Names are as in model.named_parameters(), functions those of
    torch.nn.functional that take a parameter, or what was computed of parameters alone:
    `batch_norm`, `conv2d`, `linear` where it is given more than one vector an image, and so on;
    `spatial_conv2d` for a layer's bias a channel. What a model does with its parameters by other
    functions, as einsum, or by weights that depend on the image, is not seen. A `nn.Conv2d` that
    wasn't seen to use its own, as one that runs in training only, is there as
    "conv2d, not seen to run".
    """
    scratch = scratch_copy(model)
    uses = Uses(scratch, *tensors([example, *more, named]))
    outputs(scratch, uses, example, *more, **named)
    names = {id(parameter): name for name, parameter in scratch.named_parameters()}
    shared = {names[key]: function for key, function in uses.shared.items()}
    for module in scratch.modules():
        own = [id(parameter) for parameter in module.parameters()]
        if isinstance(module, nn.Conv2d) and not any(uses.count[key] for key in own):
            shared |= dict.fromkeys((names[key] for key in own), "conv2d, not seen to run")
        if isinstance(module, SpatialFeatureLayer) and module.bias is not None:
            used = math.prod(module.out_dimensions) > module.bias.numel()
            shared |= {names[id(module.bias)]: "spatial_conv2d"} if used else {}
    return shared


def _converted(model: nn.Module, sizes: dict[str, Size]) -> nn.Module:
    """A copy with layers for those sizes wherever it holds the convolutions, in lists, too."""
    layers: dict[str, nn.Module] = {}
    memo: dict[int, Any] = {}  # what deepcopy puts in the place of what
    for name, size in sizes.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        try:
            layers[name] = memo[id(conv)] = SpatialFeatureLayer.from_conv(conv, size)
        except ValueError as error:
            raise ValueError(f"{name or 'it'}: {error}") from None
    for name, layer in layers.items():
        for attribute, value in vars(model.get_submodule(name)).items():  # hooks, too
            if not vars(layer).get(attribute):
                vars(layer)[attribute] = copy.deepcopy(value, memo)
        for key, parameter in model.get_submodule(name).named_parameters():
            vars(layer.get_parameter(key)).update(vars(parameter))  # as timm's _no_weight_decay
    converted, modules = copy.deepcopy(model, memo), dict(model.named_modules())
    for name, module in converted.named_modules():
        module.training = modules[name].training  # which a copy of torch.fx's modules forgets
    return converted


def _ran(idle: set[str], name: str, *_: Any) -> None:
    """Before a layer runs: it isn't idle."""
    idle.discard(name)


def _note_size(
    sizes: dict[str, Size], calls: Counter[str], name: str, conv: nn.Conv2d,
    inputs: tuple[Tensor, ...], named: Any,
) -> None:  # fmt: skip
    """Before a convolution runs: notes the (C, H, W) of its input, or raises ValueError."""
    image = (*inputs, *named.values())[0]
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{name or 'it'} is called with a {type(image).__name__}, not a tensor: give a model's "
            "inputs one by one, without_sharing(model, image, mask)"
        )
    channels, height, width = image.shape[-3:]
    size = (channels, height, width)
    calls[name] += 1
    if sizes.setdefault(name, size) != size:
        raise ValueError(
            f"{name} is used with inputs of {sizes[name]} and {size}; without sharing a layer is "
            "tied to one size"
        )


def _expect_plain(model: nn.Module) -> None:
    """No parameter that has yet to be made; of a convolution, none but its weight and bias."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no numbers yet: call the model once, then convert it")
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        parameters = {key for key, _ in module.named_parameters()}
        if "weight" not in parameters or parameters - {"weight", "bias"}:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) has "
                f"{', '.join(sorted(parameters))} for parameters, not a plain convolution's weight "
                "and bias: if that is a parametrization, pruning or weight norm, remove it first"
            )
        if any(hooks for key, hooks in vars(module).items() if "state_dict" in key):
            raise ValueError(
                f"{name} has hooks on its state_dict, of another shape without sharing"
            )
        for key, parameter in module.named_parameters():
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise ValueError(
                    f"{name}.{key} has hooks on its gradient, of another shape without sharing"
                )


def _expect_no_other_use(name: str, conv: nn.Module, uses: Uses, calls: int) -> None:
    for key, parameter in conv.named_parameters():
        if uses.count[id(parameter)] > calls:
            raise ValueError(
                f"{name}.{key} is used elsewhere, too, where a layer's would not fit: give each "
                "use a convolution of its own"
            )


def _expect_alike(before: list[Tensor], after: list[Tensor]) -> None:
    if not before:
        raise ValueError(
            "the model puts out no tensor in lists, tuples, dicts or dataclasses, so that it can't "
            "be checked"
        )
    if len(before) != len(after) or not all(map(_alike, before, after)):
        raise ValueError(
            "the model computes something else when its convolutions share nothing: it uses them "
            "other than by calling them, or it computes something else each time"
        )


def _alike(old: Tensor, new: Tensor) -> bool:
    """Up to rounding; whole numbers, which rounding may turn, by their shape alone."""
    if old.shape != new.shape or old.is_meta or not old.is_floating_point():
        return old.shape == new.shape
    apart = torch.linalg.vector_norm((new - old).double())
    allowed = torch.finfo(old.dtype).eps ** 0.5 * torch.linalg.vector_norm(old.double())
    return not apart > allowed  # where both are NaN, nothing can be told
