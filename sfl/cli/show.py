"""`sfl show`: describes a model, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfl.cli import completion
from sfl.cli.options import RUNS, Json, Runs, Set

if TYPE_CHECKING:
    from sfl.config.schema import Config
    from sfl.nn.summary import ModelSummary
    from sfl.runs.records import Audit


def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_RUN_OR_FILE",
            help="A config, a run or a file of weights.",
            autocompletion=completion.configs_and_runs,
        ),
    ],
    set_: Set = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Describe a model layer by layer: shapes, weights, FLOPs; what it shares and transports.

    \b
    Examples:
      sfl show spatial
      sfl show conv --set model.layer=spatial
      sfl show weights.safetensors
    """
    from sfl.config.load import from_tree, load, override
    from sfl.runs.directory import BEST
    from sfl.runs.store import search
    from sfl.training.audit import audit_model
    from sfl.training.checkpoint import read_checkpoint
    from sfl.training.images import image_sizes
    from sfl.training.setup import describe_model

    run = None if what.endswith(".safetensors") else search(runs, what)
    weights = run.path / BEST if run else Path(what)
    checkpoint = None
    if weights.suffix == ".safetensors" and (run is None or weights.exists()):
        checkpoint = read_checkpoint(weights, with_tensors=False)
    if run:
        config = override(from_tree(run.config_tree), set_ or [])
    elif checkpoint:
        config = override(checkpoint.settings, set_ or [])
    else:
        config = load(what, set_ or [])
    # A run's images need not be there any more.
    shape = checkpoint.sizes if checkpoint else image_sizes(config)[:2]
    described = describe_model(config, *shape), audit_model(config, *shape)
    taught_by = checkpoint.taught_by if checkpoint else None
    print_model(config, *described, taught_by, as_json, model=config.model.name)


def print_model(
    config: "Config", summary: "ModelSummary", audited: "Audit",
    taught_by: "dict[str, Any] | None", as_json: bool, /, **more: Any,
) -> None:  # fmt: skip
    """Prints the layers, what computes them, and the audit; or as JSON `more` and all of it.

    taught_by: as its checkpoint says it.
    """
    from sfl.cli import layout, tables
    from sfl.nn import engine
    from sfl.runs.labels import explained, label
    from sfl.training.device import local_dtype, planned_device

    device = planned_device(config.train.device)
    report = engine.report(device, local_dtype(device, config.train.precision))
    what, subset = label(config, audited.sharing, taught_by), config.data.train_images
    if as_json:
        described = {**summary.to_dict(), "audit": audited.to_dict(), "label": what}
        layout.print_json({**more, "engine": report, **described, "train_images": subset})
        return
    layout.print_table(tables.summary_table(summary))
    if config.model.storage == "local":
        layout.print_lines([f"spatial layers: {report}"])
    print()
    layout.print_table(tables.audit_table(audited))
    layout.print_lines([*audited.in_words, f"label, {explained(what)}"])
    if subset is not None:
        layout.print_lines([f"trained on {subset:,} of its training images"])
