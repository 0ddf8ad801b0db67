"""Copies a tensor into another order in memory, faster than PyTorch (turn.h)."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from sfl.nn.engine.cpu import build


class _Axis(NamedTuple):
    size: int
    read: int  # numbers between two of its places in the source
    written: int  # and in the target


def copy(target: Tensor, source: Tensor) -> None:
    """target.copy_(source): of one shape, float32 or float64, each dense in memory."""
    prepared(target, source)()


def prepared(target: Tensor, source: Tensor) -> build.Step:
    """What copies so. It keeps the tensors."""
    numbers = _numbers(target.shape, source.stride(), target.stride())
    if numbers is None:
        return functools.partial(target.copy_, source)
    return build.prepared("turn", (*numbers, torch.get_num_threads()), source, target)


@functools.lru_cache(1024)
def _numbers(
    shape: torch.Size, read: tuple[int, ...], written: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Those of turn.h's Turn, in its order, but the threads; None: PyTorch is to copy."""
    axes = _axes(shape, read, written)
    rows = next((axis for axis in axes if axis.written == 1), None)
    columns = next((axis for axis in axes if axis.read == 1), None)
    others = [axis for axis in axes if axis not in (rows, columns)]
    others.sort(key=lambda axis: -axis.read)  # what is read lies in longer pieces than is written
    if rows is None or columns is None or rows is columns:  # PyTorch is fast there
        return None
    if len(others) > 2 or 0 in shape:
        return None
    i, j = *others, *(_Axis(1, 0, 0) for _ in range(2 - len(others)))
    sizes = (rows.size, i.size, j.size, columns.size)
    return (*sizes, rows.read, i.read, j.read, i.written, j.written, columns.written)


def _axes(shape: torch.Size, read: tuple[int, ...], written: tuple[int, ...]) -> list[_Axis]:
    """The axes, those that lie behind one another on both sides as one, outermost first."""
    each = map(_Axis, shape, read, written)
    merged: list[_Axis] = []
    for axis in sorted((a for a in each if a.size > 1), key=lambda a: -a.written):
        inside = (axis.size * axis.read, axis.size * axis.written)
        if merged and merged[-1][1:] == inside:
            axis = axis._replace(size=merged.pop().size * axis.size)
        merged.append(axis)
    return merged
