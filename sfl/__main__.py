"""python -m sfl: what torchrun starts."""

from sfl.cli import main

main()
