"""Solvers: functions that write plans, one file per family."""

from odesolve.solvers import (  # noqa: F401  (they register themselves)
    adams,
    ancestral,
    churn,
    deis,
    dpm_solver,
    dpmpp,
    er_sde,
    few_steps,
    langevin,
    restart,
    reverse_sde,
    runge_kutta,
    sa_solver,
    sde_dpmpp,
    seeds,
    srk,
    unipc,
)
from odesolve.solvers.families import Family
from odesolve.solvers.outside import Outside
from odesolve.solvers.registry import REGISTRY, Registry, Solver, solver
from odesolve.solvers.writer import Writer

__all__ = ["REGISTRY", "Family", "Outside", "Registry", "Solver", "Writer", "solver"]
