"""A training step in a process of its own, taken whenever it is asked for.

So a step is measured as `sfl train` takes it, or the notebook in a plain Python, each with its own
memory; and its peak memory is its own (a process's peak never comes down again).

python -m sfl.bench.worker NAME takes a step for each line of its input and prints its seconds; at
the end it prints the bytes above what torch itself takes: for its import, and for one step of an
optimizer of its own, which loads its compiler.
"""

import os
import statistics
import subprocess
import sys
import time

from sfl.host_memory import HUGE_PAGES, peak_bytes, reuse_memory

TURN_SECONDS = 0.1


class Worker:
    """The step of that name (see sfl.bench.steps) in another process."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sfl.bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != HUGE_PAGES},
        )

    def seconds(self) -> float:
        """Has it take steps for a tenth of a second, two at least; the median of their seconds.

        The first is not counted: it finds in the caches what other processes left there.
        """
        taken = [self._step(), self._step()]
        while sum(taken) < TURN_SECONDS:
            taken.append(self._step())
        return statistics.median(taken[1:])

    def peak_bytes(self) -> int:
        """Ends it; the peak of its memory above torch's own."""
        left, _ = self._process.communicate()
        return int(left)

    def _step(self) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


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

    step = notebook_step(model) if kind == "notebook" else our_step(name)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)
    print((peak_bytes() or 0) - before)


if __name__ == "__main__":
    main(sys.argv[1])
