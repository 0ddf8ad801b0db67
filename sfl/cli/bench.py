"""`sfl bench`: this machine's speed."""

from pathlib import Path
from typing import Annotated

import typer

from sfl.cli.options import Json, at_home


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes and repetitions: two minutes.")
    ] = False,
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
    """
    from sfl.bench.plot import plot as draw
    from sfl.bench.run import run
    from sfl.cli import layout, tables

    measured = run(quick=quick)
    if plot is not None:
        draw(measured, plot)
    if as_json:
        layout.print_json(measured)
        return
    for made in tables.bench_tables(measured):
        layout.print_table(made)
