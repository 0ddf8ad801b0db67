"""Peak memory of a training step above `import torch`, each in a process of its own.

python -m sfl.bench.memory NAME prints the bytes; a process's peak never comes down again.
"""

import resource
import subprocess
import sys
from pathlib import Path

STEPS = 3


def measure(names: list[str]) -> list[dict[str, object]]:
    """One entry a step of sfl.bench.steps: {"step": its name, "bytes": above `import torch`}."""
    found: list[dict[str, object]] = []
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", "sfl.bench.memory", name],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append({"step": name, "bytes": int(done.stdout)})
    return found


def _peak() -> int:
    """The largest resident size of this program so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage counts the program that started this one, too
        sizes = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(sizes["VmHWM"].split()[0])
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def main() -> None:
    """Measures the step that the command line names."""
    import torch  # noqa: F401 - what is measured is above it

    before = _peak()
    from sfl.bench.steps import notebook_step, our_step

    model, _, kind = sys.argv[1].partition(", ")
    step = notebook_step(model) if kind == "notebook" else our_step(sys.argv[1])
    for _ in range(STEPS):
        step()
    print(_peak() - before)


if __name__ == "__main__":
    main()
