"""Consistency models: networks that carry a state on the EDM path to its data end at once,
distilled or trained from data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.doors.annotations import count, meant, number, takes, text
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.values import whole
from odesolve.doors.words import fits, fits_call
from odesolve.errors import OdesolveError
from odesolve.grids import Karras, inside
from odesolve.model.model import Model
from odesolve.objectives import times as laws
from odesolve.objectives.distances import Distance, masked, squared
from odesolve.objectives.distances import pseudo_huber as pseudo_huber
from odesolve.objectives.distillation import check_solver, check_teacher, runge_kutta
from odesolve.objectives.draws import (
    can_look,
    check_data,
    checked_times,
    column,
    mask_for,
    mean_over,
    normal_for,
    same_draws,
)
from odesolve.objectives.matching import Terms
from odesolve.objectives.tangents import along
from odesolve.objectives.weights import function
from odesolve.paths import EDM
from odesolve.sample import sample
from odesolve.sampling.start import Noise


@fits
def progressive(k: int, total: int, first: int = 2, last: int = 150) -> int:
    """Points N of the grid in iteration k of ``total`` (Song et al. 2023, appendix C)."""
    share = k / total * ((last + 1) ** 2 - first**2) + first**2
    return math.ceil(math.sqrt(share) - 1) + 1


@fits
def doubling(k: int, total: int, first: int = 10, last: int = 1280) -> int:
    """Points N of the grid in iteration k of ``total``: steps double from first to last (Song and
    Dhariwal 2024, section 3.4)."""
    each = max(1, math.floor(total / (math.log2(last // first) + 1)))
    return min(first * 2 ** (k // each), last) + 1


@meant(mean=number(), std=number(above=0.0))
def log_normal(mean: float = -1.1, std: float = 2.0) -> Callable[[Tensor], Tensor]:
    """Probabilities of steps under a log-normal noise level (Song and Dhariwal 2024, 3.5)."""
    return lambda times: torch.special.ndtr((times.log() - mean) / std).diff()


@fits
def inverse_gap(r: Tensor, t: Tensor) -> Tensor:
    """The weight 1 / (t - r) of a step (Song and Dhariwal 2024, section 3.1)."""
    return 1 / (t - r)


class Consistency:
    """f(x, t) = c_skip(t) x + c_out(t) F(x, t), which is x itself at the time ``start`` (Song et
    al. 2023, eq. 5 and appendix C).

    With e = start and s the model's ``sigma_data``, c_skip = s^2 / ((t - e)^2 + s^2), c_out = s (t
    - e) / sqrt(t^2 + s^2); F is the model's EDM prediction, whatever its network predicts: training
    can begin from a diffusion model on the path. ``denoiser`` is f as an ``ode.Model`` that
    predicts data, for the solver "consistency".

    Args:
        model: an ``ode.Model`` on ``paths.EDM()``, without guidance.
        start: the time that f carries states to, by default the path's ``sigma_min``.

    Raises OdesolveError for other paths, guided models and a start outside the path.
    """

    @door("Consistency", start=number(above=0.0))
    def __init__(self, model: Model, start: float | None = None):
        if not isinstance(model.path, EDM):
            raise OdesolveError(
                f"the model is on {model.path}: consistency models take ode.paths.EDM()"
            )
        if model.reading.guidance is not None or model.reading.classifier or model.reading.applies:
            raise OdesolveError("the model is guided, or does something to x0: give the plain one")
        self.model = model
        self.path = model.path
        self.start = model.path.sigma_min if start is None else start
        if not 0 < self.start < self.path.t_max:
            raise OdesolveError(f"start={start}: give a time above 0 and below {self.path.t_max}")
        self.denoiser = Model(_Carried(self), self.path, "data", time="t")
        # f takes states in their own dtype; the model inside casts for its network
        self.denoiser.dtype = None

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """f at states x (B, ...) and times t, a number or (B,), from ``start`` up."""
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
        s = self.model.reading.sigma_data
        away = t - self.start
        own = self.model.given(**cond) if cond else self.model
        out = s * away / torch.sqrt(t**2 + s**2)
        return column(s**2 / (away**2 + s**2), x) * x + column(out, x) * own.edm(x, t)

    def sample(
        self,
        noise: Noise | None = None,
        times: Sequence[float] | None = None,
        *,
        cond: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Samples at ``start``: f at each of the falling times, with new noise up to the next (Song
        et al. 2023, algorithm 1).

        It is ``ode.sample(consistency.denoiser,
        noise, "consistency", grid=[*times, start], floor=start)``.

        Args:
            noise, options: as for ``ode.sample``.
            times: one per step, from noise to data; by default only the noise end, which is one
                step.
            cond: conditions, as the network takes them.

        Raises OdesolveError for times that do not fall, or leave (start, t_max], and what
        ``ode.sample`` does."""
        taus = (
            [self.path.t_noise] if times is None else [inside(self.path, float(t)) for t in times]
        )
        if not taus or taus[-1] <= self.start or any(a <= b for a, b in itertools.pairwise(taus)):
            raise OdesolveError(
                f"times={taus}: give falling times above {self.start}, up to {self.path.t_max}"
            )
        model = self.denoiser.given(**(cond or {}))
        grid = [*taus, self.start]
        return sample(model, noise, "consistency", grid=grid, floor=self.start, **options)


class _Carried(nn.Module):
    """f as a network that predicts data."""

    def __init__(self, consistency: Consistency):
        super().__init__()
        self.net = consistency.model.net if isinstance(consistency.model.net, nn.Module) else None
        self.carry = consistency.__call__

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.carry(x, t, **cond)


def _points(name: str, given: Any) -> None:
    """Check points: a whole number, or a function of the step."""
    check = takes("step") if callable(given) else count(2)
    check(name, given)


class ConsistencyTraining:
    """Training from data alone: f at x + t z should equal f at x + r z, with one noise z and a step
    from t to r (Song et al. 2023, algorithm 3).

    Dropout, and anything else that networks draw from torch's own generators, is the same in both
    (Song and Dhariwal 2024).

    Args:
        consistency: the model to train.
        points: N of EDM's grid, at least 2 (OdesolveError for fewer), or a function of the training
            step 0, 1, ..., such as ``lambda k: doubling(k, 4000)``, so that N grows;
            ``training.fit`` passes the step.
        target: the f to use at r, without gradients: another ``Consistency`` (of averaged weights),
            or a function (x, t, **cond); by default ``consistency`` itself.
        distance: (B, ...), (B, ...) -> (B,); ``squared`` or ``pseudo_huber()``. For losses with a
            mask, a function of your own needs a third argument ``mask``, the weights (B, ...) of
            elements.
        weight: of the distance, a function (r, t) of the step's times (B,), such as
            ``inverse_gap``; by default 1.
        chances: probabilities of the N - 1 steps, a function of the rising times (N,), such as
            ``log_normal()``; by default equal.
        rho: exponent of the grid.
    """

    @door(
        "ConsistencyTraining",
        points=_points,
        rho=number(above=0.0),
        target=takes("x", "t"),
        distance=takes("a", "b"),
        weight=takes("r", "t"),
        chances=takes("times"),
    )
    def __init__(
        self,
        consistency: Consistency,
        points: int | Callable[[int], int] = 18,
        *,
        target: Callable[..., Tensor] | None = None,
        distance: Distance = squared,
        weight: Callable[[Tensor, Tensor], Tensor] | None = None,
        chances: Callable[[Tensor], Tensor] | None = None,
        rho: float = 7.0,
    ):
        self.consistency = consistency
        self.target = target or consistency
        self.distance = distance
        self.weight = function(weight, "(r, t) -> (B,) of a step's times")
        self.chances = chances
        self.rho = rho
        self.points = points
        self._times: dict[int, Tensor] = {}
        self.times(points(0) if callable(points) else points)

    def times(self, points: int | None = None) -> Tensor:
        """The rising times (N,) of the grid, float64, from ``start`` to the noise end."""
        if points is None and callable(self.points):
            raise OdesolveError(
                "points is a function of the step: give step=, which training.fit does, or points="
            )
        points = whole("points", self.points if points is None else points, 2)
        if points not in self._times:
            grid = Karras(stop=self.consistency.start, final=False, rho=self.rho)
            self._times[points] = torch.tensor(
                grid.times(self.consistency.path, points - 1)[::-1], dtype=torch.float64
            )
        return self._times[points]

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        points: int | None = None,
        step: int | None = None,
        index: Tensor | None = None,
        noise: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Terms:
        """The loss of data x (B, ...); ``t`` of the terms is the noisier time of each step.

        Args:
            points: of the grid, for this batch alone.
            step: the number of training steps so far, where ``points`` grows with it.
            index: steps (B,) from 0 (the one that ends at ``start``) to N - 2, instead of random
                ones.
            noise, cond, generator: as for ``Matching``.
            mask: which elements of the data count, as for ``Matching``; the distance gets their
                weights.

        Raises OdesolveError for shapes that do not match, steps outside the grid and a distance
        that takes no mask."""
        check_data(x)
        if torch.compiler.is_compiling():
            _check_still(self.consistency.model.net)
        apart = masked(self.distance, mask, x)
        cond = cond or {}
        z = normal_for(x, noise, generator)
        if points is None and step is not None and callable(self.points):
            points = self.points(step)
        r, t = self._step(x, points, index, generator)
        x_t = x + column(t, x) * z
        with torch.no_grad():
            cleaner = self._cleaner(x, z, x_t, r, t, cond)
            again = same_draws(x)
            aim = self.target(cleaner, r, **cond)
        again()
        each = apart(self.consistency(x_t, t, **cond), aim)
        if self.weight is not None:
            each = each * self.weight(r, t).to(each.dtype)
        return Terms(each.mean(), each, t)

    def _cleaner(
        self,
        x: Tensor,
        z: Tensor,
        x_t: Tensor,
        r: Tensor,
        t: Tensor,
        cond: Mapping[str, Any],
    ) -> Tensor:
        """The state at r that belongs to x_t."""
        return x + column(r, x) * z

    def _step(
        self,
        x: Tensor,
        points: int | None,
        index: Tensor | None,
        generator,
    ) -> tuple[Tensor, Tensor]:
        times = self.times(points)
        if index is None:
            chances = torch.ones(len(times) - 1) if self.chances is None else self.chances(times)
            device = "cpu" if generator is None else generator.device
            index = torch.multinomial(
                chances.to(device), len(x), replacement=True, generator=generator
            )
        elif index.shape != x.shape[:1] or (
            can_look(index) and bool(((index < 0) | (index > len(times) - 2)).any())
        ):
            raise OdesolveError(
                f"index has shape {tuple(index.shape)}: give (B,) whole numbers, "
                f"0 to {len(times) - 2}"
            )
        times = times.to(x.device)
        index = index.to(x.device)
        return times[index], times[index + 1]


def _check_still(net: Any) -> None:
    """Raise OdesolveError for a network whose dropout a compiled loss cannot repeat."""
    parts = net.modules() if isinstance(net, nn.Module) else ()
    if any(
        isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0
        for part in parts
    ):
        raise OdesolveError(
            "the network has dropout, which is to be the same for student and target, and "
            "torch.compile draws it anew: "
            "compile the network instead of the loss, torch.compile(net)"
        )


class ConsistencyDistillation(ConsistencyTraining):
    """Distillation of a diffusion model: f at x_t should equal f at the state that one solver step
    reaches from x_t (Song et al. 2023, algorithm 2).

    Args:
        teacher: an ``ode.Model`` on the same path, guided or not; conditions go to both.
        solver: a Runge-Kutta method in the path's time: "euler", "heun" (the paper's), "midpoint",
            "rk4", ...
        consistency, points, options: as for ``ConsistencyTraining``.

    Raises OdesolveError for a teacher on another path, and unknown solvers.
    """

    @door("ConsistencyDistillation", points=_points, solver=text("heun"))
    def __init__(
        self,
        consistency: Consistency,
        teacher: Model,
        points: int | Callable[[int], int] = 18,
        *,
        solver: str = "heun",
        **options: Any,
    ):
        super().__init__(consistency, points, **options)
        check_teacher(teacher, consistency.path)
        check_solver(solver)
        self.teacher = teacher
        self.solver = solver

    def _cleaner(
        self,
        x: Tensor,
        z: Tensor,
        x_t: Tensor,
        r: Tensor,
        t: Tensor,
        cond: Mapping[str, Any],
    ) -> Tensor:
        return runge_kutta(self.teacher.given(**cond), x_t, t, r, self.solver)


@brief
@dataclass(frozen=True)
class ContinuousTerms(Terms):
    """Terms of the continuous objective; ``derivative`` (B, ...) is df/dt along the trajectory,
    without gradients."""

    derivative: Tensor = field(repr=False)


class ContinuousConsistency:
    """The limit of infinitely many points: E[weight f . sg(df/dt)]. Only its gradient has a
    meaning, not its value.

    Song et al. 2023, theorems 6 (from data: x_t moves by (x_t - x) / t) and 5 (from a teacher: by
    its velocity). The gradient is half that of the squared distance, divided by the step. Networks
    must support forward-mode derivatives.

    Args:
        consistency: the model to train; the derivative uses its own weights, detached.
        teacher: an ``ode.Model`` on the same path (OdesolveError for others); by default from data.
        times: a law of ``objectives.times`` from ``start`` up; by default uniform in log t.
        weight: a function of times (B,); by default 1.
    """

    @door("ContinuousConsistency", weight=takes("t"))
    def __init__(
        self,
        consistency: Consistency,
        *,
        teacher: Model | None = None,
        times: laws.Law | laws.Importance | str | None = None,
        weight: Callable[[Tensor], Tensor] | None = None,
    ):
        if teacher is not None:
            check_teacher(teacher, consistency.path)
        self.consistency = consistency
        self.teacher = teacher
        self.weight = function(weight, "of times (B,)")
        self.times = laws.named(times, laws.LogUniform(consistency.start, consistency.path.t_max))

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        t: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> ContinuousTerms:
        """The objective for data x (B, ...), whose value says nothing about progress; arguments as
        for ``Matching``.

        Raises OdesolveError for shapes that do not match and times below ``start`` or above the
        path's."""
        check_data(x)
        cond, z, path = cond or {}, normal_for(x, noise, generator), self.consistency.path
        t = checked_times(
            laws.draw_times(self.times, len(x), path, generator) if t is None else t,
            x,
            self.consistency.model,
        )
        if can_look(t) and bool((t < self.consistency.start * (1 - 1e-12)).any()):
            raise OdesolveError(
                f"t goes down to {float(t.min()):.4g}: give times from {self.consistency.start} up"
            )
        x_t = x + column(t, x) * z
        with torch.no_grad():
            tangent = z if self.teacher is None else self.teacher.given(**cond).velocity(x_t, t)
        f, df = along(
            lambda x, t: self.consistency(x, t, **cond), (x_t, t), (tangent, torch.ones_like(t))
        )
        df = df.detach()
        each = mean_over(f * df, mask_for(mask, x))
        if self.weight is not None:
            each = each * self.weight(t).to(each.dtype)
        return ContinuousTerms(each.mean(), each, t, df)
