"""The two backward solves of sdeint_adjoint, both with the library's own adjoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.adjoint.pull import Sums, WayBack, with_gradients
from odesolve.adjoint.reversible_heun import pack
from odesolve.adjoint.sde import StochasticAdjoint
from odesolve.adjoint.targets import Arguments, GradientTargets, leaves_of
from odesolve.errors import OdesolveError, unknown
from odesolve.integrations.torchsde.base import CALCULI
from odesolve.integrations.torchsde.methods import METHODS, REVERSIBLE, WAY_BACK
from odesolve.integrations.torchsde.problem import SdeintProblem
from odesolve.stochastic.unrolled import Course, Values

# Methods of the adjoint equation that torchsde has; the others ask for more than products with its
# diffusion.
BACK = {
    "euler": ("ito",),
    "milstein": CALCULI,
    **dict.fromkeys(("midpoint", "heun", "euler_heun"), ("stratonovich",)),
}


@dataclass
class Walked:
    """The backward pass over the steps of an earlier solve: ``states`` holds its states at the
    outputs until ``forward`` returns them."""

    way: WayBack
    states: list[Tensor]

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        # a tensor that stays here would form a cycle with the whole solve
        return self.states.pop(), ()

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor | None, None]:
        return self.way.backward(y, extras, grad, sums)[0], None


class Gradients:
    """A problem whose states are connected to y0 and parameters by an adjoint. Raises OdesolveError
    for one that does not fit."""

    def __init__(
        self,
        problem: SdeintProblem,
        adjoint_method: str | None,
        sde: Any,
        params: Sequence[Tensor] | None,
    ):
        _check_back(adjoint_method, problem)
        self.problem = problem
        self.exact = problem.name == REVERSIBLE and adjoint_method in (None, WAY_BACK)
        self.targets = GradientTargets((), (), self._params(sde, params), False)

    def _params(self, sde: Any, params: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
        if not torch.is_grad_enabled():
            return ()
        if params is not None:
            return tuple(p for p in params if p.requires_grad)
        listed = (
            tuple(p for p in sde.parameters() if p.requires_grad)
            if isinstance(sde, nn.Module)
            else ()
        )
        y = self.problem.start.detach()
        form = self.problem.form
        with torch.enable_grad():
            f, moved = form.both(
                y, self.problem.outputs[0], y.new_ones(form.batch, self.problem.motions)
            )
        known = {id(p) for p in listed}
        strangers = [p for x in (f, moved) for p in leaves_of(x, listed) if id(p) not in known]
        if strangers and isinstance(sde, nn.Module):
            raise OdesolveError(
                f"f or g use a tensor of shape {tuple(strangers[0].shape)} that requires gradients "
                "and is no parameter of sde: give "
                "adjoint_params=(..., *sde.parameters()) with what f uses, which may be computed "
                "from it"
            )
        return (*listed, *{id(p): p for p in strangers}.values())

    def solve(self) -> tuple[Tensor, Values]:
        """The result of ``Problem.solve``, connected to y0 and parameters."""
        problem = self.problem
        with torch.no_grad():
            course, states = problem.walk()
        # weights that were cast here have no gradients, and must not be used again
        torch.clear_autocast_cache()
        if len(course.times) == 1:
            return problem.start[None], problem.first()
        if self.exact:
            return self._reversible(course, states)
        return self._continuous(course, states)

    def _reversible(self, course: Course, states: dict[int, Values]) -> tuple[Tensor, Values]:
        states_needed = [torch.stack([pack(states[k]) for k in course.needed])]
        mode = Walked(self.problem.reversible(course), states_needed)
        packed = with_gradients(mode, self.targets, pack(self.problem.first()))
        row = {k: i for i, k in enumerate(course.needed)}
        ys = course.read(lambda k: self.problem.split(packed[row[k]])[0])
        return ys, self.problem.split(packed[-1])

    def _continuous(self, course: Course, states: dict[int, Values]) -> tuple[Tensor, Values]:
        problem = self.problem
        needed = course.needed
        steps = course.steps
        states_needed = [torch.stack([states[k][0] for k in needed])]
        back = StochasticAdjoint(
            lambda y0: y0, steps, lambda k: problem.noise(*steps[k])[0], self._moved, needed
        )
        ys = with_gradients(Walked(back, states_needed), self.targets, problem.start)
        row = {k: i for i, k in enumerate(needed)}
        return course.read(lambda k: ys[row[k]]), states[len(course.times) - 1]

    def _moved(
        self,
        t: float,
        y: Tensor,
        args: Arguments,
        h: float,
        w: Tensor,
    ) -> Tensor:
        form = self.problem.form
        if form.calculus == "stratonovich" or form.noise_type == "additive":
            f, moved = form.both(y, t, w)
            return f * h + moved
        f, g = form.pair(t, y)
        drift = f - form.correction(t, y, g, w.is_complex())
        return drift * h + form.times_increment(g, w)


def _check_back(name: str | None, problem: SdeintProblem) -> None:
    """Raise OdesolveError where no adjoint of this equation has that name."""
    if name is None or (name == WAY_BACK and problem.name == REVERSIBLE):
        return
    if name not in (*METHODS, WAY_BACK):
        raise unknown("adjoint_method", name, (*METHODS, WAY_BACK))
    if name in (REVERSIBLE, WAY_BACK):
        give = (
            f"method={REVERSIBLE!r}, or another adjoint_method"
            if problem.name != REVERSIBLE
            else repr(WAY_BACK)
        )
        raise OdesolveError(
            f"adjoint_method={name!r} walks back what method={REVERSIBLE!r} made: give {give}"
        )
    form = problem.form
    calculi = CALCULI if form.noise_type == "additive" else BACK.get(name, ())
    if (
        name not in BACK
        or form.calculus not in calculi
        or (name == "milstein" and form.noise_type != "diagonal")
    ):
        raise OdesolveError(
            f"adjoint_method={name!r} solves no adjoint of a {form.calculus} equation with "
            f"{form.noise_type} noise: leave it "
            "out, the backward solve is always by Heun's method in Stratonovich's calculus"
        )
