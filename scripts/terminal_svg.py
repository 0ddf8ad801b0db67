"""Writes what a terminal showed, read from standard input with its colours, as an SVG picture.

tmux capture-pane -e -p | .venv/bin/python scripts/terminal_svg.py docs/quickstart.svg
"""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    text = Text.from_ansi(sys.stdin.read().rstrip())
    width = max(len(line) for line in text.plain.splitlines())
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(text)
    Path(sys.argv[1]).write_text(console.export_svg(title="sfl"), encoding="utf-8")


if __name__ == "__main__":
    main()
