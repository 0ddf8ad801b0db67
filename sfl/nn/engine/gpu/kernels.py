"""The product and its two gradients as Triton kernels.

No field is laid out in memory: each program walks a field by address. Each number of a result has
one writer, which adds in one order (no atomics): the same inputs give the same bits.

In memory, and contiguous: x (H, W, C, B), y (OH, OW, O, B), weights (OH, OW, O, kh, kw, C/G), bias
(O, OH, OW). A program makes one block of ROWS × COLUMNS, as a sum over a depth of DEPTH at a time:
  forward          of one position and group: outputs × images, over the field (i, j, c);
  input_gradient   of one place of the input and group: channels × images, over the positions that
                   see the place, (tap, o);
  weight_gradient  of one position and group: outputs × weights of a field, over the images.
Weights may be float32 where x and y are of a smaller float: they are rounded in registers.

E, along each axis: stride / gcd(stride, dilation). The taps that see one place of the input are E
apart.
WIDE: whether a tensor has 2³¹ numbers or more.
"""

# ruff: noqa: E741 - O is what it is called everywhere
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
import os

import triton
import triton.language as tl

# Triton's interpreter multiplies bfloat16 as the whole numbers of 16 bits that it keeps them in.
# There, and only there, products are taken of float32.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")

# What these numbers are is not compiled in, so that a kernel for small images is the same.
GENERAL = ("height", "width", "positions_h", "positions_w")


@triton.jit
def _product(a, b, total, PRECISION: tl.constexpr):
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=PRECISION)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _field(
    k, top, left, group, height, width,
    C: tl.constexpr, CG: tl.constexpr, K: tl.constexpr, KW: tl.constexpr, DH: tl.constexpr,
    DW: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The rows of x that weights k see of a field at (top, left), and which of them there are."""
    tap = k // CG
    h = top + tap // KW * DH
    w = left + tap % KW * DW
    there = k < K
    if BORDER:
        there = there & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    row = (h * width + w) * C + group * CG + k % CG
    if WIDE:
        row = row.to(tl.int64)
    return row, there


@triton.jit
def _taps(at, K: tl.constexpr, S: tl.constexpr, D: tl.constexpr, E: tl.constexpr):
    """The first tap that sees place `at` from a position, and how many do: every E-th from it on.

    Tap i sees it from position (at - i·D) / S, where that is whole.
    """
    first = at * 0
    count = at * 0 + K
    if E > 1:
        first += K  # none
        for early in tl.static_range(E):
            first = tl.where((at - early * D) % S == 0, early, first)
        count = (K - first + E - 1) // E
    return first, count


@triton.jit
def _position(at, tap, positions, S: tl.constexpr, D: tl.constexpr, E: tl.constexpr):
    """From which position the tap sees place `at`, and whether there is such a one."""
    reached = at - tap * D
    position = reached // S
    there = (reached >= 0) & (position < positions)
    if S > E:  # stride and dilation have a common factor: some places no tap sees
        there = there & (reached % S == 0)
    return position, there


@triton.jit(do_not_specialize=GENERAL)
def forward(
    x, w, bias, y, batch, height, width, positions_h, positions_w,
    C: tl.constexpr, O: tl.constexpr, G: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, EH: tl.constexpr, EW: tl.constexpr,
    BIAS: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Writes y."""
    CG: tl.constexpr = C // G
    OG: tl.constexpr = O // G
    K: tl.constexpr = KH * KW * CG
    BLOCKS: tl.constexpr = (OG + ROWS - 1) // ROWS
    number = tl.program_id(0)
    batches = tl.cdiv(batch, COLUMNS)
    o = number % BLOCKS * ROWS + tl.arange(0, ROWS)
    b = number // BLOCKS % batches * COLUMNS + tl.arange(0, COLUMNS)
    place = number // BLOCKS // batches  # neighbours share what they read of x
    g = place % G
    p = place // G
    top = p // positions_w * SH - PH
    left = p % positions_w * SW - PW
    some_o = o < OG
    some_b = b < batch
    if WIDE:
        p = p.to(tl.int64)
    unit = p * O + g * OG + o  # its row of y, and of the weights
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, DEPTH):
        k = start + tl.arange(0, DEPTH)
        row, there = _field(k, top, left, g, height, width, C, CG, K, KW, DH, DW, BORDER, WIDE)
        field = tl.load(
            x + row[:, None] * batch + b[None, :], mask=there[:, None] & some_b[None, :], other=0.0
        )
        filters = tl.load(
            w + unit[:, None] * K + k[None, :], mask=some_o[:, None] & (k < K)[None, :], other=0.0
        ).to(x.dtype.element_ty)
        if BORDER:  # a weight of padding may be NaN; a mask by tap would split the loads
            filters = tl.where(there[None, :], filters, 0.0).to(x.dtype.element_ty)
        total = _product(filters, field, total, PRECISION)
    if BIAS:
        each = bias + (g * OG + o) * (positions_h * positions_w) + p
        total += tl.load(each, mask=some_o, other=0.0).to(tl.float32)[:, None]
    tl.store(
        y + unit[:, None] * batch + b[None, :],
        total.to(y.dtype.element_ty),
        mask=some_o[:, None] & some_b[None, :],
    )


@triton.jit(do_not_specialize=GENERAL)
def input_gradient(
    x, w, bias, y, batch, height, width, positions_h, positions_w,
    C: tl.constexpr, O: tl.constexpr, G: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, EH: tl.constexpr, EW: tl.constexpr,
    BIAS: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of x to x, from that of y."""
    CG: tl.constexpr = C // G
    OG: tl.constexpr = O // G
    K: tl.constexpr = KH * KW * CG
    BLOCKS: tl.constexpr = (CG + ROWS - 1) // ROWS
    number = tl.program_id(0)
    batches = tl.cdiv(batch, COLUMNS)
    c = number % BLOCKS * ROWS + tl.arange(0, ROWS)
    b = number // BLOCKS % batches * COLUMNS + tl.arange(0, COLUMNS)
    place = number // BLOCKS // batches
    g = place % G
    q = place // G  # the place in the input
    down = q // width + PH
    across = q % width + PW
    some_c = c < CG
    some_b = b < batch
    first_i, taps_h = _taps(down, KH, SH, DH, EH)
    first_j, taps_w = _taps(across, KW, SW, DW, EW)
    depth = taps_h * taps_w * OG
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        tap = k // OG
        i = first_i + tap // taps_w * EH
        j = first_j + tap % taps_w * EW
        oh, there_h = _position(down, i, positions_h, SH, DH, EH)
        ow, there_w = _position(across, j, positions_w, SW, DW, EW)
        there = (k < depth) & there_h & there_w
        unit = (oh * positions_w + ow) * O + g * OG + k % OG
        if WIDE:
            unit = unit.to(tl.int64)
        from_y = tl.load(
            y + unit[:, None] * batch + b[None, :], mask=there[:, None] & some_b[None, :], other=0.0
        )
        filters = tl.load(
            w + (unit * K + (i * KW + j) * CG)[None, :] + c[:, None],
            mask=there[None, :] & some_c[:, None],
            other=0.0,
        ).to(y.dtype.element_ty)
        total = _product(filters, from_y, total, PRECISION)
    row = q * C + g * CG + c
    if WIDE:
        row = row.to(tl.int64)
    tl.store(
        x + row[:, None] * batch + b[None, :],
        total.to(x.dtype.element_ty),
        mask=some_c[:, None] & some_b[None, :],
    )


@triton.jit(do_not_specialize=GENERAL)
def weight_gradient(
    x, w, bias, y, batch, height, width, positions_h, positions_w,
    C: tl.constexpr, O: tl.constexpr, G: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, EH: tl.constexpr, EW: tl.constexpr,
    BIAS: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of w to w, from x and the gradient of y."""
    CG: tl.constexpr = C // G
    OG: tl.constexpr = O // G
    K: tl.constexpr = KH * KW * CG
    BLOCKS: tl.constexpr = (OG + ROWS - 1) // ROWS
    PARTS: tl.constexpr = (K + COLUMNS - 1) // COLUMNS
    number = tl.program_id(0)
    k = number % PARTS * COLUMNS + tl.arange(0, COLUMNS)
    o = number // PARTS % BLOCKS * ROWS + tl.arange(0, ROWS)
    place = number // PARTS // BLOCKS
    g = place % G
    p = place // G
    top = p // positions_w * SH - PH
    left = p % positions_w * SW - PW
    row, there = _field(k, top, left, g, height, width, C, CG, K, KW, DH, DW, BORDER, WIDE)
    if WIDE:
        p = p.to(tl.int64)
    some_o = o < OG
    unit = p * O + g * OG + o
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, batch, DEPTH):
        b = start + tl.arange(0, DEPTH)
        some_b = b < batch
        from_y = tl.load(
            y + unit[:, None] * batch + b[None, :],
            mask=some_o[:, None] & some_b[None, :],
            other=0.0,
        )
        field = tl.load(
            x + row[:, None] * batch + b[None, :], mask=there[:, None] & some_b[None, :], other=0.0
        )
        total = _product(from_y, tl.trans(field), total, PRECISION)
    tl.store(
        w + unit[:, None] * K + k[None, :],
        total.to(w.dtype.element_ty),
        mask=some_o[:, None] & (k < K)[None, :],
    )
