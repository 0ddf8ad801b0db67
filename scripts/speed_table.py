"""The speed table of the README, from two runs of `sfl bench` kept in docs/speed/.

    scripts/sfl bench --quick --json > docs/speed/first.json
    scripts/sfl bench --quick --json > docs/speed/second.json
    .venv/bin/python scripts/speed_table.py

tests/test_docs.py says when the README shows other numbers.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = [ROOT / "docs" / "speed" / name for name in ("first.json", "second.json")]
README = ROOT / "README.md"
BEGIN, END = "<!-- speed: made by scripts/speed_table.py -->", "<!-- end of speed -->"

LAYERS = "six layers of SpatialDenseNet"
EINSUM, COMPILED, PLAIN = "unfold view + einsum", "ours, compiled", "ours, plain"
STEPS = (  # name of the step, whose notebook step it is measured against
    ("SpatialDenseNet, local", "SpatialDenseNet"),
    ("SpatialDenseNet, dense", "SpatialDenseNet"),
    ("SimpleModel, local", "SimpleModel"),
    ("RegularConvNet", "RegularConvNet"),
)


def table() -> str:
    """The table, in Markdown: the first run, and the ratio of the second."""
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in RUNS)
    lines = [
        "| forward + backward, or a training step, batch 64 | other | SFL | other ÷ SFL "
        "| in a second run |",
        "|---|--:|--:|--:|--:|",
    ]
    for form in (COMPILED, PLAIN):
        what = f"{LAYERS}, {form}; against {EINSUM}"
        lines.append(_line(what, _layers(first, form), _layers(second, form)))
    for name, network in STEPS:
        what = f"step of {name}; against the notebook's"
        lines.append(_line(what, _step(first, name, network), _step(second, name, network)))
    return "\n".join([*lines, "", _footnote(first)])


def _line(what: str, first: tuple[float, float], second: tuple[float, float]) -> str:
    """first, second: seconds of the other code and of ours, in each of the two runs."""
    other, ours = (f"{1e3 * seconds:,.1f} ms" for seconds in first)
    ratios = " | ".join(f"{other / ours:.1f}" for other, ours in (first, second))
    return f"| {what} | {other} | {ours} | {ratios} |"


def _layers(run: dict[str, Any], form: str) -> tuple[float, float]:
    """Seconds of the einsum form and of ours: the six layers, batch 64, float32."""
    forms = _forms(run)
    return forms[EINSUM]["seconds"], forms[form]["seconds"]


def _forms(run: dict[str, Any]) -> dict[str, dict[str, float]]:
    kinds = {(e["layers"], e["batch"], e["precision"]): e["forms"] for e in run["layers"]}
    forms: dict[str, dict[str, float]] = kinds[LAYERS, 64, "float32"]
    return forms


def _step(run: dict[str, Any], name: str, network: str) -> tuple[float, float]:
    """Seconds of the notebook's step and of ours."""
    steps = _steps(run)
    return steps[f"{network}, notebook"]["seconds"], steps[name]["seconds"]


def _steps(run: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: step for entry in run["steps"] for name, step in entry["steps"].items()}


def _footnote(run: dict[str, Any]) -> str:
    """Machine, n, shares of the peak, memory and data."""
    machine, forms, steps = run["machine"], _forms(run), _steps(run)
    local, notebook = steps["SpatialDenseNet, local"], steps["SpatialDenseNet, notebook"]
    return (
        f"Medians of {min(local['n'], notebook['n'])} turns or more; "
        f"{machine['threads']} threads of {machine['device']}, torch {machine['torch']}, "
        f"{machine['spatial_layers']}. `torch.mm` reaches "
        f"{machine['mm_flops']['float32'] / 1e9:.0f} GFLOP/s there in float32; the six "
        f"layers reach {forms[COMPILED]['share_of_mm']:.0%} of that compiled and "
        f"{forms[PLAIN]['share_of_mm']:.0%} in plain PyTorch. Peak memory of a step of "
        f"SpatialDenseNet, above what `import torch` and one step of a PyTorch optimizer take: "
        f"{local['peak_bytes'] / 1e6:,.0f} MB local, the "
        f"notebook {notebook['peak_bytes'] / 1e6:,.0f} MB. Augmentation takes "
        f"{_share(run, 'crop, flip', 'SpatialDenseNet, local')} of an epoch of SpatialDenseNet "
        f"(crops, flips), {_share(run, 'crop, flip, TrivialAugment', 'DeepNet, local')} of one of "
        "`deep-local` (TrivialAugment, too)."
    )


def _share(run: dict[str, Any], recipe: str, network: str) -> str:
    """Of an epoch, that an augmentation takes."""
    (measured,) = (each for each in run["augmentation"] if each["name"] == recipe)
    return f"{measured['share_of_epoch'][network]:.1%}"


def main() -> None:
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
