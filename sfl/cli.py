"""The commands: parse, call, print. Computes nothing; imports the rest when a command needs it.

Results go to standard output, everything else to standard error.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sfl.errors import Exit, UserError

app = typer.Typer(
    name="sfl",
    help="Vision networks without weight sharing: train, evaluate and compare them.",
    epilog="Start with: sfl train --config configs/quickstart.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
)
runs_app = typer.Typer(
    help="The runs there are, with status, accuracy, age and size.\n\nExample: sfl runs",
    rich_markup_mode=None,
)
app.add_typer(runs_app, name="runs")

Runs = Annotated[
    Path,
    typer.Option("--runs", envvar="SFL_RUNS", metavar="DIR", help="Where run directories live."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=V", help="Override a setting; may be repeated."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RUNS = Path("checkpoints")


def _version(wanted: bool) -> None:
    if wanted:
        import sfl

        print(f"sfl {sfl.__version__}")
        raise typer.Exit


@app.callback()
def sfl_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Vision networks without weight sharing: train, evaluate and compare them."""


@app.command()
def train(
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="A YAML file, or a name: spatial."),
    ] = None,
    set_: Set = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set train.seed=N.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; must be new.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show what would be trained.")
    ] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network, save it, and report its test accuracy.

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
        raise UserError("sfl train needs --config FILE, or --resume RUN; one of the two")
    if resume is not None:
        if seed is not None or name is not None or dry_run:
            raise UserError("--resume goes with --set alone; seed and name are the run's own")
        result = experiments.resume(find(runs, resume), overrides)
    else:
        assert config is not None
        settings = load(config, overrides)
        if dry_run:
            _dry_run(settings, as_json)
            return
        run_name = name or experiments.run_name(config, settings)
        result = experiments.train(settings, runs, run_name, exact=name is not None)
    if as_json:
        _print_json(result)
        return
    print(tables.result_line(result))
    option = "" if runs == RUNS else f" --runs {runs}"
    say(f"saved in {runs / result['run']}")
    say(f"next: sfl evaluate {result['run']}{option}   sfl show {result['run']}{option}")


def _dry_run(settings: Any, as_json: bool) -> None:
    from sfl import tables
    from sfl.training.setup import describe_model, image_shape

    summary = describe_model(settings, *image_shape(settings))
    if as_json:
        _print_json(
            {"config": settings.to_dict(), "weights": summary.weights, "flops": summary.flops}
        )
        return
    print(settings.to_yaml(), end="")
    tables.stdout().print(tables.summary_table(summary))


@app.command()
def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN or FILE]", help="Default: the newest finished run."),
    ] = None,
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Test accuracy, loss, accuracy per class and confusion of a run or a file of weights.

    Examples:

      sfl evaluate

      sfl evaluate checkpoints/spatial-s0/best.safetensors --set data.root=/data
    """
    from sfl import tables
    from sfl.display import say
    from sfl.runs import BEST, find, newest_finished

    if run is not None and Path(run).is_file():
        path = Path(run)
    else:
        path = (find(runs, run) if run else newest_finished(runs)).path / BEST
    from sfl.training.result import evaluate_weights

    say(f"evaluating {path}")
    result = evaluate_weights(path, set_ or [])
    if as_json:
        _print_json(result)
        return
    print(tables.result_line(result))
    tables.stdout().print(tables.evaluation_table(result))


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="CONFIG CONFIG [CONFIG]…")],
    set_: Set = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs per model: its seed and the N - 1 after it.")
    ] = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Only what is there.")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Models side by side; trains what is missing, saying so first.

    Examples:

      sfl compare conv spatial

      sfl compare spatial spatial-shared --seeds 3 --set train.epochs=20
    """
    from sfl import experiments, tables
    from sfl.analysis.compare import compare as compare_runs
    from sfl.display import say

    if len(names) < 2:
        raise UserError(f"compare needs two models or more, not {names[0]} alone")
    plan = experiments.plan(names, set_ or [], seeds, runs)
    missing = [experiments.run_name(e.name, config) for e in plan for config in e.missing]
    if missing and no_train:
        raise UserError(
            f"no finished run of {', '.join(missing)} in {runs}", "leave --no-train out", Exit.RUN
        )
    if missing:
        say(f"to be trained first: {', '.join(missing)}")
        experiments.complete(plan, runs)
    comparison = compare_runs([(e.name, e.config, e.finished) for e in plan])
    if as_json:
        _print_json(comparison)
        return
    tables.stdout().print(tables.comparison_table(comparison))
    for remark in comparison["remarks"]:
        print(remark)


@app.command()
def show(
    what: Annotated[str, typer.Argument(metavar="CONFIG or RUN")],
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """A model, layer by layer: shapes, weights, FLOPs, what is shared, what dense would hold.

    Examples:

      sfl show spatial

      sfl show conv --set model.layer=spatial
    """
    from sfl import tables
    from sfl.config import load
    from sfl.runs import CONFIG

    folders = (runs / what, Path(what))
    run = next((path / CONFIG for path in folders if (path / CONFIG).is_file()), None)
    config = load(run or what, set_ or [])
    from sfl.training.setup import describe_model, image_shape

    summary = describe_model(config, *image_shape(config))
    if as_json:
        layers = [layer.__dict__ for layer in summary.layers]
        _print_json(
            {"model": config.model.name, "weights": summary.weights, "flops": summary.flops}
            | {"layers": layers}
        )
        return
    tables.stdout().print(tables.summary_table(summary))


@app.command()
def data(
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="Whose data; default: CIFAR-10.")
    ] = "spatial",
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch and verify the images, and say what they are.

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
        _print_json(described)
    else:
        tables.stdout().print(tables.data_table(described))


@runs_app.callback(invoke_without_command=True)
def list_runs(
    context: typer.Context, runs: Runs = RUNS, as_json: Json = False, debug: Debug = False
) -> None:
    """The runs there are, with status, accuracy, age and size."""
    if context.invoked_subcommand is not None:
        return
    from sfl import tables
    from sfl.display import say
    from sfl.runs import list_runs as all_runs

    rows = [run.describe() for run in all_runs(runs)]
    if as_json:
        _print_json({"runs": rows})
    elif rows:
        tables.stdout().print(tables.runs_table(rows))
    else:
        say(f"{runs}: no runs yet; train one: sfl train --config configs/quickstart.yaml")


@runs_app.command("rm")
def remove_runs(
    names: Annotated[list[str], typer.Argument(metavar="RUN…")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    runs: Runs = RUNS,
    debug: Debug = False,
) -> None:
    """Delete runs, after asking.

    Example: sfl runs rm spatial-s0
    """
    from sfl import tables
    from sfl.display import say
    from sfl.runs import find, remove

    found = [find(runs, name) for name in names]
    for run in found:
        say(f"{run.path}  {run.status}  {tables.bytes_text(run.bytes)}")
    if not yes and not typer.confirm(f"Delete {len(found)} run(s)?", err=True):
        raise UserError("nothing deleted")
    for run in found:
        remove(run)


class Terminated(KeyboardInterrupt):
    """SIGTERM, so that it unwinds like Ctrl-C."""


def _on_sigterm(number: int, frame: Any) -> NoReturn:
    raise Terminated


def main() -> NoReturn:
    """Runs a command line; every way out has its exit code and, unless --debug, one line."""
    # PyTorch reads this at its first allocation: large tensors in huge pages, which halves the
    # time of products that write a gradient of a gigabyte (page faults).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        sys.exit(app(standalone_mode=False) or Exit.DONE)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _fail(error)
    except Terminated:
        sys.exit(Exit.TERMINATED)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _fail(error: Exception) -> NoReturn:
    """Prints an exception as one line and exits."""
    if isinstance(error, UserError):
        line, code = str(error), int(error.exit_code)
    elif isinstance(error, typer.TyperException):
        line, code = error.format_message(), error.exit_code
    elif isinstance(error, typer.Abort):
        line, code = "stopped", int(Exit.INTERRUPTED)
    elif isinstance(error, BrokenPipeError):  # `sfl runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.DONE)
    elif _is_out_of_memory(error):
        line, code = "out of memory (a smaller data.batch_size or model needs less)", Exit.RESOURCES
    else:
        line = f"a bug of sfl: {type(error).__name__}: {error} (--debug shows where)"
        code = int(Exit.BUG)
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from sfl.training.memory import is_out_of_memory

    return is_out_of_memory(error)


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, indent=2, ensure_ascii=False))
