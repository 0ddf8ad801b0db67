"""Options that several commands share; an option that takes one value is given once."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sfl.cli import completion
from sfl.errors import UserError
from sfl.shell import home
from sfl.units import listed


def at_home(path: Path | None) -> Path | None:
    """The path of an option, with `~` expanded."""
    return path and home(path)


Runs = Annotated[
    Path,
    typer.Option(
        "--runs",
        envvar="SFL_RUNS",
        metavar="DIR",
        callback=at_home,
        help="Folder of run directories.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="A YAML file, or a name: spatial.",
        autocompletion=completion.configs,
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=V", help="Change a setting; may be repeated.",
        autocompletion=completion.settings,
    ),
]  # fmt: skip
DataName = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Name of the images in titles: CIFAR-10.")
]
Jobs = Annotated[
    str,
    typer.Option(
        "--jobs", metavar="N|auto", help="Runs trained at once; two or more as processes."
    ),
]
JobsPerGpu = Annotated[
    int, typer.Option("--jobs-per-gpu", min=1, metavar="N", help="Runs that share a GPU.")
]
Engine = Annotated[
    str,
    typer.Option(metavar="NAME", help="processes, or ray: runs on a Ray cluster (RAY_ADDRESS)."),
]
RUNS = Path("checkpoints")


def at_most_one(**flags: bool) -> str:
    """The one of these flags that is given, or ""; raises UserError (exit 2) where several are."""
    given = [name for name, is_given in flags.items() if is_given]
    if len(given) > 1:
        every = listed("--" + name.replace("_", "-") for name in flags)
        raise UserError(f"{every}: only one of them can be given")
    return "".join(given)


class _GivenOnce:
    """Refuses an option given twice, where typer would take the last one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UserError (exit 2) for an option with a value that is given twice."""
        given = []
        if not ctx.resilient_parsing:  # a shell that asks for completions
            _, _, given = ctx.command.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            several = option.multiple or getattr(option, "is_flag", False)
            if times > 1 and option.param_type_name == "option" and not several:
                raise UserError(f"{option.opts[0]} is given {times} times", "give it once")
        return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]


class Command(_GivenOnce, TyperCommand):
    """A command."""


class Group(_GivenOnce, TyperGroup):
    """A command that has commands."""
