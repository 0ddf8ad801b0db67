"""SFL: vision networks without weight sharing.

The public names are loaded when they are first used, so that `import sfl` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfl.config.load import load as load_config
    from sfl.errors import UserError
    from sfl.library import compare, evaluate, grid, train
    from sfl.nn.conversion import still_shared, without_sharing
    from sfl.nn.engine import batch_innermost
    from sfl.nn.models.networks import build_model
    from sfl.nn.spatial import SpatialFeatureLayer
    from sfl.training.load import load_run

__all__ = [
    "SpatialFeatureLayer",
    "UserError",
    "batch_innermost",
    "build_model",
    "compare",
    "evaluate",
    "grid",
    "load_config",
    "load_run",
    "still_shared",
    "train",
    "without_sharing",
]

_HOMES = {
    "SpatialFeatureLayer": ("sfl.nn.spatial", "SpatialFeatureLayer"),
    "UserError": ("sfl.errors", "UserError"),
    "batch_innermost": ("sfl.nn.engine", "batch_innermost"),
    "build_model": ("sfl.nn.models.networks", "build_model"),
    "compare": ("sfl.library", "compare"),
    "evaluate": ("sfl.library", "evaluate"),
    "grid": ("sfl.library", "grid"),
    "load_config": ("sfl.config.load", "load"),
    "load_run": ("sfl.training.load", "load_run"),
    "still_shared": ("sfl.nn.conversion", "still_shared"),
    "train": ("sfl.library", "train"),
    "without_sharing": ("sfl.nn.conversion", "without_sharing"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sfl")
    if name not in _HOMES:
        raise AttributeError(f"module 'sfl' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
