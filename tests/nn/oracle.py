"""The locally connected layer as plain loops over positions: what all its forms must equal."""

import torch
from torch import Tensor

from sfl.nn.window import Window


def by_loops(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1
) -> Tensor:
    """x (B, C, H, W), weight (OH, OW, O, kh, kw, C/G), bias (O, OH, OW); in x's own dtype.

    Differentiable, one position after the other: cut out the field, multiply, add up.
    """
    (kh, kw), (sh, sw), (ph, pw) = window.kernel, window.stride, window.padding
    (dh, dw), (positions_h, positions_w) = window.dilation, weight.shape[:2]
    room = max(window.padding) + max(
        window.reach((positions_h, positions_w))
    )  # enough for any field
    padded = torch.nn.functional.pad(x, [room] * 4)
    rows = []
    for oh in range(positions_h):
        columns = []
        for ow in range(positions_w):
            top, left = room + oh * sh - ph, room + ow * sw - pw
            field = padded[:, :, top : top + kh * dh : dh, left : left + kw * dw : dw]
            parts = [
                torch.einsum("bcij,oijc->bo", part, filters)
                for part, filters in zip(
                    field.chunk(groups, 1), weight[oh, ow].chunk(groups, 0), strict=True
                )
            ]
            columns.append(torch.cat(parts, dim=1))
        rows.append(torch.stack(columns, dim=2))
    y = torch.stack(rows, dim=2)
    return y if bias is None else y + bias
