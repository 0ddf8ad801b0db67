"""`sfl export`: a run's weights as one file to publish."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, DataName, Json, Runs, at_home


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run.", autocompletion=completion.runs)
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", callback=at_home, help="A new .safetensors file.")
    ],
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"],
        typer.Option(help="Type of the learnt weights."),
    ] = "bfloat16",
    data_name: DataName = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Write a run's weights into one small file with its config, its accuracy and its label.

    \b
    Examples:
      sfl export spatial-s0 spatial.safetensors
      sfl evaluate spatial.safetensors --set data.root=/data
    """
    from sfl.cli import layout, tables
    from sfl.plots.test_images import name_of_images
    from sfl.progress import say
    from sfl.runs.store import find, find_weights
    from sfl.shell import command
    from sfl.units import bytes_text

    found = find(runs, run)
    find_weights(runs, run)  # before torch is imported, which takes a second
    from sfl.training.export import export as write

    name = data_name or name_of_images(str(found.config["data"]["source"]))
    published = write(found, file, dtype, name)
    size = file.stat().st_size
    if as_json:
        layout.print_json({**published.to_dict(), "file": str(file), "bytes": size})
        return
    layout.print_lines([tables.published_line(published)])
    say(f"written: {file}, {bytes_text(size)}; next:", command("evaluate", file))
