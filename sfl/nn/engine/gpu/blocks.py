"""In which blocks a kernel computes: by a rule, never by timing.

What is timed may choose otherwise in the next run, and other blocks add up in another order: the
same seed would no longer give the same run.
"""

from typing import NamedTuple

import torch


class Blocks(NamedTuple):
    """Rows, columns and depth of a program's product; the stages of its pipeline."""

    rows: int
    columns: int
    depth: int
    stages: int


# Of a program: one warp group. With two, one may overwrite shared memory that the other still reads
# (Triton's issue 11047).
WARPS = 4
# The fewest rows, columns and depth of a product on tensor cores.
LEAST = 16


def blocks_for(
    rows: int,
    columns: int,
    depth: int,
    places: int,
    dtype: torch.dtype,
    processors: int,
    unchanged: bool,
) -> Blocks:
    """The blocks of so many products (places), each of so many rows, columns and depth.

    processors: the GPU's multiprocessors; blocks are made smaller until each has two programs.
    unchanged: whether both factors are multiplied as they were loaded (the weights' gradient).
        Otherwise the weights are rounded or masked in registers first.
    """
    half = dtype != torch.float32
    # From 64 rows on, Triton takes Hopper's asynchronous product (wgmma). If one of its factors is
    # in registers, ptxas before 13.3 writes to them while they are still read: on an H200 results
    # were wrong, at random (Triton's issue 9433 and pull request 11781). In float32, wgmma has TF32
    # alone, from shared memory, in an order that x isn't in; and IEEE products need over 200
    # registers.
    most = 64 if half and unchanged else 32
    widest = 128 if half and not unchanged else 64
    height, width = _power(rows, most), _power(columns, widest)
    while places * -(-rows // height) * -(-columns // width) < 2 * processors:
        if width >= 2 * height and width > 32:
            width //= 2
        elif height > LEAST:
            height //= 2
        else:
            break
    # Deeper ones need more registers than some GPUs have for a program: in float32 most of all, and
    # where the depth (the images) is read one by one, since 16 doesn't divide it.
    deepest = 32
    if unchanged:
        wide = height * width > 32 * 32 and depth % 16 == 0
        deepest = 16 if not half else 64 if wide else 32
    return Blocks(height, width, _power(depth, deepest), 2 if unchanged else 3)


def _power(n: int, most: int) -> int:
    """The power of two that holds n, between LEAST and most."""
    return max(LEAST, min(most, 1 << (n - 1).bit_length()))
