"""What stands between sh and sfl: a command to type next, and a `~` that sh has left as it is."""

import os
import re
import shlex
import sys
from pathlib import Path

from sfl.errors import PROGRAM


def command(*words: str | Path) -> str:
    """`sfl` with these words, on one line from which every sh reads the same words.

    A Path is never read as an option. Letters that standard error can't show, and line breaks, are
    written as octal numbers.
    """
    line = [PROGRAM, *(_operand(word) if isinstance(word, Path) else word for word in words)]
    if any(word.endswith("\n") for word in line):  # $(…) drops line breaks at the end
        return f"eval {_octal(shlex.join(line))}"
    return " ".join(
        quoted if _can_be_shown(quoted := shlex.quote(word)) else _octal(word) for word in line
    )


def home(path: str | os.PathLike[str]) -> Path:
    """The path with `~` expanded: sh does so in `--runs ~/x`, not in --runs=~/x or data.root=~/x.

    The `~` of an unknown user stays.
    """
    return Path(os.path.expanduser(path))


def _operand(path: Path) -> str:
    return f"./{path}" if str(path).startswith("-") else str(path)


def _can_be_shown(text: str) -> bool:
    try:
        text.encode(getattr(sys.stderr, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return text.isprintable()


def _octal(text: str) -> str:
    """`text` as printf writes it; a dash at the beginning would be an option of printf."""

    def escaped(found: re.Match[str]) -> str:
        return "".join(f"\\{byte:03o}" for byte in os.fsencode(found[0]))

    safe = re.sub(r"^-|[^ -~]|['\\%]", escaped, text)
    return f"\"$(printf '{safe}')\""
