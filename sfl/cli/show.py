"""`sfl show`: describes a model, layer by layer."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfl.cli.options import RUNS, Json, Runs, Set

if TYPE_CHECKING:
    from sfl.config.schema import Config
    from sfl.nn.summary import ModelSummary


def show(
    what: Annotated[str, typer.Argument(metavar="CONFIG_OR_RUN")],
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Describe a model layer by layer: shapes, weights, FLOPs, sharing, weights of a dense layer.

    \b
    Examples:
      sfl show spatial
      sfl show conv --set model.layer=spatial
    """
    from sfl.config.load import load
    from sfl.runs.directory import BEST, CONFIG
    from sfl.runs.store import search
    from sfl.training.setup import describe_model, image_shape

    folder = run.path if (run := search(runs, what)) else None
    config = load(folder / CONFIG if folder else what, set_ or [])
    summary = describe_model(config, *image_shape(config, folder and folder / BEST))
    print_model(config, summary, as_json, model=config.model.name)


def print_model(config: "Config", summary: "ModelSummary", as_json: bool, /, **more: Any) -> None:
    """Prints the layers and what computes them; or as JSON `more`, the sums and the layers."""
    from sfl.cli import tables
    from sfl.nn import engine
    from sfl.training.device import planned_device

    report = engine.report(planned_device(config.train.device))
    if as_json:
        tables.print_json({**more, "engine": report, **summary.to_dict()})
        return
    tables.stdout().print(tables.summary_table(summary))
    if config.model.storage == "local":
        tables.print_lines([f"spatial layers: {report}"])
