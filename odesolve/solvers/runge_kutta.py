"""Explicit Runge-Kutta methods on the probability-flow ODE, in time, in the noise-to-signal ratio,
or in e^lambda."""

from __future__ import annotations

from odesolve.methods import tableaus
from odesolve.methods.tableaus import Tableau
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.clocks import Clock, clock_named
from odesolve.solvers.families import EULER, HEUN_EDM, RUNGE_KUTTA
from odesolve.solvers.generator import first_order
from odesolve.solvers.outside import Outside
from odesolve.solvers.registry import solver
from odesolve.solvers.writer import Writer


def runge_kutta(w: Writer, *, tableau: Tableau, clock: str = "t") -> None:
    """Any explicit tableau applied to dy/dtau, the ODE in the chosen clock (Song et al. 2021, eq.
    13).

    Where a stage would fall on the data end and the slope is undetermined there, the last step uses
    the open method of one order less, which keeps the order of the solve; EDM's "Euler if sigma is
    0" is the case of order 2."""
    x = w.start
    c = clock_named(clock)
    for i in range(len(w.steps)):
        x, _ = rk_step(w, c, tableau, i, x)


def rk_step(
    w: Writer,
    clock: Clock,
    tableau: Tableau,
    i: int,
    x: LinearForm,
) -> tuple[LinearForm, LinearForm]:
    """Step i; returns the new state and the slope at its start. First order where the clock is
    infinite."""
    s, t = w.steps[i]
    slope, data = clock.slope(w, x, s)
    if clock.singular(s, t):
        assert data is not None, "the clock t is finite everywhere"
        return w.step(t, first_order(s, t, x, data)), slope
    if t.sigma == 0 and 1.0 in tableau.c and not (clock.name == "t" and w.closed):
        tableau = tableaus.open_at_end(tableau.order)
    span = clock.tau(t) - clock.tau(s)
    slopes = [slope]
    for a, c in zip(tableau.a[1:], tableau.c[1:], strict=True):
        at = clock.inside(w, i, c)
        terms = [(k, span * v) for k, v in zip(slopes, a, strict=True) if v]
        y = w.stage(at, clock.row(s, at, x, terms))
        slopes.append(clock.slope(w, y, at)[0])
    terms = [(k, span * v) for k, v in zip(slopes, tableau.b, strict=True) if v]
    return w.step(t, clock.row(s, t, x, terms)), slope


BASELINES = {"euler": 5, "heun": 6}


def _register(tableau: Tableau) -> None:
    @solver(
        tableau.name,
        tableau.order,
        tableau.stages,
        tableau.source,
        clock="t",
        family=EULER if tableau.stages == 1 else RUNGE_KUTTA,
        baseline=BASELINES.get(tableau.name, 0),
    )
    def write(w: Writer, *, clock: str = "t") -> None:
        runge_kutta(w, tableau=tableau, clock=clock)

    write.__doc__ = f"Runge-Kutta method {tableau.name!r} of order {tableau.order} on the velocity."


for _tableau in tableaus.EXPLICIT:
    _register(_tableau)


@solver(
    "heun_edm",
    2,
    2,
    "Karras et al. 2022, Algorithm 1",
    clock="rho",
    family=HEUN_EDM,
    baseline=3,
    outside=Outside(habits="HeunDiscreteScheduler"),
)
def heun_edm(w: Writer) -> None:
    """Heun's method in rho = sigma/alpha, with an Euler step to the data end; k-diffusion's and
    diffusers' Heun."""
    runge_kutta(w, tableau=tableaus.HEUN, clock="rho")
