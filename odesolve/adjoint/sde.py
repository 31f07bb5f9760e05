"""Gradients of solves of stochastic differential equations: the three modes, with noise recomputed
from its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.adjoint.backprop import Backprop, Trail
from odesolve.adjoint.pull import DerivativeMode, Sums, with_gradients
from odesolve.adjoint.reversible import Reversible
from odesolve.adjoint.targets import Arguments, GradientTargets, check_mode, gradient_targets
from odesolve.errors import OdesolveError
from odesolve.kernels.control import DIVERGED, NFE, OK, STATUS
from odesolve.ode.drift import State
from odesolve.ode.equal_steps import StepGrid
from odesolve.ode.march import Alive, Marched
from odesolve.stochastic.derivative import along, along_columns
from odesolve.stochastic.equal_steps import FusedSteps
from odesolve.stochastic.equation import Matrix
from odesolve.stochastic.plain import PlainEquation, PlainSteps


@dataclass
class StochasticAdjoint:
    """The adjoint equation on the path of the solve, backwards in Stratonovich's calculus (Li et
    al. 2020, theorem 3.1).

    da = -a df/dy dt - a dg/dy o dW with a = dL/dy, and y with it, by stochastic Heun on the steps
    of the solve; gradients of parameters are the integrals of a df/dp dt + a dg/dp o dW. The
    gradient is that of the equation, and the steps' own in the limit of small ones: strong order 1.
    The forward pass stores only the states at the output times, where the backward solve starts
    again from them.

    ``run`` is the forward solve on the steps of ``grid``, ``noise`` the increment of W over one of
    them; ``moved`` is f h + g w of (t, y, arguments, h, w), with Stratonovich's f.
    """

    run: Callable[[Tensor], Tensor]
    grid: Sequence[tuple[float, float]]
    noise: Callable[[int], Tensor]
    moved: Callable[[float, Tensor, Arguments, float, Tensor], Tensor]
    passed: Sequence[int]

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.run(y0), ()

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor, None]:
        a = torch.zeros_like(grad[0])
        for i in range(len(y) - 1, 0, -1):
            a = a + grad[i]
            now = y[i]
            for k in range(self.passed[i] - 1, self.passed[i - 1] - 1, -1):
                now, a = self._back(k, now, a, sums)
        return a + grad[0], None

    def _back(self, k: int, y: Tensor, a: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
        """The state and its gradient before step k."""
        s, t = self.grid[k]
        w = -self.noise(k)

        def field(at: float) -> Callable[[Tensor, Arguments], Tensor]:
            return lambda y, args: self.moved(at, y, args, s - t, w)

        dy0, da0, first = sums.product(field(t), y, a)
        dy1, da1, second = sums.product(field(s), y + dy0, a - da0)
        for grads in (first, second):
            sums.add([None if g is None else -0.5 * g for g in grads])
        return y + 0.5 * (dy0 + dy1), a - 0.5 * (da0 + da1)


@dataclass
class SDEGradients:
    """A solve on a grid with gradients.

    Args:
        way: the solve.
        where: its steps, the same number between any two of the output times.
        calculus: that of the equation, "ito" or "stratonovich".
        adjoint: how to compute gradients.
        params: the parameters that get gradients, None for all that f and g use.
    """

    way: FusedSteps
    where: StepGrid
    calculus: str
    adjoint: str
    params: Sequence[Tensor] | None
    tick: Callable[[float], None] | None

    def __post_init__(self):
        check_mode(self.adjoint, len(self.where))
        self.eq = self.way.eq
        self.ito = self.calculus == "ito" and self.eq.noise != "additive"
        if self.ito and self.adjoint == "reversible":
            raise OdesolveError(
                'adjoint="reversible" walks back on the path, where an Ito integral is another '
                "one: state the equation with "
                'calculus="stratonovich" (its drift is f - (dg/dy) g / 2), or take '
                'adjoint="backprop" or "continuous"'
            )
        self.steps = PlainSteps(self.way, self.where)

    def solve(self, y0: State, f: Any, g: Any) -> Marched:
        """The marched solve, whose states are connected to y0, the arguments and the parameters."""
        drift = self.eq.drift
        recording = torch.is_grad_enabled()
        modules = [m for m in (f, g) if isinstance(m, nn.Module)]
        module = nn.ModuleList(modules) if len(modules) == 2 else None
        parameters = [p for m in modules for p in m.parameters()]
        targets = gradient_targets(
            module,
            self._first,
            [drift.start],
            drift.args,
            self.params if recording else (),
            parameters,
        )
        y = with_gradients(self._mode(targets), targets, drift.packed(y0))
        marched = self._reached(y.detach()) if self.adjoint == "reversible" else self.marched
        # the evaluation that showed what f and g depend on
        marched.state[NFE] += float(targets.looked and module is None)
        ones = [1] * (y.dim() - 2)
        arrived = (marched.state[STATUS] == OK).view(-1, *ones)
        return Marched(y, torch.where(arrived, y[-1], marched.last), marched.state)

    def _first(self, ys: Sequence[Tensor], args: Arguments) -> Tensor:
        """A tensor that depends on everything that f and g use."""
        self.eq.begin()
        plain = PlainEquation(self.eq, args)
        t = self.where.t[0]
        w = torch.ones_like(self.steps.noise(0)[0])
        f, moved = plain.both(ys[0], t, w)
        return f + moved

    def _mode(self, targets: GradientTargets) -> DerivativeMode:
        if self.adjoint == "continuous":
            steps = self.steps
            return StochasticAdjoint(
                lambda y0: self._run(),
                [steps.ends(k) for k in range(len(self.where))],
                lambda k: steps.noise(k)[0],
                self._moved,
                self.where.passed,
            )
        if self.adjoint == "backprop":
            return Backprop(self._trail)
        return Reversible(
            lambda k, forwards, y, args: self.steps.move(k, forwards, y, args) - y,
            self.where.passed,
            targets.args,
            None,
            self.tick,
        )

    def _moved(
        self,
        t: float,
        y: Tensor,
        args: Arguments,
        h: float,
        w: Tensor,
    ) -> Tensor:
        eq = PlainEquation(self.eq, args)
        g = eq.g(t, y)
        f = eq.f(y, t)
        if self.ito and isinstance(g, Matrix):
            f = f - 0.5 * along_columns(g.value, y, g.value)
        elif self.ito and isinstance(g, Tensor):
            whole = g.expand_as(y)
            f = f - 0.5 * along(whole, y, whole)
        return h * f + g * w

    def _run(self, before: Tensor | None = None) -> Tensor:
        self.marched = self.way.run(self.where, self.tick, before)
        return self.marched.y

    def _trail(self, y0: Tensor) -> Trail:
        before = y0.new_empty(len(self.where), *y0.shape)
        return Trail(
            self._run(before),
            before,
            lambda k, y, args: self.steps.move(k, True, y, args),
            self.where.passed,
        )

    def _reached(self, y: Tensor) -> Marched:
        """The result of a reversible solve to these states."""
        alive = Alive(y[0], 2 * self.way.solver.drifts)
        alive.step = len(self.where)
        finite = y[-1].isfinite().flatten(1).all(1)
        alive.state[STATUS] = torch.where(finite, float(OK), float(DIVERGED)).double()
        return Marched(y, y[-1], alive.finish(self.where.t[-1]))
