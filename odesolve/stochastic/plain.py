"""Steps of the SDE solvers as plain differentiable operations, on increments recomputed from their
keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from odesolve.ode.equal_steps import StepGrid
from odesolve.ode.times import Time
from odesolve.stochastic.equal_steps import FusedSteps
from odesolve.stochastic.equation import Equation, Matrix


class PlainEquation:
    """An equation as the formulas of a step call it, whose values are tensors (B, ...); ``args``
    are those of f and g."""

    def __init__(self, eq: Equation, args: tuple[Any, ...]):
        self.eq = eq
        self.args = args
        self.noise = eq.noise
        self.space = self

    def f(self, x: Tensor, t: Time) -> Tensor:
        """The drift."""
        return self.eq.drift(self.eq.time(t), x, self.args)

    def both(self, x: Tensor, t: Time, w: Any) -> tuple[Tensor, Tensor]:
        """The drift, and the diffusion times an increment."""
        g = self.g(t, x)
        return self.f(x, t), g * w

    def tensor(self, x: Tensor) -> Tensor:
        """The tensor itself as a value."""
        return x

    def g(self, t: Time, x: Tensor) -> Any:
        """The diffusion: a number, a tensor that broadcasts to the state, or for general noise a
        ``Matrix``."""
        out = self.eq.diffusion(t, x, self.args)
        if self.noise == "general":
            return Matrix(self, out)  # type: ignore[arg-type]
        if isinstance(out, Tensor) and out.dim() == 1 < x.dim():
            out = out.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        return out

    def tensor_of(self, x: Tensor) -> Tensor:
        """The value itself."""
        return x


class PlainSteps:
    """The steps of a grid by plain operations, each in both directions on the same path: to the end
    of its interval, or back from there."""

    def __init__(self, way: FusedSteps, where: StepGrid):
        self.eq = way.eq
        self.step = way.step
        self.area = way.solver.area
        self.increments = way.increments
        self.where = where

    def ends(self, k: int) -> tuple[Any, Any]:
        """The times of step k."""
        return self.where.t[k], self.where.t[k + 1]

    def noise(self, k: int) -> tuple[Tensor, Tensor | None]:
        """The increment of W over step k, broadcastable to the state, and its area."""
        self.eq.begin()
        w, a = self.increments(self.eq, k, *self.ends(k), self.area)
        like = self.eq.space.like
        if self.eq.noise == "general":
            return w, None
        if isinstance(w, Tensor):  # of scalar noise, one number per sample
            shape = (-1, *[1] * (like.dim() - 1))
            w, a = (None if x is None else x.to(like.dtype).view(shape) for x in (w, a))
            assert w is not None
            return w, a
        return self.eq.space.value(w), None if a is None else self.eq.space.value(a)

    def move(self, k: int, forwards: bool, y: Tensor, args: tuple[Any, ...]) -> Tensor:
        """The state after step k, from a state y (B, ...) at its beginning; or before it, from a
        state at its end.

        Back in time the length of the step and the increment change their signs, and the area does
        not."""
        s, t = self.ends(k)
        w, a = self.noise(k)
        if not forwards:
            s, t, w = t, s, -w
        return self.step(PlainEquation(self.eq, args), y, s, t - s, w, a)  # type: ignore[arg-type]
