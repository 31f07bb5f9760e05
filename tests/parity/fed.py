"""Our noise, handed to the peers: the draws of a plan's streams, and the samplers run with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from odesolve.kernels import philox
from torch import Tensor

import odesolve as ode
from odesolve.noise import stream_numbers

from .peers import PROBLEM, Scheduler, Wide

SEED, BATCH = 9, 6


def draw(stream: int) -> Tensor:
    """The normals of one stream under this seed, float64."""
    keys = philox.keys(SEED, torch.arange(BATCH))
    return (
        philox.normals(keys, stream, math.prod(PROBLEM.event))
        .double()
        .reshape(BATCH, *PROBLEM.event)
    )


def streams(first: int = stream_numbers.STEPS) -> Iterator[Tensor]:
    """The noise of step 0, 1, 2, ... that a plan with this seed adds; from ``noise.CORRECTIONS``,
    that goes back up."""
    return map(draw, itertools.count(first))


def seeded(model, x, solver, grid, **options) -> Tensor:
    """Our plan of a solver on these times, run on the model from the state x."""
    return ode.sample(
        model, state=x, plan=ode.plan(solver, model.path, grid=grid, **options), seed=SEED
    )


def patched(monkeypatch, module: str, given: Iterator[Tensor]) -> None:
    """Make a scheduler's module of diffusers draw the tensors ``given``, one a call."""
    wide = lambda *_, **__: next(given).as_subclass(Wide)
    monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", wide)


def handed(peer: Scheduler) -> Scheduler:
    """A scheduler that takes its noise as an argument of the step, given ours."""
    step, given = peer.peer.step, streams()
    peer.peer.step = lambda *a, **k: step(*a, variance_noise=next(given).as_subclass(Wide), **k)
    return peer


def interleaved(v: Tensor) -> Tensor:
    """Values of the steps as schedulers of two stages keep them."""
    return torch.cat([v[:1], v[1:].repeat_interleave(2), v[-1:]])


def kdpm2_ancestral(peer: Scheduler) -> Scheduler:
    """KDPM2AncestralDiscreteScheduler with its levels down, up and between, which it rounds to
    float32, in float64."""
    levels = torch.unique(peer.peer.sigmas).flip(0)
    after = torch.cat([levels[1:], levels[-1:]])
    up = (after**2 * (levels**2 - after**2) / levels**2).sqrt().nan_to_num()
    down = (after**2 - up**2).sqrt()
    middle = (levels * down).sqrt()
    peer.peer.sigmas_up, peer.peer.sigmas_down = interleaved(up), interleaved(down)
    peer.peer.sigmas_interpol = interleaved(middle)
    peer.calls = peer.path.t_of_rho(torch.stack([levels, middle], 1).flatten()[: len(peer.calls)])
    return peer


def dpm_solver_sde(peer: Scheduler) -> Scheduler:
    """DPMSolverSDEScheduler that takes the noise of our streams as that of one path."""
    levels = torch.unique(peer.peer.sigmas).flip(0)
    inner = torch.stack([levels[:-2], (levels[:-2] * levels[1:-1]).sqrt()], 1).flatten()
    peer.calls, peer.peer.noise_sampler = (
        peer.path.t_of_rho(torch.cat([inner, levels[-2:-1]])),
        OnePath(),
    )
    return peer


class OnePath:
    """Noise of one path as k-diffusion asks for it: of the first part of a step, then of the whole
    step."""

    def __init__(self):
        self.given, self.part = streams(), None

    def __call__(self, high, low):
        if self.part is None:
            self.part = (low, next(self.given))
            return self.part[1]
        middle, first = self.part
        self.part = None
        share = (middle**-2 - high**-2) / (low**-2 - high**-2)
        return share.sqrt() * first + (1 - share).sqrt() * next(self.given)
