"""Run directories: one of them, all of them in a folder, and what `sfl runs` says of each."""
