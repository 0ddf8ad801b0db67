"""Models side by side: plan, train_missing, results, compute; then table, sentences, report.

`sfl.compare` names this package and, as `sfl.train` names a function, what `sfl compare` does. So
the package can be called: `sfl.compare("conv", "spatial")` calls `compare` in sfl/library.py.
"""

import inspect
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Python's manual, "Customizing module attribute access": a module's class may be replaced."""

    def __call__(self, *models: Any, **options: Any) -> Any:
        from sfl import library

        return library.compare(*models, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        """What help and notebooks show."""
        from sfl import library

        return inspect.signature(library.compare)


sys.modules[__name__].__class__ = _Callable
