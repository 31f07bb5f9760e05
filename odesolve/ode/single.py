"""One system whose steps a rule judges on the host, with plain numbers."""

from __future__ import annotations

from typing import Any, Protocol

from odesolve.ode.adaptive_loop import attempts


class Rule(Protocol):
    """How the next step follows from the errors of the last ones; ``h`` is its signed length."""

    h: float

    def judge(self, error: float) -> bool:
        """Take the error of an attempt, set the next step, and say whether the attempt counts."""
        ...


class SingleSolve(Protocol):
    """A method and the watcher of its attempts in one."""

    def attempt(self, single: Single) -> None:
        """Make a step of ``single.rule.h``; its error goes to ``single.error``."""

    @property
    def last(self) -> Any:
        """The last attempt's result."""

    def note(self, attempt: Any, took: bool) -> None:
        """Take note of an attempt, which was accepted if ``took``."""

    def look(self, method: Any, single: Single) -> None:
        """Set ``single.ended`` once the solve is over."""


class Single:
    """The system on its way.

    Attributes:
        rule: judges attempts.
        error: of the last attempt.
        state: whether that one was accepted.
        ended: whether the solve is over.
    """

    whole = True

    def __init__(self, rule: Rule):
        self.rule = rule
        self.error = 0.0
        self.state = False
        self.ended = False

    def control(self) -> None:
        """Judge the last attempt."""
        self.state = self.rule.judge(self.error)


def integrate_single(solve: SingleSolve, rule: Rule) -> None:
    """Make attempts until the solve is over, which it may be before the first."""
    single = Single(rule)
    solve.look(solve, single)
    while not single.ended:
        attempts(solve, single, solve)
