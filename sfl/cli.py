"""The commands: parse, call, print. Computes nothing; imports the rest when a command needs it.

Results go to standard output, everything else to standard error.
"""

import atexit
import gc
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sfl import exits, workers
from sfl.cli_compare import compare
from sfl.cli_options import RUNS, Json, Runs, Set
from sfl.cli_plot import plot
from sfl.cli_runs import runs_app
from sfl.errors import PROGRAM, UserError
from sfl.ram import reuse_memory

if TYPE_CHECKING:
    from sfl.config import Config

app = typer.Typer(
    epilog="Start with: sfl train --config configs/quickstart.yaml",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(runs_app, name="runs")


@app.callback(invoke_without_command=True)
def sfl_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[  # exits.run takes it away before it gets here
        bool, typer.Option("--debug", help="With any command: show the traceback of an error.")
    ] = False,
) -> None:
    """Vision networks without weight sharing: train, evaluate and compare them."""
    if version:
        import sfl

        print(f"sfl {sfl.__version__}")
        raise typer.Exit
    if context.invoked_subcommand not in (None, "train"):
        workers.refuse_several(context.invoked_subcommand)
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="A YAML file, or a name: spatial."),
    ] = None,
    set_: Set = None,
    seed: Annotated[
        str | None, typer.Option(metavar="N", help="Short for --set train.seed=N.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; must be new.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with this run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show it only.")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Train a network, save it, and report its test accuracy.

    \b
    Examples:
      sfl train --config configs/quickstart.yaml
      sfl train --config spatial --set optimizer.lr=1e-3 --seed 1
      sfl train --resume spatial-s0
    """
    from sfl import experiments, tables
    from sfl.config import load
    from sfl.display import say
    from sfl.runs import find

    overrides = [*(set_ or []), *([f"train.seed={seed}"] if seed is not None else [])]
    if (config is None) == (resume is None):
        raise UserError("train needs --config FILE or --resume RUN, one of the two", "see --help")
    folder = runs
    if resume is not None:
        if seed is not None or name is not None or dry_run:
            raise UserError("--resume goes with --set alone", "seed and name are the run's own")
        run = find(runs, resume)
        folder = run.path.parent
        settings = experiments.config_to_resume(run, overrides)
        result = experiments.resume(run, settings)
    else:
        assert config is not None
        settings = load(config, overrides)
        if dry_run:
            if not as_json:
                print(settings.to_yaml(), end="")
            _print_model(settings, as_json, None, config=settings.to_dict())
            return
        run_name = experiments.run_name(config, settings) if name is None else name
        result = experiments.train(settings, runs, run_name, exact=name is not None)
    if as_json:
        tables.print_json(result)
        return
    print(tables.result_line(result))
    where = [] if folder == RUNS else ["--runs", str(folder)]
    then = ["evaluate", result["run"], *where, *experiments.data_root_option(settings)]
    say(f"saved in {folder / result['run']}")
    say(f"next: {shlex.join([PROGRAM, *then])}")


def _print_model(config: "Config", as_json: bool, weights: Path | None, /, **more: Any) -> None:
    """The layer table, or as JSON: `more`, the sums and the layers."""
    from sfl import tables
    from sfl.training.setup import describe_model, image_shape

    summary = describe_model(config, *image_shape(config, weights))
    if as_json:
        tables.print_json({**more, **summary.to_dict()})
    else:
        tables.stdout().print(tables.summary_table(summary))


@app.command()
def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN_OR_FILE", help="Default: the newest finished run."),
    ] = None,
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Test accuracy, loss, accuracy per class and confusion of a run or a file of weights.

    \b
    Examples:
      sfl evaluate
      sfl evaluate checkpoints/spatial-s0/best.safetensors --set data.root=/data
    """
    from sfl import tables
    from sfl.display import say
    from sfl.runs import find_weights

    path = find_weights(runs, run)  # refuses before torch is imported
    from sfl.training.result import evaluate_weights

    say(f"evaluating {path}")
    result = evaluate_weights(path, set_ or [])
    if as_json:
        tables.print_json(result)
        return
    print(tables.result_line(result))
    tables.stdout().print(tables.evaluation_table(result))


app.command()(compare)
app.command()(plot)


@app.command()
def show(
    what: Annotated[str, typer.Argument(metavar="CONFIG_OR_RUN")],
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """A model, layer by layer: shapes, weights, FLOPs, what is shared, what dense would hold.

    \b
    Examples:
      sfl show spatial
      sfl show conv --set model.layer=spatial
    """
    from sfl.config import load
    from sfl.rundir import BEST, CONFIG
    from sfl.runs import search

    folder = run.path if (run := search(runs, what)) else None
    config = load(folder / CONFIG if folder else what, set_ or [])
    _print_model(config, as_json, folder and folder / BEST, model=config.model.name)


@app.command()
def data(
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="Whose data; default: CIFAR-10.")
    ] = "spatial",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Fetch and verify the images, and say what they are.

    \b
    Examples:
      sfl data
      sfl data --set data.source=folder --set data.root=my-images
    """
    from sfl import tables
    from sfl.config import load

    settings = load(config, set_ or [])
    from sfl.training.setup import load_images

    described = load_images(settings).summary()
    if as_json:
        tables.print_json(described)
    else:
        tables.stdout().print(tables.data_table(described))


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes and repetitions: two minutes.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it, too: bench.svg, bench.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """This machine's speed and memory, against the notebook's way of doing it.

    \b
    Examples:
      sfl bench --quick
      sfl bench --plot bench.svg --json > bench.json
    """
    from sfl import tables
    from sfl.bench.plot import plot as draw
    from sfl.bench.run import run

    measured = run(quick=quick)
    if plot is not None:
        draw(measured, plot)
    if as_json:
        tables.print_json(measured)
        return
    for made in tables.bench_tables(measured):
        tables.stdout().print(made)


def _leave_garbage() -> None:
    """At its end Python looks through all that was imported: a sixth of a short command's time."""
    if "torch" not in sys.modules:
        gc.freeze()


def main() -> NoReturn:
    """Runs the command line of this process."""
    reuse_memory()
    atexit.register(_leave_garbage)
    exits.run(lambda arguments: app(arguments, prog_name="sfl", standalone_mode=False))
