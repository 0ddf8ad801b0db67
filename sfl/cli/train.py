"""`sfl train`: its options, and what it prints."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from sfl.cli.options import RUNS, Json, Runs, Set
from sfl.cli.show import print_model
from sfl.errors import PROGRAM, UserError

if TYPE_CHECKING:
    from sfl.config.schema import Config


def train(
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="A YAML file, or a name: spatial."),
    ] = None,
    set_: Set = None,
    seed: Annotated[
        str | None, typer.Option(metavar="N", help="The same as --set train.seed=N.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; must be new.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Continue this run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show config and model.")] = False,
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
    from sfl.cli import tables
    from sfl.config.load import load
    from sfl.progress import say
    from sfl.runs.store import data_root_option, find, run_name

    overrides = [*(set_ or []), *([f"train.seed={seed}"] if seed is not None else [])]
    if (config is None) == (resume is None):
        raise UserError("train needs --config FILE or --resume RUN, one of the two", "see --help")
    if resume is not None:
        if seed is not None or name is not None or dry_run:
            raise UserError("--resume can be used with --set only", "the rest is the run's own")
        run = find(runs, resume)
        from sfl.training import start
        from sfl.training.resume import config_to_resume

        folder, settings = run.path.parent, config_to_resume(run, overrides)
        result = start.resume(run, settings)
    else:
        assert config is not None
        folder, settings = runs, load(config, overrides)
        if dry_run:
            _show(settings, as_json)
            return
        from sfl.training import start

        named = run_name(config, settings) if name is None else name
        result = start.train(settings, runs, named, exact=name is not None)
    if as_json:
        tables.print_json(result)
        return
    print(tables.result_line(result))
    where = [] if folder == RUNS else ["--runs", str(folder)]
    then = ["evaluate", result["run"], *where, *data_root_option(settings)]
    say(f"saved in {folder / result['run']}")
    say(f"next: {shlex.join([PROGRAM, *then])}")


def _show(settings: "Config", as_json: bool) -> None:
    """What a run would be; raises UserError for sizes that can't be trained."""
    from sfl.training.device import threads
    from sfl.training.setup import check_sizes

    summary = check_sizes(settings)
    if not as_json:
        print(settings.to_yaml(), end="")
    with threads(settings.train.threads) as count:
        print_model(settings, summary, as_json, config=settings.to_dict(), threads=count)
    if not as_json:
        print(f"threads: {count}")
