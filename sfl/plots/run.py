"""All pictures of a run: which layer, units and images they show, and what is refused."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfl.config.schema import Config
from sfl.errors import UserError
from sfl.pictures import Picture, shorten
from sfl.plots import copies, figures, filters, measures
from sfl.plots.test_images import TestImages, load_test_images, name_of_images
from sfl.progress import say
from sfl.runs.directory import COPIES, Run
from sfl.runs.records import Copies

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN_IMAGES, SHOWN_UNITS, SHOWN_FIELDS = 6, 6, 3  # by default


def run_pictures(
    run: Run | None, config: Config, model: "nn.Module", in_dimensions: tuple[int, int, int], *,
    name: str, fingerprint: str, layer: str | None = None, units: Sequence[int] | None = None,
    places: Sequence[int] | None = None, data_name: str | None = None,
) -> list[Picture]:  # fmt: skip
    """The pictures of a run and its trained model (on the CPU, in evaluation mode).

    run: whose curves and tests are drawn, too; None: weights alone.
    name: what the pictures call it. fingerprint: of its test images. layer: the name of the layer
    whose filters are shown; None: the first one. units: the numbers of its units. places: the
    numbers of the test images. data_name: what the images are called.

    Raises UserError (exit 2) for a layer, a unit or an image that doesn't exist.
    """
    network = f"{config.model.name}, {config.model.storage or 'weights shared'}"
    data = data_name or name_of_images(config.data.source)
    uncounted = f"{shorten(name)}: {network}\n{shorten(data)}"
    title = f"{uncounted}, n = 1"
    layers = _layers(model, in_dimensions)
    chosen = _index_of([one.name for one in layers], layer)
    count = layers[chosen].weight.shape[2]
    fields_of = list(range(min(SHOWN_FIELDS, count))) if units is None else units
    units = list(range(min(SHOWN_UNITS, count))) if units is None else units
    _refuse_missing("--units", units, count, f"{layers[chosen].name} has units")
    metrics = run.metrics if run else []
    shown = figures.metrics_pictures(metrics, title) if metrics else []
    positions = {one.name: math.prod(one.positions) for one in layers}
    predicted = measures.predictions(config, metrics, model, positions)
    shown += measures.measures_pictures(metrics, predicted, title)
    if run and (kept := run.record(COPIES, Copies)):
        shown += copies.pictures({name: kept}, uncounted)
    shown += figures.filter_pictures(layers, chosen, units, title)
    try:
        images = load_test_images(config, fingerprint)
    except UserError as error:
        say(f"no receptive fields and no activation maps: {error}")
        return shown
    if places is None:
        places = figures.first_of_classes(images, SHOWN_IMAGES)
    places = list(dict.fromkeys(places))
    _refuse_missing("--images", places, len(images.labels), "there are test images")
    inputs = _normalized(images, config)
    return shown + figures.image_pictures(model, inputs, places, fields_of, images, title)


def _layers(model: "nn.Module", in_dimensions: tuple[int, int, int]) -> list[filters.Filters]:
    import torch

    layers = dict(filters.conv_layers(model))
    with torch.no_grad():
        seen = filters.layer_outputs(model, torch.zeros(1, *in_dimensions), layers)
    sizes = {name: (y.shape[2], y.shape[3]) for name, y in seen.items()}
    return [filters.read_filters(name, layers[name], size) for name, size in sizes.items()]


def _index_of(names: Sequence[str], layer: str | None) -> int:
    if layer is not None and layer not in names:
        raise UserError(f"--layer {layer}: there are {', '.join(names)}")
    return 0 if layer is None else names.index(layer)


def _refuse_missing(option: str, given: Sequence[int], count: int, what: str) -> None:
    if not given or min(given) < 0 or max(given) >= count:
        numbers = ",".join(map(str, given))
        raise UserError(f"{option} {numbers}: {what} 0 to {count - 1}")


def _normalized(images: TestImages, config: Config) -> "Tensor":
    import torch

    from sfl.data.batches import normalize

    scale = config.data.normalize
    return normalize(images.pixels, torch.tensor(scale.mean), torch.tensor(scale.std))
