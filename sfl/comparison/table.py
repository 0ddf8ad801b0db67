"""A comparison's numbers as text: the one place where they are rounded and get their units.

The terminal, Markdown and HTML show them; JSON and CSV hold the exact numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from sfl.comparison.schema import (
    Comparison,
    Corrupted,
    Difference,
    Model,
    Shifts,
    Target,
    Views,
)
from sfl.config.load import flat
from sfl.runs.records import Audit, AuditedLayer
from sfl.units import (
    bytes_text,
    count_text,
    csv_text,
    percent_text,
    points_text,
    seconds_text,
)  # fmt: skip

NONE = "–"
MAJORITY = "always the most frequent class"  # what its accuracy would be
COVERED = {"seeds": "seeds (t)", "images": "images (Wilson)"}  # and by which interval


def rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Each row: a label, and a text for each model. Empty rows are left out."""
    models, differences = comparison.models, comparison.differences
    target = models[0].target
    reached = f"{100 * target.accuracy:g} %" if target else ""
    made = [(label, [text(model) for model in models]) for label, text in OF_MODELS.items()]
    made += [(MAJORITY, [_majority(comparison)] * len(models))]
    made += [(label, [NONE, *map(text, differences)]) for label, text in OF_DIFFERENCES.items()]
    made += [(label, [text(model) for model in models]) for label, text in COST.items()]
    made += [(label.format(reached), list(map(text, models))) for label, text in PRICE.items()]
    return [row for row in made if any(cell not in ("", NONE) for cell in row[1])]


def _majority(comparison: Comparison) -> str:
    """Empty where the classes have equally many test images."""
    share, classes = comparison.data.majority_share, len(comparison.models[0].per_class)
    return percent_text(share) if share and share > 1 / classes else ""


def _network(model: Model) -> str:
    shared = {"conv": "shared", "spatial": f"not shared, {model.storage}"}[model.layer]
    return f"{model.model}, {shared}"


def _range(values: Sequence[Any], form: Callable[[Any], str]) -> str:
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def _span(interval: Sequence[float], form: Callable[[float], str]) -> str:
    return f"{form(interval[0])} to {form(interval[1])}"


def _welch(difference: Difference) -> str:
    if difference.welch is None:
        return NONE
    return f"{_span(difference.welch.interval, points_text)}, {p_text(difference.welch.p)}"


def p_text(p: float) -> str:
    """0.0213 → "p = 0.0213"; 0.00001 → "p < 0.0001"."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def _of(runs: int, model: Model, before: str = "; ") -> str:
    """Of a number that not all runs have, how many have it."""
    return "" if runs == model.n else f"{before}{runs} of {model.n} runs"


OF_MODELS: dict[str, Callable[[Model], str]] = {
    "network, weights": _network,
    "label": lambda m: m.label or NONE,
    "sharing": lambda m: m.sharing or NONE,
    "weight transport": lambda m: m.transport or NONE,
    "runs (seeds)": lambda m: f"{m.n} ({', '.join(map(str, m.seeds))})",
    "epochs": lambda m: _range(m.epochs, str),
    "test accuracy": lambda m: percent_text(m.accuracy),
    "sd, points": lambda m: "" if m.accuracy_sd is None else f"{100 * m.accuracy_sd:.2f}",
    "95 % interval": lambda m: (
        _span(m.accuracy_interval, percent_text) if m.accuracy_interval else "all runs are equal"
    ),
    "  interval covers": lambda m: COVERED[m.interval_covers],
    "loss": lambda m: f"{m.loss:.3f}",
    "accuracy, mean over views": lambda m: (
        f"{percent_text(m.views.accuracy)} ({m.views.count} views{_of(m.views.runs, m)})"
        if m.views
        else ""
    ),
    "accuracy, images moved": lambda m: (
        f"{percent_text(m.shifts.mean)} (up to {m.shifts.pixels} pixels{_of(m.shifts.runs, m)})"
        if m.shifts
        else ""
    ),
    "error, images corrupted": lambda m: (
        f"{percent_text(m.corrupted.mean_error)} (mean of {len(m.corrupted.in_the_mean)}"
        f"{_of(m.corrupted.runs, m)})"
        if m.corrupted
        else ""
    ),
    "angle to true gradient": lambda m: (
        "" if m.gradient_angle is None else f"{m.gradient_angle:.1f}°"
    ),
    "loss decrease in one step": lambda m: (
        "" if m.probe_decrease is None else f"{m.probe_decrease:.3g}".replace("-", "−")
    ),
}
OF_DIFFERENCES: dict[str, Callable[[Difference], str]] = {
    "difference from the first, points": lambda d: points_text(d.accuracy),
    "  95 %, seeds (Welch)": _welch,
    "  95 %, images (bootstrap)": lambda d: _span(d.bootstrap.interval, points_text),
    "  McNemar, exact": lambda d: NONE if d.mcnemar is None else p_text(d.mcnemar.p),
    "  p, corrected (Holm)": lambda d: NONE if d.p_corrected is None else p_text(d.p_corrected),
    "images that only this model gets right": lambda d: f"{d.only_second_count:,.0f}",
    "  in all its runs": lambda d: NONE if d.mcnemar else f"{len(d.only_second):,}",
    "images that only the first gets right": lambda d: f"{d.only_first_count:,.0f}",
    "  in all runs of the first": lambda d: NONE if d.mcnemar else f"{len(d.only_first):,}",
}
COST: dict[str, Callable[[Model], str]] = {
    "weights": lambda m: f"{m.weights:,}",
    "bytes of weights": lambda m: bytes_text(m.weight_bytes),
    "peak training memory": lambda m: (
        "unknown" if m.peak_memory_bytes is None else bytes_text(m.peak_memory_bytes)
    ),
    "FLOPs/image forward": lambda m: count_text(m.flops_per_image),
    "FLOPs/image training": lambda m: count_text(m.training_flops_per_image),
    "images/s training": lambda m: f"{m.images_per_second:,.0f}",
    "training time": lambda m: seconds_text(m.seconds),
    "  of the runs": lambda m: "" if m.n == 1 else _range(m.seconds_each, seconds_text),
    "training FLOPs": lambda m: count_text(m.training_flops),
}


def _reached(model: Model) -> str:
    target = model.target
    if target is None:
        return ""
    if target.epoch is None:
        return f"not reached ({target.measured_on})"
    return f"{target.epoch:.3g} ({target.measured_on}{_of(target.reached, model, ', ')})"


def _if_reached(text: Callable[[float], str], key: str) -> Callable[[Model], str]:
    def cell(model: Model) -> str:
        target = model.target
        if target is None or (value := getattr(target, key)) is None:
            return ""
        return f"{text(value)}{_of(target.reached, model, ' ')}"

    return cell


PRICE: dict[str, Callable[[Model], str]] = {
    "epochs to {}": _reached,
    "time to {}": _if_reached(seconds_text, "seconds"),
    "FLOPs to {}": _if_reached(count_text, "training_flops"),
}


AUDITED = ["layer", "sharing", "shared × positions", "transport", "weights sent", "bits/step"]


def audit_rows(audit: Audit) -> list[list[str]]:
    """What a network shares and transports, by AUDITED: each layer's, then the whole network's."""
    layers = [_audited(layer, layer.name, f" × {layer.places:,}") for layer in audit.layers]
    return [*layers, _audited(audit, "all")]


def _audited(of: Audit | AuditedLayer, name: str, places: str = "") -> list[str]:
    shared = f"{of.shared:,}{places}" if of.shared else ""
    sent = f"{of.transported:,}" if of.transported else ""
    bits = count_text(of.bits) if of.bits else ""
    return [name, of.sharing, shared, of.transport, sent, bits]


def mean_text(model: Model) -> str:
    """Accuracy in percent with half of its interval, "57.88 ± 1.20"; the mean alone without one.

    Of an interval that is longer on one side, this side.
    """
    mean = f"{100 * model.accuracy:.2f}"
    if model.accuracy_interval is None:
        return mean
    low, high = model.accuracy_interval
    return f"{mean} ± {100 * max(model.accuracy - low, high - model.accuracy):.2f}"


def mean_explained(comparison: Comparison) -> str:
    """What `mean_text` shows, of which images, over how many runs if all models have as many."""
    covered = dict.fromkeys(model.interval_covers for model in comparison.models)
    over = " or ".join(COVERED[each] for each in covered)
    runs = {model.n for model in comparison.models}
    count = f", n = {runs.pop()}" if len(runs) == 1 else ""
    data = comparison.data
    return (
        f"test accuracy in %, mean ± half of the 95 % interval over {over}; {data.name}, "
        f"{data.test_images:,} test images{count}"
    )


def to_csv(comparison: Comparison) -> str:
    """One row for each model. Lists of images and the confusion matrix are in the JSON alone.

    The columns are the same for all comparisons, apart from those of the classes and of a study's
    axes and tuned settings.
    """
    table = [_cells(_filled(model)) for model in comparison.models]
    differences = [_cells({"difference": _filled(each)}) for each in comparison.differences]
    for row, difference in zip(table[1:], differences, strict=True):
        row |= difference
    if comparison.grid is not None:
        for row, cell in zip(table, comparison.grid.cells, strict=True):
            row |= _cells({"variant": cell.variants, "gap": cell.gaps, "chosen": cell.chosen})
    # Of values that were mappings, cells have different columns.
    return csv_text(list(dict.fromkeys(column for row in table[::-1] for column in row)), table)


def _filled(values: BaseModel) -> dict[str, Any]:
    """As plain values. An object that is null gets its fields all the same, each of them empty."""
    return {k: EMPTY.get(k) if v is None else v for k, v in values.model_dump().items()}


EMPTY: dict[str, Any] = {
    "accuracy_interval": [None, None],
    "welch": {"interval": [None, None], "degrees_of_freedom": None, "p": None},
    "mcnemar": {"p": None},
    "target": dict.fromkeys(Target.model_fields),
    "views": dict.fromkeys(Views.model_fields),
    "shifts": dict.fromkeys(Shifts.model_fields, None) | {"accuracy": []},
    "corrupted": dict.fromkeys(Corrupted.model_fields) | {"error": {}, "in_the_mean": []},
}


def _cells(values: dict[str, Any]) -> dict[str, Any]:
    """Nested keys are joined by dots, lists by semicolons; intervals become `_low` and `_high`."""
    cells: dict[str, Any] = {}
    for name, value in flat(values).items():
        if not isinstance(value, list):
            cells[name] = value
        elif name.endswith("interval"):
            cells |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif name.endswith(("only_first", "only_second")):
            cells[name] = len(value)
        elif name != "confusion" and not name.startswith(("shifts.", "corrupted.")):
            cells[name] = ";".join(map(str, value))
    return cells
