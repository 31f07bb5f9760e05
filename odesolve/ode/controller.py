"""How the next step follows from the errors of the last ones."""

from __future__ import annotations

from dataclasses import dataclass

from odesolve.errors import OdesolveError


@dataclass(frozen=True)
class Controller:
    """A PID controller: h <- h safety e_n^-b1 e_(n-1)^-b2 e_(n-2)^-b3 after an accepted step
    (Soderlind 2003).

    With q the order of the error estimate, b1 = (pcoeff + icoeff + dcoeff) / q, b2 = -(pcoeff + 2
    dcoeff) / q and b3 = dcoeff / q. ``Controller(0, 1, 0)`` is the elementary controller, h safety
    e^(-1/q). The factor stays between ``min_factor`` and ``max_factor``. With ``accept`` > 0 it is
    smoothed to 1 + atan(factor - 1) instead, and an attempt is accepted if it reaches ``accept``
    (Soderlind and Wang 2006); ``floor`` is added to the errors then, otherwise it is the least
    error that is remembered. Raises OdesolveError for limits that leave no room."""

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
        p = self.pcoeff
        i = self.icoeff
        d = self.dcoeff
        return (p + i + d) / order, -(p + 2 * d) / order, d / order

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
