"""Training a run from its config to its result, and going on with one that was stopped."""
