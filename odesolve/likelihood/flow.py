"""The flows that a log-density is carried along: a model's probability flow in coordinates that are
smooth at both ends, and a user's velocity with a base density.

A flow has a clock u from the data's end ``start`` to the base's end ``stop``, a state y(u), and a
field dy/du. Then log p(x) = log_base(y(stop)) + integral of div(dy/du) du + ``volume``, the
log-volume of the change of coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.callee import Callee, shielded
from odesolve.functions.graphs import answer
from odesolve.functions.torch_func import refuse_inside
from odesolve.likelihood import truncation
from odesolve.likelihood.integral import End
from odesolve.likelihood.truncation import Before
from odesolve.model.model import Model
from odesolve.paths import EDM, Discrete, Flipped, Path
from odesolve.trace import Probes

Field = Callable[[Tensor], Tensor]
# What torch says to float(t), and to a comparison of t in an ``if``.
ONE_NUMBER = ("converted to Scalar", "Python scalars", "is ambiguous", "single element")
OWN_END = (EDM, Discrete)  # networks trained on these end at their ``t_min``
# for models without one; accuracy at a given cost changes by a tenth from 0.3 to 1 on the digits
SIGMA_DATA = 0.5


class Flow(Protocol):
    """What ``log_prob`` needs from a flow."""

    start: float
    stop: float
    volume: float

    def enter(self, x: Tensor) -> Tensor:
        """The state at the data's end of x (B, ...)."""
        ...

    def leave(self, y: Tensor) -> Tensor:
        """The latent of the state at the base's end."""
        ...

    def field(self, u: Tensor, index: Tensor) -> Field:
        """dy/du at clock times (n,) of these samples (n,), as a function of their states (n,
        ...)."""
        ...

    def log_base(self, y: Tensor) -> Tensor:
        """Log-density (B,) of the base at the latent of these states."""
        ...

    def first_step(self, tol: float) -> float | None:
        """The solver's first step, None to let the solver choose."""
        ...


class PathFlow:
    """The probability flow of a model between two times of its path, turned into a rotation.

    In y = x / sqrt(alpha^2 c^2 + sigma^2), with the angle u = atan(sigma / (alpha c)) as the clock,
    the flow is dy/du = -F(y, u), F being EDM's prediction for data of standard deviation c (Karras
    et al. 2022, eq. 7): neither end is singular, and for Gaussian data of standard deviation c
    nothing moves. The linear part of the drift is in the coordinates, not in F, so no probe has to
    estimate its trace.

    The density is that of x0 + rho eps, rho the noise to signal ratio at the first time.
    """

    def __init__(
        self,
        model: Model,
        times: Sequence[float] | None,
        prior: Callable[[Tensor], Tensor] | None,
        like: Tensor,
    ):
        if model.reading.classifier:
            raise OdesolveError(
                "the gradient of a classifier is not differentiated, so its divergence is "
                "unknown: give the model without it"
            )
        self.model = model
        self.batch = len(like)
        self.prior = prior
        self.looked = 0  # evaluations of each sample before the solve
        if model.reading.applies:
            raise OdesolveError(
                f"{model.reading.applies[0]!r} bends the flow into one that is no path's: leave "
                "it out of the model, or give "
                'of="plan" for the density of the sampler as it runs'
            )
        path = model.path
        self.c = model.reading.sigma_data if model.predicts == "edm" else SIGMA_DATA
        first, last = (
            times if times is not None else (_data_end(model, self.c), _noise_end(model, self.c))
        )
        self.at, self.end = path.points([first, last])
        if not self.at.rho < self.end.rho:
            raise OdesolveError(
                f"t=({first}, {last}) runs towards the data: give a time near the data first"
            )
        if self.at.sigma == 0.0 and not _determined(model, first, self.c):
            raise OdesolveError(
                f"at t={first} the network does not determine the drift: start later, such as at "
                f"{path.t_min}"
            )
        self.start, self.stop = self._angle(self.at), self._angle(self.end)
        # y = (x / alpha) cos(u) / c at the data's end, the latent is x itself at the other one.
        self.scale = math.cos(self.start) / self.c
        self.spread = math.hypot(self.end.alpha * self.c, self.end.sigma)
        growth = math.log(self.scale) + math.log(self.spread)
        self.volume = like.shape[1:].numel() * growth

    def _angle(self, p) -> float:
        return math.atan2(p.sigma, p.alpha * self.c)

    def enter(self, x: Tensor) -> Tensor:
        return x * self.scale

    def leave(self, y: Tensor) -> Tensor:
        return y * self.spread

    def times(self, u: Tensor) -> Tensor:
        """Times of the path at angles (n,), float64; exactly the first and the last one at the
        ends."""
        close = 2 * torch.finfo(u.dtype).eps
        u = u.double().clamp(self.start, self.stop)
        t = self.model.path.t_of_lam(-torch.log(self.c * torch.tan(u)))
        for p, angle in ((self.at, self.start), (self.end, self.stop)):
            t = torch.where((u - angle).abs() <= close * angle, p.t, t)
        return t

    def first_step(self, tol: float) -> float:
        """A first step for a method of order 5 at this tolerance: a hundredth of the way at 1e-5.
        The clock has no steep end that a solver must detect, and this saves an evaluation and two
        short steps."""
        return min(0.05, 0.01 * (tol / 1e-5) ** 0.2) * (self.stop - self.start)

    def field(self, u: Tensor, index: Tensor) -> Field:
        # Select rows even where there are B of them: at nodes they may all be of one sample.
        model = self.model.rows(index, self.batch)
        t = self.times(u)
        width = torch.hypot(model.path.alpha(t) * self.c, model.path.sigma(t))

        def moved(y: Tensor) -> Tensor:
            out = -model.prediction(column(width, y) * y, t, "edm", self.c)
            refuse_inside("what the network returned", out, y)
            return out

        return moved

    def log_base(self, y: Tensor) -> Tensor:
        x = self.leave(y)
        if self.prior is not None:
            return log_density(self.prior, x)
        return normal_log_density(x, self.base_std)

    @property
    def base_std(self) -> float:
        """Standard deviation of the default base."""
        return self.model.path.start_std(self.end.t)

    def score(self, u: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """Gradient of the log-density in y at angles (n,), where dy/du is ``slope``, if the network
        is the exact one."""
        sin = column(torch.sin(u), y)
        cos = column(torch.cos(u), y)
        # x0 = alpha-free data prediction = c (cos y - sin dy/du): y's Gaussian has mean cos E[x0] /
        # c and deviation sin.
        return -(y - cos * (cos * y - sin * slope)) / sin**2

    def mismatch(self, y: Tensor, slope: Tensor, trace: Tensor) -> Tensor:
        """Estimate (B,) of log p_T - log prior at the last state, with dy/du and its divergence
        (B,) there.

        With rho^2 = sigma^2 / alpha^2 large, log p_T(x) = log N(x; 0, sigma^2) + log E exp(x0 z /
        rho^2 - |x0|^2 / (2 rho^2)), z = x / alpha; to second order in 1 / rho^2 that expectation
        follows from E[x0 | x] at x and at 0 and its trace at x. One evaluation, at 0. Rejected: the
        divergence between q(x_T | x0) and the prior, which bounds the mean only."""
        x = self.leave(y)
        exact = normal_log_density(x, self.end.sigma) - self.log_base(y)
        if self.end.alpha == 0.0:
            return exact
        sin = math.sin(self.stop)
        cos = math.cos(self.stop)
        index = torch.arange(self.batch, device=y.device)
        u = y.new_full((len(y),), self.stop, dtype=torch.float64)
        slope_at_zero = self.field(u, index)(torch.zeros_like(y))
        at_zero = -self.c * sin * slope_at_zero.double().flatten(1)
        at_x = self.c * (cos * y - sin * slope).double().flatten(1)
        rho2 = self.end.rho**2
        z = (x / self.end.alpha).double().flatten(1)
        tilt = ((at_zero + 0.5 * (at_x - at_zero)) * z).sum(1) / rho2
        return (
            exact
            + tilt
            - 0.5 * at_zero.square().sum(1) / rho2
            - 0.5 * (self._shrinkage(cos, sin, y, trace))
        )

    def _shrinkage(self, cos: float, sin: float, y: Tensor, trace: Tensor) -> Tensor:
        """Trace of dE[x0 | x] / d(x / alpha), from the divergence of dy/du."""
        return cos**2 * y.shape[1:].numel() - sin * cos * trace

    @torch.no_grad()
    def answers(self, x: Tensor) -> bool:
        """Whether the network has a finite output for any sample at the first time."""
        index = torch.arange(self.batch, device=x.device)
        u = x.new_full((self.batch,), self.start, dtype=torch.float64)
        try:
            out = self.field(u, index)(self.enter(x))
        except (OdesolveError, torch.OutOfMemoryError):
            raise
        except Exception:  # an error that is not due to the time comes up again elsewhere
            return False
        return bool(torch.isfinite(out).flatten(1).all(1).any())

    def ask(self, u: float, y: Tensor, probes: Probes) -> End:
        """dy/du and its divergence at one angle and all states."""
        index = torch.arange(self.batch, device=y.device)

        angles = y.new_full((len(y),), u, dtype=torch.float64)
        with self.model.sharing(angles, index, y) as share:
            own_angles, own_index, own_y = share.rows
            field = self.field(own_angles, own_index)
            slope, traces = share.join(probes.rows(own_index)(field, own_y))
        return End(slope, traces.double().mean(1))

    @property
    def short(self) -> bool:
        """Whether the first time lies after the one at which the path, or the network's table, has
        its data."""
        path = self.model.path
        own = path.t_min if isinstance(_plain(path), OWN_END) else path.t_data
        return self.at.sigma > 0.0 and self.at.rho > (1 + 1e-9) * path.point(own).rho

    def before(self, y: Tensor, slope: Tensor, trace: Tensor, probes: Probes) -> Before:
        """The truncation before the first angle, at its state, with dy/du and its divergence (B,)
        there; see ``truncation``."""
        at = truncation.angles(self.start, self.stop)
        after = self.ask(at[1], y, probes)
        index = torch.arange(self.batch, device=y.device)
        times = [y.new_full((len(y),), u, dtype=torch.float64) for u in at[2:]]
        wider = [self.field(u, index)(y) for u in times]
        return truncation.estimate(at, y, [slope, after.slope, *wider], (trace, after.trace))


class VelocityFlow:
    """A velocity f(t, x, *args) that carries data at t[0] to a base density at t[1] (a continuous
    normalising flow)."""

    volume = 0.0
    base_std = 1.0

    def __init__(
        self,
        f: Callable[..., Tensor],
        times: Sequence[float],
        base: Any,
        args: Sequence[Any],
        like: Tensor,
    ):
        self.f = Callee(f)
        self.base = base
        self.args = tuple(args)
        self.batch = len(like)
        self.start, self.stop = (float(t) for t in times)
        if self.start == self.stop:
            raise OdesolveError(
                f"t=({self.start}, {self.stop}): give the time of the data and that of the base"
            )

    def first_step(self, tol: float) -> None:
        """Left to the solver: nothing is known about the velocity's clock."""

    def enter(self, x: Tensor) -> Tensor:
        return x

    def leave(self, y: Tensor) -> Tensor:
        return y

    def field(self, u: Tensor, index: Tensor) -> Field:
        args = self.args
        if len(index) != self.batch:
            args = tuple(
                a[index] if isinstance(a, Tensor) and a.dim() and len(a) == self.batch else a
                for a in self.args
            )

        def moved(y: Tensor) -> Tensor:
            try:
                out = answer(lambda y: self.f(column(u, y), y, args=args), y)
            except (RuntimeError, TypeError, ValueError) as e:
                if isinstance(e, OdesolveError) or not any(word in str(e) for word in ONE_NUMBER):
                    raise
                raise OdesolveError(
                    f"f takes t as one number, where {len(y)} samples have times of their own: "
                    "give "
                    f'control="batch", which hands one time for all ({e})'
                ) from e
            refuse_inside("what f returned", out, y)
            if not isinstance(out, Tensor) or out.shape != y.shape:
                given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise OdesolveError(
                    f"f returned {given} for a state {tuple(y.shape)}: return "
                    "dx/dt in the form of x"
                )
            return out

        return moved

    def log_base(self, y: Tensor) -> Tensor:
        if self.base is None:
            return normal_log_density(y, self.base_std)
        return log_density(self.base, y)


def column(c: Tensor, x: Tensor) -> Tensor:
    """One number per sample (n,) as a factor of x (n, ...)."""
    return c.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def normal_log_density(x: Tensor, std: float) -> Tensor:
    """log N(x; 0, std^2 I) of each sample, (B,) float64."""
    flat = x.double().flatten(1)
    return -0.5 * flat.square().sum(1) / std**2 - flat.shape[1] * math.log(
        std * math.sqrt(2 * math.pi)
    )


def log_density(base: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A user's log-density at x (B, ...), summed over a sample where it has one value per element;
    float64."""
    try:
        values = shielded(base, "the base's log-density", at=0)(x)
    except OdesolveError:
        raise
    except (RuntimeError, ValueError, TypeError) as e:
        raise OdesolveError(
            f"the base's log-density fails at the latents, {x.dtype} of shape {tuple(x.shape)}: "
            "give base= a density that takes "
            f"all of them ({e})"
        ) from e
    if not isinstance(values, Tensor) or len(values) != len(x) or values.is_complex():
        given = (
            f"{values.dtype} {tuple(values.shape)}"
            if isinstance(values, Tensor)
            else type(values).__name__
        )
        raise OdesolveError(
            f"the base's log-density is {given} for states {tuple(x.shape)}: return one real "
            "number per sample"
        )
    if values.dim() > 1:
        return values.double().flatten(1).sum(1)
    return values.double()


def _determined(model: Model, t: float, c: float) -> bool:
    if model.predicts == "edm":
        return _timed(model, t)
    weights = model.path.convert(t, model.predicts, "edm", c)
    return all(math.isfinite(float(w)) for w in weights)


def _plain(path: Path) -> Path:
    """The path without its flip."""
    return path.base if isinstance(path, Flipped) else path


def _data_end(model: Model, c: float) -> float:
    """The first time: the data's end where the path keeps noise there, or where it leaves the data
    smoothly and the network determines the flow; otherwise ``t_min``, below which few networks
    train."""
    path = model.path
    if float(path.sigma(path.t_data)) > 0.0:
        return path.t_data
    steady = (
        path.family == "flow" and _determined(model, path.t_data, c) and _timed(model, path.t_data)
    )
    return path.t_data if steady else path.t_min


def _timed(model: Model, t: float) -> bool:
    """Whether the network's time is finite."""
    return math.isfinite(float(model.network_times(torch.tensor(t, dtype=torch.float64))))


def _noise_end(model: Model, c: float) -> float:
    path = model.path
    if path.t_clip is None or (_determined(model, path.t_noise, c) and _timed(model, path.t_noise)):
        return path.t_noise
    return path.t_clip
