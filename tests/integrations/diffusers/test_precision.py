"""Half-precision pipelines: many small steps are not lost in the rounding of the latents.

Data are normal numbers, the network is exact up to the rounding of its output, and the end of the
flow is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import LONG

from .compare import STABLE_DIFFUSION, stock
from .networks import diffusers, normal
from .pipelines import PIPELINES

STD = 0.5  # of the data
COUNTS = (50, 100, 250, 500, 1000) if LONG else (50, 100, 500)
SHAPE = (1, 4, 16, 16)


class Exact(diffusers.ModelMixin, diffusers.ConfigMixin):
    """The noise in normal data of Stable Diffusion's path, in the place of its network."""

    @diffusers.configuration_utils.register_to_config
    def __init__(
        self, in_channels: int = 4, sample_size: int = 16, time_cond_proj_dim: int | None = None
    ):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, **_) -> tuple[Tensor]:
        alpha2 = TABLE[t.long()]
        sigma = (1 - alpha2).sqrt()
        return ((sigma / (alpha2 * STD**2 + sigma**2) * x.double()).to(x.dtype),)


TABLE = stock("DDIM", **STABLE_DIFFUSION).alphas_cumprod.double()


def distance(x: Tensor, start: Tensor, level: float, spread: float) -> float:
    """Relative distance from where the flow takes a start at this standard deviation of the
    path."""
    end = start.double() * level * STD / spread
    return float((x.double() - end).norm() / end.norm())


def error(scheduler, steps: int, dtype: torch.dtype) -> float:
    tiny, start = PIPELINES["sd"], normal(*SHAPE).to(dtype)
    pipe = tiny.build(scheduler, unet=Exact().to(dtype))
    embeddings = {k: v.to(dtype) for k, v in tiny.arguments(1).items()}
    x = tiny.run(pipe, steps, latents=start, height=16, width=16, guidance_scale=1.0, **embeddings)
    assert x.dtype == dtype
    rho = float(scheduler.sigmas[0])
    return distance(
        x, start, float(scheduler.init_noise_sigma), ((STD**2 + rho**2) / (1 + rho**2)) ** 0.5
    )


def stable_diffusion():
    return stock("DPMSolverMultistep", **STABLE_DIFFUSION)


@pytest.mark.parametrize("solver", ["dpmpp_2m", pytest.param("unipc_2", marks=pytest.mark.long)])
def test_errors_fall_in_half_precision_as_in_full(solver):
    config = stable_diffusion().config
    ours = lambda n, dtype: error(OdesolveScheduler.from_config(config, solver=solver), n, dtype)
    full, half = ([ours(n, dtype) for n in COUNTS] for dtype in (torch.float32, torch.bfloat16))
    assert half == sorted(half, reverse=True)
    assert all(h < 1.5 * f for h, f in zip(half, full, strict=True))


def test_where_diffusers_loses_the_picture():
    config = stable_diffusion().config
    assert error(stable_diffusion(), 500, torch.bfloat16) > 0.5
    assert (
        error(OdesolveScheduler.from_config(config, solver="dpmpp_2m"), 500, torch.bfloat16) < 0.005
    )


def flow_error(scheduler, steps: int, dtype: torch.dtype) -> float:
    scheduler.set_timesteps(steps)
    x = start = normal(*SHAPE).to(dtype)
    for t in scheduler.timesteps:
        s = float(t) / 1000
        said = (s - (1 - s) * STD**2) / (s**2 + (1 - s) ** 2 * STD**2) * x.double()
        x = scheduler.step(said.to(dtype), t, x, return_dict=False)[0]
    return distance(x, start, 1.0, 1.0)


def test_flows():
    theirs = lambda: stock("FlowMatchEulerDiscrete")
    ours = lambda: OdesolveScheduler.from_config(theirs().config, solver="euler")
    full, half = (
        [flow_error(ours(), n, dtype) for n in COUNTS] for dtype in (torch.float32, torch.bfloat16)
    )
    assert half == sorted(half, reverse=True)
    assert all(h < 1.5 * f for h, f in zip(half, full, strict=True))
    assert flow_error(theirs(), 1000, torch.bfloat16) > 0.9
