"""Names of solvers of equations, as ``ode.solve``, ``ode.solve_sde`` and ``ode.log_prob`` are asked
for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from odesolve.doors.values import short
from odesolve.errors import OdesolveError, plain, unknown
from odesolve.methods.pairs import PAIRS
from odesolve.names.elsewhere import BY_TOLERANCE, SAME
from odesolve.ode.equal_steps import TABLEAUS
from odesolve.ode.exponential import NODES
from odesolve.ode.implicit import ESDIRKS
from odesolve.planning.labels import parse_label
from odesolve.stochastic.steps import SOLVERS

OF_SDES = {"euler": "euler_maruyama", "em": "euler_maruyama"}  # the same methods elsewhere


def ode_solver(solver: Any, fixed: bool, also: Iterable[str] = ()) -> Any:
    """A solver of an ODE by our name of it, in any case; ``fixed`` steps or those of a tolerance.
    What is no text is left.

    Raises OdesolveError for others, with the function that has them.
    """
    if getattr(solver, "__hash__", None) is None:
        raise OdesolveError(f"solver is {short(solver)}: give a name such as 'dopri5'")
    if not isinstance(solver, str):
        return solver
    name = SAME.get(plain(solver), plain(solver))
    known = tuple(TABLEAUS) if fixed else (*PAIRS, *ESDIRKS, *NODES, *also)
    if name in known:
        return name
    if name in TABLEAUS:
        raise OdesolveError(
            f"solver {solver!r} has no estimate of its error, by which steps are chosen: give "
            "steps= as well, or solver='dopri5'"
        )
    if name in (*ESDIRKS, *NODES):
        raise OdesolveError(
            f"solver {solver!r} chooses its steps by a tolerance: leave steps= out, or give "
            "solver='rk4'"
        )
    if name in SOLVERS:
        raise OdesolveError(
            f"solver {solver!r} solves SDEs: give ode.solve_sde(f, g, y0, solver={name!r})"
        )
    _refuse_sampler(solver, "'rk4'" if fixed else "'dopri5'")
    near = BY_TOLERANCE.get(name)
    if near is not None and near in known:
        raise OdesolveError(f"unknown adaptive solver {solver!r}: nearest to it is {near!r}")
    raise unknown("solver of fixed steps" if fixed else "adaptive solver", solver, known, SAME)


def sde_solver(solver: Any) -> Any:
    """A solver of an SDE by our name of it, in any case. Raises OdesolveError for others, with the
    function that has them."""
    if not isinstance(solver, str):
        raise OdesolveError(f"solver is {short(solver)}: give a name, one of {', '.join(SOLVERS)}")
    name = OF_SDES.get(plain(solver), plain(solver))
    if name in SOLVERS:
        return name
    if name in (*TABLEAUS, *BY_TOLERANCE):
        raise OdesolveError(
            f"solver {solver!r} solves ODEs: give ode.solve(f, y0, solver=...), or one of "
            f"{', '.join(SOLVERS)}"
        )
    _refuse_sampler(solver, "'euler_maruyama'")
    raise unknown("SDE solver", solver, SOLVERS, OF_SDES)


def _refuse_sampler(solver: str, instead: str) -> None:
    try:
        parse_label(solver)
    except OdesolveError:
        return
    raise OdesolveError(
        f"solver {solver!r} is a sampler of models: give ode.sample(model, noise, "
        f"solver={solver!r}, steps=...), or for an "
        f"equation solver={instead}"
    )
