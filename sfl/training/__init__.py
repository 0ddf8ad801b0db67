"""From a config and images to a run directory: the training loop and what it needs."""
