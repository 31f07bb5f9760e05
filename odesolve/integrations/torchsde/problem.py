"""A solve in torchsde's terms: its equation, its noise, its steps, and the walk over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.reversible_heun import ReversibleHeun
from odesolve.adjoint.targets import Arguments
from odesolve.doors.values import refuse_loose
from odesolve.errors import OdesolveError
from odesolve.functions.pairing import real_type
from odesolve.functions.steadiness import Steady
from odesolve.integrations.torchsde.brownian import BrownianInterval
from odesolve.integrations.torchsde.form import EquationForm, seconds
from odesolve.integrations.torchsde.methods import REVERSIBLE, choose, real_motions
from odesolve.integrations.torchsde.sources import GivenMotion, Streams
from odesolve.stochastic.unrolled import Course, Doubling, Values, uniform, walked


class SdeintProblem:
    """The arguments of sdeint, checked and ready: ``start`` is the first state (B, D), ``solve``
    makes the steps."""

    def __init__(
        self,
        sde: Any,
        y0: Tensor,
        ts: Tensor | Sequence[float],
        bm: Any,
        method: str | None,
        adaptive: bool,
        options: dict[str, Any] | None,
        names: Mapping[str, str] | None,
        logqp: bool,
        extra_solver_state: Sequence[Tensor] | None,
        dt: float,
        rtol: float,
        atol: float,
        dt_min: float,
    ):
        if (
            not isinstance(y0, Tensor)
            or y0.dim() == 0
            or not real_type(y0.dtype).is_floating_point
            or y0.numel() == 0
        ):
            raise OdesolveError(
                "y0 is no batch of states: give a floating-point or complex tensor (B, ...)"
            )
        refuse_loose("y0", y0)
        times = _times(ts, y0)
        self.form = EquationForm(sde, names, y0, times, logqp)
        self.outputs = seconds(times)
        self.start = self.form.flat(y0)
        self.name, self.method = choose(method, self.form, options)
        self.real = real_motions(self.name, self.form)
        self.source, self.motions = self._source(bm, adaptive)
        self.control = Doubling(rtol, atol, dt_min) if adaptive else None
        self.dt = dt
        self.extra = extra_solver_state
        self.numbers: dict[tuple[Any, Any], int] = {}

    def _source(self, bm: Any, adaptive: bool) -> tuple[GivenMotion | Streams, int]:
        form = self.form
        areas = self.method.areas
        if bm is not None and not callable(bm):
            raise OdesolveError(f"bm={bm!r}: give a BrownianInterval, or a function of two times")
        first = None if bm is None else GivenMotion(bm, areas, form.batch)
        with torch.no_grad():
            motions = form.measure(
                self.outputs[0], self.start, None if first is None else first.motions()
            )
        if first is not None:
            return first, motions
        y = self.start
        if not adaptive:
            return Streams(form.batch, motions, areas, y.dtype, y.device), motions
        if len(self.outputs) == 1:
            return Streams(form.batch, motions, areas, y.dtype, y.device), motions
        path = BrownianInterval(
            self.outputs[0],
            self.outputs[-1],
            (form.batch, motions),
            y.dtype,
            y.device,
            levy_area_approximation="foster" if areas == "levy" else areas,
        )
        return GivenMotion(path, areas, form.batch), motions

    def must_be_steady(self, sde: Any) -> None:
        """Raise OdesolveError where f or g draw random numbers of their own: each is called twice
        with the same arguments."""
        w = self.start.new_ones(self.form.batch, self.motions)
        with torch.no_grad():
            t = self.form.time(self.outputs[0])
            Steady(self.form.both, module=sde)(self.start, t, w)

    def noise(self, s: Any, t: Any) -> tuple[Tensor, Tensor | None]:
        """The increment of a step and its area."""
        w, a = self.source(self.numbers.get((s, t), 0), s, t)
        if self.real and w.is_complex():
            raise OdesolveError(self.real)
        return w, a

    def on(self, course: Course) -> None:
        """Take these steps: noise and times come from them."""
        self.numbers = {ends: k for k, ends in enumerate(course.steps)}
        self.form.know(course.times)

    def move(self, state: Values, s: Any, t: Any) -> Values:
        """The state after a step."""
        w, a = self.noise(s, t)
        if self.method.step is None:
            return self.reversible().step(s, t, w, state)
        start = self.form.time(s)
        return (self.method.step(self.form, state[0], start, float(t - s), w, a),)

    def reversible(self, course: Course | None = None) -> ReversibleHeun:
        """The reversible Heun method on these steps; its states are (y, z, f, g)."""
        steps = [] if course is None else course.steps
        return ReversibleHeun(
            self.both,
            self.form.times_increment,
            self.form.spread,
            lambda k: self.noise(*steps[k])[0],
            self.split,
            steps,
            [] if course is None else course.needed,
            (),
        )

    def both(self, t: Any, y: Tensor, args: Arguments) -> tuple[Tensor, Tensor]:
        """Drift and diffusion."""
        return self.form.pair(t, y)

    def split(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A state (B, n) of the reversible Heun method as its four tensors."""
        size = self.start.shape[1]
        rest = packed.shape[1] - 3 * size
        y, z, f, g = packed.split([size, size, size, rest], 1)
        return y, z, f, g if self.form.diagonal else g.reshape(len(g), size, -1)

    def first(self) -> Values:
        """The state that the steps begin with."""
        if self.name != REVERSIBLE:
            if self.extra:
                raise OdesolveError(
                    f"extra_solver_state is of reversible_heun, and method={self.name!r} has "
                    "none: leave it out"
                )
            return (self.start,)
        if self.extra is None:
            f, g = self.form.pair(self.outputs[0], self.start)
            return self.start, self.start, f, g
        wide = (*self.start.shape, *([] if self.form.diagonal else [self.motions]))
        shapes = [self.start.shape, torch.Size(wide), self.start.shape]
        if [x.shape for x in self.extra] != shapes:
            raise OdesolveError(
                f"extra_solver_state has shapes {[tuple(x.shape) for x in self.extra]}: give what "
                "extra=True returned, of shapes "
                f"{[tuple(s) for s in shapes]}"
            )
        f, g, z = self.extra
        return self.start, z, f, g

    def solve(self) -> tuple[Tensor, Values]:
        """States at the outputs (n, B, D) and the last state of the steps."""
        course, states = self.walk()
        return course.read(lambda k: states[k][0]), states[len(course.times) - 1]

    def walk(self) -> tuple[Course, dict[int, Values]]:
        """The steps, and the states that outputs are read from, by the number of steps before
        them."""
        if self.control is not None:
            course, states = self.control.solve(self.move, self.first(), self.outputs, self.dt)
            self.on(course)
            return course, states
        course = uniform(self.outputs, self.dt)
        self.on(course)
        return course, walked(self.move, self.first(), course)

    def answer(self, ys: Tensor, last: Values, extra: bool) -> Any:
        """What sdeint returns."""
        out: list[Any] = [self.form.open(ys)]
        if self.form.logqp:
            out.append(ys[1:, :, -1] - ys[:-1, :, -1])
        if extra:
            out.append((last[2], last[3], last[1]) if self.name == REVERSIBLE else ())
        if len(out) == 1:
            return out[0]
        return tuple(out)


def _times(ts: Tensor | Sequence[float], y0: Tensor) -> Tensor:
    if not isinstance(ts, Tensor):
        if not isinstance(ts, (tuple, list)) or not all(
            isinstance(t, (float, int)) and -1e300 < t < 1e300 for t in ts
        ):
            raise OdesolveError(f"ts is {ts!r}: give a tensor (T,), or a list of numbers")
        ts = torch.tensor(ts, dtype=real_type(y0.dtype), device=y0.device)
    if ts.requires_grad:
        raise OdesolveError(
            "ts requires gradients, which an SDE's times do not get: give ts.detach()"
        )
    if (
        ts.dim() != 1
        or ts.numel() == 0
        or not ts.is_floating_point()
        or not bool((ts[1:] > ts[:-1]).all())
    ):
        raise OdesolveError(f"ts is {ts!r}: give rising times (T,), floating-point numbers")
    return ts
