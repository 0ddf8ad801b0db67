"""`sfl predict`: the classes of image files."""

from pathlib import Path
from typing import Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, Json, Runs, Set, at_most_one
from sfl.errors import Exit, UserError


def predict(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_FILE", help="A run or weights.", autocompletion=completion.runs
        ),
    ],
    files: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ],
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, a row per file.")] = False,
) -> None:
    """Predict the class of image files by a trained run; its own images need not be here.

    \b
    Examples:
      sfl predict spatial-s0 cat.jpg
      sfl predict best.safetensors photos --csv > classes.csv
    """
    from sfl.cli import layout, tables
    from sfl.progress import say
    from sfl.runs.store import find_weights

    at_most_one(json=as_json, csv=as_csv)
    path = find_weights(runs, run)  # before torch is imported, which takes a second
    from sfl.training.predict import predict_files

    say(f"predicting with {path}")
    found = predict_files(path, files, set_ or [])
    rows = [
        {"file": one.file, "prediction": one.label, "confidence": one.confidence}
        for one in found.predictions
    ]
    unreadable = [{"file": file, "reason": reason} for file, reason in found.unreadable]
    if as_json:
        named = {"file": str(path), "model": found.model}
        layout.print_json({**named, "predictions": rows, "unreadable": unreadable})
    elif as_csv:
        layout.print_csv(("file", "prediction", "confidence"), rows)
    elif rows:
        layout.print_table(tables.predictions_table(rows))
    if unreadable:
        count = f"{len(unreadable):,} of {len(rows) + len(unreadable):,} files"
        raise UserError(f"{count} could not be read", "they are named above", Exit.DATA)
