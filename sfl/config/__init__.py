"""Reads and checks settings from YAML files; reports all errors at once, with file and line."""
