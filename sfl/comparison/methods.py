"""What was done, in sentences ready for a paper, made from configs and environments.

What all models have in common is said once; then, in what they differ, and which has what.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sfl.comparison import recipe
from sfl.comparison.model import ComparedModel, label_of
from sfl.comparison.schema import Images
from sfl.config.grid import TuneSettings
from sfl.runs.records import Machine
from sfl.units import listed

Variants = Sequence[Mapping[str, str]]  # of each cell of a study, by axis

LAYERS = {
    None: "convolutions, whose filters all positions share",
    "local": "locally connected layers, with other filters at each position",
    "dense": "spatial layers in dense storage, each unit with a weight for every input",
}
NORMS = {
    "channel": "batch normalisation of each channel",
    "position": "batch normalisation of each unit by itself",
    "none": "no normalisation",
}
INITS = {
    "receptive_field": "drawn from U(±√(6 / fan-in)), fan-in counting a unit's inputs, with zero "
    "biases",
    "notebook": "drawn as in the notebook that sfl was made from",
}
RULES = {
    "backprop": "backpropagation",
    "fa": "feedback alignment (fixed random feedback weights)",
    "usf": "uniform sign feedback (the signs of the forward weights, one magnitude)",
    "brsf": "batchwise random sign feedback (the signs of the forward weights, magnitudes drawn "
    "in each step)",
    "frsf": "fixed random magnitude sign feedback (the signs of the forward weights, fixed "
    "magnitudes)",
    "kp": "Kolen-Pollack feedback (feedback weights that learn with the forward weights)",
    "mirror": "the weight mirror (feedback weights learnt from noise)",
}
ROUTES = {
    "dfa": "direct feedback alignment (errors sent from the output to each layer)",
    "local": "a local loss for each layer ({loss})",
    "frozen": "the last layer alone; all others stay as they were drawn",
}


def methods(
    compared: Sequence[ComparedModel], images: Images, variants: Variants = ()
) -> list[str]:
    """Architecture, learning, recipe, seeds, data, hardware and versions, a sentence each.

    The models have their results. variants: of each model, where they are a study's cells.
    """
    common, differing = [_data(images)], list[str]()
    for stem, phrase in ASPECTS.items():
        owners: dict[str, list[int]] = {}
        for place, model in enumerate(compared):
            owners.setdefault(phrase(model), []).append(place)
        if len(owners) == 1:
            (only,) = owners
            common += [f"{stem} {only}."] if only else []
            continue
        each = "; ".join(
            f"{text or 'none'} ({_called(places, compared, variants)})"
            for text, places in owners.items()
        )
        differing.append(f"{stem} {each}.")
    return [*common, *differing]


def _called(places: Sequence[int], compared: Sequence[ComparedModel], variants: Variants) -> str:
    """Names for some models: an axis' variants where these are all models that have them."""
    for axis in variants[0] if variants else ():
        having = dict.fromkeys(variants[place][axis] for place in places)
        if [n for n, each in enumerate(variants) if each[axis] in having] == list(places):
            return f"{axis}: {', '.join(having)}"
    return ", ".join(compared[place].name for place in places)


def tuning(tune: TuneSettings, seed: int) -> str:
    """What each cell of a study chose for itself, and by what."""
    tried = "; ".join(f"{key} of {listed(values)}" for key, values in tune.values.items())
    return (
        f"Chosen for each cell by itself: {tried}, by validation accuracy after {tune.epochs} "
        f"epoch{'s' * (tune.epochs > 1)} with seed {seed}; the test images chose nothing."
    )


def _data(images: Images) -> str:
    train = " or ".join(dict.fromkeys(f"{count:,}" for count in images.train_images))
    return (
        f"The images are {images.name}: {train} to train on and {images.test_images:,} to test on."
    )


def _network(model: ComparedModel) -> str:
    settings = model.config.model
    kernels = ["×".join(map(str, k if isinstance(k, list) else [k, k]))
               for k in settings.kernel_sizes or ()]  # fmt: skip
    hidden = settings.hidden_sizes
    parts = [
        f"{settings.name}, with layers of {_each(settings.channels)} channels",
        f"kernels of {_each(kernels)}",
        f"{_hidden(hidden)} units" if hidden else "no hidden linear layer",
        NORMS[settings.norm or "none"],
    ]
    if settings.strides is not None:
        pool = {"stride": "strides", "max": "max pooling by", "average": "average pooling by"}
        parts.append(f"{pool[settings.pool or 'stride']} {_each(settings.strides)}")
    if settings.shortcut == "identity":
        parts.append("identity shortcuts")
    rates = {"dropout": settings.dropout, "dropout of feature maps": settings.dropout2d}
    parts += [f"{name} {rate:g}" for name, rate in rates.items() if rate]
    return ", ".join(parts)


def _hidden(sizes: Sequence[int]) -> str:
    return (
        f"{'hidden linear layers' if len(sizes) > 1 else 'a hidden linear layer'} of {_each(sizes)}"
    )


def _each(values: Sequence[Any] | None) -> str:
    """Of each layer; [3, 3, 3] → "3"."""
    several = values or []
    return listed(several if len(set(several)) > 1 else several[:1])


def _layers(model: ComparedModel) -> str:
    settings, sleep = model.config.model, model.config.learn.sleep
    layers = LAYERS[settings.storage if settings.layer == "spatial" else None]
    if not sleep.every:
        return layers
    means = {"one": "one mean", "k2": "k² means"}[sleep.kernels]
    return (
        f"{layers}, pulled towards {means} over the positions every {sleep.every} steps "
        f"(strength {sleep.strength:g})"
    )


def _learning(model: ComparedModel) -> str:
    learn = model.config.learn
    if learn.route != "chain":
        return ROUTES[learn.route].format(loss=learn.loss)
    parts = [RULES[learn.rule]]
    if learn.rule != "backprop":
        parts.append(f"feedback weights of {learn.scale} size")
    if learn.alignment:
        parts.append(f"drawn with cosine {learn.alignment:g} to the forward weights")
    if learn.rule == "mirror":
        mirror = learn.mirror
        parts.append(
            f"{mirror.batches} batches of {mirror.images} noise images every {mirror.every} steps, "
            f"rate {mirror.rate:g}"
        )
    return ", ".join(parts)


def _tested(model: ComparedModel) -> str:
    decay = model.config.train.average.decay
    averaged = f"running average (decay {decay:g}) after the " if decay else ""
    return averaged + _epoch_tested(model)


def _epoch_tested(model: ComparedModel) -> str:
    held_out = model.config.data.validation
    if held_out:
        return f"epoch best on {held_out:,} images held out of training for validation"
    validated = any("validation_accuracy" in one.run.logged for one in model.results)
    return "epoch best on the validation images" if validated else "last epoch"


def _machines(read: Callable[[Machine], str]) -> Callable[[ComparedModel], str]:
    """What the runs of a model were trained with; of a resumed one, with all of them."""

    def of(model: ComparedModel) -> str:
        found = dict[str, None]()
        for one in model.results:
            found |= dict.fromkeys(
                map(read, one.machines) if one.machines else ["unknown machines"]
            )
        return " and ".join(found)

    return of


def _hardware(machine: Machine) -> str:
    workers = f"{machine.workers} processes of " if machine.workers > 1 else ""
    threads = f"{machine.threads} thread{'s' * (machine.threads > 1)}"
    local = machine.precision == "bfloat16" and machine.has_local_layers_in_float32
    apart = " (local layers in float32)" if local else ""
    return f"{machine.device} with {workers}{threads} in {machine.precision}{apart}"


def _versions(machine: Machine) -> str:
    torch = machine.packages.get("torch", "of unknown version")
    return f"sfl {machine.sfl}, PyTorch {torch} and Python {machine.python}"


# How each sentence begins, and what completes it for a model; nothing: no such sentence.
ASPECTS: dict[str, Callable[[ComparedModel], str]] = {
    "The network is": _network,
    "The layers before the classifier are": _layers,
    "By its label it is": lambda m: label_of(m) or "",
    "The number of weights is": lambda m: f"{m.results[-1].result.weights:,}",
    "Weights are": lambda m: (
        INITS[m.config.model.init] + ", the same at every position" * m.config.model.same_start
    ),
    "Learning is by": _learning,
    "The optimizer is": lambda m: recipe.optimizer(m.config),
    "The learning rate is": lambda m: f"{m.config.optimizer.lr:g}",
    "The schedule of the learning rate is": lambda m: recipe.schedule(m.config),
    "Training takes": lambda m: recipe.length(m.config),
    "Training images are a subset:": lambda m: recipe.subset(m.config),
    "Augmentation:": lambda m: recipe.augmentation(m.config),
    "Pixels are": lambda m: recipe.pixels(m.config),
    "Tested are the weights of the": _tested,
    "Seeds:": lambda m: listed([one.seed for one in m.results]),
    "Trained on": _machines(_hardware),
    "Software:": _machines(_versions),
}
