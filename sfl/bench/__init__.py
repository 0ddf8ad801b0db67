"""`sfl bench`: this machine's speed and memory, against the notebook's way of doing it."""
