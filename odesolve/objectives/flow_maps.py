"""Networks of two times, which carry a state from one to the other at once: trained by MeanFlow or
as shortcut models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.doors.annotations import count, number
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import fits_call
from odesolve.errors import OdesolveError, unknown
from odesolve.grids import is_listed
from odesolve.model.conditions import rows
from odesolve.model.model import Model
from odesolve.objectives import times as laws
from odesolve.objectives.distillation import check_teacher
from odesolve.objectives.draws import (
    check_data,
    checked_times,
    column,
    mask_for,
    mean_square,
    normal_for,
    numbers,
)
from odesolve.objectives.guidance import dropped
from odesolve.objectives.matching import Terms
from odesolve.objectives.tangents import along
from odesolve.paths import Path
from odesolve.planning.planner import GridLike, plan
from odesolve.sample import sample
from odesolve.sampling.model_plan import closed
from odesolve.sampling.start import Noise


class _TwoTimes(nn.Module):
    """net(x, r, t) as ``ode.Model`` calls it: r in a second column of the times, or among the
    conditions, or t itself."""

    two_times = True

    def __init__(self, net: Callable[..., Tensor]):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None = None, **cond: Any) -> Tensor:
        if t.dim() == 2:
            t, r = t.unbind(1)
        return self.net(x, t if r is None else r, t, **cond)


class FlowMap:
    """The map of the probability flow from time t to r as x + (r - t) u(x, r, t), u the average
    velocity in between.

    Velocities are derivatives by the path's time, with data at t = 0 unless the path is flipped, as
    for ``ode.Model``; r may lie on either side of t, and is nearer to the data in training. At r =
    t the network is the velocity itself: ``model`` is that ``ode.Model``, which is sampled,
    profiled and scored as any other, and in large steps by the solver "flow_map".

    Args:
        net: net(x, r, t, **cond) -> u (B, ...); both times are (B,). It takes no condition called
            r.
        path: where the velocity is finite at the data end, such as ``paths.Linear()``.
        options: those of ``ode.Model`` (``time_scale``, ``dtype``, ``cond``, ...), for both times.

    Raises OdesolveError for paths with an infinite velocity, and as ``ode.Model``.
    """

    @door("FlowMap")
    def __init__(self, net: Callable[..., Tensor], path: Path, **options: Any):
        if not callable(net):
            raise OdesolveError(
                f"net is {type(net).__name__}: give a function or module net(x, r, t, **cond)"
            )
        self.model = Model(_TwoTimes(net), path, "velocity", **options)
        if not math.isfinite(float(path.dsigma(path.t_data))):
            raise OdesolveError(
                f"the velocity on {path} is infinite at the data end: use ode.paths.Linear()"
            )
        self.path = path

    def average(self, x: Tensor, r: float | Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """u at states x (B, ...) of time t; times are numbers or (B,)."""
        r, t = (
            torch.as_tensor(v, dtype=torch.float64, device=x.device).expand(len(x)) for v in (r, t)
        )
        kind = torch.promote_types(self.model.dtype or x.dtype, torch.float32)
        return self.model.given(**cond, r=self.model.network_times(r).to(kind)).velocity(x, t)

    def carry(self, x: Tensor, t: float | Tensor, r: float | Tensor, **cond: Any) -> Tensor:
        """States x (B, ...) of time t, carried to r."""
        r, t = (
            torch.as_tensor(v, dtype=torch.float64, device=x.device).expand(len(x)) for v in (r, t)
        )
        return x + column(r - t, x) * self.average(x, r, t, **cond)

    def sample(
        self,
        noise: Noise | None = None,
        steps: int | None = None,
        grid: GridLike = "uniform",
        *,
        cond: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Samples (B, ...) by one evaluation per step, 1 by default:
        ``ode.sample(flow_map.model, noise, "flow_map", 1, grid)``.

        Args:
            noise, steps, grid, options: as for ``ode.sample``; from a state at the data end, on a
                rising grid, it encodes.
            cond: conditions, as the network takes them.

        Raises what ``ode.sample`` does.
        """
        model = self.model.given(**(cond or {}))
        steps = 1 if steps is None and not is_listed(grid) else steps
        flags = {name: options.pop(name) for name in ("afs", "tree", "reverse") if name in options}
        chosen = plan(
            "flow_map", model.path, steps, grid, closed=closed(model), snap=model.snap, **flags
        )
        return sample(model, noise, plan=chosen, **options)


def _states(path: Path, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and its velocity given both ends."""
    x_t = column(path.alpha(t), x) * x + column(path.sigma(t), x) * z
    return x_t, column(path.dalpha(t), x) * x + column(path.dsigma(t), x) * z


@brief
@dataclass(frozen=True)
class FlowMapTerms(Terms):
    """``r`` (B,) is where each sample is carried to, ``error`` (B,) its squared error without
    weight or gradients."""

    r: Tensor = field(repr=False)
    error: Tensor = field(repr=False)


class MeanFlow:
    """MeanFlow: u = v - (t - r) du/dt along the flow, one Jacobian-vector product a loss (Geng et
    al. 2025, algorithm 1).

    The tangent of (x, r, t) is (v, 0, 1); the target is detached. The network must know
    forward-mode derivatives.

    Args:
        flow_map: what is trained.
        times: the law of two times, the one nearer to the noise being t; by default the paper's
            log-normal one.
        equal: the share of samples with r = t, which are plain flow matching.
        power, offset: the loss of a sample is S / (S + offset)^power, S the sum of its squares, the
            divisor detached (the paper's section 4.3). Power 0 is the plain loss, the mean of the
            squares.
        of: what S is, "sum", or "mean": the mean of the squares, under which an offset weighs as
            much more as there are numbers.
        teacher: an ``ode.Model`` on the same path whose velocity is averaged, instead of that
            between data and noise.
        null: conditions of no condition, tensors (B, ...) or (1, ...), or numbers: makes the map a
            guided one, of one evaluation (the paper's section 4.2). What is averaged is scale v +
            mix u(c) + (1 - scale - mix) u(null), u the map's own velocity at t; a share ``drop`` of
            the samples learns without conditions, and v itself.
        scale, mix: of guidance; the guidance that comes out is scale / (1 - mix), 1 being the
            conditional flow.

    Raises OdesolveError for a share outside of 0 to 1 and a teacher on another path.
    """

    @door(
        "MeanFlow",
        equal=number(0.0, 1.0),
        power=number(0.0),
        offset=number(0.0),
        scale=number(0.0),
        mix=number(0.0, 1.0),
        drop=number(0.0, 1.0),
    )
    def __init__(
        self,
        flow_map: FlowMap,
        *,
        times: laws.Law | laws.Importance | str | None = None,
        equal: float = 0.75,
        power: float = 1.0,
        offset: float = 1e-3,
        of: str = "sum",
        teacher: Model | None = None,
        null: Mapping[str, Any] | None = None,
        scale: float = 1.0,
        mix: float = 0.0,
        drop: float = 0.1,
    ):
        if null is None and (scale, mix) != (1.0, 0.0):
            raise OdesolveError(
                f"scale={scale}, mix={mix} guide from null=: give the conditions of no condition"
            )
        if not 0.0 <= equal <= 1.0:
            raise OdesolveError(f"equal={equal}: give the share of samples with r = t, from 0 to 1")
        if teacher is not None:
            check_teacher(teacher, flow_map.path)
        self.flow_map = flow_map
        self.teacher = teacher
        self.null = null
        self.scale = scale
        self.mix = mix
        self.drop = drop
        if of not in ("sum", "mean"):
            raise unknown("of", of, ("sum", "mean"))
        self.equal = equal
        self.power = power
        self.offset = offset
        self.of = of
        self.times = laws.named(times, laws.LogitNormal(-0.4, 1.0))

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        r: Tensor | None = None,
        t: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> FlowMapTerms:
        """The loss of data x (B, ...).

        Args:
            noise: samples of the source (B, ...), standard normal by default.
            r, t: both times (B,) instead of random ones.
            cond: conditions of this batch, as the network takes them.
            generator: of times and noise; by default torch's own.
            mask: which numbers of the data count: booleans, or weights of at least 0, a tensor that
                broadcasts to x. The loss of a sample is their weighted mean.

        Raises OdesolveError for shapes that do not go together, one time without the other and
        times outside of the path."""
        check_data(x)
        cond, z = cond or {}, normal_for(x, noise, generator)
        r, t = self._times(x, r, t, generator)
        x_t, v = _states(self.flow_map.path, x, z, t)
        if self.teacher is not None:
            with torch.no_grad():
                v = self.teacher.given(**cond).velocity(x_t, t)
        if self.null is not None:
            cond, v = self._guided(x_t, t, v, cond, generator)
        net = lambda x, r, t: self.flow_map.average(x, r, t, **cond)  # noqa: E731
        prediction, slope = along(net, (x_t, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
        aim = (v - column(t - r, x) * slope).detach()
        error = mean_square(prediction - aim, mask_for(mask, x))
        each = error if self.power == 0 else self._weighed(error, numbers(mask, x))
        return FlowMapTerms(each.mean(), each, t, r, error.detach())

    @torch.no_grad()
    def _guided(
        self,
        x: Tensor,
        t: Tensor,
        v: Tensor,
        cond: Mapping[str, Any],
        generator,
    ) -> tuple[Mapping[str, Any], Tensor]:
        """Conditions, some of them dropped, and the guided velocity of those that are not."""
        assert self.null is not None
        mark = torch.ones(len(x), device=x.device)
        name = "kept by MeanFlow"
        draw_times = dropped({**cond, name: mark}, {**self.null, name: 0.0}, self.drop, generator)
        kept = draw_times.pop(name)
        plain, free = (
            self.flow_map.average(x, t, t, **c) for c in (cond, dropped(cond, self.null, 1.0))
        )
        guided = self.scale * v + self.mix * plain + (1 - self.scale - self.mix) * free
        return draw_times, torch.where(column(kept, x) > 0, guided, v)

    def _weighed(self, error: Tensor, numbers: float | Tensor) -> Tensor:
        """The loss (B,) of errors (B,), means of so many squares."""
        size = error * numbers if self.of == "sum" else error
        return size / (size.detach() + self.offset) ** self.power

    def _times(
        self,
        x: Tensor,
        r: Tensor | None,
        t: Tensor | None,
        generator,
    ) -> tuple[Tensor, Tensor]:
        path = self.flow_map.path
        n = len(x)
        if (r is None) != (t is None):
            raise OdesolveError("one of r and t is missing: give both times, or neither")
        if r is None or t is None:
            a, b = (laws.draw_times(self.times, n, path, generator) for _ in range(2))
            falls = path.t_data < path.t_noise
            r, t = (
                (torch.minimum(a, b), torch.maximum(a, b))
                if falls
                else (torch.maximum(a, b), torch.minimum(a, b))
            )
            same = torch.rand(n, generator=generator, device=t.device) < self.equal
            r = torch.where(same, t, r)
        return checked_times(r, x, self.flow_map.model), checked_times(
            t, x, self.flow_map.model, self.teacher
        )


class Shortcut:
    """Shortcut models: flow matching at r = t, and elsewhere one step that is to be two of half its
    size (Frans et al. 2025).

    Steps are 1, 1/2, 1/4, ... of the path, down to two of the smallest, 1/``steps``, which is read
    as r = t. What a step is compared with is the mean of the network's own two half steps, without
    gradients.

    Args:
        flow_map: what is trained.
        steps: a power of 2, at least 2.
        share: of samples that learn steps, rather than the velocity.
        target: the map that takes the half steps, such as one of averaged weights; by default
            ``flow_map`` itself.
        times: the law of the times of flow matching; by default uniform.

    Raises OdesolveError for steps that are no power of 2, a share outside of 0 to 1 and a target on
    another path."""

    @door("Shortcut", steps=count(2), share=number(0.0, 1.0))
    def __init__(
        self,
        flow_map: FlowMap,
        steps: int = 128,
        *,
        share: float = 0.25,
        target: FlowMap | None = None,
        times: laws.Law | laws.Importance | str | None = None,
    ):
        if steps < 2 or steps & (steps - 1):
            raise OdesolveError(f"steps={steps}: give a power of 2, at least 2")
        if not 0.0 <= share <= 1.0:
            raise OdesolveError(
                f"share={share}: give the share of samples that learn steps, from 0 to 1"
            )
        self.flow_map = flow_map
        self.target = target or flow_map
        self.steps = steps
        self.share = share
        check_teacher(self.target.model, flow_map.path)
        self.times = laws.named(times, laws.Uniform())

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        r: Tensor | None = None,
        t: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> FlowMapTerms:
        """The loss of data x (B, ...); arguments and errors as for ``MeanFlow``."""
        check_data(x)
        cond = cond or {}
        z = normal_for(x, noise, generator)
        path = self.flow_map.path
        model = self.flow_map.model
        if (r is None) != (t is None):
            raise OdesolveError("one of r and t is missing: give both times, or neither")
        if r is None or t is None:
            r, t = self._draw_steps(len(x), generator)
        r = checked_times(r, x, model)
        t = checked_times(t, x, model)
        x_t, aim = _states(path, x, z, t)
        aim = self._stepped(x_t, r, t, aim, cond)
        each = mean_square(self.flow_map.average(x_t, r, t, **cond) - aim, mask_for(mask, x))
        return FlowMapTerms(each.mean(), each, t, r, each.detach())

    @torch.no_grad()
    def _stepped(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        aim: Tensor,
        cond: Mapping[str, Any],
    ) -> Tensor:
        """Velocities, and where r is not t the mean velocity of two half steps; all are made where
        torch.compile counts none."""
        if torch.compiler.is_compiling():
            return torch.where(column(r != t, x) > 0, self._halves(x, r, t, cond), aim)
        index = (r != t).nonzero()[:, 0]
        if not len(index):
            return aim
        return aim.index_copy(
            0, index, self._halves(x[index], r[index], t[index], rows(cond, index, len(x)))
        )

    def _halves(self, x: Tensor, r: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The mean velocity of two half steps; those of the smallest size are asked for with r =
        t."""
        middle = 0.5 * (r + t)
        length = abs(self.flow_map.path.t_noise - self.flow_map.path.t_data)
        small = (t - r).abs() * self.steps < 2 * length * (1 + 1e-9)
        first = self.target.average(x, torch.where(small, t, middle), t, **cond)
        there = x + column(middle - t, x) * first
        second = self.target.average(there, torch.where(small, middle, r), middle, **cond)
        return 0.5 * (first + second)

    def _draw_steps(self, n: int, generator) -> tuple[Tensor, Tensor]:
        path = self.flow_map.path
        device = "cpu" if generator is None else generator.device
        t = laws.draw_times(self.times, n, path, generator)
        u = torch.rand(3, n, dtype=torch.float64, generator=generator, device=device)
        size = 0.5 ** (u[1] * (self.steps.bit_length() - 1)).floor()
        # where the step begins: a multiple of it, as share of the path
        place = ((u[2] / size).floor() + 1) * size
        way = path.t_noise - path.t_data
        learns = u[0] < self.share
        begin = path.t_data + way * place
        end = path.t_data + way * (place - size)
        return torch.where(learns, end, t), torch.where(learns, begin, t)
