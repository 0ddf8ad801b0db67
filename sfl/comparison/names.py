"""What a name on the command line means: a config, or a run with its config.

Knows nothing of other runs, nor of what is trained.
"""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfl.config.load import find, flat, from_tree, load, override
from sfl.config.schema import MAY_CHANGE, Config
from sfl.errors import UserError
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import Run


@dataclass(frozen=True)
class Named:
    """A config (run is None), or a run and its config."""

    name: str
    config: Config
    run: Run | None = None

    @property
    def experiment(self) -> str:
        """The same for all configs and runs that differ in the seed alone."""
        return json.dumps(self.config.identity(), sort_keys=True)


def resolve(name: str, overrides: Sequence[str], root: Path) -> Named:
    """The config of that name or, where there is none, the run.

    overrides: `a.b=v` settings; those that don't apply are ignored with a message.
    Raises UserError where there is neither.
    """
    try:
        find(name)
    except UserError as error:
        run = store.search(root, name)
        if run is not None:
            return Named(name, _config_of_run(run, overrides), run)
        if os.path.isdir(name):
            raise UserError(f"{name}: neither a run directory nor a config") from None
        raise UserError(error.message, f"{error.hint}, or a run in {root}") from None
    return Named(name, _config(name, overrides))


def name_after_run(run: Run, taken: Collection[str]) -> str:
    """The name of a model without a config: its run's, without the seed where that is not taken."""
    stem, _, seed = run.name.rpartition("-s")
    short = stem if stem and seed.split("-")[0].isdecimal() else run.name
    return next(name for name in (short, run.name, str(run.path)) if name not in taken)


def changeable(overrides: Sequence[str]) -> list[str]:
    """Those overrides that leave an experiment the same one: where the images are, the device."""
    return [given for given in overrides if _key(given) in MAY_CHANGE]


def differing(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """The settings in which two experiments differ, with both values; None where it has none."""
    first, second = (flat(config.identity()) for config in (one, other))
    pairs = {key: (first.get(key), second.get(key)) for key in [*first, *second]}
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def _config_of_run(run: Run, overrides: Sequence[str]) -> Config:
    applied = changeable(overrides)
    ignored = " ".join(f"--set {given}" for given in overrides if given not in applied)
    if ignored:
        say(f"{run.path}: {ignored} is ignored: the run was trained with its own settings")
    return override(from_tree(run.config_tree), applied)


def _config(name: str, overrides: Sequence[str]) -> Config:
    """A config with the overrides, without model.storage if its layer is conv."""
    storage = [given for given in overrides if _key(given) == "model.storage"]
    config = load(name, [given for given in overrides if given not in storage])
    if storage and config.model.layer == "conv":
        say(f"{name}: --set {storage[-1]} is ignored: a conv layer has no storage")
        return config
    return load(name, overrides)


def _key(override: str) -> str:
    return override.split("=", 1)[0].strip()
