"""The sampler a user gets without naming one."""

from __future__ import annotations

from odesolve.grids import Karras, Uniform
from odesolve.paths import Path
from odesolve.plan import Plan
from odesolve.planning import plan


def default_grid(path: Path, solver):
    return Uniform() if path.family == "flow" else Karras()


def default_sampler(path: Path, steps: int, grid, common: dict) -> Plan:
    return plan("dpmpp_2m", path, steps, grid or default_grid(path, "dpmpp_2m"), **common)
