"""The pictures of one run: how it learnt, and what it has learnt at each place.

Each is drawn into a figure that is given; knows no file.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sfl.pictures import DIVERGING, SEQUENTIAL, Picture, bare, curve, heading, over_epochs, styles
from sfl.plots import filters
from sfl.plots.filters import Filters, Similarity
from sfl.plots.test_images import TestImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

NEIGHBOURS = 7  # positions beside each other, each way
FIELD_IMAGES = 64  # over which effective receptive fields are averaged


def of_metrics(metrics: Sequence[dict[str, Any]], title: str) -> list[Picture]:
    """The curves; for dense storage how the weights leave their receptive fields."""
    found = [
        Picture("curves", "Loss and accuracy.", partial(_curves, metrics, title), (7.6, 3.2)),
    ]
    if all("outside_share" in line for line in metrics):
        caption = (
            "Dense storage: the share of Σ‖w‖² that lies outside the receptive fields; 0 before "
            "the first step."
        )
        found.append(Picture("leak", caption, partial(_leak, metrics, title)))
    return found


def of_filters(
    layers: Sequence[Filters], chosen: int, units: Sequence[int], title: str
) -> list[Picture]:
    """Filters of a layer's units at neighbouring positions, and how alike they are.

    chosen: the layer's place among `layers`.
    """
    layer = layers[chosen]
    where = f"{title}; {layer.name}"
    where_from = (
        "one a unit, shared by all positions"
        if layer.is_shared
        else f"each unit at {_across(layer)} neighbouring positions"
    )
    channels = layer.weight.shape[3]
    shown = "red, green, blue" if channels == 3 else f"mean of {channels} input channels"
    caption = f"Filters of {layer.name}: {where_from}; {shown}, 0 in the middle of the scale."
    columns = min(3, len(units))
    rows = -(-len(units) // columns)
    cosine = filters.similarity(layer)
    return [
        Picture(
            "filters",
            caption,
            partial(_filters, layer, units, where),
            (1.2 + 2.1 * columns, 0.5 + 2.2 * rows),
        ),
        Picture(
            "similarity-map",
            f"{layer.name}: mean cosine between filters of one unit, by how far apart they lie.",
            partial(_similarity_map, cosine, where),
            (4.4, 3.8),
        ),
        Picture(
            "similarity",
            "Mean cosine between filters of one unit against their distance, layer by layer. "
            "Bands: two standard errors around 0, for filters drawn independently; shared: 1.",
            partial(_similarity, {one.name: filters.by_distance(one) for one in layers}, title),
        ),
    ]


def of_images(
    model: "nn.Module", inputs: "Tensor", places: Sequence[int], units: Sequence[int],
    images: TestImages, title: str,
) -> list[Picture]:  # fmt: skip
    """Receptive fields and activation maps.

    inputs: the test images, normalised. places: those that are shown.
    """
    few = inputs[_spread(len(inputs), FIELD_IMAGES)]
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


def _spread(count: int, wanted: int) -> list[int]:
    """Places evenly over `count`: of a folder's images, which are sorted, all classes."""
    wanted = min(count, wanted)
    return [place * count // wanted for place in range(wanted)]


def spread_over_classes(images: TestImages, wanted: int) -> list[int]:
    """The first image of each of some classes."""
    labels = images.labels.tolist()
    classes = _spread(len(images.classes), wanted)
    return [labels.index(label) for label in classes if label in labels]


def _across(layer: Filters) -> str:
    return "×".join(str(min(NEIGHBOURS, size)) for size in layer.weight.shape[:2])


def _curves(metrics: Sequence[dict[str, Any]], title: str, figure: "Figure") -> None:
    panels = (("loss", 1.0, "loss, nats"), ("accuracy", 100.0, "accuracy, %"))
    for axes, (what, scale, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for style, images in zip(styles(3), ("train", "validation", "test"), strict=True):
            key = f"{images}_{what}"
            logged = [(line["epoch"], scale * line[key]) for line in metrics if key in line]
            if logged:
                epochs, values = zip(*logged, strict=True)
                curve(axes, epochs, values, style, images)
        over_epochs(axes, label)
    heading(figure, title)


def _leak(metrics: Sequence[dict[str, Any]], title: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    names = list(metrics[0]["outside_share"])
    epochs = [0, *(line["epoch"] for line in metrics)]
    for style, name in zip(styles(len(names)), names, strict=True):
        shares = [0.0, *(100 * line["outside_share"][name] for line in metrics)]
        curve(axes, epochs, shares, style, name)
    axes.set_ylim(bottom=0)
    over_epochs(axes, "weight norm² outside the field, %")
    axes.set_title(title)


def _filters(layer: Filters, units: Sequence[int], title: str, figure: "Figure") -> None:
    """A panel a unit; in it the filters of the positions around the centre, in their places."""
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
    heading(figure, title)


def _mosaic(filters: "Tensor") -> Any:
    """(rows, columns, C, kh, kw) → one picture (H, W, 3), white between the filters.

    Three channels are shown as red, green and blue, grey being 0; others by their mean.
    """
    import matplotlib
    import numpy as np

    rows, columns, channels, kh, kw = filters.shape
    colour_map = matplotlib.colormaps[DIVERGING]

    def tones(tile: Any) -> Any:  # (C, kh, kw) in [0, 1] → (kh, kw, 3)
        return (
            tile.transpose(1, 2, 0) if channels == 3 else np.asarray(colour_map(tile[0]))[..., :3]
        )

    picture = np.ones((rows * (kh + 1) - 1, columns * (kw + 1) - 1, 3))
    seen = filters if channels == 3 else filters.mean(dim=2, keepdim=True)
    shown = (0.5 + seen / (2 * seen.abs().max().clamp(min=1e-30))).numpy()
    for row in range(rows):
        for column in range(columns):
            y, x = row * (kh + 1), column * (kw + 1)
            picture[y : y + kh, x : x + kw] = tones(shown[row, column])
    return picture


def _similarity_map(cosine: "Tensor", title: str, figure: "Figure") -> None:
    """Half the distances that there are: of those beyond, few pairs of positions tell."""
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
    axes.set_title(title)


def _similarity(layers: dict[str, Similarity], title: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    for style, (name, found) in zip(styles(len(layers)), layers.items(), strict=True):
        if found.distances:
            (line,) = axes.plot(
                found.distances, found.means, markersize=3, linewidth=1, label=name, **style
            )
            if any(found.by_chance):
                less = [-chance for chance in found.by_chance]
                colour: Any = line.get_color()
                axes.fill_between(
                    found.distances, less, found.by_chance, color=colour, alpha=0.12, linewidth=0
                )
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xlabel("distance, positions")
    axes.set_ylabel("mean cosine")
    axes.grid(alpha=0.25)
    axes.legend()
    axes.set_title(title)


def _fields(
    fields: "dict[str, Tensor]", units: Sequence[int], title: str, figure: "Figure"
) -> None:
    cells = figure.subplots(len(units), len(fields), squeeze=False)
    for column, (name, maps) in enumerate(fields.items()):
        for row, unit in enumerate(units):
            axes = cells[row][column]
            bare(axes)
            if row < len(maps):
                axes.imshow(maps[row].numpy(), cmap=SEQUENTIAL, vmin=0, vmax=1)
            if row == 0:
                axes.set_title(name, loc="center", fontsize=8)
            if column == 0:
                axes.set_ylabel(f"unit {unit}")
    heading(figure, title)


def _activations(
    maps: "dict[str, Tensor]",
    places: Sequence[int],
    images: TestImages,
    title: str,
    figure: "Figure",
) -> None:
    cells = figure.subplots(len(places), 1 + len(maps), squeeze=False)
    for row, place in enumerate(places):
        axes = cells[row][0]
        bare(axes)
        axes.imshow(images.as_picture(place))
        axes.set_ylabel(f"{images.classes[int(images.labels[place])]} {place}", fontsize=7)
        for axes, (name, layer) in zip(cells[row][1:], maps.items(), strict=True):
            bare(axes)
            axes.imshow(layer[row].numpy(), cmap=SEQUENTIAL, vmin=0)
            if row == 0:
                axes.set_title(name, loc="center", fontsize=8)
    heading(figure, title)
