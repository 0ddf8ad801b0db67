"""Which pictures there are of a run: what is shown where nobody chooses, what can't be drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.pictures import Picture
from sfl.plots import figures, filters
from sfl.plots.test_images import TestImages, called, images_of
from sfl.progress import say
from sfl.runs.directory import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN_IMAGES, SHOWN_UNITS, SHOWN_FIELDS = 6, 6, 3  # where nobody chooses


def of_run(
    run: Run,
    config: Config,
    model: "nn.Module",
    in_dimensions: tuple[int, int, int],
    *,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    places: Sequence[int] | None = None,
    data_name: str | None = None,
) -> list[Picture]:
    """What there is to see of a run with its trained model (on the CPU, in evaluation mode).

    layer: whose filters are shown, by name; None: the first one's. units: which of its units.
    places: which test images. data_name: what they are called.

    Raises UserError (exit 2) for a layer, units or images that there aren't.
    """
    data = data_name or called(config.data.source)
    title = f"{run.name}: {config.model.name}, {_sharing(config)}\n{data}, n = 1"
    layers = _layers(model, in_dimensions)
    chosen = _chosen([one.name for one in layers], layer)
    count = layers[chosen].weight.shape[2]
    fields_of = list(range(min(SHOWN_FIELDS, count))) if units is None else units
    units = list(range(min(SHOWN_UNITS, count))) if units is None else units
    _refuse_others("--units", units, count, f"{layers[chosen].name} has units")
    shown = figures.of_metrics(run.metrics, title) if run.metrics else []
    shown += figures.of_filters(layers, chosen, units, title)
    try:
        images = images_of(config, (run.provenance or {}).get("test", ""))
    except UserError as error:
        say(f"no receptive fields and no activation maps: {error}")
        return shown
    if places is None:
        places = figures.spread_over_classes(images, SHOWN_IMAGES)
    places = list(dict.fromkeys(places))
    _refuse_others("--images", places, len(images.labels), "there are test images")
    inputs = _normalized(images, config)
    return shown + figures.of_images(model, inputs, places, fields_of, images, title)


def _sharing(config: Config) -> str:
    return "weights shared" if config.model.layer == "conv" else f"{config.model.storage}"


def _layers(model: "nn.Module", in_dimensions: tuple[int, int, int]) -> list[filters.Filters]:
    import torch

    layers = dict(filters.layers(model))
    with torch.no_grad():
        seen = filters.outputs(model, torch.zeros(1, *in_dimensions), layers)
    return [
        filters.filters(name, layers[name], (y.shape[2], y.shape[3])) for name, y in seen.items()
    ]


def _chosen(names: Sequence[str], layer: str | None) -> int:
    if layer is not None and layer not in names:
        raise UserError(f"--layer {layer}: there are {', '.join(names)}", exit_code=Exit.USAGE)
    return 0 if layer is None else names.index(layer)


def _refuse_others(option: str, given: Sequence[int], count: int, what: str) -> None:
    if not given or min(given) < 0 or max(given) >= count:
        numbers = ",".join(map(str, given))
        raise UserError(f"{option} {numbers}: {what} 0 to {count - 1}", exit_code=Exit.USAGE)


def _normalized(images: TestImages, config: Config) -> "Tensor":
    import torch

    from sfl.data.batches import normalize

    scale = config.data.normalize
    return normalize(images.pixels, torch.tensor(scale.mean), torch.tensor(scale.std))
