"""The program `sfl`: its commands, each from a file of its own, and its own options."""

import atexit
import gc
import inspect
import os
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from sfl import torchrun
from sfl.cli import completion, exits
from sfl.cli.bench import bench
from sfl.cli.compare import compare
from sfl.cli.data import data
from sfl.cli.evaluate import evaluate
from sfl.cli.export import export
from sfl.cli.grid import grid
from sfl.cli.options import Command, Group
from sfl.cli.plot import plot
from sfl.cli.predict import predict
from sfl.cli.runs import list_runs, runs_app
from sfl.cli.show import show
from sfl.cli.train import train
from sfl.errors import UserError
from sfl.host_memory import reuse_memory

app = typer.Typer(
    epilog="Start with: sfl train --config configs/quickstart.yaml",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    cls=Group,
)


def _summary(command: Callable[..., object]) -> str:
    """Its first paragraph, whole: typer would shorten it in the list of commands."""
    return str(inspect.getdoc(command)).partition("\n\n")[0]


for command in (train, evaluate, predict, compare, grid, plot, show, export, data, bench):
    app.command(cls=Command, short_help=_summary(command))(command)
app.add_typer(runs_app, name="runs", short_help=_summary(list_runs))


@app.callback(invoke_without_command=True)
def sfl_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[  # exits.run removes it before typer sees it
        bool, typer.Option("--debug", help="With any command: show the traceback of an error.")
    ] = False,
) -> None:
    """Train, evaluate and compare vision networks without weight sharing."""
    if version:
        import sfl

        print(f"sfl {sfl.__version__}")
        raise typer.Exit
    engine = os.environ.get("SFL_ENGINE", "")
    if engine not in ("", "reference"):  # before a command needs sfl.nn, which would raise, too
        raise UserError(f"SFL_ENGINE is {engine!r}: expected reference, or leave it out")
    if context.invoked_subcommand not in (None, "train"):
        torchrun.refuse_several(context.invoked_subcommand)
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> NoReturn:
    """Runs the command line of this process, and exits."""
    completion.join_words_of_bash()
    reuse_memory()
    atexit.register(gc.freeze)  # Python's search for garbage at the end takes up to 1.3 s
    exits.run(lambda arguments: app(arguments, prog_name="sfl", standalone_mode=False))
