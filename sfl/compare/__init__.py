"""Finished runs side by side: which runs, how sure the difference is, and every form of output."""
