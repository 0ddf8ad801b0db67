"""The pictures of one run: its curves, its filters at each position, its receptive fields.

Each is drawn into a given figure. Knows no files.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sfl import pictures
from sfl.pictures import (
    DIVERGING,
    SEQUENTIAL,
    Picture,
    add_title,
    hide_axes,
    line_styles,
    shorten,
)  # fmt: skip
from sfl.plots import filters
from sfl.plots.filters import Filters, Similarity
from sfl.plots.test_images import TestImages
from sfl.stats import evenly_spaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

NEIGHBOURS = 7  # positions shown, in height and in width
FIELD_IMAGES = 64  # images over which effective receptive fields are averaged


def metrics_pictures(metrics: Sequence[dict[str, Any]], title: str) -> list[Picture]:
    """Curves of loss and accuracy; for dense storage, the share of weights outside their fields."""
    found = [Picture("curves", "Loss and accuracy.", partial(_curves, metrics, title), (7.6, 3.2))]
    if all("outside_share" in line for line in metrics):
        caption = (
            "Dense storage: the share of Σ‖w‖² that lies outside the receptive fields; 0 before "
            "the first step."
        )
        found.append(Picture("leak", caption, partial(_leak, metrics, title)))
    return found


def filter_pictures(
    layers: Sequence[Filters], chosen: int, units: Sequence[int], title: str
) -> list[Picture]:
    """Filters of a layer's units at neighbouring positions, and how similar they are.

    chosen: which one of `layers`. Their similarity is drawn for all layers.
    """
    layer = layers[chosen]
    layer_title = f"{title}; {layer.name}"
    columns = min(3, len(units))
    size = (1.2 + 2.1 * columns, 0.5 + 2.2 * -(-len(units) // columns))
    alike = "mean cosine between filters of one unit, by the distance between them"
    by_distance = {one.name: filters.similarity_by_distance(one) for one in layers}
    draw_map = partial(_similarity_map, filters.similarity(layer), layer_title)
    return [
        Picture("filters", _caption(layer), partial(_filters, layer, units, layer_title), size),
        Picture("similarity-map", f"{layer.name}: {alike}.", draw_map, (4.4, 3.8)),
        Picture(
            "similarity",
            "Mean cosine between filters of one unit against their distance, layer by layer. "
            "Bands: two standard errors around 0, for filters drawn independently; shared: 1.",
            partial(_similarity, by_distance, title),
        ),
    ]


def _caption(layer: Filters) -> str:
    """What the picture of a layer's filters shows."""
    height, width, _, channels = layer.weight.shape[:4]
    across = f"{min(NEIGHBOURS, height)}×{min(NEIGHBOURS, width)}"
    own = f"each unit at {across} neighbouring positions"
    where = "one for each unit, shared by all positions" if layer.is_shared else own
    shown = "red, green, blue" if channels == 3 else f"mean of {channels} input channels"
    return f"Filters of {layer.name}: {where}; {shown}; 0 is in the middle of the scale."


def image_pictures(
    model: "nn.Module", inputs: "Tensor", places: Sequence[int], units: Sequence[int],
    images: TestImages, title: str,
) -> list[Picture]:  # fmt: skip
    """Effective receptive fields and activation maps.

    inputs: all test images (N, C, H, W), normalised. places: the numbers of those that are shown.
    """
    few = inputs[evenly_spaced(len(inputs), FIELD_IMAGES)]
    fields = filters.receptive_fields(model, few, units)
    maps = filters.activations(model, inputs[list(places)])
    wide = 1.0 + 1.25 * len(fields)
    return [
        Picture(
            "receptive-fields",
            "Effective receptive fields, |∂unit/∂pixel|, of units at the centre of each layer; "
            f"mean over {len(few)} test images, each map to its largest.",
            partial(_fields, fields, units, title),
            (wide, 0.7 + 1.25 * len(units)),
        ),
        Picture(
            "activations",
            "Activation after ReLU, mean over a layer's units, each map to its largest.",
            partial(_activations, maps, places, images, title),
            (wide + 1.25, 0.7 + 1.25 * len(places)),
        ),
    ]


def first_of_classes(images: TestImages, wanted: int) -> list[int]:
    """The numbers of the first images of some classes, one for each."""
    labels = images.labels.tolist()
    classes = evenly_spaced(len(images.classes), wanted)
    return [labels.index(label) for label in classes if label in labels]


def _curves(metrics: Sequence[dict[str, Any]], title: str, figure: "Figure") -> None:
    panels = (("loss", 1.0, "loss, nats"), ("accuracy", 100.0, "accuracy, %"))
    for axes, (what, scale, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for style, images in zip(line_styles(3), ("train", "validation", "test"), strict=True):
            key = f"{images}_{what}"
            logged = [(line["epoch"], scale * line[key]) for line in metrics if key in line]
            if logged:
                epochs, values = zip(*logged, strict=True)
                pictures.plot_curve(axes, epochs, values, style, images)
        pictures.label_epochs(axes, label)
    add_title(figure, title)


def _leak(metrics: Sequence[dict[str, Any]], title: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    names = list(metrics[0]["outside_share"])
    epochs = [0, *(line["epoch"] for line in metrics)]
    for style, name in zip(line_styles(len(names)), names, strict=True):
        shares = [0.0, *(100 * line["outside_share"][name] for line in metrics)]
        pictures.plot_curve(axes, epochs, shares, style, name)
    axes.set_ylim(bottom=0)
    pictures.label_epochs(axes, "weight norm² outside the field, %")
    add_title(figure, title)


def _filters(layer: Filters, units: Sequence[int], title: str, figure: "Figure") -> None:
    """A panel for each unit: its filters at the positions around the centre, in their order."""
    columns = min(3, len(units))
    panels = list(figure.subplots(-(-len(units) // columns), columns, squeeze=False).flat)
    height, width = layer.weight.shape[:2]
    rows, cols = min(NEIGHBOURS, height), min(NEIGHBOURS, width)
    top, left = (height - rows) // 2, (width - cols) // 2
    some = layer.weight[top : top + rows, left : left + cols]  # (rows, cols, O, C, kh, kw)
    for axes in panels:
        axes.set_axis_off()
    for axes, unit in zip(panels, units, strict=False):
        axes.imshow(_mosaic(some[:, :, unit]), interpolation="nearest")
        axes.set_title(f"unit {unit}", loc="center")
    add_title(figure, title)


def _mosaic(filters: "Tensor") -> Any:
    """(rows, columns, C, kh, kw) → one picture (H, W, 3), white between the filters.

    Three channels are shown as red, green and blue, grey being 0; others by their mean.
    """
    import matplotlib
    import numpy as np

    rows, columns, channels, kh, kw = filters.shape
    colour_map = matplotlib.colormaps[DIVERGING]

    picture = np.ones((rows * (kh + 1) - 1, columns * (kw + 1) - 1, 3))
    seen = filters if channels == 3 else filters.mean(dim=2, keepdim=True)
    shown = (0.5 + seen / (2 * seen.abs().max().clamp(min=1e-30))).numpy()
    for row in range(rows):
        for column in range(columns):
            y, x = row * (kh + 1), column * (kw + 1)
            tile = shown[row, column]  # (C, kh, kw) in [0, 1]
            tones = tile.transpose(1, 2, 0) if channels == 3 else np.asarray(colour_map(tile[0]))
            picture[y : y + kh, x : x + kw] = tones[..., :3]
    return picture


def _similarity_map(cosine: "Tensor", title: str, figure: "Figure") -> None:
    """The smaller half of the distances; for larger ones there are few pairs of positions."""
    axes = figure.add_subplot()
    height, width = (size // 2 for size in cosine.shape)
    down, right = max(1, height // 2), max(1, width // 2)
    values = cosine[
        max(0, height - down) : height + down + 1, max(0, width - right) : width + right + 1
    ].numpy().copy()  # fmt: skip
    rows, columns = (size // 2 for size in values.shape)
    values[rows, columns] = float("nan")  # a filter with itself: 1, which would hide the rest
    most = max(0.005, float(abs(values[values == values]).max(initial=0)))
    extent = (-columns - 0.5, columns + 0.5, rows + 0.5, -rows - 0.5)
    drawn = axes.imshow(values, cmap=DIVERGING, vmin=-most, vmax=most, extent=extent)
    figure.colorbar(drawn, ax=axes, label="mean cosine", shrink=0.8)
    axes.set_xlabel("positions to the right")
    axes.set_ylabel("positions down")
    add_title(figure, title)


def _similarity(layers: dict[str, Similarity], title: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    for style, (name, found) in zip(line_styles(len(layers)), layers.items(), strict=True):
        if found.distances:
            looks: dict[str, Any] = {"markersize": 3, "linewidth": 1, "label": name, **style}
            (line,) = axes.plot(found.distances, found.means, **looks)
            if any(found.by_chance):
                less = [-chance for chance in found.by_chance]
                band: dict[str, Any] = {"color": line.get_color(), "alpha": 0.12, "linewidth": 0}
                axes.fill_between(found.distances, less, found.by_chance, **band)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xlabel("distance, positions")
    axes.set_ylabel("mean cosine")
    axes.grid(alpha=0.25)
    axes.legend()
    add_title(figure, title)


def _fields(
    fields: "dict[str, Tensor]", units: Sequence[int], title: str, figure: "Figure"
) -> None:
    cells = figure.subplots(len(units), len(fields), squeeze=False)
    for column, (name, maps) in enumerate(fields.items()):
        for row, unit in enumerate(units):
            axes = cells[row][column]
            hide_axes(axes)
            if row < len(maps):
                axes.imshow(maps[row].numpy(), cmap=SEQUENTIAL, vmin=0, vmax=1)
            if row == 0:
                axes.set_title(name, loc="center", fontsize=8)
            if column == 0:
                axes.set_ylabel(f"unit {unit}")
    add_title(figure, title)


def _activations(
    maps: "dict[str, Tensor]", places: Sequence[int], images: TestImages, title: str,
    figure: "Figure",
) -> None:  # fmt: skip
    cells = figure.subplots(len(places), 1 + len(maps), squeeze=False)
    for row, place in enumerate(places):
        axes = cells[row][0]
        hide_axes(axes)
        axes.imshow(images.as_picture(place))
        name = shorten(images.classes[int(images.labels[place])], 20)
        axes.set_ylabel(f"{name}\nimage {place}", fontsize=7)
        for axes, (name, layer) in zip(cells[row][1:], maps.items(), strict=True):
            hide_axes(axes)
            axes.imshow(layer[row].numpy(), cmap=SEQUENTIAL, vmin=0)
            if row == 0:
                axes.set_title(name, loc="center", fontsize=8)
    add_title(figure, title)
