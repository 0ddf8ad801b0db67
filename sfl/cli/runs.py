"""`sfl runs` lists runs, `sfl runs rm` deletes some."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, Command, Group, Json, Runs, at_home
from sfl.errors import Exit, UserError

if TYPE_CHECKING:
    from rich.text import Text

WATCH_SECONDS = 2

runs_app = typer.Typer(rich_markup_mode=None, cls=Group)


@runs_app.callback(invoke_without_command=True)
def list_runs(
    context: typer.Context,
    runs: Runs = RUNS,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """List runs with status, progress, accuracy, age and size; or delete some: `sfl runs rm`.

    \b
    Examples:
      sfl runs
      sfl runs --watch
    """
    context.obj = runs
    if context.invoked_subcommand is not None:
        return
    from sfl.cli import layout, tables
    from sfl.progress import say
    from sfl.runs import listing, store

    if watch:
        _watch(runs, as_json)
        return
    rows = list(map(listing.describe, store.list_runs(runs)))
    if as_json:
        layout.print_json({"runs": rows})
    elif rows:
        layout.print_table(tables.runs_table(rows))
        layout.print_lines([f"{row['run']}: {row['failure']}" for row in rows if row["failure"]])
    else:
        say(f"{runs}: no runs yet; train one:", store.FIRST_RUN)


def _watch(root: Path, as_json: bool) -> None:
    """Shows the table every two seconds: the newest runs first, as many as fit on the screen."""
    from rich.console import Console
    from rich.live import Live

    from sfl.cli import layout, tables
    from sfl.runs import listing, store

    console = Console()
    if as_json or not console.is_terminal:
        raise UserError("--watch needs a terminal and can't be used with --json", "leave it out")

    def table() -> "Text":
        room = max(1, console.size.height - 3)
        newest = reversed(store.list_runs(root)[-room:])
        made = tables.runs_table(list(map(listing.describe, newest)))
        return layout.text(made, console.size.width)

    with contextlib.suppress(KeyboardInterrupt), Live(table(), console=console) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(table())


@runs_app.command("rm", cls=Command)
def remove_runs(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN", help="Runs, or their folders.", autocompletion=completion.runs
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", metavar="DIR", callback=at_home, help="Folder of run directories."),
    ] = None,
) -> None:
    """Delete runs, after asking.

    Example: sfl runs rm spatial-s0
    """
    from sfl import units
    from sfl.progress import say
    from sfl.runs.store import find, remove

    # `sfl runs --runs DIR rm RUN` means the same directory as `sfl runs rm --runs DIR RUN`.
    found = [find(runs or context.obj, name) for name in dict.fromkeys(names)]
    for run in found:
        say(f"{run.path}  {run.status}  {units.bytes_text(run.bytes)}")
    question = f"Delete {len(found)} run{'s' * (len(found) > 1)}?"
    if not yes and not typer.confirm(question, err=True):
        say("nothing was deleted")
        raise typer.Exit(Exit.INTERRUPTED)
    for run in found:
        remove(run)
