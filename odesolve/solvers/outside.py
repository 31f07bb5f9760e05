"""How a loop that calls the network itself drives a solver, as schedulers of diffusers and samplers
of k-diffusion do: declared at the solver's registration, read by the adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odesolve.paths import Path

# (options, path, grid, step) -> the options with which a loop goes on from that step
Entering = Callable[[Mapping[str, Any], Path, Sequence[float], int], dict[str, Any]]


def as_given(
    options: Mapping[str, Any], path: Path, grid: Sequence[float], step: int
) -> dict[str, Any]:
    """The options unchanged, at any step where a loop begins."""
    return dict(options)


@dataclass(frozen=True)
class Outside:
    """What an external loop needs to know about a solver.

    Args:
        options: the loop's defaults for options, such as {"start": "ramp"}: one network call per
            step, from any step on.
        taper: whether the switch ``taper`` lowers the order of the last steps, as the loop's own
            rules say.
        entering: the options with which the loop begins at a step of the grid, where the caller has
            called the network before the solver can act.
        eta: whether the loop may set the noise level ``eta`` at its first call.
        keeps_noise: where a data prediction is clipped, the loop may go on with the noise that the
            network predicted.
        nested: a step draws noise over a part of itself and over the whole, in that order, so a
            source of noise must make the two consistent.
        habits: the scheduler class of diffusers whose placing of times its users expect.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    taper: bool = False
    entering: Entering = as_given
    eta: bool = False
    keeps_noise: bool = False
    nested: bool = False
    habits: str = "DPMSolverMultistepScheduler"


def ramped(
    options: Mapping[str, Any], path: Path, grid: Sequence[float], step: int
) -> dict[str, Any]:
    """A start by Heun steps takes two calls: it is for the first step of a grid, and a loop that
    begins later starts with a ramp."""
    late = step > 0 and options.get("start") == "heun"
    if late:
        return {**options, "start": "ramp"}
    return dict(options)


PLAIN = Outside()
RAMP = Outside({"start": "ramp"}, entering=ramped)
TAPERED_RAMP = Outside({"start": "ramp"}, taper=True, entering=ramped)
TAPERED = Outside(taper=True)
