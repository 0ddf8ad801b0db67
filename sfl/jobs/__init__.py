"""Runs side by side, as processes of their own."""
