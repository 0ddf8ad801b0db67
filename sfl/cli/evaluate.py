"""`sfl evaluate`: tests trained weights on the test images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, Json, Runs, Set, at_home, at_most_one
from sfl.errors import UserError

if TYPE_CHECKING:
    from sfl.returned import Evaluated

Views = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Also with the mean of the probabilities over N views of each image. 2: as it is and "
        "mirrored; 18: both also moved by 2 pixels down, up, right, left and both ways; 50: by 2 "
        "and 4 pixels.",
    ),
]
Shifts = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="PIXELS",
        help="Also with the images moved by up to so many pixels each way: a map of accuracy.",
    ),
]
Corrupted = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        callback=at_home,
        help="Also on corrupted images: a folder with CIFAR-10-C's .npy files.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", callback=at_home, help="Draw what --shifts and --corrupted found there."
    ),
]


def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_OR_FILE",
            help="Default: the newest finished run.",
            autocompletion=completion.runs,
        ),
    ] = None,
    views: Views = None,
    shifts: Shifts = None,
    corrupted: Corrupted = None,
    out: Out = None,
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
      sfl evaluate spatial-s0 --views 18 --shifts 8
      sfl evaluate spatial-s0 --csv > images.csv
    """
    from sfl.cli import layout, tables
    from sfl.cli.copies import copies_lines, copies_tables
    from sfl.library import evaluate_run

    at_most_one(json=as_json, csv=as_csv)
    if out is not None:
        _check_out(out, drawn=shifts is not None or corrupted is not None)
    evaluated = evaluate_run(run, set_ or [], runs, views, shifts, corrupted)
    if out is not None:
        _draw(evaluated, out)
    if as_csv:
        columns = ("file", "class", "prediction", "confidence", "correct")
        layout.print_csv(columns, evaluated.answers)
        return
    result = evaluated.to_dict()
    if as_json:
        layout.print_json(result)
        return
    if evaluated.published:
        layout.print_lines([tables.published_line(evaluated.published)])
    layout.print_lines([*tables.result_lines(result), *copies_lines(evaluated)])
    for made in (*tables.evaluation_tables(result, layout.width()), *copies_tables(evaluated)):
        layout.print_table(made)


def _check_out(out: Path, *, drawn: bool) -> None:
    """Before minutes of testing."""
    from sfl.files import check_folder
    from sfl.pictures import need_matplotlib

    if not drawn:
        raise UserError("--out: nothing to draw", "give --shifts or --corrupted, too")
    need_matplotlib("evaluate --out")
    check_folder(out, "--out")


def _draw(evaluated: "Evaluated", out: Path) -> None:
    from sfl.pictures import write_pictures
    from sfl.plots.copies import pictures
    from sfl.plots.test_images import name_of_images
    from sfl.progress import say

    model, images = evaluated.model, name_of_images(evaluated.data.source)
    title = f"{model}\n{images}, {evaluated.n:,} test images"
    write_pictures(pictures({model: evaluated}, title), out)
    say(f"pictures: {out}")
