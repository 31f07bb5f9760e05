"""Whether a network is wired right: ``ode.check``."""

from odesolve.wiring.look import check
from odesolve.wiring.result import Check, Finding

__all__ = ["Check", "Finding", "check"]
