"""Where the noise of a step comes from: streams of its own, or one Brownian path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from odesolve.kernels.dispatch import normal
from odesolve.noise.brownian import BrownianPath
from odesolve.noise.stream_numbers import AREAS, STEPS
from odesolve.stochastic.equation import Equation


class Increments(Protocol):
    """The increment of W over a step and its space-time Levy area (None unless the step needs
    it)."""

    def __call__(
        self,
        eq: Equation,
        step: int,
        s: Any,
        t: Any,
        area: bool,
    ) -> tuple[Any, Any]: ...


class StreamIncrements:
    """One stream of normal numbers per step: the least work, but a different path for every number
    of steps.

    ``shape`` is that of an increment.
    """

    def __init__(self, shape: Sequence[int]):
        self.shape = shape

    def __call__(
        self,
        eq: Equation,
        step: int,
        s: float,
        t: float,
        area: bool,
    ) -> tuple[Any, Any]:
        std = abs(t - s) ** 0.5
        if eq.noise == "general":
            return self._normal(eq, STEPS + step, std), None
        if eq.noise == "scalar":
            z = torch.empty(2, eq.keys.shape[0], 1, dtype=torch.float64, device=eq.keys.device)
            normal(z[0], eq.keys, STEPS + step)
            if not area:
                return std * z[0, :, 0], None
            normal(z[1], eq.keys, AREAS + step)
            return std * z[0, :, 0], (std / 12**0.5) * z[1, :, 0]
        if eq.complex:
            w = eq.increment(self._normal(eq, STEPS + step, std))
            return w, eq.increment(self._normal(eq, AREAS + step, std / 12**0.5)) if area else None
        w = eq.space.noise(STEPS + step, std)
        if eq.noise == "diagonal":  # it multiplies a tensor, perhaps twice
            w = eq.tensor_of(w)
        return w, eq.space.noise(AREAS + step, std / 12**0.5) if area else None

    def _normal(self, eq: Equation, stream: int, std: float) -> torch.Tensor:
        z = eq.drift.start.new_empty(self.shape)
        normal(z, eq.keys, stream)
        return std * z


class PathIncrements:
    """A Brownian path, the same for any steps."""

    def __init__(self, path: BrownianPath):
        self.path = path

    def __call__(
        self,
        eq: Equation,
        step: int,
        s: float,
        t: float,
        area: bool,
    ) -> tuple[Any, Any]:
        if area:
            w, a = self.path(s, t, area=True)
            if eq.noise == "scalar":
                return w[:, 0].double(), a[:, 0].double()
            return eq.increment(w), eq.increment(a)
        w = self.path(s, t)
        assert isinstance(w, torch.Tensor)
        if eq.noise == "general":
            return w, None
        if eq.noise == "scalar":
            return (w[:, 0].double(), None)
        return (eq.increment(w), None)
