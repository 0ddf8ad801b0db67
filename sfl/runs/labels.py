"""What a configuration is, in a word or two: its label. From its settings and its audit.

The audit's grade of sharing says what the network has in common between positions, down to a
normalisation's scales. The label says how its weights came to be what they are.
"""

from collections.abc import Mapping
from typing import Any

from sfl.config.schema import Config

# In the order of tables.
LABELS = {
    "pure": "every position has weights of its own, drawn and trained by themselves",
    "conv-like start": "every position has weights of its own, which began as the same kernel",
    "student of a pure teacher": "it also learns the answers of a network that is pure",
    "student of a sharing teacher": "it also learns the answers of a network that isn't known to "
    "be pure, and may take over its sharing",
    "soft": "a regulariser pulls the weights of different positions together",
    "in time": "sleep pulls the weights of different positions together, between steps",
    "shared": "one weight is used at several positions",
}
_PURE = ("pure", "student of a pure teacher")


def label(config: Config, sharing: str, taught_by: Mapping[str, Any] | None = None) -> str:
    """What holds of LABELS, joined by commas if it is several things; else "pure".

    sharing: the grade of its audit. taught_by: what its checkpoint says of its teacher.
    """
    taught, pure = config.train.teacher is not None, (taught_by or {}).get("label") in _PURE
    holds = {  # a line for each of LABELS but "pure"; of "soft" there is no setting yet
        "conv-like start": config.model.same_start,
        "student of a pure teacher": taught and pure,
        "student of a sharing teacher": taught and not pure,
        "in time": sharing == "in time",
        "shared": sharing == "shared",
    }
    return ", ".join(name for name, does in holds.items() if does) or "pure"


def explained(of: str) -> str:
    """A label, and what it means."""
    return f"{of}: {'; '.join(LABELS[name] for name in of.split(', '))}"
