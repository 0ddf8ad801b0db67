"""One training step in a process of its own, repeated on request; see sfl.bench.steps.Worker.

python -m sfl.bench.worker NAME takes a step for each line of its input and prints its seconds; on a
CUDA device ten, which it launches without waiting, and prints a tenth of theirs. At the end it
prints the peak of its memory above what torch itself takes: for its import, and for one step of an
optimizer, which loads its compiler. On a CUDA device: the peak of that device's memory.
"""

import sys
import time

from sfl.host_memory import peak_bytes, reuse_memory


def main(name: str) -> None:
    """Takes the steps that its input asks for."""
    model, _, kind = name.partition(", ")
    if kind != "notebook":
        reuse_memory()  # as `sfl train` does
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.Adam([weight], fused=True).step()
    before = peak_bytes() or 0
    from sfl.bench.steps import notebook_step, our_step
    from sfl.bench.timing import wait
    from sfl.learning.cuda_graph import WARM_UP
    from sfl.training.device import pick_device

    step = notebook_step(model) if kind == "notebook" else our_step(name)
    on_gpu = pick_device("auto").type == "cuda"
    count = 10 if on_gpu else 1
    if on_gpu:
        for _ in range(WARM_UP + 1):  # the last records the graph
            step()
    for _ in sys.stdin:
        wait()
        start = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        print((time.perf_counter() - start) / count, flush=True)
    print(torch.cuda.max_memory_allocated() if on_gpu else (peak_bytes() or 0) - before)


if __name__ == "__main__":
    main(sys.argv[1])
