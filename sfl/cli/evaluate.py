"""`sfl evaluate`: tests trained weights on the test images."""

from typing import Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, Json, Runs, Set, refuse_two


def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_OR_FILE",
            help="Default: the newest finished run.",
            autocompletion=completion.runs,
        ),
    ] = None,
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, a row per test image.")] = False,
) -> None:
    """Test accuracy, loss, accuracy per class and confusion of a run or a file of weights.

    \b
    Examples:
      sfl evaluate
      sfl evaluate checkpoints/spatial-s0/best.safetensors --set data.root=/data
      sfl evaluate spatial-s0 --csv > images.csv
    """
    from sfl.cli import layout, tables
    from sfl.library import evaluate_run

    refuse_two(json=as_json, csv=as_csv)
    evaluated = evaluate_run(run, set_ or [], runs)
    if as_csv:
        columns = ("file", "class", "prediction", "confidence", "correct")
        layout.print_csv(columns, evaluated.answers)
        return
    result = evaluated.to_dict()
    if as_json:
        layout.print_json(result)
        return
    layout.print_lines(tables.result_lines(result))
    for made in tables.evaluation_tables(result, layout.width()):
        layout.print_table(made)
