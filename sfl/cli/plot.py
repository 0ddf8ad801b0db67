"""`sfl plot`: its options, and the folder of its pictures."""

from pathlib import Path
from typing import Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, DataName, Json, Runs, Set, at_home
from sfl.errors import UserError

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run, or its folder.", autocompletion=completion.runs),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        callback=at_home,
        help="Folder for the pictures; default: plots in the run.",
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
    """
    from sfl.cli import layout
    from sfl.config.load import override
    from sfl.files import check_folder
    from sfl.pictures import need_matplotlib, write_pictures
    from sfl.progress import say
    from sfl.runs.store import find, find_weights

    need_matplotlib("plot")
    chosen, places = _numbers("--units", units), _numbers("--images", images)
    found = find(runs, run)
    find_weights(runs, run)  # before torch is imported, which takes a second
    folder = out or found.path / "plots"
    check_folder(folder, "--out")
    from sfl.plots.run import run_pictures
    from sfl.training.images import check_channels
    from sfl.training.load import load_run

    loaded = load_run(found.path)
    config = override(loaded.config, set_ or [])
    check_channels(config, loaded.in_dimensions)
    shown = run_pictures(
        found, config, loaded.model, loaded.in_dimensions,
        layer=layer, units=chosen, places=places, data_name=data_name,
    )  # fmt: skip
    write_pictures(shown, folder)
    if as_json:
        listed = [{"name": picture.name, "caption": picture.caption} for picture in shown]
        layout.print_json({"run": found.name, "folder": str(folder), "pictures": listed})
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
