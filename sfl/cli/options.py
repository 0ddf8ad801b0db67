"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[
    Path,
    typer.Option("--runs", envvar="SFL_RUNS", metavar="DIR", help="Where run directories live."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=V", help="Override a setting; may be repeated."),
]
DataName = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the images are called there: CIFAR-10.")
]
RUNS = Path("checkpoints")
