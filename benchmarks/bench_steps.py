"""Time outside the network for a step of samplers, beside diffusers, k-diffusion and torchsde.

The network is a function that hands out the same tensor, so that all that is timed is what the
sampler does. Planning (ours) and set_timesteps (diffusers) are not in it.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torchsde
from timing import OURS, Case, Contender

import odesolve as ode
from odesolve import grids, paths

TESTS = ("tests/kernels", "tests/parity", "tests/run")
LARGE = (4, 16, 512, 512)
SHAPES = ((1, 4, 64, 64), (16, 3, 32, 32), LARGE)
warnings.filterwarnings("ignore", category=UserWarning, module="torchsde")
PATH = paths.Discrete.stable_diffusion()
# Name, our solver, the scheduler of diffusers that computes the same, k-diffusion's sampler.
SAMPLERS = {
    "Euler": ("ddim", ("EulerDiscreteScheduler", {}, {}), ("euler", {})),
    "DDIM(eta=1)": (
        "ddim(eta=1)",
        ("DDIMScheduler", {"clip_sample": False}, {"eta": 1.0}),
        ("euler_ancestral", {}),
    ),
    "DPM++ 2M": ("dpmpp_2m", ("DPMSolverMultistepScheduler", {}, {}), ("dpmpp_2m", {})),
    "UniPC-2": ("unipc_2(taper=True)", ("UniPCMultistepScheduler", {}, {}), None),
    "SDE-DPM++ 2M": (
        "dpmpp_2m_sde",
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}),
        None,
    ),
    # One Brownian path for all numbers of steps, as k-diffusion's sampler has by default.
    "SDE-DPM++ 2M, one path": ("dpmpp_2m_sde(tree)", None, ("dpmpp_2m_sde", {})),
}


def _rivals(name: str, shape: tuple[int, ...]) -> Iterator[str]:
    """Who is timed on a sampler at a size."""
    _, diffusers, k_diffusion = SAMPLERS[name]
    if diffusers:
        yield "diffusers"
    # For the large size a Brownian path of k-diffusion keeps more states than this memory holds.
    if k_diffusion and not (shape == LARGE and "one path" in name):
        yield "k-diffusion"
    if name == "DDIM(eta=1)":
        yield "torchsde euler"


ROWS = [
    (shape, name, contender)
    for shape, name in itertools.product(SHAPES, SAMPLERS)
    if (rivals := list(_rivals(name, shape)))
    for contender in (OURS, *rivals)
]


@pytest.mark.parametrize(("shape", "name", "contender"), ROWS)
def bench_step(in_turn, name, shape):
    """A step of every sampler at every size."""
    in_turn(_sampler, name, shape)


@pytest.mark.parametrize("contender", [OURS, "diffusers"])
@pytest.mark.parametrize("shape", SHAPES)
def bench_flow_matching_euler(in_turn, shape):
    """A step of flow matching."""
    in_turn(_flow, shape)


def _case(contenders: dict[str, Contender], shape: tuple[int, ...], steps: int) -> Case:
    return Case(contenders=contenders, per=steps, rounds=3 if shape == LARGE else None)


def _steps(shape: tuple[int, ...]) -> int:
    return 4 if shape == LARGE else 20


def _sampler(name: str, shape: tuple[int, ...]) -> Case:
    steps = _steps(shape)
    solver, scheduler, k_sampler = SAMPLERS[name]
    builders: dict[str, Callable[[], Contender]] = {
        "diffusers": lambda: _diffusers(*scheduler, shape, steps),
        "k-diffusion": lambda: _k_diffusion(*k_sampler, shape, steps),
        "torchsde euler": lambda: _torchsde(shape, steps),
    }
    rivals = {rival: builders[rival]() for rival in _rivals(name, shape)}
    ours = _ours(solver, PATH, "noise", shape, steps)
    return _case({OURS: ours, **rivals}, shape, steps)


def _flow(shape: tuple[int, ...]) -> Case:
    steps = _steps(shape)
    contenders: dict[str, Contender] = {
        OURS: _ours("euler", paths.Linear(), "velocity", shape, steps),
        "diffusers": _diffusers("FlowMatchEulerDiscreteScheduler", {}, {}, shape, steps),
    }
    return _case(contenders, shape, steps)


def _ours(solver: str, path: paths.Path, predicts: str, shape, steps: int) -> Callable:
    answer, x = torch.randn(shape), torch.randn(shape)
    model = ode.Model(lambda x, t: answer, path, predicts)
    sampler = ode.Sampler(
        model, solver, steps, grids.Uniform() if predicts == "velocity" else "karras"
    )
    return lambda: sampler(x, seed=0)


def _diffusers(
    name: str, config: dict, arguments: dict, shape, steps: int
) -> tuple[Callable, Callable]:
    import diffusers

    scheduler = getattr(diffusers, name)(**config)
    answer, x = torch.randn(shape), torch.randn(shape)

    def prepare():
        scheduler.set_timesteps(steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)

    @torch.no_grad()
    def run(_):
        state = x
        for t in scheduler.timesteps:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(state, t)
            state = scheduler.step(answer, t, state, return_dict=False, **arguments)[0]

    return prepare, run


def _k_diffusion(name: str, arguments: dict, shape, steps: int) -> Callable:
    from tests.parity.peers import k_diffusion

    sampling, _ = k_diffusion()
    answer, x = torch.randn(shape), torch.randn(shape) * 14.0
    sigmas, sampler = (
        sampling.get_sigmas_karras(steps, 0.03, 14.0),
        getattr(sampling, f"sample_{name}"),
    )
    return lambda: sampler(lambda x, sigma: answer, x, sigmas, disable=True, **arguments)


class _Constant:
    """An SDE whose drift and diffusion cost nothing."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, answer: torch.Tensor):
        self.answer = answer

    def f(self, t, y):
        return self.answer

    def g(self, t, y):
        return self.answer


def _torchsde(shape, steps: int) -> Callable:
    y = torch.randn(shape).flatten(1)
    sde, ts = _Constant(torch.randn(y.shape)), torch.tensor([0.0, 1.0])

    @torch.no_grad()
    def run():
        torchsde.sdeint(sde, y, ts, dt=1.0 / steps, method="euler")

    return run
