"""All that `sfl bench` measures, in one run: the machine, layers, steps, memory, augmentation."""

from functools import partial
from typing import Any

import torch

from sfl.bench import augmentation, layers, steps
from sfl.bench.timing import clock, interleaved
from sfl.nn import engine
from sfl.progress import track
from sfl.training.device import pick_device, pick_precision, prepare
from sfl.training.environment import device_name


def run(*, quick: bool = False) -> dict[str, Any]:
    """Everything, as plain values; seconds are medians. quick: fewer sizes and repetitions."""
    repetitions, device = 5 if quick else 15, pick_device("auto")
    prepare(device, "float32")
    sizes = [
        (size, kind) for size in ((64,) if quick else (64, 256)) for kind in precisions(device)
    ]
    found: dict[str, Any] = {"format": "sfl-bench-2"}
    found |= {"machine": machine(device, repetitions), "layers": []}
    for batch, precision in track(sizes, "Measuring layers"):
        found["layers"] += layers.measure(device, batch, precision, repetitions)
    for entry in found["layers"]:
        peak = found["machine"]["mm_flops"][entry["precision"]]
        for form in entry["forms"].values():
            form["share_of_mm"] = entry["flops"] / form["seconds"] / peak
    found["scaling"] = layers.measure_growth(device, repetitions)
    found["steps"] = steps.measure(repetitions)
    found["augmentation"] = augmentation.measure(device, found["steps"])
    return found


def precisions(device: torch.device) -> list[str]:
    """float32, and what `train.precision: auto` would choose here if that is another one.

    Without instructions for it, a product in bfloat16 takes a hundred times as long.
    """
    return list(dict.fromkeys(["float32", pick_precision("auto", device)]))


def machine(device: torch.device, repetitions: int) -> dict[str, Any]:
    """What is measured on, and its peaks: FLOPs a second of torch.mm, 2048 × 2048."""
    matrices = torch.randn(2, 2048, 2048, device=device)
    products = {
        name: partial(torch.mm, *matrices.to(getattr(torch, name))) for name in precisions(device)
    }
    timings = interleaved({name: clock(mm, device) for name, mm in products.items()}, repetitions)
    return {
        "device": device_name(device),
        "on_gpu": device.type == "cuda",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "spatial_layers": engine.report(device),
        "mm_flops": {name: 2 * 2048**3 / timing.median for name, timing in timings.items()},
    }
