"""Trains a run from its config to its result, and resumes an interrupted one."""
