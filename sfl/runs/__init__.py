"""Run directories: what one holds, all of them below a folder, what `sfl runs` lists of them."""
