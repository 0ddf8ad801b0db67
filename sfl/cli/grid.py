"""`sfl grid`: its options, what it prints, its exit code."""

from typing import Annotated

import typer

from sfl.cli import completion
from sfl.cli.compare import (
    Csv,
    Latex,
    Markdown,
    NoTrain,
    Out,
    Seeds,
    Unfinished,
    show_comparison,
)
from sfl.cli.options import (
    RUNS,
    DataName,
    Engine,
    Jobs,
    JobsPerGpu,
    Json,
    Runs,
    Set,
    at_most_one,
)

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A study: a YAML file, or a name: grids/small.",
        autocompletion=completion.grids,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be trained, how long, how large.")
]
List = Annotated[
    bool,
    typer.Option("--list", help="Only print a command for each run to be trained, one a line."),
]


def grid(
    file: File,
    set_: Set = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    list_: List = False,
    no_train: NoTrain = False,
    unfinished: Unfinished = False,
    jobs: Jobs = "1",
    jobs_per_gpu: JobsPerGpu = 1,
    engine: Engine = "processes",
    out: Out = None,
    data_name: DataName = None,
    as_csv: Csv = False,
    as_markdown: Markdown = False,
    as_latex: Latex = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Train and compare every combination of a study: variants on one axis or two, with seeds.

    \b
    Examples:
      sfl grid grids/small --dry-run
      sfl grid grids/small --jobs 2 --out report
      sfl grid study.yaml --no-train --json
    """
    forms = {"json": as_json, "csv": as_csv, "markdown": as_markdown, "latex": as_latex}
    form = at_most_one(**forms)
    at_most_one(dry_run=dry_run, list=list_, no_train=no_train)
    at_most_one(dry_run=dry_run, list=list_, **forms)
    from sfl.cli import layout
    from sfl.comparison.command_list import commands
    from sfl.comparison.grid import missing, run_grid, say_plan
    from sfl.config.grid import load_grid
    from sfl.files import check_folder
    from sfl.jobs.job import at_once

    overrides, together = set_ or [], at_once(jobs, jobs_per_gpu, engine)
    if out is not None:
        check_folder(out, "--out")  # before hours of training
    study = load_grid(file, overrides, seeds)
    if list_:
        layout.print_lines(commands(missing(study, runs, known=True), study, runs))
        return
    if not no_train:
        say_plan(study, missing(study, runs), runs)
    if dry_run:
        return
    comparison, models = run_grid(
        study, runs, training=not no_train, unfinished=unfinished, data_name=data_name,
        overrides=overrides, at_once=together,
    )  # fmt: skip
    show_comparison(comparison, models, out, form)
