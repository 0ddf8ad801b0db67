"""`sfl bench`: this machine's speed."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from sfl.cli.options import Json, Set, at_home, at_most_one
from sfl.errors import UserError

BOARD, BOARD_TARGET = ("board/local", "board/conv"), 0.8


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes and repetitions: about five minutes.")
    ] = False,
    board: Annotated[
        bool,
        typer.Option(
            "--board", help="Instead: train the networks of configs/board, and say what 80 % takes."
        ),
    ] = False,
    set_: Set = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", callback=at_home, help="Also draw it, into bench.svg or bench.png."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed and memory on this machine, compared with the notebook's code.

    \b
    Examples:
      sfl bench --quick
      sfl bench --plot bench.svg --json > bench.json
      sfl bench --board --set data.source=folder --set data.root=/data
    """
    at_most_one(board=board, quick=quick)
    at_most_one(board=board, plot=plot is not None)
    if set_ and not board:
        raise UserError("--set: only with --board, whose networks are trained")
    if board:
        _show_board(set_ or [], as_json=as_json)
        return
    from sfl.bench.plot import plot as draw
    from sfl.bench.run import run
    from sfl.cli import layout, tables
    from sfl.files import check_folder
    from sfl.pictures import check_format, need_matplotlib

    if plot is not None:  # before minutes of measuring
        need_matplotlib("--plot")
        check_format(plot)
        check_folder(plot.parent, "--plot")
    measured = run(quick=quick)
    if as_json:
        layout.print_json(measured)
    else:
        for made in tables.bench_tables(measured):
            layout.print_table(made)
    if plot is not None:
        draw(measured, plot)


def _show_board(overrides: list[str], *, as_json: bool) -> None:
    """Trains them anew, in a folder that is deleted: it is the time that is asked for."""
    from sfl.cli.compare import show_comparison
    from sfl.comparison.run import run_comparison

    with TemporaryDirectory(prefix="sfl-board-") as runs:
        comparison, models = run_comparison(BOARD, overrides, 1, Path(runs), target=BOARD_TARGET)
        show_comparison(comparison, models, None, "json" if as_json else "")
