"""What a comparison says in words: what is not a twin, what is not sure, and who is ahead."""

from collections.abc import Sequence

from sfl.compare.schema import Difference, Model
from sfl.compare.table import p_text
from sfl.config.load import flat
from sfl.config.schema import Config
from sfl.units import count_text, percent_text, points_text

# What twins may differ in, and what draws their first weights.
DRAWN_OR_SHARED = ("model.layer", "model.storage", "model.init")
ONE_SEED = (
    "one seed says little: intervals of a model with one run cover the test images, not the seed"
)
WELCH = (
    "the paired bootstrap covers the draw of the test images; Welch's interval is the one that "
    "covers seeds"
)
NO_SPREAD = "the runs of a model don't differ: that says nothing about other seeds"
SEVERAL = "p-values are not corrected for multiple comparisons"
TIMES_VARY = 1.1  # largest by smallest, from which a ratio of means deserves a word


def remarks(
    configs: Sequence[Config], models: Sequence[Model], differences: Sequence[Difference]
) -> list[str]:
    """What differs besides sharing, what has not finished, what the intervals do not cover."""
    found = []
    for config, model in zip(configs[1:], models[1:], strict=True):
        pair = f"{models[0].name} and {model.name}: " if len(models) > 2 else ""
        found += [pair + line for line in differing_settings(configs[0], config)]
    for config, model in zip(configs, models, strict=True):
        for run, epochs in zip(model.runs, model.epochs, strict=True):
            if run in model.unfinished:
                done = f"{epochs} of {config.train.epochs} epochs"
                found.append(f"{run} has not finished: its best weights after {done}")
    if any(model.n == 1 for model in models):
        found.append(ONE_SEED)
    if any(model.accuracy_interval is None for model in models):
        found.append(NO_SPREAD)
    if any(difference.welch for difference in differences):
        found.append(WELCH)
    if len(models) > 2:
        found.append(SEVERAL)
    if any(_times_vary(model) for model in models):
        found.append(
            f"training times of one model's runs differ by over {100 * (TIMES_VARY - 1):.0f} %"
        )
    return found


def _times_vary(model: Model) -> bool:
    return max(model.seconds_each) > TIMES_VARY * min(model.seconds_each)


def differing_settings(one: Config, other: Config) -> list[str]:
    """The graphs, and the settings that two models share."""
    settings = [flat(config.identity()) for config in (one, other)]
    keys = list(dict.fromkeys([*settings[0], *settings[1]]))
    differing = [key for key in keys if settings[0].get(key) != settings[1].get(key)]
    found = []
    graph = [key for key in differing if key.startswith("model.") and key not in DRAWN_OR_SHARED]
    dense = {each.get("model.storage") == "dense" for each in settings}
    if graph or len(dense) > 1:
        found.append("not twins: other graphs")
    shared = [key for key in differing if not key.startswith("model.")]
    shared += [key for key in ("model.init",) if key in differing]
    for key in shared:
        values = ", ".join(str(each.get(key, "none")) for each in settings)
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
    time, flops = ahead.seconds / behind.seconds, ahead.training_flops / behind.training_flops
    return (
        f"{ahead.name} holds {count_text(ahead.weights)} weights against "
        f"{count_text(behind.weights)}, took {_times(time)} time to train and {_times(flops)} FLOPs"
    )


def _times(ratio: float) -> str:
    """1.004 → "the same"; 0.803 → "0.80 times the"; 20.9 → "21 times the"."""
    if 0.995 <= ratio < 1.005:
        return "the same"
    return f"{ratio:.2f} times the" if ratio < 10 else f"{ratio:.0f} times the"
