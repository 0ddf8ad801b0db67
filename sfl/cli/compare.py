"""`sfl compare`: its options, what it prints, its exit code."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import (
    RUNS,
    DataName,
    Engine,
    Jobs,
    JobsPerGpu,
    Json,
    Runs,
    Set,
    at_home,
    at_most_one,
)
from sfl.errors import Exit, UserError

if TYPE_CHECKING:
    from sfl.comparison.model import ComparedModel
    from sfl.comparison.schema import Comparison

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG_OR_RUN",
        help="Two models or more: configs, runs, or both.",
        autocompletion=completion.configs_and_runs,
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Runs per config: its seed and the N - 1 after it."),
]
Target = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, metavar="ACCURACY", help="Also what it took to reach this accuracy: 0.5."
    ),
]
NoTrain = Annotated[
    bool, typer.Option("--no-train", help="Train nothing: compare the runs that there are.")
]
Unfinished = Annotated[
    bool, typer.Option("--unfinished", help="Include unfinished runs as they are.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        callback=at_home,
        help="Write a report with pictures: report.html, report.md.",
    ),
]
FailIfWorse = Annotated[
    bool,
    typer.Option(
        "--fail-if-worse", help="Exit with 7 if a model is worse than the first, beyond chance."
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="As CSV, a row for each model or cell.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="As a table in Markdown.")]
Latex = Annotated[bool, typer.Option("--latex", help="As a table in LaTeX, for booktabs.")]


def compare(
    names: Models,
    set_: Set = None,
    seeds: Seeds = None,
    target: Target = None,
    no_train: NoTrain = False,
    unfinished: Unfinished = False,
    jobs: Jobs = "1",
    jobs_per_gpu: JobsPerGpu = 1,
    engine: Engine = "processes",
    out: Out = None,
    data_name: DataName = None,
    fail_if_worse: FailIfWorse = False,
    as_csv: Csv = False,
    as_markdown: Markdown = False,
    as_latex: Latex = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Compare models with the first one: accuracy, how sure, at what cost. Trains missing runs.

    \b
    Examples:
      sfl compare conv spatial
      sfl compare spatial-shared spatial --seeds 3 --out report
      sfl compare spatial-s0 my.yaml --no-train --json
    """
    form = at_most_one(json=as_json, csv=as_csv, markdown=as_markdown, latex=as_latex)
    from sfl.comparison.run import run_comparison
    from sfl.files import check_folder
    from sfl.jobs.job import at_once

    overrides, together = set_ or [], at_once(jobs, jobs_per_gpu, engine)
    if out is not None:
        check_folder(out, "--out")  # before hours of training
    comparison, models = run_comparison(
        names, overrides, seeds, runs, target=target, training=not no_train,
        unfinished=unfinished, data_name=data_name, at_once=together,
    )  # fmt: skip
    show_comparison(comparison, models, out, form)
    worse = [d.second for d in comparison.differences if d.is_worse]
    if fail_if_worse and worse:
        said = f"{', '.join(worse)}: worse than {comparison.models[0].name}, beyond chance"
        raise UserError(said, exit_code=Exit.WORSE)


def show_comparison(
    comparison: "Comparison", models: "Sequence[ComparedModel]", out: Path | None, form: str
) -> None:
    """Prints a comparison, and writes its report into `out`. form: a flag; "": as text.

    Raises UserError if runs of it have failed, with the exit code of the first.
    """
    from sfl.cli import layout
    from sfl.comparison import latex, markdown, table
    from sfl.jobs.job import Failure, failed
    from sfl.progress import say

    written = {"csv": table.to_csv, "markdown": markdown.to_markdown, "latex": latex.to_latex}
    if form == "json":
        layout.print_json(comparison.model_dump())
    elif form:
        layout.print_utf8(written[form](comparison))
    else:
        _print(comparison)
    if out is not None:  # after the numbers, in case the pictures fail
        from sfl.comparison import report

        report.write(comparison, models, out)
        say(f"report: {out / 'report.html'}")
    if comparison.failed:
        raise failed(
            [Failure(f.run, UserError(f.reason, "", Exit(f.exit_code))) for f in comparison.failed]
        )


def _print(comparison: "Comparison") -> None:
    """As text: of a study with two axes its cells, else a column for each model."""
    from sfl.cli import layout, tables
    from sfl.comparison.cells import by_axes, sheets
    from sfl.comparison.table import rows

    names = [model.name for model in comparison.models]
    if sheet := by_axes(comparison):
        layout.print_table(tables.sheet_table(sheet))
        layout.print_lines(["(all numbers of each cell: --out DIR, --csv, --json)"])
    else:
        layout.print_table(tables.comparison_table(names, rows(comparison)))
        for sheet in sheets(comparison):  # of a study: what its cells have tried
            layout.print_table(tables.sheet_table(sheet))
    layout.print_lines([*comparison.remarks, "", *comparison.conclusion])
