"""What a shell offers at Tab: configs, runs, settings and their values. Imports no torch.

`sfl --install-completion` makes the shell ask; the typed words come in the environment.
"""

import contextlib
import os
import textwrap
from typing import TYPE_CHECKING

import typer

from sfl.errors import UserError
from sfl.shell import home

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

COMPLETING = "_SFL_COMPLETE"  # the variable with which a shell asks
_before = ""  # in bash, `a.b=` of the word that is being typed


def configs(incomplete: str) -> list[str]:
    """The configs that ship with sfl, and the YAML files in the folder that is being typed."""
    from sfl.config.load import named_configs

    return [*named_configs(), *_yaml_files(incomplete)]


def grids(incomplete: str) -> list[str]:
    """The same of studies."""
    from sfl.config.load import named_grids

    return [*named_grids(), *_yaml_files(incomplete)]


def _yaml_files(incomplete: str) -> list[str]:
    files: list[str] = []
    folder = os.path.dirname(incomplete)
    with contextlib.suppress(OSError):
        files = [os.path.join(folder, name) for name in os.listdir(folder or ".")]
    return [name for name in files if name.endswith((".yaml", ".yml"))]


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The runs in the folder that --runs or SFL_RUNS names."""
    from sfl.runs import store

    around = [context.params.get("runs") for context in (ctx, ctx.parent) if context]
    root = next(filter(None, [*around, os.environ.get("SFL_RUNS")]), "checkpoints")
    with contextlib.suppress(UserError):
        return [run.name for run in store.list_runs(home(root))]
    return []


def configs_and_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `sfl compare` and `sfl show` take."""
    return [*configs(incomplete), *runs(ctx, incomplete)]


def settings(incomplete: str) -> list[tuple[str, str]]:
    """Every setting with its sentence; after `=`, the values that it may take."""
    from sfl.config.fields import all_fields, choice
    from sfl.config.schema import Config

    name, equals, _ = f"{_before}{incomplete}".partition("=")
    fields = all_fields(Config)
    if not equals:
        return [(f"{key}=", _said(field)) for key, field in fields.items()]
    words = choice(fields[name]) if name in fields else []
    return [(f"{name}={word}".removeprefix(_before), _said(fields[name])) for word in words]


def _said(field: "FieldInfo") -> str:
    """A setting's sentence: typer breaks longer ones, and fish takes each line for an offer."""
    return textwrap.shorten(str(field.description), 60, placeholder=" …")


def join_words_of_bash() -> None:
    """Makes one word of `--set`, `a.b`, `=` and `v`, as bash splits it, for typer.

    bash replaces only what follows the last `=`, so that is the word to be completed.
    """
    global _before
    if os.environ.get(COMPLETING) != "complete_bash":
        return
    joined: list[str] = []
    for word in os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]:
        if joined and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    if joined[-1].startswith("--set="):
        joined[-1:] = joined[-1].split("=", 1)
    if joined[-2:-1] == ["--set"] and "=" in joined[-1]:
        name, equals, joined[-1] = joined[-1].partition("=")
        _before = name + equals
    os.environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(len(joined) - 1))
