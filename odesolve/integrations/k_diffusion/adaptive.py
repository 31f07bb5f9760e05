"""DPM-Solver-12 and -23 with k-diffusion's step control: one step for the whole batch, chosen on
the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odesolve.doors.annotations import samples
from odesolve.doors.values import positive, real, whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, warn
from odesolve.functions.ownership import owned
from odesolve.functions.steadiness import Steady, budget, warn_of_training
from odesolve.functions.torch_func import unwatched
from odesolve.integrations.k_diffusion.driver import level, path_of, seed_among
from odesolve.integrations.k_diffusion.fast import ends
from odesolve.integrations.k_diffusion.noise import NoiseSampler, default_noise_sampler
from odesolve.kernels.dispatch import combined
from odesolve.model.model import Model
from odesolve.noise.keys import fresh_seed
from odesolve.ode.controller import SmoothRule, exponents
from odesolve.ode.exponential import NODES, rows_of
from odesolve.ode.single import Single, integrate_single
from odesolve.process.progress import Bar

METHODS = {2: "dpm_solver_12", 3: "dpm_solver_23"}
SCALES = ("rtol", "atol", "eta", "s_noise")
COEFFICIENTS = ("pcoeff", "icoeff", "dcoeff")
WITHIN = "the factor above which an attempt counts, from 0 to 1"
CLOSE = 1e-5  # of the end, in log sigma


class Scales(NamedTuple):
    """Tolerances of the error, and how much noise the solve adds on the way."""

    rtol: float
    atol: float
    eta: float
    s_noise: float


@fits
@unwatched
@torch.no_grad()
def sample_dpm_adaptive(
    model,
    x,
    sigma_min,
    sigma_max,
    extra_args=None,
    callback=None,
    disable=None,
    order=3,
    rtol=0.05,
    atol=0.0078,
    h_init=0.05,
    pcoeff=0.0,
    icoeff=1.0,
    dcoeff=0.0,
    accept_safety=0.81,
    eta=0.0,
    s_noise=1.0,
    noise_sampler=None,
    return_info=False,
    max_calls=10_000,
):
    """DPM-Solver-12 (``order`` 2) or -23 (3) from sigma_max to sigma_min with steps by tolerance
    (Lu et al. 2022a).

    The error of a step is the root mean square over the batch of (low - high) / max(atol, rtol
    max(|low|, |low before|)). The callback gets error, h, steps, nfe, n_accept and n_reject as
    well, after every attempt; ``return_info`` returns (x, info). ``ode.solve`` has the same methods
    with a step for every sample. k-diffusion has no ``max_calls``: where the next attempt would
    take more calls of the model, the solve ends with a warning, and info has "status": "max_calls".
    Raises OdesolveError for a model whose output changes when it is called again, as with dropout
    in train mode: no step would meet the tolerance."""
    order = whole("order", order, 2, 3)
    _check_start(x)
    scales = _scales(rtol, atol, eta, s_noise)
    rule = _rule(h_init, (pcoeff, icoeff, dcoeff), 1.5 if scales.eta else order, accept_safety)
    low, high = ends(sigma_min, sigma_max)
    if scales.eta and high < low:
        raise OdesolveError(
            f"eta={scales.eta}: noise is drawn on the way to the data; give eta=0, or sigma_min "
            "below sigma_max"
        )
    rule.h = math.copysign(rule.h, high - low)
    extra_args = dict(extra_args or {})
    draw = _draw(noise_sampler, x, seed_among(extra_args), scales.eta)
    warn_of_training(model, "the model", noise=False)
    steady = Steady(model, "the model")
    network = Model(steady, path_of((high, low), False), "data", dtype=x.dtype, cond=extra_args)
    clock = (-math.log(high), -math.log(low))
    with Bar(100.0, None if disable is None else not disable, "%") as tick:
        run = AdaptiveRun(network, x, order, scales, draw, clock, rule, callback, tick)
        run.solve(budget(max_calls))
    info = run.info
    info["nfe"] += steady.extra
    if "status" in info:
        warn(f"the solve ended at max_calls={max_calls} before sigma_min: raise it, or rtol")
    out = run.x.to(x.dtype)
    return (out, info) if return_info else out


def _check_start(x: Any) -> None:
    samples("x", x)
    if x.is_meta or not bool(x.isfinite().all()):
        raise OdesolveError("x holds NaN or infinity, or no numbers at all: give finite noise")


def _scales(*given: Any) -> Scales:
    """rtol, atol, eta and s_noise as numbers."""
    scales = Scales(*(level(name, value) for name, value in zip(SCALES, given, strict=True)))
    if scales.rtol == scales.atol == 0.0:
        raise OdesolveError(
            "rtol=0 and atol=0 leave a step no error at all: give one of them above 0, such as "
            "rtol=0.05"
        )
    return scales


def _rule(
    h_init: float,
    coefficients: tuple[float, float, float],
    order: float,
    accept_safety: float,
) -> SmoothRule:
    """How the next step follows from the errors of the last ones."""
    length = positive("h_init", h_init, "0.05")
    accept = real("accept_safety", accept_safety, WITHIN, 0.0, 1.0)
    p, i, d = (real(name, c) for name, c in zip(COEFFICIENTS, coefficients, strict=True))
    return SmoothRule(length, exponents(p, i, d, order), accept)


def _draw(
    noise_sampler: NoiseSampler | None,
    x: Tensor,
    seed: int | None,
    eta: float,
) -> NoiseSampler | None:
    """Where noise comes from, None where none is drawn."""
    if noise_sampler or not eta:
        return noise_sampler or None
    return default_noise_sampler(x, fresh_seed() if seed is None else seed)


class Try(NamedTuple):
    """What an attempt leaves: the time that it steps to, the noise from the end of its drift back
    up to there, the denoised state at its beginning, the candidates, and its error."""

    t: float
    up: float
    denoised: Tensor
    low: Tensor
    high: Tensor
    error: Tensor


@dataclass
class AdaptiveRun:
    """A solve in the clock t = -log sigma: the attempts of ``ode.single``, and what follows them.

    ``clock`` is the first and the last time. ``info`` has the counts, and how the solve ended where
    it did not arrive.
    """

    network: Model
    given: Tensor
    order: int
    scales: Scales
    draw: NoiseSampler | None
    clock: tuple[float, float]
    rule: SmoothRule
    callback: Callable[[dict[str, Any]], Any] | None
    tick: Callable[[float], None] | None

    def __post_init__(self):
        self.x = self.given.to(torch.promote_types(self.given.dtype, torch.float32))
        self.before = self.x
        self.s = self.clock[0]
        self.info: dict[str, Any] = {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0}

    def solve(self, max_calls: float) -> None:
        """Attempts until the end, or until the next one would make too many calls."""
        self.max_calls = max_calls
        integrate_single(self, self.rule)

    def attempt(self, single: Single) -> None:
        """A step of the rule's length, not beyond the end."""
        s = self.s
        end = self.clock[1]
        t = s + self.rule.h
        t = min(end, t) if end > s else max(end, t)
        down, up = self._lower(s, t, end)
        denoised, low, high = self._candidates(s, down - s)
        largest = torch.maximum(low.abs(), self.before.abs())
        scale = (self.scales.rtol * largest).clamp_min(self.scales.atol)
        error = torch.linalg.vector_norm((low - high) / scale) / self.x.numel() ** 0.5
        self.last = Try(t, up, denoised, low, high, error)
        single.error = float(error)

    def note(self, attempt: Try, took: bool) -> None:
        """Go on from an attempt that was accepted, count it, and tell the callback."""
        if took:
            self.before = attempt.low
            self.x = self._raised(attempt.high, attempt.up, self.s, attempt.t)
            self.s = attempt.t
        info = self.info
        info["n_accept" if took else "n_reject"] += 1
        info["nfe"] += self.order
        info["steps"] += 1
        if self.callback is not None:
            self.callback({**self._news(attempt), **info})
        if self.tick is not None:
            start, end = self.clock
            self.tick(100.0 * (self.s - start) / (end - start))

    def _news(self, attempt: Try) -> dict[str, Any]:
        """What k-diffusion's callback gets beside the counts."""
        sigma = torch.tensor(math.exp(-self.s))
        clock = torch.tensor(self.s)
        return {
            "x": self.x.to(self.given.dtype),
            "i": self.info["steps"] - 1,
            "denoised": attempt.denoised,
            "error": attempt.error,
            "sigma": sigma,
            "sigma_hat": sigma,
            "t": clock,
            "t_up": clock,
            "h": self.rule.h,
        }

    def look(self, method: Any, single: Single) -> None:
        """End at the end, or before the next attempt would make too many calls."""
        start, end = self.clock
        left = end - self.s if end > start else self.s - end
        single.ended = left <= CLOSE
        if not single.ended and self.info["nfe"] + self.order > self.max_calls:
            self.info["status"] = "max_calls"
            single.ended = True

    def _lower(self, s: float, t: float, end: float) -> tuple[float, float]:
        """The time to step to, and the noise from there back up to t."""
        eta = self.scales.eta
        if not eta:
            return t, 0.0
        share = min(1.0, eta * math.sqrt(-math.expm1(2.0 * (s - t))))
        down = min(end, t - 0.5 * math.log1p(-(share**2))) if share < 1.0 else end
        return down, math.exp(-t) * math.sqrt(-math.expm1(2.0 * (t - down)))

    def _raised(self, x: Tensor, up: float, s: float, t: float) -> Tensor:
        if not up or self.draw is None:
            return x
        sigma = torch.tensor(math.exp(-s))
        sigma_next = torch.tensor(math.exp(-t))
        noise = self.draw(sigma, sigma_next)
        return x + up * self.scales.s_noise * noise

    def _candidates(self, s: float, h: float) -> tuple[Tensor, Tensor, Tensor]:
        """The denoised state at s, and the candidates of the lower and the higher order after a
        step of length h."""
        nodes = NODES[METHODS[self.order]]
        times = torch.tensor([s + r * h for r in (*nodes, 1.0)], dtype=torch.float64)
        levels = torch.exp(-times)
        points = [(torch.ones(()), level) for level in levels]
        rows = rows_of(points, torch.tensor(h, dtype=torch.float64))
        weights = [torch.stack(row)[None] for row in rows]
        noises = []
        y = self.x
        first = None
        for k, sigma in enumerate(levels[:-1].tolist()):
            if k:
                (y,) = combined([self.x, *noises], weights[k - 1], (0,))
            denoised = self._denoised(y, sigma)
            first = denoised if first is None else first
            slope = torch.tensor([[1.0 / sigma, -1.0 / sigma]], dtype=torch.float64)
            noises += combined([y, denoised], slope, (-1,))
        ends = torch.cat(weights[-2:])
        low, high = combined([self.x, *noises], ends, (0, 0))
        assert first is not None
        return first, low, high

    def _denoised(self, x: Tensor, sigma: float) -> Tensor:
        x_in = x.to(self.given.dtype)
        times = torch.full((len(x),), sigma, dtype=x_in.dtype, device=x.device)
        (denoised,) = self.network.evaluate(x_in, x, times, ("cond",))
        return owned(denoised)
