"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[
    Path,
    typer.Option("--runs", envvar="SFL_RUNS", metavar="DIR", help="Folder of run directories."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=V", help="Change a setting; may be repeated."),
]
DataName = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Name of the images in titles: CIFAR-10.")
]
RUNS = Path("checkpoints")
