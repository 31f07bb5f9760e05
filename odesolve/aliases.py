"""Modules by the names that they had before 0.2: ``odesolve.keys`` is ``odesolve.noise.keys``."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from types import ModuleType

# The modules that pages and docstrings told users to import. Rejected: a file at each old place,
# which would be a loose module again.
MOVED = {
    "odesolve.adaptive": "odesolve.ode",
    "odesolve.brownian": "odesolve.noise.brownian",
    "odesolve.keys": "odesolve.noise.keys",
    "odesolve.models": "odesolve.model.model",
    "odesolve.parareal": "odesolve.sampling.parareal",
    "odesolve.tableaus": "odesolve.methods.tableaus",
    "odesolve.likelihood.dequantise": "odesolve.dequantise",
}


class Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name; it is the last of all finders, so that nothing else
    becomes slower."""

    def find_spec(self, fullname, path=None, target=None):
        """The spec of an old name, or None."""
        if fullname in MOVED:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def create_module(self, spec) -> ModuleType:
        """The module under its new name."""
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give a module that is loaded already its own spec back, which the import has just
        replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Put the finder behind all others, once."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
