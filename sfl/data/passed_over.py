"""Which files are no one's images, and the line that says so."""

from collections.abc import Sequence

from sfl.progress import say

NO_IMAGE = "passed over, because the suffix is not an image's"
OF_SYSTEMS = {"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or an operating system's own."""
    return name.startswith(".") or name in OF_SYSTEMS


def say_first(what: str, files: Sequence[object]) -> None:
    """Says of which files something holds: the first one, and how many more; nothing of none."""
    if files:
        others = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
        say(f"{what}: {files[0]}{others}")
