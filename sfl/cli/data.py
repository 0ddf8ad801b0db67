"""`sfl data`: downloads and verifies the images, and describes them."""

from typing import Annotated

import typer

from sfl.cli.options import Json, Set


def data(
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="Whose data; default: CIFAR-10.")
    ] = "spatial",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Download and verify the images, and describe them.

    \b
    Examples:
      sfl data
      sfl data --set data.source=folder --set data.root=my-images
    """
    from sfl.cli import tables
    from sfl.config.load import load

    settings = load(config, set_ or [])
    from sfl.data import survey
    from sfl.training.setup import load_images

    dataset = load_images(settings)
    described = survey.summary(dataset)
    if as_json:
        tables.print_json(described)
        return
    per_class = described.pop("per_class")
    tables.stdout().print(tables.data_table(described))
    tables.stdout().print(tables.class_counts_table(per_class))
    tables.print_lines(list(survey.doubts(dataset)))
