"""torchsde's methods as steps of the library, and the equations that each solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.functions.pairing import real_type
from odesolve.integrations.torchsde.base import CALCULI, NOISES
from odesolve.integrations.torchsde.form import EquationForm
from odesolve.stochastic import steps

# (equation, y, t, h, increment, area): the state after a step
TensorStep = Callable[[Any, Any, Any, Any, Any, Any], Any]
COMMUTING = ("additive", "diagonal", "scalar")
REVERSIBLE = "reversible_heun"
WAY_BACK = "adjoint_reversible_heun"


@dataclass(frozen=True)
class SdeintMethod:
    """A step (None for the reversible Heun method, whose state is more than y), its calculus and
    kinds of noise, and what it needs of the Brownian motion besides increments: "none",
    "space-time" or "levy" areas."""

    step: TensorStep | None
    calculi: tuple[str, ...]
    noises: tuple[str, ...] = NOISES
    areas: str = "none"


def milstein(
    eq: EquationForm,
    y: Tensor,
    t: Tensor,
    h: float,
    w: Tensor,
    a: Any,
) -> Tensor:
    """Milstein 1974 with (dg/dy) g by autograd."""
    f = eq.f(y, t)
    moved, second = eq.along_itself(t, y, w, 0.5 * _square(eq, w, h))
    return y + f * h + moved + second


def milstein_by_difference(
    eq: EquationForm,
    y: Tensor,
    t: Tensor,
    h: float,
    w: Tensor,
    a: Any,
) -> Tensor:
    """Kloeden and Platen 1992 (11.1.3): (dg/dy) g as a difference over sqrt(h)."""
    if eq.noise_type == "additive":
        return milstein(eq, y, t, h, w, a)
    f, g = eq.pair(t, y)
    beside = y + (f * h if eq.calculus == "ito" else 0.0) + _column(eq, g) * h**0.5
    change = eq.matrix(t, beside) - g
    more = eq.times_increment(change, _square(eq, w, h)) / (2 * h**0.5)
    return y + f * h + eq.times_increment(g, w) + more


def srk(
    eq: EquationForm,
    y: Tensor,
    t: Tensor,
    h: float,
    w: Tensor,
    a: Tensor,
) -> Tensor:
    """SRA1 for additive noise, otherwise SRID2 (Rossler 2010)."""
    if eq.noise_type == "additive":
        return steps.sra1(eq, y, t, h, w, a)  # type: ignore[arg-type]
    return steps.srid2(_Columns(eq), y, t, h, w, a)  # type: ignore[arg-type]


def log_ode(
    eq: EquationForm,
    y: Tensor,
    t: Tensor,
    h: float,
    w: Tensor,
    a: Tensor,
) -> Tensor:
    """The midpoint method with the bracket of the columns of g on the step's Levy area (Foster
    2020, section 6)."""
    f, moved = eq.both(y, t, w)
    middle = y + (0.5 * h) * f + 0.5 * moved
    at = t + 0.5 * h
    f, moved = eq.both(middle, at, w)
    return y + h * f + moved + eq.bracket(at, middle, a)


ITO = CALCULI[:1]
STRATONOVICH = CALCULI[1:]
METHODS = {
    "euler": SdeintMethod(steps.euler_maruyama, ITO),
    "milstein": SdeintMethod(milstein, CALCULI, COMMUTING),
    "srk": SdeintMethod(srk, ITO, COMMUTING, "space-time"),
    "midpoint": SdeintMethod(steps.midpoint, STRATONOVICH),
    "heun": SdeintMethod(steps.stochastic_heun, STRATONOVICH),
    "euler_heun": SdeintMethod(steps.euler_heun, STRATONOVICH),
    "log_ode": SdeintMethod(log_ode, STRATONOVICH, NOISES, "levy"),
    REVERSIBLE: SdeintMethod(None, STRATONOVICH),
}


def choose(
    name: str | None, form: EquationForm, options: dict[str, Any] | None
) -> tuple[str, SdeintMethod]:
    """The method of this name; without a name, torchsde's default for the equation.

    Raises OdesolveError for a method that does not solve the equation, and for options that the
    method does not have."""
    if name is None:
        name = (
            "midpoint"
            if form.calculus == "stratonovich"
            else "euler"
            if form.noise_type == "general"
            else "srk"
        )
    if name == WAY_BACK:
        raise OdesolveError(
            f"method={WAY_BACK!r} is a way back: give method={REVERSIBLE!r}, "
            "whose gradients it makes"
        )
    if not isinstance(name, str) or name not in METHODS:
        raise unknown("method", name, METHODS)
    method = METHODS[name]
    # for which both are the same equation
    calculi = CALCULI if form.noise_type == "additive" else method.calculi
    if form.calculus not in calculi or form.noise_type not in method.noises:
        fitting = [
            k
            for k, m in METHODS.items()
            if form.calculus in m.calculi and form.noise_type in m.noises
        ]
        raise OdesolveError(
            f"method={name!r} solves no {form.calculus} equation with {form.noise_type} noise: "
            f"give {', '.join(fitting)}"
        )
    given = dict(options or {})
    by_difference = given.pop("grad_free", False)
    if given:
        raise unknown("option", next(iter(given)), ["grad_free"])
    return name, SdeintMethod(
        milstein_by_difference, method.calculi
    ) if by_difference and name == "milstein" else method


def real_motions(name: str, form: EquationForm) -> str:
    """Why a method needs real increments of W. "" where complex ones will do: where the method has
    no products of increments, which differ from those of a real motion."""
    if not form.complex:
        return (
            "bm has complex increments, and y0 is real: give bm with a real dtype, or a complex y0"
        )
    if name != "log_ode" and (name not in ("milstein", "srk") or form.noise_type == "additive"):
        return ""
    others = "euler" if form.calculus == "ito" else "heun, midpoint"
    return (
        f"method={name!r} takes real Brownian motions, and those of a complex y0 are complex by "
        "default: give bm=, such as "
        f"BrownianInterval(..., dtype={real_type(form.dtype)}), or method={others}"
    )


def _square(eq: EquationForm, w: Tensor, h: float) -> Tensor:
    """Twice the integral of W dW."""
    if eq.calculus == "ito":
        return w * w - h
    return w * w


def _column(eq: EquationForm, g: Tensor) -> Tensor:
    return g if eq.diagonal else g.squeeze(-1)


class _Columns:
    """An equation with one Brownian motion per element or per sample, whose diffusion is an
    ordinary factor."""

    def __init__(self, eq: EquationForm):
        self.eq = eq
        self.f = eq.f
        self.tensor_of = eq.tensor_of
        self.space = eq
        self.noise = eq.noise

    def g(self, t: Any, x: Tensor) -> Tensor:
        return _column(self.eq, self.eq.matrix(t, x))
