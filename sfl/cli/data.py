"""`sfl data`: downloads and verifies the images, and describes them."""

from typing import Annotated

import typer

from sfl.cli import completion
from sfl.cli.options import Json, Set

NAMED = 10  # in a row of the table; --json has all


def data(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Whose data; default: CIFAR-10.",
            autocompletion=completion.configs,
        ),
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
    from sfl.cli import layout, tables
    from sfl.config.load import load

    settings = load(config, set_ or [])
    from sfl.data import survey
    from sfl.training.images import load_images, train_and_validation

    dataset = load_images(settings)
    pictures = survey.pictures_of(dataset)
    described = survey.summary(dataset, pictures)
    if settings.data.train_images is not None:
        train, _ = train_and_validation(settings, dataset)
        survey.add_trained_on(described, train)
    if as_json:
        layout.print_json(described)
        return
    per_class, _ = described.pop("per_class"), described.pop("same_pictures")
    described = {key: _shortened(value) for key, value in described.items()}
    layout.print_table(tables.data_table(described))
    layout.print_table(tables.class_counts_table(per_class))
    layout.print_lines(list(survey.doubts(dataset, pictures)))


def _shortened(value: object) -> object:
    """Of many names the first ones, and how many there are."""
    if isinstance(value, dict):
        value = [f"{name}: {one}" for name, one in value.items()]
    if not isinstance(value, list):
        return value
    return [*value[:NAMED], f"… {len(value):,} in all"] if len(value) > NAMED else value or "none"
