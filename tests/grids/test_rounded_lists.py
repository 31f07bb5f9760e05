"""Lists that leave a path by rounding: a path's own table in float32 or half precision, and tables
as they are published."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import grids, paths
from odesolve.errors import OdesolveError
from odesolve.integrations import k_diffusion
from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import diagonal
from tests.rows import rows

# Align Your Steps (Sabour et al. 2024), tables of Stable Diffusion 1.5, XL and Stable Video
# Diffusion.
SD = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
SDXL = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
SVD = [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]
BETAS = torch.linspace(1e-4, 0.02, 1000)  # in float32
PATHS = [
    paths.Discrete.ddpm(),
    paths.Discrete.stable_diffusion(),
    paths.Discrete.from_betas(BETAS),
    paths.Discrete((1 - BETAS).cumprod(0)),
    paths.VP(),
    paths.SubVP(),
    paths.Cosine(),
    paths.VE(),
    paths.EDM(),
    paths.EDM(sigma_max=14.6146),
    paths.Linear(),
    paths.Linear(sigma_min=0.01),
    paths.Trig(),
]
KINDS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    np.float64,
    np.float32,
    np.float16,
    list,
]
ROUND = {torch.float16: 1e-3, np.float16: 1e-3, torch.bfloat16: 8e-3}
BOTH_WAYS = [p for q in PATHS for p in (q, q.flipped())]


def written(values, kind):
    """Numbers in a dtype of torch or numpy, or in a list of Python's, made of float32 there."""
    if kind is list:
        return torch.as_tensor(values, dtype=torch.float32).tolist()
    return (
        torch.as_tensor(values, dtype=kind)
        if isinstance(kind, torch.dtype)
        else np.array(values, dtype=kind)
    )


def model_on(path):
    return ode.Model(
        lambda x, t: torch.tanh(x) / (1 + 0.1 * t.view(-1, 1)), path, "data", time="t", snap=False
    )


@rows(("path", "kind", "end"), diagonal(BOTH_WAYS, KINDS, [[], [0.0]], times=4))
def test_a_path_s_own_levels(path, kind, end):
    """The list of 13 times of the path, from its noise end; where it can reach it, also to its data
    end."""
    far = path.t_max * torch.tensor([0.05, 0.3, 0.8, 1.0], dtype=torch.float64)
    times = far.flip(0) if path.t_noise > path.t_data else path.t_max - far.flip(0)
    if math.isfinite(float(path.lam(path.t_data))):
        times = torch.cat([times, torch.tensor([path.t_data], dtype=torch.float64)])
    given = written([*path.rho(times).tolist(), *end], kind)
    made = grids.make(grids.sigmas(path, given), path, None)
    want = times.tolist() if not end or times[-1] == path.t_data else [*times.tolist(), path.t_data]
    close = max(1e-4, ROUND.get(kind, 0.0))
    assert len(made) == len(want)
    assert made == pytest.approx(want, abs=close * path.t_max)
    assert path.lam(torch.tensor(made[1:4])).tolist() == pytest.approx(
        path.lam(times[1:4]).tolist(), abs=close
    )


@rows(("path", "kind"), diagonal(BOTH_WAYS, KINDS, times=2))
def test_a_path_s_own_times(path, kind):
    times = [path.t_noise, 0.5 * path.t_max, path.t_data]
    for list_of in (times, times[::-1]):
        made = grids.make(grids.named(written(list_of, kind)), path, None)
        assert made == pytest.approx(list_of, abs=max(1e-6, ROUND.get(kind, 0.0)) * path.t_max)
        assert {made[0], made[-1]} == {path.t_noise, path.t_data} or path.t_max == 14.6146


@pytest.mark.parametrize("path", PATHS[:4], ids=lambda p: p.digest)
@pytest.mark.parametrize("end", [[], [0.0]], ids=["bare", "zero"])
def test_the_whole_table_in_float32(path, end):
    """All 1000 levels, made in float32 from betas in float32 as codes do it."""
    betas = (
        torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        if path.label == "stable_diffusion"
        else BETAS
    )
    bar = (1 - betas).cumprod(0)
    levels = torch.cat([((1 - bar) / bar).sqrt().flip(0), torch.tensor(end)])
    made = ode.plan("euler", path, grid=grids.sigmas(path, levels), snap=True)
    assert made.grid == tuple((1000 - k) / 1000 for k in range(len(levels)))


@pytest.mark.parametrize(
    ("path", "levels"),
    [
        (paths.Discrete.stable_diffusion(), SD),
        (paths.Discrete.stable_diffusion(), SDXL),
        (paths.EDM(700.0), SVD),
    ],
)
@pytest.mark.parametrize("end", [[], [0.0]], ids=["bare", "zero"])
def test_published_tables(path, levels, end):
    made = grids.make(grids.sigmas(path, [*levels, *end]), path, None, snap=True)
    assert made[0] == path.t_noise
    assert path.rho(torch.tensor(made[1:9])).tolist() == pytest.approx(levels[1:9], rel=0.01)
    assert len(made) == len(levels) + len(end)


@pytest.mark.parametrize("flip", [False, True])
def test_every_entry_point_gives_what_the_exact_list_gives(flip):
    """14.615 for the 14.6146 of the path is 2.5e-5 in log-SNR, and the results differ by less than
    that explains."""
    path = (
        paths.Discrete.stable_diffusion().flipped() if flip else paths.Discrete.stable_diffusion()
    )
    model, top = model_on(path), float(path.rho(path.t_noise))
    rounded, exact = (
        grids.sigmas(path, torch.tensor([first, *SD[1:], 0.0]).double()) for first in (SD[0], top)
    )
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def last(grid):
        for step in ode.iterate(model, noise, "euler", grid=grid):
            x = step.x
        return x

    calls = [
        lambda g: ode.sample(model, noise, "dpmpp_2m", grid=g),
        lambda g: ode.sample(model, noise, grid=g),
        lambda g: ode.sample(model, noise, "heun", grid=list(g.values)),
        lambda g: ode.invert(model, noise, "ddim", grid=g),
        last,
    ]
    for call in calls:
        torch.testing.assert_close(call(rounded), call(exact), rtol=1e-4, atol=1e-4)
    assert ode.plan("dpmpp_2m", path, grid=rounded).diff(ode.plan("dpmpp_2m", path, grid=exact))


@pytest.mark.parametrize(
    ("path", "levels", "told"),
    [
        (
            paths.Discrete.stable_diffusion(),
            [14.7, 1.0, 0.0],
            r"sigma=14\.7 is not in \[0, "
            r"14\.6146\]",
        ),
        (
            paths.Discrete.stable_diffusion(),
            [14.6163, 1.0],
            r"sigma=14\.6163 is not in \[0, "
            r"14\.6146\]",
        ),
        (paths.EDM(14.6146), [14.6161], r"sigma=14\.6161 is not in \[0, 14\.6146\]"),
        (paths.VE(), [50.0, 0.0099], r"sigma=0\.0099 is not in \[0\.01, 50\]"),
        (paths.VE(), [math.inf, 1.0], r"sigma=inf is not in"),
        (paths.VP(), [1.0, -0.5], r"sigma=-0\.5 is not in"),
        (paths.VP(), [math.nan, 0.5], r"sigma=nan is not in"),
        (paths.VE(1.0, 1e7), [1e7 * 1.0002, 2.0], r"sigma=1\.0002e\+07 is not in \[1, 1e\+07\]"),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_levels_beyond_are_refused_with_the_digits_that_tell_them(path, levels, told, flip):
    path = path.flipped() if flip else path
    with pytest.raises(OdesolveError, match=told):
        grids.sigmas(path, levels)


@pytest.mark.parametrize(
    ("path", "times", "told"),
    [
        (paths.Linear(), [1.000004, 0.5], r"t=1\.000004 is not in \[0, 1\]"),
        (paths.VP(), [1.00002, 0.5], r"t=1\.00002 is not in \[0, 1\]"),
        (paths.EDM(), [80.01, 0.5], r"t=80\.01 is not in \[0, 80\]"),
        (paths.VP(), [0.5, -2e-6], r"t=-2e-06 is not in \[0, 1\]"),
        (paths.EDM(100000.0), [100011.0, 1.0], r"t=100011 is not in \[0, 100000\]"),
        (paths.VP(), [1.0, 0.3, 0.30000001], r"t=0\.3, 0\.30000001"),
    ],
)
def test_times_beyond_are_refused_with_the_digits_that_tell_them(path, times, told):
    with pytest.raises(OdesolveError, match=told):
        ode.plan("euler", path, grid=times)


def test_rules_begin_at_a_rounded_end():
    top = float(torch.tensor(14.6146))  # beyond by 1.8e-7
    path = paths.EDM(14.6146)
    assert top > path.t_max
    for label in ("karras", "lambda", "uniform", "asinh", "shift", "quadratic"):
        assert ode.plan("euler", path, 5, f"{label}(start={top})").grid[0] == path.t_max
    assert ode.sdedit(
        model_on(path), torch.zeros(2, 3), top, "euler", 3, "karras", seed=0
    ).shape == (2, 3)


def test_a_list_that_rises_again_is_refused_on_training_times_too():
    """Rounding times to training times keeps neighbours apart; that must not make a wrong list a
    right one."""
    for values in ([1.0, 0.5, 0.7, 0.0], [1.0, 0.5, 0.5, 0.0]):
        with pytest.raises(OdesolveError, match=r"not strictly monotone at t=0\.5, 0\."):
            ode.sample(
                ode.Model(lambda x, t: x, paths.Discrete.ddpm(), "noise"),
                (2, 2),
                "ddim",
                grid=values,
            )


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_diffusers_scheduler_takes_published_levels_and_refuses_others(solver):
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
    }
    made = OdesolveScheduler.from_config(
        diffusers.EulerDiscreteScheduler(**config).config, solver=solver
    )
    for levels in (SD, [*SD, 0.0], np.array(SD, dtype=np.float32), torch.tensor(SD).half()):
        made.set_timesteps(sigmas=levels)
        assert made.timesteps[:3].tolist() == [999, 850, 736]
    for levels in ([100.0, 10.0, 1.0], [14.7, 1.0]):
        with pytest.raises(OdesolveError, match=f"sigma={levels[0]:g} is not in"):
            made.set_timesteps(sigmas=levels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_k_diffusion_functions_take_any_levels(dtype):
    x, levels = torch.ones(2, 3, dtype=dtype), torch.tensor([*SD, 0.0], dtype=dtype)
    out = k_diffusion.sampling.sample_dpmpp_2m(
        lambda x, s, **_: torch.tanh(x), x * 14.6, levels, disable=True
    )
    want = k_diffusion.sampling.sample_dpmpp_2m(
        lambda x, s, **_: torch.tanh(x),
        x.double() * 14.6,
        torch.tensor([*SD, 0.0]).double(),
        disable=True,
    )
    torch.testing.assert_close(out.double(), want, rtol=2e-3, atol=2e-3)


def test_training_times_in_float32():
    """An objective takes the noise end of a path in float32, and says how far others lie
    outside."""
    model = ode.Model(lambda x, t: x, paths.EDM(14.6146), "data", time="t")
    x = torch.zeros(2, 3)
    ode.objectives.Matching(model)(x, t=torch.full((2,), 14.6146))
    with pytest.raises(OdesolveError, match=r"to 14\.6147: the path goes from 0\.0 to 14\.6146"):
        ode.objectives.Matching(model)(x, t=torch.full((2,), 14.6147, dtype=torch.float64))
