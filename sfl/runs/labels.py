"""What a configuration is, in a word or two: its label. From its settings and its audit.

The audit's grade of sharing says what the network has in common between positions, down to a
normalisation's scales. The label says how its weights came to be what they are.
"""

from collections.abc import Callable

from sfl.config.schema import Config

# In the order of tables.
LABELS = {
    "pure": "every position has weights of its own, drawn and trained by themselves",
    "conv-like start": "every position has weights of its own, which began as the same kernel",
    "student of a sharing teacher": "it learns the answers of another network, too, whose sharing "
    "it may take over",
    "soft": "a regulariser pulls the weights of different positions together",
    "in time": "sleep pulls the weights of different positions together, between steps",
    "shared": "one weight is used at several positions",
}
# A setting that makes something else of a network: a line here, and one above. (Of "soft" there is
# none yet.)
_HOLDS: dict[str, Callable[[Config, str], bool]] = {
    "conv-like start": lambda config, _: config.model.same_start,
    "student of a sharing teacher": lambda config, _: config.train.teacher is not None,
    "in time": lambda _, sharing: sharing == "in time",
    "shared": lambda _, sharing: sharing == "shared",
}


def label(config: Config, sharing: str) -> str:
    """What holds of LABELS, joined by commas if it is several things; else "pure".

    sharing: the grade of its audit. Sleep and sharing are known from it, the rest from the config.
    """
    return ", ".join(name for name, holds in _HOLDS.items() if holds(config, sharing)) or "pure"


def explained(of: str) -> str:
    """A label, and what it means."""
    return f"{of}: {'; '.join(LABELS[name] for name in of.split(', '))}"
