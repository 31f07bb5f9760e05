"""How the next step follows from the errors of the last ones: by ``kernels.control`` on the device,
or by a rule on the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from odesolve.errors import OdesolveError


@dataclass(frozen=True)
class Controller:
    """A PID controller: h <- h safety e_n^-b1 e_(n-1)^-b2 e_(n-2)^-b3 after an accepted step
    (Soderlind 2003).

    With q the order of the error estimate, b1 = (pcoeff + icoeff + dcoeff) / q, b2 = -(pcoeff + 2
    dcoeff) / q and b3 = dcoeff / q. ``Controller(0, 1, 0)`` is the elementary controller, h safety
    e^(-1/q). The factor stays between ``min_factor`` and ``max_factor``. With ``accept`` > 0 it is
    smoothed to 1 + atan(factor - 1) instead, and an attempt is accepted if it reaches ``accept``
    (Soderlind and Wang 2006). ``floor`` is then added to the errors; otherwise it is the least
    error that the controller remembers. Raises OdesolveError for limits that leave no room."""

    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    accept: float = 0.0
    floor: float = 1e-4

    def __post_init__(self):
        if not (
            0 < self.min_factor < 1 < self.max_factor and self.safety > 0 and 0 <= self.accept < 1
        ):
            raise OdesolveError(
                f"{self} leaves no room: give 0 < min_factor < 1 < max_factor, safety > 0 and 0 "
                "<= accept < 1"
            )

    def exponents(self, order: float) -> tuple[float, float, float]:
        """Exponents of the last three errors, for an error estimate of this order."""
        return exponents(self.pcoeff, self.icoeff, self.dcoeff, order)

    def settings(
        self,
        order: float,
        longest: float,
        attempts: int,
        evaluations: int,
    ) -> list[float]:
        """The settings of ``kernels.control`` for a solve with steps up to a length."""
        limits = [1 / order, self.safety, self.min_factor, self.max_factor, self.accept, self.floor]
        return [*self.exponents(order), *limits, longest, float(attempts), float(evaluations)]


def exponents(p: float, i: float, d: float, order: float) -> tuple[float, float, float]:
    """Exponents of the last three errors, 1 / error each, by PID coefficients."""
    return (p + i + d) / order, -(p + 2 * d) / order, d / order


@dataclass
class SmoothRule:
    """``Controller`` with its smooth limit on the host, for one system whose numbers are those of
    k-diffusion: factors are not rounded to float32, and the step length before one that lands on
    the end is kept.

    Args:
        h: the signed length of the next step.
        powers: of the last three inverse errors.
        accept: the least factor that accepts an attempt.
    """

    h: float
    powers: tuple[float, float, float]
    accept: float
    inverses: list[float] = field(default_factory=list)

    def judge(self, error: float) -> bool:
        """Take the error of an attempt, set the next step, and say whether the attempt counts."""
        inverse = 1.0 / (error + 1e-8)
        _, one, two = self.inverses or [inverse] * 3
        first, second, third = self.powers
        factor = inverse**first * one**second * two**third
        factor = 1.0 + math.atan(factor - 1.0)
        accepted = factor >= self.accept
        self.inverses = [inverse, inverse, one] if accepted else [inverse, one, two]
        self.h *= factor
        return accepted
