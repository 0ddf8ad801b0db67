"""Where an engine keeps what it has built or checked on this machine."""

import os
from pathlib import Path


def folder() -> Path:
    """The user's cache folder; it may not be there yet. Raises RuntimeError if there is no home."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "sfl" if home else Path.home() / ".cache" / "sfl"
