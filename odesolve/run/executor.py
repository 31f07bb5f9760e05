"""What runs a lowered plan in the place of the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from odesolve.lowering.lower import Program
from odesolve.run.loop import Network


class Executor(Protocol):
    """A driver of programs: ``cast`` says that the network is to read a buffer of its own, beside
    the state."""

    cast: bool

    def run(
        self,
        program: Program,
        x: Tensor,
        keys: Tensor | None = None,
        model: Network | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The program's result from the start state x, which is not overwritten; ``tick`` is told
        of calls as they are done."""
        ...
