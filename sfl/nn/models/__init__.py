"""The notebook's networks, and their graphs as plain values."""
