"""Modules by the names that they had before 0.2: ``odesolve.keys`` is ``odesolve.noise.keys``."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from types import ModuleType

# Modules by their old names. Rejected: a file at each old place, which would be a loose module
# again.
MOVED = {
    # those that pages and docstrings told users to import
    "odesolve.adaptive": "odesolve.ode",
    "odesolve.adaptive.arguments": "odesolve.ode.checks",
    "odesolve.adaptive.loop": "odesolve.ode.adaptive_loop",
    "odesolve.brownian": "odesolve.noise.brownian",
    "odesolve.keys": "odesolve.noise.keys",
    "odesolve.models": "odesolve.model.model",
    "odesolve.parareal": "odesolve.sampling.parareal",
    "odesolve.tableaus": "odesolve.methods.tableaus",
    "odesolve.likelihood.dequantise": "odesolve.dequantise",
    # those that they named, or that pickles name
    "odesolve.callee": "odesolve.functions.callee",
    "odesolve.cli.arguments": "odesolve.cli.command_arguments",
    "odesolve.defaults": "odesolve.planning.defaults",
    "odesolve.dpm_adaptive": "odesolve.ode.exponential",
    "odesolve.execute": "odesolve.sampling.execute",
    "odesolve.fixed": "odesolve.ode.equal_steps",
    "odesolve.forward": "odesolve.functions.forward",
    "odesolve.instructions": "odesolve.plans.instructions",
    "odesolve.integrations.imported_function": "odesolve.integrations.imported.function",
    "odesolve.jobs.fingerprint": "odesolve.fingerprints.fingerprint",
    "odesolve.labels": "odesolve.planning.labels",
    "odesolve.launch": "odesolve.process.launch",
    "odesolve.lower": "odesolve.lowering.lower",
    "odesolve.names.understood": "odesolve.names.lookup",
    "odesolve.objectives.conditioned": "odesolve.objectives.conditions",
    "odesolve.pairing": "odesolve.functions.pairing",
    "odesolve.pairs": "odesolve.methods.pairs",
    "odesolve.plan": "odesolve.plans.plan",
    "odesolve.program": "odesolve.lowering.program",
    "odesolve.progress": "odesolve.process.progress",
    "odesolve.recorded": "odesolve.ode.recorded",
    "odesolve.recurrence": "odesolve.plans.recurrence",
    "odesolve.slots": "odesolve.lowering.slots",
    "odesolve.start": "odesolve.sampling.start",
    "odesolve.steady": "odesolve.functions.steadiness",
    "odesolve.transforms": "odesolve.model.transforms",
    "odesolve.within": "odesolve.functions.modules",
    "odesolve.words": "odesolve.doors.words",
}
# Put in their place with the library: an import would set the first on ``odesolve``, where ``plan``
# is a function; the second is reached as an attribute, without an import of its own.
TAKEN = "odesolve.plan"
REACHED = "odesolve.likelihood.dequantise"


def new_name(old: str) -> str | None:
    """The name that a module has now, also of one within a package that moved; None for others."""
    above, dot, child = old.rpartition(".")
    if old in MOVED or not dot:
        return MOVED.get(old)
    folder = new_name(above)
    return None if folder is None else f"{folder}.{child}"


class Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name. It is the first of all finders: the one of files would
    find a module within a package that moved once more, and load it as another one."""

    def find_spec(self, fullname, path=None, target=None):
        """The spec of an old name, or None."""
        if not fullname.startswith("odesolve."):
            return None
        new = new_name(fullname)
        if new is None or importlib.util.find_spec(new) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec) -> ModuleType:
        """The module under its new name."""
        new = new_name(spec.name)
        assert new is not None
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give a module that is loaded already its own spec back, which the import has just
        replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Put the finder before all others, once, and what is loaded already in its place."""
    if any(isinstance(finder, Moved) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, Moved())
    sys.modules[TAKEN] = importlib.import_module(MOVED[TAKEN])
    importlib.import_module(REACHED)
