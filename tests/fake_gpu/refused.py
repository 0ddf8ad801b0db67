"""python -m tests.fake_gpu.refused, on a fake GPU: what a recording that fails leaves behind.

Prints "as before" if the stream is the one that it was, numbers are drawn, and the next function
can be recorded.
"""

import os

import torch
from torch import Tensor

from sfl.learning.cuda_graph import WARM_UP, Graphed


def waits(x: Tensor) -> tuple[Tensor, ...]:
    y = torch.dropout(x, 0.5, train=True)
    return (y * float(y.sum()),)


def works(x: Tensor) -> tuple[Tensor, ...]:
    return (torch.dropout(x, 0.5, train=True),)


if __name__ == "__main__":
    said: list[RuntimeError] = []
    x, before = torch.ones(3, device="cuda"), torch.cuda.current_stream()
    for function in (waits, works):
        graphed = Graphed(function, said.append)
        for _ in range(WARM_UP + 2):
            graphed(x)
    assert len(said) == 1, said
    assert torch.cuda.current_stream() == before
    torch.rand(3, device="cuda")
    print("as before", flush=True)
    os._exit(0)  # what ends CUDA would meet functions that aren't there
