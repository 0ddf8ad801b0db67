"""A comparison in words: what else differs, what intervals don't cover, which model is ahead."""

from collections.abc import Callable, Sequence

from sfl.comparison.model import ComparedModel, RunResult
from sfl.comparison.names import differing
from sfl.comparison.schema import Difference, Model
from sfl.comparison.table import p_text
from sfl.config.schema import Config
from sfl.runs.records import Machine
from sfl.units import count_text, few, percent_text, points_text

# What twins may differ in, and what draws their first weights.
DRAWN_OR_SHARED = ("model.layer", "model.storage", "model.init")
ONE_RUN = "the interval of a model with one run covers the test images only"
ONE_SEED = f"{ONE_RUN}: other seeds may differ by more"
BOOTSTRAP = "the bootstrap's interval covers the draw of the test images"
WELCH = f"{BOOTSTRAP}; Welch's interval covers the seeds"
NO_SPREAD = "all runs of a model have the same accuracy: that says nothing about other seeds"
OTHER_CORRUPTIONS = "not tested with the same corruptions: mean errors can't be compared"
TIMES_VARY = 1.1  # longest by shortest training time, from which on it is remarked


def remarks(
    compared: Sequence[ComparedModel], models: Sequence[Model], differences: Sequence[Difference],
    *, of_cells: bool = False,
) -> list[str]:  # fmt: skip
    """What a reader must know beside the numbers, a sentence each.

    of_cells: of a study. In what its cells differ is its question, and is in `methods`.
    """
    found = []
    first = compared[0]
    for other in () if of_cells else compared[1:]:
        pair = f"{first.name} and {other.name}: " if len(compared) > 2 else ""
        found += [pair + line for line in differing_settings(first.config, other.config)]
    found += _local_layers_in_float32(compared)
    for one, model in zip(compared, models, strict=True):
        for run, epochs in zip(model.runs, model.epochs, strict=True):
            if run in model.unfinished:
                done = f"{epochs} of {one.config.train.epochs} epochs"
                found.append(f"{run} has not finished: its best weights after {done}")
    if any(model.n == 1 for model in models):
        found.append(ONE_SEED)
    if len({tuple(m.corrupted.in_the_mean) for m in models if m.corrupted}) > 1:
        found.append(OTHER_CORRUPTIONS)
    if any(model.accuracy_interval is None for model in models):
        found.append(NO_SPREAD)
    if any(difference.welch for difference in differences):
        found.append(WELCH)
    if len(differences) > 1:
        found.append(_corrected(differences))
    if any(_times_vary(model) for model in models):
        percent = f"{100 * (TIMES_VARY - 1):.0f} %"
        found.append(f"training times of one model's runs differ by more than {percent}")
    return [*found, *_differing_machines(compared)]


def _corrected(differences: Sequence[Difference]) -> str:
    """Which numbers of several comparisons are corrected for their number, and which are not."""
    tests = ["Welch's"] * any(d.welch for d in differences)
    tests += ["McNemar's"] * any(d.mcnemar for d in differences)
    untested = [d.second for d in differences if d.p is None]
    said = [
        f"by p-values of {' and '.join(tests)} test, corrected for {len(differences)} comparisons "
        "(Holm 1979)"
    ] * bool(tests)
    if untested:
        said.append(f"by the bootstrap's interval for {few(untested)}, which no test covers")
    return f"what is more than chance is said {'; '.join(said)}; intervals are not corrected"


def _local_layers_in_float32(compared: Sequence[ComparedModel]) -> list[str]:
    """Whether local layers computed in float32 while the convolutions of others did in bfloat16.

    They do so on CPUs. Elsewhere both follow autocast.
    """
    local, conv = list[str](), list[str]()
    for model in compared:
        environments = [one.run.environment for one in model.results]
        halved = [e for e in environments if e and e.precision == "bfloat16"]
        storage = model.config.model.storage
        if storage == "local" and any(each.has_local_layers_in_float32 for each in halved):
            local.append(model.name)
        elif storage is None and halved:
            conv.append(model.name)
    if not local or not conv:
        return []
    return [
        f"not the same numerics: with precision bfloat16 the local layers of {', '.join(local)} "
        f"computed in float32, the convolutions of {', '.join(conv)} in bfloat16"
    ]


def _differing_machines(compared: Sequence[ComparedModel]) -> list[str]:
    """In what the runs' machines and programs differ, and who has what.

    It changes how long they take, or their numbers. A run that was resumed may have several.
    """
    found = []
    for name, value in MACHINE.items():
        owners: dict[str, list[str]] = {}
        for model in compared:
            runs = [(one.run.name, _values(one, value)) for one in model.results]
            alike = all(values == runs[0][1] for _, values in runs)
            for owner, values in [(model.name, runs[0][1])] if alike else runs:
                for each in values:
                    owners.setdefault(each, []).append(owner)
        if len(owners) > 1:
            each_of = "; ".join(f"{value} ({few(names)})" for value, names in owners.items())
            found.append(f"not the same {name}: {each_of}")
    return found


def _values(one: RunResult, value: Callable[[Machine], object]) -> list[str]:
    """A value of each of a run's machines."""
    return list(dict.fromkeys(str(value(machine)) for machine in one.machines)) or ["unknown"]


def _commit(machine: Machine) -> str:
    git = machine.git
    return "no checkout" if git is None else git.commit[:10] + ", changed" * (not git.clean)


# What is remarked where runs differ in it: how to name it, how to read it.
MACHINE: dict[str, Callable[[Machine], object]] = {
    "version of sfl": lambda m: m.sfl,
    "commit of sfl": _commit,
    "version of torch": lambda m: m.packages.get("torch", "unknown"),
    "device": lambda m: m.device,
    "threads": lambda m: m.threads,
    "precision": lambda m: m.precision,
}


def _times_vary(model: Model) -> bool:
    return max(model.seconds_each) > TIMES_VARY * min(model.seconds_each)


def differing_settings(one: Config, other: Config) -> list[str]:
    """In what two configs differ besides sharing: the graphs, and settings of training and data."""
    apart = differing(one, other)
    found = []
    graph = [key for key in apart if key.startswith("model.") and key not in DRAWN_OR_SHARED]
    if graph or "dense" in apart.get("model.storage", ()):
        found.append("not twins: their graphs differ")
    shared = [key for key in apart if not key.startswith("model.")]
    for key in [*shared, *({"model.init"} & apart.keys())]:
        values = ", ".join("none" if value is None else str(value) for value in apart[key])
        found.append(f"not the same {key}: {values}")
    return found


def conclusion(first: Model, second: Model, difference: Difference) -> str:
    """Which of two models is ahead, by how much, how sure, at what cost."""
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
    """Whether chance explains the lead: of the seeds if there are several, else of the images."""
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
    if difference.is_of_equal_answers:
        unseen = f"a lead of up to {100 * high:.2f} points can't be excluded (95 %)"
        interval = f"right on the same images, but {unseen}"
    each = "one seed each" if first.n == second.n == 1 else f"{first.n} and {second.n} seeds"
    p = "" if difference.p is None else f", {p_text(difference.p)}"
    if difference.p_corrected is not None:
        p += f", corrected {p_text(difference.p_corrected)}"
    if difference.welch:
        return f"{interval}{p} (Welch, {each})"
    p += " (McNemar)" if difference.mcnemar else ""
    return f"{interval}{p}; of other seeds this says nothing ({each})"


def _cost(ahead: Model, behind: Model) -> str:
    time, flops = ahead.seconds / behind.seconds, ahead.training_flops / behind.training_flops
    spent = f"took {_times(time)} time to train and {_times(flops)} FLOPs"
    own, other = count_text(ahead.weights), count_text(behind.weights)
    weights = f"{own} weights, as the other" if own == other else f"{own} weights against {other}"
    return f"{ahead.name} holds {weights}, {spent}"


def _times(ratio: float) -> str:
    """1.004 → "the same"; 0.803 → "0.80 times the"; 20.9 → "21 times the"; 0.02 → "1/50 of the"."""
    if 0.995 <= ratio < 1.005:
        return "the same"
    if 0 < ratio < 0.1:
        return f"1/{1 / ratio:,.0f} of the"
    return f"{ratio:.2f} times the" if ratio < 10 else f"{ratio:,.0f} times the"
