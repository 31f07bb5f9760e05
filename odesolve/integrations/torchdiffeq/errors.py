"""Errors of ours that code written for torchdiffeq also catches: torchdiffeq asserts what it
expects of arguments and of solves."""

from __future__ import annotations

from typing import Any

from odesolve.errors import Diverged, OdesolveError


class Refused(OdesolveError, AssertionError, TypeError):
    """An argument that cannot be used."""


class Failed(Diverged, AssertionError, RuntimeError):
    """A solve that did not arrive.

    Attributes: ``status`` as of ``odesolve.Solution`` ("max_steps", "min_step" or "diverged"),
    ``state`` the last finite state in the form of y0, ``t`` its time, ``step`` the number of steps
    before it."""

    def __init__(
        self,
        status: str,
        state: Any,
        t: float,
        step: int,
        why: str,
    ):
        super().__init__(
            f"odeint ended with status {status!r} at t={t:.6g} after {step} steps. {why}",
            state,
            t,
            step,
        )
        self.status = status
