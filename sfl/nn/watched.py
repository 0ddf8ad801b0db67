"""A forward pass of a model, watched: what goes in and out, and what is done with parameters."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Functions by what their weights and biases are used for, see Uses._places.
PRODUCTS = ("linear", "conv1d", "conv2d", "conv3d")
ELEMENTWISE = ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "prelu")


class Uses(TorchFunctionMode):
    """Counts the functions of PyTorch that compute with a parameter of the model."""

    def __init__(self, model: nn.Module, *inputs: Tensor) -> None:
        super().__init__()
        # One image (C, H, W) has three dimensions; numbers and lists are none.
        self.images = next((len(x) for x in inputs if x.dim() not in (0, 1, 3)), 1)
        self.count: Counter[int] = Counter()  # by the parameter's id
        self.shared: dict[int, str] = {}
        # Of what doesn't depend on the image: the ids of the parameters that it is made of.
        self.made_of = {id(buffer): set[int]() for buffer in model.buffers()}
        self.parameters = {id(parameter) for parameter in model.parameters()}
        self.made_of |= {key: {key} for key in self.parameters}
        self.kept: list[Tensor] = []  # so that no other gets their ids

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        # Several tensors: attention, the variance and mean.
        results, given = list(tensors(result)), list(tensors([args, kwargs or {}]))
        if name == "__setitem__":
            results = [args[0]]
        # None: an attribute, as weight.device is. The others take a type and a device alone.
        if not results or name == "type_as" or name.startswith("new_"):
            return result
        self.count.update(id(x) for x in given if id(x) in self.parameters)
        made_of = [self.made_of.get(id(x)) for x in given]
        if None not in made_of:
            self.made_of |= {id(x): set().union(*made_of) for x in results}  # type: ignore[arg-type]
            self.kept += results
            return result
        for x in results:  # a constant that an image was written into
            if id(x) not in self.parameters:
                self.made_of.pop(id(x), None)
        if getattr(F, name, None) is function:
            for x, parameters in zip(given, made_of, strict=True):
                if parameters and self._places(name, x, results[0]) > 1:
                    self.shared |= dict.fromkeys(parameters, name)
        return result

    def _places(self, function: str, weight: Tensor, result: Tensor) -> float:
        """At how many places of an image it uses each number of a weight; if unknown, infinity."""
        outputs = result.numel() / max(1, self.images)
        if function in ELEMENTWISE:
            return outputs / weight.numel()
        return outputs / weight.shape[0] if function in PRODUCTS else math.inf


def tensors(given: Any) -> Iterator[Tensor]:
    """The tensors in lists, tuples, dicts and dataclasses, of which most models' outputs are."""
    if isinstance(given, Tensor):
        yield given
    elif is_dataclass(given) and not isinstance(given, type):
        yield from tensors([getattr(given, field.name) for field in fields(given)])
    elif isinstance(given, (list, tuple, dict)):
        for each in given.values() if isinstance(given, dict) else given:
            yield from tensors(each)


def scratch_copy(model: nn.Module) -> nn.Module:
    """A copy with the same parameters, to run: in training, statistics would change.

    Raises ValueError for a model that holds a result with a gradient, which can't be copied.
    """
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                place = f"{name}.{key}" if name else key
                raise ValueError(
                    f"{place} is a result of others and can't be copied: if a forward pass left "
                    "it, set it to None; if pruning or weight norm did, remove that first"
                )
    return copy.deepcopy(model, {id(each): each for each in model.parameters()}).eval()


def note_inputs(model: nn.Module) -> list[Tensor]:
    """A list into which each later forward pass puts what goes into each of the model's modules."""
    noted: list[Tensor] = []
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            module.register_forward_pre_hook(partial(_note, noted), with_kwargs=True)
    return noted


def _note(noted: list[Tensor], module: nn.Module, inputs: Any, named: Any) -> None:
    noted.extend(tensors([inputs, named]))


def outputs(
    model: nn.Module, within: AbstractContextManager[Any], *example: Any, **named: Any
) -> list[Tensor]:
    """What comes out, with the same draws each time, leaving the generators as they are."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.no_grad(), torch.random.fork_rng(devices), within:
        torch.manual_seed(0)
        return list(tensors(model(*example, **named)))
