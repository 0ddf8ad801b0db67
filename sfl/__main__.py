"""python -m sfl: what torchrun starts."""

from sfl.cli.main import main

main()
