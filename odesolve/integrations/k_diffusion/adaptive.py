"""DPM-Solver-12 and -23 with k-diffusion's step control: one step for the whole batch, chosen on
the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
from odesolve.ode.exponential import NODES, rows_of
from odesolve.process.progress import Bar

METHODS = {2: "dpm_solver_12", 3: "dpm_solver_23"}
SCALES = ("rtol", "atol", "eta", "s_noise")
COEFFICIENTS = ("pcoeff", "icoeff", "dcoeff")
WITHIN = "the factor above which an attempt counts, from 0 to 1"
CLOSE = 1e-5  # of the end, in log sigma


@dataclass
class Control:
    """A PID controller with a smooth limit (Soderlind and Wang 2006). ``h`` is the next step."""

    h: float
    coefficients: tuple[float, float, float]
    order: float
    accept: float
    errors: list[float] = field(default_factory=list)

    def propose(self, error: float) -> bool:
        """Take the error of an attempt, set the next step, and say whether the attempt counts."""
        p, i, d = self.coefficients
        inverse = 1.0 / (error + 1e-8)
        _, one, two = self.errors or [inverse] * 3
        exponents = (p + i + d) / self.order, -(p + 2 * d) / self.order, d / self.order
        factor = inverse ** exponents[0] * one ** exponents[1] * two ** exponents[2]
        factor = 1.0 + math.atan(factor - 1.0)
        accepted = factor >= self.accept
        self.errors = [inverse, inverse, one] if accepted else [inverse, one, two]
        self.h *= factor
        return accepted


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
    A model that answers differently when asked again, as with dropout in train mode, is refused, as
    no tolerance is met then."""
    order = whole("order", order, 2, 3)
    samples("x", x)
    if x.is_meta or not bool(x.isfinite().all()):
        raise OdesolveError("x holds NaN or infinity, or no numbers at all: give finite noise")
    rtol, atol, eta, s_noise = (
        level(k, v) for k, v in zip(SCALES, (rtol, atol, eta, s_noise), strict=True)
    )
    if rtol == atol == 0.0:
        raise OdesolveError(
            "rtol=0 and atol=0 leave a step no error at all: give one of them above 0, such as "
            "rtol=0.05"
        )
    h_init = positive("h_init", h_init, "0.05")
    accept_safety = real("accept_safety", accept_safety, WITHIN, 0.0, 1.0)
    pcoeff, icoeff, dcoeff = (
        real(k, v) for k, v in zip(COEFFICIENTS, (pcoeff, icoeff, dcoeff), strict=True)
    )
    low, high = ends(sigma_min, sigma_max)
    if eta and high < low:
        raise OdesolveError(
            f"eta={eta}: noise is drawn on the way to the data; give eta=0, or sigma_min below "
            "sigma_max"
        )
    control = Control(
        math.copysign(h_init, high - low),
        (pcoeff, icoeff, dcoeff),
        1.5 if eta else order,
        accept_safety,
    )
    extra_args = dict(extra_args or {})
    seed = seed_among(extra_args)
    draw = noise_sampler or (
        default_noise_sampler(x, fresh_seed() if seed is None else seed) if eta else None
    )
    warn_of_training(model, "the model", noise=False)
    steady = Steady(model, "the model")
    network = Model(steady, path_of((high, low), False), "data", dtype=x.dtype, cond=extra_args)
    run = Run(network, x, order, rtol, atol, eta, s_noise, draw, budget(max_calls))
    with Bar(100.0, None if disable is None else not disable, "%") as tick:
        info = run.solve(-math.log(high), -math.log(low), control, callback, tick)
    info["nfe"] += steady.extra
    if "status" in info:
        warn(f"the solve ended at max_calls={max_calls} before sigma_min: raise it, or rtol")
    out = run.x.to(x.dtype)
    return (out, info) if return_info else out


@dataclass
class Run:
    """A solve in the clock t = -log sigma."""

    network: Model
    given: Tensor
    order: int
    rtol: float
    atol: float
    eta: float
    s_noise: float
    draw: NoiseSampler | None
    max_calls: float

    def __post_init__(self):
        self.x = self.given.to(torch.promote_types(self.given.dtype, torch.float32))
        self.before = self.x
        self.nodes = NODES[METHODS[self.order]]

    def solve(
        self,
        s: float,
        end: float,
        control: Control,
        callback: Callable[[dict[str, Any]], Any] | None,
        tick,
    ) -> dict[str, Any]:
        """Attempts until the end or the last call; returns their counts, and how it ended."""
        info = {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0}
        start = s
        forward = end > s
        while (end - s if forward else s - end) > CLOSE:
            if info["nfe"] + self.order > self.max_calls:
                return {**info, "status": "max_calls"}
            t = min(end, s + control.h) if forward else max(end, s + control.h)
            down, up = self._lower(s, t, end)
            denoised, x_low, x_high = self._attempt(s, down - s)
            scale = (self.rtol * torch.maximum(x_low.abs(), self.before.abs())).clamp_min(self.atol)
            error = torch.linalg.vector_norm((x_low - x_high) / scale) / self.x.numel() ** 0.5
            accepted = control.propose(float(error))
            if accepted:
                self.before, self.x = x_low, self._raised(x_high, up, s, t)
                s = t
            info["n_accept" if accepted else "n_reject"] += 1
            info["nfe"] += self.order
            info["steps"] += 1
            if callback is not None:
                sigma = torch.tensor(math.exp(-s))
                clock = torch.tensor(s)
                told = {
                    "x": self.x.to(self.given.dtype),
                    "i": info["steps"] - 1,
                    "denoised": denoised,
                    "error": error,
                }
                told |= {
                    "sigma": sigma,
                    "sigma_hat": sigma,
                    "t": clock,
                    "t_up": clock,
                    "h": control.h,
                }
                callback({**told, **info})
            if tick is not None:
                tick(100.0 * (s - start) / (end - start))
        return info

    def _lower(self, s: float, t: float, end: float) -> tuple[float, float]:
        """The time to step to, and the noise from there back up to t."""
        if not self.eta:
            return t, 0.0
        share = min(1.0, self.eta * math.sqrt(-math.expm1(2.0 * (s - t))))
        down = min(end, t - 0.5 * math.log1p(-(share**2))) if share < 1.0 else end
        return down, math.exp(-t) * math.sqrt(-math.expm1(2.0 * (t - down)))

    def _raised(self, x: Tensor, up: float, s: float, t: float) -> Tensor:
        if not up or self.draw is None:
            return x
        return x + up * self.s_noise * self.draw(
            torch.tensor(math.exp(-s)), torch.tensor(math.exp(-t))
        )

    def _attempt(self, s: float, h: float) -> tuple[Tensor, Tensor, Tensor]:
        """The denoised state at s, and the candidates of the lower and the higher order after a
        step of length h."""
        times = torch.tensor([s + r * h for r in (*self.nodes, 1.0)], dtype=torch.float64)
        levels = torch.exp(-times)
        rows = rows_of([(torch.ones(()), v) for v in levels], torch.tensor(h, dtype=torch.float64))
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
        low, high = combined([self.x, *noises], torch.cat(weights[-2:]), (0, 0))
        assert first is not None
        return first, low, high

    def _denoised(self, x: Tensor, sigma: float) -> Tensor:
        x_in = x.to(self.given.dtype)
        times = torch.full((len(x),), sigma, dtype=x_in.dtype, device=x.device)
        (denoised,) = self.network.evaluate(x_in, x, times, ("cond",))
        return owned(denoised)
