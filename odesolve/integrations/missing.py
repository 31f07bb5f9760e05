"""What an adapter says where the library that it adapts to is not installed."""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(package: str, extra: str) -> ModuleType:
    """The imported package. Raises ImportError that names the extra to install where there is
    none."""
    try:
        return importlib.import_module(package)
    except ImportError as e:
        # it is there, and fails for a reason of its own
        if e.name is not None and e.name.split(".")[0] != package:
            raise
        raise ImportError(
            f"odesolve.integrations.{extra} needs {package}: pip install 'odesolve[{extra}]'",
            name=package,
        ) from e
