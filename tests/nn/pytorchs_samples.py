"""Checks of our modules with the samples that PyTorch tests its own modules and functions with.

Run as a program, it prints JSON: a list of [check, module, sample, why ours fails or null, why
PyTorch's own fails then, too, or null]. A program of its own, since importing PyTorch's test code
forbids the setting of some flags from then on.
"""

import copy
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from sfl.nn.engine import BatchNormReLU, ReLUMaxPool2d
from sfl.nn.functional import spatial_conv2d
from sfl.nn.spatial import SpatialFeatureLayer

FORMATS = (torch.contiguous_format, torch.channels_last)
Make = Callable[..., nn.Module]  # takes device and dtype
Result = tuple[str, str, str, str | None, str | None]


@dataclass
class Sample:
    """An input of a module, and how ours and PyTorch's own are made."""

    kind: str
    words: str
    input: Tensor
    training: bool
    ours: Make
    theirs: Make

    def made(self, make: Make) -> nn.Module:
        torch.manual_seed(0)
        return make(dtype=self.input.dtype).train(self.training)


def samples(dtype: torch.dtype) -> Iterator[Sample]:
    """Those of Conv2d, BatchNorm2d and MaxPool2d."""
    infos = {info.module_cls: info for info in module_db}
    makers: dict[type[nn.Module], Any] = {
        nn.Conv2d: _layer, nn.BatchNorm2d: _norm, nn.MaxPool2d: _pool
    }  # fmt: skip
    for kind, makes in makers.items():
        for training in (True, False):
            given = infos[kind].module_inputs_func(
                infos[kind], device="cpu", dtype=dtype, requires_grad=True, training=training
            )
            for each in given:
                made, (x,) = each.constructor_input, each.forward_input.args
                words = f"{tuple(x.shape)} {made.args} {made.kwargs} {dtype} training={training}"
                yield Sample(
                    kind.__name__, words, x, training, *makes(x, *made.args, **made.kwargs)
                )


def _layer(x: Tensor, channels: int, *args: Any, **settings: Any) -> tuple[Make, Make]:
    size: Any = tuple(x.shape[-3:])
    ours = partial(SpatialFeatureLayer, size, *args, **settings)
    return ours, partial(nn.Conv2d, channels, *args, **settings)


def _norm(x: Tensor, *args: Any, **settings: Any) -> tuple[Make, Make]:
    ours, theirs = (
        partial(BatchNormReLU, *args, **settings),
        partial(nn.BatchNorm2d, *args, **settings),
    )
    return ours, lambda **more: nn.Sequential(theirs(**more), nn.ReLU())


def _pool(x: Tensor, *args: Any, **settings: Any) -> tuple[Make, Make]:
    """Ours has no settings."""
    return lambda **_: ReLUMaxPool2d(), lambda **_: nn.Sequential(nn.MaxPool2d(2), nn.ReLU())


# --- checks: each raises AssertionError or what the module raises


def saved(sample: Sample, make: Make) -> None:
    """A module that is saved, copied or given by its state_dict computes the same."""
    module, file = sample.made(make), io.BytesIO()
    copies = [copy.deepcopy(module), sample.made(make)]
    copies[1].load_state_dict(module.state_dict())
    torch.save(module, file)
    file.seek(0)
    copies.append(torch.load(file, weights_only=False))
    expected = module(sample.input)
    for other in copies:
        assert_close(other(sample.input), expected)
        assert repr(other) == repr(module)


def made_where_it_is_told(sample: Sample, make: Make) -> None:
    for dtype, device in product((torch.float32, torch.float64), ("cpu", "meta")):
        given = make(device=device, dtype=dtype)
        with torch.device(device):
            within = make(dtype=dtype)
        for module in (given, within, make(device=device).to(dtype)):
            for tensor in (*module.parameters(), *module.buffers()):
                assert tensor.device.type == device
                assert tensor.dtype == dtype or not tensor.is_floating_point()


def one_image(sample: Sample, make: Make) -> None:
    """(C, H, W) is a batch of one."""
    module, x = sample.made(make), sample.input
    if x.dim() == 3:
        assert_close(module(x), module(x[None])[0])


def strided(sample: Sample, make: Make) -> None:
    """Inputs, parameters and gradients that are every other number of something."""
    module, x = sample.made(make), sample.input
    dy = _gradient(module, x)
    expected = _gradients(module, x, dy)
    apart = copy.deepcopy(sample.made(make))
    for tensor in (*apart.parameters(), *apart.buffers()):
        tensor.data = _every_other(tensor.data)
    found = _gradients(apart, _every_other(x), _every_other(dy))
    assert_close(found, expected)
    assert_close(apart.state_dict(), module.state_dict())


def memory_format(sample: Sample, make: Make) -> None:
    """What comes out lies as what goes in, forward and backward."""
    if sample.input.dim() != 4:
        return
    x = sample.input
    dy = _gradient(sample.made(make), x)
    expected = _gradients(sample.made(make), x, dy)
    for order, of_module in product(FORMATS, FORMATS):
        module = sample.made(make)
        if not isinstance(module, nn.Conv2d):  # whose own weight's order tells that of its output
            module.to(memory_format=of_module)
        dy_there = dy.contiguous(memory_format=order)
        found = _gradients(module, x.contiguous(memory_format=order), dy_there)
        assert_close(found, expected)
        for tensor in found:
            assert tensor.is_contiguous(memory_format=order if tensor.dim() == 4 else FORMATS[0])


def derivatives(sample: Sample, make: Make) -> None:
    module = sample.made(make).double()
    inputs = (sample.input.detach().double().requires_grad_(), *module.parameters())
    names = dict(module.named_parameters())

    def function(x: Tensor, *parameters: Tensor) -> Any:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(copy.deepcopy(module), given, x)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def _gradient(module: nn.Module, x: Tensor) -> Tensor:
    """One of the module's output."""
    return torch.rand_like(copy.deepcopy(module)(x).detach())


def _gradients(module: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    x = x.detach().requires_grad_()
    y = module(x)
    return (y, *torch.autograd.grad(y, [x, *module.parameters()], dy))


def _every_other(x: Tensor) -> Tensor:
    return torch.stack([x.detach(), torch.full_like(x, 7)], dim=-1)[..., 0]


CHECKS = (saved, made_where_it_is_told, one_image, strided, memory_format)


def of_modules() -> Iterator[Result]:
    for dtype in (torch.float32, torch.float64):
        for sample in samples(dtype):
            checks = (*CHECKS, derivatives) if dtype == torch.float64 else CHECKS
            for check in checks:
                ours = _why(check, sample, sample.ours)
                theirs = ours and _why(check, sample, sample.theirs)
                yield check.__name__, sample.kind, sample.words, ours, theirs


# --- F.conv2d


def of_conv2d() -> Iterator[Result]:
    """With the same weights at all positions ours is F.conv2d, and refuses what that refuses."""
    (info,) = [info for info in op_db if info.name == "nn.functional.conv2d"]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for each in info.sample_inputs("cpu", dtype, requires_grad=True):
            for sample in (each, each.noncontiguous()):
                words = f"{dtype} {tuple(sample.input.shape)} {sample.kwargs}"
                yield "conv2d", "conv2d", words, _why(_as_conv2d, sample), None
    for error in info.error_inputs_func(info, "cpu"):
        sample = error.sample_input
        yield "refused", "conv2d", error.error_regex, _why(_refused, sample), None


def _shared(sample: Any) -> Tensor:
    """Ours with F.conv2d's arguments."""
    x, (weight, bias), settings = sample.input, sample.args, sample.kwargs
    like = F.conv2d(x.detach(), weight.detach(), None, **settings)
    filters = weight.permute(0, 2, 3, 1).expand(*like.shape[-2:], -1, -1, -1, -1)
    return spatial_conv2d(x, filters, bias, **settings)


def _as_conv2d(sample: Any) -> None:
    inputs = [sample.input, *(given for given in sample.args if given is not None)]
    expected, found = F.conv2d(sample.input, *sample.args, **sample.kwargs), _shared(sample)
    dy = torch.rand_like(expected)
    wanted = (expected, *torch.autograd.grad(expected, inputs, dy))
    # Of sums of numbers up to 81, which are rounded at other places.
    error = 100 * 81 * torch.finfo(expected.dtype).eps
    assert_close((found, *torch.autograd.grad(found, inputs, dy)), wanted, rtol=0.05, atol=error)


def _refused(sample: Any) -> None:
    weight, *bias = sample.args
    filters = weight.movedim(1, -1)[None, None]
    try:
        spatial_conv2d(sample.input, filters, *bias, **sample.kwargs)
    except (ValueError, TypeError):
        return
    raise AssertionError("not refused")


def _why(check: Callable[..., None], *given: Any) -> str | None:
    """What a check says, or None where it passes."""
    try:
        check(*given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None


if __name__ == "__main__":
    torch.set_num_threads(1)  # small tensors, and a machine that others use, too
    print(json.dumps([*of_modules(), *of_conv2d()]))
