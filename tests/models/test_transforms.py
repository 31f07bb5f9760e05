"""Clipping and dynamic thresholding of the data prediction, between the network and the step."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.model.transforms import CFGRescale, Clip, Threshold
from tests.rows import rows

DTYPE = torch.float64
MIXTURE = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.2]], std=(0.3, 0.5))


def noise(n=6, seed=0):
    return torch.randn(n, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


def test_clip():
    x = torch.linspace(-3, 3, 12).reshape(2, 6)
    assert torch.equal(Clip(1.5)(x, 0.5), x.clamp(-1.5, 1.5))


@rows("floor", [0.5, 1.0, 2.0])
@rows("shape", [(5, 40), (5, 3, 4, 4)])
def test_threshold_one_sample_at_a_time(shape, floor):
    x = torch.randn(
        shape, dtype=DTYPE, generator=torch.Generator().manual_seed(0)
    ) * torch.linspace(0.1, 4, 5).reshape(-1, *[1] * (len(shape) - 1))
    want = []
    for one in x:
        s = max(float(torch.quantile(one.abs(), 0.9)), floor)
        want.append(one.clamp(-s, s) / s * floor)
    torch.testing.assert_close(
        Threshold(0.9, floor)(x, 0.5), torch.stack(want), rtol=1e-15, atol=1e-15
    )
    assert float(Threshold(0.9, floor)(x, 0.5).abs().max()) <= floor * (1 + 1e-15)


def test_rescale_restores_the_conditional_deviation():
    cond, uncond = torch.randn(2, 4, 3, 5, dtype=DTYPE)
    out = CFGRescale(7.0, 1.0)(cond, uncond, 0.5)
    torch.testing.assert_close(out.std((1, 2)), cond.std((1, 2)), rtol=1e-13, atol=0)


OPTIONS = [
    ({"clip": 0.6}, Clip(0.6)),
    ({"threshold": 0.8}, Threshold(0.8, 1.0)),
    ({"threshold": 0.8, "clip": 0.5}, Threshold(0.8, 0.5)),
]


@rows(("options", "transform"), OPTIONS)
@rows("predicts", ["data", "noise", "v", "velocity", "score"])
def test_predictions_use_the_transformed_data(options, transform, predicts):
    path = paths.VP()
    model, x = MIXTURE.model(path, predicts, **options), 2 * noise()
    data = transform(MIXTURE.data(x, path, 0.4), 0.4)
    alpha, sigma = (float(f(0.4)) for f in (path.alpha, path.sigma))
    torch.testing.assert_close(model.data(x, 0.4), data, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.noise(x, 0.4), (x - alpha * data) / sigma, rtol=0, atol=1e-12)


@rows(("options", "transform"), OPTIONS)
@rows("solver", ["ddim", "dpmpp_2m", "heun", "unipc_2", "ab2", "dpm_solver_2"])
@rows("path", [paths.VP(), paths.Linear(), paths.EDM()], ids=str)
def test_a_solve_equals_one_with_a_transformed_network(options, transform, solver, path):
    model = MIXTURE.model(path, "v", **options)
    by_hand = ode.Model(lambda x, t: transform(MIXTURE.data(x, path, t), t), path, "data")
    # Away from the data end, where a data network does not determine the velocity.
    grid = [u * path.t_max for u in (0.98, 0.7, 0.4, 0.2, 0.05)]
    start = noise() * path.start_std(grid[0])
    got = ode.sample(model, state=start, solver=solver, grid=grid)
    want = ode.sample(by_hand, state=start, solver=solver, grid=grid)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


# the last step goes to the data
@rows("solver", ["ddim", "dpmpp_2m", "heun_edm", "unipc_2"])
def test_clipped_samples_stay_in_range(solver):
    model = MIXTURE.model(paths.VP(), "noise", clip=0.6)
    x = ode.sample(model, noise(50), solver, 10)
    assert float(x.abs().max()) <= 0.6 + 1e-12


@rows(
    ("options", "what"),
    [
        ({"clip": 0.0}, "clip=0.0: give the largest"),
        ({"clip": -1.0}, "clip=-1.0: give the largest"),
        ({"threshold": 0.0}, "threshold=0.0: give a quantile"),
        ({"threshold": 1.1}, "threshold=1.1: give a quantile"),
        ({"clip": float("nan")}, "clip=nan"),
        ({"threshold": float("nan")}, "threshold=nan"),
    ],
)
def test_bad_options(options, what):
    with pytest.raises(OdesolveError, match=what):
        ode.Model(lambda x, t: x, paths.VP(), "v", **options)
