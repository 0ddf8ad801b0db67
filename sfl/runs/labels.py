"""What a configuration is, in a word or two: its label. From its settings and its audit.

The audit's grade of sharing says what the network has in common between positions, down to a
normalisation's scales. The label says how its weights came to be what they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sfl.config.schema import Config

# In the order of tables.
LABELS = {
    "pure": "every position has weights of its own, drawn and trained by themselves",
    "conv-like start": "every position has weights of its own, which began as the same kernel",
    "student of a pure teacher": "it learns the answers of another network, too, that is pure",
    "student of a sharing teacher": "it learns the answers of another network, too, that isn't "
    "known to be pure and whose sharing it may take over",
    "soft": "a regulariser pulls the weights of different positions together",
    "in time": "sleep pulls the weights of different positions together, between steps",
    "shared": "one weight is used at several positions",
}
# A setting that makes something else of a network: a line here, and one above. (Of "soft" there is
# none yet.)
_HOLDS: dict[str, Callable[[Config, str, bool], bool]] = {
    "conv-like start": lambda config, _, pure: config.model.same_start,
    "student of a pure teacher": lambda config, _, pure: config.train.teacher is not None and pure,
    "student of a sharing teacher": lambda config, _, pure: (
        config.train.teacher is not None and not pure
    ),
    "in time": lambda _, sharing, pure: sharing == "in time",
    "shared": lambda _, sharing, pure: sharing == "shared",
}
_PURE = ("pure", "student of a pure teacher")


def label(config: Config, sharing: str, taught_by: Mapping[str, Any] | None = None) -> str:
    """What holds of LABELS, joined by commas if it is several things; else "pure".

    sharing: the grade of its audit. taught_by: what its checkpoint says of its teacher.
    """
    pure = (taught_by or {}).get("label") in _PURE
    holding = [name for name, holds in _HOLDS.items() if holds(config, sharing, pure)]
    return ", ".join(holding) or "pure"


def explained(of: str) -> str:
    """A label, and what it means."""
    return f"{of}: {'; '.join(LABELS[name] for name in of.split(', '))}"
