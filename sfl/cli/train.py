"""`sfl train`: its options, and what it prints."""

from typing import TYPE_CHECKING, Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, Config, Json, Runs, Set
from sfl.cli.show import print_model
from sfl.errors import UserError

Resume = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Continue this run.", autocompletion=completion.runs),
]

if TYPE_CHECKING:
    from sfl.config.schema import Config as Settings


def train(
    config: Config = None,
    set_: Set = None,
    seed: Annotated[
        str | None, typer.Option(metavar="N", help="The same as --set train.seed=N.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the run; must be new.")
    ] = None,
    resume: Resume = None,
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
    from sfl.cli import layout, tables
    from sfl.library import prepare
    from sfl.progress import say
    from sfl.runs.store import data_root_option
    from sfl.shell import command

    if resume is not None and dry_run:
        raise UserError("--resume can't be used with --dry-run", "leave one of them out")
    settings, start = prepare(config, set_ or [], runs, seed, name, resume)
    if dry_run:
        _show(settings, as_json)
        return
    trained = start()
    if as_json:
        layout.print_json(trained.to_dict())
        return
    layout.print_lines(tables.result_lines(trained.to_dict()))
    say(f"saved in {trained.path}")
    say("next:", command("evaluate", trained.path, *data_root_option(settings)))


def _show(settings: "Settings", as_json: bool) -> None:
    """What a run would be; raises UserError for sizes that can't be trained."""
    from sfl.training.audit import audit_model
    from sfl.training.device import threads
    from sfl.training.images import image_sizes
    from sfl.training.setup import check_sizes

    sizes = image_sizes(settings)
    summary = check_sizes(settings, sizes)
    audited = audit_model(settings, sizes.in_dimensions, sizes.classes)
    if not as_json:
        print(settings.to_yaml(), end="")
    with threads(settings.train.threads) as count:
        print_model(
            settings, summary, audited, None, as_json, config=settings.to_dict(), threads=count
        )
    if not as_json:
        print(f"threads: {count}")
