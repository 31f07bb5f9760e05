"""Solvers: functions that write plans, one file a family."""

from odesolve.solvers import (  # noqa: F401  (they register themselves)
    adams,
    deis,
    dpm_solver,
    dpmpp,
    langevin,
    runge_kutta,
    stochastic,
    unipc,
)
from odesolve.solvers.registry import REGISTRY, Registry, Solver, solver
from odesolve.solvers.writer import Writer

__all__ = ["REGISTRY", "Registry", "Solver", "Writer", "solver"]
