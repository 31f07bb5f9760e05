"""Bridges between two sets of samples: flows, drifts and scores of x_t = alpha x + sigma y + gamma
z with noise z in between.

Times are the path's: on ``paths.Linear()`` the data x lie at t = 0 and the source y at t = 1, and
solves run from 1 down to 0; on ``paths.Linear().flipped()`` they run from the source at 0 to the
data at 1, as the papers write it. Velocities and drifts are derivatives by the path's time:
``ode.sample(model, state=source)`` goes to the data by the velocity and any deterministic solver.
Stochastic ones would read a score off the velocity as if the source were the noise: solve ``sde``
instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import meant, number, takes
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import fits_call
from odesolve.errors import OdesolveError, unknown
from odesolve.model.model import Model
from odesolve.objectives import couplings
from odesolve.objectives import times as laws
from odesolve.objectives.conditions import coupled
from odesolve.objectives.draws import (
    can_look,
    check_data,
    check_noise,
    checked_times,
    column,
    mask_for,
    mean_square,
)
from odesolve.objectives.matching import Coupling, Terms
from odesolve.objectives.weights import function
from odesolve.paths import Flipped, Linear, Path

ENDS = ("data", "source")
MARGIN = 1e-3  # of the times at both ends, where the slope of the noise is infinite


@meant(value=takes("u"), slope=takes("u"))
@dataclass(frozen=True)
class Gamma:
    """Deviation of the noise at shares u of the way from data (0) to source (1), and its slope;
    ``steep``: infinite at ends."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    steep: bool = False


@meant(scale=number(0.0))
def constant(scale: float) -> Gamma:
    """The same everywhere, also at the ends."""
    return Gamma(lambda u: torch.full_like(u, scale), torch.zeros_like)


@meant(scale=number(0.0))
def brownian(scale: float) -> Gamma:
    """scale sqrt(u (1 - u)): a Brownian bridge of that diffusion."""
    return Gamma(
        lambda u: scale * torch.sqrt(u * (1 - u)),
        lambda u: scale * (0.5 - u) / torch.sqrt(u * (1 - u)),
        steep=True,
    )


@meant(scale=number(0.0))
def sine_squared(scale: float) -> Gamma:
    """scale sin(pi u)^2."""
    return Gamma(
        lambda u: scale * torch.sin(math.pi * u) ** 2,
        lambda u: scale * math.pi * torch.sin(2 * math.pi * u),
    )


@brief
@dataclass(frozen=True)
class BridgeTerms(Terms):
    """A loss with its two parts a sample, (B,): that of velocity or drift, and that of the score
    (None without one)."""

    flow: Tensor = field(repr=False)
    score: Tensor | None = field(repr=False)


class Interpolant:
    """Stochastic interpolants (Albergo, Boffi and Vanden-Eijnden 2023): velocity b = E[dI/dt +
    dgamma/dt z | x_t] and E[z | x_t].

    The loss is the squared error in the network's own prediction, plus that of the denoiser. Its
    gradient is that of twice the paper's b^2 / 2 - b (dI/dt + dgamma/dt z), which leaves out a
    constant.

    Args:
        model: of the velocity, on ``paths.Linear()``, ``paths.Trig()`` or one of them flipped;
            predicts "velocity", or "data": what is read as such by x - t v on the linear path.
        gamma: the noise in between: ``constant``, ``brownian``, ``sine_squared`` of a scale, or a
            ``Gamma``.
        denoiser: a second model on the same path: predicts "noise", here z, or "score", that of
            x_t, with the weight gamma^2. Its other predictions would be read as if the source were
            z.
        times: a law of ``objectives.times``; by default uniform, 1e-3 away from the ends where
            gamma is steep.
        coupling: which source goes with which data, within labels, see ``conditioned.coupled``; by
            default as they come.
        weight: of the velocity's squared error, (path, t) -> (B,).
        antithetic: the mean over z and -z, which keeps the variance of gradients bounded where
            gamma is steep.

    Raises OdesolveError for guided models, other paths and predictions.
    """

    predicts: tuple[str, ...] = ("velocity", "data")

    @door("Interpolant")
    def __init__(
        self,
        model: Model,
        gamma: Gamma,
        denoiser: Model | None = None,
        *,
        times: laws.Law | laws.Importance | str | None = None,
        coupling: Coupling | str | None = None,
        weight: Callable[[Path, Tensor], Tensor] | None = None,
        antithetic: bool = False,
    ):
        _check_model(model, self.predicts)
        if denoiser is not None:
            _check_model(denoiser, ("noise", "score"))
            if denoiser.path != model.path:
                raise OdesolveError(
                    f"the second model is on {denoiser.path}, the first on "
                    f"{model.path}: give one path"
                )
        margin = MARGIN if gamma.steep else 0.0
        self.model = model
        self.gamma = gamma
        self.denoiser = denoiser
        self.times = laws.named(times, laws.Uniform(margin, 1 - margin))
        self.coupling = couplings.named(coupling)
        self.antithetic = antithetic
        self.weight = function(weight, "(path, t) -> (B,)")

    @fits_call
    def __call__(
        self,
        x: Tensor,
        source: Tensor,
        *,
        noise: Tensor | None = None,
        t: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> BridgeTerms:
        """The loss between data x (B, ...) and samples of the source (B, ...), float32 or float64.

        Args:
            noise: z (B, ...), standard normal, instead of a random one.
            t: times (B,) of the path instead of random ones.
            cond: conditions of the data, as the networks take them.
            generator: of coupling, times and noise; by default torch's own.
            mask: which numbers of the data count: booleans, or weights of at least 0, a tensor that
                broadcasts to x. The loss of a sample is their weighted mean.

        Raises OdesolveError for shapes that do not go together and times outside the path, or at
        its ends where gamma is steep."""
        counts = mask_for(mask, x)
        y, t, z = self._draw(x, source, noise, t, cond, generator)
        path = self.model.path
        u, rate = _share(path, t)
        mean = column(path.alpha(t), x) * x + column(path.sigma(t), x) * y
        straight = column(path.dalpha(t), x) * x + column(path.dsigma(t), x) * y
        gamma = column(self.gamma.value(u), x)
        slope = column(self._slope(u) * rate, x)
        signed = (z, -z) if self.antithetic else (z,)
        states = [mean + gamma * w for w in signed]
        flows = [
            self._flow(x_t, straight + slope * w, t, cond, counts)
            for x_t, w in zip(states, signed, strict=True)
        ]
        flow = torch.stack(flows).mean(0)
        if self.denoiser is None:
            return BridgeTerms(flow.mean(), flow, t, flow, None)
        scores = [
            _score_error(self.denoiser, x_t, w, gamma, t, cond, counts)
            for x_t, w in zip(states, signed, strict=True)
        ]
        score = torch.stack(scores).mean(0)
        return BridgeTerms((flow + score).mean(), flow + score, t, flow, score)

    def _slope(self, u: Tensor) -> Tensor:
        """Factor of z in what is regressed on, by u."""
        return self.gamma.slope(u)

    def _flow(
        self,
        x_t: Tensor,
        target: Tensor,
        t: Tensor,
        cond: Mapping[str, Any] | None,
        counts,
    ) -> Tensor:
        path = self.model.path
        predicts = self.model.predicts
        if predicts != "velocity":
            kx, kv = path.convert(t, "velocity", predicts)
            target = column(kx, x_t) * x_t + column(kv, x_t) * target
        each = mean_square(_prediction(self.model, x_t, t, cond) - target, counts)
        if self.weight is None:
            return each
        return each * self.weight(path, t).to(each.dtype)

    def _draw(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor | None,
        t: Tensor | None,
        cond,
        generator,
    ):
        check_data(x)
        check_data(y)
        if self.coupling is not None:
            y = coupled(self.coupling, x, y, {**self.model.cond, **(cond or {})}, generator)
        t = checked_times(
            laws.draw_times(self.times, len(x), self.model.path, generator) if t is None else t,
            x,
            self.model,
        )
        if z is None:
            device = x.device if generator is None else generator.device
            z = torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
        check_noise(z)
        if y.shape != x.shape or z.shape != x.shape:
            given = f"source {tuple(y.shape)} and noise {tuple(z.shape)} for data {tuple(x.shape)}"
            raise OdesolveError(f"{given}: give one of each for each sample")
        ends = torch.isin(t, t.new_tensor([self.model.path.t_data, self.model.path.t_noise]))
        if self.gamma.steep and can_look(t) and bool(ends.any()):
            raise OdesolveError(
                "the noise has an infinite slope at both ends: give times between them"
            )
        return y, t, z


class TwoSided(Interpolant):
    """Conditional flow matching with a bandwidth (Tong et al. 2024, TMLR, eqs 14, 15): x_t = alpha
    x + sigma y + bandwidth z.

    The velocity is that without the noise, y - x on the linear path; marginals at both ends are
    blurred by N(0, bandwidth^2)."""

    @door("TwoSided", bandwidth=number(0.0))
    def __init__(self, model: Model, bandwidth: float, **options: Any):
        super().__init__(model, constant(bandwidth), **options)


class ScoreAndFlow(Interpolant):
    """[SF]2M (Tong et al. 2024, AISTATS): velocity and score of a mixture of Brownian bridges of
    diffusion sigma.

    The score's loss is |sigma sqrt(u (1 - u)) score + z|^2: that of the paper, whose network is
    sigma^2 / 2 times the score and has the weight lambda = 2 sqrt(u (1 - u)) / sigma inside.
    ``coupling=Sinkhorn(2 * sigma**2)`` makes a Schroedinger bridge.

    Args:
        model: of the velocity, on ``paths.Linear()`` or its flip.
        score: a model on the same path that predicts "score", or "noise" (z).
        sigma: diffusion of the bridges, above 0; options as for ``Interpolant``.
    """

    @door("ScoreAndFlow", sigma=number())
    def __init__(self, model: Model, score: Model, sigma: float, **options: Any):
        _check_bridge(model, sigma)
        super().__init__(model, brownian(sigma), score, **options)


class BridgeMatching(Interpolant):
    """Drift of the mixture of Brownian bridges of diffusion sigma, towards one end (Peluchetti
    2022, Shi et al. 2023).

    By the linear path's time it is (x_t - E[x | x_t]) / t towards the data, (E[y | x_t] - x_t) / (1
    - t) towards the source: the model's velocity is the drift, and its data or its noise prediction
      is the mean of that end.

    Args:
        model: on ``paths.Linear()`` or its flip; predicts "velocity" (the drift), or that end,
            "data" or "noise": bounded, but of less weight near it than drifts, so that narrow laws
            come out too narrow unless ``weight`` makes up for it.
        sigma: diffusion of the bridges, above 0.
        towards: "data" or "source".
        options: as for ``Interpolant``, without a denoiser.
    """

    @door("BridgeMatching", sigma=number())
    def __init__(self, model: Model, sigma: float, towards: str = "data", **options: Any):
        if options.get("denoiser") is not None:
            raise OdesolveError("a drift needs no denoiser: give ScoreAndFlow two models instead")
        check_end(towards)
        self.sigma = sigma
        self.towards = towards
        _check_bridge(model, sigma)
        self.predicts = ("velocity", "data" if towards == "data" else "noise")
        super().__init__(model, brownian(sigma), **options)

    def _slope(self, u: Tensor) -> Tensor:
        return self.sigma * (
            torch.sqrt((1 - u) / u) if self.towards == "data" else -torch.sqrt(u / (1 - u))
        )


@meant(sigma=takes("t", instead=(int, float, Tensor)))
def sde(
    model: Model,
    sigma: float | Callable[[Tensor], Tensor],
    denoiser: Model | None = None,
    gamma: Gamma | None = None,
    towards: str = "data",
) -> tuple[Callable[[Tensor, Tensor], Tensor], float | Callable[[Tensor], Tensor]]:
    """(f, g) for ``ode.solve_sde(f, g, source, t=(1, 0), noise="additive")``, or t=(0, 1) on a
    flipped path.

    Args:
        model: without a denoiser a drift towards that end (``BridgeMatching``), with one a
            velocity.
        sigma: the diffusion: of a drift that of its bridges, of velocity and score any, also a
            function of the time.
        denoiser: the model of score or noise, whose score turns the velocity into a drift
            (``Interpolant``, ``ScoreAndFlow``).
        gamma: of a denoiser that predicts "noise": score = -z / gamma, infinite where gamma is 0,
            so start inside.
        towards: "data", or "source" for the other direction of time.

    Raises OdesolveError for a noise prediction without gamma.
    """
    check_end(towards)
    path = model.path
    forward = (path.t_noise > path.t_data) == (towards == "source")
    if denoiser is None:
        return (lambda t, x: model.velocity(x, t.reshape(-1))), sigma
    if denoiser.predicts not in ("noise", "score") or (
        denoiser.predicts == "noise" and gamma is None
    ):
        raise OdesolveError(
            f"a denoiser that predicts {denoiser.predicts!r}: give a score, or noise and gamma="
        )

    def f(t: Tensor, x: Tensor) -> Tensor:
        half = 0.5 * (sigma(t) if callable(sigma) else sigma) ** 2
        if gamma is not None and denoiser.predicts == "noise":
            half = -half / column(gamma.value(_share(path, t.reshape(-1).double())[0]), x)
        prediction = denoiser.predict(x, denoiser.at(t.reshape(-1), denoiser.predicts, x))
        return model.velocity(x, t.reshape(-1)) + (half if forward else -half) * prediction

    return f, sigma


def _share(path: Path, t: Tensor) -> tuple[Tensor, float]:
    """The share of the way from data to source at times of the path, and its derivative."""
    rate = 1 / (path.t_noise - path.t_data)
    return (t - path.t_data) * rate, rate


def _prediction(model: Model, x: Tensor, t: Tensor, cond: Mapping[str, Any] | None) -> Tensor:
    own = model if not cond else model.given(**cond)
    return own.predict(x, own.at(t, own.predicts, x))


def _score_error(
    model: Model,
    x_t: Tensor,
    z: Tensor,
    gamma: Tensor,
    t: Tensor,
    cond,
    counts,
) -> Tensor:
    prediction = _prediction(model, x_t, t, cond)
    if model.predicts == "noise":
        return mean_square(prediction - z, counts)
    return mean_square(gamma * prediction + z, counts)


def check_end(towards: str) -> None:
    if towards not in ENDS:
        raise unknown("towards", towards, ENDS)


def _check_model(model: Model, predicts: tuple[str, ...]) -> None:
    if model.reading.guidance is not None or model.reading.classifier or model.reading.applies:
        raise OdesolveError("the model is guided, or does something to x0: train the plain one")
    if model.predicts not in predicts:
        raise OdesolveError(
            f"the model predicts {model.predicts!r}: give one that predicts {' or '.join(predicts)}"
        )
    if model.path.family != "flow" or float(model.path.sigma(model.path.t_data)) != 0:
        raise OdesolveError(
            f"the path is {model.path}: give one from samples to samples, such as paths.Linear()"
        )


def _check_bridge(model: Model, sigma: float) -> None:
    base = model.path.base if isinstance(model.path, Flipped) else model.path
    if base != Linear():
        raise OdesolveError(
            f"the path is {model.path}: Brownian bridges lie on paths.Linear() or its flip"
        )
    if not sigma > 0:
        raise OdesolveError(
            f"sigma={sigma}: give a diffusion above 0, or match velocities by Interpolant"
        )
