"""The engine for every device: the product and its two gradients in plain PyTorch.

Three functions, each linear in both of its tensors; `operators` makes operators of them. They know
no autograd, and other engines must compute what they compute.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW positions, kh×kw kernel, G groups.
Inside, activations are (H, W, C, B): each position of each group is one matrix product,
(O/G, K) × (K, B) with K = kh·kw·C/G, and needs no reordering of its result. Weights are
(OH, OW, O, kh, kw, C/G): a row of a field is then one piece of memory; they may be float32 where
activations are of a smaller float, and are rounded to it for the product. The fields (patches) of a
few rows of positions are copied together at a time, stay in the cache, and are made again for the
gradients rather than kept.
"""

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sfl.nn.engine.memory_order import empty, empty_like, filled, positions_outermost, room_for
from sfl.nn.window import Window, field_mask

NAME = "reference"


# Bytes of the fields that are laid out at a time: as much as stays in a CPU's cache; a GPU wants
# few large products.
CPU_BAND, GPU_BAND = 4 << 20, 256 << 20
MOST_PRODUCTS = 65535  # in one call of cuBLAS: some of its versions give garbage beyond


def copy(target: Tensor, source: Tensor) -> None:
    """target.copy_(source), which may lie in another order in memory."""
    target.copy_(source)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """x (B, C, H, W), weight (OH, OW, O, kh, kw, C/G), bias (O, OH, OW) → (B, O, OH, OW).

    y lies in memory as x does.
    """
    positions_h, positions_w, out_channels = weight.shape[:3]
    weight = weight.to(x.dtype).contiguous()
    output = empty(x, positions_h, positions_w, out_channels)
    y = room_for(output)
    missing = _missing(x.shape[2:], window, (positions_h, positions_w), x.device)
    padded = _padded(positions_outermost(x), window, (positions_h, positions_w))
    for rows in _bands(padded, window, positions_h, positions_w):
        filters = weight[rows]
        if missing is not None:
            filters = filters.masked_fill(missing[rows], 0)
        fields = _fields(padded, rows, window, positions_w, groups)
        _multiply(_matrices(filters, groups), fields, _columns(y[rows], groups))
    if bias is not None:
        y += bias.permute(1, 2, 0)[..., None]
    return filled(output, y)


def input_gradient(dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int) -> Tensor:
    """The gradient of x (B, C, H, W) from that of y, dy (B, O, OH, OW); it lies as x does."""
    positions_h, positions_w, _, kh, kw, channels = weight.shape
    weight = weight.to(dy.dtype).contiguous()
    output, size = empty_like(x), x.shape[2:]
    dy = positions_outermost(dy)
    (top, left), batch = window.padding, dy.shape[3]
    height, width = window.reach((positions_h, positions_w))
    # Room for the input and all that the windows reach of its padding.
    height, width = max(height, top + size[0]), max(width, left + size[1])
    # The sum over the taps is taken in float32 at least, as the products take theirs.
    exact = torch.promote_types(dy.dtype, torch.float32)
    dx = dy.new_zeros(height, width, channels * groups, batch, dtype=exact)
    for rows in _bands(dx, window, positions_h, positions_w):
        filters, columns = _matrices(weight[rows], groups).mT, _columns(dy[rows], groups)
        fields = dy.new_empty(*filters.shape[:2], batch)
        _multiply(filters, columns, fields)
        n = rows.stop - rows.start
        fields = fields.view(n, positions_w, groups, kh, kw, channels, batch)
        for i in range(kh):
            for j in range(kw):
                tap = _tap(dx, rows, i, j, window, positions_w)
                tap.unflatten(2, (groups, channels)).add_(fields[:, :, :, i, j])
    inside = dx[top : top + size[0], left : left + size[1]]
    return output.copy_(inside.permute(3, 2, 0, 1))


def weight_gradient(
    x: Tensor, dy: Tensor, dtype: torch.dtype, window: Window, groups: int
) -> Tensor:
    """The gradient of the weight (OH, OW, O, kh, kw, C/G) from x and that of y, in that dtype."""
    x, dy = positions_outermost(x), positions_outermost(dy)
    positions_h, positions_w, out_channels, _ = dy.shape
    channels, (kh, kw) = x.shape[2] // groups, window.kernel
    x = _padded(x, window, (positions_h, positions_w))
    dw = dy.new_empty(positions_h, positions_w, out_channels, kh, kw, channels)
    for rows in _bands(x, window, positions_h, positions_w):
        fields = _fields(x, rows, window, positions_w, groups)
        _multiply(_columns(dy[rows], groups), fields.mT, _matrices(dw[rows], groups))
    return dw.to(dtype)


def with_all_derivatives(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Tensor:
    """The same as `forward`, of operations that PyTorch has every rule for, and slower.

    For forward-mode derivatives, the transforms of torch.func, exports and DTensor.
    """
    positions_h, positions_w, out_channels, kh, kw, channels = weight.shape
    # Weights of padding are left out: times zero, one that isn't finite would be NaN. A tensor of
    # x's own type says which they are, since a DTensor is computed with DTensors only.
    exist = _taps(x.new_ones(*x.shape[2:], 1, 1), window, (positions_h, positions_w))
    exist = exist.view(positions_h, positions_w, 1, kh, kw, 1)
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    weight = weight.masked_fill(exist == 0, 0)
    fields = _taps(x.permute(2, 3, 1, 0), window, (positions_h, positions_w))
    fields = fields.unflatten(3, (groups, channels))  # (OH, OW, kh·kw, G, C/G, B)
    matrices = weight.unflatten(2, (groups, out_channels // groups)).flatten(4, 5)
    y = torch.einsum("yxgotc,yxtgcb->bgoyx", matrices, fields).flatten(1, 2)
    return y if bias is None else y + bias


def _multiply(first: Tensor, second: Tensor, output: Tensor) -> None:
    """output = first @ second, of batches of matrices."""
    for start in range(0, max(1, len(output)), MOST_PRODUCTS):
        some = slice(start, start + MOST_PRODUCTS)
        torch.bmm(first[some], second[some], out=output[some])


@functools.cache  # so that a step moves nothing to the device, and fits into a CUDA graph
def _missing(
    size: Sequence[int], window: Window, positions: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Which weights are those of padding, (OH, OW, 1, kh, kw, 1) bool, or None where none are.

    Times the zeros of the padding, a weight that isn't finite would be NaN.
    """
    reach = window.reach(positions)
    if window.padding == (0, 0) and reach[0] <= size[0] and reach[1] <= size[1]:
        return None
    exist = field_mask(size, window, positions)[:, :, None, :, :, None]
    return exist.logical_not().to(device)


def _padded(x: Tensor, window: Window, positions: tuple[int, int]) -> Tensor:
    """x (H, W, C, B) with zeros around it, as far as the windows reach."""
    (top, left), (height, width) = window.padding, window.reach(positions)
    bottom, right = (max(0, height - top - x.shape[0]), max(0, width - left - x.shape[1]))
    if not any((top, left, bottom, right)):
        return x
    return torch.nn.functional.pad(x, (0, 0, 0, 0, left, right, top, bottom))


def _bands(x: Tensor, window: Window, positions_h: int, positions_w: int) -> Iterator[slice]:
    """Rows of positions, so many at a time that their fields take no more than a band's bytes."""
    channels, batch = x.shape[2:]
    kh, kw = window.kernel
    row = max(1, positions_w * channels * kh * kw * batch * x.element_size())
    step = max(1, (GPU_BAND if x.is_cuda else CPU_BAND) // row)
    return (slice(i, min(i + step, positions_h)) for i in range(0, positions_h, step))


def _fields(x: Tensor, rows: slice, window: Window, positions_w: int, groups: int) -> Tensor:
    """The fields of some rows of positions, side by side: (n·OW·G, K, B), from padded x."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    channels, batch = x.shape[2] // groups, x.shape[3]
    along_h, along_w, along_c, _ = x.stride()
    n = rows.stop - rows.start
    view = x[rows.start * sh :].as_strided(
        (n, positions_w, groups, kh, kw, channels, batch),
        (along_h * sh, along_w * sw, along_c * channels, along_h * dh, along_w * dw, along_c, 1),
    )
    return view.reshape(n * positions_w * groups, kh * kw * channels, batch)


def _taps(x: Tensor, window: Window, positions: tuple[int, int]) -> Tensor:
    """What each of the kernel's places sees of x (H, W, C, B): (OH, OW, kh·kw, C, B)."""
    x, (kh, kw), rows = _padded(x, window, positions), window.kernel, slice(0, positions[0])
    taps = [_tap(x, rows, i, j, window, positions[1]) for i in range(kh) for j in range(kw)]
    return torch.stack(taps, dim=2)


def _tap(x: Tensor, rows: slice, i: int, j: int, window: Window, positions_w: int) -> Tensor:
    """What the kernel's place (i, j) sees from some rows of positions: a view (n, OW, C, B)."""
    (sh, sw), (dh, dw) = window.stride, window.dilation
    first_h, first_w = rows.start * sh + i * dh, j * dw
    last_h, last_w = (rows.stop - 1) * sh + i * dh, (positions_w - 1) * sw + j * dw
    return x[first_h : last_h + 1 : sh, first_w : last_w + 1 : sw]


def _matrices(weight: Tensor, groups: int) -> Tensor:
    """(n, OW, O, kh, kw, C/G) → (n·OW·G, O/G, K), a view."""
    n, positions_w, out_channels, *field = weight.shape
    size = field[0] * field[1] * field[2]
    return weight.view(n * positions_w * groups, out_channels // groups, size)


def _columns(y: Tensor, groups: int) -> Tensor:
    """(n, OW, O, B) → (n·OW·G, O/G, B), a view."""
    n, positions_w, out_channels, batch = y.shape
    return y.view(n * positions_w * groups, out_channels // groups, batch)
