"""What a comparison says in words: what is not a twin, what is not sure, and who is ahead."""

from collections.abc import Sequence

from sfl.analysis.comparison import Difference, Model
from sfl.analysis.rows import p_text
from sfl.config import Config, flat
from sfl.units import count_text, percent_text, points_text

# What twins may differ in, and what draws their first weights.
DRAWN_OR_SHARED = ("model.layer", "model.storage", "model.init")
ONE_SEED = (
    "one seed says little: intervals of a model with one run cover the test images, not the seed"
)
PAIRED = (
    "the paired bootstrap covers the draw of the test images; Welch's interval is the one that "
    "covers seeds"
)


def remarks(configs: Sequence[Config], models: Sequence[Model]) -> list[str]:
    """What differs besides sharing, and what the intervals do not cover."""
    found = differing_settings(configs)
    if any(model.n == 1 for model in models):
        found.append(ONE_SEED)
    if any(model.n > 1 for model in models):
        found.append(PAIRED)
    if len(models) > 2:
        found.append(f"{len(models) - 1} differences: none is corrected for there being several")
    return found


def differing_settings(configs: Sequence[Config]) -> list[str]:
    """The graphs, and the settings that the models share."""
    all_settings = [flat(config.identity()) for config in configs]
    keys = list(dict.fromkeys(key for settings in all_settings for key in settings))
    differing = [
        key for key in keys if any(s.get(key) != all_settings[0].get(key) for s in all_settings)
    ]
    found = []
    graph = [key for key in differing if key.startswith("model.") and key not in DRAWN_OR_SHARED]
    dense = {settings.get("model.storage") == "dense" for settings in all_settings}
    if graph or len(dense) > 1:
        found.append("not twins: other graphs")
    settings = [key for key in differing if not key.startswith("model.")]
    settings += [key for key in ("model.init",) if key in differing]
    for key in settings:
        values = ", ".join(str(settings.get(key, "none")) for settings in all_settings)
        found.append(f"not the same {key}: {values}")
    return found


def conclusion(first: Model, second: Model, difference: Difference) -> str:
    """Who is ahead, by how much, how sure, at what cost."""
    behind, ahead = (first, second) if difference.accuracy > 0 else (second, first)
    if difference.accuracy:
        lead = (
            f"{ahead.name} is ahead of {behind.name} by {100 * abs(difference.accuracy):.2f} "
            f"points ({percent_text(ahead.accuracy)} against {percent_text(behind.accuracy)}), "
            f"{_chance(difference)}"
        )
    else:
        lead = f"{first.name} and {second.name} are level at {percent_text(first.accuracy)}"
    return f"{lead}: {_certainty(first, second, difference)}. {_cost(ahead, behind)}."


def _chance(difference: Difference) -> str:
    """Chance is that of the seeds where there are several, else that of the test images alone."""
    if difference.welch:
        return "more than chance" if difference.is_beyond_chance else "which may be chance"
    if difference.is_beyond_chance:
        return "more than the chance of these test images"
    return "which may be the chance of these test images"


def _certainty(first: Model, second: Model, difference: Difference) -> str:
    low, high = difference.interval
    if difference.accuracy < 0:
        low, high = -high, -low
    interval = f"95 % interval of the lead {points_text(low)} to {points_text(high)}"
    each = "one seed each" if first.n == second.n == 1 else f"{first.n} and {second.n} seeds"
    if difference.welch:
        return f"{interval}, {p_text(difference.welch.p)} (Welch, {each})"
    p = f", {p_text(difference.mcnemar.p)} (McNemar)" if difference.mcnemar else ""
    return f"{interval}{p}; of other seeds this says nothing ({each})"


def _cost(ahead: Model, behind: Model) -> str:
    return (
        f"{ahead.name} holds {count_text(ahead.weights)} weights against "
        f"{count_text(behind.weights)}, took {_times(ahead.seconds / behind.seconds)} the time to "
        f"train and {_times(ahead.training_flops / behind.training_flops)} the FLOPs"
    )


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if ratio < 10 else f"{ratio:.0f} times"
