"""Solvers, paths and predictions that the tables of these tests run over."""

from __future__ import annotations

import odesolve as ode
from odesolve import grids, paths

SOLVERS = sorted(ode.solvers())
DETERMINISTIC = [s for s in SOLVERS if not ode.solvers()[s].stochastic]
# Every path that has a name, and some with parameters; "sd" is short for stable_diffusion.
PATHS = {
    **{name: make() for name, make in paths.TYPED.items() if name != "sd"},
    "linear_wide": paths.Linear(sigma_min=0.05),
    "flipped": paths.Linear().flipped(),
}
GRIDS = {
    "uniform": grids.Uniform(),
    "karras": grids.Karras(),
    "lambda": grids.Lambda(),
    "quadratic": grids.Polynomial(),
}


def inside(path: paths.Path, lam: float) -> float:
    """Time of a half log-SNR."""
    return float(path.t_of_lam(lam))


def window(path: paths.Path, low: float = -2.0, high: float = 2.0) -> grids.Lambda:
    """A grid uniform in log-SNR between two finite values, where every solve is smooth."""
    return grids.Lambda(start=inside(path, low), stop=inside(path, high), final=False)
