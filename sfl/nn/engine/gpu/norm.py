"""Batch normalisation with ReLU, as Triton kernels: `sfl.nn.engine.fused` gives them to autograd.

PyTorch's own sums up each channel with one multiprocessor, and a local network has few channels and
many positions: on one with 132 they idle. Here a channel's numbers are summed up in up to PARTS
parts, and what uses the sums adds the parts itself, in one order: two launches each way, and the
same bits each time.

In memory: x (H·W, C, B). Sums are float32; they are taken of x minus the channel's first number, so
that a mean far from 0 costs no digits (unless that number itself is far from the mean).

Shapes: x (B, C, H, W) with its batch innermost, of a float of 16 or 32 bits; parameters and
statistics (C,) float32.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from sfl.nn.engine.gpu import trust
from sfl.nn.engine.gpu.launch import ready
from sfl.nn.engine.memory_order import batch_innermost, empty_like, positions_outermost

PARTS = 256
TILE = 4096  # numbers of a program at a time
MOST_CHANNELS = 65535  # CUDA's limit for the second axis of a grid
# What these numbers are is not compiled in, so that a kernel for few places is the same.
GENERAL = ("places", "channels", "tiles")

Statistics = tuple[Tensor, Tensor, Tensor]  # mean, biased variance, 1 / √(variance + eps)


@triton.jit
def _places(tile, c, places, channels, batch, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where a tile of a channel lies in memory, and which of it exists."""
    across = tl.cdiv(batch, COLUMNS)
    p = tile // across * ROWS + tl.arange(0, ROWS)
    b = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    row = (p.to(tl.int64) * channels + c) * batch
    return row[:, None] + b[None, :], (p < places)[:, None] & (b < batch)[None, :]


@triton.jit
def _total(parts, number, c, channels, PARTS: tl.constexpr):
    """The sum of a channel's parts of the `number`-th sum: of each tile, but at most PARTS."""
    part = tl.arange(0, PARTS)
    at = parts + (number * channels + c) * PARTS + part
    return tl.sum(tl.load(at, mask=part < tl.num_programs(0), other=0.0), axis=0)


@triton.jit(do_not_specialize=GENERAL)
def _sums(
    x, parts, tiles, places, channels, batch,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Writes each part's sum and sum of squares of x minus the channel's first number."""
    part, c = tl.program_id(0), tl.program_id(1)
    first = tl.load(x + c.to(tl.int64) * batch).to(tl.float32)
    one = tl.zeros((ROWS, COLUMNS), tl.float32)
    two = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(part, tiles, tl.num_programs(0)):
        at, there = _places(tile, c, places, channels, batch, ROWS, COLUMNS)
        apart = tl.load(x + at, mask=there, other=0.0).to(tl.float32) - first
        apart = tl.where(there, apart, 0.0)
        one += apart
        two += apart * apart
    tl.store(parts + c * PARTS + part, tl.sum(tl.sum(one, axis=1), axis=0))
    tl.store(parts + (channels + c) * PARTS + part, tl.sum(tl.sum(two, axis=1), axis=0))


@triton.jit(do_not_specialize=GENERAL)
def _normalise(
    x, weight, bias, parts, y, mean_of, variance_of, scale_of, eps, places, channels, batch,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Writes a tile of y; of each channel, the first program writes the statistics."""
    tile, c = tl.program_id(0), tl.program_id(1)
    numbers = places.to(tl.float32) * batch
    apart = _total(parts, 0, c, channels, PARTS) / numbers
    mean = tl.load(x + c.to(tl.int64) * batch).to(tl.float32) + apart
    variance = _total(parts, 1, c, channels, PARTS) / numbers - apart * apart
    variance = tl.maximum(variance, 0.0)
    scale = 1 / tl.sqrt(variance + eps)
    if tile == 0:
        tl.store(mean_of + c, mean)
        tl.store(variance_of + c, variance)
        tl.store(scale_of + c, scale)
    at, there = _places(tile, c, places, channels, batch, ROWS, COLUMNS)
    value = (tl.load(x + at, mask=there, other=0.0).to(tl.float32) - mean) * scale
    value = value * tl.load(weight + c) + tl.load(bias + c)
    value = tl.where(value < 0, 0.0, value)  # NaN stays
    tl.store(y + at, value.to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=GENERAL)
def _backward_sums(
    dy, x, weight, bias, mean, scale, parts, tiles, places, channels, batch,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Writes each part's sums of the gradient behind the ReLU, and of it times the normalised x."""
    part, c = tl.program_id(0), tl.program_id(1)
    m, s = tl.load(mean + c), tl.load(scale + c)
    w, shift = tl.load(weight + c), tl.load(bias + c)
    one = tl.zeros((ROWS, COLUMNS), tl.float32)
    two = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(part, tiles, tl.num_programs(0)):
        at, there = _places(tile, c, places, channels, batch, ROWS, COLUMNS)
        normalised = (tl.load(x + at, mask=there, other=0.0).to(tl.float32) - m) * s
        d = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        d = tl.where(normalised * w + shift <= 0, 0.0, d)
        one += d
        two += tl.where(there, d * normalised, 0.0)
    tl.store(parts + c * PARTS + part, tl.sum(tl.sum(one, axis=1), axis=0))
    tl.store(parts + (channels + c) * PARTS + part, tl.sum(tl.sum(two, axis=1), axis=0))


@triton.jit(do_not_specialize=GENERAL)
def _backward(
    dy, x, weight, bias, mean, scale, parts, dx, dw, db, places, channels, batch,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Writes a tile of dx; of each channel, the first program writes those of weight and bias."""
    tile, c = tl.program_id(0), tl.program_id(1)
    of_bias = _total(parts, 0, c, channels, PARTS)
    of_weight = _total(parts, 1, c, channels, PARTS)
    if tile == 0:
        tl.store(dw + c, of_weight)
        tl.store(db + c, of_bias)
    numbers = places.to(tl.float32) * batch
    m, s = tl.load(mean + c), tl.load(scale + c)
    w, shift = tl.load(weight + c), tl.load(bias + c)
    at, there = _places(tile, c, places, channels, batch, ROWS, COLUMNS)
    normalised = (tl.load(x + at, mask=there, other=0.0).to(tl.float32) - m) * s
    d = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
    d = tl.where(normalised * w + shift <= 0, 0.0, d)
    d = w * s * (d - of_bias / numbers - normalised * (of_weight / numbers))
    tl.store(dx + at, d.to(dx.dtype.element_ty), mask=there)


def norm_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Statistics]:
    """relu(batch_norm(x)), and the batch's statistics."""
    x = batch_innermost(x)  # saved tensors may come back in another order
    inner, y = ready(positions_outermost(x)), empty_like(x)
    channels, (sizes, tiles, parts) = inner.shape[2], _plan(inner)
    mean, variance, scale = (parts.new_empty(channels) for _ in range(3))
    with torch.cuda.device_of(x):
        _sums[min(tiles, PARTS), channels](inner, parts, tiles, *sizes)
        _normalise[tiles, channels](
            inner, ready(weight), ready(bias), parts, positions_outermost(y),
            mean, variance, scale, eps, *sizes,
        )  # fmt: skip
    return y, (mean, variance, scale)


def norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    x = batch_innermost(x)
    inner, dx = ready(positions_outermost(x)), empty_like(x)
    channels, (sizes, tiles, parts) = inner.shape[2], _plan(inner)
    dw, db = (parts.new_empty(channels) for _ in range(2))
    given = (ready(positions_outermost(dy)), inner, ready(weight), ready(bias), mean, scale)
    with torch.cuda.device_of(x):
        _backward_sums[min(tiles, PARTS), channels](*given, parts, tiles, *sizes)
        _backward[tiles, channels](*given, parts, positions_outermost(dx), dw, db, *sizes)
    return dx, dw, db


def _plan(inner: Tensor) -> tuple[tuple[int, int, int, int, int, int], int, Tensor]:
    """For x (H, W, C, B): every kernel's last arguments, the tiles of a channel, room for sums."""
    height, width, channels, batch = inner.shape
    columns = min(triton.next_power_of_2(batch), 1024)
    rows = TILE // columns
    tiles = triton.cdiv(height * width, rows) * triton.cdiv(batch, columns)
    parts = torch.empty(2, channels, PARTS, dtype=torch.float32, device=inner.device)
    sizes = (height * width, channels, batch, rows, columns, PARTS)
    return sizes, tiles, parts


def serves(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether the kernels may be used for x and parameters; compares them at their first use."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or not x.numel():
        return False
    if x.shape[1] > MOST_CHANNELS:
        return False
    if x.shape[2:].numel() == 1:  # PyTorch's own keeps the GPU busy if there are many channels
        return False
    if not weight.dtype == bias.dtype == torch.float32:
        return False
    columns = min(triton.next_power_of_2(x.shape[0]), 1024)
    batch = "any" if x.shape[0] % 16 else "16n"
    kernel = ("norm", columns, x.dtype, batch)
    bound = trust.EXACT if x.dtype == torch.float32 else trust.HALF
    with torch.inference_mode(False), torch.enable_grad():  # gradients are compared, too
        return trust.trusts("norm", kernel, x.device, lambda: error_of(x), bound)


def error_of(like: Tensor) -> float:
    """The largest relative error, in the 2-norm, on random numbers of 3 channels and so many places
    that a channel has several tiles.
    """
    generator = torch.Generator(like.device).manual_seed(0)
    batch = min(len(like), 1040 + len(like) % 16)  # as Triton compiles for it: by 16 or not
    shape = (batch, 3, 2 * TILE // min(triton.next_power_of_2(batch), 1024) + 1, 1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=like.device)

    x, dy = (batch_innermost((drawn(*shape) + shift).to(like.dtype)) for shift in (3, 0))
    weight, bias = 1 + drawn(3) / 4, drawn(3) / 4  # so that no channel is 0 behind the ReLU
    y, (mean, _, scale) = norm_forward(x, weight, bias, 1e-5)
    found = [y, *norm_backward(dy, x, weight, bias, mean, scale)]
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    right = F.relu(F.batch_norm(exact[0], None, None, exact[1], exact[2], True, 0.0, 1e-5))
    wanted = [right.detach(), *torch.autograd.grad(right, exact, dy.double())]
    pairs = zip(found, wanted, strict=True)
    return float(torch.tensor([trust.relative_error(*pair) for pair in pairs]).max())  # or NaN
