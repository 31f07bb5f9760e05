"""The steps of the SDE solvers, and what each is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.methods import schemes
from odesolve.stochastic.equation import Equation
from odesolve.stochastic.fused import Combination, Number

Step = Callable[[Equation, Combination, Any, Any, Any, Any], Combination]


@dataclass(frozen=True)
class SDESolver:
    """A step, and what it is for.

    ``calculi`` gives for each kind of noise the equations that the solver solves, "ito" or
    "stratonovich" (of additive noise both are the same); ``strong`` is its strong order for them,
    ``drifts`` how often a step calls f. ``area``: it uses the space-time Levy area of a step.
    """

    step: Step
    calculi: dict[str, tuple[str, ...]]
    strong: dict[str, float]
    drifts: int
    area: bool = False
    source: str = ""


BOTH = ("ito", "stratonovich")


def euler_maruyama(
    eq: Equation,
    x: Combination,
    t: Number,
    h: Number,
    w: Any,
    a: Any,
) -> Combination:
    """Maruyama 1955."""
    f, moved = eq.both(x, t, w)
    return x + h * f + moved


def stochastic_heun(
    eq: Equation,
    x: Combination,
    t: Any,
    h: Any,
    w: Any,
    a: Any,
) -> Combination:
    """Rumelin 1982, eq. 2.6: drift and diffusion averaged over both ends."""
    if eq.noise == "additive":
        return schemes.stochastic_heun(x, eq.f, lambda s: eq.g(s, x), t, h, w)
    f0, moved0 = eq.both(x, t, w)
    f1, moved1 = eq.both(eq.tensor_of(x + h * f0 + moved0), t + h, w)
    return x + (0.5 * h) * (f0 + f1) + 0.5 * (moved0 + moved1)


def euler_heun(
    eq: Equation,
    x: Combination,
    t: Any,
    h: Any,
    w: Any,
    a: Any,
) -> Combination:
    """Kloeden and Platen 1992, section 15.5 (the explicit one): drift of the beginning, diffusion
    averaged over both ends."""
    f, moved = eq.both(x, t, w)
    return x + h * f + 0.5 * (moved + eq.g(t + h, eq.tensor_of(x + moved)) * w)


def midpoint(
    eq: Equation,
    x: Combination,
    t: Any,
    h: Any,
    w: Any,
    a: Any,
) -> Combination:
    """Drift and diffusion of an Euler step over half the length and half the increment (Kidger
    2022, section 5.1)."""
    f, moved = eq.both(x, t, w)
    f, moved = eq.both(eq.tensor_of(x + (0.5 * h) * f + 0.5 * moved), t + 0.5 * h, w)
    return x + h * f + moved


def milstein(
    eq: Equation,
    x: Combination,
    t: Any,
    h: float,
    w: Any,
    a: Any,
    ito: bool = True,
) -> Combination:
    """Milstein 1974, with g' g as a difference along g: a derivative by autograd costs as much, and
    asks more of g.

    Over a length h, where Kloeden and Platen 1992 (11.1.3) take sqrt(h): that leaves g'' g^2
    h^(3/2) in the mean of a Stratonovich step, and order 1/2.
    """
    v = w if isinstance(w, Tensor) else eq.space.value(w)
    square = v * v - abs(h) if ito else v * v
    f0 = eq.f(x, t)
    g0 = eq.g(t, x)
    beside = eq.tensor_of(x + abs(h) * g0)
    return x + h * f0 + g0 * w + (0.5 / abs(h)) * (eq.g(t, beside) - g0) * square


def _stratonovich_milstein(
    eq: Equation,
    x: Combination,
    t: Any,
    h: float,
    w: Any,
    a: Any,
) -> Combination:
    return milstein(eq, x, t, h, w, a, ito=False)


def sra1(
    eq: Equation,
    x: Combination,
    t: Number,
    h: Number,
    w: Any,
    a: Any,
) -> Combination:
    """Rossler 2010, table 6.3."""
    return schemes.sra1(x, eq.f, lambda s: eq.g(s, x), t, h, w, a)


def shark(
    eq: Equation,
    x: Combination,
    t: Number,
    h: Number,
    w: Any,
    a: Any,
) -> Combination:
    """Foster, dos Reis and Strange 2023, eq. 6.1."""
    return schemes.shark(x, eq.f, lambda s: eq.g(s, x), t, h, w, a)


def srid2(
    eq: Equation,
    x: Combination,
    t: Any,
    h: Any,
    w: Any,
    a: Any,
) -> Combination:
    """Rossler 2010, SRID2: for diagonal noise, and for one Brownian motion. The drift is not
    evaluated at the last stage."""
    v, a = (y if isinstance(y, Tensor) else eq.space.value(y) for y in (w, a))
    length = abs(h)
    root = length**0.5
    j = 0.5 * v + a
    two, three = _iterated(v, length)
    quarter = t + 0.25 * h
    f0 = eq.f(x, t)
    g0 = eq.g(t, x)
    g1 = eq.g(quarter, eq.tensor_of(x + (0.25 * h) * f0 - (0.5 * root) * g0))
    g2 = eq.g(t + h, eq.tensor_of(x + h * f0 + root * g0))
    f1 = eq.f(eq.tensor_of(x + h * f0), t + h)
    f2 = eq.f(eq.tensor_of(x + (0.25 * h) * (f0 + f1) + (g0 + 0.5 * g1) * j), t + 0.5 * h)
    bent = root * (2.0 * g0 - g1 + 0.5 * g2)
    g3 = eq.g(quarter, eq.tensor_of(x + (0.25 * h) * f2 + bent))
    out = x + (h / 6) * (f0 + f1) + (2 / 3 * h) * f2
    out = out + g0 * (2 * j - v + two - 2 * three)
    out = out + g1 * (4 / 3 * (v - two - j) + 5 / 3 * three)
    return out + g2 * (2 / 3 * (v - j - three) + 1 / 3 * two) + g3 * three


def _iterated(v: Tensor, length: Any) -> tuple[Tensor, Tensor]:
    """Integrals of W over a step iterated twice and three times, over the root of its length and
    its length."""
    two = (v * v - length) * (0.5 / length**0.5)
    three = (v**3 - (3 * length) * v) * ((1 / 6) / length)
    return two, three


# Of general noise order 1 needs Levy areas of pairs of its motions, or columns of g that commute.
_MIXED = ("diagonal", "scalar", "general")
_ITO, _STRATONOVICH = (
    {"additive": BOTH, **dict.fromkeys(_MIXED, kind)} for kind in (BOTH[:1], BOTH[1:])
)
_ONE = {"additive": 1.0, "diagonal": 1.0, "scalar": 1.0, "general": 0.5}
_HALF = {"additive": 1.0, **dict.fromkeys(_MIXED, 0.5)}
# Of noise whose motions move one number each, or all of them alike.
_SINGLE = _MIXED[:2]
SOLVERS = {
    "euler_maruyama": SDESolver(euler_maruyama, _ITO, _HALF, 1, source="Maruyama 1955"),
    "euler_heun": SDESolver(euler_heun, _STRATONOVICH, _ONE, 1, source="Kloeden and Platen 1992"),
    "stochastic_heun": SDESolver(stochastic_heun, _STRATONOVICH, _ONE, 2, source="Rumelin 1982"),
    "midpoint": SDESolver(midpoint, _STRATONOVICH, _ONE, 2, source="Kidger 2022"),
    "milstein": SDESolver(
        milstein,
        dict.fromkeys(_SINGLE, BOTH),
        dict.fromkeys(_SINGLE, 1.0),
        1,
        source="Milstein 1974",
    ),
    "srid2": SDESolver(
        srid2,
        dict.fromkeys(_SINGLE, BOTH[:1]),
        dict.fromkeys(_SINGLE, 1.5),
        3,
        area=True,
        source="Rossler 2010",
    ),
    "sra1": SDESolver(
        sra1, {"additive": BOTH}, {"additive": 1.5}, 2, area=True, source="Rossler 2010"
    ),
    "shark": SDESolver(
        shark,
        {"additive": BOTH},
        {"additive": 1.5},
        2,
        area=True,
        source="Foster, dos Reis and Strange 2023",
    ),
}


def choose(name: str, noise: str, calculus: str) -> tuple[SDESolver, Step]:
    """The solver of this name and its step. Raises OdesolveError for an equation that it does not
    solve."""
    if name not in SOLVERS:
        raise unknown("SDE solver", name, SOLVERS)
    if calculus not in BOTH:
        raise unknown("calculus", calculus, BOTH)
    solver = SOLVERS[name]
    if calculus not in solver.calculi.get(noise, ()):
        others = [k for k, s in SOLVERS.items() if calculus in s.calculi.get(noise, ())]
        raise OdesolveError(
            f"{name} solves no {'Ito' if calculus == 'ito' else 'Stratonovich'} equation with "
            f"{noise} noise: "
            f"take {' or '.join(others)}, or state the equation in the other calculus= or with "
            "another noise="
        )
    strat = name == "milstein" and calculus == "stratonovich"
    return solver, _stratonovich_milstein if strat else solver.step
