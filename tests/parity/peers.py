"""The peers' samplers made ready for comparison: loaded, lifted to float64 and called with an exact
network."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import odesolve as ode
from odesolve import grids, paths, problems
from odesolve.paths import Path

TOLERANCE = 1e-10
PREDICTS = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}
K_SPACE = (
    *(
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
    ),
    *(
        "EulerAncestralDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverSDEScheduler",
    ),
)

# Narrow enough that the flow map contracts: a difference between two samplers is theirs, not
# amplified by the problem.
PROBLEM = problems.mixture(
    [0.5, 0.3, 0.2],
    [[[0.8, -0.3], [0.1, 0.4]], [[-0.7, 0.5], [0.2, -0.6]], [[0.1, 0.9], [-0.8, 0.3]]],
    std=0.3,
)


def start(batch: int = 6) -> Tensor:
    """The same unit noise for every comparison, float64."""
    return torch.randn(
        batch, *PROBLEM.event, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest entry; infinite where either is not finite."""
    worst = float((a - b).abs().max() / b.abs().max())
    return worst if worst == worst else float("inf")


def ours(model: ode.Model, x: Tensor, solver, grid, **options) -> Tensor:
    """Our plan of a solver on these times, run on the model from the state x."""
    return ode.sample(model, state=x, plan=ode.plan(solver, model.path, grid=grid, **options))


@contextlib.contextmanager
def float64():
    """Make float64 the default dtype: peers build their grids and constants in the default one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Wide(torch.Tensor):
    """A tensor that keeps its dtype where a scheduler rounds the state to float32."""

    def to(self, *args, **kwargs):
        return self


@functools.cache
def k_diffusion():
    """(sampling, external) of k-diffusion, loaded around its __init__, which imports what no
    sampler needs."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip(
            "k-diffusion is not installed: pip install --no-deps -r peers.txt",
            allow_module_level=True,
        )
    sys.modules["k_diffusion"] = importlib.util.module_from_spec(spec)  # made, not executed
    stubs = {n: types.ModuleType(n) for n in ("torchvision", "torchvision.transforms")}
    stubs["torchvision.transforms"].functional = None
    sys.modules.update(stubs)
    try:
        return importlib.import_module("k_diffusion.sampling"), importlib.import_module(
            "k_diffusion.external"
        )
    finally:
        for name in stubs:
            sys.modules.pop(name)


@dataclass
class Scheduler:
    """A diffusers scheduler, ready for a loop.

    ``path`` is the path that its table describes, ``grid`` its noise levels as times on it, noise
    first, ``calls`` the times at which it evaluates the network; ``lifted`` keeps the state in
    float64."""

    peer: Any
    path: Path
    grid: grids.Listed
    calls: Tensor
    lifted: bool = True

    def run(self, net, x: Tensor, **arguments) -> Tensor:
        """The peer's own loop from the path's state x; schedulers that work on x / alpha get that
        instead."""
        alphas = [float(self.path.alpha(self.grid.values[i])) for i in (0, -1)]
        first, last = alphas if type(self.peer).__name__ in K_SPACE else (1.0, 1.0)
        x, kind = x / first, Wide if self.lifted else Tensor
        for call, t in zip(self.calls, self.peer.timesteps, strict=True):
            scaled = (
                self.peer.scale_model_input(x, t) if hasattr(self.peer, "scale_model_input") else x
            )
            x = self.peer.step(
                net(scaled, call), t, x.as_subclass(kind), return_dict=False, **arguments
            )[0]
            x = x.as_subclass(Tensor)
        return x * last


def scheduler(
    name: str, steps: int, given: dict | None = None, lift: bool = True, **config
) -> Scheduler:
    """A scheduler of diffusers after ``set_timesteps(steps, **given)``.

    Its noise levels are the float32 ones that it computes. With ``lift`` all that follows is
    float64, else it stays as shipped: coefficients in float32, and in some schedulers the state as
    well."""
    diffusers = pytest.importorskip(
        "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
    )
    peer = getattr(diffusers, name)(**config)
    if lift and hasattr(peer, "alphas_cumprod"):
        peer.alphas_cumprod = peer.alphas_cumprod.double()
    peer.set_timesteps(steps, **(given or {}))
    if name == "IPNDMScheduler":
        return _trigonometric(peer, config["trained_betas"])
    if name.startswith(("DDIM", "DDPM")):
        return _on_training_times(peer, inverse="Inverse" in name)
    # without it some look their place up by a time that occurs twice
    if hasattr(peer, "set_begin_index"):
        peer.set_begin_index(0)
    path = _path(name, peer, config)
    top = float(path.rho(path.t_noise)) if isinstance(path, paths.Discrete) else float("inf")
    sigmas = levels = peer.sigmas.double().clamp(max=top)
    ratio = (lambda s: s / (1 - s)) if isinstance(path, paths.Linear) else (lambda s: s)
    grid = grids.sigmas(path, ratio(torch.unique(sigmas).flip(0)))
    if hasattr(peer, "sigmas_interpol"):
        nodes = torch.unique_consecutive(sigmas)
        middle = (nodes[1:] * nodes[:-1]).sqrt()
        inner = torch.cat([nodes[:1], middle.repeat_interleave(2), middle[-1:]])
        levels = torch.where(torch.arange(len(sigmas)) % 2 == 1, inner, sigmas)
        peer.sigmas_interpol = inner if lift else peer.sigmas_interpol
    peer.sigmas = sigmas if lift else peer.sigmas
    return Scheduler(peer, path, grid, path.t_of_rho(ratio(levels[: len(peer.timesteps)])), lift)


def _path(name: str, peer, config: dict) -> Path:
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        return paths.Linear()
    return (
        paths.EDM(sigma_max=100.0)
        if name.startswith("EDM")
        else paths.Discrete(peer.alphas_cumprod)
    )


def _on_training_times(peer, inverse: bool) -> Scheduler:
    path = paths.Discrete(peer.alphas_cumprod)
    times = (peer.timesteps + 1).double() / path.training_steps
    if not inverse:
        return Scheduler(peer, path, grids.Listed(values=(*times.tolist(), 0.0)), times)
    peer.initial_alpha_cumprod = peer.alphas_cumprod[0]
    # the first step starts at t_min, and may go nowhere
    before = (times - 1 / len(times)).clamp(min=path.t_min)
    grid = torch.cat([before[:1], times]).unique().flip(0)
    return Scheduler(peer, path, grids.Listed(values=tuple(grid.tolist())), before)


def _trigonometric(peer, sigmas: list[float]) -> Scheduler:
    peer.betas = torch.tensor(sigmas, dtype=torch.float64)
    peer.alphas = torch.sqrt(1 - peer.betas**2)
    path = paths.Trig()
    grid = grids.sigmas(path, peer.betas / peer.alphas)
    return Scheduler(peer, path, grid, torch.tensor(grid.values[:-1], dtype=torch.float64))
