"""`sfl plot`: its options, and the folder of its pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, DataName, Json, Runs, Set, at_home
from sfl.errors import UserError

if TYPE_CHECKING:
    from sfl.pictures import Picture

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_FILE", help="A run, or a file of weights.", autocompletion=completion.runs
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        callback=at_home,
        help="Folder for the pictures; default: plots in the run, or beside the file.",
    ),
]


def plot(
    run: RunArgument,
    out: Out = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Layer whose filters are shown; default: the first."),
    ] = None,
    units: Annotated[
        str | None, typer.Option(metavar="N,N", help="Numbers of its units: 0,3,7.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="N,N", help="Numbers of test images: 0,12.")
    ] = None,
    data_name: DataName = None,
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Draw what a run has learnt: curves, filters by position, receptive fields, activations.

    \b
    Examples:
      sfl plot spatial-s0
      sfl plot spatial-s0 --layer features.3 --units 0,1 --set data.root=/data
      sfl plot weights.safetensors --out pictures
    """
    from sfl.config.load import override
    from sfl.files import check_folder
    from sfl.pictures import need_matplotlib, write_pictures
    from sfl.runs.directory import BEST, Run
    from sfl.runs.store import find_weights

    need_matplotlib("plot")
    chosen, places = _numbers("--units", units), _numbers("--images", images)
    weights = find_weights(runs, run)  # before torch is imported, which takes a second
    found = Run(weights.resolve().parent) if weights.name == BEST else None
    name = found.name if found else weights.stem
    folder = out or weights.parent / "plots"
    check_folder(folder, "--out")
    from sfl.plots.run import run_pictures
    from sfl.training.checkpoint import read_checkpoint
    from sfl.training.images import check_channels
    from sfl.training.load import restore

    checkpoint = read_checkpoint(weights)
    config, (in_dimensions, _) = override(checkpoint.settings, set_ or []), checkpoint.sizes
    check_channels(config, in_dimensions)
    model = restore(checkpoint, checkpoint.settings).eval()
    shown = run_pictures(
        found, config, model, in_dimensions,
        name=name, fingerprint=checkpoint.images["fingerprints"]["test"],
        layer=layer, units=chosen, places=places, data_name=data_name,
    )  # fmt: skip
    write_pictures(shown, folder)
    _tell(shown, folder, name, as_json)


def _tell(shown: "list[Picture]", folder: Path, name: str, as_json: bool) -> None:
    from sfl.cli import layout
    from sfl.progress import say

    if as_json:
        listed = [{"name": picture.name, "caption": picture.caption} for picture in shown]
        layout.print_json({"run": name, "folder": str(folder), "pictures": listed})
        return
    for picture in shown:
        layout.print_lines([f"{folder / picture.name}.svg  {picture.caption}"])
    say(f"also as .png, in {folder}")


def _numbers(option: str, given: str | None) -> list[int] | None:
    """The numbers in "0,3,7"; None if the option is not given. Raises UserError (exit 2)."""
    if given is None:
        return None
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"{option} {given}: expected numbers from 0 on, as in 0,3,7")
    return [int(part) for part in parts]
